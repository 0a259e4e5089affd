/* SPDX-License-Identifier: MIT
 *
 * Rows of a student's class scores against what a teacher says of the same classes: options, which
 * rows count, and the student's side of a row. The arithmetic of scores is rows/class_row.h's.
 */
#ifndef LK_TEACHER_H
#define LK_TEACHER_H

#include "rows/class_row.h"
#include "vector/vmath.h"

/* The first member of such a loss's option struct. */
typedef struct teacher_options {
    lk_reduce reduce;
    double temperature;
    bool scale_by_t2;
} teacher_options;

#define TEACHER_FIELDS(st)                                                                         \
    {.name = "temperature",                                                                        \
     .type = LK_REAL,                                                                              \
     .flags = LK_RANGED | LK_OPEN,                                                                 \
     .max = (double)INFINITY,                                                                      \
     .offset = offsetof(st, common.temperature),                                                   \
     .fallback = "1",                                                                              \
     .help = "divides the scores of both sides before softmax"},                                   \
    {                                                                                              \
        .name = "scale_by_t2", .type = LK_FLAG, .offset = offsetof(st, common.scale_by_t2),        \
        .fallback = "true",                                                                        \
        .help = "multiply by the square of the temperature, so that gradients keep their size"     \
    }

/* 1/temperature, as a number that the computing type has. */
LK_STATIC double teacher_scale(const teacher_options *o)
{
    return class_clamp(1 / o->temperature);
}

/* What temperature multiplies a row's value with. */
LK_STATIC double teacher_factor(const teacher_options *o)
{
    return o->scale_by_t2 ? o->temperature * o->temperature : 1;
}

/* A row of scores in reals, at their temperature: top, sum and log of the sum. */
LK_STATIC class_norm teacher_normalise(const real *y, int64_t classes, real scale)
{
    class_norm r = {.top = -(real)INFINITY};
    real z[CHUNK];
    for (int64_t k = 0; k < classes; k += CHUNK) {
        const int64_t n = classes - k < CHUNK ? classes - k : CHUNK;
        for (int64_t i = 0; i < n; i += LANES)
            v_write(z + i,
                    v_select(m_first(n - i), v_read_tail(y + k + i, LK_TAIL(i, n), 0) * scale,
                             v_set(-(real)INFINITY)));
        const real top = class_max(z, class_padded(n));
        if (top > r.top) {
            if (r.sum > 0)
                r.sum *= exp((double)r.top - (double)top);
            r.top = top;
        }
        r.sum += (double)class_sum_exp(z, class_padded(n), isinf(r.top) && r.top < 0 ? 0 : r.top);
    }
    if (!(r.sum > 0))
        r.sum = (double)NAN;
    r.log_sum = log(r.sum);
    return r;
}

LK_STATIC void teacher_bad(lk_block *block, lk_status status, int input, int64_t index)
{
    if (block->bad == LK_OK || input < block->bad_input ||
        (input == block->bad_input && index < block->bad_index)) {
        block->bad = status;
        block->bad_input = input;
        block->bad_index = index;
    }
}

#endif
