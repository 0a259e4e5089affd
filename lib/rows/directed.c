/* SPDX-License-Identifier: MIT
 *
 * InfoNCE in several directions: see rows/directed.h.
 */
#include "rows/directed.h"

#include "rows/product.h"
#include "vector/tally.h"
#include "vector/vmath.h"
#include "vector/wide.h"

static directed_table take_table(const lk_job *job, size_t *used, const directed *p, int64_t width)
{
    directed_table t = {.stride = padded_lanes(width)};
    t.s = take(job->state, used, p->anchors * t.stride, sizeof *t.s);
    if (p->guided)
        t.g = take(job->state, used, p->anchors * t.stride, sizeof *t.g);
    return t;
}

static bool has_columns(const directed *p)
{
    return has(p, QUERY_TO_QUERY) || has(p, DOC_TO_QUERY) || has(p, DOC_TO_DOC);
}

void directed_take(const lk_job *job, size_t *used, directed *p)
{
    const int64_t b = p->anchors, n = b + LANES;
    p->anchor_at = take(job->state, used, b, sizeof *p->anchor_at);
    p->candidate_at = take(job->state, used, p->candidates, sizeof *p->candidate_at);
    p->positive = take(job->state, used, b, sizeof *p->positive);
    p->start = take(job->state, used, b + 1, sizeof *p->start);
    p->s = take(job->state, used, n, sizeof *p->s);
    p->most = take(job->state, used, n, sizeof *p->most);
    p->most_guide = take(job->state, used, n, sizeof *p->most_guide);
    p->weight = take(job->state, used, b, sizeof *p->weight);
    p->top = take(job->state, used, b, sizeof *p->top);
    p->rest = take(job->state, used, b, sizeof *p->rest);
    p->moment = take(job->state, used, b, sizeof *p->moment);
    p->allowed = take(job->state, used, b, sizeof *p->allowed);
    p->sum = take(job->state, used, b, sizeof *p->sum);
    p->ac = take_table(job, used, p, p->candidates);
    if (has(p, QUERY_TO_QUERY))
        p->aa = take_table(job, used, p, b);
    if (has(p, DOC_TO_DOC))
        p->cc = take_table(job, used, p, p->candidates);
    if (has_columns(p)) {
        const int64_t parts = p->blocks * padded_lanes(b);
        p->column_top = take(job->state, used, parts, sizeof *p->column_top);
        p->column_rest = take(job->state, used, parts, sizeof *p->column_rest);
        p->column_moment = take(job->state, used, parts, sizeof *p->column_moment);
    }
    const int64_t width = p->guided && p->guide.anchors.width > p->model.anchors.width
                              ? p->guide.anchors.width
                              : p->model.anchors.width;
    p->room = take(job->state, used, 1, product_scratch(1, width));
}

/* The order: anchors by their positives, then by what they were; candidates that are positives, in
 * the same order, then the others. */
void directed_order(const directed *p)
{
    int64_t positives = 0, before = 0;
    for (int64_t i = 0; i < p->anchors; i++)
        p->anchor_at[i].at = i;
    pair_sort(p->anchor_at, p->anchors);
    for (int64_t i = 0; i < p->anchors; i++) {
        const int64_t y = p->anchor_at[i].key;
        if (i == 0 || y != p->anchor_at[i - 1].key) {
            p->candidate_at[positives].at = y;
            p->start[positives++] = i;
        }
        p->positive[i] = positives - 1;
    }
    p->start[positives] = p->anchors;
    for (int64_t j = 0, rest = positives; j < p->candidates; j++) {
        if (before < positives && p->candidate_at[before].at == j)
            before++;
        else
            p->candidate_at[rest++].at = j;
    }
}

/* Similarities. */

void directed_units(const pair_units *u, const real *v, const pair_place *at)
{
    for (int64_t i = 0; i < u->rows; i++)
        pair_unit(u, i, v + at[i].at * u->width);
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

/* The tables. */

static int64_t group_of(const lk_job *job, const directed *p, int64_t j)
{
    const int64_t at = p->candidate_at[j].at;
    return p->group < 0 ? at % p->anchors : lk_int(&job->in[p->group], at);
}

/* Does candidate j, in the order here, belong to the anchor of row i? */
static bool is_own(const lk_job *job, const directed *p, int64_t i, int64_t j)
{
    return group_of(job, p, j) == p->anchor_at[i].at;
}

/* Scores s[] of a set with itself, rows i..i+n-1 and from column i on, also where rows and columns
 * are exchanged, as far as they are rows. */
static void mirror(real *s, int64_t stride, int64_t i, int64_t n, int64_t rows)
{
    enum { TILE = 16 };
    for (int64_t k = i + n; k < rows; k += TILE)
        for (int64_t r = i; r < i + n; r += TILE)
            for (int64_t y = k; y < at_most(k + TILE, rows); y++)
                for (int64_t x = r; x < at_most(r + TILE, i + n); x++)
                    s[y * stride + x] = s[x * stride + y];
}

/* Scores of a set with itself: rows i..i+n-1 from column i on. */
static void fill_own(const directed *p, const pair_units *u, double scale, real *s, int64_t stride,
                     int64_t i, int64_t n, int64_t columns, void *room)
{
    if (!s)
        return;
    compute_scores(u, u, scale, i, n, i, columns - i, s + i * stride + i, stride, room);
    if (p->kept)
        mirror(s, stride, i, n, p->anchors);
}

static void fill_tables(const directed *p, const directed_side *side, real *ac, real *aa, real *cc,
                        int64_t i, int64_t n, void *room)
{
    const pair_units *a = &side->anchors, *c = &side->candidates;
    const int64_t stride = p->ac.stride, m = p->candidates;
    compute_scores(a, c, scale_of(p, side, p->lack_a, p->lack_c), i, n, 0, m, ac + i * stride,
                   stride, room);
    fill_own(p, a, scale_of(p, side, p->lack_a, p->lack_a), aa, p->aa.stride, i, n, p->anchors,
             room);
    fill_own(p, c, scale_of(p, side, p->lack_c, p->lack_c), cc, p->cc.stride, i, n, m, room);
}

/* No vector is compared with itself, and no positive with candidates of its anchor. */
static void clear_own(const lk_job *job, const directed *p, int64_t i)
{
    if (p->aa.s)
        p->aa.s[i * p->aa.stride + i] = -(real)INFINITY;
    if (!p->cc.s)
        return;
    p->cc.s[i * p->cc.stride + i] = -(real)INFINITY;
    for (int64_t j = p->anchors; j < p->candidates; j++)
        if (is_own(job, p, i, j))
            p->cc.s[i * p->cc.stride + j] = -(real)INFINITY;
}

/* Lines of entries. */

static void exclude(const directed *p, const real *s, const real *g, int64_t i, int64_t step,
                    int64_t n, real *x)
{
    const vec none = v_set(-(real)INFINITY);
    const real *most = p->most + i, *most_guide = p->most_guide + i;
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

const real *directed_line(const directed *p, const directed_table *t, int64_t at, int64_t i,
                          int64_t step, int64_t n, real *x)
{
    if (isnan(p->self_margin) && !p->guided)
        return t->s + at;
    exclude(p, t->s + at, t->g ? t->g + at : NULL, i, step, n, x);
    return x;
}

void directed_candidate_line(const lk_job *job, const directed *p, int64_t i, int64_t j, int64_t n,
                             real *x)
{
    const int64_t row = p->anchor_at[i].at * p->candidates, at = i * p->ac.stride + j;
    exclude(p, p->ac.s + at, p->guided ? p->ac.g + at : NULL, i, 0, n, x);
    for (int64_t k = 0; p->mask >= 0 && k < n; k++)
        if (!lk_int(&job->in[p->mask], row + p->candidate_at[j + k].at))
            x[k] = -(real)INFINITY;
    for (int64_t k = 0; p->hardness > 0 && k < n; k++) {
        const bool own = is_own(job, p, i, j + k);
        if (p->hardness_set == HARD_ALL || own == (p->hardness_set == HARD_OWN))
            x[k] = (real)((double)x[k] * (1 + p->hardness * p->temperature));
    }
    drop(x, p->positive[i] - j, n);
}

void directed_column_line(const directed *p, int64_t i, int64_t k, int64_t n, real *x, real *room)
{
    const int64_t at = i * p->ac.stride;
    const real *s = p->ac.s + at + k, *g = p->guided ? p->ac.g + at + k : NULL;
    if (positives_of(p) < p->anchors) { /* else each row has its own */
        real *by_row = room, *guide = room + padded_lanes(p->anchors);
        for (int64_t r = 0; r < n; r++) {
            by_row[r] = p->ac.s[at + p->positive[k + r]];
            if (p->guided)
                guide[r] = p->ac.g[at + p->positive[k + r]];
        }
        s = by_row;
        g = guide;
    }
    exclude(p, s, g, k, 1, n, x);
    drop(x, i - k, n);
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
static void add_line(const directed *p, sums *to, const real *x, const real *s, int64_t n,
                     double own)
{
    const bool moments = p->moments, smooth = p->smoothing > 0;
    const vec none = v_set(-(real)INFINITY), top = v_set(to->top);
    wide_tally rest = {0}, moment = {0}, allowed = {0}, sum = {0};
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t left = LK_TAIL(k, n);
        const vec y = v_read_tail(x + k, left, -(real)INFINITY);
        const mask there = y != none;
        const wide_parts e = w_parts(v_where(there, v_exp_nonpos(y - top)));
        const wide_parts d = w_parts(v_read_tail(s + k, left, 0));
        wide_parts e_d, one, some;
        UNROLLED
        for (int h = 0; h < WIDE_PARTS; h++) {
            const half_mask counts = half_mask_of(there, h * HALF_LANES);
            const wide_half from_own = d.half[h] - half_set(own);
            e_d.half[h] = half_where(counts, e.half[h] * from_own);
            one.half[h] = half_where(counts, half_set(1));
            some.half[h] = half_where(counts, from_own);
        }
        wide_add(&rest, e);
        if (moments)
            wide_add(&moment, e_d);
        if (smooth) {
            wide_add(&allowed, one);
            wide_add(&sum, some);
        }
    }
    to->rest += wide_sum(rest);
    to->moment += wide_sum(moment);
    to->allowed += wide_sum(allowed);
    to->sum += wide_sum(sum);
}

/* Row i of a chunk that begins at `first`. */
static void visit_row(const lk_job *job, const directed *p, int64_t first, int64_t i,
                      const lines *l)
{
    const directed_table *own[2] = {&p->aa, &p->cc};
    const int64_t count[2] = {p->anchors - first, p->candidates - first}, m = p->candidates;
    const real *x[2];
    const double s = (double)p->s[i];
    sums to = {.top = -(real)INFINITY};
    directed_candidate_line(job, p, i, 0, m, l->ac);
    to.top = top_of(l->ac, m, to.top);
    for (int k = 0; k < 2; k++)
        if (own[k]->s) {
            const int64_t at = i * own[k]->stride + first;
            x[k] = directed_line(p, own[k], at, i, 0, count[k], k ? l->cc : l->aa);
            to.top = top_of(x[k], count[k], to.top);
        }
    add_line(p, &to, l->ac, p->ac.s + i * p->ac.stride, m, s);
    for (int k = 0; k < 2; k++)
        if (own[k]->s)
            add_line(p, &to, x[k], own[k]->s + i * own[k]->stride + first, count[k], s);
    p->top[i] = to.top;
    p->rest[i] = to.rest;
    p->moment[i] = to.moment;
    p->allowed[i] = to.allowed + 1;
    p->sum[i] = to.sum;
}

/* What rows meet by columns, of a block: two sweeps over the lines of a chunk. */
typedef struct columns {
    real *top;
    double *rest, *moment;
} columns;

static void raise_tops(const columns *c, const real *x, int64_t n)
{
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t left = LK_TAIL(k, n);
        v_write_n(
            c->top + k, left,
            v_max(v_read_tail(x + k, left, -(real)INFINITY), v_read_tail(c->top + k, left, 0)));
    }
}

static void add_columns(const directed *p, const columns *c, const real *x, const real *s,
                        int64_t n)
{
    const vec none = v_set(-(real)INFINITY);
    const bool moments = p->moments;
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t left = LK_TAIL(k, n);
        const vec y = v_read_tail(x + k, left, -(real)INFINITY);
        const mask there = y != none;
        const wide e = v_wide(v_where(there, v_exp_nonpos(y - v_read_tail(c->top + k, left, 0))));
        w_write(c->rest + k, w_read(c->rest + k) + e);
        if (!moments)
            continue;
        const wide d = v_wide(y) - v_wide(v_read_tail(s + k, left, 0));
        const wide_mask count = __builtin_convertvector(there, wide_mask);
        w_write(c->moment + k, w_read(c->moment + k) + (wide)((wide_mask)(e * d) & count));
    }
}

/* A sweep over what rows meet of a chunk by columns: the greatest, or the sums. */
static void sweep_columns(const directed *p, const columns *all, int64_t first, int64_t count,
                          bool sums_too, const lines *l)
{
    const directed_table *own[2] = {&p->aa, &p->cc};
    const int64_t b = p->anchors, end = first + count, rest = b - end;
    const columns after = {all->top + end, all->rest + end, all->moment + end};
    for (int64_t i = first; i < end; i++) {
        if (has(p, DOC_TO_QUERY)) {
            directed_column_line(p, i, 0, b, l->ac, l->room);
            sums_too ? add_columns(p, all, l->ac, p->s, b) : raise_tops(all, l->ac, b);
        }
        for (int k = 0; k < 2; k++)
            if (own[k]->s) {
                const int64_t at = i * own[k]->stride + end;
                const real *x = directed_line(p, own[k], at, end, 1, rest, l->aa);
                sums_too ? add_columns(p, &after, x, p->s + end, rest)
                         : raise_tops(&after, x, rest);
            }
    }
}

/* Sums so far, when tops have risen. */
static void lower_sums(const directed *p, const columns *c, const real *before)
{
    const vec none = v_set(-(real)INFINITY);
    for (int64_t k = 0; k < p->anchors; k += LANES) {
        const vec was = v_read(before + k), now = v_read(c->top + k);
        const wide less = v_wide(v_where(was != none, v_exp_nonpos(was - now)));
        w_write(c->rest + k, w_read(c->rest + k) * less);
        w_write(c->moment + k, w_read(c->moment + k) * less);
    }
}

static void visit_columns(const directed *p, int64_t block, int64_t first, int64_t count,
                          const lines *l)
{
    const int64_t w = padded_lanes(p->anchors), part = block * w;
    const columns all = {p->column_top + part, p->column_rest + part, p->column_moment + part};
    real *before = l->after;
    memcpy(before, all.top, (size_t)w * sizeof *before);
    sweep_columns(p, &all, first, count, false, l);
    lower_sums(p, &all, before);
    sweep_columns(p, &all, first, count, true, l);
}

size_t directed_visit_products(const directed *p)
{
    const int64_t n = at_most(DIRECTED_ROWS, p->anchors);
    const size_t own = product_scratch(n, p->model.anchors.width);
    const size_t guide = p->guided ? product_scratch(n, p->guide.anchors.width) : 0;
    return own > guide ? own : guide;
}

void directed_rows(const lk_job *job, const directed *p, int64_t first, int64_t count,
                   void *scratch)
{
    const lines l = lines_of(p, scratch, directed_visit_products(p));
    const int64_t block = first / p->block_rows, w = padded_lanes(p->anchors);
    for (int64_t k = 0; has_columns(p) && k < w; k++)
        p->column_top[block * w + k] = -(real)INFINITY;
    for (int64_t i = first, n; i < first + count; i += n) {
        n = at_most(first + count - i, DIRECTED_ROWS);
        fill_tables(p, &p->model, p->ac.s, p->aa.s, p->cc.s, i, n, scratch);
        if (p->guided)
            fill_tables(p, &p->guide, p->ac.g, p->aa.g, p->cc.g, i, n, scratch);
        for (int64_t r = i; r < i + n; r++) {
            clear_own(job, p, r);
            visit_row(job, p, i, r, &l);
        }
        if (has_columns(p))
            visit_columns(p, block, i, n, &l);
    }
}

/* When all rows are visited. */

/* e^x, which is mostly 1. */
static double power(double x)
{
    return x == 0 ? 1 : lk_exp(x);
}

/* Join sums, whose tops may differ. */
static void join(sums *to, double top, double rest, double moment)
{
    if (rest == 0)
        return;
    const double most = top > (double)to->top ? top : (double)to->top;
    const double own = to->top == -(real)INFINITY ? 0 : power((double)to->top - most);
    const double other = power(top - most);
    to->rest = to->rest * own + rest * other;
    to->moment = to->moment * own + moment * other;
    to->top = (real)most;
}

/* log of a sum of `copies` e^own and of the others, less own; 1/sum and its top. */
static double settle_pool(const sums *others, double own, double copies, double *by, double *top,
                          double *pull, double *moment)
{
    const double most = (double)others->top > own ? (double)others->top : own;
    const double e = power(own - most);
    const double scale = others->rest == 0 ? 0 : power((double)others->top - most);
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
    const bool two = has(p, DOC_TO_QUERY), joint = p->partition == JOINT;
    const double share = two && !joint ? 0.5 : 1, factor = share * weight;
    sums row = {.top = p->top[i], .rest = p->rest[i], .moment = p->moment[i]};
    sums column = {.top = -(real)INFINITY};
    directed_row r = {0};
    double pull, moment;
    for (int64_t block = 0; has_columns(p) && block < p->blocks; block++) {
        const int64_t at = block * padded_lanes(p->anchors) + i;
        join(joint ? &row : &column, (double)p->column_top[at], p->column_rest[at],
             p->column_moment[at]);
    }
    r.loss = share *
             settle_pool(&row, own, two && joint ? 2 : 1, &r.by[0], &r.top[0], &r.pull, &r.moment);
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
    r.pull = weight == 0 ? 0 : factor * r.pull;
    r.moment = weight == 0 ? 0 : factor * r.moment;
    r.off = weight == 0 ? 0 : factor * r.off;
    for (int pool = 0; pool < 2; pool++)
        r.by[pool] = weight == 0 ? 0 : factor * r.by[pool];
    return r;
}
