/* SPDX-License-Identifier: MIT
 *
 * Softmax over the cosines with a prototype of each class, where a margin lowers the target's
 * score.
 */
#include "rows/elements.h"
#include "rows/table.h"

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

/* An embedding and its target. */
typedef struct aim {
    double cosine;
    double bend; /* the slope of the target's score by the cosine, over scale */
    double pull; /* of the loss by the cosine */
    real score;
} aim;

typedef struct plan {
    pair_table t; /* embeddings by prototypes */
    aim *aims;    /* by embedding */
    /* The embeddings of a class, one after another, as numbers from 1; 0 after the last. */
    int64_t *first, *next;
    size_t bytes;
} plan;

static void put_target(const lk_job *job, int64_t i, int64_t j, int64_t count, real *s);
static void add_targets(const lk_job *job, int input, int64_t k, double *sum);

/* What the shapes decide: there may be no data yet. */
static plan layout_of(const lk_job *job)
{
    const options *o = job->options;
    plan p = {.bytes = 0};
    p.t.rows = pair_units_take(job, &p.bytes, EMBEDDING, o->cos_eps);
    p.t.columns = pair_units_take(job, &p.bytes, PROTOTYPES, o->cos_eps);
    p.t.scale = o->scale;
    p.t.mend = put_target;
    p.t.add = add_targets;
    table_take(job, &p.bytes, &p.t);
    const int64_t n = p.t.rows.rows, classes = p.t.columns.rows;
    p.aims = take(job->state, &p.bytes, n, sizeof *p.aims);
    p.first = take(job->state, &p.bytes, classes, sizeof *p.first);
    p.next = take(job->state, &p.bytes, n, sizeof *p.next);
    return p;
}

static plan plan_of(const lk_job *job)
{
    plan p = layout_of(job);
    p.t.power = table_power(job, GRAD_OUTPUT);
    return p;
}

static size_t state(const lk_job *job)
{
    return layout_of(job).bytes;
}

static size_t scratch_size(const lk_job *job)
{
    const plan p = layout_of(job);
    return table_scratch(job, &p.t);
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    const plan p = layout_of(job);
    const bool column = pass && pass->input == PROTOTYPES;
    return table_cost(&p.t, column ? p.t.rows.rows : p.t.columns.rows);
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
        status = table_check_memory(job, job->rows, classes, error);
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
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t y = lk_int(&job->in[TARGETS], i);
        if (counted(job, i) && (y < 0 || y >= classes))
            return lk_refuse_target(job, error, TARGETS, i, classes, o->ignore_index);
    }
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const plan p = plan_of(job);
    const int64_t width = p.t.rows.width;
    const elem *x = job->in[EMBEDDING].data;
    lk_status status = check_targets(job, error);
    if (status != LK_OK)
        return status;
    for (int64_t i = 0; i < job->rows; i++) {
        if (!counted(job, i)) {
            pair_unit_none(&p.t.rows, i);
            continue;
        }
        int64_t bad = pair_refuses(job) ? elements_nonfinite(x + i * width, width) : -1;
        if (bad >= 0)
            return pair_fail_nonfinite(job, EMBEDDING, i * width + bad, error);
        pair_unit(&p.t.rows, i, x + i * width);
        p.t.first[i] = lk_int(&job->in[TARGETS], i);
        p.t.span[i] = 1;
        job->counted++;
    }
    for (int64_t i = job->rows; i-- > 0;) {
        if (p.t.span[i] == 0)
            continue;
        int64_t *first = p.first + p.t.first[i];
        p.next[i] = *first;
        *first = i + 1;
    }
    job->denominator[0] = (double)job->counted;
    return pair_units_fill(job, &p.t.columns, PROTOTYPES, NULL, error);
}

/* The target's score under the margin, over scale, and its slope by the cosine. */
static pair_row target_score(int kind, double m, pair_angle a)
{
    if (kind == COSFACE)
        return (pair_row){a.cosine - m, 1};
    const double cos_m = lk_cos(m), sin_m = lk_sin(m);
    if (a.cosine > -cos_m)
        return (pair_row){a.cosine * cos_m - a.sine * sin_m,
                          cos_m + a.cosine * sin_m / (a.sine < 1e-6 ? 1e-6 : a.sine)};
    return (pair_row){a.cosine - m * sin_m, 1};
}

/* The slope by the cosine grows as the sine falls, as the cosine's own gradient does: all that
 * belongs to the target is in double, and its gradient is apart from those of the table. */
static void find_target(const lk_job *job, const plan *p, int64_t i)
{
    const options *o = job->options;
    const int64_t y = p->t.first[i], width = p->t.rows.width;
    const elem *x = (const elem *)job->in[EMBEDDING].data + i * width;
    const elem *w = (const elem *)job->in[PROTOTYPES].data + y * width;
    aim *a = p->aims + i;
    const pair_angle angle = pair_unit_angle(&p->t.rows, i, x, &p->t.columns, y, w);
    const pair_row f = target_score(o->kind, margin_of(job), angle);
    const real score = (real)(o->scale * f.value);
    a->score = score + 0 * score; /* NaN if it is not finite, as other scores are */
    a->cosine = angle.cosine;
    a->bend = f.slope;
}

static void put_target(const lk_job *job, int64_t i, int64_t j, int64_t count, real *s)
{
    const plan p = plan_of(job);
    const int64_t y = p.t.first[i];
    if (p.t.span[i] > 0 && y >= j && y < j + count)
        s[y - j] = p.aims[i].score;
}

/* The loss of row i, whose scores are s. */
static double visit(const lk_job *job, const plan *p, int64_t i, const real *s)
{
    const double weight = pair_weight(job, GRAD_OUTPUT, i);
    const table_target target = {.positives = 1, .weight = ldexp(weight, -p->t.power)};
    const double loss = table_softmax(&p->t, i, s, &target);
    if (p->t.by_row.top) {
        aim *a = p->aims + i;
        const double taken = table_take_positive(&p->t, i);
        a->pull = scalar_times(taken, ldexp(p->t.scale, p->t.power) * a->bend);
    }
    return loss;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const plan p = plan_of(job);
    const int64_t group = table_group(&p.t);
    for (int64_t i = first, n; i < first + count; i += n) {
        n = first + count - i < group ? first + count - i : group;
        for (int64_t r = i; r < i + n; r++)
            if (counted(job, r))
                find_target(job, &p, r);
        const real *s = table_scores(job, &p.t, i, n, scratch);
        for (int64_t r = i; r < i + n; r++, s += p.t.padded)
            pair_put(job, block, r, counted(job, r) ? visit(job, &p, r, s) : 0);
    }
}

/* The target's part of the gradient of embedding i, or of its prototype. */
static void add_target(const lk_job *job, const plan *p, int input, int64_t i, double *sum)
{
    const pair_units *rows = &p->t.rows, *columns = &p->t.columns;
    const int64_t y = p->t.first[i];
    const elem *x = (const elem *)job->in[EMBEDDING].data + i * rows->width;
    const elem *w = (const elem *)job->in[PROTOTYPES].data + y * rows->width;
    const aim *a = p->aims + i;
    if (input == EMBEDDING)
        pair_unit_turn(rows, i, x, columns, y, w, a->cosine, a->pull, sum);
    else
        pair_unit_turn(columns, y, w, rows, i, x, a->cosine, a->pull, sum);
}

/* The targets' part of the gradient of embedding or prototype k. */
static void add_targets(const lk_job *job, int input, int64_t k, double *sum)
{
    const plan p = plan_of(job);
    if (input == EMBEDDING && counted(job, k))
        add_target(job, &p, input, k, sum);
    for (int64_t i = input == PROTOTYPES ? p.first[k] : 0; i > 0; i = p.next[i - 1])
        add_target(job, &p, input, i - 1, sum);
}

static void back_embeddings(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    table_back_rows(job, &p.t, EMBEDDING, first, count, scratch);
}

static void back_prototypes(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    table_back_columns(job, &p.t, PROTOTYPES, first, count, scratch);
}

static const char tex[] =
    "\\ell = -\\log\\operatorname{softmax}(z)_y,\\quad z_k = s\\,c_k,\\quad c_k = "
    "\\cos(\\text{embedding}, \\text{prototype}_k),\\quad z_y = s\\,\\cos(\\theta_y + m)\\ "
    "\\text{or}\\ s\\,(c_y - m)";

LK_DESCRIBE(margin_softmax, .tex = tex, .title = "Margin softmax (ArcFace, CosFace)",
            .formula = "-log softmax(z)_y, z_k = scale*c_k, c_k = cos(embedding, prototype_k); "
                       "z_y = scale*cos(angle_y + margin) or scale*(c_y - margin)",
            .help = "Classification by the nearest prototype; the margin keeps the classes apart.",
            .reference = "Deng et al. 2019 (ArcFace); Wang et al. 2018 (CosFace); "
                         "pytorch-metric-learning ArcFaceLoss, CosFaceLoss",
            .example = "{\"inputs\": {\"embeddings\": [[2.0, 1.0], [1.0, 2.0]], "
                       "\"prototypes\": [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], "
                       "\"targets\": [0, 1]}, \"options\": {\"scale\": 4}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "N", .inputs = inputs,
            .outputs = outputs, .options = fields);

LK_LOSS(margin_softmax) = {
    .is = &LK_IS(margin_softmax),
    .options_size = sizeof(options),
    .parts = 1,
    .row_cost = row_cost,
    .least = table_least,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
    /* The embeddings' gradient may be written over them: it is the last. */
    .passes = {{PROTOTYPES, back_prototypes}, {EMBEDDING, back_embeddings}},
};
