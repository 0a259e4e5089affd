/* SPDX-License-Identifier: MIT
 *
 * InfoNCE in several directions: see rows/directed.h.
 */
#include "rows/directed.h"

#include "rows/product.h"
#include "vector/tally.h"
#include "vector/vmath.h"
#include "vector/wide.h"

enum { OTHERS = 4 * PRODUCT_TERMS }; /* how many vectors a product gathers from at a time */

static int64_t at_most(int64_t n, int64_t most)
{
    return n < most ? n : most;
}

static bool has(const directed *p, int direction)
{
    return p->directions >> direction & 1;
}

static real *take_reals(const lk_job *job, size_t *used, int64_t n)
{
    return pair_take(job, used, (size_t)n * sizeof(real));
}

static double *take_doubles(const lk_job *job, size_t *used, int64_t n)
{
    return pair_take(job, used, (size_t)n * sizeof(double));
}

static int64_t *take_places(const lk_job *job, size_t *used, int64_t n)
{
    return pair_take(job, used, (size_t)n * sizeof(int64_t));
}

static void take_tables(const lk_job *job, size_t *used, const directed *p, directed_side *side)
{
    const int64_t b = p->anchors;
    side->ac = take_reals(job, used, b * p->candidates_padded);
    if (has(p, QUERY_TO_QUERY))
        side->aa = take_reals(job, used, b * p->anchors_padded);
    if (!has(p, DOC_TO_DOC))
        return;
    side->pc = take_reals(job, used, b * p->candidates_padded);
    side->positives = side->candidates;
    side->positives.rows = b;
    side->positives.h = take_reals(job, used, b * side->candidates.stride);
    side->positives.taint = take_reals(job, used, b + LANES);
}

void directed_take(const lk_job *job, size_t *used, directed *p)
{
    const int64_t b = p->anchors, n = b + LANES;
    p->anchors_padded = padded_lanes(b);
    p->candidates_padded = padded_lanes(p->candidates);
    p->positive = take_places(job, used, b);
    p->order = take_places(job, used, b);
    p->rank = take_places(job, used, b);
    p->start = take_places(job, used, p->candidates + 1);
    p->s = take_reals(job, used, n);
    p->most = take_reals(job, used, n);
    p->most_guide = take_reals(job, used, n);
    p->weight = take_doubles(job, used, b);
    p->top = take_reals(job, used, b);
    p->rest = take_doubles(job, used, b);
    p->moment = take_doubles(job, used, b);
    p->allowed = take_doubles(job, used, b);
    p->sum = take_doubles(job, used, b);
    take_tables(job, used, p, &p->model);
    if (p->guided)
        take_tables(job, used, p, &p->guide);
    if (has(p, DOC_TO_QUERY)) {
        const int64_t parts = p->blocks * p->anchors_padded;
        p->column_top = take_reals(job, used, parts);
        p->column_rest = take_doubles(job, used, parts);
        p->column_moment = take_doubles(job, used, parts);
    }
    const int64_t width = p->guided && p->guide.anchors.width > p->model.anchors.width
                              ? p->guide.anchors.width
                              : p->model.anchors.width;
    p->room = pair_take(job, used, product_scratch(1, 1, width));
}

/* Similarities. */

void directed_units(const pair_units *u, const real *v)
{
    for (int64_t i = 0; i < u->rows; i++)
        pair_unit(u, i, v + i * u->width);
}

/* Products of vectors i.. of `rows` with all `columns` become scores: scaled, and NaN where a
 * vector is not finite. */
static void compute_scores(const pair_units *rows, const pair_units *columns, double scale,
                           int64_t i, int64_t n, int64_t j, int64_t m, real *s, int64_t stride,
                           void *room)
{
    const product_side a = product_vectors(rows->h + i * rows->stride, n, rows->stride);
    const product_side b = product_vectors(columns->h + j * columns->stride, m, columns->stride);
    product(&a, &b, rows->width, false, s, stride, room);
    for (int64_t r = 0; r < n; r++) {
        const vec taint = v_set(rows->taint[i + r]);
        for (int64_t k = 0; k < m; k += LANES) {
            const int64_t left = LK_TAIL(k, m);
            real *at = s + r * stride + k;
            vec x = v_read_tail(at, left, 0);
            x = __builtin_convertvector(w_set(scale) * v_wide(x), vec);
            x += taint + v_read_tail(columns->taint + j + k, left, 0);
            v_write_n(at, left, x + v_set(0) * x);
        }
    }
}

/* What products of h are multiplied by, between vectors that lack these factors. */
static double scale_of(const directed *p, const directed_side *side, double lack, double other)
{
    return side == &p->guide ? 1 : lack * other / p->temperature;
}

/* Rows i.. of the tables. */
static void fill_tables(const directed *p, const directed_side *side, int64_t i, int64_t n,
                        void *room)
{
    const int64_t b = p->anchors, m = p->candidates;
    const int64_t w = p->candidates_padded, v = p->anchors_padded;
    const double a = p->lack_a, c = p->lack_c;
    compute_scores(&side->anchors, &side->candidates, scale_of(p, side, a, c), i, n, 0, m,
                   side->ac + i * w, w, room);
    if (side->aa)
        compute_scores(&side->anchors, &side->anchors, scale_of(p, side, a, a), i, n, 0, b,
                       side->aa + i * v, v, room);
    if (side->pc)
        compute_scores(&side->positives, &side->candidates, scale_of(p, side, c, c), i, n, 0, m,
                       side->pc + i * w, w, room);
}

/* The order of the anchors by positive: a counting sort. */
static void sort_anchors(const directed *p)
{
    memset(p->start, 0, (size_t)(p->candidates + 1) * sizeof *p->start);
    for (int64_t i = 0; i < p->anchors; i++)
        p->start[p->positive[i] + 1]++;
    for (int64_t j = 0; j < p->candidates; j++)
        p->start[j + 1] += p->start[j];
    for (int64_t i = 0; i < p->anchors; i++) {
        const int64_t at = p->start[p->positive[i]]++;
        p->order[at] = i;
        p->rank[i] = at;
    }
    for (int64_t j = p->candidates; j > 0; j--)
        p->start[j] = p->start[j - 1];
    p->start[0] = 0;
}

static void gather_positives(const directed *p, const directed_side *side)
{
    const pair_units *from = &side->candidates, *to = &side->positives;
    for (int64_t i = 0; side->pc && i < p->anchors; i++) {
        memcpy(to->h + i * to->stride, from->h + p->positive[i] * from->stride,
               (size_t)from->stride * sizeof *to->h);
        to->taint[i] = from->taint[p->positive[i]];
    }
}

/* The similarity of anchor i and its positive, with the bits that it has in the table. */
static double own_score(const directed *p, const directed_side *side, int64_t i)
{
    const double scale = scale_of(p, side, p->lack_a, p->lack_c);
    real s;
    compute_scores(&side->anchors, &side->candidates, scale, i, 1, p->positive[i], 1, &s, 1,
                   p->room);
    return (double)s;
}

void directed_prepare(const directed *p)
{
    sort_anchors(p);
    gather_positives(p, &p->model);
    if (p->guided)
        gather_positives(p, &p->guide);
    for (int64_t i = 0; i < p->anchors; i++) {
        const double s = own_score(p, &p->model, i);
        p->s[i] = (real)s;
        p->most[i] = (real)(s + p->self_margin / p->temperature);
        if (!p->guided)
            continue;
        const double g = own_score(p, &p->guide, i);
        p->most_guide[i] = (real)(g - (p->relative ? fabs(g) : 1) * p->guide_margin);
    }
}

/* Lines of entries: x are scores, -inf where an entry is excluded or is no entry. */

/* Exclude what is too similar: by the limits of one row (step 0), or of rows one after another. */
static void exclude(const directed *p, const real *s, const real *g, const real *most,
                    const real *most_guide, int64_t step, int64_t n, real *x)
{
    const vec none = v_set(-(real)INFINITY);
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t left = LK_TAIL(k, n);
        vec y = v_read_tail(s + k, left, -(real)INFINITY);
        if (!isnan(p->self_margin)) {
            const vec limit = step ? v_read_tail(most + k, left, 0) : v_set(*most);
            y = v_select(y > limit, none, y);
        }
        if (p->guided) {
            const vec limit = step ? v_read_tail(most_guide + k, left, 0) : v_set(*most_guide);
            y = v_select(v_read_tail(g + k, left, 0) > limit, none, y);
        }
        v_write(x + k, y);
    }
}

static void drop(real *x, int64_t at, int64_t n)
{
    if (at >= 0 && at < n)
        x[at] = -(real)INFINITY;
}

static int64_t group_of(const lk_job *job, const directed *p, int64_t j)
{
    return p->group < 0 ? j % p->anchors : lk_int(&job->in[p->group], j);
}

/* Entries of query_to_doc of row i, candidates j..j+n-1, but for the positive. */
static void candidate_line(const lk_job *job, const directed *p, int64_t i, int64_t j, int64_t n,
                           real *x)
{
    const int64_t at = i * p->candidates_padded + j, y = p->positive[i];
    exclude(p, p->model.ac + at, p->guided ? p->guide.ac + at : NULL, p->most + i,
            p->most_guide + i, 0, n, x);
    for (int64_t k = 0; p->mask >= 0 && k < n; k++)
        if (!lk_int(&job->in[p->mask], i * p->candidates + j + k))
            x[k] = -(real)INFINITY;
    for (int64_t k = 0; p->hardness > 0 && k < n; k++) {
        const bool own = group_of(job, p, j + k) == i;
        if (p->hardness_set == HARD_ALL || own == (p->hardness_set == HARD_OWN))
            x[k] = (real)((double)x[k] * (1 + p->hardness * p->temperature));
    }
    drop(x, y - j, n);
}

/* Entries of query_to_query: of row i, or (`turned`) those of all rows with anchor i. */
static void anchor_line(const directed *p, int64_t i, bool turned, real *x)
{
    const int64_t at = i * p->anchors_padded, row = turned ? 0 : i;
    exclude(p, p->model.aa + at, p->guided ? p->guide.aa + at : NULL, p->most + row,
            p->most_guide + row, turned, p->anchors, x);
    drop(x, i, p->anchors);
}

/* Entries of doc_to_doc of row i, candidates j..j+n-1. */
static void positive_line(const lk_job *job, const directed *p, int64_t i, int64_t j, int64_t n,
                          real *x)
{
    const int64_t at = i * p->candidates_padded + j;
    exclude(p, p->model.pc + at, p->guided ? p->guide.pc + at : NULL, p->most + i,
            p->most_guide + i, 0, n, x);
    if (p->group < 0) {
        for (int64_t k = ((i - j) % p->anchors + p->anchors) % p->anchors; k < n; k += p->anchors)
            x[k] = -(real)INFINITY;
        return;
    }
    for (int64_t k = 0; k < n; k++)
        if (group_of(job, p, j + k) == i)
            x[k] = -(real)INFINITY;
}

/* Entries of doc_to_query with anchor i, of the rows order[m..m+n-1], but for the row itself.
 * `room` has four times as many reals as there are rows. */
static void column_line(const directed *p, int64_t i, int64_t m, int64_t n, real *x, real *room)
{
    const int64_t at = i * p->candidates_padded, w = p->anchors_padded;
    real *s = room, *g = s + w, *most = g + w, *most_guide = most + w;
    for (int64_t k = 0; k < n; k++) {
        const int64_t row = p->order[m + k], y = p->positive[row];
        s[k] = p->model.ac[at + y];
        most[k] = p->most[row];
        if (!p->guided)
            continue;
        g[k] = p->guide.ac[at + y];
        most_guide[k] = p->most_guide[row];
    }
    exclude(p, s, g, most, most_guide, 1, n, x);
    drop(x, p->rank[i] - m, n);
}

/* The visit of a row. */

typedef struct sums {
    real top;
    double rest, moment, allowed, sum;
} sums;

static real top_of(const real *x, int64_t n, real top)
{
    vec most = v_set(top);
    for (int64_t k = 0; k < n; k += LANES)
        most = v_max(v_read_tail(x + k, LK_TAIL(k, n), -(real)INFINITY), most);
    return v_top(most);
}

/* Add the entries of a line, whose scores without hardness are s. */
static void add_line(sums *to, const real *x, const real *s, int64_t n, double own, bool smooth)
{
    const vec none = v_set(-(real)INFINITY), top = v_set(to->top);
    wide_tally rest = {0}, moment = {0}, allowed = {0}, sum = {0};
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t left = LK_TAIL(k, n);
        const vec y = v_read_tail(x + k, left, -(real)INFINITY);
        const mask there = y != none;
        const wide e = v_wide(v_where(there, v_exp_nonpos(y - top)));
        const wide d = v_wide(v_read_tail(s + k, left, 0)) - w_set(own);
        const wide_mask count = __builtin_convertvector(there, wide_mask);
        wide_add(&rest, e);
        wide_add(&moment, (wide)((wide_mask)(e * d) & count));
        if (smooth) {
            wide_add(&allowed, (wide)((wide_mask)w_set(1) & count));
            wide_add(&sum, (wide)((wide_mask)d & count));
        }
    }
    to->rest += wide_sum(rest);
    to->moment += wide_sum(moment);
    to->allowed += wide_sum(allowed);
    to->sum += wide_sum(sum);
}

/* Room of a run: lines, then what else it needs. */
typedef struct lines {
    real *ac, *aa, *pc, *column, *room;
    real *after;
} lines;

static lines lines_of(const directed *p, void *scratch, size_t products)
{
    lines l;
    l.ac = (real *)((char *)scratch + products);
    l.aa = l.ac + p->candidates_padded;
    l.pc = l.aa + p->anchors_padded;
    l.column = l.pc + p->candidates_padded;
    l.room = l.column + p->anchors_padded;
    l.after = l.room + 4 * p->anchors_padded;
    return l;
}

static int64_t lines_reals(const directed *p)
{
    return 2 * p->candidates_padded + 6 * p->anchors_padded;
}

static void visit_row(const lk_job *job, const directed *p, int64_t i, const lines *l)
{
    const int64_t b = p->anchors, m = p->candidates, w = p->candidates_padded;
    const double own = (double)p->s[i];
    sums to = {.top = -(real)INFINITY};
    candidate_line(job, p, i, 0, m, l->ac);
    to.top = top_of(l->ac, m, to.top);
    if (p->model.aa) {
        anchor_line(p, i, false, l->aa);
        to.top = top_of(l->aa, b, to.top);
    }
    if (p->model.pc) {
        positive_line(job, p, i, 0, m, l->pc);
        to.top = top_of(l->pc, m, to.top);
    }
    add_line(&to, l->ac, p->model.ac + i * w, m, own, p->smoothing > 0);
    if (p->model.aa)
        add_line(&to, l->aa, p->model.aa + i * p->anchors_padded, b, own, false);
    if (p->model.pc)
        add_line(&to, l->pc, p->model.pc + i * w, m, own, false);
    p->top[i] = to.top;
    p->rest[i] = to.rest;
    p->moment[i] = to.moment;
    p->allowed[i] = to.allowed + 1;
    p->sum[i] = to.sum;
}

/* Add the entries of doc_to_query with anchor i to the sums of their rows. */
static void visit_columns(const directed *p, int64_t i, int64_t block, const lines *l)
{
    const vec none = v_set(-(real)INFINITY);
    const int64_t part = block * p->anchors_padded;
    column_line(p, i, 0, p->anchors, l->column, l->room);
    for (int64_t k = 0; k < p->anchors; k++) /* the scores of the rows with their positives */
        l->room[k] = p->s[p->order[k]];
    for (int64_t k = 0; k < p->anchors; k += LANES) {
        real *top = p->column_top + part + k;
        double *rest = p->column_rest + part + k, *moment = p->column_moment + part + k;
        const vec y = v_read(l->column + k), before = v_read(top), now = v_max(y, before);
        const wide d = v_wide(y) - v_wide(v_read_tail(l->room + k, LK_TAIL(k, p->anchors), 0));
        const wide e = v_wide(v_where(y != none, v_exp_nonpos(y - now)));
        const wide less = v_wide(v_where(before != none, v_exp_nonpos(before - now)));
        const wide_mask count = __builtin_convertvector(y != none, wide_mask);
        v_write(top, now);
        w_write(rest, w_read(rest) * less + e);
        w_write(moment, w_read(moment) * less + (wide)((wide_mask)(e * d) & count));
    }
}

/* Bytes of the products of a run, whole lines. */
static size_t visit_products(const directed *p)
{
    const int64_t n = at_most(DIRECTED_ROWS, p->anchors);
    const size_t own = product_scratch(n, p->candidates, p->model.anchors.width);
    const size_t guide = p->guided ? product_scratch(n, p->candidates, p->guide.anchors.width) : 0;
    return own > guide ? own : guide;
}

static size_t back_products(const directed *p)
{
    const int64_t rows = at_most(DIRECTED_ROWS, p->candidates);
    return product_scratch(rows, p->model.anchors.stride, at_most(OTHERS, p->candidates));
}

void directed_rows(const lk_job *job, const directed *p, int64_t first, int64_t count,
                   void *scratch)
{
    const lines l = lines_of(p, scratch, visit_products(p));
    const int64_t block = first / p->block_rows;
    for (int64_t k = 0; has(p, DOC_TO_QUERY) && k < p->anchors_padded; k++)
        p->column_top[block * p->anchors_padded + k] = -(real)INFINITY;
    for (int64_t i = first, n; i < first + count; i += n) {
        n = at_most(first + count - i, DIRECTED_ROWS);
        fill_tables(p, &p->model, i, n, scratch);
        if (p->guided)
            fill_tables(p, &p->guide, i, n, scratch);
        for (int64_t r = i; r < i + n; r++) {
            visit_row(job, p, r, &l);
            if (has(p, DOC_TO_QUERY))
                visit_columns(p, r, block, &l);
        }
    }
}

/* When all rows are visited. */

/* Join sums, whose tops may differ. */
static void join(sums *to, double top, double rest, double moment)
{
    if (rest == 0)
        return;
    const double most = top > (double)to->top ? top : (double)to->top;
    const double own = to->top == -(real)INFINITY ? 0 : lk_exp((double)to->top - most);
    const double other = lk_exp(top - most);
    to->rest = to->rest * own + rest * other;
    to->moment = to->moment * own + moment * other;
    to->top = (real)most;
}

/* log of a sum of `copies` e^own and of the others, less own; 1/sum and its top. */
static double settle_pool(const sums *others, double own, double copies, double *by, double *top,
                          double *pull, double *moment)
{
    const double most = (double)others->top > own ? (double)others->top : own;
    const double e = lk_exp(own - most);
    const double scale = others->rest == 0 ? 0 : lk_exp((double)others->top - most);
    const double rest = others->rest * scale, sum = rest + copies * e;
    *top = most;
    *by = 1 / sum;
    *pull = -rest / sum;
    *moment = others->moment * scale / sum;
    return copies == 1 && most == own ? lk_log1p(rest) : lk_log(sum) + (most - own);
}

directed_row directed_settle(const directed *p, int64_t i)
{
    const double own = (double)p->s[i], weight = p->weight[i], eps = p->smoothing;
    sums row = {.top = p->top[i], .rest = p->rest[i], .moment = p->moment[i]};
    sums column = {.top = -(real)INFINITY};
    directed_row r = {0};
    double pull, moment;
    for (int64_t block = 0; has(p, DOC_TO_QUERY) && block < p->blocks; block++) {
        const int64_t at = block * p->anchors_padded + p->rank[i];
        sums *to = p->partition == JOINT ? &row : &column;
        join(to, (double)p->column_top[at], p->column_rest[at], p->column_moment[at]);
    }
    const bool two = has(p, DOC_TO_QUERY);
    const double share = two && p->partition == PER_DIRECTION ? 0.5 : 1;
    r.loss = share * settle_pool(&row, own, two && p->partition == JOINT ? 2 : 1, &r.by[0],
                                 &r.top[0], &r.pull, &r.moment);
    r.by[1] = r.by[0];
    r.top[1] = r.top[0];
    if (share != 1) {
        r.loss += share * settle_pool(&column, own, 1, &r.by[1], &r.top[1], &pull, &moment);
        r.pull += pull;
        r.moment += moment;
    }
    if (eps > 0) {
        r.off = eps / p->allowed[i];
        r.loss -= r.off * p->sum[i];
        r.moment -= r.off * p->sum[i];
        r.pull += eps - r.off;
    }
    if (isnan(own))
        r.loss = own;
    const double factor = share * weight;
    r.pull = weight == 0 ? 0 : factor * r.pull;
    r.moment = weight == 0 ? 0 : factor * r.moment;
    r.off = weight == 0 ? 0 : factor * r.off;
    for (int k = 0; k < 2; k++)
        r.by[k] = weight == 0 ? 0 : factor * r.by[k];
    return r;
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
    candidate_line(job, p, i, j, n, l->ac);
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
    column_line(p, i, m, count, l->column, l->room);
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
    const size_t visit = visit_products(p), back = back_products(p);
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
        anchor_line(p, i, false, l.aa);
        add_slopes(l.aa, g.by[0] + i, g.top[0] + i, NULL, 0, factor, p->anchors, to);
        anchor_line(p, i, true, l.aa);
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
            positive_line(job, p, i + r, first, count, l.pc);
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
            positive_line(job, p, i, 0, p->candidates, l.pc);
            add_slopes(l.pc, g.by[0] + i, g.top[0] + i, NULL, 0, factor, p->candidates,
                       part + j * wide_rows);
        }
    gather(part, count, wide_rows, &p->model.candidates, true, by_h, scratch);
    return by_h;
}
