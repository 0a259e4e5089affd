/* SPDX-License-Identifier: MIT
 *
 * Element-wise losses of two tensors of the same shape: a loss file gives its option struct, the
 * value of r = a - b and its slope, and gets inputs, checks and kernels from here:
 *
 *     typedef struct options { lk_reduce reduce; double delta; } options;
 *     LK_INLINE vec value(const options *o, vec r) { ... }
 *     LK_INLINE vec slope(const options *o, vec r) { ... }
 *     ELEMENTWISE_KERNELS(options, value, slope)
 *     LK_LOSS(name) = {.is = {..., .inputs = elementwise_inputs, .outputs = elementwise_outputs},
 *                      ELEMENTWISE_MEMBERS(options)};
 *
 * A row is one element.
 */
#ifndef LK_ELEMENTWISE_H
#define LK_ELEMENTWISE_H

#include "loss.h"
#include "vec.h"
#include "vmath.h"

enum { A, B, SAMPLE_WEIGHT, MASK, GRAD_OUTPUT };

static const lk_input elementwise_inputs[] = {
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
                       .range = ">=0",
                       .help = "weight of each element; default ones"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "elements with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output elementwise_outputs[] = {{0}};

LK_DRIVER lk_status elementwise_prepare(lk_job *job, lk_error *error)
{
    const lk_tensor *weight = &job->in[SAMPLE_WEIGHT], *m = &job->in[MASK];
    double total = 0;
    (void)error;
    job->counted = job->rows;
    job->denominator[0] = (double)job->rows;
    if (!weight->data && !m->data)
        return LK_OK;
    job->counted = 0;
    for (int64_t i = 0; i < job->rows; i++) {
        real w = 1;
        if (m->data && lk_int(m, i) == 0)
            continue;
        if (weight->data)
            memcpy(&w, (const char *)weight->data + i * (int64_t)sizeof w, sizeof w);
        job->counted++;
        total += (double)w;
    }
    job->denominator[0] = total;
    return LK_OK;
}

/* The counted lanes among n elements from i on. */
LK_INLINE mask elementwise_mask(const lk_job *job, int64_t i, int64_t n)
{
    mask m = m_first(n);
    if (job->in[MASK].data)
        for (int k = 0; k < LANES; k++)
            m[k] = k < n && lk_int(&job->in[MASK], i + k) != 0 ? -1 : 0;
    return m;
}

/* The first NaN or +inf of an input among the counted ones of a block. */
LK_DRIVER void elementwise_refuse(const lk_job *job, int64_t first, int64_t count, lk_block *block)
{
    for (int input = A; input <= B; input++) {
        const elem *x = job->in[input].data;
        for (int64_t i = first; i < first + count && block->bad == LK_OK; i++) {
            real value = r_load(x + i);
            bool counts = !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
            if (counts && (isnan(value) || (isinf(value) && value > 0))) {
                block->bad = LK_NONFINITE_INPUT;
                block->bad_input = input;
                block->bad_index = i;
            }
        }
    }
}

/* Losses are summed in double, lane by lane; the lanes are added up after so many elements. */
enum { ELEMENTWISE_CHUNK = 512 };

#define ELEMENTWISE_KERNELS(options, value, slope)                                                 \
    static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,             \
                     void *scratch)                                                                \
    {                                                                                              \
        const options *o = job->options;                                                           \
        const bool per_row = o->reduce.reduction == LK_NONE;                                       \
        const elem *a = job->in[A].data, *b = job->in[B].data;                                     \
        const real *weight = job->in[SAMPLE_WEIGHT].data, *up = job->in[GRAD_OUTPUT].data;         \
        elem *grad_a = job->grad[A].data, *grad_b = job->grad[B].data;                             \
        real upstream = 1;                                                                         \
        (void)scratch;                                                                             \
        if (o->reduce.nonfinite == LK_REFUSE_NONFINITE)                                            \
            elementwise_refuse(job, first, count, block);                                          \
        if (up && !per_row)                                                                        \
            memcpy(&upstream, up, sizeof upstream);                                                \
        const vec rho = v_set((real)(job->scale[0] * (double)upstream));                           \
        for (int64_t c = first; c < first + count; c += ELEMENTWISE_CHUNK) {                       \
            const int64_t left = first + count - c;                                                \
            const int64_t end = c + (left < ELEMENTWISE_CHUNK ? left : ELEMENTWISE_CHUNK);         \
            wide total = {0};                                                                      \
            for (int64_t i = c; i < end; i += LANES) {                                             \
                const int64_t n = LK_TAIL(i, end);                                                 \
                const mask counts = elementwise_mask(job, i, n);                                   \
                const vec r = v_load_tail(a + i, n, 0) - v_load_tail(b + i, n, 0);                 \
                const vec w = weight ? v_read_tail(weight + i, n, 0) : v_set(1);                   \
                const mask used = counts & (w != (vec){0});                                        \
                const vec loss = v_where(used, w * value(o, r));                                   \
                total += v_wide(loss);                                                             \
                if (per_row && job->value.data)                                                    \
                    elementwise_put(job, i, n, loss);                                              \
                if (!grad_a && !grad_b)                                                            \
                    continue;                                                                      \
                vec g = rho * w;                                                                   \
                if (up && per_row)                                                                 \
                    g *= v_read_tail(up + i, n, 0);                                                \
                g = v_where(used, g * slope(o, r));                                                \
                if (grad_a)                                                                        \
                    v_store_tail(grad_a + i, n, g);                                                \
                if (grad_b)                                                                        \
                    v_store_tail(grad_b + i, n, -g);                                               \
            }                                                                                      \
            block->sum[0] += wide_sum(total);                                                      \
        }                                                                                          \
    }

LK_INLINE void elementwise_put(const lk_job *job, int64_t i, int64_t n, vec loss)
{
    real *to = job->value.data;
    if (n == LANES)
        v_write(to + i, loss);
    else
        v_write_n(to + i, n, loss);
}

#define ELEMENTWISE_MEMBERS(options)                                                               \
    .options_size = sizeof(options), .parts = 1, .prepare = elementwise_prepare, .rows = rows

#endif
