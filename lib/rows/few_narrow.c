/* SPDX-License-Identifier: MIT
 *
 * Rows of very few class scores, in registers: see rows/few_group.h.
 */
#include "rows/few_group.h"
#include "vector/vmath.h"

/* The operations of few_compute.c's few_begin, few_sum and few_slopes in the same order, for `n`
 * classes, a constant. */
LK_INLINE bool narrow_rows(const few_plan *plan, few_rows *r, const int n)
{
    const int fit = n > 4 ? 8 : n > 2 ? 4 : 2, tile = fit < (int)LANES ? fit : (int)LANES;
    const vec one = v_set(1), inf = v_set((real)INFINITY), scale = v_set((real)plan->row->scale);
    const bool precise = sizeof(elem) == 4;
    cross_rows lie = plan->given;
    lie.width = n;
    vec v[NARROW], e[NARROW];
    group g = {.plan = plan, .top = v_set(-(real)INFINITY)};
    slopes by;
    v_copy(&g.y, r->y, sizeof g.y);
    UNROLLED
    for (int k = 0; k < n; k += tile)
        if (lie.inner == 1)
            cross_take_tile(&lie, r->x, true, k, v + k, tile);
    UNROLLED
    for (int k = 0; k < n; k++) {
        v[k] = (lie.inner == 1 ? v[k] : v_load(r->x + k * lie.inner)) * scale;
        g.top = v_max(v[k], g.top);
    }
    /* Of two classes one is at the maximum, where e^0 is 1. */
    const vec lower = n == 2 ? v_exp_nonpos(-v_abs(v[0] - v[1])) : one;
    vec own = {0}, at_y = {0}, rest = {0};
    UNROLLED
    for (int k = n - 1; k >= 0; k--) {
        e[k] = n == 2 ? v_select(v[k] == g.top, one, lower) : v_exp_nonpos(v[k] - g.top);
        /* A row without a target has no gradient either, and is not a usual one. */
        const mask apart = g.y == m_set((ilane)k);
        own = k < n - 1 ? v_select(apart, e[k], own) : e[k];
        at_y = k < n - 1 ? v_select(apart, v[k], at_y) : v[k];
    }
    if (n == 2)
        rest = v_select(g.y == m_set(0), e[1], e[0]);
    UNROLLED
    for (int k = 0; n > 2 && k < n; k++)
        rest += v_where(g.y != m_set((ilane)k), e[k]);
    g.rest = rest;
    g.own = own;
    g.above = g.top - at_y;
    const vec log_sum =
        n == 2 ? v_log1p_small(lower) : v_log1p(v_select(own > rest, rest, (rest - one) + own));
    g.log_sum = v_select((rest + own > v_set(0)) & (g.top != inf), log_sum, v_set((real)NAN));
    if (!few_conclude_bare(&g, r, &by))
        return false;
    if (!r->grad_x)
        return true;
    UNROLLED
    for (int k = 0; k < n; k++) {
        const vec slope = precise ? v_fma(by.a, e[k], by.rest * e[k]) : by.a * e[k];
        v[k] = v_select(by.y == m_set((ilane)k), by.at, slope);
    }
    UNROLLED
    for (int k = (n - 1) / tile * tile; k >= 0; k -= tile)
        if (lie.inner == 1)
            cross_put_tile(&lie, v + k, k, r->grad_x, tile);
    UNROLLED
    for (int k = 0; k < n; k++)
        if (lie.inner > 1)
            v_store(r->grad_x + k * lie.inner, v[k]);
    return true;
}

bool few_narrow(const few_plan *plan, few_rows *r)
{
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        return narrow_rows(plan, r, n);
    switch (plan->narrow) {
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
    }
#undef CASE
    return false;
}
