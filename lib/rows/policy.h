/* SPDX-License-Identifier: MIT
 *
 * What a policy gradient maximises of one token, by objective: its share of the loss, and the
 * derivative of that by the token's log-probability; and the penalty on leaving a reference. x is
 * logprob - old_logprob, w = e^x the ratio, or that of the sequence, a the advantage.
 */
#ifndef LK_POLICY_H
#define LK_POLICY_H

#include "rows/scalar.h"

enum { K3, K1, K2, ABS };      /* kl_estimator */
enum { DIRECT, BY_K2, RATIO }; /* kl_gradient */
enum { CLIP, CISPO, SAPO, IMPORTANCE, REINFORCE, DRO, DPPO_TV, DPPO_KL, GMPO, VESPO };

typedef struct policy_options {
    lk_reduce reduce;
    int objective, level, aggregation, entropy_aggregation, kl_estimator, kl_gradient;
    double eps_low, eps_high, delta, ratio_low, ratio_high, sapo_tau_pos, sapo_tau_neg, dro_beta,
        delta_low, delta_high, ratio_max, vespo_k_pos, vespo_lambda_pos, vespo_k_neg,
        vespo_lambda_neg;
    int is_mode, is_level;
    double is_low, is_high, off_policy_mask;
    double kl_weight, num_items, entropy_weight;
    int64_t max_length;
    bool count_empty;
} policy_options;

/* l of one token, and its derivative by logprobs: with the ratio w, dl/dw * w. */
typedef struct surrogate {
    double value, slope;
    bool clipped;
} surrogate;

/* x within [low, high]; a bound of NaN is none. */
LK_INLINE double policy_within(double x, double low, double high)
{
    const double raised = x < low ? low : x; /* one instruction; both at once are a branch */
    return raised > high ? high : raised;
}

LK_INLINE surrogate policy_clip(const policy_options *o, double w, double a)
{
    const double low = 1 - o->eps_low, high = 1 + o->eps_high;
    const bool beyond = w > o->delta; /* false where delta is off, NaN */
    const bool below = w<low, above = w> high;
    const double plain = -(beyond ? o->delta : w) * a, cut = -policy_within(w, low, high) * a;
    /* Which is greater is random from token to token: an index instead of branches. */
    const int greater = (plain > cut) - (cut > plain), free = !(below | above);
    const double moves[] = {0, w / 2, w};
    surrogate s = {.value = plain > cut ? plain : cut};
    s.slope = -scalar_times(a, moves[!beyond * (1 + greater) + free * (1 - greater)]);
    s.clipped = a > 0 ? above : a < 0 && (below | beyond);
    return s;
}

LK_INLINE surrogate policy_cispo(const policy_options *o, double w, double a, double logprob)
{
    const double bound = policy_within(w, o->ratio_low, o->ratio_high);
    const bool cut = w < bound || w > bound;
    return (surrogate){.value = -bound * a * logprob, .slope = -bound * a, .clipped = cut};
}

LK_INLINE surrogate policy_sapo(const policy_options *o, double w, double a)
{
    const double tau = a > 0 ? o->sapo_tau_pos : o->sapo_tau_neg;
    const double near = scalar_sigmoid(tau * (w - 1)), far = scalar_sigmoid(-tau * (w - 1));
    return (surrogate){.value = -4 / tau * near * a, .slope = -scalar_times(4 * near * far * a, w)};
}

LK_INLINE surrogate policy_dro(const policy_options *o, double x, double a, double logprob)
{
    const double drift = o->dro_beta * x;
    return (surrogate){.value = drift * x / 2 - scalar_times(a, logprob), .slope = drift - a};
}

/* The divergence between two coins that show a token with the probabilities e^old and e^logprob. */
LK_INLINE double policy_coins(double old, double logprob)
{
    const double rest = -lk_expm1(old);
    if (rest == 0)
        return -logprob;
    return scalar_times(lk_exp(old), old - logprob) +
           rest * (scalar_log1mexp(old) -
                   (logprob < 0 ? scalar_log1mexp(logprob) : -(double)INFINITY));
}

/* The ratio counts unless the probability has moved too far where the advantage drives it. */
LK_INLINE surrogate policy_dppo(const policy_options *o, double old, double a, double logprob)
{
    const double x = logprob - old;
    const double moved = -lk_exp(logprob) * lk_expm1(-x); /* of the probability */
    const double gap = o->objective == DPPO_TV ? fabs(moved) : policy_coins(old, logprob);
    const bool off = a > 0 ? gap > o->delta_high && moved > 0 : gap > o->delta_low && moved < 0;
    const double share = off ? 0 : -policy_within(lk_exp(x), 0, o->ratio_max) * a;
    return (surrogate){.value = share, .slope = share, .clipped = off};
}

/* phi of a sequence: omega is the logarithm of its weight. */
LK_INLINE double policy_vespo(const policy_options *o, double omega, double a)
{
    const double k = a >= 0 ? o->vespo_k_pos : o->vespo_k_neg;
    const double lambda = a >= 0 ? o->vespo_lambda_pos : o->vespo_lambda_neg;
    return lk_exp(k * omega - lambda * lk_expm1(omega));
}

/* The divergence from the reference at a token, by estimator: its value without the ratio, and what
 * the loss adds of it; d is logprob - ref_logprob. */
typedef struct penalty {
    double estimate, value, slope;
} penalty;

LK_STATIC penalty policy_penalty(const policy_options *o, double d, double log_ratio)
{
    const double w = o->kl_gradient == RATIO ? lk_exp(log_ratio) : 1;
    const double sign = d > 0 ? 1 : d < 0 ? -1 : 0;
    double e, k, slope;
    switch (o->kl_estimator) {
    case K1:
        k = d, slope = 1;
        break;
    case K2:
        k = d * d / 2, slope = d;
        break;
    case K3: /* never negative */
        e = lk_expm1(-d), k = isinf(e) ? e : e + d, slope = -e;
        break;
    default:
        k = fabs(d), slope = isnan(d) ? d : sign;
    }
    penalty p = {.estimate = k, .value = w * k, .slope = slope};
    if (o->kl_gradient == BY_K2)
        p.slope = d;
    else if (o->kl_gradient == RATIO)
        p.slope = w * (o->kl_estimator == K3 ? d : k + slope);
    return p;
}

#endif
