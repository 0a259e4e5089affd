/* SPDX-License-Identifier: MIT
 *
 * Distillation: rows of a student's class scores against a teacher's scores or probabilities of the
 * same classes. Shared here: the options, and the softmax at a temperature. The arithmetic of
 * scores is rows/class_row.h's.
 */
#ifndef LK_TEACHER_H
#define LK_TEACHER_H

#include "rows/class_row.h"
#include "vector/tally.h"
#include "vector/vmath.h"

/* How both sides are softened: a member of such a loss's option struct. */
typedef struct teacher_options {
    double temperature;
    bool scale_by_t2;
} teacher_options;

#define TEACHER_FIELDS(st)                                                                         \
    {.name = "temperature",                                                                        \
     .type = LK_REAL,                                                                              \
     .flags = LK_RANGED | LK_OPEN,                                                                 \
     .max = (double)INFINITY,                                                                      \
     .offset = offsetof(st, teacher.temperature),                                                  \
     .fallback = "1",                                                                              \
     .help = "divides the scores of both sides before softmax"},                                   \
    {                                                                                              \
        .name = "scale_by_t2", .type = LK_FLAG, .offset = offsetof(st, teacher.scale_by_t2),       \
        .fallback = "true",                                                                        \
        .help = "multiply by the square of the temperature, so that gradients keep their size"     \
    }

/* 1/temperature, clamped to the range of the computing type. */
LK_STATIC double teacher_scale(const teacher_options *o)
{
    return class_clamp(1 / o->temperature);
}

/* The factor by which the temperature multiplies a row's value. */
LK_STATIC double teacher_factor(const teacher_options *o)
{
    return o->scale_by_t2 ? o->temperature * o->temperature : 1;
}

/* The softmax of a row at its temperature. Classes at the maximum are counted separately from the
 * sum over the others, so that in a peaked row the mass of the others, and the logarithm of the
 * whole sum, keep full precision. */
typedef struct teacher_norm {
    real top;
    double others; /* sum of e^(z - top) over the classes below the maximum */
    double sum;    /* with the classes at the maximum; NaN if the row has no softmax */
    double log_sum;
} teacher_norm;

/* Each variant has its own copy, under its own names; defined in rows/teacher.c. */
#define teacher_exponentials  LK_PASTE(LK_VARIANT, teacher_exponentials)
#define teacher_normalise     LK_PASTE(LK_VARIANT, teacher_normalise)
#define teacher_normalise_few LK_PASTE(LK_VARIANT, teacher_normalise_few)

/* e^(z - top) of the scaled scores of a row y, of elements or of reals, in whole strides. Returns
 * their sum, NaN if the row has no softmax. */
LK_DRIVER double teacher_exponentials(const void *y, bool elems, int64_t classes, real scale,
                                      real *e);

/* The softmax of such a row. */
LK_DRIVER teacher_norm teacher_normalise(const void *y, bool elems, int64_t classes, real scale);

/* The same for at most LANES consecutive rows of at most TEACHER_FEW classes, one row a lane: of
 * more it saves nothing. */
enum { TEACHER_FEW = sizeof(elem) == 8 ? 112 : 128 };
LK_DRIVER void teacher_normalise_few(const void *y, bool elems, int64_t classes, int count,
                                     real scale, teacher_norm *to);

#endif
