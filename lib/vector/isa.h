/* SPDX-License-Identifier: MIT
 *
 * How instruction sets name what they do with vectors of reals: an operation has a name for each
 * width and type. X86(max) is that of this variant, such as _mm256_max_ps; likewise NEON(vfma).
 *
 *   native       the vector's type                native_bits   a bit for each lane (AVX-512)
 */
#ifndef LK_ISA_H
#define LK_ISA_H

#include "vector/element.h"

#if LK_VECTOR_BYTES >= 32
#include <immintrin.h>
#elif LK_VECTOR_BYTES == 16
#include <arm_neon.h>
#endif

#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
#define X86(op)       _mm512_##op##_pd
#define X86_BITS(op)  _mm512_##op##_pd_mask /* a comparison, or test, of each lane */
#define X86_LANES(op) _mm512_##op##_epi64   /* on integers */
typedef __m512d native;
typedef __mmask8 native_bits;
#elif LK_VECTOR_BYTES == 64
#define X86(op)       _mm512_##op##_ps
#define X86_BITS(op)  _mm512_##op##_ps_mask
#define X86_LANES(op) _mm512_##op##_epi32
typedef __m512 native;
typedef __mmask16 native_bits;
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
#define X86(op)       _mm256_##op##_pd
#define X86_LANES(op) _mm256_##op##_epi64
typedef __m256d native;
#elif LK_VECTOR_BYTES == 32
#define X86(op)       _mm256_##op##_ps
#define X86_LANES(op) _mm256_##op##_epi32
typedef __m256 native;
#elif LK_VECTOR_BYTES == 16 && defined(LK_ELEMENT_F64)
#define NEON(op) op##q_f64
typedef float64x2_t native;
#elif LK_VECTOR_BYTES == 16
#define NEON(op) op##q_f32
typedef float32x4_t native;
#endif

#endif
