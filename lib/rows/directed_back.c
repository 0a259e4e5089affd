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
    return product_scratch(rows, p->model.anchors.stride, at_most(OTHERS, p->candidates));
}

/* Slopes of all rows, as arrays. */
typedef struct slopes {
    real *by[2], *top[2], *off, *pull;
} slopes;

enum { SLOPES = 6 };

/* Settle all rows. Pool 1 is sorted by positive. */
static slopes settle_all(const directed *p, real *room)
{
    const int64_t w = p->anchors_padded;
    const slopes g = {{room, room + w}, {room + 2 * w, room + 3 * w}, room + 4 * w, room + 5 * w};
    for (int64_t i = 0; i < p->anchors; i++) {
        const directed_row r = directed_settle(p, i);
        const int64_t at = p->rank[i];
        g.by[0][i] = (real)r.by[0];
        g.top[0][i] = (real)r.top[0];
        g.by[1][at] = (real)r.by[1];
        g.top[1][at] = (real)r.top[1];
        g.off[i] = (real)r.off;
        g.pull[i] = (real)r.pull;
    }
    return g;
}

/* to += G of the entries of a line, times `factor`; `step` 0: by, top and off are one row's. */
static void add_slopes(const real *x, const real *by, const real *top, const real *off,
                       int64_t step, double factor, int64_t n, real *to)
{
    const vec none = v_set(-(real)INFINITY), times = v_set((real)factor);
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t left = LK_TAIL(k, n);
        const vec y = v_read_tail(x + k, left, -(real)INFINITY);
        const vec c = step ? v_read_tail(by + k, left, 0) : v_set(*by);
        const vec t = step ? v_read_tail(top + k, left, 0) : v_set(*top);
        vec g = c * v_exp_nonpos(y - t);
        if (off)
            g -= v_set(*off);
        g = v_where((y != none) & (c != (vec){0}), g);
        v_write_n(to + k, left, v_read_tail(to + k, left, 0) + times * g);
    }
}

/* G of query_to_doc of row i, candidates j..j+n-1. */
static void candidate_slopes(const lk_job *job, const directed *p, const slopes *g, int64_t i,
                             int64_t j, int64_t n, const lines *l, real *to)
{
    const int64_t y = p->positive[i] - j;
    directed_candidate_line(job, p, i, j, n, l->ac);
    add_slopes(l->ac, g->by[0] + i, g->top[0] + i, p->smoothing > 0 ? g->off + i : NULL, 0, 1, n,
               to);
    if (y >= 0 && y < n)
        to[y] += g->pull[i];
}

/* G of doc_to_query with anchor i, of the rows whose positives are candidates j..j+n-1. */
static void column_slopes(const directed *p, const slopes *g, int64_t i, int64_t j, int64_t n,
                          const lines *l, real *to)
{
    const int64_t m = p->start[j], count = p->start[j + n] - m;
    real *found = l->room; /* column_line has read it */
    directed_column_line(p, i, m, count, l->column, l->room);
    memset(found, 0, (size_t)count * sizeof *found);
    add_slopes(l->column, g->by[1] + m, g->top[1] + m, NULL, 1, 1, count, found);
    for (int64_t k = 0; k < count; k++)
        to[p->positive[p->order[m + k]] - j] += found[k];
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

static real *cleared(real *g, int64_t n)
{
    memset(g, 0, (size_t)n * sizeof *g);
    return g;
}

/* Scratch of a pass: products; lines; slopes; gradients by h; and G of a part of the tables. */

static real *by_h_in(const directed *p, const lines *l)
{
    return l->after + SLOPES * p->anchors_padded;
}

static real *part_in(const directed *p, const lines *l)
{
    return by_h_in(p, l) + DIRECTED_ROWS * p->model.anchors.stride;
}

static int64_t part_reals(const directed *p)
{
    const int64_t n = p->candidates_padded;
    const int64_t columns = padded_lanes(DIRECTED_ROWS) * at_most(padded_lanes(OTHERS), n + LANES);
    return DIRECTED_ROWS * n > columns ? DIRECTED_ROWS * n : columns;
}

size_t directed_scratch(const directed *p)
{
    const size_t visit = directed_visit_products(p), back = back_products(p);
    const int64_t reals = lines_reals(p) + SLOPES * p->anchors_padded +
                          DIRECTED_ROWS * p->model.anchors.stride + part_reals(p);
    return (visit > back ? visit : back) + (size_t)reals * sizeof(real);
}

const real *directed_anchors(const lk_job *job, const directed *p, int64_t first, int64_t count,
                             void *scratch)
{
    const lines l = lines_of(p, scratch, back_products(p));
    const slopes g = settle_all(p, l.after);
    real *by_h = by_h_in(p, &l), *part = part_in(p, &l);
    const int64_t w = p->candidates_padded;
    cleared(part, count * w);
    for (int64_t r = 0; r < count; r++) {
        candidate_slopes(job, p, &g, first + r, 0, p->candidates, &l, part + r * w);
        if (has(p, DOC_TO_QUERY))
            column_slopes(p, &g, first + r, 0, p->candidates, &l, part + r * w);
    }
    gather(part, count, w, &p->model.candidates, false, by_h, scratch);
    if (!p->model.aa)
        return by_h;
    const double factor = p->lack_a / p->lack_c;
    cleared(part, count * p->anchors_padded);
    for (int64_t r = 0; r < count; r++) {
        const int64_t i = first + r;
        real *to = part + r * p->anchors_padded;
        directed_anchor_line(p, i, false, l.aa);
        add_slopes(l.aa, g.by[0] + i, g.top[0] + i, NULL, 0, factor, p->anchors, to);
        directed_anchor_line(p, i, true, l.aa);
        add_slopes(l.aa, g.by[0], g.top[0], NULL, 1, factor, p->anchors, to);
    }
    gather(part, count, p->anchors_padded, &p->model.anchors, true, by_h, scratch);
    return by_h;
}

/* by_h of `count` candidates from candidate j on: over rows of G, which `fill` gives, times the
 * vectors of `others`. */
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

const real *directed_candidates(const lk_job *job, const directed *p, int64_t first, int64_t count,
                                void *scratch)
{
    const lines l = lines_of(p, scratch, back_products(p));
    const slopes g = settle_all(p, l.after);
    real *by_h = by_h_in(p, &l), *part = part_in(p, &l);
    const int64_t w = padded_lanes(count), wide_rows = p->candidates_padded;
    const double factor = p->lack_c / p->lack_a;
    for (int64_t i = 0, n; i == 0 || i < p->anchors; i += n) {
        n = at_most(p->anchors - i, at_most(OTHERS, padded_lanes(p->candidates)));
        cleared(part, n * w);
        for (int64_t r = 0; r < n; r++) {
            candidate_slopes(job, p, &g, i + r, first, count, &l, part + r * w);
            if (has(p, DOC_TO_QUERY))
                column_slopes(p, &g, i + r, first, count, &l, part + r * w);
        }
        gather_columns(part, n, count, w, &p->model.anchors, i, i > 0, by_h, scratch);
        cleared(part, n * w);
        for (int64_t r = 0; p->model.pc && r < n; r++) {
            directed_positive_line(job, p, i + r, first, count, l.pc);
            add_slopes(l.pc, g.by[0] + i + r, g.top[0] + i + r, NULL, 0, factor, count,
                       part + r * w);
        }
        if (p->model.pc)
            gather_columns(part, n, count, w, &p->model.positives, i, true, by_h, scratch);
        if (n == 0)
            break;
    }
    if (!p->model.pc)
        return by_h;
    cleared(part, count * wide_rows);
    for (int64_t j = 0; j < count; j++)
        for (int64_t k = p->start[first + j]; k < p->start[first + j + 1]; k++) {
            const int64_t i = p->order[k];
            directed_positive_line(job, p, i, 0, p->candidates, l.pc);
            add_slopes(l.pc, g.by[0] + i, g.top[0] + i, NULL, 0, factor, p->candidates,
                       part + j * wide_rows);
        }
    gather(part, count, wide_rows, &p->model.candidates, true, by_h, scratch);
    return by_h;
}
