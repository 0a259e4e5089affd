/* SPDX-License-Identifier: MIT
 *
 * Rows beside a teacher's: see rows/teacher.h.
 */
#include "rows/teacher.h"

#include "vector/cross.h"

LK_INLINE vec read_some(const void *y, const bool elems, int64_t k, int64_t n)
{
    return elems ? v_load_tail((const elem *)y + k, n, 0) : v_read_tail((const real *)y + k, n, 0);
}

/* The scaled scores of a chunk, in whole strides, padded with -inf. Returns the maximum. */
LK_INLINE real scores_of(const void *y, const bool elems, int64_t k, int64_t n, real scale, real *z)
{
    const vec lowest = v_set(-(real)INFINITY);
    vec most[4] = {lowest, lowest, lowest, lowest};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            const vec x = read_some(y, elems, k + i + j * LANES, LANES) * scale;
            if (elems)
                v_fetch((const elem *)y + k + i + j * LANES);
            v_write(z + i + j * LANES, x);
            most[j] = v_max(x, most[j]);
        }
    for (; i < n; i += LANES) {
        const vec x =
            v_select(m_first(n - i), read_some(y, elems, k + i, LK_TAIL(i, n)) * scale, lowest);
        v_write(z + i, x);
        most[0] = v_max(x, most[0]);
    }
    for (const int64_t padded = padded_lanes(n); PARTS > 1 && i < padded; i += LANES)
        v_write(z + i, lowest);
    return v_top(v_max(v_max(most[0], most[1]), v_max(most[2], most[3])));
}

/* Reals may be elements: one copy does for both. */
static const bool same = sizeof(elem) == sizeof(real);

static real scores(const void *y, bool elems, int64_t k, int64_t n, real scale, real *z)
{
    return elems || same ? scores_of(y, true, k, n, scale, z) : scores_of(y, false, k, n, scale, z);
}

double teacher_exponentials(const void *y, bool elems, int64_t classes, real scale, real *e)
{
    real top = -(real)INFINITY;
    double sum = 0;
    for (int64_t k = 0; k < classes; k += CHUNK) {
        const int64_t n = classes - k < CHUNK ? classes - k : CHUNK;
        const real most = scores(y, elems, k, n, scale, e + k);
        top = most > top ? most : top;
    }
    for (int64_t k = 0; k < classes; k += CHUNK) {
        const int64_t n = classes - k < CHUNK ? classes - k : CHUNK;
        sum += (double)class_exps(e + k, padded_lanes(n), top);
    }
    return sum > 0 ? sum : (double)NAN;
}

/* Add up e^(z - shift) where it is 1, which in a long row is rare, and where it is less. */
LK_INLINE void add(const real *z, int64_t n, real shift, double *tops, double *others)
{
    const vec from = v_set(shift), one = v_set(1);
    vec above = {0};
    tally below[4] = {{.added = 0}, {.added = 0}, {.added = 0}, {.added = 0}};
    int64_t i = 0;
    for (; i + 4 * STRIDE <= n; i += 4 * STRIDE) {
        PARTS_UNROLLED
        for (int part = 0; part < PARTS; part++) {
            vec e[4];
            mask top[4];
            for (int j = 0; j < 4; j++) {
                e[j] = v_exp_nonpos(v_read(z + i + j * STRIDE + part * LANES) - from);
                top[j] = e[j] == one;
            }
            if (__builtin_expect(!m_none((top[0] | top[1]) | (top[2] | top[3])), 0))
                for (int j = 0; j < 4; j++) {
                    above += v_where(top[j], one);
                    e[j] = v_where(~top[j], e[j]);
                }
            for (int j = 0; j < 4; j++)
                tally_add(&below[j], e[j]);
        }
    }
    for (; i < n; i += LANES) {
        const vec e = v_exp_nonpos(v_read(z + i) - from);
        const mask top = e == one;
        above += v_where(top, one);
        tally_add(&below[0], v_where(~top, e));
    }
    *tops += v_count(above);
    *others += (double)tally_sum(tally_four(below));
}

teacher_norm teacher_normalise(const void *y, bool elems, int64_t classes, real scale)
{
    teacher_norm r = {.top = -(real)INFINITY};
    double tops = 0;
    real z[CHUNK];
    for (int64_t k = 0; k < classes; k += CHUNK) {
        const int64_t n = classes - k < CHUNK ? classes - k : CHUNK;
        const real top = scores(y, elems, k, n, scale, z);
        if (top > r.top) {
            if (tops > 0 || r.others > 0)
                r.others = (r.others + tops) * lk_exp((double)r.top - (double)top);
            tops = 0;
            r.top = top;
        }
        add(z, n, isinf(r.top) && r.top < 0 ? 0 : r.top, &tops, &r.others);
    }
    r.sum = tops + r.others;
    if (!(r.sum > 0))
        r.sum = (double)NAN;
    /* From 2 on the logarithm keeps what the sum has, and costs less. */
    r.log_sum = r.sum < 2 ? lk_log1p((tops - 1) + r.others) : lk_log(r.sum);
    return r;
}

void teacher_normalise_few(const void *y, bool elems, int64_t classes, int count, real scale,
                           teacher_norm *to)
{
    enum { PART = 8 /* of a sum */, ROOM = (TEACHER_FEW + LANES - 1) / LANES * LANES * LANES };
    const size_t size = (size_t)classes * (elems ? sizeof(elem) : sizeof(real));
    const cross_rows lie = cross_make(classes, 1);
    const vec by = v_set(scale), one = v_set(1), lowest = v_set(-(real)INFINITY);
    real z[ROOM], room[TEACHER_FEW * LANES];
    if (count < LANES) { /* beside zeros */
        memset(room, 0, size * LANES);
        memcpy(room, y, size * (size_t)count);
    }
    const void *rows = count < LANES ? room : y;
    if (elems || same)
        cross_load(&lie, rows, true, z);
    else
        cross_load(&lie, rows, false, z);
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
