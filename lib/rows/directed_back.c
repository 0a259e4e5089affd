/* SPDX-License-Identifier: MIT
 *
 * The gradients of InfoNCE in several directions: see rows/directed_back.h.
 */
#include "rows/directed_back.h"

#include "rows/product.h"
#include "vector/vmath.h"

enum { OTHERS = 4 * PRODUCT_TERMS }; /* how many vectors a product gathers from at a time */

static size_t back_products(const directed *p)
{
    const int64_t rows = at_most(DIRECTED_ROWS, p->candidates);
    return product_scratch(rows, at_most(OTHERS, p->candidates));
}

static void clear(real *g, int64_t n)
{
    memset(g, 0, (size_t)n * sizeof *g);
}

/* Slopes of all rows, as arrays. */
typedef struct slopes {
    real *by[2], *top[2], *off, *pull;
} slopes;

enum { SLOPES = 6 };

/* Settle all rows. */
static slopes settle_all(const directed *p, real *room)
{
    const int64_t w = padded_lanes(p->anchors);
    const slopes g = {{room, room + w}, {room + 2 * w, room + 3 * w}, room + 4 * w, room + 5 * w};
    for (int64_t i = 0; i < p->anchors; i++) {
        const directed_row r = directed_settle(p, i);
        for (int pool = 0; pool < 2; pool++) {
            g.by[pool][i] = (real)r.by[pool];
            g.top[pool][i] = (real)r.top[pool];
        }
        g.off[i] = (real)r.off;
        g.pull[i] = (real)r.pull;
    }
    return g;
}

/* G of some entries: by e^(x - top). */
LK_INLINE vec slope_of(vec x, vec by, vec top)
{
    const mask there = (x != v_set(-(real)INFINITY)) & (by != (vec){0});
    return v_where(there, by * v_exp_nonpos(x - top));
}

/* to += G of the entries of a line of row i, times `factor`; `off` less each. */
static void add_row(const slopes *g, const real *x, int64_t i, real off, double factor, int64_t n,
                    real *to)
{
    const vec none = v_set(-(real)INFINITY), times = v_set((real)factor);
    const vec by = v_set(g->by[0][i]), top = v_set(g->top[0][i]), less = v_set(off);
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t left = LK_TAIL(k, n);
        const vec y = v_read_tail(x + k, left, -(real)INFINITY);
        const vec slope = v_where(y != none, slope_of(y, by, top) - less);
        v_write_n(to + k, left, v_read_tail(to + k, left, 0) + times * slope);
    }
}

/* The same of a line whose entries are by column, of rows from i on, one after another. */
static void add_column(const slopes *g, const real *x, int64_t i, int64_t n, real *to)
{
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t left = LK_TAIL(k, n);
        const vec slope = slope_of(v_read_tail(x + k, left, -(real)INFINITY),
                                   v_read_tail(g->by[1] + i + k, left, 0),
                                   v_read_tail(g->top[1] + i + k, left, 0));
        v_write_n(to + k, left, v_read_tail(to + k, left, 0) + slope);
    }
}

/* to = G of row i of what compares a set with itself, times `factor`: of all columns where it is
 * this row's, and of those that are rows where it is theirs. */
static void put_own(const directed *p, const slopes *g, const directed_table *t, double factor,
                    int64_t i, int64_t columns, const lines *l, real *to)
{
    const int64_t at = i * t->stride, rows = p->anchors;
    const real *x = directed_line(p, t, at, i, 0, columns, l->ac);
    const real *z = directed_line(p, t, at, 0, 1, rows, l->aa);
    const vec by = v_set(g->by[0][i]), top = v_set(g->top[0][i]), times = v_set((real)factor);
    for (int64_t k = 0; k < rows; k += LANES) {
        const int64_t left = LK_TAIL(k, rows);
        const vec own = slope_of(v_read_tail(x + k, left, 0), by, top);
        const vec theirs = slope_of(v_read_tail(z + k, left, 0), v_read_tail(g->by[0] + k, left, 0),
                                    v_read_tail(g->top[0] + k, left, 0));
        v_write_n(to + k, left, times * own + times * theirs);
    }
    for (int64_t k = rows; k < columns; k += LANES) {
        const int64_t left = LK_TAIL(k, columns);
        v_write_n(to + k, left, times * slope_of(v_read_tail(x + k, left, 0), by, top));
    }
}

/* G of query_to_doc of row i, candidates j..j+n-1. */
static void candidate_slopes(const lk_job *job, const directed *p, const slopes *g, int64_t i,
                             int64_t j, int64_t n, const lines *l, real *to)
{
    const int64_t y = p->positive[i] - j;
    directed_candidate_line(job, p, i, j, n, l->ac);
    add_row(g, l->ac, i, g->off[i], 1, n, to);
    if (y >= 0 && y < n)
        to[y] += g->pull[i];
}

/* G of doc_to_query with the anchor of row i, of the rows whose positives are candidates
 * j..j+n-1. */
static void column_slopes(const directed *p, const slopes *g, int64_t i, int64_t j, int64_t n,
                          const lines *l, real *to)
{
    const int64_t positives = positives_of(p), first = p->start[at_most(j, positives)];
    const int64_t count = p->start[at_most(j + n, positives)] - first;
    real *found = l->room; /* column_line has read it */
    directed_column_line(p, i, first, count, l->aa, l->room);
    if (positives == p->anchors) { /* each row has its own */
        add_column(g, l->aa, first, count, to);
        return;
    }
    clear(found, count);
    add_column(g, l->aa, first, count, found);
    for (int64_t k = 0; k < count; k++)
        to[p->positive[first + k] - j] += found[k];
}

/* by_h of `count` vectors: the sum of G, whose rows are `stride` apart, times the vectors of
 * `others`. */
static void gather(const real *g, int64_t count, int64_t stride, const pair_units *others,
                   bool onto, real *by_h, void *room)
{
    for (int64_t j = 0, n; j < others->rows || (j == 0 && !onto); j += n) {
        n = at_most(others->rows - j, OTHERS);
        const product_side a = product_vectors(g + j, count, stride);
        const product_side b = {.at = others->h + j * others->stride,
                                .count = others->stride,
                                .apart = 1,
                                .step = others->stride};
        product(&a, &b, n, onto || j > 0, by_h, others->stride, room);
        if (n == 0)
            break;
    }
}

/* Scratch of a pass: products; lines; slopes; gradients by h; and G of a part of the tables. */

static real *by_h_in(const directed *p, const lines *l)
{
    return l->after + SLOPES * padded_lanes(p->anchors);
}

static real *part_in(const directed *p, const lines *l)
{
    return by_h_in(p, l) + DIRECTED_ROWS * p->model.anchors.stride;
}

/* G of a chunk of rows, or of as many columns of some rows. */
static int64_t part_reals(const directed *p)
{
    const int64_t rows = DIRECTED_ROWS * padded_lanes(p->candidates);
    const int64_t columns =
        at_most(OTHERS, p->anchors) * padded_lanes(at_most(DIRECTED_ROWS, p->candidates));
    return rows > columns ? rows : columns;
}

size_t directed_scratch(const directed *p)
{
    const size_t products = directed_visit_products(p), back = back_products(p);
    const int64_t visit = padded_lanes(p->anchors);
    const int64_t pass = SLOPES * visit + DIRECTED_ROWS * p->model.anchors.stride + part_reals(p);
    return (products > back ? products : back) +
           (size_t)(lines_reals(p) + (visit > pass ? visit : pass)) * sizeof(real);
}

const real *directed_anchors(const lk_job *job, const directed *p, int64_t first, int64_t count,
                             void *scratch)
{
    const lines l = lines_of(p, scratch, back_products(p));
    const slopes all = settle_all(p, l.after), *g = &all;
    real *by_h = by_h_in(p, &l), *part = part_in(p, &l);
    const int64_t w = p->ac.stride, own = p->aa.stride;
    clear(part, count * w);
    for (int64_t r = 0; r < count; r++) {
        candidate_slopes(job, p, g, first + r, 0, p->candidates, &l, part + r * w);
        if (has(p, DOC_TO_QUERY))
            column_slopes(p, g, first + r, 0, p->candidates, &l, part + r * w);
    }
    gather(part, count, w, &p->model.candidates, false, by_h, scratch);
    if (!p->aa.s)
        return by_h;
    for (int64_t r = 0; r < count; r++)
        put_own(p, g, &p->aa, p->lack_a / p->lack_c, first + r, p->anchors, &l, part + r * own);
    gather(part, count, own, &p->model.anchors, true, by_h, scratch);
    return by_h;
}

/* by_h of `count` candidates: over rows i.. of G times the vectors of `others`. */
static void gather_columns(const real *g, int64_t rows, int64_t count, int64_t stride,
                           const pair_units *others, int64_t i, bool onto, real *by_h, void *room)
{
    const product_side a = {.at = g, .count = count, .apart = 1, .step = stride};
    const product_side b = {.at = others->h + i * others->stride,
                            .count = others->stride,
                            .apart = 1,
                            .step = others->stride};
    product(&a, &b, rows, onto, by_h, others->stride, room);
}

/* From the first table. */
static void from_anchors(const lk_job *job, const directed *p, const slopes *g, int64_t first,
                         int64_t count, const lines *l, real *by_h, void *room)
{
    const int64_t w = padded_lanes(count);
    real *part = part_in(p, l);
    for (int64_t i = 0, n; i == 0 || i < p->anchors; i += n) {
        n = at_most(p->anchors - i, OTHERS);
        clear(part, n * w);
        for (int64_t r = 0; r < n; r++) {
            candidate_slopes(job, p, g, i + r, first, count, l, part + r * w);
            if (has(p, DOC_TO_QUERY))
                column_slopes(p, g, i + r, first, count, l, part + r * w);
        }
        gather_columns(part, n, count, w, &p->model.anchors, i, i > 0, by_h, room);
        if (n == 0)
            break;
    }
}

/* From the third: of candidates that are positives, and of others. */

static void from_candidates(const directed *p, const slopes *g, int64_t first, int64_t count,
                            const lines *l, real *by_h, void *room)
{
    const int64_t w = p->cc.stride;
    real *part = part_in(p, l);
    for (int64_t r = 0; r < count; r++)
        put_own(p, g, &p->cc, p->lack_c / p->lack_a, first + r, p->candidates, l, part + r * w);
    gather(part, count, w, &p->model.candidates, true, by_h, room);
}

static void from_positives(const directed *p, const slopes *g, int64_t first, int64_t count,
                           const lines *l, real *by_h, void *room)
{
    const int64_t w = padded_lanes(count);
    real *part = part_in(p, l);
    for (int64_t i = 0, n; i < p->anchors; i += n) {
        n = at_most(p->anchors - i, OTHERS);
        clear(part, n * w);
        for (int64_t r = 0; r < n; r++) {
            const int64_t at = (i + r) * p->cc.stride + first;
            const real *x = directed_line(p, &p->cc, at, i + r, 0, count, l->cc);
            add_row(g, x, i + r, 0, p->lack_c / p->lack_a, count, part + r * w);
        }
        gather_columns(part, n, count, w, &p->model.candidates, i, true, by_h, room);
    }
}

const real *directed_candidates(const lk_job *job, const directed *p, int64_t first, int64_t count,
                                void *scratch)
{
    const lines l = lines_of(p, scratch, back_products(p));
    const slopes g = settle_all(p, l.after);
    real *by_h = by_h_in(p, &l);
    const int64_t positives = at_most(p->anchors > first ? p->anchors - first : 0, count);
    from_anchors(job, p, &g, first, count, &l, by_h, scratch);
    if (p->cc.s && positives > 0)
        from_candidates(p, &g, first, positives, &l, by_h, scratch);
    if (p->cc.s && positives < count)
        from_positives(p, &g, first + positives, count - positives, &l,
                       by_h + positives * p->model.candidates.stride, scratch);
    return by_h;
}
