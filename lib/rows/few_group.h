/* SPDX-License-Identifier: MIT
 *
 * A group of rows of few class scores (rows/few.h) while it is computed: what its parts share.
 */
#ifndef LK_FEW_GROUP_H
#define LK_FEW_GROUP_H

#include "rows/few.h"
#include "vector/wide.h"

/* Each variant has its own copy, under its own names; defined in rows/few_narrow.c. */
#define few_narrow LK_PASTE(LK_VARIANT, few_narrow)

/* A sum over classes is made of parts of so many terms, for its rounding errors to stay small. */
enum { PART = 8 };

/* Rows of at most so many classes, which are a part, may stay in registers. */
enum { NARROW = PART };

/* A group of rows while it is computed. */
typedef struct group {
    const few_plan *plan;
    int count; /* rows in memory */
    mask live, y;
    vec top, shift;     /* shift: top, or 0 where no score is finite */
    vec rest, own, sum; /* as in class_norm */
    vec above;          /* top - z_y */
    vec log_sum;
} group;

LK_INLINE vec few_weight(const real *weight, int64_t k)
{
    real w = 1;
    if (weight)
        memcpy(&w, weight + k, sizeof w);
    return v_set(w);
}

/* The coefficients of the gradient, multiplied by the scale: an entry is (a + rest) e^(z-top) power
 * - b w q, times what softcap bends. `rest` is what rounding took from a, where the element type is
 * precise enough to show it; power is for an `a` near the limits of f32. The class y has an entry
 * of its own. */
typedef struct slopes {
    vec a, rest, power, b, at;
    mask y;
} slopes;

/* The class weights of the targets. */
LK_INLINE vec few_weights(const group *g, const few_rows *r)
{
    real w[LANES];
    if (!g->plan->row->weight)
        return v_set(1);
    for (int i = 0; i < LANES; i++)
        w[i] = few_weight(g->plan->row->weight, r->y[i] > 0 ? r->y[i] : 0)[0];
    return v_read(w);
}

/* Values and coefficients where nothing but -log p_y makes up the loss (few_plan.bare): true, if
 * every row has a gradient that is finite and not huge. Otherwise nothing was computed.
 * `weighed`: are there class weights? */
LK_INLINE bool few_conclude_rows(const group *g, few_rows *r, slopes *to, const bool weighed)
{
    const class_plan *p = g->plan->row;
    const double scale = p->scale;
    const vec nll = g->log_sum + g->above, w = weighed ? few_weights(g, r) : v_set(1), zero = {0};
    wide_half a[WIDE_PARTS], rest[WIDE_PARTS], at[WIDE_PARTS], main[WIDE_PARTS];
    UNROLLED
    for (int h = 0; h < WIDE_PARTS; h++) {
        const int i = h * HALF_LANES;
        const wide_half others = half_of(g->rest, i), share = half_of(w, i);
        const wide_half inverse = half_set(1) / (others + half_of(g->own, i));
        const wide_half miss = others * inverse, rho = half_read(r->rho + i);
        a[h] = rho * (weighed ? share * inverse : inverse) * scale;
        rest[h] = a[h] - half_rounded(a[h]);
        at[h] = rho * (weighed ? share * miss : miss) * -scale;
        main[h] = half_of(nll, i);
        if (weighed)
            main[h] = half_where(share != half_set(0), share * main[h]);
    }
    to->a = half_join(a);
    const vec size = v_abs(to->a);
    if (!m_none(v_is_nan(g->log_sum) | ~(size > zero) | ~(size < v_set(0x1p60f))))
        return false;
    to->rest = half_join(rest);
    to->at = half_join(at);
    to->y = g->y;
    UNROLLED
    for (int h = 0; h < WIDE_PARTS; h++)
        half_write(r->main + h * HALF_LANES, main[h]);
    if (p->want_rows) {
        v_write(r->nll, nll);
        v_write(r->lse, g->top + g->log_sum);
    }
    return true;
}

LK_INLINE bool few_conclude_bare(const group *g, few_rows *r, slopes *to)
{
    return g->plan->row->weight ? few_conclude_rows(g, r, to, true)
                                : few_conclude_rows(g, r, to, false);
}

/* Rows whose number of classes is plan->narrow stay in registers from the scores to the gradient.
 * False: nothing was computed, since a row is not a usual one. */
LK_DRIVER bool few_narrow(const few_plan *plan, few_rows *rows);

#endif
