/* SPDX-License-Identifier: MIT
 *
 * Matrix products: see rows/product.h.
 *
 * The vectors of both sides are copied into panels, in which the components k of a few vectors lie
 * side by side. A panel of rows times a panel of columns is a tile of the result, whose sums stay
 * in registers. Panels of many rows are copied first; then the columns pass by, one panel at a
 * time, which stays in the first-level cache while it is multiplied with all of them. So columns
 * are read from memory once and in order; what is copied next is fetched meanwhile.
 */
#include "rows/product.h"

#include "rows/room.h"
#include "vector/turn.h"
#include "vector/vec.h"

/* A tile: rows, and vectors of columns. Its sums, a vector of each column and one of a row take
 * nearly as many registers as there are, and its rows make whole panels of vectors. */
#if LK_VECTOR_BYTES == 64 || LK_VECTOR_BYTES == 16
enum { TILE_ROWS = 8, TILE_VECTORS = 3 };
#else
enum { TILE_ROWS = 4, TILE_VECTORS = 3 };
#endif

enum {
    TILE_COLUMNS = TILE_VECTORS * LANES,
    /* The rows of a panel: one tile or more. */
    ROW_PANEL = TILE_ROWS > (int)LANES ? TILE_ROWS : LANES,
    /* The rows that columns pass by, and how many of their components. */
    BLOCK_ROWS = 512,
    BLOCK_DEPTH = 8 * PRODUCT_TERMS,
};

/* `n` numbers from index i of a side on, 0 <= n <= LANES; 0 in the other lanes. */
LK_INLINE vec side_read(const bool elements, const void *at, int64_t i, int64_t n)
{
    if (n <= 0)
        return (vec){0};
    return elements ? v_load_tail((const elem *)at + i, n, 0)
                    : v_read_tail((const real *)at + i, n, 0);
}

/* Panels of some vectors, `each` in one; the last may be narrower, a multiple of `unit`, where
 * missing vectors are 0. */
typedef struct panels {
    int64_t count, each, unit;
    int64_t depth;
} panels;

LK_INLINE int64_t panel_width(const panels *p, int64_t first)
{
    return at_most((p->count - first + p->unit - 1) / p->unit * p->unit, p->each);
}

/* From a side where vectors lie beside each other: components k.. of vectors i... */
LK_INLINE void panels_copy(const bool elements, const panels *p, const product_side *side,
                           int64_t i, int64_t k, real *to)
{
    for (int64_t first = 0; first < p->count; first += p->each, to += p->depth * p->each) {
        const int64_t width = panel_width(p, first), left = p->count - first;
        for (int64_t d = 0; d < p->depth; d++) {
            const int64_t at = (k + d) * side->step + i + first;
            for (int64_t w = 0; w < width; w += LANES)
                v_write(to + d * width + w,
                        side_read(elements, side->at, at + w, at_most(left - w, LANES)));
        }
    }
}

/* LANES vectors of at most LANES components, of which `many` have `deep`, turned. */
LK_INLINE void panel_turn(const bool elements, const bool whole, const product_side *side,
                          int64_t i, int64_t many, int64_t k, int64_t deep, real *to, int64_t width)
{
    vec x[LANES];
    UNROLLED
    for (int r = 0; r < LANES; r++)
        x[r] = side_read(elements, side->at, (i + r) * side->apart + k,
                         whole      ? LANES
                         : r < many ? deep
                                    : 0);
    v_turn(x);
    UNROLLED
    for (int r = 0; r < LANES; r++)
        if (whole || r < deep)
            v_write(to + r * width, x[r]);
}

/* The same from a side where the components of a vector lie beside each other. */
LK_INLINE void panels_turn(const bool elements, const panels *p, const product_side *side,
                           int64_t i, int64_t k, real *to)
{
    for (int64_t first = 0; first < p->count; first += p->each, to += p->depth * p->each) {
        const int64_t width = panel_width(p, first);
        for (int64_t w = 0; w < width; w += LANES) {
            const int64_t many = p->count - first - w;
            for (int64_t d = 0; d < p->depth; d += LANES) {
                const int64_t deep = at_most(p->depth - d, LANES);
                real *at = to + d * width + w;
                if (many >= LANES && deep == LANES)
                    panel_turn(elements, true, side, i + first + w, 0, k + d, 0, at, width);
                else
                    panel_turn(elements, false, side, i + first + w, many, k + d, deep, at, width);
            }
        }
    }
}

LK_INLINE void panels_from(const bool elements, const panels *p, const product_side *side,
                           int64_t i, int64_t k, real *to)
{
    if (side->step == 1)
        panels_turn(elements, p, side, i, k, to);
    else
        panels_copy(elements, p, side, i, k, to);
}

static void panels_fill(const panels *p, const product_side *side, int64_t i, int64_t k, real *to)
{
    if (side->elements && sizeof(elem) != sizeof(real))
        panels_from(true, p, side, i, k, to);
    else
        panels_from(false, p, side, i, k, to);
}

/* What is copied into the next panel of columns: pieces of memory, in bytes. They are fetched while
 * tiles are computed, which leave memory idle. */
typedef struct ahead {
    uintptr_t at;
    int64_t pieces, length, apart;
} ahead;

/* Components k..k+deep-1 of `count` vectors from vector j on; none if there are none. */
static ahead ahead_of(const product_side *side, int64_t j, int64_t count, int64_t k, int64_t deep)
{
    const int64_t size = side->elements ? sizeof(elem) : sizeof(real);
    const bool whole = side->step == 1;
    return (ahead){.at =
                       (uintptr_t)side->at + (uintptr_t)((j * side->apart + k * side->step) * size),
                   .pieces = whole ? count : deep,
                   .length = (whole ? deep : count) * size,
                   .apart = (whole ? side->apart : side->step) * size};
}

static void ahead_fetch(ahead *next, int64_t pieces)
{
    enum { READ, SECOND_LEVEL = 2 };
    for (; pieces > 0 && next->pieces > 0; pieces--, next->pieces--) {
        const uintptr_t end = next->at + (uintptr_t)next->length;
        for (uintptr_t line = next->at / LK_LINE * LK_LINE; line < end; line += LK_LINE)
            __builtin_prefetch((const void *)line, READ, SECOND_LEVEL);
        next->at += (uintptr_t)next->apart;
    }
}

/* A tile of the result, of that many vectors of columns. Its lines are fetched while the sums are
 * computed. */
LK_INLINE void tile_of(const int vectors, const real *a, const real *b, int64_t depth, bool onto,
                       real *out, int64_t stride)
{
    vec sum[TILE_ROWS][TILE_VECTORS] = {{{0}}};
    UNROLLED
    for (int r = 0; r < TILE_ROWS; r++) {
        UNROLLED
        for (int v = 0; v < vectors; v++)
            __builtin_prefetch(out + r * stride + v * LANES, 1);
    }
    for (int64_t k = 0; k < depth; k++) {
        vec column[TILE_VECTORS];
        UNROLLED
        for (int v = 0; v < vectors; v++)
            column[v] = v_read(b + v * LANES);
        UNROLLED
        for (int r = 0; r < TILE_ROWS; r++) {
            const vec row = v_set(a[r]);
            UNROLLED
            for (int v = 0; v < vectors; v++)
                sum[r][v] = v_fma(row, column[v], sum[r][v]);
        }
        a += ROW_PANEL;
        b += vectors * LANES;
    }
    UNROLLED
    for (int r = 0; r < TILE_ROWS; r++) {
        UNROLLED
        for (int v = 0; v < vectors; v++) {
            real *to = out + r * stride + v * LANES;
            v_write(to, onto ? v_read(to) + sum[r][v] : sum[r][v]);
        }
    }
}

static void tile_add(int64_t columns, const real *a, const real *b, int64_t depth, bool onto,
                     real *out, int64_t stride)
{
    if (columns > 2 * LANES)
        tile_of(3, a, b, depth, onto, out, stride);
    else if (columns > LANES)
        tile_of(2, a, b, depth, onto, out, stride);
    else
        tile_of(1, a, b, depth, onto, out, stride);
}

/* The same at the edges of the result, where not all rows, or not whole vectors, exist. */
static void tile_edge(int64_t rows, int64_t columns, const real *a, const real *b, int64_t depth,
                      bool onto, real *out, int64_t stride)
{
    real tile[TILE_ROWS * TILE_COLUMNS] = {0};
    for (int64_t r = 0; onto && r < rows; r++)
        memcpy(tile + r * TILE_COLUMNS, out + r * stride, (size_t)columns * sizeof *tile);
    tile_add(columns, a, b, depth, onto, tile, TILE_COLUMNS);
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * stride, tile + r * TILE_COLUMNS, (size_t)columns * sizeof *tile);
}

static int64_t padded_rows(int64_t rows)
{
    return (rows + ROW_PANEL - 1) / ROW_PANEL * ROW_PANEL;
}

/* Reals of a panel of columns. */
static int64_t column_panel(int64_t depth)
{
    return TILE_COLUMNS * at_most(depth, PRODUCT_TERMS);
}

size_t product_scratch(int64_t rows, int64_t depth)
{
    const int64_t high = padded_rows(at_most(rows, BLOCK_ROWS));
    const int64_t reals = column_panel(depth) + high * at_most(depth, BLOCK_DEPTH);
    return whole_lines((size_t)reals * sizeof(real));
}

/* Some rows, and components first..end-1 of all vectors. */
typedef struct block {
    const product_side *columns;
    int64_t rows, first, end;
    bool onto;
    real *out;
    int64_t stride;
    real *a, *b; /* panels of the rows, and one of columns */
} block;

/* The rows by a panel of columns, with `deep` components of each from component k on. */
static void strip_add(const block *p, int64_t j, int64_t across, int64_t k, int64_t deep,
                      ahead *next)
{
    const real *a = p->a + (k - p->first) * padded_rows(p->rows);
    const bool onto = p->onto || k > 0;
    const int64_t each = (next->pieces * TILE_ROWS + p->rows - 1) / p->rows;
    for (int64_t i = 0; i < p->rows; i += TILE_ROWS) {
        const int64_t within = i % ROW_PANEL, high = at_most(p->rows - i, TILE_ROWS);
        const real *panel = a + (i - within) * deep + within;
        real *to = p->out + i * p->stride + j;
        ahead_fetch(next, each);
        if (high == TILE_ROWS && across % LANES == 0)
            tile_add(across, panel, p->b, deep, onto, to, p->stride);
        else
            tile_edge(high, across, panel, p->b, deep, onto, to, p->stride);
    }
}

static void block_add(const block *p)
{
    const product_side *columns = p->columns;
    for (int64_t j = 0; j < columns->count; j += TILE_COLUMNS) {
        const int64_t across = at_most(columns->count - j, TILE_COLUMNS);
        const int64_t after = at_most(columns->count - j - across, TILE_COLUMNS);
        int64_t k = p->first;
        do { /* once even if there are no components, for zeros */
            const int64_t deep = at_most(p->end - k, PRODUCT_TERMS);
            const int64_t left = at_most(p->end - k - deep, PRODUCT_TERMS);
            const panels beside = {across, TILE_COLUMNS, LANES, deep};
            ahead next = left > 0 ? ahead_of(columns, j, across, k + deep, left)
                                  : ahead_of(columns, j + across, after, p->first,
                                             at_most(p->end - p->first, PRODUCT_TERMS));
            panels_fill(&beside, columns, j, k, p->b);
            strip_add(p, j, across, k, deep, &next);
            k += deep;
        } while (k < p->end);
    }
}

void product(const product_side *rows, const product_side *columns, int64_t depth, bool onto,
             real *out, int64_t stride, void *scratch)
{
    block p = {.columns = columns, .onto = onto, .stride = stride, .b = scratch};
    p.a = p.b + column_panel(depth);
    for (int64_t i = 0; i < rows->count; i += BLOCK_ROWS) {
        p.rows = at_most(rows->count - i, BLOCK_ROWS);
        p.out = out + i * stride;
        p.first = 0;
        do {
            p.end = at_most(depth, p.first + BLOCK_DEPTH);
            for (int64_t k = p.first; k < p.end; k += PRODUCT_TERMS) {
                const panels below = {p.rows, ROW_PANEL, ROW_PANEL,
                                      at_most(p.end - k, PRODUCT_TERMS)};
                panels_fill(&below, rows, i, k, p.a + (k - p.first) * padded_rows(p.rows));
            }
            block_add(&p);
            p.first = p.end;
        } while (p.first < depth);
    }
}
