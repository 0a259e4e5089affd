/* SPDX-License-Identifier: MIT
 *
 * Rows of few class scores, across lanes: see rows/few.h.
 */
#include "rows/few_group.h"

#include "rows/class_terms.h"
#include "vector/vmath.h"

/* Four arrays, and rooms for scores and targets. */
size_t few_scratch(int64_t width)
{
    const size_t array = (size_t)padded_lanes(width) * LANES;
    return array * 4 * sizeof(real) + (size_t)width * LANES * 2 * sizeof(elem);
}

few_plan few_plan_make(const class_plan *row, bool keep, void *scratch)
{
    const bool shaped = row->gamma > 0 || row->poly1 != 0 || row->target_scaling > 0;
    const int64_t array = padded_lanes(row->width) * LANES, all = row->width * LANES;
    few_plan p = {.row = row,
                  .bare = row->on == 1 && row->off == 0 && !(row->cap > 0) && !shaped &&
                          row->z_loss == 0 && !row->minus_entropy,
                  .large = all * (int64_t)sizeof(real) > 32 * 1024 / 5,
                  .given = cross_make(row->width, row->inner),
                  .copied = cross_make(row->width, row->inner > 1 ? LANES : 1),
                  .next = row->inner > 1 ? 0 : (uintptr_t)all * sizeof(elem),
                  .raw = scratch};
    const bool once = !keep && !row->want_entropy && !row->want_argmax;
    p.t = p.raw + array;
    p.z = row->scale == 1 && !(row->cap > 0) ? p.raw : p.t + array;
    p.e = once ? p.z : p.t + 2 * array;
    p.x_room = (elem *)(p.raw + 4 * array);
    p.t_room = p.x_room + all;
    /* Comparing every class with the targets is cheaper for a few: a vector waits for scalars
     * stored into it. */
    p.take = once && row->classes == row->width && row->classes >= 2 * LANES;
    if (LANES > 1 && p.bare && once && row->classes == row->width && row->width >= 2 &&
        row->width <= NARROW)
        p.narrow = (int)row->width;
    return p;
}

/* Loading and storing. Rows that do not fill a group are computed in a copy, beside zeros. */

static void few_copy(const cross_rows *from_at, const elem *from, const cross_rows *to_at, elem *to,
                     int64_t count)
{
    if (from_at->inner == 1)
        memcpy(to, from, (size_t)(count * from_at->width) * sizeof(elem));
    for (int64_t k = 0; from_at->inner > 1 && k < from_at->width; k++)
        memcpy(to + k * to_at->inner, from + k * from_at->inner, (size_t)count * sizeof(elem));
}

static void few_load_some(const few_plan *plan, const elem *x, int64_t count, elem *room, real *to)
{
    memset(room, 0, (size_t)(LANES * plan->given.width) * sizeof(elem));
    few_copy(&plan->given, x, &plan->copied, room, count);
    cross_load(&plan->copied, room, true, to);
}

LK_INLINE void few_load(const group *g, const elem *x, elem *room, real *to)
{
    if (g->count == LANES)
        cross_load(&g->plan->given, x, true, to);
    else
        few_load_some(g->plan, x, g->count, room, to);
}

static void few_store_some(const few_plan *plan, const real *from, elem *to, int64_t count,
                           elem *room, const cross_factor *by)
{
    cross_store(&plan->copied, from, room, false, by);
    few_copy(&plan->copied, room, &plan->given, to, count);
}

/* `numbers`: none is NaN. `by`: see cross_read. */
LK_INLINE void few_store(const group *g, const real *from, elem *to, elem *room, const bool numbers,
                         const cross_factor *by)
{
    if (g->count == LANES) {
        cross_store(&g->plan->given, from, to, numbers, by);
    } else {
        const cross_factor some = by ? *by : (cross_factor){0};
        few_store_some(g->plan, from, to, g->count, room, by ? &some : NULL);
    }
}

LK_INLINE vec few_at(const real *from, int64_t k)
{
    return v_read(from + k * LANES);
}

/* Target distributions and class weights. A loop that writes has a copy of its own: for all the
 * compiler knows a store changes the group and the plan. So it has of all else that it reads. */
typedef struct aims {
    const real *t, *weight;
    vec kept, off;
} aims;

LK_INLINE aims few_aims(const group *g)
{
    return (aims){.t = g->plan->t,
                  .weight = g->plan->row->weight,
                  .kept = v_set((real)(1 - g->plan->row->smoothing)),
                  .off = v_set((real)g->plan->row->off)};
}

LK_INLINE vec few_q(const aims *to, int64_t k)
{
    return v_fma(few_at(to->t, k), to->kept, to->off);
}

LK_INLINE vec few_weighed(const aims *to, int64_t k, vec x)
{
    return to->weight ? few_weight(to->weight, k) * x : x;
}

/* dz/dx without the scale. */
LK_INLINE vec few_bend(const real *raw, real cap, int64_t k)
{
    return cap > 0 ? v_tanh_slope(few_at(raw, k) * v_set(1 / cap)) : v_set(1);
}

/* The scaled scores. */
static void few_scale(const few_plan *plan)
{
    const class_plan *p = plan->row;
    const vec scale = v_set((real)p->scale), cap = v_set(p->cap);
    const vec inverse = v_set(p->cap > 0 ? 1 / p->cap : 0);
    for (int64_t k = 0; k < p->classes; k++) {
        const vec x = few_at(plan->raw, k);
        v_write(plan->z + k * LANES, scale * (p->cap > 0 ? cap * v_tanh(x * inverse) : x));
    }
}

/* The scores of the rows and their maximum. */
LK_INLINE void few_begin(group *g, const few_plan *plan, const few_rows *r)
{
    const class_plan *p = plan->row;
    const int64_t classes = p->classes;
    const real *z = plan->z;
    const vec lowest = v_set(-(real)INFINITY);
    g->plan = plan;
    g->count = r->count;
    v_copy(&g->live, r->live, sizeof g->live);
    v_copy(&g->y, r->y, sizeof g->y);
    few_load(g, r->x, plan->x_room, plan->raw);
    if (r->t)
        few_load(g, r->t, plan->t_room, plan->t);
    if (plan->z != plan->raw)
        few_scale(plan);
    vec top[4] = {lowest, lowest, lowest, lowest}; /* chains of maxima */
    int64_t k = 0;
    for (; k + 4 <= classes; k += 4)
        for (int i = 0; i < 4; i++)
            top[i] = v_max(few_at(z, k + i), top[i]);
    for (; k < classes; k++)
        top[0] = v_max(few_at(z, k), top[0]);
    g->top = v_max(v_max(top[0], top[1]), v_max(top[2], top[3]));
    g->shift = v_where(g->top != lowest, g->top);
}

/* Fetch as many bytes from `at` on as a vector of elements of class k has. Hardware takes a group
 * of rows that is read in turns for several streams, and gives up. */
LK_INLINE const void *few_ahead(uintptr_t at, int64_t k)
{
    return (const void *)(at + (uintptr_t)(k * LANES) * sizeof(elem));
}

/* For which classes? Where several have their elements in one cache line, for one of them, unless
 * to find out costs as much. */
LK_INLINE bool few_fetches(int64_t k)
{
    enum { BYTES = LANES * (int)sizeof(elem), TOGETHER = BYTES <= 16 ? LK_LINE / BYTES : 1 };
    return (k & (TOGETHER - 1)) == 0;
}

/* What the next group reads: into the second-level cache where this one fills the first. */
LK_INLINE void few_fetch(bool large, uintptr_t at, int64_t k)
{
    if (large)
        __builtin_prefetch(few_ahead(at, k), 0, 2);
    else
        __builtin_prefetch(few_ahead(at, k));
}

/* Sums over the classes that some options need. */
typedef struct sums {
    vec off_scores, cross, others, tops, excess; /* as in class_totals */
    mask leader; /* probability form: the last class at the maximum */
    mask weighs; /* as in class_totals */
} sums;

/* The targets' scores, in whose place there is -inf from now on, whose exponential is 0; 0 in a row
 * without a target. */
LK_INLINE vec few_take(group *g, const ilane *y)
{
    const real none = -(real)INFINITY;
    real taken[LANES] = {0};
    UNROLLED
    for (int i = 0; i < LANES; i++)
        if (y[i] >= 0) {
            real *at = g->plan->z + y[i] * LANES + i;
            memcpy(taken + i, at, sizeof *at);
            memcpy(at, &none, sizeof *at);
        }
    return v_read(taken);
}

/* The exponentials and their sum. The target, or in probability form every class at the maximum, is
 * left out of the sum and added last. In that form the sums that need no more than this as well.
 * `taken`: index form, where the targets were taken out of the scores, which are `own` then. */
LK_INLINE void few_sum(group *g, const few_rows *r, sums *s, const bool soft, const bool taken,
                       vec at_y)
{
    const int64_t n = g->plan->row->classes;
    const real *z_of = g->plan->z;
    real *e_of = g->plan->e;
    /* The memory of the next group, and that of this one's gradient: as integers, since there may
     * be no next group. */
    const uintptr_t next_x = (uintptr_t)r->x + g->plan->next;
    const uintptr_t next_t = (uintptr_t)r->t + g->plan->next;
    const uintptr_t grad = (uintptr_t)(r->grad_x ? r->grad_x : r->x);
    const bool large = g->plan->large;
    const vec none = v_set((real)NAN), one = v_set(1), inf = v_set((real)INFINITY), zero = {0};
    const vec shift = g->shift;
    const mask y = g->y;
    const aims to = soft ? few_aims(g) : (aims){0};
    vec rest = {0}, own = {0}, cross = {0}, other = {0}, top = {0};
    mask here = {0}, leader = m_set(-1), weighs = m_set(soft && to.weight ? 0 : -1);
    for (int64_t from = 0; from < n; from += PART) {
        const int64_t end = n - from < PART ? n : from + PART;
        vec part = {0}, crossing = {0}, others = {0}, tops = {0};
        for (int64_t k = from; k < end; k++, here += m_set(1)) {
            const vec z = few_at(z_of, k), d = z - shift, e = v_exp_nonpos(d);
            const mask apart = soft ? z == shift : y == here; /* not used if taken */
            if (few_fetches(k)) {
                few_fetch(large, next_x, k);
                if (soft)
                    few_fetch(large, next_t, k);
                __builtin_prefetch(few_ahead(grad, k), 1);
            }
            v_write(e_of + k * LANES, e);
            part += taken ? e : v_where(~apart, e);
            if (soft) {
                const vec wq = few_weighed(&to, k, few_q(&to, k));
                const mask at_top = d == zero, counts = wq != zero;
                own += v_where(apart, one);
                weighs |= counts;
                crossing += v_where(counts, wq * d);
                others += v_where(~at_top, wq);
                tops += v_where(at_top, wq);
                leader = m_select(at_top, here, leader);
            } else if (!taken) {
                own = v_select(apart, e, own);
                at_y = v_select(apart, z, at_y);
            }
        }
        rest += part;
        cross += crossing;
        other += others;
        top += tops;
    }
    s->cross = cross;
    s->others = other;
    s->tops = top;
    s->excess = zero;
    s->leader = leader;
    s->weighs = weighs;
    if (taken)
        own = v_where(g->y >= m_set(0), v_exp_nonpos(at_y - g->shift));
    g->rest = rest;
    g->own = own;
    g->sum = rest + own;
    g->above = g->top - at_y;
    const mask whole = (g->sum > v_set(0)) & (g->top != inf);
    g->sum = v_select(whole, g->sum, none);
    /* What the sum exceeds 1 by, with all its digits: one of the terms is 1. */
    const vec excess = soft ? (own - one) + rest : v_select(own > rest, rest, (rest - one) + own);
    g->log_sum = v_select(whole, v_log1p(excess), none);
}

/* Entropy of softmax, and the mean of top - z in *gap: see class_entropy. */
static vec few_entropy(const group *g, vec *gap)
{
    const int64_t n = g->plan->row->classes;
    const vec zero = {0}, one = v_set(1);
    vec heat = {0}, below = {0}, at = {0};
    for (int64_t from = 0; from < n; from += PART) {
        const int64_t end = n - from < PART ? n : from + PART;
        vec some_heat = {0}, some_below = {0};
        for (int64_t k = from; k < end; k++) {
            const vec d = few_at(g->plan->z, k) - g->shift, e = few_at(g->plan->e, k);
            some_heat += v_where(e != zero, e * d);
            some_below += v_where(d != zero, e);
            at += v_where(d == zero, one);
        }
        heat += some_heat;
        below += some_below;
    }
    *gap = -heat / (at + below);
    return v_select(v_is_nan(g->sum), g->sum, v_log1p((at - one) + below) + *gap);
}

/* The first class with the highest score, or with NaN. */
static mask few_argmax(const group *g)
{
    vec most = v_set(-(real)INFINITY);
    mask at = {0}, nan = m_set(-1);
    for (int64_t k = 0; k < g->plan->row->classes; k++) {
        const vec z = few_at(g->plan->z, k);
        const mask here = m_set((ilane)k), more = z > most, first = v_is_nan(z) & (nan < m_set(0));
        at = m_select(more, here, at);
        nan = m_select(first, here, nan);
        most = v_max(z, most);
    }
    const mask clean = nan < m_set(0);
    return m_select(clean, at, nan);
}

static vec few_off_scores(const group *g)
{
    const int64_t n = g->plan->row->classes;
    const vec zero = {0};
    vec off_scores = {0};
    for (int64_t from = 0; from < n; from += PART) {
        const int64_t end = n - from < PART ? n : from + PART;
        vec part = {0};
        for (int64_t k = from; k < end; k++) {
            const vec w = few_weight(g->plan->row->weight, k), d = few_at(g->plan->z, k) - g->shift;
            part += v_where((g->y != m_set((ilane)k)) & (w != zero), w * d);
        }
        off_scores += part;
    }
    return off_scores;
}

/* The sum of w q (log q - l). */
static vec few_excess(const group *g)
{
    const int64_t n = g->plan->row->classes;
    const aims to = few_aims(g);
    const vec zero = {0};
    vec excess = {0};
    for (int64_t from = 0; from < n; from += PART) {
        const int64_t end = n - from < PART ? n : from + PART;
        vec part = {0};
        for (int64_t k = from; k < end; k++) {
            const vec d = few_at(g->plan->z, k) - g->shift, q = few_q(&to, k);
            const vec wq = few_weighed(&to, k, q);
            part += v_where(wq != zero, wq * (v_log(q) - (d - g->log_sum)));
        }
        excess += part;
    }
    return excess;
}

/* Values, and the coefficients. */
static slopes few_conclude(const group *g, few_rows *r, const sums *s, const bool soft)
{
    const class_plan *p = g->plan->row;
    const double huge = 0x1p60, far = 0x1p64;
    const mask apart = (soft ? s->leader : g->y) >= m_set(0);
    const vec nll = g->log_sum + g->above;
    const vec w = soft ? v_set(1) : few_weights(g, r);
    wide_half a[WIDE_PARTS], rest[WIDE_PARTS], b[WIDE_PARTS], at[WIDE_PARTS], power[WIDE_PARTS];
    for (int h = 0; h < WIDE_PARTS; h++) {
        const int i = h * HALF_LANES;
        const half_mask live = half_mask_of(g->live, i);
        class_totals t = {.rest = half_of(g->rest, i),
                          .own = half_of(g->own, i),
                          .log_sum = half_of(g->log_sum, i),
                          .nll = half_of(nll, i),
                          .weight = half_of(w, i),
                          .weighs = half_mask_of(s->weighs, i)};
        t.sum = half_select(half_is_nan(t.log_sum), t.log_sum, t.rest + t.own);
        t.inverse = half_set(1) / t.sum;
        t.lse = half_of(g->top, i) + t.log_sum;
        if (soft) {
            t.cross = half_of(s->cross, i);
            t.others = half_of(s->others, i);
            t.tops = half_of(s->tops, i);
            t.excess = half_of(s->excess, i);
        } else if (p->off > 0) {
            t.off_scores = half_of(s->off_scores, i);
        }
        const class_terms c =
            class_terms_of(p, &t, soft, half_mask_of(apart, i), half_read(r->rho + i),
                           half_read(r->zeta + i), HALF_LANES);
        const wide_half by = c.a * p->scale;
        const half_mask is_huge = half_abs(by) > half_set(huge);
        half_write(r->main + i, half_where(live, c.main));
        half_write(r->z_part + i, half_where(live, c.z_part));
        const wide_half near = half_select(is_huge, by * half_set(1 / far), by);
        a[h] = near;
        rest[h] = half_where(half_abs(near) < half_set(huge * huge), near - half_rounded(near));
        power[h] = half_select(is_huge, half_set(far), half_set(1));
        b[h] = c.b * p->scale;
        at[h] = c.at * p->scale;
    }
    v_write(r->nll, soft ? v_set(0) : v_where(g->live, nll));
    v_write(r->lse, v_where(g->live, g->top + g->log_sum));
    return (slopes){.a = half_join(a),
                    .rest = half_join(rest),
                    .power = half_join(power),
                    .b = half_join(b),
                    .at = half_join(at),
                    .y = soft ? s->leader : g->y};
}

/* Which rows have a gradient other than 0. */
static mask few_sloping(const few_rows *r, mask weighs)
{
    const wide_half zero = {0};
    half_mask sloping[WIDE_PARTS];
    UNROLLED
    for (int h = 0; h < WIDE_PARTS; h++) {
        const int i = h * HALF_LANES;
        sloping[h] = (half_mask_of(weighs, i) & (half_read(r->rho + i) != zero)) |
                     (half_read(r->zeta + i) != zero);
    }
    return half_mask_join(sloping);
}

/* Gradients replace the exponentials. `plain`: neither smoothing, softcap nor probabilities, so
 * that class weights are a factor of the row. `usual`: every row has a gradient, which is finite,
 * and no power. */
LK_INLINE void few_slopes(const group *g, const slopes *by, mask sloping, const bool plain,
                          const bool soft, const bool usual)
{
    const class_plan *p = g->plan->row;
    const int64_t classes = p->classes, width = p->width;
    const bool precise = sizeof(elem) == 4;
    const vec off = by->b * v_set((real)p->off), nan = v_set((real)NAN);
    const mask none = v_is_nan(by->a);
    const vec a = by->a, rest = by->rest, power = by->power, b = by->b, at = by->at;
    const mask y = by->y;
    const aims to = plain ? (aims){0} : few_aims(g);
    const real cap = p->cap, *raw = g->plan->raw;
    real *e_of = g->plan->e;
    mask here = {0};
    for (int64_t k = 0; k < classes; k++, here += m_set(1)) {
        const vec e = usual ? few_at(e_of, k) : few_at(e_of, k) * power;
        vec slope = precise ? v_fma(a, e, rest * e) : a * e;
        if (!plain) {
            const vec q = few_weighed(&to, k, soft ? few_q(&to, k) : off), wq = soft ? q * b : q;
            slope = v_fma(a, e, precise ? v_fma(rest, e, -wq) : -wq);
        }
        slope = v_select(y == here, at, slope);
        if (!plain && cap > 0)
            slope *= few_bend(raw, cap, k);
        if (!usual) /* of all NaN one, whatever the neighbours are */
            slope = v_where(sloping, v_select(none, nan, slope));
        v_write(e_of + k * LANES, slope);
    }
    for (int64_t k = classes; k < width; k++)
        v_write(e_of + k * LANES, v_set(0));
}

static void few_gradient(const group *g, const slopes *s, mask sloping, bool soft)
{
    const bool usual = m_none(~sloping | (s->power != v_set(1)) | v_is_nan(s->a));
    if (soft)
        few_slopes(g, s, sloping, false, true, false);
    else if (g->plan->row->off > 0 || g->plan->row->cap > 0)
        few_slopes(g, s, sloping, false, false, false);
    else if (usual)
        few_slopes(g, s, sloping, true, false, true);
    else
        few_slopes(g, s, sloping, true, false, false);
}

/* The gradients with respect to the target probabilities replace them: see class_gradient_t. */
static void few_target_slopes(const group *g, const few_rows *r)
{
    const class_plan *p = g->plan->row;
    real factor[LANES];
    for (int i = 0; i < LANES; i++)
        factor[i] = (real)(r->live[i] ? r->rho[i] * (1 - p->smoothing) : 0);
    const aims to = few_aims(g);
    const vec c = v_read(factor), zero = {0}, one = v_set(1);
    for (int64_t k = 0; k < p->classes; k++) {
        const vec q = few_q(&to, k);
        vec minus_l = g->log_sum - (few_at(g->plan->z, k) - g->shift), cw = few_weighed(&to, k, c);
        if (p->minus_entropy) {
            minus_l += one + v_log(q);
            cw = v_where(q != zero, cw);
        }
        v_write(g->plan->t + k * LANES, v_where(cw != zero, cw * minus_l));
    }
    for (int64_t k = p->classes; k < p->width; k++)
        v_write(g->plan->t + k * LANES, zero);
}

static void few_put_argmax(const group *g, few_rows *r)
{
    const mask at = few_argmax(g);
    const mask shown = (g->live & at) | ~g->live;
    memcpy(r->argmax, &shown, sizeof shown);
}

static void few_put_entropy(const group *g, few_rows *r, vec *gap)
{
    v_write(r->entropy, v_where(g->live, few_entropy(g, gap)));
}

LK_INLINE void few_diagnose(const group *g, few_rows *r)
{
    vec gap;
    if (g->plan->row->want_argmax)
        few_put_argmax(g, r);
    if (g->plan->row->want_entropy)
        few_put_entropy(g, r, &gap);
}

/* The slopes of the targets, in memory. */
static void few_put_targets(const group *g, const slopes *s, const few_rows *r)
{
    const class_plan *p = g->plan->row;
    const int64_t apart = p->inner > 1 ? 1 : p->width;
    elem own[LANES];
    v_store(own, s->at);
    for (int i = 0; i < g->count; i++)
        memcpy(r->grad_x + i * apart + r->y[i] * p->inner, own + i, sizeof *own);
}

void few_compute(const few_plan *plan, few_rows *r)
{
    const class_plan *p = plan->row;
    const bool take = plan->take;
    group g;
    if (plan->narrow > 0 && !r->t && r->count == LANES && few_narrow(plan, r))
        return;
    few_begin(&g, plan, r);
    sums s;
    slopes by;
    if (r->t) {
        few_sum(&g, r, &s, true, false, (vec){0});
        if (p->minus_entropy)
            s.excess = few_excess(&g);
        const mask alone = g.own == v_set(1);
        s.leader = (alone & s.leader) | ~alone;
        by = few_conclude(&g, r, &s, true);
    } else {
        if (take)
            few_sum(&g, r, &s, false, true, few_take(&g, r->y));
        else
            few_sum(&g, r, &s, false, false, (vec){0});
        if (plan->bare && r->grad_x && few_conclude_bare(&g, r, &by)) {
            few_diagnose(&g, r);
            if (take) {
                const cross_factor factor = {.a = by.a, .rest = by.rest};
                few_store(&g, plan->e, r->grad_x, plan->x_room, true, &factor);
                few_put_targets(&g, &by, r);
            } else {
                few_slopes(&g, &by, m_set(-1), true, false, true);
                few_store(&g, plan->e, r->grad_x, plan->x_room, true, NULL);
            }
            return;
        }
        if (p->off > 0)
            s.off_scores = few_off_scores(&g);
        by = few_conclude(&g, r, &s, false);
    }
    few_diagnose(&g, r);
    if (r->grad_x) {
        few_gradient(&g, &by, few_sloping(r, s.weighs), r->t != NULL);
        few_store(&g, plan->e, r->grad_x, plan->x_room, false, NULL);
    }
    if (r->grad_t) {
        few_target_slopes(&g, r);
        few_store(&g, plan->t, r->grad_t, plan->t_room, false, NULL);
    }
}

void few_logprobs(const few_plan *plan, few_rows *r)
{
    const class_plan *p = plan->row;
    group g;
    few_begin(&g, plan, r);
    wide_half by_p[WIDE_PARTS], by_l[WIDE_PARTS], at[WIDE_PARTS];
    vec gap = {0};
    bool bends = false;
    sums s;
    few_sum(&g, r, &s, false, false, (vec){0});
    for (int i = 0; i < LANES; i++)
        bends = bends || r->zeta[i] != 0;
    if (p->want_entropy || (bends && r->grad_x))
        few_put_entropy(&g, r, &gap);
    v_write(r->nll, v_where(g.live, g.log_sum + g.above));
    if (!r->grad_x)
        return;
    UNROLLED
    for (int h = 0; h < WIDE_PARTS; h++) {
        const int i = h * HALF_LANES;
        const wide_half rest = half_of(g.rest, i), hit = half_of(g.own, i), sum = rest + hit;
        const wide_half g_l = half_read(r->rho + i), g_h = half_read(r->zeta + i), zero = {0};
        const wide_half far = half_of(gap, i) - half_of(g.above, i); /* l_y + H */
        const wide_half p_y = hit / sum,
                        pull = half_where((p_y > zero) & (g_h != zero), g_h * p_y * far);
        by_p[h] = -g_l / sum * p->scale;
        by_l[h] = -g_h / sum * p->scale;
        at[h] = (g_l * (rest / sum) - pull) * p->scale; /* 1 - p_y is rest/sum */
    }
    const mask sloping = few_sloping(r, m_set(-1)), none = v_is_nan(g.sum);
    const vec l = half_join(by_l), q = half_join(by_p), own = half_join(at), zero = {0};
    for (int64_t k = 0; k < p->classes; k++) {
        const vec d = few_at(plan->z, k) - g.shift, e = few_at(plan->e, k);
        vec slope = v_where(e != zero, e * v_fma(l, d + gap, q));
        slope = v_select(g.y == m_set((ilane)k), own, slope) * few_bend(plan->raw, p->cap, k);
        v_write(plan->e + k * LANES, v_where(sloping, v_select(none, g.sum, slope)));
    }
    for (int64_t k = p->classes; k < p->width; k++)
        v_write(plan->e + k * LANES, zero);
    few_store(&g, plan->e, r->grad_x, plan->x_room, false, NULL);
}
