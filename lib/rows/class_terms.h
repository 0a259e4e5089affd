/* SPDX-License-Identifier: MIT
 *
 * The value of a row of class scores and the coefficients of its gradient, from the row's totals:
 * the formulas of LOSSES, one row a lane. A long row is computed as one lane of them. Symbols as in
 * rows/class_row.h.
 */
#ifndef LK_CLASS_TERMS_H
#define LK_CLASS_TERMS_H

#include "rows/class_plan.h"
#include "vector/wide.h"

/* What the sweeps over the classes found. */
typedef struct class_totals {
    wide_half rest, own, sum; /* as in class_norm */
    wide_half inverse;        /* 1/sum */
    wide_half log_sum, lse;
    wide_half nll, weight;  /* index form: -log p_y, w_y */
    wide_half off_scores;   /* index form with smoothing: sum over k != y of w_k (z_k - top), where
                               w_k > 0 */
    wide_half cross;        /* probability form: sum w q (z - top) */
    wide_half others, tops; /* sum w q of the classes below the maximum, and of those at it */
    wide_half excess;       /* with subtract_entropy: sum w q (log q - l) */
    half_mask weighs;       /* is there a w q other than 0? Otherwise nothing is left of main */
} class_totals;

/* The two parts of the value, not multiplied by rho, and the gradient's coefficients (see
 * class_slope). */
typedef struct class_terms {
    wide_half main, z_part;
    wide_half a, b, at;
} class_terms;

/* x^y for x >= 0; the lanes from `count` on are undefined. Whole and half exponents, which most
 * are, cost a few products. */
LK_INLINE wide_half class_power(wide_half x, double y, int count)
{
    enum { MOST = 16 };
    wide_half power = half_set(1);
    if (y >= 0 && y <= MOST && y == floor(y)) {
        for (int i = 0; i < (int)y; i++)
            power *= x;
        return power;
    }
    for (int i = 0; i < count && i < HALF_LANES; i++)
        power[i] = lk_pow(x[i], y);
    return power;
}

/* The weight of a target: with target_scaling times p_y^target_scaling, a constant. */
LK_INLINE wide_half class_share(const class_plan *p, wide_half share, wide_half nll, int count)
{
    for (int i = 0; p->target_scaling > 0 && i < count && i < HALF_LANES; i++)
        share[i] *= lk_exp(-p->target_scaling * nll[i]);
    return share;
}

/* Index form. */
LK_INLINE class_terms class_index_terms(const class_plan *p, const class_totals *t, int count)
{
    const wide_half zero = {0}, w = t->weight, others = half_set(p->total_weight) - w;
    const wide_half miss = t->rest * t->inverse, hit = half_set(1) - miss;
    const wide_half share = class_share(p, w * p->on, t->nll, count);
    class_terms s = {.main = half_where(share != zero, share * t->nll)};
    if (p->gamma > 0) {
        const wide_half steep = class_power(miss, p->gamma - 1, count);
        const wide_half fade = half_where(miss > zero, steep * miss);
        wide_half k = half_where(miss > zero, half_set(p->gamma) * steep * hit * -t->nll) - fade;
        /* Where p_y is 0, so is p_y log p_y. */
        k = half_select(half_abs(t->nll) < half_set((double)INFINITY), k, -fade);
        s.main = half_where(w * fade != zero, w * fade * t->nll);
        s.a = -w * k * t->inverse;
        s.at = w * k * miss;
    } else if (p->off > 0) {
        const wide_half mass = share + p->off * others;
        s.main -= p->off * (t->off_scores - others * t->log_sum);
        s.a = mass * t->inverse;
        s.b = half_set(1);
        /* A p_y - w q_y, rewritten so that nothing cancels. */
        s.at = p->off * others * hit - share * miss;
    } else {
        s.a = share * t->inverse;
        s.at = -share * miss;
    }
    if (p->poly1 != 0) {
        s.main += p->poly1 * w * miss;
        /* Without focal_gamma the two terms are one, 1 + poly1 p_y, which may be close to 0. */
        const double plain = p->gamma > 0 ? 0 : 1;
        const wide_half factor = w * ((plain + p->poly1) - p->poly1 * miss);
        s.a = (p->gamma > 0 ? s.a : zero) + factor * t->inverse;
        s.at = (p->gamma > 0 ? s.at : zero) - factor * miss;
    }
    if (p->minus_entropy) {
        if (p->on != 0)
            s.main += share * lk_log(p->on);
        if (p->off > 0)
            s.main += others * p->off * lk_log(p->off);
    }
    return s;
}

/* Probability form. `at` is of the class at the maximum, where it is alone there: A p - w q with
 * what is near 1 in both taken out. */
LK_INLINE class_terms class_soft_terms(const class_plan *p, const class_totals *t)
{
    const wide_half mass = t->others + t->tops;
    return (class_terms){
        .main = p->minus_entropy ? t->excess : mass * t->log_sum - t->cross,
        .a = mass * t->inverse,
        .b = half_set(1),
        .at = (t->others - t->tops * t->rest) * t->inverse,
    };
}

/* Both forms, with the z-loss and the factors rho and zeta of the gradient. `apart`: the rows with
 * an entry of its own. */
LK_INLINE class_terms class_terms_of(const class_plan *p, const class_totals *t, bool soft,
                                     half_mask apart, wide_half rho, wide_half zeta, int count)
{
    const wide_half zero = {0};
    class_terms s = soft ? class_soft_terms(p, t) : class_index_terms(p, t, count);
    s.main = half_where(t->weighs, half_select(half_is_nan(t->sum), t->sum, s.main));
    s.at = half_where(t->weighs & apart, rho * s.at);
    s.a = half_where(t->weighs, rho * s.a);
    s.b = half_where(t->weighs, rho * s.b);
    if (p->z_loss == 0)
        return s;
    const wide_half pull = zeta * (p->z_loss * 2) * t->lse * t->inverse;
    s.z_part = p->z_loss * t->lse * t->lse;
    s.at += half_where(apart & (pull != zero), pull * t->own);
    s.a += pull;
    return s;
}

#endif
