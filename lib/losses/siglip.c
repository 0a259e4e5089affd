/* SPDX-License-Identifier: MIT
 *
 * SigLIP: every pair of two sets of vectors is classified by itself, as belonging together or not.
 */
#include "rows/elements.h"
#include "rows/learned.h"
#include "rows/prefixes.h"
#include "rows/table.h"
#include "vector/accurate.h"
#include "vector/tally.h"
#include "vector/vmath.h"

enum { A, B, POSITIVE, SCALE, BIAS, GRAD_OUTPUT };
enum { LOSS, SLOPE_SCALE, SLOPE_BIAS }; /* lk_block.sum */

typedef struct options {
    lk_reduce reduce;
    double scale, bias;
    bool normalize;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_FIELD(options, scale, "10", 0, 0, 0, "the similarities are multiplied with it"),
    LK_FIELD(options, bias, "-10", 0, 0, 0, "is added to them: most pairs do not belong together"),
    LK_FIELD(options, normalize, "true", 0, 0, 0, "cosines; false: dot products"),
    LK_NUM_ITEMS_FIELD(options),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [A] = PAIR_VECTORS("a", "B D", 0, "vectors of one kind, such as images"),
    [B] = PAIR_VECTORS("b", "M D", 0, "vectors of the other kind, such as texts"),
    [POSITIVE] = {.name = "positive",
                  .forms = {{"B M", LK_MASKS}},
                  .flags = LK_OPTIONAL,
                  .help = "which pairs belong together; default a and b of the same row, and then "
                          "there are as many of both"},
    [SCALE] = LEARNED_INPUT("scale", NULL),
    [BIAS] = LEARNED_INPUT("bias", NULL),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static double scale_of(const lk_job *job)
{
    const options *o = job->options;
    return learned_number(job, SCALE, o->scale);
}

/* The slope of a logit is a sigmoid times this. */
static double weight_of(const lk_job *job)
{
    return pair_weight(job, GRAD_OUTPUT, 0);
}

/* Of a vector of pairs, with similarities c of row i from column j on: the logit, negative where
 * they belong together; what its softplus is made of; and -1 there, 1 elsewhere. */
typedef struct logits {
    vec u, e, sign;
} logits;

/* -1 where row i and column j belong together, else 1. */
LK_INLINE vec signs(const lk_job *job, int64_t i, int64_t j, int64_t count)
{
    const lk_tensor *positive = &job->in[POSITIVE];
    const int64_t columns = job->size['M' - 'A'];
    real sign[LANES];
    if (!positive->data && (i < j || i >= j + count))
        return v_set(1);
    for (int64_t k = 0; k < LANES; k++) {
        const bool here =
            positive->data ? k < count && lk_int(positive, i * columns + j + k) != 0 : i == j + k;
        sign[k] = here ? -1 : 1;
    }
    return v_read(sign);
}

LK_INLINE logits logits_of(const lk_job *job, vec scale, vec bias, int64_t i, int64_t j,
                           int64_t count, vec c)
{
    logits l = {.sign = signs(job, i, j, count)};
    l.u = l.sign * v_fma(scale, c, bias);
    l.e = v_exp_nonpos(-v_abs(l.u));
    return l;
}

LK_INLINE vec softplus_of(const logits *l)
{
    return v_select(l->u <= (vec){0}, (vec){0}, l->u) + v_log1p_small(l->e);
}

/* The slope of the softplus by the logit before its sign. */
LK_INLINE vec slope_of(const logits *l)
{
    return l->sign * v_select(l->u >= (vec){0}, v_set(1), l->e) / (v_set(1) + l->e);
}

static vec option_of(const lk_job *job, int input)
{
    const options *o = job->options;
    return v_set((real)learned_number(job, input, input == SCALE ? o->scale : o->bias));
}

/* The slopes by the similarities, in their place. */
static void slopes(const lk_job *job, const pair_table *t, int64_t i, int64_t j, int64_t count,
                   real *s)
{
    const vec scale = option_of(job, SCALE), bias = option_of(job, BIAS);
    const vec weight = v_set((real)ldexp(scalar_times(weight_of(job), scale_of(job)), -t->power));
    for (int64_t k = 0; k < count; k += LANES) {
        const logits l = logits_of(job, scale, bias, i, j + k, LK_TAIL(k, count), v_read(s + k));
        v_write(s + k, v_where(weight != (vec){0}, weight * slope_of(&l)));
    }
}

/* What the shapes decide: there may be no data yet. */
static pair_table layout_of(const lk_job *job, size_t *bytes)
{
    const options *o = job->options;
    const double eps = o->normalize ? o->cos_eps : (double)INFINITY;
    pair_table t = {.slopes = slopes};
    t.rows = pair_units_take(job, bytes, A, eps);
    t.columns = pair_units_take(job, bytes, B, eps);
    table_take(job, bytes, &t);
    return t;
}

static pair_table table_of(const lk_job *job)
{
    size_t bytes = 0;
    pair_table t = layout_of(job, &bytes);
    t.scale = pair_lack(&t.rows) * pair_lack(&t.columns);
    t.power = elements_power(scalar_times(weight_of(job), scale_of(job)));
    return t;
}

static size_t state(const lk_job *job)
{
    size_t bytes = 0;
    (void)layout_of(job, &bytes);
    return bytes;
}

static size_t scratch_size(const lk_job *job)
{
    size_t bytes = 0;
    const pair_table t = layout_of(job, &bytes);
    return table_scratch(job, &t);
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    size_t bytes = 0;
    const pair_table t = layout_of(job, &bytes);
    return table_cost(&t, pass && pass->input == B ? t.rows.rows : t.columns.rows);
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const int64_t b = job->size['B' - 'A'], m = job->size['M' - 'A'];
    lk_status status = pair_check_width(job, error);
    if (status == LK_OK && !lk_has(job, POSITIVE) && m != b)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, B, -1,
                       "b has %lld rows; without positive it must have as many as a, %lld",
                       (long long)m, (long long)b);
    return status == LK_OK ? table_check_memory(job, b, m, error) : status;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const pair_table t = table_of(job);
    lk_status status = pair_units_fill(job, &t.rows, A, NULL, error);
    if (status == LK_OK)
        status = pair_units_fill(job, &t.columns, B, NULL, error);
    for (int input = SCALE; status == LK_OK && input <= BIAS; input++)
        if (pair_refuses(job) && !isfinite(learned_number(job, input, 0)))
            status = pair_fail_nonfinite(job, input, 0, error);
    job->counted = job->rows;
    job->denominator[0] = isnan(o->reduce.num_items) ? (double)job->rows : o->reduce.num_items;
    return status;
}

/* The loss of row i, and its part of the slopes by scale and bias, without the weight. */
static void one_row(const lk_job *job, int64_t i, const real *c, lk_block *block)
{
    const int64_t columns = job->size['M' - 'A'];
    const vec scale = option_of(job, SCALE), bias = option_of(job, BIAS);
    wide_tally loss = {0}, by_scale = {0}, by_bias = {0};
    for (int64_t k = 0; k < columns; k += LANES) {
        const mask there = m_first(LK_TAIL(k, columns));
        const vec x = v_read(c + k);
        const logits l = logits_of(job, scale, bias, i, k, LK_TAIL(k, columns), x);
        const vec slope = v_where(there, slope_of(&l));
        wide_add(&loss, w_parts(v_where(there, softplus_of(&l))));
        const wide_parts slopes = w_parts(slope), at = w_parts(v_where(there, x));
        wide_parts products;
        for (int h = 0; h < WIDE_PARTS; h++)
            products.half[h] = slopes.half[h] * at.half[h];
        wide_add(&by_scale, products);
        wide_add(&by_bias, slopes);
    }
    pair_put(job, block, i, wide_sum(loss));
    block->sum[SLOPE_SCALE] += wide_sum(by_scale);
    block->sum[SLOPE_BIAS] += wide_sum(by_bias);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const pair_table t = table_of(job);
    const int64_t group = table_group(&t);
    for (int64_t i = first, n; i < first + count; i += n) {
        n = first + count - i < group ? first + count - i : group;
        const real *c = table_scores(job, &t, i, n, scratch);
        for (int64_t r = 0; r < n; r++)
            one_row(job, i + r, c + r * t.padded, block);
    }
}

static void back_a(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const pair_table t = table_of(job);
    table_back_rows(job, &t, A, first, count, scratch);
}

static void back_b(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const pair_table t = table_of(job);
    table_back_columns(job, &t, B, first, count, scratch);
}

static void finish(const lk_job *job, const double *sum)
{
    const double weight = weight_of(job);
    if (job->grad[SCALE].data)
        elements_fill(job->grad[SCALE].data, 1, (real)scalar_times(weight, sum[SLOPE_SCALE]));
    if (job->grad[BIAS].data)
        elements_fill(job->grad[BIAS].data, 1, (real)scalar_times(weight, sum[SLOPE_BIAS]));
}

static const char tex[] =
    "\\frac{1}{B}\\sum_{i,j}\\operatorname{softplus}\\left(-\\zeta_{ij}\\left(t\\cos(a_i, b_j) + "
    "\\beta\\right)\\right),\\quad \\zeta_{ij} = 1\\ \\text{where}\\ a_i, b_j\\ \\text{belong "
    "together, else}\\ -1";

LK_DESCRIBE(siglip, .tex = tex, .title = "SigLIP (sigmoid loss of pairs)",
            .formula = "1/B times the sum over all pairs of softplus(-z_ij (scale cos(a_i, b_j) + "
                       "bias)), z_ij = 1 where the two belong together, else -1",
            .help = "Aligns two kinds of embeddings, such as images and texts. Unlike softmax over "
                    "the batch, each pair stands by itself, so a batch may have any number of "
                    "positives. Similarities are kept for the gradients in up to 64 MiB, and else "
                    "computed again.",
            .reference = "Zhai et al. 2023; open_clip SigLipLoss",
            .example = "{\"inputs\": {\"a\": [[1.0, 0.0], [1.0, 2.0]], "
                       "\"b\": [[1.0, 1.0], [2.0, 1.0]]}}",
            .traits = LK_NONNEGATIVE | LK_COUPLED, .inputs = inputs, .outputs = outputs,
            .options = fields);

LK_LOSS(siglip) = {
    .is = &LK_IS(siglip),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .rows_shape = "B",
    .row_cost = row_cost,
    .least = table_least,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
    .passes = {{A, back_a}, {B, back_b}},
    .finish = finish,
};
