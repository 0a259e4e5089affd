/* SPDX-License-Identifier: MIT
 *
 * The vector language that kernels are written in. One kernel source is compiled once per variant:
 * the Makefile gives LK_VECTOR_BYTES (0: one lane) and LK_ELEMENT_F64, _F32, _F16 or _BF16.
 *
 *   vec    LANES reals                          mask   LANES integers, each 0 or -1
 *   elem and real, one of them: vector/element.h
 *
 * + - * / and comparisons are the compiler's own on vec; a comparison gives a mask. Other
 * operations on lanes are in vector/lanes.h; here are loads and stores of elements. Nothing reads
 * or writes beyond the elements named, and nothing needs alignment, except streaming stores.
 */
#ifndef LK_VEC_H
#define LK_VEC_H

#include "vector/lanes.h"
#if defined(LK_ELEMENT_16)
#include "vector/halves.h"
#endif

/* Loads and stores of elements: those of reals, with conversion from and to 16-bit types. */

#if defined(LK_ELEMENT_16)

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
#if defined(LK_ELEMENT_16)
    return h_widen((halves){x})[0];
#else
    return x;
#endif
}

LK_INLINE void r_store(elem *p, real x)
{
#if defined(LK_ELEMENT_16)
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
#if defined(LK_ELEMENT_16)
    h_stream(p, h_narrow(x));
#elif defined(X86)
    X86(stream)(p, (native)x);
#else
    v_write(p, x);
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
