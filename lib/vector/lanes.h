/* SPDX-License-Identifier: MIT
 *
 * Vectors of reals, lane by lane: what vector/vec.h says of vec and mask, without elements.
 */
#ifndef LK_LANES_H
#define LK_LANES_H

#include "vector/fused.h"
#include "vector/isa.h"

#include <math.h>
#include <stdbool.h>

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

/* `yes` where m, else `no`, of vectors of integers. An or would do as well, but of m from a
 * comparison gcc 12 makes two instructions of AVX-512 out of it, and one out of this. */
#if LK_VECTOR_BYTES == 64
#define LK_SELECT(m, yes, no) (((m) & (yes)) ^ (~(m) & (no)))
#else
#define LK_SELECT(m, yes, no) (((m) & (yes)) | (~(m) & (no)))
#endif

LK_INLINE mask m_select(mask m, mask yes, mask no)
{
    return LK_SELECT(m, yes, no);
}

LK_INLINE vec v_select(mask m, vec yes, vec no)
{
    return (vec)LK_SELECT(m, (mask)yes, (mask)no);
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
#if defined(X86)
    return (vec)X86(max)((native)a, (native)b);
#else
    return v_select(a > b, a, b);
#endif
}

/* The minimum; b where either is NaN. */
LK_INLINE vec v_min(vec a, vec b)
{
#if defined(X86)
    return (vec)X86(min)((native)a, (native)b);
#else
    return v_select(a < b, a, b);
#endif
}

/* The maximum of |a| and b, for b >= 0; b or NaN where a is NaN. */
LK_INLINE vec v_max_abs(vec a, vec b)
{
#if LK_VECTOR_BYTES == 64
    return (vec)X86(range)((native)a, (native)b, 0xb);
#else
    return v_max(v_abs(a), b);
#endif
}

/* a*b + c, rounded once. */
LK_INLINE vec v_fma(vec a, vec b, vec c)
{
#if defined(X86)
    return (vec)X86(fmadd)((native)a, (native)b, (native)c);
#elif defined(NEON)
    return (vec)NEON(vfma)((native)c, (native)a, (native)b);
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
#if LK_VECTOR_BYTES == 64
    const __m128i *from = (const __m128i *)p;
    const __m128i x = LANES == 8 ? _mm_loadl_epi64(from) : _mm_loadu_si128(from);
    return (mask)X86_LANES(movm)((native_bits)_mm_test_epi8_mask(x, x));
#elif LK_VECTOR_BYTES == 32
    int four;
    memcpy(&four, p, sizeof four);
    const __m128i x = LANES == 4 ? _mm_cvtsi32_si128(four) : _mm_loadl_epi64((const __m128i *)p);
    return (mask)X86_LANES(cvtepu8)(x) != 0;
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
#if LK_VECTOR_BYTES == 64
    return X86_BITS(fpclass)((native)x, 0x18) != 0;
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
#if LK_LANES == 16
#define LK_TURN(h)                                                                                 \
    __builtin_shufflevector(x, x, h, h + 1, h + 2, h + 3, h + 4, h + 5, h + 6, h + 7, 8, 9, 10,    \
                            11, 12, 13, 14, 15)
    return half == 8 ? LK_TURN(8) : half == 4 ? LK_TURN(4) : half == 2 ? LK_TURN(2) : LK_TURN(1);
#undef LK_TURN
#elif LK_LANES == 8
    return half == 4   ? __builtin_shufflevector(x, x, 4, 5, 6, 7, 4, 5, 6, 7)
           : half == 2 ? __builtin_shufflevector(x, x, 2, 3, 2, 3, 4, 5, 6, 7)
                       : __builtin_shufflevector(x, x, 1, 1, 2, 3, 4, 5, 6, 7);
#elif LK_LANES == 4
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

/* Copies vectors to and from arrays in structs. memcpy, checked by _FORTIFY_SOURCE, is expanded
 * before GCC 12 knows that there is room: in parts of 16 bytes, through general registers, and what
 * loads the whole vector waits for all of them. */
LK_INLINE void v_copy(void *to, const void *from, size_t size)
{
    __builtin_memcpy(to, from, size);
}

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
#if LK_VECTOR_BYTES == 64
    return (vec)X86(mask_loadu)((native)v_set(fill), (native_bits)((1u << n) - 1), p);
#elif LK_VECTOR_BYTES == 32
    const mask m = m_first(n);
    return v_select(m, (vec)X86(maskload)(p, (__m256i)m), v_set(fill));
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
#if LK_VECTOR_BYTES == 64
    X86(mask_storeu)(p, (native_bits)((1u << n) - 1), (native)x);
#elif LK_VECTOR_BYTES == 32
    X86(maskstore)(p, (__m256i)m_first(n), (native)x);
#else
    real from[LANES];
    v_write(from, x);
    for (int i = 0; i < LANES; i++)
        if (i < n)
            memcpy(p + i, from + i, sizeof *from);
#endif
}

#endif
