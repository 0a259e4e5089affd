/* SPDX-License-Identifier: MIT
 *
 * Reals from lane to lane, and from vector to vector.
 */
#ifndef LK_TURN_H
#define LK_TURN_H

#include "vector/lanes.h"

#if LK_LANES == 16
#define LK_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define LK_ODD  1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LK_LOW  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define LK_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LK_LANES == 8
#define LK_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define LK_ODD  1, 3, 5, 7, 9, 11, 13, 15
#define LK_LOW  0, 8, 1, 9, 2, 10, 3, 11
#define LK_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif LK_LANES == 4
#define LK_EVEN 0, 2, 4, 6
#define LK_ODD  1, 3, 5, 7
#define LK_LOW  0, 4, 1, 5
#define LK_HIGH 2, 6, 3, 7
#elif LK_LANES == 2
#define LK_EVEN 0, 2
#define LK_ODD  1, 3
#define LK_LOW  0, 2
#define LK_HIGH 1, 3
#else /* one lane: nothing is turned */
#define LK_EVEN 0
#define LK_ODD  1
#define LK_LOW  0
#define LK_HIGH 1
#endif

/* The even elements of a, then those of b; the odd ones. */
LK_INLINE vec v_even(vec a, vec b)
{
    return __builtin_shufflevector(a, b, LK_EVEN);
}

LK_INLINE vec v_odd(vec a, vec b)
{
    return __builtin_shufflevector(a, b, LK_ODD);
}

/* An element of a and one of b in turn, from the lower halves; from the upper ones. */
LK_INLINE vec v_low(vec a, vec b)
{
    return __builtin_shufflevector(a, b, LK_LOW);
}

LK_INLINE vec v_high(vec a, vec b)
{
    return __builtin_shufflevector(a, b, LK_HIGH);
}

/* Lane i is lane at[i] of x. */
LK_INLINE vec v_permute(vec x, mask at)
{
#if LK_VECTOR_BYTES == 64
    return (vec)X86(permutexvar)((__m512i)at, (native)x);
#elif LK_VECTOR_BYTES == 32 && LK_LANES == 8
    return (vec)_mm256_permutevar8x32_ps((__m256)x, (__m256i)at);
#else
    vec to = x;
    for (int i = 0; i < LANES; i++)
        to[i] = x[at[i]];
    return to;
#endif
}

/* Exchange vectors and lanes of LANES vectors. */
#if defined(X86)

/* In steps that take one instruction each, where those below take two with AVX2: reals of two
 * vectors in turn, within each 128 bits; likewise pairs of floats; then 128 bits as a whole. */
#if LK_VECTOR_BYTES == 64
#define LK_PAIRS(half, a, b) (vec) _mm512_unpack##half##_pd((__m512d)(a), (__m512d)(b))
#define LK_BLOCKS(odd, a, b)                                                                       \
    (vec) _mm512_shuffle_f64x2((__m512d)(a), (__m512d)(b), odd ? 0xdd : 0x88)
#else
#define LK_PAIRS(half, a, b) (vec) _mm256_unpack##half##_pd((__m256d)(a), (__m256d)(b))
#define LK_BLOCKS(odd, a, b)                                                                       \
    (vec) _mm256_permute2f128_pd((__m256d)(a), (__m256d)(b), odd ? 0x31 : 0x20)
#endif

LK_INLINE void v_turn(vec *v)
{
    enum { BLOCK = 16 / (int)sizeof(real), BLOCKS = LANES / BLOCK };
    vec a[LANES], b[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i += 2) {
        a[i] = (vec)X86(unpacklo)((native)v[i], (native)v[i + 1]);
        a[i + 1] = (vec)X86(unpackhi)((native)v[i], (native)v[i + 1]);
    }
    UNROLLED
    for (int i = 0; BLOCK == 4 && i < LANES; i += 4) {
        b[i] = LK_PAIRS(lo, a[i], a[i + 2]);
        b[i + 1] = LK_PAIRS(hi, a[i], a[i + 2]);
        b[i + 2] = LK_PAIRS(lo, a[i + 1], a[i + 3]);
        b[i + 3] = LK_PAIRS(hi, a[i + 1], a[i + 3]);
    }
    const vec *x = BLOCK == 4 ? b : a;
    UNROLLED
    for (int i = 0; i < BLOCK; i++) {
        const vec even = LK_BLOCKS(0, x[i], x[i + BLOCK]), odd = LK_BLOCKS(1, x[i], x[i + BLOCK]);
        if (BLOCKS == 2) {
            v[i] = even;
            v[i + BLOCK] = odd;
            continue;
        }
        const vec even2 = LK_BLOCKS(0, x[i + 2 * BLOCK], x[i + 3 * BLOCK]);
        const vec odd2 = LK_BLOCKS(1, x[i + 2 * BLOCK], x[i + 3 * BLOCK]);
        v[i] = LK_BLOCKS(0, even, even2);
        v[i + BLOCK] = LK_BLOCKS(0, odd, odd2);
        v[i + 2 * BLOCK] = LK_BLOCKS(1, even, even2);
        v[i + 3 * BLOCK] = LK_BLOCKS(1, odd, odd2);
    }
}

#else

/* Each round moves one bit of the index of a vector to that of a lane. */
LK_INLINE void v_turn(vec *v)
{
    UNROLLED
    for (int bit = 1; bit < LANES; bit *= 2) {
        vec next[LANES];
        UNROLLED
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = v_low(v[i], v[i + LANES / 2]);
            next[2 * i + 1] = v_high(v[i], v[i + LANES / 2]);
        }
        UNROLLED
        for (int i = 0; i < LANES; i++)
            v[i] = next[i];
    }
}

#endif

#endif
