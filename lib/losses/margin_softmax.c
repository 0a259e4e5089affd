/* SPDX-License-Identifier: MIT
 *
 * Softmax over the cosines with a prototype of each class, where a margin lowers the target's
 * score.
 */
#include "rows/elements.h"
#include "rows/units.h"

enum { EMBEDDING, PROTOTYPES, TARGETS, GRAD_OUTPUT };
enum { ARCFACE, COSFACE }; /* kind */

typedef struct options {
    lk_reduce reduce;
    int kind;
    double scale, margin;
    int64_t ignore_index;
    double cos_eps;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, kind, "arcface", "arcface|cosface",
             "add the margin to the angle, or take it from the cosine"),
    LK_FIELD(options, scale, "64", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "the cosines are multiplied with it: 1/temperature"),
    LK_FIELD(options, margin, "0.5", 0, 0, 0,
             "arcface: radians in [0, pi); for cosface the default is 0.35"),
    LK_FIELD(options, ignore_index, "-100", 0, 0, 0, "rows with this target are not read"),
    PAIR_COS_EPS_FIELD(options),
    {0},
};

static const lk_input inputs[] = {
    [EMBEDDING] = PAIR_VECTORS("embeddings", "N D", LK_ROW_LOCAL, "one vector a row"),
    [PROTOTYPES] = PAIR_VECTORS("prototypes", "C D", 0, "one vector a class"),
    [TARGETS] = {.name = "targets",
                 .forms = {{"N", LK_INDICES}},
                 .range = "[0,C)",
                 .help = "the right class of each row"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

typedef struct plan {
    pair_units x, w;
    real *slopes; /* N rows: G of each embedding over the classes */
    int64_t padded;
    size_t bytes;
} plan;

static plan plan_of(const lk_job *job)
{
    const options *o = job->options;
    plan p = {.bytes = 0};
    p.x = pair_units_take(job, &p.bytes, EMBEDDING, o->cos_eps);
    p.w = pair_units_take(job, &p.bytes, PROTOTYPES, o->cos_eps);
    p.padded = padded_lanes(p.w.rows);
    p.slopes = pair_take(job, &p.bytes, (size_t)(p.x.rows * p.padded) * sizeof *p.slopes);
    return p;
}

static size_t state(const lk_job *job)
{
    return plan_of(job).bytes;
}

static size_t scratch_size(const lk_job *job)
{
    return pair_vector_scratch(job);
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    const int64_t others = job->size[pass && pass->input == PROTOTYPES ? 'N' - 'A' : 'C' - 'A'];
    return others * job->size['D' - 'A'];
}

static double margin_of(const lk_job *job)
{
    const options *o = job->options;
    return o->kind == COSFACE && !lk_given(job, "margin") ? 0.35 : o->margin;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t classes = job->size['C' - 'A'];
    if (classes == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, PROTOTYPES, -1,
                       "prototypes has no classes; it must have at least 1");
    if (job->size['D' - 'A'] == 0 && classes > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, PROTOTYPES, -1,
                       "prototypes has vectors without components; D must be at least 1");
    lk_status status = pair_check_width(job, error);
    if (status == LK_OK)
        status = pair_check_memory(job, job->rows, classes, error);
    if (status != LK_OK)
        return status;
    if (o->kind == ARCFACE && !(o->margin >= 0 && o->margin < acos(-1.0)))
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "margin is %g; with kind=arcface it must be in [0, pi)", o->margin);
    return LK_OK;
}

static bool counted(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    return lk_int(&job->in[TARGETS], i) != o->ignore_index;
}

static lk_status check_targets(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t classes = job->size['C' - 'A'];
    char place[LK_PLACE_MAX];
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t y = lk_int(&job->in[TARGETS], i);
        if (counted(job, i) && (y < 0 || y >= classes))
            return lk_fail(
                job, error, LK_TARGET_OUT_OF_RANGE, TARGETS, i,
                "%s is %lld; with %lld classes it must be in [0, %lld] or ignore_index (%lld)",
                lk_place(job, TARGETS, i, place), (long long)y, (long long)classes,
                (long long)classes - 1, (long long)o->ignore_index);
    }
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const plan p = plan_of(job);
    const int64_t width = p.x.width;
    const elem *x = job->in[EMBEDDING].data;
    lk_status status = check_targets(job, error);
    if (status != LK_OK)
        return status;
    for (int64_t i = 0; i < job->rows; i++) {
        if (!counted(job, i))
            continue;
        int64_t bad = pair_refuses(job) ? elements_nonfinite(x + i * width, width) : -1;
        if (bad >= 0)
            return pair_fail_nonfinite(job, EMBEDDING, i * width + bad, error);
        pair_unit(&p.x, i, x + i * width);
        job->counted++;
    }
    job->denominator[0] = (double)job->counted;
    return pair_units_fill(job, &p.w, PROTOTYPES, error);
}

/* The target's cosine under the margin, and the slope of that. */
static pair_row target_score(int kind, double m, double c)
{
    if (kind == COSFACE)
        return (pair_row){c - m, 1};
    const double sine = sqrt(1 - c * c); /* |c| <= 1 */
    if (c > -cos(m))
        return (pair_row){c * cos(m) - sine * sin(m),
                          cos(m) + c * sin(m) / (sine < 1e-6 ? 1e-6 : sine)};
    return (pair_row){c - m * sin(m), 1};
}

/* See elements_power: of the factor that all rows share. */
static int power_of(const lk_job *job)
{
    const options *o = job->options;
    return elements_power(o->scale * (pair_per_row(job) ? 1 : pair_weight(job, GRAD_OUTPUT, 0)));
}

/* The loss of a row; its slopes by the cosines take the place of its scores. */
static double row(const lk_job *job, const plan *p, int64_t i)
{
    const options *o = job->options;
    const int64_t y = lk_int(&job->in[TARGETS], i), width = p->x.width;
    const elem *x = job->in[EMBEDDING].data, *w = job->in[PROTOTYPES].data;
    real kept, *z = p->slopes + i * p->padded;
    /* Near 1 the sine keeps only half of the cosine's digits: this one is computed in double. */
    const pair c = pair_cosine(PAIR_SIMILARITY, x + i * width, w + y * width, width, o->cos_eps);
    const pair_row f = target_score(o->kind, margin_of(job), c.value);
    pair_scores(p->x.h + i * p->x.stride, &p->w, o->scale, z);
    z[y] = pair_score(o->scale * f.value);
    pair_softmax r = {.s = z, .padded = p->padded, .at = &y, .positives = 1, .kept = &kept};
    r.weight = ldexp(o->scale * pair_weight(job, GRAD_OUTPUT, i), -power_of(job));
    r.slopes = pair_wants_gradient(job);
    pair_softmax_row(&r);
    if (r.slopes && r.weight != 0)
        z[y] = (real)((double)z[y] * f.slope);
    return r.loss;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const plan p = plan_of(job);
    (void)scratch;
    for (int64_t i = first; i < first + count; i++)
        pair_put(job, block, i, counted(job, i) ? row(job, &p, i) : 0);
}

static void back_embeddings(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    const double whole = ldexp(1, power_of(job));
    for (int64_t i = first; i < first + count; i++)
        pair_gather_back(&p.x, i, &p.w, p.slopes + i * p.padded, 1, NULL, 0, whole, scratch,
                         job->grad[EMBEDDING].data);
}

static void back_prototypes(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    const double whole = ldexp(1, power_of(job));
    for (int64_t k = first; k < first + count; k++)
        pair_gather_back(&p.w, k, &p.x, p.slopes + k, p.padded, NULL, 0, whole, scratch,
                         job->grad[PROTOTYPES].data);
}

LK_LOSS(margin_softmax) = {
    .is = {.name = "margin_softmax",
           .title = "Margin softmax (ArcFace, CosFace)",
           .formula = "-log softmax(z)_y, z_k = scale*c_k, c_k = cos(embedding, prototype_k); "
                      "z_y = scale*cos(angle_y + margin) or scale*(c_y - margin)",
           .help = "Classification by the nearest prototype; the margin keeps the classes apart.",
           .reference = "Deng et al. 2019 (ArcFace); Wang et al. 2018 (CosFace); "
                        "pytorch-metric-learning ArcFaceLoss, CosFaceLoss",
           .example = "{\"inputs\": {\"embeddings\": [[2.0, 1.0], [1.0, 2.0]], "
                      "\"prototypes\": [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], "
                      "\"targets\": [0, 1]}, \"options\": {\"scale\": 4}}",
           .traits = LK_NONNEGATIVE | LK_ROWWISE,
           .loss_shape = "N",
           .inputs = inputs,
           .outputs = outputs,
           .options = fields},
    .options_size = sizeof(options),
    .parts = 1,
    .row_cost = row_cost,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
    .passes = {{EMBEDDING, back_embeddings}, {PROTOTYPES, back_prototypes}},
};
