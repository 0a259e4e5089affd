/* SPDX-License-Identifier: MIT
 *
 * Vectors across rows: lane i holds an entry of row i, so that LANES short rows are computed at
 * once, each by itself. Rows lie one after the other in memory, so they are transposed in registers
 * while they are loaded and stored, a tile of LANES rows and as many classes at a time. In memory
 * order a tile's element has the address (vector, lane) = (row's high bits, row's low bits and
 * class); transposed it is (class, row). The one becomes the other by rotating the bits of the
 * address, and one step that separates even and odd elements rotates them by one.
 */
#ifndef LK_CROSS_H
#define LK_CROSS_H

#include "vector/vec.h"

#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64)
#define LK_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define LK_ODD  1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LK_LOW  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define LK_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LK_VECTOR_BYTES == 64 || (LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64))
#define LK_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define LK_ODD  1, 3, 5, 7, 9, 11, 13, 15
#define LK_LOW  0, 8, 1, 9, 2, 10, 3, 11
#define LK_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif LK_VECTOR_BYTES == 32 || (LK_VECTOR_BYTES == 16 && !defined(LK_ELEMENT_F64))
#define LK_EVEN 0, 2, 4, 6
#define LK_ODD  1, 3, 5, 7
#define LK_LOW  0, 4, 1, 5
#define LK_HIGH 2, 6, 3, 7
#elif LK_VECTOR_BYTES == 16
#define LK_EVEN 0, 2
#define LK_ODD  1, 3
#define LK_LOW  0, 2
#define LK_HIGH 1, 3
#else /* one lane: tiles of one element, which are not turned */
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
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
    return (vec)_mm512_permutexvar_pd((__m512i)at, (__m512d)x);
#elif LK_VECTOR_BYTES == 64
    return (vec)_mm512_permutexvar_ps((__m512i)at, (__m512)x);
#elif LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64)
    return (vec)_mm256_permutevar8x32_ps((__m256)x, (__m256i)at);
#else
    vec to = x;
    for (int i = 0; i < LANES; i++)
        to[i] = x[at[i]];
    return to;
#endif
}

/* How LANES rows lie in memory. Rows of at most half a vector are loaded several at once, and
 * spread to `tile` elements each. */
typedef struct cross_rows {
    int64_t width;      /* classes */
    int64_t inner;      /* from class to class, in elements: 1, or the rows lie side by side */
    int tile;           /* how many classes are turned at a time, a power of two */
    mask spread, close; /* the lanes of elements that lie one after the other, and back */
} cross_rows;

LK_INLINE cross_rows cross_make(int64_t width, int64_t inner)
{
    cross_rows c = {.width = width, .inner = inner, .tile = 1};
    int shift = 0;
    for (; c.tile < LANES && c.tile < width; c.tile *= 2)
        shift++;
    const mask i = m_iota(), k = i & m_set(c.tile - 1);
    const ilane each = (ilane)(width < c.tile ? width : c.tile);
    const mask last = m_set(each - 1), past = k > last;
    c.spread = (i >> shift) * each + ((past & last) | (~past & k));
    const mask row = (i * (0x10000 / each + 1)) >> 16; /* i / each */
    c.close = (row * c.tile + (i - row * each)) & m_set(LANES - 1);
    return c;
}

/* One step for a tile of `tile` vectors (a constant), and its inverse. */
LK_INLINE void cross_divide(vec *v, const int tile)
{
    vec next[LANES];
    for (int i = 0; i < tile / 2; i++) {
        next[i] = v_even(v[2 * i], v[2 * i + 1]);
        next[i + tile / 2] = v_odd(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < tile; i++)
        v[i] = next[i];
}

LK_INLINE void cross_join(vec *v, const int tile)
{
    vec next[LANES];
    for (int i = 0; i < tile / 2; i++) {
        next[2 * i] = v_low(v[i], v[i + tile / 2]);
        next[2 * i + 1] = v_high(v[i], v[i + tile / 2]);
    }
    for (int i = 0; i < tile; i++)
        v[i] = next[i];
}

/* A whole tile, LANES rows and classes, is turned in steps that take one instruction each on x86,
 * where those above take two with AVX2: reals of two vectors in turn, within each 128 bits;
 * likewise pairs of floats; then 128 bits as a whole. It is its own inverse. */
#if LK_VECTOR_BYTES == 64 && defined(LK_ELEMENT_F64)
#define LK_TURN(op, a, b) (vec) _mm512_unpack##op##_pd((__m512d)(a), (__m512d)(b))
#define LK_BLOCKS(odd, a, b)                                                                       \
    (vec) _mm512_shuffle_f64x2((__m512d)(a), (__m512d)(b), odd ? 0xdd : 0x88)
#elif LK_VECTOR_BYTES == 64
#define LK_TURN(op, a, b)     (vec) _mm512_unpack##op##_ps((__m512)(a), (__m512)(b))
#define LK_TURN_TWO(op, a, b) (vec) _mm512_unpack##op##_pd((__m512d)(a), (__m512d)(b))
#define LK_BLOCKS(odd, a, b)  (vec) _mm512_shuffle_f32x4((__m512)(a), (__m512)(b), odd ? 0xdd : 0x88)
#elif LK_VECTOR_BYTES == 32 && defined(LK_ELEMENT_F64)
#define LK_TURN(op, a, b) (vec) _mm256_unpack##op##_pd((__m256d)(a), (__m256d)(b))
#define LK_BLOCKS(odd, a, b)                                                                       \
    (vec) _mm256_permute2f128_pd((__m256d)(a), (__m256d)(b), odd ? 0x31 : 0x20)
#elif LK_VECTOR_BYTES == 32
#define LK_TURN(op, a, b)     (vec) _mm256_unpack##op##_ps((__m256)(a), (__m256)(b))
#define LK_TURN_TWO(op, a, b) (vec) _mm256_unpack##op##_pd((__m256d)(a), (__m256d)(b))
#define LK_BLOCKS(odd, a, b)                                                                       \
    (vec) _mm256_permute2f128_ps((__m256)(a), (__m256)(b), odd ? 0x31 : 0x20)
#endif

#if LK_VECTOR_BYTES >= 32

enum { BLOCK = 16 / (int)sizeof(real), BLOCKS = LANES / BLOCK };

LK_INLINE void cross_turn(vec *v)
{
    vec a[LANES], b[LANES];
    for (int i = 0; i < LANES; i += 2) {
        a[i] = LK_TURN(lo, v[i], v[i + 1]);
        a[i + 1] = LK_TURN(hi, v[i], v[i + 1]);
    }
#if defined(LK_ELEMENT_F64)
    memcpy(b, a, sizeof b);
#else
    for (int i = 0; i < LANES; i += 4) {
        b[i] = LK_TURN_TWO(lo, a[i], a[i + 2]);
        b[i + 1] = LK_TURN_TWO(hi, a[i], a[i + 2]);
        b[i + 2] = LK_TURN_TWO(lo, a[i + 1], a[i + 3]);
        b[i + 3] = LK_TURN_TWO(hi, a[i + 1], a[i + 3]);
    }
#endif
    for (int i = 0; i < BLOCK; i++) {
        const vec even = LK_BLOCKS(0, b[i], b[i + BLOCK]), odd = LK_BLOCKS(1, b[i], b[i + BLOCK]);
        if (BLOCKS == 2) {
            v[i] = even;
            v[i + BLOCK] = odd;
            continue;
        }
        const vec even2 = LK_BLOCKS(0, b[i + 2 * BLOCK], b[i + 3 * BLOCK]);
        const vec odd2 = LK_BLOCKS(1, b[i + 2 * BLOCK], b[i + 3 * BLOCK]);
        v[i] = LK_BLOCKS(0, even, even2);
        v[i + BLOCK] = LK_BLOCKS(0, odd, odd2);
        v[i + 2 * BLOCK] = LK_BLOCKS(1, even, even2);
        v[i + 3 * BLOCK] = LK_BLOCKS(1, odd, odd2);
    }
}

#endif

/* The rows of a tile to its vectors' lanes, and back. */
LK_INLINE void cross_to_lanes(vec *v, const int tile)
{
#if LK_VECTOR_BYTES >= 32
    if (tile == LANES) {
        cross_turn(v);
        return;
    }
#endif
    if (tile > 1)
        cross_divide(v, tile);
    if (tile > 2)
        cross_divide(v, tile);
    if (tile > 4)
        cross_divide(v, tile);
    if (tile > 8)
        cross_divide(v, tile);
}

LK_INLINE void cross_to_rows(vec *v, const int tile)
{
#if LK_VECTOR_BYTES >= 32
    if (tile == LANES) {
        cross_turn(v);
        return;
    }
#endif
    if (tile > 1)
        cross_join(v, tile);
    if (tile > 2)
        cross_join(v, tile);
    if (tile > 4)
        cross_join(v, tile);
    if (tile > 8)
        cross_join(v, tile);
}

/* A vector of elements or of reals, from element i on; the first n where it is not whole. */
LK_INLINE vec cross_take(const void *x, const bool elems, int64_t i, int64_t n)
{
    return elems ? v_load_tail((const elem *)x + i, n, 0) : v_read_tail((const real *)x + i, n, 0);
}

/* LANES classes of as many rows, from class k on, where neither end before: a vector each. */
LK_INLINE void cross_load_whole(const cross_rows *c, const void *x, const bool elems, int64_t k,
                                real *to)
{
    vec v[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v[i] = cross_take(x, elems, i * c->width + k, LANES);
    cross_to_lanes(v, LANES);
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v_write(to + i * LANES, v[i]);
}

LK_INLINE void cross_store_whole(const cross_rows *c, const real *from, int64_t k, elem *x)
{
    vec v[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v[i] = v_read(from + i * LANES);
    cross_to_rows(v, LANES);
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v_store(x + i * c->width + k, v[i]);
}

/* The classes k.. of a tile of LANES rows at x, as a vector each. What a vector holds beyond its
 * rows' classes belongs to the next rows. Only where the last rows end there is nothing beyond:
 * partial loads and stores are slow. */
LK_INLINE void cross_load_tile(const cross_rows *c, const void *x, const bool elems, int64_t k,
                               real *to, const int tile)
{
    const int rows = LANES / tile;
    const int64_t left = c->width - k, classes = left < tile ? left : tile;
    const bool spread = rows > 1 && classes < tile;
    vec v[LANES];
    if (tile == LANES && left >= LANES) {
        cross_load_whole(c, x, elems, k, to);
        return;
    }
    for (int i = 0; i < tile; i++) {
        const int64_t at = i * rows * c->width + k, beyond = LANES * c->width - at;
        v[i] = cross_take(x, elems, at, beyond < LANES ? rows * classes : LANES);
        v[i] = spread ? v_permute(v[i], c->spread) : v[i];
    }
    cross_to_lanes(v, tile);
    for (int i = 0; i < tile; i++)
        v_write(to + i * LANES, v[i]);
}

/* The same to memory. It may overwrite the first classes of the next row: a row's first tile must
 * be stored last. */
LK_INLINE void cross_store_tile(const cross_rows *c, const real *from, int64_t k, elem *x,
                                const int tile)
{
    const int rows = LANES / tile;
    const int64_t left = c->width - k, classes = left < tile ? left : tile;
    const bool spread = rows > 1 && classes < tile;
    vec v[LANES];
    if (tile == LANES && left >= LANES) {
        cross_store_whole(c, from, k, x);
        return;
    }
    for (int i = 0; i < tile; i++)
        v[i] = v_read(from + i * LANES);
    cross_to_rows(v, tile);
    for (int i = 0; i < tile; i++) {
        const int64_t at = i * rows * c->width + k, beyond = LANES * c->width - at;
        v[i] = spread ? v_permute(v[i], c->close) : v[i];
        if (beyond < LANES)
            v_store_n(x + at, rows * classes, v[i]);
        else
            v_store(x + at, v[i]);
    }
}

/* Elements that widen by a shift are turned by twos, in half the steps: whole tiles of twice as
 * many classes. */
#if defined(LK_ELEMENT_BF16) && LK_VECTOR_BYTES >= 32
enum { CROSS_PAIRS = 2 * LANES };

LK_INLINE void cross_load_pairs(const cross_rows *c, const elem *x, int64_t k, real *to)
{
    vec v[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i++)
        memcpy(&v[i], x + i * c->width + k, sizeof *v);
    cross_turn(v);
    UNROLLED
    for (int i = 0; i < LANES; i++) {
        v_write(to + 2 * i * LANES, (vec)((uvec)v[i] << 16));
        v_write(to + (2 * i + 1) * LANES, (vec)((uvec)v[i] & 0xffff0000u));
    }
}

/* Of numbers, not NaN. */
LK_INLINE void cross_store_pairs(const cross_rows *c, const real *from, int64_t k, elem *x)
{
    vec v[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v[i] = (vec)h_join(v_read(from + 2 * i * LANES), v_read(from + (2 * i + 1) * LANES));
    cross_turn(v);
    UNROLLED
    for (int i = 0; i < LANES; i++)
        memcpy(x + i * c->width + k, &v[i], sizeof *v);
}

#else
enum { CROSS_PAIRS = 0 };

LK_INLINE void cross_load_pairs(const cross_rows *c, const elem *x, int64_t k, real *to)
{
    (void)c, (void)x, (void)k, (void)to;
}

LK_INLINE void cross_store_pairs(const cross_rows *c, const real *from, int64_t k, elem *x)
{
    (void)c, (void)x, (void)k, (void)from;
}
#endif

/* How many classes are turned by twos. */
LK_INLINE int64_t cross_pairs(const cross_rows *c)
{
    return CROSS_PAIRS > 0 && c->inner == 1 ? c->width & -(int64_t)CROSS_PAIRS : 0;
}

/* All classes of LANES rows of elements or of reals, as a vector each; `to` has room for
 * padded_lanes(width). */
LK_INLINE void cross_load(const cross_rows *c, const void *x, const bool elems, real *to)
{
    for (int64_t k = 0; c->inner > 1 && k < c->width; k++)
        v_write(to + k * LANES, cross_take(x, elems, k * c->inner, LANES));
    const int64_t pairs = elems ? cross_pairs(c) : 0;
    for (int64_t k = 0; k < pairs; k += CROSS_PAIRS)
        cross_load_pairs(c, x, k, to + k * LANES);
    for (int64_t k = pairs; c->inner == 1 && k < c->width; k += c->tile)
        switch (c->tile) {
        case 1:
            cross_load_tile(c, x, elems, k, to + k * LANES, 1);
            break;
        case 2:
            cross_load_tile(c, x, elems, k, to + k * LANES, LANES < 2 ? LANES : 2);
            break;
        case 4:
            cross_load_tile(c, x, elems, k, to + k * LANES, LANES < 4 ? LANES : 4);
            break;
        case 8:
            cross_load_tile(c, x, elems, k, to + k * LANES, LANES < 8 ? LANES : 8);
            break;
        default:
            cross_load_tile(c, x, elems, k, to + k * LANES, LANES);
        }
}

/* `numbers`: no class is NaN. */
LK_INLINE void cross_store(const cross_rows *c, const real *from, elem *x, const bool numbers)
{
    for (int64_t k = 0; c->inner > 1 && k < c->width; k++)
        v_store(x + k * c->inner, v_read(from + k * LANES));
    const int64_t last = (c->width - 1) / c->tile * c->tile, pairs = numbers ? cross_pairs(c) : 0;
    for (int64_t k = last; c->inner == 1 && k >= pairs; k -= c->tile)
        switch (c->tile) {
        case 1:
            cross_store_tile(c, from + k * LANES, k, x, 1);
            break;
        case 2:
            cross_store_tile(c, from + k * LANES, k, x, LANES < 2 ? LANES : 2);
            break;
        case 4:
            cross_store_tile(c, from + k * LANES, k, x, LANES < 4 ? LANES : 4);
            break;
        case 8:
            cross_store_tile(c, from + k * LANES, k, x, LANES < 8 ? LANES : 8);
            break;
        default:
            cross_store_tile(c, from + k * LANES, k, x, LANES);
        }
    for (int64_t k = 0; k < pairs; k += CROSS_PAIRS)
        cross_store_pairs(c, from + k * LANES, k, x);
}

#endif
