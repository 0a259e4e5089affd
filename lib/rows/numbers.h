/* SPDX-License-Identifier: MIT
 *
 * Losses whose rows are computed in double, whatever the element type, and by one lane: few
 * numbers, or such that vectors do not help. They are compiled once (ONCE in losses.def). A loss
 * gives a function that computes the value of one row and its slopes by the row's numbers, and gets
 * reading, weights, scaling and rounding from here:
 *
 *     static void row(const lk_job *job, numbers *r) { ... r->x[k] ... r->value = ... r->slope[k] =
 * ... }
 *
 * Nothing is rounded before the last step, so terms of a row may cancel.
 */
#ifndef LK_NUMBERS_H
#define LK_NUMBERS_H

#include "loss.h"
#include "vector/accurate.h"
#include "vector/convert.h"

/* A row: the numbers, then the results. */
typedef struct numbers {
    int64_t i;       /* its index */
    int64_t n;       /* how many numbers it has */
    const double *x; /* these */
    double *spare;   /* room for n * numbers_loss.spare more */
    lk_block *block; /* where the row records bad values, by lk_refuse */

    double value;
    double *slope; /* d value / d x; 0 at first */
} numbers;

/* What a loss tells: its row, and which input is what (0, which is the numbers: it has none). */
typedef struct numbers_loss {
    void (*row)(const lk_job *job, numbers *r);
    bool (*counts)(const lk_job *job, int64_t i); /* NULL: every row does */
    int weight;                                   /* of each row */
    int grad_output;
    int spare;
} numbers_loss;

/* Element i of a constant, or the only one it has; `fallback` where it is not given. */
LK_STATIC double numbers_constant(const lk_job *job, int input, int64_t i, double fallback)
{
    const lk_tensor *t = &job->in[input];
    const bool single = t->rank == 0 || (t->rank == 1 && t->shape[0] == 1);
    return t->data ? lk_real_at(t->data, t->dtype, single ? 0 : i) : fallback;
}

/* Element i of an output, where it is wanted. */
LK_STATIC void numbers_put(const lk_job *job, int output, int64_t i, double x)
{
    if (job->out[output].data)
        lk_put(&job->out[output], i, x);
}

/* Is element i of a mask set, or not given? */
LK_STATIC bool numbers_marked(const lk_job *job, int mask, int64_t i)
{
    return !job->in[mask].data || lk_int(&job->in[mask], i) != 0;
}

/* Numbers of a row: the last size of the first input. */
LK_STATIC int64_t numbers_width(const lk_job *job)
{
    const lk_tensor *t = &job->in[0];
    return t->rank > 0 ? t->shape[t->rank - 1] : 1;
}

/* Read n elements of an input from element i on, as doubles. */
LK_STATIC void numbers_read(const lk_tensor *t, int64_t i, int64_t n, double *to)
{
    lk_convert((const char *)t->data + i * (int64_t)lk_dtype_size(t->dtype), t->dtype, to, LK_F64,
               n);
}

/* Write n gradients from element i on: slopes times a factor, which gives 0 where it is 0. All are
 * NaN where the value that they are the slopes of is. The slopes are overwritten. */
LK_STATIC void numbers_write(const lk_tensor *grad, int64_t i, int64_t n, double *slope,
                             double factor, double value)
{
    if (!grad->data)
        return;
    for (int64_t k = 0; k < n; k++)
        slope[k] = factor == 0 ? 0 : isnan(value) ? (double)NAN : 0 + factor * slope[k]; /* no -0 */
    lk_convert(slope, LK_F64, (char *)grad->data + i * (int64_t)lk_dtype_size(grad->dtype),
               grad->dtype, n);
}

/* Does a row of class scores have no softmax: NaN or +inf in it, or nothing but -inf? */
LK_STATIC bool numbers_hopeless(const double *x, int64_t n)
{
    bool some = false;
    for (int64_t k = 0; k < n; k++) {
        if (scalar_nonfinite(x[k]))
            return true;
        some = some || x[k] > -(double)INFINITY;
    }
    return !some;
}

/* softmax of n numbers, at least one; returns their logsumexp. All are NaN where there is none. */
LK_STATIC double numbers_softmax(const double *x, int64_t n, double *p)
{
    double top = x[0], sum = 0;
    for (int64_t k = 1; k < n; k++)
        top = x[k] > top ? x[k] : top;
    for (int64_t k = 0; k < n; k++)
        sum += p[k] = lk_exp(x[k] - top);
    for (int64_t k = 0; k < n; k++)
        p[k] /= sum;
    return top + lk_log(sum);
}

LK_STATIC size_t numbers_scratch(const lk_job *job, int spare)
{
    return (size_t)numbers_width(job) * (2 + (size_t)spare) * sizeof(double);
}

/* Visit rows: read one's numbers, check them, call is.row, weigh the value, write the gradient. */
LK_STATIC void numbers_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                            void *scratch, const numbers_loss is)
{
    const lk_reduce *reduce = job->options;
    const bool per_row = job->loss->is->loss_shape && reduce->reduction == LK_NONE;
    const int64_t n = numbers_width(job);
    double *x = scratch, *slope = x + n;
    for (int64_t i = first; i < first + count; i++) {
        numbers r = {.i = i, .n = n, .x = x, .slope = slope, .spare = slope + n, .block = block};
        const bool counts = !is.counts || is.counts(job, i);
        const double w = !counts ? 0 : is.weight ? numbers_constant(job, is.weight, i, 1) : 1;
        memset(slope, 0, (size_t)n * sizeof *slope);
        if (counts)
            numbers_read(&job->in[0], i * n, n, x);
        for (int64_t k = 0; counts && reduce->nonfinite == LK_REFUSE_NONFINITE && k < n; k++)
            if (scalar_nonfinite(x[k]))
                lk_refuse(block, LK_NONFINITE_INPUT, 0, i * n + k, x[k]);
        if (counts)
            is.row(job, &r);
        double value = scalar_times(w, r.value);
        value = isnan(value) ? (double)NAN : value; /* its sign is the compiler's choice */
        block->sum[0] += value;
        if (per_row && job->value.data)
            lk_put(&job->value, i, value);
        const double up = numbers_constant(job, is.grad_output, per_row ? i : 0, 1);
        numbers_write(&job->grad[0], i * n, n, slope, w * job->scale[0] * up, value);
    }
}

/* Count the rows and add up their weights, which is what a mean divides by. */
LK_STATIC void numbers_count(lk_job *job, const numbers_loss is)
{
    double sum = 0;
    for (int64_t i = 0; i < job->rows; i++) {
        if (is.counts && !is.counts(job, i))
            continue;
        job->counted++;
        sum += is.weight ? numbers_constant(job, is.weight, i, 1) : 1;
    }
    job->denominator[0] = sum;
}

/* Rows need classes, C. */
LK_STATIC lk_status numbers_check(const lk_job *job, lk_error *error)
{
    const char *const name = job->loss->is->inputs[0].name;
    if (job->size['C' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, 0, -1,
                       "%s has no classes; the class axis must have at least 1", name);
    return LK_OK;
}

/* The usual inputs. */
#define NUMBERS_MASK                                                                               \
    {                                                                                              \
        .name = "mask", .forms = {{"*", LK_MASKS}}, .flags = LK_OPTIONAL | LK_IGNORES,             \
        .help = "rows with 0 are ignored and not read; default all counted"                        \
    }
#define NUMBERS_WEIGHT                                                                             \
    {                                                                                              \
        .name = "sample_weight", .forms = {{"*", LK_FLOATS}}, .flags = LK_OPTIONAL | LK_WEIGHTS,   \
        .range = "finite", .help = "weight of each row; default ones"                              \
    }

#define NUMBERS_KERNELS(is)                                                                        \
    static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,             \
                     void *scratch)                                                                \
    {                                                                                              \
        numbers_rows(job, first, count, block, scratch, is);                                       \
    }                                                                                              \
    static size_t scratch_size(const lk_job *job)                                                  \
    {                                                                                              \
        return numbers_scratch(job, (is).spare);                                                   \
    }

#define NUMBERS_MEMBERS(options, prepare_)                                                         \
    .options_size = sizeof(options), .parts = 1, .prepare = (prepare_), .scratch = scratch_size,   \
    .rows = rows

#endif
