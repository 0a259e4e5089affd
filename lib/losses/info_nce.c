/* SPDX-License-Identifier: MIT
 *
 * InfoNCE: every anchor is classified against all candidates, one of which is its positive.
 */
#include "rows/elements.h"
#include "rows/units.h"

enum { ANCHORS, CANDIDATES, POSITIVE_INDEX, CANDIDATE_MASK, TEMPERATURE, GRAD_OUTPUT };
enum { LOSS, SLOPE_SCALE }; /* lk_block.sum */

typedef struct options {
    lk_reduce reduce;
    double temperature;
    bool normalize, symmetric;
    double label_smoothing;
    double cos_eps;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    PAIR_TEMPERATURE_FIELD(options, "0.05"),
    LK_FIELD(options, normalize, "true", 0, 0, 0, "cosines; false: dot products"),
    LK_FIELD(options, symmetric, "false", 0, 0, 0,
             "the mean of this and of the same with anchors and candidates exchanged (CLIP)"),
    LK_FIELD(options, label_smoothing, "0", LK_RANGED, 0, 1,
             "probability mass taken from the positive and spread over the allowed candidates"),
    PAIR_COS_EPS_FIELD(options),
    {0},
};

static const lk_input inputs[] = {
    [ANCHORS] = PAIR_VECTORS("anchors", "B D", 0, "queries"),
    [CANDIDATES] = PAIR_VECTORS("candidates", "M D", 0, "keys, at least as many as anchors"),
    [POSITIVE_INDEX] = {.name = "positive_index",
                        .forms = {{"B", LK_INTS}},
                        .flags = LK_OPTIONAL,
                        .range = "[0,M)",
                        .help =
                            "the candidate that is right for each anchor; default the same row"},
    [CANDIDATE_MASK] = {.name = "candidate_mask",
                        .forms = {{"B M", LK_MASKS}},
                        .flags = LK_OPTIONAL,
                        .help = "0 leaves the candidate out for that anchor; default all are in"},
    [TEMPERATURE] = {.name = "temperature",
                     .forms = {{"", LK_FLOATS}},
                     .flags = LK_OPTIONAL | LK_DIFFERENTIABLE,
                     .range = ">0",
                     .help = "instead of the option, where it is learned"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

typedef struct plan {
    pair_units a, c;
    real *slopes; /* B rows: G of each anchor over the candidates */
    real *mirror; /* symmetric: of each candidate over the anchors */
    int64_t padded;
    size_t bytes;
} plan;

static plan plan_of(const lk_job *job)
{
    const options *o = job->options;
    const double eps = o->normalize ? o->cos_eps : (double)INFINITY;
    plan p = {.bytes = 0};
    p.a = pair_units_take(job, &p.bytes, ANCHORS, eps);
    p.c = pair_units_take(job, &p.bytes, CANDIDATES, eps);
    p.padded = padded_lanes(p.c.rows);
    const size_t matrix = (size_t)(p.a.rows * p.padded) * sizeof(real);
    p.slopes = pair_take(job, &p.bytes, matrix);
    p.mirror = o->symmetric ? pair_take(job, &p.bytes, matrix) : NULL;
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
    const options *o = job->options;
    const int64_t others = job->size[pass && pass->input == CANDIDATES ? 'B' - 'A' : 'M' - 'A'];
    return others * job->size['D' - 'A'] * (o->symmetric && !pass ? 2 : 1);
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t b = job->size['B' - 'A'], m = job->size['M' - 'A'];
    if (m < b)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, CANDIDATES, -1,
                       "candidates has %lld rows; it must have at least as many as anchors, %lld",
                       (long long)m, (long long)b);
    if (job->size['D' - 'A'] == 0 && m > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, CANDIDATES, -1,
                       "candidates has vectors without components; D must be at least 1");
    lk_status status = pair_check_memory(job, b, m, error);
    if (status != LK_OK)
        return status;
    if (lk_has(job, TEMPERATURE) && lk_given(job, "temperature"))
        return lk_fail(job, error, LK_OPTION_CONFLICT, TEMPERATURE, -1,
                       "temperature is given as an option and as an input; leave one of them out");
    if (o->symmetric && m != b)
        return lk_fail(job, error, LK_OPTION_CONFLICT, CANDIDATES, -1,
                       "symmetric needs as many candidates as anchors: %lld, not %lld",
                       (long long)b, (long long)m);
    if (o->symmetric && (lk_has(job, POSITIVE_INDEX) || lk_has(job, CANDIDATE_MASK)))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "symmetric excludes positive_index and candidate_mask");
    return LK_OK;
}

static int64_t positive_of(const lk_job *job, int64_t i)
{
    return job->in[POSITIVE_INDEX].data ? lk_int(&job->in[POSITIVE_INDEX], i) : i;
}

static bool allowed(const lk_job *job, int64_t i, int64_t j)
{
    const lk_tensor *m = &job->in[CANDIDATE_MASK];
    return !m->data || lk_int(m, i * job->size['M' - 'A'] + j) != 0;
}

static double temperature_of(const lk_job *job)
{
    const options *o = job->options;
    return lk_has(job, TEMPERATURE) ? (double)elements_at(job->in[TEMPERATURE].data, 0)
                                    : o->temperature;
}

/* What products of h are multiplied by to become scores. */
static double scale_of(const lk_job *job, const plan *p)
{
    return pair_lack(&p->a) / temperature_of(job) * pair_lack(&p->c);
}

/* See elements_power: of the factor that all anchors share. */
static int power_of(const lk_job *job)
{
    return elements_power(pair_per_row(job) ? 1 : pair_weight(job, GRAD_OUTPUT, 0));
}

/* The positives, then the temperature. */
static lk_status check_numbers(const lk_job *job, lk_error *error)
{
    const int64_t m = job->size['M' - 'A'];
    char place[LK_PLACE_MAX];
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t y = positive_of(job, i);
        if (y < 0 || y >= m)
            return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, POSITIVE_INDEX, i,
                           "%s is %lld; with %lld candidates it must be in [0, %lld]",
                           lk_place(job, POSITIVE_INDEX, i, place), (long long)y, (long long)m,
                           (long long)m - 1);
    }
    if (temperature_of(job) <= 0)
        return lk_fail(job, error, LK_VALUE_OUT_OF_RANGE, TEMPERATURE, 0,
                       "temperature is %g; it must be greater than 0", temperature_of(job));
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const plan p = plan_of(job);
    const int64_t m = job->size['M' - 'A'];
    char place[LK_PLACE_MAX];
    lk_status status;
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t y = positive_of(job, i);
        if (y >= 0 && y < m && !allowed(job, i, y))
            return lk_fail(job, error, LK_OPTION_CONFLICT, CANDIDATE_MASK, i * m + y,
                           "%s is 0, but that candidate is the positive of the anchor",
                           lk_place(job, CANDIDATE_MASK, i * m + y, place));
    }
    if ((status = check_numbers(job, error)) != LK_OK ||
        (status = pair_units_fill(job, &p.a, ANCHORS, error)) != LK_OK ||
        (status = pair_units_fill(job, &p.c, CANDIDATES, error)) != LK_OK)
        return status;
    if (pair_refuses(job) && !isfinite(temperature_of(job)))
        return pair_fail_nonfinite(job, TEMPERATURE, 0, error);
    return pair_prepare(job, error);
}

/* One anchor over the candidates. */
static void forward(const lk_job *job, const plan *p, int64_t i, double scale, pair_softmax *r)
{
    const int64_t m = p->c.rows;
    pair_scores(p->a.h + i * p->a.stride, &p->c, scale, r->s);
    r->allowed = (double)m;
    for (int64_t j = 0; job->in[CANDIDATE_MASK].data && j < m; j++) {
        if (!allowed(job, i, j)) {
            r->s[j] = -(real)INFINITY;
            r->allowed--;
        }
    }
    pair_softmax_row(r);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const plan p = plan_of(job);
    const double scale = scale_of(job, &p), share = o->symmetric ? 0.5 : 1;
    const int power = power_of(job);
    (void)scratch;
    for (int64_t i = first; i < first + count; i++) {
        const int64_t y = positive_of(job, i);
        real kept;
        pair_softmax r = {.s = p.slopes + i * p.padded, .padded = p.padded, .at = &y};
        r.positives = 1;
        r.kept = &kept;
        r.eps = o->label_smoothing;
        r.weight = ldexp(share * pair_weight(job, GRAD_OUTPUT, i), -power);
        r.slopes = pair_wants_gradient(job);
        forward(job, &p, i, scale, &r);
        double loss = r.loss;
        block->sum[SLOPE_SCALE] += r.slope_scale;
        if (o->symmetric) { /* as many candidates as anchors: the other members of r stay */
            r.s = p.mirror + i * p.padded;
            pair_scores(p.c.h + i * p.c.stride, &p.a, scale, r.s);
            pair_softmax_row(&r);
            loss = (loss + r.loss) / 2;
            block->sum[SLOPE_SCALE] += r.slope_scale;
        }
        pair_put(job, block, i, loss);
    }
}

static void back_anchors(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    const double scale = ldexp(scale_of(job, &p), power_of(job));
    for (int64_t i = first; i < first + count; i++)
        pair_gather_back(&p.a, i, &p.c, p.slopes + i * p.padded, 1, p.mirror ? p.mirror + i : NULL,
                         p.padded, scale, scratch, job->grad[ANCHORS].data);
}

static void back_candidates(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    const double scale = ldexp(scale_of(job, &p), power_of(job));
    for (int64_t j = first; j < first + count; j++)
        pair_gather_back(&p.c, j, &p.a, p.slopes + j, p.padded,
                         p.mirror ? p.mirror + j * p.padded : NULL, 1, scale, scratch,
                         job->grad[CANDIDATES].data);
}

static void finish(const lk_job *job, const double *sum)
{
    if (job->grad[TEMPERATURE].data)
        elements_fill(job->grad[TEMPERATURE].data, 1,
                      (real)ldexp(-sum[SLOPE_SCALE] / temperature_of(job), power_of(job)));
}

LK_LOSS(info_nce) = {
    .is = {.name = "info_nce",
           .title = "InfoNCE (multiple negatives ranking, CLIP)",
           .formula =
               "-sum_j q_ij log softmax(s_i)_j, s_ij = cos(anchor_i, candidate_j)/temperature, "
               "q one-hot at the positive, smoothed with label_smoothing",
           .help = "Picks each anchor's own candidate out of all of the batch. With symmetric=true "
                   "each candidate picks its anchor too.",
           .reference = "van den Oord et al. 2018; Radford et al. 2021; sentence-transformers "
                        "MultipleNegativesRankingLoss (scale = 1/temperature)",
           .example = "{\"inputs\": {\"anchors\": [[1.0, 0.0], [1.0, 2.0]], "
                      "\"candidates\": [[1.0, 1.0], [2.0, 1.0]]}, "
                      "\"options\": {\"temperature\": 0.5}}",
           .traits = LK_NONNEGATIVE | LK_COUPLED,
           .loss_shape = "B",
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
    .passes = {{ANCHORS, back_anchors}, {CANDIDATES, back_candidates}},
    .finish = finish,
};
