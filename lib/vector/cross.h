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

#include "vector/turn.h"
#include "vector/vec.h"

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
    c.spread = (i >> shift) * each + m_select(past, last, k);
    const mask row = (i * (0x10000 / each + 1)) >> 16; /* i / each */
    c.close = (row * c.tile + (i - row * each)) & m_set(LANES - 1);
    return c;
}

/* One step for a tile of `tile` vectors, a constant, or back. */
LK_INLINE void cross_step(vec *v, const int tile, const bool back)
{
    vec next[LANES];
    const int half = tile / 2;
    for (int i = 0; i < half; i++) {
        next[back ? 2 * i : i] = back ? v_low(v[i], v[i + half]) : v_even(v[2 * i], v[2 * i + 1]);
        next[back ? 2 * i + 1 : i + half] =
            back ? v_high(v[i], v[i + half]) : v_odd(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < tile; i++)
        v[i] = next[i];
}

/* The rows of a tile to its vectors' lanes, or back. */
LK_INLINE void cross_turn(vec *v, const int tile, const bool back)
{
    if (tile == LANES) {
        v_turn(v);
        return;
    }
    UNROLLED
    for (int step = 1; step < tile; step *= 2)
        cross_step(v, tile, back);
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
    v_turn(v);
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v_write(to + i * LANES, v[i]);
}

/* What vectors are multiplied by on their way to memory: a + rest, of which elements of 32 bits
 * show the rest. */
typedef struct cross_factor {
    vec a, rest;
} cross_factor;

LK_INLINE vec cross_times(const cross_factor *by, vec x)
{
    return sizeof(elem) == 4 ? v_fma(by->a, x, by->rest * x) : by->a * x;
}

/* `by`: NULL for 1. */
LK_INLINE vec cross_read(const real *from, const cross_factor *by)
{
    const vec x = v_read(from);
    return by ? cross_times(by, x) : x;
}

LK_INLINE void cross_store_whole(const cross_rows *c, const real *from, int64_t k, elem *x,
                                 const cross_factor *by)
{
    vec v[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v[i] = cross_read(from + i * LANES, by);
    v_turn(v);
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v_store(x + i * c->width + k, v[i]);
}

/* The classes k.. of a tile of LANES rows at x, as a vector each. What a vector holds beyond its
 * rows' classes belongs to the next rows. Only where the last rows end there is nothing beyond:
 * partial loads and stores are slow. */
LK_INLINE void cross_take_tile(const cross_rows *c, const void *x, const bool elems, int64_t k,
                               vec *v, const int tile)
{
    const int rows = LANES / tile;
    const int64_t left = c->width - k, classes = left < tile ? left : tile;
    const bool spread = rows > 1 && classes < tile;
    UNROLLED
    for (int i = 0; i < tile; i++) {
        const int64_t at = i * rows * c->width + k, beyond = LANES * c->width - at;
        v[i] = cross_take(x, elems, at, beyond < LANES ? rows * classes : LANES);
        v[i] = spread ? v_permute(v[i], c->spread) : v[i];
    }
    cross_turn(v, tile, false);
}

LK_INLINE void cross_load_tile(const cross_rows *c, const void *x, const bool elems, int64_t k,
                               real *to, const int tile)
{
    vec v[LANES];
    cross_take_tile(c, x, elems, k, v, tile);
    for (int i = 0; i < tile; i++)
        v_write(to + i * LANES, v[i]);
}

/* The same to memory. It may overwrite the first classes of the next row: a row's first tile must
 * be stored last. */
LK_INLINE void cross_put_tile(const cross_rows *c, vec *v, int64_t k, elem *x, const int tile)
{
    const int rows = LANES / tile;
    const int64_t left = c->width - k, classes = left < tile ? left : tile;
    const bool spread = rows > 1 && classes < tile;
    cross_turn(v, tile, true);
    UNROLLED
    for (int i = 0; i < tile; i++) {
        const int64_t at = i * rows * c->width + k, beyond = LANES * c->width - at;
        v[i] = spread ? v_permute(v[i], c->close) : v[i];
        if (beyond < LANES)
            v_store_n(x + at, rows * classes, v[i]);
        else
            v_store(x + at, v[i]);
    }
}

LK_INLINE void cross_store_tile(const cross_rows *c, const real *from, int64_t k, elem *x,
                                const cross_factor *by, const int tile)
{
    vec v[LANES];
    for (int i = 0; i < tile; i++)
        v[i] = cross_read(from + i * LANES, by);
    cross_put_tile(c, v, k, x, tile);
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
    v_turn(v);
    UNROLLED
    for (int i = 0; i < LANES; i++) {
        v_write(to + 2 * i * LANES, (vec)((uvec)v[i] << 16));
        v_write(to + (2 * i + 1) * LANES, (vec)((uvec)v[i] & 0xffff0000u));
    }
}

/* Of numbers, not NaN. */
LK_INLINE void cross_store_pairs(const cross_rows *c, const real *from, int64_t k, elem *x,
                                 const cross_factor *by)
{
    vec v[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v[i] = (vec)h_join(cross_read(from + 2 * i * LANES, by),
                           cross_read(from + (2 * i + 1) * LANES, by));
    v_turn(v);
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

LK_INLINE void cross_store_pairs(const cross_rows *c, const real *from, int64_t k, elem *x,
                                 const cross_factor *by)
{
    (void)c, (void)x, (void)k, (void)from, (void)by;
}
#endif

/* How many classes are turned by twos, and how many in whole tiles, or by twos. */
LK_INLINE int64_t cross_pairs(const cross_rows *c)
{
    return CROSS_PAIRS > 0 && c->inner == 1 ? c->width & -(int64_t)CROSS_PAIRS : 0;
}

LK_INLINE int64_t cross_whole(const cross_rows *c)
{
    return c->inner == 1 ? c->width & -(int64_t)LANES : 0;
}

/* The classes from k on, fewer than LANES: a tile. */
LK_INLINE void cross_load_rest(const cross_rows *c, const void *x, const bool elems, int64_t k,
                               real *to)
{
    switch (c->tile) {
    case 1:
        cross_load_tile(c, x, elems, k, to, 1);
        break;
    case 2:
        cross_load_tile(c, x, elems, k, to, LANES < 2 ? LANES : 2);
        break;
    case 4:
        cross_load_tile(c, x, elems, k, to, LANES < 4 ? LANES : 4);
        break;
    case 8:
        cross_load_tile(c, x, elems, k, to, LANES < 8 ? LANES : 8);
        break;
    default:
        cross_load_tile(c, x, elems, k, to, LANES);
    }
}

LK_INLINE void cross_store_rest(const cross_rows *c, const real *from, int64_t k, elem *x,
                                const cross_factor *by)
{
    switch (c->tile) {
    case 1:
        cross_store_tile(c, from, k, x, by, 1);
        break;
    case 2:
        cross_store_tile(c, from, k, x, by, LANES < 2 ? LANES : 2);
        break;
    case 4:
        cross_store_tile(c, from, k, x, by, LANES < 4 ? LANES : 4);
        break;
    case 8:
        cross_store_tile(c, from, k, x, by, LANES < 8 ? LANES : 8);
        break;
    default:
        cross_store_tile(c, from, k, x, by, LANES);
    }
}

/* All classes of LANES rows of elements or of reals, as a vector each; `to` has room for
 * padded_lanes(width). */
LK_INLINE void cross_load(const cross_rows *c, const void *x, const bool elems, real *to)
{
    const int64_t pairs = elems ? cross_pairs(c) : 0, whole = cross_whole(c);
    for (int64_t k = 0; c->inner > 1 && k < c->width; k++)
        v_write(to + k * LANES, cross_take(x, elems, k * c->inner, LANES));
    for (int64_t k = 0; k < pairs; k += CROSS_PAIRS)
        cross_load_pairs(c, x, k, to + k * LANES);
    for (int64_t k = pairs; k < whole; k += LANES)
        cross_load_whole(c, x, elems, k, to + k * LANES);
    if (c->inner == 1 && whole < c->width)
        cross_load_rest(c, x, elems, whole, to + whole * LANES);
}

/* `numbers`: no class is NaN. `by`: see cross_read. */
LK_INLINE void cross_store(const cross_rows *c, const real *from, elem *x, const bool numbers,
                           const cross_factor *by)
{
    const int64_t pairs = numbers ? cross_pairs(c) : 0, whole = cross_whole(c);
    for (int64_t k = 0; c->inner > 1 && k < c->width; k++)
        v_store(x + k * c->inner, cross_read(from + k * LANES, by));
    if (c->inner == 1 && whole < c->width) /* before the others, of which it may overwrite some */
        cross_store_rest(c, from + whole * LANES, whole, x, by);
    for (int64_t k = pairs; k < whole; k += LANES)
        cross_store_whole(c, from + k * LANES, k, x, by);
    for (int64_t k = 0; k < pairs; k += CROSS_PAIRS)
        cross_store_pairs(c, from + k * LANES, k, x, by);
}

#endif
