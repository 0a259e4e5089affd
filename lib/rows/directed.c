/* SPDX-License-Identifier: MIT
 *
 * InfoNCE in several directions: see rows/directed.h.
 */
#include "rows/directed.h"

#include "rows/product.h"
#include "vector/tally.h"
#include "vector/vmath.h"
#include "vector/wide.h"

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

void directed_candidate_line(const lk_job *job, const directed *p, int64_t i, int64_t j, int64_t n,
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

void directed_anchor_line(const directed *p, int64_t i, bool turned, real *x)
{
    const int64_t at = i * p->anchors_padded, row = turned ? 0 : i;
    exclude(p, p->model.aa + at, p->guided ? p->guide.aa + at : NULL, p->most + row,
            p->most_guide + row, turned, p->anchors, x);
    drop(x, i, p->anchors);
}

void directed_positive_line(const lk_job *job, const directed *p, int64_t i, int64_t j, int64_t n,
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

void directed_column_line(const directed *p, int64_t i, int64_t m, int64_t n, real *x, real *room)
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

static void visit_row(const lk_job *job, const directed *p, int64_t i, const lines *l)
{
    const int64_t b = p->anchors, m = p->candidates, w = p->candidates_padded;
    const double own = (double)p->s[i];
    sums to = {.top = -(real)INFINITY};
    directed_candidate_line(job, p, i, 0, m, l->ac);
    to.top = top_of(l->ac, m, to.top);
    if (p->model.aa) {
        directed_anchor_line(p, i, false, l->aa);
        to.top = top_of(l->aa, b, to.top);
    }
    if (p->model.pc) {
        directed_positive_line(job, p, i, 0, m, l->pc);
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
    directed_column_line(p, i, 0, p->anchors, l->column, l->room);
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

size_t directed_visit_products(const directed *p)
{
    const int64_t n = at_most(DIRECTED_ROWS, p->anchors);
    const size_t own = product_scratch(n, p->candidates, p->model.anchors.width);
    const size_t guide = p->guided ? product_scratch(n, p->candidates, p->guide.anchors.width) : 0;
    return own > guide ? own : guide;
}

void directed_rows(const lk_job *job, const directed *p, int64_t first, int64_t count,
                   void *scratch)
{
    const lines l = lines_of(p, scratch, directed_visit_products(p));
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
