/* SPDX-License-Identifier: MIT
 *
 * What element-wise losses share: see rows/elementwise.h.
 */
#include "rows/elementwise.h"

#include "rows/elements.h"

/* Losses are summed in double, by chunks of so many elements. Those of 4 KiB are computed together:
 * while they are summed nothing is read. */
enum { CHUNK = 256, STRETCH = sizeof(real) == 8 ? CHUNK : 2 * CHUNK };

lk_status elementwise_weigh(const lk_job *job, int input, double *sum, lk_error *error)
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

int64_t elementwise_count(const lk_job *job, int mask_input)
{
    const lk_tensor *m = &job->in[mask_input];
    const unsigned char *mark = m->data;
    const int64_t marks = mark ? lk_tensor_count(m) : 0;
    int64_t counted = 0;
    if (!mark)
        return job->rows;
    for (int64_t i = 0, n; i < marks; i += n) {
        int some = 0;
        n = marks - i < CHUNK ? marks - i : CHUNK;
        for (int64_t k = 0; k < n; k++)
            some += mark[i + k] != 0;
        counted += some;
    }
    return marks > 0 ? counted * (job->rows / marks) : 0;
}

/* The sum of the weights of counted elements; a weight has the shape of A, and so has the mask. */
static double counted_weight(const lk_job *job, int mask_input, int weight_input)
{
    const unsigned char *mark = job->in[mask_input].data;
    const real *weight = job->in[weight_input].data;
    double total = 0;
    for (int64_t i = 0, n; i < job->rows; i += n) {
        real some[CHUNK];
        n = job->rows - i < CHUNK ? job->rows - i : CHUNK;
        memcpy(some, weight + i, (size_t)n * sizeof *some);
        for (int64_t k = 0; k < n; k++)
            some[k] = mark[i + k] != 0 ? some[k] : 0;
        total += elements_sum(some, n);
    }
    return total;
}

lk_status regression_prepare(lk_job *job, lk_error *error)
{
    double weight;
    const lk_status status = elementwise_weigh(job, SAMPLE_WEIGHT, &weight, error);
    job->counted = elementwise_count(job, MASK);
    job->denominator[0] = !job->in[SAMPLE_WEIGHT].data ? (double)job->counted
                          : job->in[MASK].data         ? counted_weight(job, MASK, SAMPLE_WEIGHT)
                                                       : weight;
    return status;
}

/* How an input is repeated to the shape of A. If it is absent, only `data` is set. */
static void repeat(const lk_job *job, int input, bool leads, lk_spread *to)
{
    to->data = NULL;
    if (input && job->in[input].data)
        *to = lk_spread_of(&job->in[input], &job->in[A], leads);
}

/* The element of a tensor that element i of A meets. */
static int64_t element_of(const lk_spread *spread, int64_t i)
{
    int64_t at = 0;
    for (int axis = 0; axis < spread->axes; axis++) {
        at += i % spread->size[axis] * spread->stride[axis];
        i /= spread->size[axis];
    }
    return at;
}

/* lk_block.sum: of the values, and of the same times `unit`. */
enum { SUM, UNITS };

/* A power of two, no more than what a mean multiplies its sum with: so many doubles may have a sum
 * that leaves the range where their mean does not. Sums of floats never do. */
static double unit_of(const lk_job *job)
{
    int exponent = 0;
    if (sizeof(real) < sizeof(double) || !(fabs(job->scale[0]) < 1) || job->scale[0] == 0)
        return 1;
    (void)frexp(job->scale[0], &exponent);
    return ldexp(1, exponent - 1);
}

void elementwise_finish(const lk_job *job, const double *sum)
{
    const lk_reduce *reduce = job->options;
    if (job->value.data && reduce->reduction != LK_NONE && job->scale[0] != 0 && isinf(sum[SUM]))
        lk_put(&job->value, 0, sum[UNITS] * (job->scale[0] / unit_of(job)));
}

/* Does a gradient go past the caches? Where it is larger than they are, not in place, and aligned.
 */
static bool streams(const lk_job *job, const elem *grad, int64_t first)
{
    return grad && grad != job->in[A].data && grad != job->in[B].data &&
           job->rows * (int64_t)sizeof(elem) >= LK_STREAM_MIN &&
           (uintptr_t)(grad + first) % (LANES * sizeof(elem)) == 0;
}

/* What all elements of a run have in common. */
typedef struct run {
    const elementwise *is;
    const void *options;
    lk_block *block;
    const lk_spread *spread_b; /* NULL: B has the shape of A */
    double unit;
    bool refuse; /* NaN and +inf */
} run;

/* Elements that are computed together. */
typedef struct stretch {
    elementwise_span at; /* first, since elementwise_odd is given it */
    const run *r;
    int64_t first;  /* element of the tensors */
    double *beyond; /* for each chunk: the sum, in units, of infinite values */
    _Alignas(LK_LINE) real ahead[STRETCH];
} stretch;

/* Rare, and so kept out of the loops. */
static __attribute__((noinline, cold)) void refuse(const stretch *s, lk_status status, int input,
                                                   int64_t k, mask bad, vec x)
{
    const lk_spread *spread = input == A ? NULL : s->r->spread_b;
    for (int64_t i = s->first + k; i < s->first + k + LANES; i++)
        if (bad[i - s->first - k])
            lk_refuse(s->r->block, status, input, spread ? element_of(spread, i) : i,
                      (double)x[i - s->first - k]);
}

/* Which elements from the k-th on count. */
static mask counting(const stretch *s, int64_t k)
{
    return s->at.mask ? m_bytes(s->at.mask + k) : m_set(-1);
}

__attribute__((cold)) void elementwise_odd(const elementwise_span *span, int64_t k,
                                           const element *e)
{
    const stretch *s = (const stretch *)span;
    const elementwise *is = s->r->is;
    const mask counts = counting(s, k);
    if (!m_none(counts & ~e->legal_a))
        refuse(s, LK_VALUE_OUT_OF_RANGE, A, k, counts & ~e->legal_a, e->a);
    if (!m_none(counts & ~e->legal))
        refuse(s, LK_VALUE_OUT_OF_RANGE, is->ranged, k, counts & ~e->legal,
               is->ranged == is->factor ? e->factor : e->b);
    for (int64_t i = k; span->sums && i < k + LANES; i++)
        if (isinf(span->values[i])) {
            s->beyond[k / CHUNK] += (double)e->value.a[i - k] * s->r->unit *
                                    (double)e->weight[i - k] * (double)e->value.b[i - k];
            span->values[i] = 0;
        }
}

/* NaN and +inf among n counted elements. */
static void check(const stretch *s, int input, const elem *x, int64_t n)
{
    for (int64_t k = 0; k < n; k += LANES) {
        const vec value = v_load(x + k);
        const mask bad = counting(s, k) & ~(value < v_set((real)INFINITY));
        if (!m_none(bad))
            refuse(s, LK_NONFINITE_INPUT, input, k, bad, value);
    }
}

static void compute(stretch *s, int64_t n)
{
    s->at.ahead = s->ahead;
    if (s->r->refuse) {
        check(s, A, s->at.a, n);
        if (s->at.b)
            check(s, B, s->at.b, n);
    }
    s->r->is->span(s->r->options, &s->at, n);
}

/* n elements, fewer than a vector holds, by way of a whole vector. */
static void compute_few(stretch *s, int64_t n)
{
    const elementwise_span at = s->at;
    elem a[LANES] = {0}, b[LANES] = {0}, grad_a[LANES], grad_b[LANES];
    real weight[LANES] = {0}, factor[LANES] = {0}, up[LANES] = {0}, values[LANES];
    unsigned char counts[LANES] = {0};
#define BORROW(member)                                                                             \
    if (at.member) {                                                                               \
        memcpy(member, at.member, (size_t)n * sizeof *member);                                     \
        s->at.member = member;                                                                     \
    }
    BORROW(a)
    BORROW(b)
    BORROW(weight)
    BORROW(factor)
    BORROW(up)
#undef BORROW
    memset(counts, 1, (size_t)n);
    if (at.mask)
        memcpy(counts, at.mask, (size_t)n);
    s->at.mask = counts;
    s->at.alike = s->at.stream_a = s->at.stream_b = false;
#define LEND(member)                                                                               \
    if (at.member)                                                                                 \
        s->at.member = member;
    LEND(values)
    LEND(grad_a)
    LEND(grad_b)
#undef LEND
    compute(s, LANES);
#define RETURN(member)                                                                             \
    if (at.member)                                                                                 \
        memcpy(at.member, member, (size_t)n * sizeof *member);
    RETURN(values)
    RETURN(grad_a)
    RETURN(grad_b)
#undef RETURN
}

/* The sum of a chunk, in units. */
static double total(real *loss, int64_t n, double unit)
{
    double sum = elements_sum(loss, n) * unit;
    if (__builtin_expect(!isfinite(sum) && unit < 1, 0)) {
        for (int64_t k = 0; k < n; k++)
            loss[k] *= (real)unit;
        sum = elements_sum(loss, n);
    }
    return sum;
}

/* n elements from the first one on, which are at a span. Their values are added up if it `sums`. */
static void compute_all(const run *r, const elementwise_span at, int64_t first, int64_t n)
{
    _Alignas(LK_LINE) real loss[STRETCH];
    double beyond[STRETCH / CHUNK] = {0};
    stretch s;
    const int64_t whole = n / LANES * LANES;
    s.at = at;
    s.r = r;
    s.first = first;
    s.beyond = beyond;
    if (at.sums || !at.values)
        s.at.values = loss;
    if (whole > 0)
        compute(&s, whole);
    if (n > whole) {
#define MOVE(member) s.at.member = s.at.member ? s.at.member + whole : NULL
        MOVE(a);
        MOVE(b);
        MOVE(weight);
        MOVE(factor);
        MOVE(up);
        MOVE(mask);
        MOVE(values);
        MOVE(grad_a);
        MOVE(grad_b);
#undef MOVE
        s.first += whole;
        s.beyond += whole / CHUNK;
        compute_few(&s, n - whole);
    }
    for (int64_t k = 0; at.sums && k < n; k += CHUNK)
        r->block->sum[UNITS] +=
            total(loss + k, n - k < CHUNK ? n - k : CHUNK, r->unit) + beyond[k / CHUNK];
}

void elementwise_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                      void *scratch)
{
    const elementwise *is = job->loss->driver;
    const lk_reduce *reduce = job->options;
    const bool per_row = job->value.rank > 0 || reduce->reduction == LK_NONE;
    const real *up = job->in[is->grad_output].data;
    const elem *a = job->in[A].data, *b = job->in[B].data;
    const bool dense = !is->broadcast || lk_tensor_count(&job->in[B]) == job->rows;
    elem *grad_a = job->grad[A].data, *grad_b = dense ? job->grad[B].data : NULL;
    real *values = per_row ? job->value.data : NULL;
    lk_spread weight, factor, given, spread_b;
    _Alignas(LK_LINE) real room[2][STRETCH];
    _Alignas(LK_LINE) elem room_b[STRETCH];
    _Alignas(LK_LINE) unsigned char marks[STRETCH];
    real upstream = 1;
    (void)scratch;
    repeat(job, is->weight, false, &weight);
    repeat(job, is->factor, false, &factor);
    repeat(job, is->mask, true, &given);
    if (!dense)
        repeat(job, B, true, &spread_b);
    if (up && !per_row)
        memcpy(&upstream, up, sizeof upstream);
    const double rho = job->scale[0] * (double)upstream;
    const int power = elements_power(rho);
    const run r = {.is = is,
                   .options = job->options,
                   .block = block,
                   .spread_b = dense ? NULL : &spread_b,
                   .unit = unit_of(job),
                   .refuse = reduce->nonfinite == LK_REFUSE_NONFINITE};
    elementwise_span at = {.rho = (real)ldexp(rho, -power),
                           .stream_a = streams(job, grad_a, first),
                           .stream_b = streams(job, grad_b, first),
                           .sums = !per_row && job->value.data};
    at.alike = !weight.data && !given.data && !(up && per_row) && at.rho != 0;
    for (int64_t i = first, n; i < first + count; i += n) {
        n = first + count - i < STRETCH ? first + count - i : STRETCH;
        at.a = a + i;
        at.b = is->alone ? NULL : dense ? b + i : lk_spread_read(&spread_b, i, n, room_b);
        at.weight = weight.data ? lk_spread_read(&weight, i, n, room[0]) : NULL;
        at.factor = factor.data ? lk_spread_read(&factor, i, n, room[1]) : NULL;
        at.mask = given.data ? lk_spread_read(&given, i, n, marks) : NULL;
        at.up = up && per_row ? up + i : NULL;
        at.values = values ? values + i : NULL;
        at.grad_a = grad_a ? grad_a + i : NULL;
        at.grad_b = grad_b ? grad_b + i : NULL;
        compute_all(&r, at, i, n);
    }
    block->sum[SUM] = block->sum[UNITS] / r.unit;
    if (at.stream_a || at.stream_b)
        v_fence();
    if (power != 0 && grad_a)
        elements_scale(grad_a + first, count, power);
    if (power != 0 && grad_b)
        elements_scale(grad_b + first, count, power);
}
