/* SPDX-License-Identifier: MIT
 *
 * Plain rows of class scores: against one class, with nothing about them that needs more of the row
 * than its exponentials. That is the cross entropy that models are trained with, and it is to cost
 * no more than moving its bytes. What classrow.h computes, with three things more:
 *
 * - Scores are mostly small, and e^z of a small z needs no maximum. A chunk whose scores turn out
 *   to be calm is done in one sweep that waits for nothing; others are done again as in classrow.h.
 * - While the memory waits for the scores of a row, the gradient of the row before is written,
 *   chunk by chunk.
 * - Vectors are taken in pairs, in the order that costs halves least.
 *
 * None of this depends on where the row lies, on the rows beside it, on what its gradient is
 * multiplied with, or on what else is asked for.
 */
#ifndef LK_CLASSPLAIN_H
#define LK_CLASSPLAIN_H

#include "classrow.h"

/* Scores up to this are calm: their exponentials, from 2^-58 to 2^58, and the sum of a chunk of
 * them are far from the ends of f32. */
enum { CALM = 40 };

/* A row whose gradient is left to write. The row stays where it is until then. */
typedef struct plain_gradient {
    const class_row *row; /* NULL: none is left */
    double a;             /* of e^(z-top) */
    real at;              /* the target's entry */
    real top;             /* what a is relative to */
    /* Where its rows begin within a line, chunks pass through here: whole lines leave, and what is
     * left of the last one waits for the next chunk. */
    elem line[CHUNK + LK_LINE / sizeof(elem)] __attribute__((aligned(LK_LINE)));
} plain_gradient;

/* Do the options leave its rows plain? */
LK_DRIVER bool plain_plan(const class_plan *p, bool index)
{
    return index && !(p->cap > 0) && p->off == 0;
}

/* e^z of a pair of vectors; what they add to the sums, and the greatest |z|. */
LK_INLINE void plain_pair(const elem *x, real *e, vec scale, const bool scaled, vec *sum, vec *most)
{
    vec u, w;
    v_load_pair(x, &u, &w);
    u = scaled ? scale * u : u;
    w = scaled ? scale * w : w;
    most[0] = v_max_abs(u, most[0]);
    most[1] = v_max_abs(w, most[1]);
    u = v_exp_small(u);
    w = v_exp_small(w);
    v_write(e, u);
    v_write(e + LANES, w);
    sum[0] += u;
    sum[1] += w;
}

/* e^z of n classes, and their sum, if all of them are calm. */
LK_INLINE bool plain_calm_of(const elem *x, int64_t n, real by, real *e, double *total,
                             const bool scaled)
{
    const vec scale = v_set(by);
    vec sum[4] = {{0}, {0}, {0}, {0}}, most[4] = {{0}, {0}, {0}, {0}};
    int64_t k = 0;
    for (; k + 4 * LANES <= n; k += 4 * LANES) {
        for (size_t i = 0; i < 4 * LANES; i += LK_LINE / sizeof(elem))
            v_fetch(x + k + i);
        plain_pair(x + k, e + k, scale, scaled, sum, most);
        plain_pair(x + k + 2 * LANES, e + k + 2 * LANES, scale, scaled, sum + 2, most + 2);
    }
    for (; k + 2 * LANES <= n; k += 2 * LANES)
        plain_pair(x + k, e + k, scale, scaled, sum, most);
    for (; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        vec u = v_load_tail(x + k, lanes, 0);
        u = scaled ? scale * u : u;
        most[0] = v_max_abs(u, most[0]);
        u = v_where(m_first(lanes), v_exp_small(u));
        v_write(e + k, u);
        sum[0] += u;
    }
    *total = v_sum_wide((sum[0] + sum[1]) + (sum[2] + sum[3]));
    return v_top(v_max(v_max(most[0], most[1]), v_max(most[2], most[3]))) <= CALM;
}

LK_DRIVER bool plain_calm(const class_plan *p, const elem *x, int64_t n, real *e, double *total)
{
    return p->scale == 1 ? plain_calm_of(x, n, 1, e, total, false)
                         : plain_calm_of(x, n, (real)p->scale, e, total, true);
}

/* Scores in the order of pairs, -inf behind them; their maximum. */
LK_DRIVER real plain_scores(const class_plan *p, const elem *x, int64_t n, real *z)
{
    const vec scale = v_set((real)p->scale);
    vec a = v_set(-(real)INFINITY), b = a;
    int64_t k = 0;
    for (; k + 2 * LANES <= n; k += 2 * LANES) {
        vec u, w;
        v_load_pair(x + k, &u, &w);
        u = scale * u;
        w = scale * w;
        v_write(z + k, u);
        v_write(z + k + LANES, w);
        a = v_max(u, a);
        b = v_max(w, b);
    }
    for (; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        vec u = scale * v_load_tail(x + k, lanes, 0);
        u = v_select(m_first(lanes), u, v_set(-(real)INFINITY));
        v_write(z + k, u);
        a = v_max(u, a);
    }
    return v_top(v_max(a, b));
}

/* Where class k of n comes to lie. */
LK_INLINE int64_t plain_place(int64_t k, int64_t n)
{
    const int64_t pair = k / (2 * LANES) * (2 * LANES);
    return pair + 2 * LANES <= n ? pair + v_pair_place(k - pair) : k;
}

/* The lane at `place`, of a vector that begins at k. */
LK_INLINE mask plain_lane(int64_t place, int64_t k)
{
    const int64_t lane = place - k; /* may be more than a lane holds */
    return m_iota() == m_set(lane >= 0 && lane < LANES ? (ilane)lane : -1);
}

/* The sum of n reals, in whole vectors, but for the one at `place`, which may be all but all of it.
 * It is not put to 0: to read that again as part of a vector would wait. */
LK_INLINE double plain_sum_others(const real *e, int64_t n, int64_t place)
{
    vec a = {0}, b = {0};
    int64_t k = 0;
    for (; k + 2 * LANES <= n; k += 2 * LANES) {
        a += v_where(~plain_lane(place, k), v_read(e + k));
        b += v_where(~plain_lane(place, k + LANES), v_read(e + k + LANES));
    }
    for (; k < n; k += LANES)
        a += v_where(~plain_lane(place, k), v_read(e + k));
    return v_sum_wide(a + b);
}

/* What a row has shown of itself. */
typedef struct plain_mood {
    int64_t calm_from; /* chunks before this class are not tried for calm */
    int64_t pause;     /* how long the next failure is remembered */
} plain_mood;

/* The exponentials of one chunk into e, and what they add to the row. */
LK_INLINE void plain_chunk(const class_plan *p, const class_row *row, int64_t k, int64_t n, real *e,
                           plain_mood *mood, class_norm *r)
{
    real shift = 0;
    double sum;
    bool calm = false;
    if (k >= mood->calm_from) {
        calm = plain_calm(p, row->x + k, n, e, &sum);
        if (!calm) {
            mood->calm_from = k + mood->pause;
            mood->pause *= 2;
        }
    }
    real reference = 0;
    if (!calm) {
        const real top = plain_scores(p, row->x + k, n, e);
        reference = top > r->top ? top : r->top;
        shift = isinf(reference) && reference < 0 ? 0 : reference; /* nothing finite yet */
        sum = (double)class_exps(e, class_padded(n), shift, true);
    }
    if (reference > r->top) {
        if (r->rest > 0)
            r->rest *= exp((double)r->top - (double)reference);
        r->top = reference;
    }
    if (row->y >= k && row->y < k + n) {
        const int64_t place = plain_place(row->y - k, n);
        if (4 * (double)e[place] <= sum) /* hardly anything cancels */
            sum -= (double)e[place];
        else
            sum = plain_sum_others(e, class_padded(n), place);
    }
    if (row->shift)
        row->shift[k / CHUNK] = shift;
    if (shift < r->top)
        sum *= exp((double)shift - (double)r->top);
    r->rest += sum;
}

/* Whole lines to where they belong, what is left of the last one to where the next chunk looks for
 * it. `lead` elements of the first line are there already. */
LK_INLINE void plain_pass_on(elem *line, elem *to, int64_t lead, int64_t n, bool first, bool last,
                             bool stream)
{
    enum { LINE = LK_LINE / (int)sizeof(elem) };
    const int64_t end = lead + n;
    int64_t k = 0;
    if (first && lead > 0) { /* not ours from its beginning */
        k = end < LINE ? end : LINE;
        memcpy(to, line + lead, (size_t)(k - lead) * sizeof(elem));
    }
    for (; stream && k + LINE <= end; k += LINE)
        v_stream_line(to + (k - lead), line + k);
    for (; k + LINE <= end; k += LINE)
        memcpy(__builtin_assume_aligned(to + (k - lead), LK_LINE), line + k, LK_LINE);
    if (last)
        memcpy(to + (k - lead), line + k, (size_t)(end - k) * sizeof(elem));
    else
        memcpy(line, line + k, (size_t)(end - k) * sizeof(elem));
}

/* The factor is in two parts where the element has the digits to show it: to round it first would
 * cost every class half an ulp. */
LK_INLINE vec plain_slope(vec a, vec rest, vec e)
{
    return sizeof(elem) == 4 ? v_fma(a, e, rest * e) : a * e;
}

/* The gradient of a chunk from its exponentials. */
LK_INLINE void plain_slopes(const real *e, int64_t n, double by, elem *out, int64_t place, real at,
                            const bool has_target, const bool stream)
{
    const vec a = v_set((real)by), target = v_set(at);
    const vec rest = v_set(isinf(a[0]) ? 0 : (real)(by - (double)a[0])); /* inf - inf is NaN */
#define LK_SLOPE(i)                                                                                \
    (has_target ? v_select(plain_lane(place, i), target, plain_slope(a, rest, v_read(e + (i))))    \
                : plain_slope(a, rest, v_read(e + (i))))
    int64_t i = 0;
    for (; i + 2 * LANES <= n && !isnan(by); i += 2 * LANES)
        if (stream)
            v_stream_pair(out + i, LK_SLOPE(i), LK_SLOPE(i + LANES));
        else
            v_store_pair(out + i, LK_SLOPE(i), LK_SLOPE(i + LANES));
    for (; i < n; i += LANES)
        v_store_tail(out + i, LK_TAIL(i, n), LK_SLOPE(i));
#undef LK_SLOPE
}

/* What the exponentials of a chunk are to be multiplied with, but for 2^*power, which is for them:
 * the one may be beyond f32, or double, where the product is not. */
LK_INLINE double plain_factor(const plain_gradient *g, real shift, int *power)
{
    const double limit = 0x1p60;
    *power = 0;
    if (shift > g->top) /* nothing finite had come: all of them are 0 */
        return isnan(g->a) ? g->a : 0;
    const double half = shift < g->top ? exp(((double)shift - (double)g->top) / 2) : 1;
    const double factor = g->a * half * half;
    if (fabs(factor) > limit)
        *power = 60;
    else if (fabs(factor) < 1 / limit)
        *power = -60;
    return *power == 0 ? factor : ldexp(g->a * half, -*power) * half;
}

/* The gradient of the classes k..k+n-1, a chunk. */
LK_DRIVER void plain_write(const class_plan *p, plain_gradient *g, int64_t k, int64_t n)
{
    const class_row *row = g->row;
    const real shift = row->shift[k / CHUNK];
    elem *to = row->grad_x + k;
    const uintptr_t off = (uintptr_t)to % LK_LINE;
    const int64_t lead = (int64_t)(off / sizeof(elem));
    /* Halves in place: their pairs cross lines half as often, and to copy them costs more. */
    const bool worth = sizeof(elem) > 2 && p->classes > CHUNK && off % sizeof(elem) == 0;
    const bool staged = lead > 0 && (p->stream || worth);
    const bool direct = p->stream && !staged;
    elem *out = staged ? g->line + lead : to;
    real again[CHUNK] __attribute__((aligned(LK_LINE)));
    real *e = again;
    if (row->kept) {
        e = row->kept + k;
    } else {
        double sum;
        if (shift != 0 || !plain_calm(p, row->x + k, n, again, &sum)) {
            (void)plain_scores(p, row->x + k, n, again);
            (void)class_exps(again, class_padded(n), shift, true);
        }
    }
    int power;
    const double factor = plain_factor(g, shift, &power);
    for (int64_t i = 0; power != 0 && i < n; i += LANES)
        v_write(e + i, v_set((real)(power > 0 ? 0x1p60 : 0x1p-60)) * v_read(e + i));
    const bool has_target = row->y >= k && row->y < k + n;
    const int64_t place = has_target ? plain_place(row->y - k, n) : 0;
    if (has_target && direct)
        plain_slopes(e, n, factor, out, place, g->at, true, true);
    else if (has_target)
        plain_slopes(e, n, factor, out, place, g->at, true, false);
    else if (direct)
        plain_slopes(e, n, factor, out, 0, 0, false, true);
    else
        plain_slopes(e, n, factor, out, 0, 0, false, false);
    if (staged)
        plain_pass_on(g->line, to, lead, n, k == 0, k + n == p->classes, p->stream);
}

LK_INLINE int64_t plain_chunk_size(const class_plan *p, int64_t k)
{
    return p->classes - k < CHUNK ? p->classes - k : CHUNK;
}

LK_INLINE void plain_written(const class_plan *p, plain_gradient *g)
{
    if (p->width > p->classes)
        memset(g->row->grad_x + p->classes, 0, (size_t)(p->width - p->classes) * sizeof(elem));
    g->row = NULL;
}

/* The gradient that is left, if there is one. */
LK_DRIVER void plain_settle(const class_plan *p, plain_gradient *g)
{
    if (!g->row)
        return;
    for (int64_t k = 0; k < p->classes; k += CHUNK)
        plain_write(p, g, k, plain_chunk_size(p, k));
    plain_written(p, g);
}

/* Sweep 1 of a row, but for what class_close does. The gradient that is left goes out meanwhile. */
LK_DRIVER void plain_normalise(const class_plan *p, const class_row *row, plain_gradient *before,
                               class_norm *r)
{
    plain_mood mood = {.pause = 4 * CHUNK};
    real chunk[CHUNK] __attribute__((aligned(LK_LINE)));
    const bool writes = before->row;
    *r = (class_norm){.top = -(real)INFINITY};
    r->at = (real)p->scale * r_load(row->x + row->y);
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        const int64_t n = plain_chunk_size(p, k);
        plain_chunk(p, row, k, n, row->kept ? row->kept + k : chunk, &mood, r);
        if (writes)
            plain_write(p, before, k, n);
    }
    if (writes)
        plain_written(p, before);
}

/* Its value; its gradient is left. */
LK_DRIVER void plain_conclude(const class_plan *p, class_row *row, const class_norm *r,
                              plain_gradient *g)
{
    const class_slope slope = class_conclude(p, row, r);
    if (p->want_entropy) { /* nearly 0 where one class is likely: only beside the maximum exact */
        const class_row alone = {.x = row->x, .y = row->y};
        const class_norm norm = class_normalise(p, &alone);
        row->entropy = (real)class_entropy(p, row, &norm);
    }
    if (row->grad_x && row->rho == 0 && row->zeta == 0) {
        memset(row->grad_x, 0, (size_t)p->width * sizeof(elem));
    } else if (row->grad_x) {
        g->row = row;
        g->a = slope.a * p->scale;
        g->at = (real)(slope.at * p->scale);
        g->top = r->top;
    }
}

/* What class_compute does, but that the last row's gradient may be left. */
LK_DRIVER void plain_compute(const class_plan *p, class_row *const *rows, int count,
                             plain_gradient *g)
{
    class_norm norms[CLASS_TOGETHER];
    for (int i = 0; i < count; i++)
        plain_normalise(p, rows[i], g, &norms[i]);
    for (int i = 0; i < count; i++)
        class_close(&norms[i], rows[i]);
    for (int i = 0; i < count; i++) {
        plain_conclude(p, rows[i], &norms[i], g);
        if (class_together(p->width) > 1)
            plain_settle(p, g);
    }
}

#endif
