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

/* The softmax of a row at its temperature. The classes at the top are counted and the others summed
 * by themselves: so what a class with nearly all of the mass leaves to them keeps its digits, as
 * the logarithm of the sum does, which is then little more than that. */
typedef struct teacher_norm {
    real top;
    double others; /* sum over the classes below it of e^(z - top) */
    double sum;    /* with those at the top; NaN if the row has no softmax */
    double log_sum;
} teacher_norm;

LK_INLINE vec teacher_read(const void *y, const bool elems, int64_t k, int64_t n)
{
    return elems ? v_load_tail((const elem *)y + k, n, 0) : v_read_tail((const real *)y + k, n, 0);
}

LK_INLINE teacher_norm teacher_normalise(const void *y, const bool elems, int64_t classes,
                                         real scale)
{
    const vec lowest = v_set(-(real)INFINITY), one = v_set(1);
    teacher_norm r = {.top = -(real)INFINITY};
    double tops = 0;
    real z[CHUNK];
    for (int64_t k = 0; k < classes; k += CHUNK) {
        const int64_t n = classes - k < CHUNK ? classes - k : CHUNK;
        vec most = lowest, above[2] = {{0}, {0}}, below[2] = {{0}, {0}};
        for (int64_t i = 0; i < n; i += LANES) {
            const vec x = v_select(m_first(n - i),
                                   teacher_read(y, elems, k + i, LK_TAIL(i, n)) * scale, lowest);
            v_write(z + i, x);
            most = v_max(x, most);
        }
        const real top = v_top(most);
        if (top > r.top) {
            const double fade = exp((double)r.top - (double)top);
            if (tops > 0 || r.others > 0)
                r.others = (r.others + tops) * fade;
            tops = 0;
            r.top = top;
        }
        const vec shift = v_set(isinf(r.top) && r.top < 0 ? 0 : r.top);
        for (int64_t i = 0, turn = 0; i < n; i += LANES, turn ^= 1) {
            const vec e = v_exp_nonpos(v_read(z + i) - shift);
            above[turn] += v_where(e == one, one);
            below[turn] += v_where(e != one, e);
        }
        tops += (double)v_sum(above[0] + above[1]);
        r.others += (double)v_sum(below[0] + below[1]);
    }
    r.sum = tops + r.others;
    if (!(r.sum > 0))
        r.sum = (double)NAN;
    r.log_sum = isnan(r.sum) ? r.sum : log1p((tops - 1) + r.others);
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
