/* SPDX-License-Identifier: MIT
 *
 * The types of a variant. The Makefile defines LK_ELEMENT_F64, _F32, _F16 or _BF16, and
 * LK_VECTOR_BYTES (0: one lane).
 *
 *   elem   an element in memory                real   the computing type (double or float)
 *   LANES  how many reals a vector holds (LK_LANES where the preprocessor asks)
 *   STRIDE how many a sum takes side by side, on every ISA
 *
 * The vectors themselves are in vector/vec.h, which takes ten times as long to compile: a loss
 * whose driver does all vector arithmetic includes only this header.
 */
#ifndef LK_ELEMENT_H
#define LK_ELEMENT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LK_INLINE static inline __attribute__((always_inline, unused))

#if defined(LK_ELEMENT_F64)
typedef double real;
typedef double elem;
typedef int64_t ilane;
typedef uint64_t ulane;
#define LK_REAL_BYTES 8
#else
typedef float real;
typedef int32_t ilane;
typedef uint32_t ulane;
#define LK_REAL_BYTES 4
#if defined(LK_ELEMENT_F32)
typedef float elem;
#elif defined(LK_ELEMENT_F16) || defined(LK_ELEMENT_BF16)
typedef uint16_t elem;
#define LK_ELEMENT_16
#else
#error "the Makefile defines LK_ELEMENT_F64, _F32, _F16 or _BF16"
#endif
#endif

#if LK_VECTOR_BYTES == 0
#define LK_LANES 1
#else
#define LK_LANES (LK_VECTOR_BYTES / LK_REAL_BYTES)
#endif
enum { LANES = LK_LANES };

/* Reals are added up in so many sums beside each other, whatever a vector holds: see
 * vector/tally.h. Of vectors there are PARTS to a stride. */
enum { STRIDE = 64 / (int)sizeof(real), PARTS = STRIDE / LANES };

/* n reals in whole strides. */
static inline int64_t padded_lanes(int64_t n)
{
    return (n + STRIDE - 1) / STRIDE * STRIDE;
}

/* Size of a cache line in bytes. */
enum { LK_LINE = 64 };

#endif
