/* SPDX-License-Identifier: MIT
 *
 * Element-wise losses of two tensors A and B of the same shape, or of A and a constant, a row being
 * one element. A loss gives a function that computes LANES elements, and gets checks, weights,
 * masks, sums and kernels from here. Those of the difference a - b, which are regressions, give no
 * more than a value and a slope:
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

#include "rows/elements.h"
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
    vec ahead;  /* what the loss's function of that name gives for a */
    vec factor; /* of the input of that name; 1 where there is none */

    product value;
    vec slope_a, slope_b;
    mask legal;   /* is the input that is `ranged` in its range? */
    mask legal_a; /* is a? */
} element;

/* What a loss computes, and which input is what; 0, which is A, where it has none. */
typedef struct elementwise {
    void (*each)(const void *options, element *e);
    /* What is computed before that for all elements of a chunk, or NULL: a loop of its own keeps
     * chains of dependent operations short enough for the processor to run several beside each
     * other. */
    vec (*ahead)(vec a);
    bool alone;     /* there is no B */
    bool constant;  /* `factor` is always given */
    bool broadcast; /* B broadcasts to A; its gradient is written here only if it has A's shape */
    int ranged;     /* B or `factor`, where `each` says what of it is legal */
    bool ranged_a;  /* likewise A */

    int weight; /* multiplies the loss; broadcasts to A */
    int factor; /* a constant that broadcasts to A: what it does is up to the loss */
    int mask;   /* broadcasts to A, or has the shape of its first axes */
    int grad_output;
} elementwise;

/* Losses are summed in double, by chunks of so many elements. */
enum { ELEMENTWISE_CHUNK = 256 };

/* lk_loss.light: below 512 thousand elements of a few operations, or 128 thousand with a logarithm,
 * to start a thread takes longer than it saves. */
enum { ELEMENTWISE_CHEAP = 8, ELEMENTWISE_COSTLY = 2 };

/* Refuse weights that are not finite, else add them up: a finite sum tells that all are. */
LK_STATIC lk_status elementwise_weigh(const lk_job *job, int input, double *sum, lk_error *error)
{
    const real *weight = job->in[input].data;
    const int64_t n = weight ? lk_tensor_count(&job->in[input]) : 0;
    *sum = weight ? elements_sum(weight, n) : 0;
    for (int64_t k = 0; !isfinite(*sum) && k < n; k++) {
        real w;
        memcpy(&w, weight + k, sizeof w);
        if (!isfinite(w))
            return lk_refuse_weight(job, error, input, k, (double)w);
    }
    return LK_OK;
}

/* The number of counted elements. */
LK_STATIC int64_t elementwise_count(const lk_job *job, int mask_input)
{
    const lk_tensor *m = &job->in[mask_input];
    const unsigned char *mark = m->data;
    const int64_t marks = mark ? lk_tensor_count(m) : 0;
    int64_t counted = 0;
    if (!mark)
        return job->rows;
    for (int64_t i = 0, n; i < marks; i += n) {
        int some = 0;
        n = marks - i < ELEMENTWISE_CHUNK ? marks - i : ELEMENTWISE_CHUNK;
        for (int64_t k = 0; k < n; k++)
            some += mark[i + k] != 0;
        counted += some;
    }
    return marks > 0 ? counted * (job->rows / marks) : 0;
}

/* The sum of the weights of counted elements; a weight has the shape of A, and so has the mask. */
LK_STATIC double elementwise_weight(const lk_job *job, int mask_input, int weight_input)
{
    const unsigned char *mark = job->in[mask_input].data;
    const real *weight = job->in[weight_input].data;
    double total = 0;
    for (int64_t i = 0, n; i < job->rows; i += n) {
        real some[ELEMENTWISE_CHUNK];
        n = job->rows - i < ELEMENTWISE_CHUNK ? job->rows - i : ELEMENTWISE_CHUNK;
        memcpy(some, weight + i, (size_t)n * sizeof *some);
        for (int64_t k = 0; k < n; k++)
            some[k] = mark[i + k] != 0 ? some[k] : 0;
        total += elements_sum(some, n);
    }
    return total;
}

/* How an input is repeated to the shape of A. If it is absent, only `data` is set. */
LK_STATIC void elementwise_spread(const lk_job *job, int input, bool leads, lk_spread *to)
{
    to->data = NULL;
    if (input && job->in[input].data)
        *to = lk_spread_of(&job->in[input], &job->in[A], leads);
}

/* The element of a tensor that element i of A meets. */
LK_STATIC int64_t elementwise_of(const lk_spread *spread, int64_t i)
{
    int64_t at = 0;
    for (int axis = 0; axis < spread->axes; axis++) {
        at += i % spread->size[axis] * spread->stride[axis];
        i /= spread->size[axis];
    }
    return at;
}

/* The elements of an input, met by those of A from i on, that are refused; `spread` is NULL where
 * the input has the shape of A. Rare, and so kept out of the loops. */
static __attribute__((noinline, cold, unused)) void elementwise_refuse(lk_block *block,
                                                                       lk_status status, int input,
                                                                       const lk_spread *spread,
                                                                       int64_t i, mask bad, vec x)
{
    for (int k = 0; k < LANES; k++)
        if (bad[k])
            lk_refuse(block, status, input, spread ? elementwise_of(spread, i + k) : i + k,
                      (double)x[k]);
}

/* NaN and +inf are refused among the counted lanes. */
LK_INLINE void elementwise_check(lk_block *block, int input, const lk_spread *spread, int64_t i,
                                 mask counts, vec x)
{
    const mask bad = counts & ~(x < v_set((real)INFINITY));
    if (!m_none(bad))
        elementwise_refuse(block, LK_NONFINITE_INPUT, input, spread, i, bad, x);
}

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

/* The sum of those products w a b, in units, that are infinite as reals. Rare, and so kept out of
 * the loops. */
static __attribute__((noinline, cold, unused)) double elementwise_beyond(mask which, vec w, vec a,
                                                                         vec b, double unit)
{
    double sum = 0;
    for (int k = 0; k < LANES; k++)
        if (which[k])
            sum += (double)a[k] * unit * (double)w[k] * (double)b[k];
    return sum;
}

/* Does a gradient go past the caches? Where it is larger than they are, not in place, and aligned.
 */
LK_INLINE bool elementwise_streams(const lk_job *job, const elem *grad, int64_t first)
{
    return grad && grad != job->in[A].data && grad != job->in[B].data &&
           job->rows * (int64_t)sizeof(elem) >= LK_STREAM_MIN &&
           (uintptr_t)(grad + first) % (LANES * sizeof(elem)) == 0;
}

LK_INLINE void elementwise_store(elem *to, vec x, bool stream)
{
    if (stream)
        v_stream(to, x);
    else
        v_store(to, x);
}

/* What all chunks of a run have in common. */
typedef struct elementwise_run {
    lk_block *block;
    const lk_spread *spread_b; /* NULL: B has the shape of A */
    vec rho;
    mask moving; /* is that not 0? */
    double unit;
    bool summed, refuse, stream_a, stream_b;
} elementwise_run;

/* Where some elements are. NULL: `weight`, `factor` and `up` ones, `mask` all counted, the others
 * not wanted. */
typedef struct elementwise_place {
    const elem *a, *b;
    const real *weight, *factor, *up;
    const unsigned char *mask;
    real *values;
    elem *grad_a, *grad_b;
} elementwise_place;

/* Up to ELEMENTWISE_CHUNK elements. */
typedef struct elementwise_chunk {
    int64_t first;
    double beyond; /* elementwise_beyond */
    _Alignas(LK_LINE) real ahead[ELEMENTWISE_CHUNK];
    _Alignas(LK_LINE) real loss[ELEMENTWISE_CHUNK];
} elementwise_chunk;

/* Room for one vector of all that an elementwise_place names. */
typedef struct elementwise_spare {
    elem a[LANES], b[LANES], grad_a[LANES], grad_b[LANES];
    real weight[LANES], factor[LANES], up[LANES], values[LANES];
    unsigned char mask[LANES];
} elementwise_spare;

/* The last n elements of a place, fewer than a vector holds, copied to where there is a vector. */
static __attribute__((noinline, unused)) elementwise_place
elementwise_lend(const elementwise_place at, int64_t k, int64_t n, elementwise_spare *room)
{
    elementwise_place to = at;
    memset(room, 0, sizeof *room);
#define LEND(member)                                                                               \
    if (at.member) {                                                                               \
        memcpy(room->member, at.member + k, (size_t)n * sizeof *room->member);                     \
        to.member = room->member;                                                                  \
    }
    LEND(a)
    LEND(b)
    LEND(weight)
    LEND(factor)
    LEND(up)
    LEND(mask)
#undef LEND
    to.values = at.values ? room->values : NULL;
    to.grad_a = at.grad_a ? room->grad_a : NULL;
    to.grad_b = at.grad_b ? room->grad_b : NULL;
    return to;
}

static __attribute__((noinline, unused)) void
elementwise_return(const elementwise_place at, int64_t k, int64_t n, const elementwise_spare *room)
{
    if (at.values)
        memcpy(at.values + k, room->values, (size_t)n * sizeof *room->values);
    if (at.grad_a)
        memcpy(at.grad_a + k, room->grad_a, (size_t)n * sizeof *room->grad_a);
    if (at.grad_b)
        memcpy(at.grad_b + k, room->grad_b, (size_t)n * sizeof *room->grad_b);
}

/* LANES elements of a chunk, from its k-th on, of which the first n count. They are at the j-th of
 * `at`. Plainly: all count alike, with nothing to read but A and B. */
LK_INLINE void elementwise_step(const elementwise_run *r, const void *options, elementwise_chunk *c,
                                const elementwise_place at, int64_t j, int64_t k, int64_t n,
                                const elementwise is, const bool plain)
{
    const int64_t i = c->first + k;
    mask counts = plain ? m_set(-1) : m_first(n);
    if (!plain && at.mask)
        counts &= m_bytes(at.mask + j);
    v_fetch(at.a + j);
    if (!is.alone)
        v_fetch(at.b + j);
    element e = {.a = v_load(at.a + j), .b = is.alone ? (vec){0} : v_load(at.b + j)};
    e.value.b = v_set(1);
    if (!plain && r->refuse) {
        elementwise_check(r->block, A, NULL, i, counts, e.a);
        if (!is.alone)
            elementwise_check(r->block, B, r->spread_b, i, counts, e.b);
    }
    e.factor = is.constant || (!plain && at.factor) ? v_read(at.factor + j) : v_set(1);
    if (is.ahead)
        e.ahead = v_read(c->ahead + k);
    is.each(options, &e);
    if (is.ranged_a && !m_none(counts & ~e.legal_a))
        elementwise_refuse(r->block, LK_VALUE_OUT_OF_RANGE, A, NULL, i, counts & ~e.legal_a, e.a);
    if (is.ranged && !m_none(counts & ~e.legal))
        elementwise_refuse(r->block, LK_VALUE_OUT_OF_RANGE, is.ranged, r->spread_b, i,
                           counts & ~e.legal, is.ranged == is.factor ? e.factor : e.b);
    const vec w = !plain && at.weight ? v_read(at.weight + j) : v_set(1);
    const mask used = counts & (w != (vec){0});
    vec loss = v_where(used, w * (e.value.a * e.value.b));
    if (at.values)
        v_write(at.values + j, loss);
    if (r->summed) {
        if (__builtin_expect(v_has_infinity(loss), 0)) {
            const mask beyond = v_abs(loss) == v_set((real)INFINITY);
            c->beyond += elementwise_beyond(beyond, w, e.value.a, e.value.b, r->unit);
            loss = v_where(~beyond, loss);
        }
        v_write(c->loss + k, loss);
    }
    if (!at.grad_a && !at.grad_b)
        return;
    vec g = plain ? r->rho : r->rho * w;
    mask moves = plain ? m_set(-1) : used & r->moving;
    if (!plain && at.up) {
        g *= v_read(at.up + j);
        moves &= g != (vec){0};
    }
    if (at.grad_a)
        elementwise_store(at.grad_a + j, v_where(moves, g * e.slope_a), r->stream_a);
    if (at.grad_b)
        elementwise_store(at.grad_b + j, v_where(moves, g * e.slope_b), r->stream_b);
}

/* The sum of a chunk, in units. */
LK_INLINE double elementwise_total(elementwise_chunk *c, int64_t n, double unit)
{
    double sum = elements_sum(c->loss, n) * unit;
    if (__builtin_expect(!isfinite(sum) && unit < 1, 0)) {
        for (int64_t k = 0; k < n; k++)
            c->loss[k] *= (real)unit;
        sum = elements_sum(c->loss, n);
    }
    return sum + c->beyond;
}

/* A template, for `is` is a constant. `options` is the caller's own copy of the job's, which no
 * store of a gradient can change: what depends on nothing else is computed once. */
LK_INLINE void elementwise_rows(const lk_job *job, const void *options, int64_t first,
                                int64_t count, lk_block *block, const elementwise is)
{
    const lk_reduce *reduce = job->options;
    const bool per_row = job->value.rank > 0 || reduce->reduction == LK_NONE;
    const real *up = job->in[is.grad_output].data;
    const elem *a = job->in[A].data, *b = job->in[B].data;
    const bool dense = !is.broadcast || lk_tensor_count(&job->in[B]) == job->rows;
    elem *grad_a = job->grad[A].data, *grad_b = dense ? job->grad[B].data : NULL;
    real *values = per_row ? job->value.data : NULL;
    lk_spread weight, factor, given, spread_b;
    _Alignas(LK_LINE) real room[2][ELEMENTWISE_CHUNK];
    _Alignas(LK_LINE) elem room_b[ELEMENTWISE_CHUNK];
    _Alignas(LK_LINE) unsigned char marks[ELEMENTWISE_CHUNK];
    real upstream = 1;
    elementwise_chunk c;
    elementwise_spare spare;
    elementwise_spread(job, is.weight, false, &weight);
    elementwise_spread(job, is.factor, false, &factor);
    elementwise_spread(job, is.mask, true, &given);
    if (!dense)
        elementwise_spread(job, B, true, &spread_b);
    if (up && !per_row)
        memcpy(&upstream, up, sizeof upstream);
    elementwise_run r = {.block = block,
                         .spread_b = dense ? NULL : &spread_b,
                         .summed = !per_row && job->value.data};
    const double rho = job->scale[0] * (double)upstream;
    const int power = elements_power(rho);
    r.rho = v_set((real)ldexp(rho, -power));
    r.moving = r.rho != (vec){0};
    r.unit = elementwise_unit(job);
    r.refuse = reduce->nonfinite == LK_REFUSE_NONFINITE;
    r.stream_a = elementwise_streams(job, grad_a, first);
    r.stream_b = elementwise_streams(job, grad_b, first);
    const bool streams = r.stream_a || r.stream_b;
    const bool plain = !weight.data && (is.constant || !factor.data) && !given.data &&
                       !(up && per_row) && !r.refuse && r.moving[0];
    for (int64_t i = first, n; i < first + count; i += n) {
        int64_t k = 0;
        n = first + count - i < ELEMENTWISE_CHUNK ? first + count - i : ELEMENTWISE_CHUNK;
        c.first = i;
        c.beyond = 0;
        const elementwise_place at = {
            .a = a + i,
            .b = is.alone ? NULL
                 : dense  ? b + i
                          : lk_spread_read(&spread_b, i, n, room_b),
            .weight = weight.data ? lk_spread_read(&weight, i, n, room[0]) : NULL,
            .factor = factor.data ? lk_spread_read(&factor, i, n, room[1]) : NULL,
            .mask = given.data ? lk_spread_read(&given, i, n, marks) : NULL,
            .up = up && per_row ? up + i : NULL,
            .values = values ? values + i : NULL,
            .grad_a = grad_a ? grad_a + i : NULL,
            .grad_b = grad_b ? grad_b + i : NULL,
        };
        for (int64_t p = 0; is.ahead && p < n; p += LANES)
            v_write(c.ahead + p, is.ahead(v_load_tail(at.a + p, LK_TAIL(p, n), 0)));
        for (; plain && n - k >= LANES; k += LANES)
            elementwise_step(&r, options, &c, at, k, k, LANES, is, true);
        for (; k < n; k += LANES) {
            const bool whole = n - k >= LANES;
            elementwise_place here = at;
            if (!whole) {
                here = elementwise_lend(at, k, n - k, &spare);
                r.stream_a = r.stream_b = false;
            }
            elementwise_step(&r, options, &c, here, whole ? k : 0, k, n - k, is, false);
            if (!whole)
                elementwise_return(at, k, n - k, &spare);
        }
        if (r.summed)
            block->sum[ELEMENTWISE_UNITS] += elementwise_total(&c, n, r.unit);
    }
    block->sum[ELEMENTWISE_SUM] = block->sum[ELEMENTWISE_UNITS] / r.unit;
    if (streams)
        v_fence();
    if (power != 0 && grad_a)
        elements_scale(grad_a + first, count, power);
    if (power != 0 && grad_b)
        elements_scale(grad_b + first, count, power);
}

/* Regressions. */

enum { SAMPLE_WEIGHT = B + 1, MASK, GRAD_OUTPUT };

#define REGRESSION_SHARED                                                                          \
    [SAMPLE_WEIGHT] = {.name = "sample_weight",                                                    \
                       .forms = {{"*", LK_FLOATS}},                                                \
                       .flags = LK_OPTIONAL | LK_WEIGHTS,                                          \
                       .help = "weight of each element; default ones"},                            \
    [MASK] = {.name = "mask",                                                                      \
              .forms = {{"*", LK_MASKS}},                                                          \
              .flags = LK_OPTIONAL | LK_IGNORES,                                                   \
              .help = "elements with 0 are ignored and not read; default all counted"},            \
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT

static const lk_input regression_inputs[] __attribute__((unused)) = {
    [A] = {.name = "a",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "predictions"},
    [B] = {.name = "b",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "targets"},
    REGRESSION_SHARED,
    {0},
};

LK_STATIC lk_status regression_prepare(lk_job *job, lk_error *error)
{
    double weight;
    const lk_status status = elementwise_weigh(job, SAMPLE_WEIGHT, &weight, error);
    job->counted = elementwise_count(job, MASK);
    job->denominator[0] = !job->in[SAMPLE_WEIGHT].data ? (double)job->counted
                          : job->in[MASK].data ? elementwise_weight(job, MASK, SAMPLE_WEIGHT)
                                               : weight;
    return status;
}

/* Losses of one tensor, A, beside a constant in the place of B: floats or integers. */
#define SCORE_INPUTS(help_, range_, target_range, target_help)                                     \
    [A] = {.name = "input",                                                                        \
           .forms = {{"*", LK_FLOATS}},                                                            \
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,                                \
           .range = (range_),                                                                      \
           .help = (help_)},                                                                       \
    [B] = {.name = "target",                                                                       \
           .forms = {{"*", LK_FLOATS | LK_INTS}},                                                  \
           .range = (target_range),                                                                \
           .help = (target_help)},                                                                 \
    REGRESSION_SHARED

/* The rows of such a loss, and of one that gives more than a value and a slope. */
#define ELEMENTWISE_KERNELS(options, ...)                                                          \
    static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,             \
                     void *scratch)                                                                \
    {                                                                                              \
        const elementwise is = {.each = each,                                                      \
                                .weight = SAMPLE_WEIGHT,                                           \
                                .mask = MASK,                                                      \
                                .grad_output = GRAD_OUTPUT,                                        \
                                __VA_ARGS__};                                                      \
        const options o = *(const options *)job->options;                                          \
        (void)scratch;                                                                             \
        elementwise_rows(job, &o, first, count, block, is);                                        \
    }
#define SCORE_KERNELS(options, ...)                                                                \
    ELEMENTWISE_KERNELS(options, .alone = true, .constant = true, .factor = B, __VA_ARGS__)

#define REGRESSION_KERNELS(options, value_of, slope_of)                                            \
    LK_INLINE void each(const void *given, element *e)                                             \
    {                                                                                              \
        const options *o = given;                                                                  \
        const vec r = e->a - e->b;                                                                 \
        e->value = value_of(o, r);                                                                 \
        e->slope_a = slope_of(o, r);                                                               \
        e->slope_b = -e->slope_a;                                                                  \
    }                                                                                              \
    ELEMENTWISE_KERNELS(options, .alone = false)

#define ELEMENTWISE_MEMBERS(options, light_)                                                       \
    .options_size = sizeof(options), .parts = 1, .light = (light_), .reals = true,                 \
    .checks_weights = true, .prepare = regression_prepare, .rows = rows,                           \
    .finish = elementwise_finish

#define REGRESSION_MEMBERS(options) ELEMENTWISE_MEMBERS(options, ELEMENTWISE_CHEAP)

#endif
