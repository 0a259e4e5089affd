/* SPDX-License-Identifier: MIT
 *
 * The vector language that kernels are written in. One kernel source is compiled once per variant:
 * the Makefile gives LK_VECTOR_BYTES (0: one lane) and LK_ELEMENT_F64, _F32, _F16 or _BF16.
 *
 *   vec    LANES reals                          mask   LANES integers, each 0 or -1
 *   elem and real, one of them: vector/element.h
 *
 * + - * / and comparisons are the compiler's own on vec; a comparison gives a mask. Nothing here
 * reads or writes beyond the elements named, and nothing needs alignment, except streaming stores.
 */
#ifndef LK_VEC_H
#define LK_VEC_H

#include "vector/element.h"
#include "vector/fused.h"

#include <math.h>
#include <stdbool.h>

#if LK_VECTOR_BYTES >= 32
#include <immintrin.h>
#elif LK_VECTOR_BYTES == 16
#include <arm_neon.h>
#endif

/* Before a loop of a constant number of rounds: none is left of it, so that arrays which it indexes
 * lie in registers. */
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#define ROLLED   _Pragma("clang loop unroll(disable)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#define ROLLED   _Pragma("GCC unroll 1")
#endif

/* A stride of one-lane vectors has too many parts for registers: there loops over them, and what is
 * done once a row, are not repeated wherever they are used. */
#if LK_VECTOR_BYTES > 0
#define PARTS_UNROLLED UNROLLED
#define PARTS_INLINE   LK_INLINE
#else
#define PARTS_UNROLLED ROLLED
#define PARTS_INLINE   static __attribute__((noinline, unused))
#endif

typedef real vec __attribute__((vector_size(LANES * sizeof(real))));
typedef ilane mask __attribute__((vector_size(LANES * sizeof(real))));
typedef ulane uvec __attribute__((vector_size(LANES * sizeof(real))));

/* 0 + x would turn -0 into 0 in some lanes and not in others: build the vector instead. */
LK_INLINE vec v_set(real x)
{
    return x - (vec){0};
}

LK_INLINE mask m_set(ilane x)
{
    return x - (mask){0};
}

LK_INLINE vec v_select(mask m, vec yes, vec no)
{
    return (vec)((m & (mask)yes) | (~m & (mask)no));
}

/* x where m, else 0: also where x is not finite. */
LK_INLINE vec v_where(mask m, vec x)
{
    return (vec)(m & (mask)x);
}

LK_INLINE vec v_abs(vec x)
{
    return (vec)((mask)x & ~(mask)v_set((real)-0.0));
}

LK_INLINE mask v_is_nan(vec x)
{
    return ~(v_abs(x) <= v_set((real)INFINITY));
}

/* -1, 0 or 1; NaN where x is. */
LK_INLINE vec v_sign(vec x)
{
    const vec zero = {0};
    return v_select(x > zero, v_set(1), v_select(x < zero, v_set(-1), x));
}

/* The maximum; b where either is NaN. */
LK_INLINE vec v_max(vec a, vec b)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    return (vec)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif LK_VECTOR_BYTES == 64
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
    return (vec)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif LK_VECTOR_BYTES == 32
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return v_select(a > b, a, b);
#endif
}

/* The minimum; b where either is NaN. */
LK_INLINE vec v_min(vec a, vec b)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    return (vec)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif LK_VECTOR_BYTES == 64
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
    return (vec)_mm256_min_pd((__m256d)a, (__m256d)b);
#elif LK_VECTOR_BYTES == 32
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return v_select(a < b, a, b);
#endif
}

/* The maximum of |a| and b, for b >= 0; b or NaN where a is NaN. */
LK_INLINE vec v_max_abs(vec a, vec b)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    return (vec)_mm512_range_pd((__m512d)a, (__m512d)b, 0xb);
#elif LK_VECTOR_BYTES == 64
    return (vec)_mm512_range_ps((__m512)a, (__m512)b, 0xb);
#else
    return v_max(v_abs(a), b);
#endif
}

/* a*b + c, rounded once. */
LK_INLINE vec v_fma(vec a, vec b, vec c)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif LK_VECTOR_BYTES == 64
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif LK_VECTOR_BYTES == 32
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif LK_VECTOR_BYTES == 16 && defined(LK_ELEMENT_F64)
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#elif LK_VECTOR_BYTES == 16
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(LK_ELEMENT_F64)
    return v_set(lk_fma(a[0], b[0], c[0]));
#else
    return v_set(lk_fmaf(a[0], b[0], c[0]));
#endif
}

/* 0, 1, 2, ... */
LK_INLINE mask m_iota(void)
{
    mask m = {0};
    for (int i = 1; i < LANES; i++)
        m[i] = i;
    return m;
}

/* The lanes 0..n-1. */
LK_INLINE mask m_first(int64_t n)
{
#if LK_VECTOR_BYTES == 0
    return m_set(-(ilane)(n > 0)); /* gcc 12 for arm64 makes 1 of ~(a < b) & (c < d), not -1 */
#else
    return m_iota() < m_set((ilane)n);
#endif
}

/* The lanes whose byte, of LANES bytes, is not 0. */
LK_INLINE mask m_bytes(const unsigned char *p)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    const __m128i x = _mm_loadl_epi64((const __m128i *)p);
    return (mask)_mm512_movm_epi64((__mmask8)_mm_test_epi8_mask(x, x));
#elif LK_VECTOR_BYTES == 64
    const __m128i x = _mm_loadu_si128((const __m128i *)p);
    return (mask)_mm512_movm_epi32(_mm_test_epi8_mask(x, x));
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
    int x;
    memcpy(&x, p, sizeof x);
    return (mask)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(x)) != 0;
#elif LK_VECTOR_BYTES == 32
    return (mask)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)) != 0;
#elif LK_VECTOR_BYTES == 16 && defined(LK_ELEMENT_F64)
    uint16_t x;
    memcpy(&x, p, sizeof x);
    const uint16x8_t bytes = vmovl_u8((uint8x8_t)vdup_n_u16(x));
    return (mask)vmovl_u32(vget_low_u32(vmovl_u16(vget_low_u16(bytes)))) != 0;
#elif LK_VECTOR_BYTES == 16
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return (mask)vmovl_u16(vget_low_u16(vmovl_u8((uint8x8_t)vdup_n_u32(x)))) != 0;
#else
    typedef unsigned char bytes __attribute__((vector_size(LANES)));
    bytes x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, mask) != 0;
#endif
}

/* Is no lane set? */
LK_INLINE bool m_none(mask m)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    return _mm512_movepi64_mask((__m512i)m) == 0;
#elif LK_VECTOR_BYTES == 64
    return _mm512_movepi32_mask((__m512i)m) == 0;
#elif LK_VECTOR_BYTES == 32
    return _mm256_movemask_epi8((__m256i)m) == 0;
#elif LK_VECTOR_BYTES == 16
    return vmaxvq_u32((uint32x4_t)m) == 0;
#else
    ilane any = 0;
    for (int k = 0; k < LANES; k++)
        any |= m[k];
    return !any;
#endif
}

/* Is any lane infinite? */
LK_INLINE bool v_has_infinity(vec x)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    return _mm512_fpclass_pd_mask((__m512d)x, 0x18) != 0;
#elif LK_VECTOR_BYTES == 64
    return _mm512_fpclass_ps_mask((__m512)x, 0x18) != 0;
#else
    return !m_none(v_abs(x) == v_set((real)INFINITY));
#endif
}

/* The lanes as doubles. */
typedef double wide __attribute__((vector_size(LANES * sizeof(double))));

LK_INLINE wide v_wide(vec x)
{
    return __builtin_convertvector(x, wide);
}

/* Lane i + half in lane i, for i < half; the other lanes are undefined. */
LK_INLINE vec v_upper(vec x, int half)
{
#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64)
#define LK_TURN(h)                                                                                 \
    __builtin_shufflevector(x, x, h, h + 1, h + 2, h + 3, h + 4, h + 5, h + 6, h + 7, 8, 9, 10,    \
                            11, 12, 13, 14, 15)
    return half == 8 ? LK_TURN(8) : half == 4 ? LK_TURN(4) : half == 2 ? LK_TURN(2) : LK_TURN(1);
#undef LK_TURN
#elif LK_VECTOR_BYTES == 64 || (LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64))
    return half == 4   ? __builtin_shufflevector(x, x, 4, 5, 6, 7, 4, 5, 6, 7)
           : half == 2 ? __builtin_shufflevector(x, x, 2, 3, 2, 3, 4, 5, 6, 7)
                       : __builtin_shufflevector(x, x, 1, 1, 2, 3, 4, 5, 6, 7);
#elif LK_VECTOR_BYTES == 32 || (LK_VECTOR_BYTES == 16 && !defined(LK_ELEMENT_F64))
    return half == 2 ? __builtin_shufflevector(x, x, 2, 3, 2, 3)
                     : __builtin_shufflevector(x, x, 1, 1, 2, 3);
#else
    for (int i = 0; i < half; i++)
        x[i] = x[i + half];
    return x;
#endif
}

/* The sum over the lanes of whole numbers, such as counts: exact. */
LK_INLINE double v_count(vec x)
{
    for (int half = LANES / 2; half > 0; half /= 2)
        x += v_upper(x, half);
    return (double)x[0];
}

/* The maximum over the lanes, which ignores NaN like v_max. For sums: vector/tally.h. */
LK_INLINE real v_top(vec x)
{
    for (int half = LANES / 2; half > 0; half /= 2)
        x = v_max(x, v_upper(x, half));
    return x[0];
}

/* Loads and stores of reals. _n: only the first n, 0 < n < LANES; `fill` in the other lanes. */

LK_INLINE vec v_read(const real *p)
{
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

LK_INLINE void v_write(real *p, vec x)
{
    memcpy(p, &x, sizeof x);
}

LK_INLINE vec v_read_n(const real *p, int64_t n, real fill)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    return (vec)_mm512_mask_loadu_pd((__m512d)v_set(fill), (__mmask8)((1u << n) - 1), p);
#elif LK_VECTOR_BYTES == 64
    return (vec)_mm512_mask_loadu_ps((__m512)v_set(fill), (__mmask16)((1u << n) - 1), p);
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
    mask m = m_first(n);
    return v_select(m, (vec)_mm256_maskload_pd(p, (__m256i)m), v_set(fill));
#elif LK_VECTOR_BYTES == 32
    mask m = m_first(n);
    return v_select(m, (vec)_mm256_maskload_ps(p, (__m256i)m), v_set(fill));
#else
    real x[LANES];
    v_write(x, v_set(fill));
    for (int i = 0; i < LANES; i++)
        if (i < n)
            memcpy(x + i, p + i, sizeof *x);
    return v_read(x);
#endif
}

LK_INLINE void v_write_n(real *p, int64_t n, vec x)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)x);
#elif LK_VECTOR_BYTES == 64
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
    _mm256_maskstore_pd(p, (__m256i)m_first(n), (__m256d)x);
#elif LK_VECTOR_BYTES == 32
    _mm256_maskstore_ps(p, (__m256i)m_first(n), (__m256)x);
#else
    real from[LANES];
    v_write(from, x);
    for (int i = 0; i < LANES; i++)
        if (i < n)
            memcpy(p + i, from + i, sizeof *from);
#endif
}

/* Loads and stores of elements: the same, with conversion from and to 16-bit types. */

#if defined(LK_ELEMENT_F16) || defined(LK_ELEMENT_BF16)

typedef uint16_t halves __attribute__((vector_size(LANES * sizeof(uint16_t))));

#if defined(LK_ELEMENT_BF16)

/* One instruction each way, of which gcc makes four and more. */
LK_INLINE uvec h_spread(halves h)
{
#if LK_VECTOR_BYTES == 64
    return (uvec)_mm512_cvtepu16_epi32((__m256i)h);
#elif LK_VECTOR_BYTES == 32
    return (uvec)_mm256_cvtepu16_epi32((__m128i)h);
#else
    return __builtin_convertvector(h, uvec);
#endif
}

/* Of integers of at most 16 bits. */
LK_INLINE halves h_pack(uvec x)
{
#if LK_VECTOR_BYTES == 64
    return (halves)_mm512_cvtepi32_epi16((__m512i)x);
#elif LK_VECTOR_BYTES == 32
    return (halves)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)x),
                                    _mm256_extracti128_si256((__m256i)x, 1));
#else
    return __builtin_convertvector(x, halves);
#endif
}

LK_INLINE vec h_widen(halves h)
{
    return (vec)(h_spread(h) << 16);
}

/* Round a number to nearest, ties to even; the result is the upper half. */
LK_INLINE uvec h_round(vec x)
{
    uvec u = (uvec)x;
    return u + 0x7fff + ((u >> 16) & 1);
}

/* The same, keeping NaN. */
LK_INLINE halves h_narrow(vec x)
{
    uvec rounded = h_round(x) >> 16, nan = ((uvec)x >> 16) | 0x40;
    mask is_nan = x != x;
    return h_pack(((uvec)is_nan & nan) | (~(uvec)is_nan & rounded));
}

#elif LK_VECTOR_BYTES == 64

LK_INLINE vec h_widen(halves h)
{
    return (vec)_mm512_cvtph_ps((__m256i)h);
}

LK_INLINE halves h_narrow(vec x)
{
    return (halves)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#elif LK_VECTOR_BYTES == 32

LK_INLINE vec h_widen(halves h)
{
    return (vec)_mm256_cvtph_ps((__m128i)h);
}

LK_INLINE halves h_narrow(vec x)
{
    return (halves)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#elif LK_VECTOR_BYTES == 16

LK_INLINE vec h_widen(halves h)
{
    return (vec)vcvt_f32_f16((float16x4_t)h);
}

LK_INLINE halves h_narrow(vec x)
{
    return (halves)vcvt_f16_f32((float32x4_t)x);
}

#else

/* An f16 holds sign, 5 bits of exponent (bias 15) and 10 of fraction. Shifted by 13 the fraction
 * lies where an f32 wants it, and the exponent lacks 112. */
LK_INLINE vec h_widen(halves h)
{
    uvec u = __builtin_convertvector(h, uvec);
    uvec magnitude = (u & 0x7fff) << 13;
    uvec exponent = magnitude & 0x0f800000;
    uvec normal = magnitude + (112u << 23);
    uvec special = normal + (112u << 23); /* infinity and NaN: exponent all ones */
    /* Subnormal: put the fraction under an exponent of 2^-14, then take the 2^-14 away again. */
    vec low = (vec)(normal + (1u << 23)) - v_set(0x1p-14f);
    mask is_special = exponent == 0x0f800000, is_low = exponent == 0;
    uvec value = ((uvec)is_special & special) | (~(uvec)is_special & normal);
    value = ((uvec)is_low & (uvec)low) | (~(uvec)is_low & value);
    return (vec)(value | (u & 0x8000) << 16);
}

/* To nearest, ties to even. */
LK_INLINE halves h_narrow(vec x)
{
    uvec u = (uvec)x, sign = u & 0x80000000u;
    u ^= sign;
    uvec normal = (u - (112u << 23) + 0xfff + ((u >> 13) & 1)) >> 13;
    /* Subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the lowest bits. */
    uvec low = (uvec)((vec)u + v_set(0.5f)) - (126u << 23);
    mask is_low = (mask)u < (113 << 23), is_big = (mask)u >= (143 << 23), is_nan = x != x;
    uvec value = ((uvec)is_low & low) | (~(uvec)is_low & normal);
    value = ((uvec)is_big & 0x7c00) | (~(uvec)is_big & value);
    value = ((uvec)is_nan & 0x7e00) | (~(uvec)is_nan & value);
    return __builtin_convertvector(value | sign >> 16, halves);
}

#endif

LK_INLINE vec v_load(const elem *p)
{
    halves h;
    memcpy(&h, p, sizeof h);
    return h_widen(h);
}

LK_INLINE void v_store(elem *p, vec x)
{
    halves h = h_narrow(x);
    memcpy(p, &h, sizeof h);
}

LK_INLINE vec v_load_n(const elem *p, int64_t n, real fill)
{
#if LK_VECTOR_BYTES == 64
    halves h = (halves)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
#else
    elem from[LANES] = {0};
    for (int i = 0; i < LANES; i++)
        if (i < n)
            memcpy(from + i, p + i, sizeof *from);
    halves h;
    memcpy(&h, from, sizeof h);
#endif
    return v_select(m_first(n), h_widen(h), v_set(fill));
}

LK_INLINE void v_store_n(elem *p, int64_t n, vec x)
{
    halves h = h_narrow(x);
#if LK_VECTOR_BYTES == 64
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
    elem from[LANES];
    memcpy(from, &h, sizeof h);
    for (int i = 0; i < LANES; i++)
        if (i < n)
            memcpy(p + i, from + i, sizeof *from);
#endif
}

#else

LK_INLINE vec v_load(const elem *p)
{
    return v_read(p);
}

LK_INLINE void v_store(elem *p, vec x)
{
    v_write(p, x);
}

LK_INLINE vec v_load_n(const elem *p, int64_t n, real fill)
{
    return v_read_n(p, n, fill);
}

LK_INLINE void v_store_n(elem *p, int64_t n, vec x)
{
    v_write_n(p, n, x);
}

#endif

/* One element: not by masks, which store slowly. */
LK_INLINE real r_load(const elem *p)
{
    elem x;
    memcpy(&x, p, sizeof x);
#if defined(LK_ELEMENT_F16) || defined(LK_ELEMENT_BF16)
    return h_widen((halves){x})[0];
#else
    return x;
#endif
}

LK_INLINE void r_store(elem *p, real x)
{
#if defined(LK_ELEMENT_F16) || defined(LK_ELEMENT_BF16)
    const elem to = h_narrow(v_set(x))[0];
#else
    const elem to = x;
#endif
    memcpy(p, &to, sizeof to);
}

/* Prefetch some distance beyond p, for elements that are read sequentially: across page boundaries,
 * where the hardware prefetcher stops, and early enough. A prefetch never faults. 16-bit elements
 * go to the first-level cache, since their rows are bound by computation; others go to the
 * second-level cache, so that stores need not wait for the line fill buffers of the first level. */
LK_INLINE void v_fetch(const elem *p)
{
    if (LANES > 1 && sizeof(elem) == 2) /* not worthwhile with one lane */
        __builtin_prefetch((const char *)p + 2048);
    else if (LANES > 1)
        __builtin_prefetch((const char *)p + 4096, 0, 2);
}

/* Tensors of at least this many bytes exceed the caches: by the time they are read, nothing of them
 * is cached. */
enum { LK_STREAM_MIN = 16 << 20 };

/* Streaming store of LANES elements, past the caches. p must be aligned to LANES elements, and
 * v_fence must be called before another thread reads them. */
LK_INLINE void v_stream(elem *p, vec x)
{
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    _mm512_stream_pd(p, (__m512d)x);
#elif LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F32)
    _mm512_stream_ps(p, (__m512)x);
#elif LK_VECTOR_BYTES == 64
    _mm256_stream_si256((__m256i *)p, (__m256i)h_narrow(x));
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
    _mm256_stream_pd(p, (__m256d)x);
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F32)
    _mm256_stream_ps(p, (__m256)x);
#elif LK_VECTOR_BYTES == 32
    _mm_stream_si128((__m128i *)p, (__m128i)h_narrow(x));
#else
    v_store(p, x);
#endif
}

/* 2*STRIDE elements, a pair, as vectors of which two at a time, part `part` of PARTS, are loaded
 * and stored together. As reals a pair lies in an order of its own: for 16-bit elements it is
 * cheaper to separate even and odd elements than first and second halves. v_pair_place gives the
 * place of element i, i < 2*STRIDE; there vector a of a part begins at part*LANES, and b STRIDE
 * after it. v_store_pair must not be given NaN; v_stream_pair needs an address aligned to LANES
 * elements. */
#if defined(LK_ELEMENT_BF16)

LK_INLINE int64_t v_pair_place(int64_t i)
{
    return i / 2 + i % 2 * STRIDE;
}

#if LK_VECTOR_BYTES > 0

LK_INLINE void v_load_pair(const elem *p, int part, vec *a, vec *b)
{
    uvec both;
    memcpy(&both, p + 2 * part * LANES, sizeof both);
    *a = (vec)(both << 16);
    *b = (vec)(both & 0xffff0000u);
}

LK_INLINE uvec h_join(vec a, vec b)
{
    const uvec even = h_round(a) >> 16, odd = h_round(b);
#if LK_VECTOR_BYTES == 64
    return (uvec)_mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)even, (__m512i)odd);
#elif LK_VECTOR_BYTES == 32
    return (uvec)_mm256_blend_epi16((__m256i)even, (__m256i)odd, 0xaa);
#else
    return even | (odd & 0xffff0000u);
#endif
}

LK_INLINE void v_store_pair(elem *p, int part, vec a, vec b)
{
    const uvec both = h_join(a, b);
    memcpy(p + 2 * part * LANES, &both, sizeof both);
}

LK_INLINE void v_stream_pair(elem *p, int part, vec a, vec b)
{
#if LK_VECTOR_BYTES == 64
    _mm512_stream_si512((__m512i *)(p + 2 * part * LANES), (__m512i)h_join(a, b));
#elif LK_VECTOR_BYTES == 32
    _mm256_stream_si256((__m256i *)(p + 2 * part * LANES), (__m256i)h_join(a, b));
#else
    v_store_pair(p, part, a, b);
#endif
}

#else

LK_INLINE void v_load_pair(const elem *p, int part, vec *a, vec *b)
{
    *a = v_load(p + 2 * part);
    *b = v_load(p + 2 * part + 1);
}

LK_INLINE void v_store_pair(elem *p, int part, vec a, vec b)
{
    v_store(p + 2 * part, a);
    v_store(p + 2 * part + 1, b);
}

LK_INLINE void v_stream_pair(elem *p, int part, vec a, vec b)
{
    v_store_pair(p, part, a, b);
}

#endif

#else

LK_INLINE int64_t v_pair_place(int64_t i)
{
    return i;
}

LK_INLINE void v_load_pair(const elem *p, int part, vec *a, vec *b)
{
    *a = v_load(p + part * LANES);
    *b = v_load(p + STRIDE + part * LANES);
}

LK_INLINE void v_store_pair(elem *p, int part, vec a, vec b)
{
    v_store(p + part * LANES, a);
    v_store(p + STRIDE + part * LANES, b);
}

LK_INLINE void v_stream_pair(elem *p, int part, vec a, vec b)
{
    v_stream(p + part * LANES, a);
    v_stream(p + STRIDE + part * LANES, b);
}

#endif

LK_INLINE void v_fence(void)
{
#if LK_VECTOR_BYTES >= 32
    _mm_sfence();
#endif
}

/* How many of n elements are in the vector that starts at k. */
#define LK_TAIL(k, n) ((n) - (k) < LANES ? (n) - (k) : LANES)

/* A whole vector or a partial one, 0 < n <= LANES. */
LK_INLINE vec v_load_tail(const elem *p, int64_t n, real fill)
{
    return n == LANES ? v_load(p) : v_load_n(p, n, fill);
}

LK_INLINE vec v_read_tail(const real *p, int64_t n, real fill)
{
    return n == LANES ? v_read(p) : v_read_n(p, n, fill);
}

LK_INLINE void v_store_tail(elem *p, int64_t n, vec x)
{
    if (n == LANES)
        v_store(p, x);
    else
        v_store_n(p, n, x);
}

#endif
