/* SPDX-License-Identifier: MIT
 *
 * Distillation: rows of a student's class scores against a teacher's scores or probabilities of the
 * same classes. Shared here: the options, and the softmax at a temperature. The arithmetic of
 * scores is rows/class_row.h's.
 */
#ifndef LK_TEACHER_H
#define LK_TEACHER_H

#include "rows/few.h"
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

enum { FORWARD_KL, REVERSE_KL, JSD, TVD, SKEW_FORWARD_KL, MSE_LOGITS }; /* divergence */

/* The divergence of two rows of scores of as many classes, which are multiplied by `scale`. */
typedef struct divergence_plan {
    int divergence;
    double beta, scale;
    int64_t classes;
} divergence_plan;

/* What distillation offers to losses with scores of their own making (rows/head.h): its
 * lk_loss.driver. */
enum { DIVERGENCE_NOTE = 256 };
typedef struct divergence_rows {
    /* The divergence of the student's scores x from the teacher's y. What the row leaves for its
     * slopes is in the note, of DIVERGENCE_NOTE bytes. */
    double (*value)(const divergence_plan *plan, const elem *x, const real *y, void *note);
    /* Some of the scores x become `weight` times the derivatives with respect to scale * x. */
    void (*slopes)(const void *note, double weight, int64_t count, elem *x, const real *y);
} divergence_rows;

/* The softmax of a row at its temperature. Classes at the maximum are counted separately from the
 * sum over the others, so that in a peaked row the mass of the others, and the logarithm of the
 * whole sum, keep full precision. */
typedef struct teacher_norm {
    real top;
    double others; /* sum of e^(z - top) over the classes below the maximum */
    double sum;    /* with the classes at the maximum; NaN if the row has no softmax */
    double log_sum;
} teacher_norm;

LK_INLINE vec teacher_read(const void *y, const bool elems, int64_t k, int64_t n)
{
    return elems ? v_load_tail((const elem *)y + k, n, 0) : v_read_tail((const real *)y + k, n, 0);
}

/* The scaled scores of a chunk, in whole vectors, padded with -inf. Returns the maximum. */
LK_INLINE real teacher_scores(const void *y, const bool elems, int64_t k, int64_t n, real scale,
                              real *z)
{
    const vec lowest = v_set(-(real)INFINITY);
    vec most[4] = {lowest, lowest, lowest, lowest};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            const vec x = teacher_read(y, elems, k + i + j * LANES, LANES) * scale;
            v_write(z + i + j * LANES, x);
            most[j] = v_max(x, most[j]);
        }
    for (; i < n; i += LANES) {
        const vec x =
            v_select(m_first(n - i), teacher_read(y, elems, k + i, LK_TAIL(i, n)) * scale, lowest);
        v_write(z + i, x);
        most[0] = v_max(x, most[0]);
    }
    return v_top(v_max(v_max(most[0], most[1]), v_max(most[2], most[3])));
}

/* Add up e^(z - shift) where it is 1, which in a long row is rare, and where it is less. */
LK_INLINE void teacher_sum(const real *z, int64_t n, real shift, double *tops, double *others)
{
    const vec from = v_set(shift), one = v_set(1);
    vec above = {0}, below[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        vec e[4];
        mask top[4];
        for (int j = 0; j < 4; j++) {
            e[j] = v_exp_nonpos(v_read(z + i + j * LANES) - from);
            top[j] = e[j] == one;
        }
        if (__builtin_expect(!m_none((top[0] | top[1]) | (top[2] | top[3])), 0))
            for (int j = 0; j < 4; j++) {
                above += v_where(top[j], one);
                e[j] = v_where(~top[j], e[j]);
            }
        for (int j = 0; j < 4; j++)
            below[j] += e[j];
    }
    for (; i < n; i += LANES) {
        const vec e = v_exp_nonpos(v_read(z + i) - from);
        const mask top = e == one;
        above += v_where(top, one);
        below[0] += v_where(~top, e);
    }
    *tops += (double)v_sum(above);
    *others += (double)v_sum((below[0] + below[1]) + (below[2] + below[3]));
}

LK_INLINE teacher_norm teacher_normalise(const void *y, const bool elems, int64_t classes,
                                         real scale)
{
    teacher_norm r = {.top = -(real)INFINITY};
    double tops = 0;
    real z[CHUNK];
    for (int64_t k = 0; k < classes; k += CHUNK) {
        const int64_t n = classes - k < CHUNK ? classes - k : CHUNK;
        const real top = teacher_scores(y, elems, k, n, scale, z);
        if (top > r.top) {
            if (tops > 0 || r.others > 0)
                r.others = (r.others + tops) * lk_exp((double)r.top - (double)top);
            tops = 0;
            r.top = top;
        }
        teacher_sum(z, n, isinf(r.top) && r.top < 0 ? 0 : r.top, &tops, &r.others);
    }
    r.sum = tops + r.others;
    if (!(r.sum > 0))
        r.sum = (double)NAN;
    /* From 2 on the logarithm keeps what the sum has, and costs less. */
    r.log_sum = r.sum < 2 ? lk_log1p((tops - 1) + r.others) : lk_log(r.sum);
    return r;
}

/* The same for at most LANES consecutive rows of at most FEW classes, one row a lane. */
LK_INLINE void teacher_normalise_few(const void *y, const bool elems, int64_t classes, int count,
                                     real scale, teacher_norm *to)
{
    enum { PART = 8 /* of a sum */, ROOM = (FEW + LANES - 1) / LANES * LANES * LANES };
    const size_t size = (size_t)classes * (elems ? sizeof(elem) : sizeof(real));
    const cross_rows lie = cross_make(classes, 1);
    const vec by = v_set(scale), one = v_set(1), lowest = v_set(-(real)INFINITY);
    real z[ROOM], room[FEW * LANES];
    if (count < LANES) { /* beside zeros */
        memset(room, 0, size * LANES);
        memcpy(room, y, size * (size_t)count);
    }
    cross_load(&lie, count < LANES ? room : y, elems, z);
    vec top = lowest, tops = {0}, others = {0};
    for (int64_t k = 0; k < classes; k++) {
        const vec x = v_read(z + k * LANES) * by;
        v_write(z + k * LANES, x);
        top = v_max(x, top);
    }
    const vec shift = v_where(top != lowest, top);
    for (int64_t from = 0; from < classes; from += PART) {
        const int64_t end = classes - from < PART ? classes : from + PART;
        vec part = {0};
        for (int64_t k = from; k < end; k++) {
            const vec e = v_exp_nonpos(v_read(z + k * LANES) - shift);
            tops += v_where(e == one, one);
            part += v_where(e != one, e);
        }
        others += part;
    }
    const vec log_sum = v_log1p((tops - one) + others);
    for (int i = 0; i < count; i++) {
        const double sum = (double)tops[i] + (double)others[i];
        to[i] = (teacher_norm){.top = top[i],
                               .others = (double)others[i],
                               .sum = sum > 0 ? sum : (double)NAN,
                               .log_sum = sum > 0 ? (double)log_sum[i] : (double)NAN};
    }
}

#endif
