/* SPDX-License-Identifier: MIT
 *
 * Element-wise losses of two tensors A and B of the same shape, a row being one element. A loss
 * gives a function that computes LANES elements, and gets checks, weights, masks, sums and kernels
 * from here. Those of the difference a - b, which are regressions, give no more than a value and a
 * slope:
 *
 *     typedef struct options { lk_reduce reduce; double delta; } options;
 *     LK_INLINE product value(const options *o, vec r) { ... }
 *     LK_INLINE vec slope(const options *o, vec r) { ... }
 *     REGRESSION_KERNELS(options, value, slope)
 *     LK_LOSS(name) = {.is = {..., .inputs = regression_inputs, .outputs = elementwise_outputs},
 *                      REGRESSION_MEMBERS(options)};
 */
#ifndef LK_ELEMENTWISE_H
#define LK_ELEMENTWISE_H

#include "loss.h"
#include "vector/vec.h"
#include "vector/vmath.h"
#include "vector/wide.h"

enum { A, B }; /* the first inputs; a loss's own follow */

static const lk_output elementwise_outputs[] __attribute__((unused)) = {{0}};

/* A value as two factors: their product may be beyond the greatest float where the mean of many, or
 * a share of a larger batch, is not. */
typedef struct product {
    vec a, b;
} product;

/* LANES elements: in, then out. */
typedef struct element {
    vec a, b;
    vec factor; /* of the second weight; 1 where there is none */

    product value;
    vec slope_a, slope_b;
    mask legal; /* is b in its range? */
} element;

/* Which input is what; 0, which is A, where a loss has none. */
typedef struct elementwise {
    int weight; /* multiplies the loss; of the shape of A, of its last axes, or one number */
    int factor; /* likewise, but what it does is up to the loss */
    int mask;   /* of the shape of A, or of its first axes */
    int grad_output;
} elementwise;

/* The counted elements, in job->counted; the sum of what their weights are, returned. */
LK_STATIC double elementwise_count(lk_job *job, int mask_input, int weight_input)
{
    const lk_tensor *m = &job->in[mask_input], *weight = &job->in[weight_input];
    const bool masked = mask_input && m->data, weighted = weight_input && weight->data;
    const int64_t run = masked && lk_tensor_count(m) > 0 ? job->rows / lk_tensor_count(m) : 1;
    double total = 0;
    job->counted = job->rows;
    if (!masked && !weighted)
        return (double)job->rows;
    job->counted = 0;
    for (int64_t i = 0; i < job->rows; i++) {
        real w = 1;
        if (masked && lk_int(m, i / run) == 0)
            continue;
        if (weighted)
            memcpy(&w, (const char *)weight->data + i * (int64_t)sizeof w, sizeof w);
        job->counted++;
        total += (double)w;
    }
    return total;
}

/* An input that is repeated to the shape of A. */
typedef struct spread {
    const real *data; /* NULL: not given */
    int64_t count;
} spread;

LK_INLINE spread spread_of(const lk_job *job, int input)
{
    const lk_tensor *t = &job->in[input];
    return input && t->data ? (spread){t->data, lk_tensor_count(t)} : (spread){NULL, 0};
}

/* Its elements i.. , n of them, in an A of `all` elements. */
LK_INLINE vec spread_read(spread s, int64_t i, int64_t n, int64_t all)
{
    vec x = v_set(1);
    if (!s.data)
        return x;
    if (s.count == all)
        return v_read_tail(s.data + i, n, 0);
    int64_t at = i % s.count;
    for (int k = 0; k < LANES; k++) {
        real one;
        memcpy(&one, s.data + at, sizeof one);
        x[k] = one;
        at = at + 1 == s.count ? 0 : at + 1;
    }
    return x;
}

/* The counted lanes among n elements from i on. Each of the mask's elements stands for `run` of
 * A's. */
LK_INLINE mask elementwise_mask(const lk_tensor *given, int64_t run, int64_t i, int64_t n)
{
    mask m = m_first(n);
    if (given)
        for (int k = 0; k < LANES; k++)
            m[k] = k < n && lk_int(given, (i + k) / run) != 0 ? -1 : 0;
    return m;
}

/* The elements of an input, from i on, that are refused. Rare, and so kept out of the loops. */
static __attribute__((noinline, cold, unused)) void
elementwise_refuse(lk_block *block, lk_status status, int input, int64_t i, mask bad, vec x)
{
    for (int k = 0; k < LANES; k++)
        if (bad[k])
            lk_refuse(block, status, input, i + k, (double)x[k]);
}

/* NaN and +inf are refused among the counted lanes. */
LK_INLINE void elementwise_check(lk_block *block, int input, int64_t i, mask counts, vec x)
{
    const mask bad = counts & ~(x < v_set((real)INFINITY));
    if (!m_none(bad))
        elementwise_refuse(block, LK_NONFINITE_INPUT, input, i, bad, x);
}

/* Losses are summed in double, lane by lane; the lanes are added up after so many elements. */
enum { ELEMENTWISE_CHUNK = 512 };

/* lk_block.sum: of the values, and of the same times elementwise_unit. */
enum { ELEMENTWISE_SUM, ELEMENTWISE_UNITS };

/* A power of two, no more than what a mean multiplies its sum with: so many doubles may have a sum
 * that leaves the range where their mean does not. Sums of floats never do. */
LK_INLINE double elementwise_unit(const lk_job *job)
{
    int exponent = 0;
    if (sizeof(real) < sizeof(double) || !(fabs(job->scale[0]) < 1) || job->scale[0] == 0)
        return 1;
    (void)frexp(job->scale[0], &exponent);
    return ldexp(1, exponent - 1);
}

LK_STATIC void elementwise_finish(const lk_job *job, const double *sum)
{
    const lk_reduce *reduce = job->options;
    if (job->value.data && reduce->reduction != LK_NONE && job->scale[0] != 0 &&
        isinf(sum[ELEMENTWISE_SUM]))
        lk_put(&job->value, 0, sum[ELEMENTWISE_UNITS] * (job->scale[0] / elementwise_unit(job)));
}

/* w a b in units, for a sum. `loss` is that product as reals. */
LK_INLINE wide elementwise_term(vec loss, vec w, product value, mask used, double unit)
{
    const vec top = v_set((real)INFINITY);
    const wide units = v_wide(v_set((real)unit));
    if (m_none(v_abs(loss) == top))
        return v_wide(loss) * units;
    return v_wide(v_where(used, value.a)) * units * v_wide(w) * v_wide(v_where(used, value.b));
}

LK_INLINE void elementwise_put(real *to, int64_t i, int64_t n, vec loss)
{
    if (n == LANES)
        v_write(to + i, loss);
    else
        v_write_n(to + i, n, loss);
}

/* Does a gradient go past the caches? Where it is larger than they are, not in place, and aligned.
 */
LK_INLINE bool elementwise_streams(const lk_job *job, const elem *grad, int64_t first)
{
    return grad && grad != job->in[A].data && grad != job->in[B].data &&
           job->rows * (int64_t)sizeof(elem) >= LK_STREAM_MIN &&
           (uintptr_t)(grad + first) % (LANES * sizeof(elem)) == 0;
}

LK_INLINE void elementwise_store(elem *to, int64_t n, vec x, bool stream)
{
    if (stream && n == LANES)
        v_stream(to, x);
    else
        v_store_tail(to, n, x);
}

/* What all chunks of a run have in common. */
typedef struct elementwise_run {
    const lk_job *job;
    lk_block *block;
    const elem *a, *b;
    spread weight, factor;
    const lk_tensor *given; /* the mask */
    int64_t run;            /* elements of A for each of the mask's */
    const real *up;         /* NULL: none, or one for all */
    real *values;           /* NULL: not wanted */
    elem *grad_a, *grad_b;
    vec rho;
    mask moving; /* is that not 0? */
    double unit;
    bool refuse, stream_a, stream_b;
} elementwise_run;

/* The sum of a chunk: in units from the first vector on that would take it out of the range, which
 * no sum of floats in double is, and their products are asked for as doubles where they are. */
typedef struct elementwise_sum {
    wide_half total;
    bool in_units;
} elementwise_sum;

/* That sum, in units. */
LK_INLINE double elementwise_total(const elementwise_sum s, double unit)
{
    double sum = 0;
    for (int k = 0; k < LANES / WIDE_PARTS; k++)
        sum += s.total[k];
    if (s.in_units || !isinf(sum))
        return s.in_units ? sum : sum * unit;
    sum = 0;
    for (int k = 0; k < LANES / WIDE_PARTS; k++)
        sum += s.total[k] * unit;
    return sum;
}

/* n elements from i on. Plainly: all LANES, which count alike, with nothing to read but A and B. */
LK_INLINE void elementwise_step(const elementwise_run *r, const void *options, int64_t i, int64_t n,
                                void (*each)(const void *options, element *e), const bool ranged,
                                const bool plain, elementwise_sum *s)
{
    const mask counts = plain ? m_set(-1) : elementwise_mask(r->given, r->run, i, n);
    v_fetch(r->a + i);
    v_fetch(r->b + i);
    element e = {.a = v_load_tail(r->a + i, n, 0), .b = v_load_tail(r->b + i, n, 0)};
    e.value.b = v_set(1);
    if (!plain && r->refuse) {
        elementwise_check(r->block, A, i, counts, e.a);
        elementwise_check(r->block, B, i, counts, e.b);
    }
    e.factor = plain ? v_set(1) : spread_read(r->factor, i, n, r->job->rows);
    each(options, &e);
    if (ranged && !m_none(counts & ~e.legal))
        elementwise_refuse(r->block, LK_VALUE_OUT_OF_RANGE, B, i, counts & ~e.legal, e.b);
    const vec w = plain ? v_set(1) : spread_read(r->weight, i, n, r->job->rows);
    const mask used = counts & (w != (vec){0});
    const vec loss = v_where(used, w * (e.value.a * e.value.b));
    const wide_half next = s->total + w_fold(v_wide(loss));
    if (__builtin_expect(w_finite(next) && !s->in_units, 1)) {
        s->total = next;
    } else {
        if (!s->in_units)
            s->total *= r->unit;
        s->in_units = r->unit < 1;
        s->total += w_fold(elementwise_term(loss, w, e.value, used, r->unit));
    }
    if (r->values)
        elementwise_put(r->values, i, n, loss);
    if (!r->grad_a && !r->grad_b)
        return;
    vec g = plain ? r->rho : r->rho * w;
    mask moves = plain ? m_set(-1) : used & r->moving;
    if (!plain && r->up) {
        g *= v_read_tail(r->up + i, n, 0);
        moves &= g != (vec){0};
    }
    if (r->grad_a)
        elementwise_store(r->grad_a + i, n, v_where(moves, g * e.slope_a), r->stream_a);
    if (r->grad_b)
        elementwise_store(r->grad_b + i, n, v_where(moves, g * e.slope_b), r->stream_b);
}

/* Templates: `ranged` where `each` says what is legal, `is` what the inputs are. `options` is the
 * caller's own copy of the job's, which no store of a gradient can change: what depends on nothing
 * else is computed once. */
LK_INLINE void elementwise_rows(const lk_job *job, const void *options, int64_t first,
                                int64_t count, lk_block *block,
                                void (*each)(const void *options, element *e), const elementwise is,
                                const bool ranged)
{
    const lk_reduce *reduce = job->options;
    const bool per_row = job->value.rank > 0 || reduce->reduction == LK_NONE;
    const real *up = job->in[is.grad_output].data;
    real upstream = 1;
    if (up && !per_row)
        memcpy(&upstream, up, sizeof upstream);
    elementwise_run r = {.job = job, .block = block, .run = 1};
    r.a = job->in[A].data;
    r.b = job->in[B].data;
    r.grad_a = job->grad[A].data;
    r.grad_b = job->grad[B].data;
    r.weight = spread_of(job, is.weight);
    r.factor = spread_of(job, is.factor);
    r.given = is.mask && job->in[is.mask].data ? &job->in[is.mask] : NULL;
    if (r.given && lk_tensor_count(r.given) > 0)
        r.run = job->rows / lk_tensor_count(r.given);
    r.up = per_row ? up : NULL;
    r.values = per_row ? job->value.data : NULL;
    r.rho = v_set((real)(job->scale[0] * (double)upstream));
    r.moving = r.rho != (vec){0};
    r.unit = elementwise_unit(job);
    r.refuse = reduce->nonfinite == LK_REFUSE_NONFINITE;
    r.stream_a = elementwise_streams(job, r.grad_a, first);
    r.stream_b = elementwise_streams(job, r.grad_b, first);
    const bool plain =
        !r.weight.data && !r.factor.data && !r.given && !r.up && !r.refuse && r.moving[0];
    for (int64_t i = first, end; i < first + count; i = end) {
        elementwise_sum s = {.in_units = false};
        end = first + count - i < ELEMENTWISE_CHUNK ? first + count : i + ELEMENTWISE_CHUNK;
        if (plain)
            for (; end - i >= LANES; i += LANES)
                elementwise_step(&r, options, i, LANES, each, ranged, true, &s);
        for (; i < end; i += LANES)
            elementwise_step(&r, options, i, LK_TAIL(i, end), each, ranged, false, &s);
        block->sum[ELEMENTWISE_UNITS] += elementwise_total(s, r.unit);
    }
    block->sum[ELEMENTWISE_SUM] = block->sum[ELEMENTWISE_UNITS] / r.unit;
    if (r.stream_a || r.stream_b)
        v_fence();
}

/* Regressions. */

enum { SAMPLE_WEIGHT = B + 1, MASK, GRAD_OUTPUT };

static const lk_input regression_inputs[] __attribute__((unused)) = {
    [A] = {.name = "a",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "predictions"},
    [B] = {.name = "b",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "targets"},
    [SAMPLE_WEIGHT] = {.name = "sample_weight",
                       .forms = {{"*", LK_FLOATS}},
                       .flags = LK_OPTIONAL | LK_WEIGHTS,
                       .help = "weight of each element; default ones"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "elements with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

LK_STATIC lk_status regression_prepare(lk_job *job, lk_error *error)
{
    (void)error;
    job->denominator[0] = elementwise_count(job, MASK, SAMPLE_WEIGHT);
    return LK_OK;
}

#define REGRESSION_KERNELS(options, value_of, slope_of)                                            \
    LK_INLINE void each(const void *given, element *e)                                             \
    {                                                                                              \
        const options *o = given;                                                                  \
        const vec r = e->a - e->b;                                                                 \
        e->value = value_of(o, r);                                                                 \
        e->slope_a = slope_of(o, r);                                                               \
        e->slope_b = -e->slope_a;                                                                  \
    }                                                                                              \
    static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,             \
                     void *scratch)                                                                \
    {                                                                                              \
        static const elementwise is = {                                                            \
            .weight = SAMPLE_WEIGHT, .mask = MASK, .grad_output = GRAD_OUTPUT};                    \
        const options o = *(const options *)job->options;                                          \
        (void)scratch;                                                                             \
        elementwise_rows(job, &o, first, count, block, each, is, false);                           \
    }

#define REGRESSION_MEMBERS(options)                                                                \
    .options_size = sizeof(options), .parts = 1, .prepare = regression_prepare, .rows = rows,      \
    .finish = elementwise_finish

#endif
