/* SPDX-License-Identifier: MIT
 *
 * Elements of 16 bits, as many as a vector has lanes, from and to reals: f16 or bf16, as the
 * variant says.
 */
#ifndef LK_HALVES_H
#define LK_HALVES_H

#include "vector/lanes.h"

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

/* See v_stream. */
LK_INLINE void h_stream(elem *p, halves h)
{
#if LK_VECTOR_BYTES == 64
    _mm256_stream_si256((__m256i *)p, (__m256i)h);
#elif LK_VECTOR_BYTES == 32
    _mm_stream_si128((__m128i *)p, (__m128i)h);
#else
    memcpy(p, &h, sizeof h);
#endif
}

#endif
