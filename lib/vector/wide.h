/* SPDX-License-Identifier: MIT
 *
 * Vectors of LANES doubles, for sums over the components of two vectors. These are accumulated in
 * double from the start, because the result of interest (1 - cosine, a difference) is small
 * compared with the terms.
 */
#ifndef LK_WIDE_H
#define LK_WIDE_H

#include "vector/vec.h"

#include <math.h>
#include <stdbool.h>

typedef int64_t wide_mask __attribute__((vector_size(LANES * sizeof(double))));

/* What a register holds of a wide vector: its half where reals are floats, since gcc keeps longer
 * vectors in memory between iterations of a loop. */
enum { WIDE_PARTS = LANES > 1 && sizeof(real) < sizeof(double) ? 2 : 1 };
typedef double wide_half __attribute__((vector_size(LANES / WIDE_PARTS * sizeof(double))));

typedef real half_reals __attribute__((vector_size(LANES / WIDE_PARTS * sizeof(real))));

/* As many reals, unaligned, as doubles. */
LK_INLINE wide_half w_read_half(const real *p)
{
#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64)
    return (wide_half)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64)
    return (wide_half)_mm256_cvtps_pd(_mm_loadu_ps(p));
#elif LK_VECTOR_BYTES == 16 && !defined(LK_ELEMENT_F64)
    return (wide_half)vcvt_f64_f32(vld1_f32(p));
#else
    half_reals x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, wide_half);
#endif
}

typedef int64_t half_mask __attribute__((vector_size(sizeof(wide_half))));
enum { HALF_LANES = LANES / WIDE_PARTS };

LK_INLINE wide_half half_set(double x)
{
    return x - (wide_half){0};
}

LK_INLINE wide_half half_select(half_mask m, wide_half yes, wide_half no)
{
    return (wide_half)LK_SELECT(m, (half_mask)yes, (half_mask)no);
}

LK_INLINE wide_half half_where(half_mask m, wide_half x)
{
    return (wide_half)(m & (half_mask)x);
}

LK_INLINE wide_half half_abs(wide_half x)
{
    return (wide_half)((half_mask)x & INT64_MAX);
}

LK_INLINE half_mask half_is_nan(wide_half x)
{
    return ~(half_abs(x) <= half_set((double)INFINITY));
}

/* The lanes 0..n-1. */
LK_INLINE half_mask half_first(int64_t n)
{
    half_mask at = {0};
    for (int i = 1; i < HALF_LANES; i++)
        at[i] = i;
    return at < n - (half_mask){0};
}

LK_INLINE wide_half half_read(const double *p)
{
    wide_half x;
    memcpy(&x, p, sizeof x);
    return x;
}

LK_INLINE void half_write(double *p, wide_half x)
{
    memcpy(p, &x, sizeof x);
}

LK_INLINE double half_sum(wide_half x)
{
    for (int half = HALF_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}

/* -1, 0 or 1; 0 for NaN. */
LK_INLINE wide_half half_sign(wide_half x)
{
    const wide_half zero = {0};
    half_mask above = x > zero, below = x < zero;
    return (wide_half)((above & (half_mask)half_set(1)) | (below & (half_mask)half_set(-1)));
}

/* x times the square of a root; the square itself may overflow where the product does not. */
LK_INLINE wide_half half_scaled(wide_half x, double root)
{
    return x * half_set(root) * half_set(root);
}

/* HALF_LANES of the reals of a vector, from lane i on, which is 0 or HALF_LANES, as doubles, and
 * back. */
LK_INLINE wide_half half_of(vec x, int i)
{
#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64)
    return (wide_half)_mm512_cvtps_pd(i == 0 ? _mm512_castps512_ps256((__m512)x)
                                             : _mm512_extractf32x8_ps((__m512)x, 1));
#elif LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64)
    return (wide_half)_mm256_cvtps_pd(i == 0 ? _mm256_castps256_ps128((__m256)x)
                                             : _mm256_extractf128_ps((__m256)x, 1));
#elif LK_VECTOR_BYTES == 16 && !defined(LK_ELEMENT_F64)
    return (wide_half)(i == 0 ? vcvt_f64_f32(vget_low_f32((float32x4_t)x))
                              : vcvt_high_f64_f32((float32x4_t)x));
#else
    real from[LANES];
    half_reals half;
    memcpy(from, &x, sizeof x);
    memcpy(&half, from + i, sizeof half);
    return __builtin_convertvector(half, wide_half);
#endif
}

LK_INLINE void half_put(real *to, wide_half x)
{
    const half_reals half = __builtin_convertvector(x, half_reals);
    memcpy(to, &half, sizeof half);
}

/* Rounded to a real. */
LK_INLINE wide_half half_rounded(wide_half x)
{
#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64) /* gcc 12 makes halves of it */
    return (wide_half)_mm512_cvtps_pd(_mm512_cvtpd_ps((__m512d)x));
#else
    return __builtin_convertvector(__builtin_convertvector(x, half_reals), wide_half);
#endif
}

/* All lanes of a vector from its halves, rounded to reals. In registers: two halves that were
 * stored cannot be loaded at once before they are in cache. */
LK_INLINE vec half_join(const wide_half x[WIDE_PARTS])
{
#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64)
    return (vec)_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)x[0])),
                                   _mm512_cvtpd_ps((__m512d)x[1]), 1);
#elif LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64)
    return (vec)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)x[1]), _mm256_cvtpd_ps((__m256d)x[0]));
#elif LK_VECTOR_BYTES == 16 && !defined(LK_ELEMENT_F64)
    return (vec)vcvt_high_f32_f64(vcvt_f32_f64((float64x2_t)x[0]), (float64x2_t)x[1]);
#elif defined(LK_ELEMENT_F64)
    return (vec)x[0];
#else
    real to[LANES];
    for (int i = 0; i < WIDE_PARTS; i++)
        half_put(to + i * HALF_LANES, x[i]);
    return v_read(to);
#endif
}

/* HALF_LANES of a mask, from lane i on, and all lanes of one from its halves. */
typedef ilane half_ilanes __attribute__((vector_size(LANES / WIDE_PARTS * sizeof(ilane))));

LK_INLINE half_mask half_mask_of(mask m, int i)
{
#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64)
    return (half_mask)_mm512_cvtepi32_epi64(i == 0 ? _mm512_castsi512_si256((__m512i)m)
                                                   : _mm512_extracti32x8_epi32((__m512i)m, 1));
#elif LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64)
    return (half_mask)_mm256_cvtepi32_epi64(i == 0 ? _mm256_castsi256_si128((__m256i)m)
                                                   : _mm256_extracti128_si256((__m256i)m, 1));
#elif LK_VECTOR_BYTES == 16 && !defined(LK_ELEMENT_F64)
    return (half_mask)(i == 0 ? vmovl_s32(vget_low_s32((int32x4_t)m))
                              : vmovl_high_s32((int32x4_t)m));
#else
    ilane from[LANES];
    half_ilanes half;
    memcpy(from, &m, sizeof m);
    memcpy(&half, from + i, sizeof half);
    return __builtin_convertvector(half, half_mask);
#endif
}

LK_INLINE mask half_mask_join(const half_mask m[WIDE_PARTS])
{
#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64)
    return (mask)_mm512_inserti32x8(_mm512_castsi256_si512(_mm512_cvtepi64_epi32((__m512i)m[0])),
                                    _mm512_cvtepi64_epi32((__m512i)m[1]), 1);
#elif LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64)
    const __m256 low = _mm256_shuffle_ps((__m256)m[0], (__m256)m[1], 0x88); /* of each integer */
    return (mask)_mm256_permute4x64_epi64((__m256i)low, 0xd8);
#elif LK_VECTOR_BYTES == 16 && !defined(LK_ELEMENT_F64)
    return (mask)vuzp1q_s32((int32x4_t)m[0], (int32x4_t)m[1]);
#else
    ilane to[LANES];
    mask whole;
    for (int i = 0; i < WIDE_PARTS; i++) {
        const half_ilanes half = __builtin_convertvector(m[i], half_ilanes);
        memcpy(to + i * HALF_LANES, &half, sizeof half);
    }
    memcpy(&whole, to, sizeof whole);
    return whole;
#endif
}

/* Is no lane infinite or NaN? */
LK_INLINE bool w_finite(wide_half x)
{
#if LK_VECTOR_BYTES == 64
    return _mm512_fpclass_pd_mask((__m512d)x, 0x99) == 0;
#else
    const half_mask finite = half_abs(x) < half_set((double)INFINITY);
#if LK_VECTOR_BYTES == 32
    return _mm256_movemask_pd((__m256d)finite) == 0xf;
#else
    int64_t all = -1;
    for (int k = 0; k < HALF_LANES; k++)
        all &= finite[k];
    return all;
#endif
#endif
}

LK_INLINE wide w_set(double x)
{
    return x - (wide){0};
}

LK_INLINE wide w_read(const double *p)
{
    wide x;
    memcpy(&x, p, sizeof x);
    return x;
}

LK_INLINE void w_write(double *p, wide x)
{
    memcpy(p, &x, sizeof x);
}

/* LANES elements as doubles, in registers, of which gcc would keep a `wide` in memory. */
typedef struct wide_parts {
    wide_half half[WIDE_PARTS];
} wide_parts;

LK_INLINE wide_parts w_parts(vec x)
{
    wide_parts to;
    UNROLLED
    for (int i = 0; i < WIDE_PARTS; i++)
        to.half[i] = half_of(x, i * HALF_LANES);
    return to;
}

/* n elements, 0 < n <= LANES; 0 in the lanes beyond. */
LK_INLINE wide_parts w_load_parts(const elem *p, int64_t n)
{
    wide_parts to;
    if (sizeof(elem) == sizeof(real) && n >= LANES) {
        for (int i = 0; i < WIDE_PARTS; i++)
            to.half[i] = w_read_half((const real *)(const void *)p + i * HALF_LANES);
        return to;
    }
    return w_parts(v_load_tail(p, n < LANES ? n : LANES, 0));
}

LK_INLINE void w_store_parts(elem *p, int64_t n, wide_parts x)
{
    v_store_tail(p, n, half_join(x.half));
}

/* The doubles of a stride of elements, and sums of them: as with a tally (vector/tally.h), their
 * order is the same on every ISA. There are as many sums as 64 bytes hold; where that is half of a
 * stride, its second half is first added to its first. */
enum { STRIDE_HALVES = STRIDE / HALF_LANES, SUM_HALVES = 64 / (int)sizeof(wide_half) };

typedef struct wide_stride {
    wide_half half[STRIDE_HALVES];
} wide_stride;

typedef struct wide_sums {
    wide_half half[SUM_HALVES];
} wide_sums;

/* The first n elements of a stride; 0 in the lanes beyond. */
PARTS_INLINE wide_stride w_load_stride(const elem *p, int64_t n)
{
    wide_stride to;
    PARTS_UNROLLED
    for (int i = 0; i < PARTS; i++) {
        const int64_t left = n - i * LANES;
        const wide_parts x = left > 0 ? w_load_parts(p + i * LANES, left) : (wide_parts){0};
        PARTS_UNROLLED
        for (int k = 0; k < WIDE_PARTS; k++)
            to.half[i * WIDE_PARTS + k] = x.half[k];
    }
    return to;
}

/* A whole stride of reals. */
PARTS_INLINE wide_stride w_read_stride(const real *p)
{
    wide_stride to;
    PARTS_UNROLLED
    for (int h = 0; h < STRIDE_HALVES; h++)
        to.half[h] = w_read_half(p + h * HALF_LANES);
    return to;
}

PARTS_INLINE void w_add(wide_sums *sum, const wide_stride *x)
{
    PARTS_UNROLLED
    for (int h = 0; h < SUM_HALVES; h++)
        sum->half[h] += STRIDE_HALVES > SUM_HALVES
                            ? x->half[h] + x->half[h + STRIDE_HALVES - SUM_HALVES]
                            : x->half[h];
}

/* Times the square of a root: see half_scaled. */
PARTS_INLINE wide_stride w_stride_scaled(wide_stride x, double root)
{
    PARTS_UNROLLED
    for (int h = 0; h < STRIDE_HALVES; h++)
        x.half[h] = half_scaled(x.half[h], root);
    return x;
}

/* Add the products of two strides. */
PARTS_INLINE void w_add_products(wide_sums *sum, const wide_stride *x, const wide_stride *y)
{
    wide_stride product;
    PARTS_UNROLLED
    for (int h = 0; h < STRIDE_HALVES; h++)
        product.half[h] = x->half[h] * y->half[h];
    w_add(sum, &product);
}

PARTS_INLINE wide_sums w_both(wide_sums a, const wide_sums *b)
{
    PARTS_UNROLLED
    for (int h = 0; h < SUM_HALVES; h++)
        a.half[h] += b->half[h];
    return a;
}

/* The sum of all. */
PARTS_INLINE double w_sum(wide_sums sum)
{
    for (int left = SUM_HALVES / 2; left > 0; left /= 2) {
        PARTS_UNROLLED
        for (int h = 0; h < left; h++)
            sum.half[h] += sum.half[h + left];
    }
    return half_sum(sum.half[0]);
}

#endif
