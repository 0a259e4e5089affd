/* SPDX-License-Identifier: MIT
 *
 * Matrix products: see rows/product.h.
 *
 * The vectors of both sides are copied into panels, in which the components k of a few vectors lie
 * side by side. A panel of rows times a panel of columns is a tile of the result, whose sums stay
 * in registers. Panels of columns stay in the first-level cache while those of rows pass by, and
 * all panels of a block in the second-level cache.
 */
#include "rows/product.h"

#include "vector/vec.h"

/* Before a loop of a constant number of rounds: none is left of it, so that arrays which it indexes
 * lie in registers. */
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

/* A tile: rows, and vectors of columns. Its sums, a vector of each column and one of a row take as
 * many registers as there are. */
#if LK_VECTOR_BYTES == 64
enum { TILE_ROWS = 14, TILE_VECTORS = 2 };
#elif LK_VECTOR_BYTES == 32
enum { TILE_ROWS = 6, TILE_VECTORS = 2 };
#elif LK_VECTOR_BYTES == 16
enum { TILE_ROWS = 6, TILE_VECTORS = 4 };
#else
enum { TILE_ROWS = 4, TILE_VECTORS = 3 };
#endif

enum {
    TILE_COLUMNS = TILE_VECTORS * LANES,
    /* Reals from one component of a panel of rows to the next: whole vectors. */
    ROW_PANEL = (TILE_ROWS + LANES - 1) / LANES * LANES,
    /* How many panels make a block, of PRODUCT_TERMS components each. */
    BLOCK_ROWS = 10 * TILE_ROWS,
    BLOCK_COLUMNS = (sizeof(real) == 8 ? 256 : 512) / TILE_COLUMNS * TILE_COLUMNS,
};

/* Where lanes of two vectors alternate: those of their first halves, and of their second ones. */
LK_INLINE void zip(vec a, vec b, vec *low, vec *high)
{
#if LK_VECTOR_BYTES == 64 && !defined(LK_ELEMENT_F64)
    *low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *high =
        __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif LK_VECTOR_BYTES == 64 || (LK_VECTOR_BYTES == 32 && !defined(LK_ELEMENT_F64))
    *low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    *high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif LK_VECTOR_BYTES == 32 || (LK_VECTOR_BYTES == 16 && !defined(LK_ELEMENT_F64))
    *low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    *high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#elif LK_VECTOR_BYTES == 16
    *low = __builtin_shufflevector(a, b, 0, 2);
    *high = __builtin_shufflevector(a, b, 1, 3);
#else
    *low = a;
    *high = b;
#endif
}

/* Exchange rows and lanes: each round moves one bit of the index of a row to that of a lane. */
LK_INLINE void turn(vec x[LANES])
{
    UNROLLED
    for (int bit = 1; bit < LANES; bit *= 2) {
        vec y[LANES];
        UNROLLED
        for (int i = 0; i < LANES / 2; i++)
            zip(x[i], x[i + LANES / 2], &y[2 * i], &y[2 * i + 1]);
        UNROLLED
        for (int i = 0; i < LANES; i++)
            x[i] = y[i];
    }
}

/* `n` numbers from index i of a side on, 0 <= n <= LANES; 0 in the other lanes. */
LK_INLINE vec side_read(const bool elements, const void *at, int64_t i, int64_t n)
{
    if (n <= 0)
        return (vec){0};
    return elements ? v_load_tail((const elem *)at + i, n, 0)
                    : v_read_tail((const real *)at + i, n, 0);
}

LK_INLINE int64_t at_most(int64_t n, int64_t most)
{
    return n < most ? n : most;
}

/* Copy components k..k+depth-1 of vectors i..i+count-1 to a panel; vectors that are missing up to
 * `width` are 0. */
LK_INLINE void panel_fill(const bool elements, const product_side *side, int64_t i, int64_t count,
                          const int width, int64_t k, int64_t depth, real *to)
{
    if (side->step != 1) {
        for (int64_t d = 0; d < depth; d++)
            for (int w = 0; w < width; w += LANES)
                v_write(to + d * width + w,
                        side_read(elements, side->at, (k + d) * side->step + i + w,
                                  at_most(count - w, LANES)));
        return;
    }
    for (int w = 0; w < width; w += LANES) {
        for (int64_t d = 0; d < depth; d += LANES) {
            const int64_t n = at_most(depth - d, LANES);
            vec x[LANES];
            UNROLLED
            for (int r = 0; r < LANES; r++)
                x[r] = side_read(elements, side->at, (i + w + r) * side->apart + k + d,
                                 w + r < count ? n : 0);
            turn(x);
            UNROLLED
            for (int r = 0; r < LANES; r++)
                if (r < n)
                    v_write(to + (d + r) * width + w, x[r]);
        }
    }
}

/* The panels of `count` vectors, `each` in one; `depth` times `width` reals apart. */
LK_INLINE void panels_fill(const product_side *side, int64_t i, int64_t count, const int each,
                           const int width, int64_t k, int64_t depth, real *to)
{
    for (int64_t p = 0; p < count; p += each, to += depth * width) {
        const int64_t many = at_most(count - p, each);
        if (side->elements && sizeof(elem) != sizeof(real))
            panel_fill(true, side, i + p, many, width, k, depth, to);
        else
            panel_fill(false, side, i + p, many, width, k, depth, to);
    }
}

/* A tile of the result, of whole panels. */
LK_INLINE void tile_add(const real *a, const real *b, int64_t depth, bool onto, real *out,
                        int64_t stride)
{
    vec sum[TILE_ROWS][TILE_VECTORS] = {{{0}}};
    for (int64_t k = 0; k < depth; k++) {
        vec column[TILE_VECTORS];
        UNROLLED
        for (int v = 0; v < TILE_VECTORS; v++)
            column[v] = v_read(b + v * LANES);
        UNROLLED
        for (int r = 0; r < TILE_ROWS; r++) {
            const vec row = v_set(a[r]);
            UNROLLED
            for (int v = 0; v < TILE_VECTORS; v++)
                sum[r][v] = v_fma(row, column[v], sum[r][v]);
        }
        a += ROW_PANEL;
        b += TILE_COLUMNS;
    }
    UNROLLED
    for (int r = 0; r < TILE_ROWS; r++) {
        UNROLLED
        for (int v = 0; v < TILE_VECTORS; v++) {
            real *to = out + r * stride + v * LANES;
            v_write(to, onto ? v_read(to) + sum[r][v] : sum[r][v]);
        }
    }
}

/* The same at the edges of the result, where only some rows and columns exist. */
static void tile_edge(const real *a, const real *b, int64_t depth, bool onto, int64_t rows,
                      int64_t columns, real *out, int64_t stride)
{
    real tile[TILE_ROWS * TILE_COLUMNS] = {0};
    for (int64_t r = 0; onto && r < rows; r++)
        memcpy(tile + r * TILE_COLUMNS, out + r * stride, (size_t)columns * sizeof *tile);
    tile_add(a, b, depth, onto, tile, TILE_COLUMNS);
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * stride, tile + r * TILE_COLUMNS, (size_t)columns * sizeof *tile);
}

/* A block of the result, from the panels of its rows and columns. */
static void block_add(const real *a, const real *b, int64_t depth, bool onto, int64_t rows,
                      int64_t columns, real *out, int64_t stride)
{
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS, b += depth * TILE_COLUMNS) {
        const real *panel = a;
        for (int64_t i = 0; i < rows; i += TILE_ROWS, panel += depth * ROW_PANEL) {
            real *to = out + i * stride + j;
            if (rows - i >= TILE_ROWS && columns - j >= TILE_COLUMNS)
                tile_add(panel, b, depth, onto, to, stride);
            else
                tile_edge(panel, b, depth, onto, at_most(rows - i, TILE_ROWS),
                          at_most(columns - j, TILE_COLUMNS), to, stride);
        }
    }
}

/* Reals of the panels of a block. */
static int64_t row_panels(int64_t rows, int64_t depth)
{
    const int64_t panels = (at_most(rows, BLOCK_ROWS) + TILE_ROWS - 1) / TILE_ROWS;
    return panels * ROW_PANEL * at_most(depth, PRODUCT_TERMS);
}

static int64_t column_panels(int64_t columns, int64_t depth)
{
    const int64_t panels = (at_most(columns, BLOCK_COLUMNS) + TILE_COLUMNS - 1) / TILE_COLUMNS;
    return panels * TILE_COLUMNS * at_most(depth, PRODUCT_TERMS);
}

size_t product_scratch(int64_t rows, int64_t columns, int64_t depth)
{
    const int64_t reals = column_panels(columns, depth) + row_panels(rows, depth);
    return ((size_t)reals * sizeof(real) + LK_LINE - 1) / LK_LINE * LK_LINE;
}

void product(const product_side *rows, const product_side *columns, int64_t depth, bool onto,
             real *out, int64_t stride, void *scratch)
{
    real *b = scratch, *a = b + column_panels(columns->count, depth);
    for (int64_t j = 0; j < columns->count; j += BLOCK_COLUMNS) {
        const int64_t across = at_most(columns->count - j, BLOCK_COLUMNS);
        for (int64_t k = 0; k < depth || k == 0; k += PRODUCT_TERMS) {
            const int64_t deep = at_most(depth - k, PRODUCT_TERMS);
            panels_fill(columns, j, across, TILE_COLUMNS, TILE_COLUMNS, k, deep, b);
            for (int64_t i = 0; i < rows->count; i += BLOCK_ROWS) {
                const int64_t high = at_most(rows->count - i, BLOCK_ROWS);
                panels_fill(rows, i, high, TILE_ROWS, ROW_PANEL, k, deep, a);
                block_add(a, b, deep, onto || k > 0, high, across, out + i * stride + j, stride);
            }
        }
    }
}
