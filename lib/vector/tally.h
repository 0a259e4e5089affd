/* SPDX-License-Identifier: MIT
 *
 * Sums over the elements of a row. Their order, and so their last bit, is the same on every ISA: it
 * is made of STRIDE sums, as many as the longest vectors have lanes. Element i goes to sum i modulo
 * STRIDE; in the end the second half of the sums is added to the first, and so on. What has shorter
 * vectors keeps a stride in PARTS of them.
 *
 * A loop that begins at a multiple of STRIDE adds one vector after the other, up to the end of a
 * row, which may be anywhere: what is not there is 0.
 */
#ifndef LK_TALLY_H
#define LK_TALLY_H

#include "vector/wide.h"

/* The part that is next comes first. With many parts it is cheaper to remember which that is. */
enum { TURNING = PARTS <= 4 };

typedef struct tally {
    vec part[PARTS];
    int added; /* vectors, modulo PARTS */
} tally;

/* The part that the next vector belongs to, and it becomes x. */
LK_INLINE vec tally_next(const tally *t)
{
    return t->part[TURNING ? 0 : t->added];
}

LK_INLINE void tally_put(tally *t, vec x)
{
    if (TURNING) {
        PARTS_UNROLLED
        for (int i = 0; i + 1 < PARTS; i++)
            t->part[i] = t->part[i + 1];
        t->part[PARTS - 1] = x;
    } else {
        t->part[t->added] = x;
    }
    t->added = (t->added + 1) & (PARTS - 1);
}

LK_INLINE void tally_add(tally *t, vec x)
{
    tally_put(t, tally_next(t) + x);
}

/* All vectors of the last stride: those that were not added are 0. */
LK_INLINE tally tally_whole(tally t)
{
    while (TURNING && t.added != 0)
        tally_put(&t, tally_next(&t));
    t.added = 0;
    return t;
}

/* Two tallies as one. */
PARTS_INLINE tally tally_both(tally a, tally b)
{
    a = tally_whole(a);
    b = tally_whole(b);
    PARTS_UNROLLED
    for (int i = 0; i < PARTS; i++)
        a.part[i] += b.part[i];
    return a;
}

PARTS_INLINE tally tally_four(const tally t[4])
{
    return tally_both(tally_both(t[0], t[1]), tally_both(t[2], t[3]));
}

PARTS_INLINE real tally_sum(tally t)
{
    t = tally_whole(t);
    for (int half = PARTS / 2; half > 0; half /= 2) {
        PARTS_UNROLLED
        for (int i = 0; i < half; i++)
            t.part[i] += t.part[i + half];
    }
    vec x = t.part[0];
    for (int half = LANES / 2; half > 0; half /= 2)
        x += v_upper(x, half);
    return x[0];
}

/* The same sum of the sums as doubles, which is exact for floats of similar magnitude. */
PARTS_INLINE double tally_sum_wide(tally t)
{
#if defined(LK_ELEMENT_F64)
    return tally_sum(t);
#elif LK_VECTOR_BYTES == 64
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)t.part[0]));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)t.part[0], 1));
    const __m512d all = low + high;
    const __m256d both = _mm512_castpd512_pd256(all) + _mm512_extractf64x4_pd(all, 1);
    return (both[0] + both[2]) + (both[1] + both[3]);
#elif LK_VECTOR_BYTES == 32
    t = tally_whole(t);
    const __m256 a = (__m256)t.part[0], b = (__m256)t.part[1];
    const __m256d low =
        _mm256_cvtps_pd(_mm256_castps256_ps128(a)) + _mm256_cvtps_pd(_mm256_castps256_ps128(b));
    const __m256d high =
        _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)) + _mm256_cvtps_pd(_mm256_extractf128_ps(b, 1));
    const __m256d both = low + high;
    return (both[0] + both[2]) + (both[1] + both[3]);
#else
    double x[STRIDE];
    t = tally_whole(t);
    PARTS_UNROLLED
    for (int i = 0; i < STRIDE; i++)
        x[i] = (double)t.part[i / LANES][i % LANES];
    for (int half = STRIDE / 2; half > 0; half /= 2) {
        PARTS_UNROLLED
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    }
    return x[0];
#endif
}

/* `add(k, n)` for the vectors of `count` elements, from a multiple of STRIDE on: n of a vector's
 * lanes count. Whole strides are apart, where nothing is masked, and a tally's next part is known
 * to the compiler. */
#define TALLY_EACH(count, add)                                                                     \
    do {                                                                                           \
        int64_t at_ = 0;                                                                           \
        for (; at_ + STRIDE <= (count); at_ += STRIDE) {                                           \
            PARTS_UNROLLED                                                                         \
            for (int part_ = 0; part_ < PARTS; part_++)                                            \
                add(at_ + part_ * LANES, LANES);                                                   \
        }                                                                                          \
        for (; at_ < (count); at_ += LANES)                                                        \
            add(at_, LK_TAIL(at_, count));                                                         \
    } while (0)

/* The lanes that count. */
LK_INLINE mask m_tail(int64_t n)
{
    return n == LANES ? m_set(-1) : m_first(n);
}

/* A tally of doubles, as many, that are added up from the first to the last. */
typedef struct wide_tally {
    wide_half half[STRIDE_HALVES];
    int added;
} wide_tally;

LK_INLINE void wide_add(wide_tally *t, wide_parts x)
{
    enum { LAST = STRIDE_HALVES - WIDE_PARTS };
    const int from = TURNING ? 0 : t->added * WIDE_PARTS, to = TURNING ? (int)LAST : from;
    UNROLLED
    for (int i = 0; i < WIDE_PARTS; i++)
        x.half[i] += t->half[from + i];
    if (TURNING) {
        PARTS_UNROLLED
        for (int i = 0; i < LAST; i++)
            t->half[i] = t->half[i + WIDE_PARTS];
    }
    UNROLLED
    for (int i = 0; i < WIDE_PARTS; i++)
        t->half[to + i] = x.half[i];
    t->added = (t->added + 1) & (PARTS - 1);
}

PARTS_INLINE double wide_sum(wide_tally t)
{
    double sum = 0;
    while (TURNING && t.added != 0)
        wide_add(&t, (wide_parts){0});
    PARTS_UNROLLED
    for (int i = 0; i < STRIDE_HALVES; i++)
        for (int k = 0; k < HALF_LANES; k++)
            sum += t.half[i][k];
    return sum;
}

#endif
