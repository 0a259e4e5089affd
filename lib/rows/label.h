/* SPDX-License-Identifier: MIT
 *
 * Multi-label losses: scores of labels that do not exclude each other, each with a target in [0,
 * 1]. Inputs, options, and the functions of a score that these losses share.
 */
#ifndef LK_LABEL_H
#define LK_LABEL_H

#include "rows/elementwise.h"

enum { LABEL_WEIGHT = B + 1, LABEL_MASK, LABEL_GRAD_OUTPUT, LABEL_INPUTS };

#define LABEL_SCORES                                                                               \
    [A] = {.name = "logits",                                                                       \
           .forms = {{"*", LK_FLOATS}},                                                            \
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,                                \
           .help = "scores; sigmoid makes them probabilities"},                                    \
    [B] = {.name = "targets",                                                                      \
           .forms = {{"*", LK_FLOATS}},                                                            \
           .flags = LK_DIFFERENTIABLE | LK_ROW_LOCAL,                                              \
           .range = "[0,1]",                                                                       \
           .help = "the probability that each label applies"},                                     \
    [LABEL_WEIGHT] = {.name = "weight",                                                            \
                      .forms = {{"~ *", LK_FLOATS}},                                               \
                      .flags = LK_OPTIONAL | LK_WEIGHTS,                                           \
                      .range = "finite",                                                           \
                      .help = "weight of each element, which broadcasts to logits; default 1"},    \
    [LABEL_MASK] = {.name = "mask",                                                                \
                    .forms = {{"*", LK_MASKS}},                                                    \
                    .flags = LK_OPTIONAL | LK_IGNORES,                                             \
                    .help = "elements with 0 are ignored and not read; default all counted"},      \
    [LABEL_GRAD_OUTPUT] = LK_GRAD_OUTPUT

#define LABEL_SMOOTHING(st)                                                                        \
    LK_FIELD(st, label_smoothing, "0", LK_RANGED, 0, 1, "targets y become y(1-eps) + eps/2")

/* How much a label applies, y, or how much it does not, 1 - y: smoothed. */
LK_INLINE vec label_applies(double smoothing, vec y)
{
    return v_fma(v_set((real)(1 - smoothing)), y, v_set((real)(smoothing / 2)));
}

/* The mean divides by the number of counted elements, not by their weights. */
LK_STATIC lk_status label_prepare(lk_job *job, lk_error *error)
{
    double weight;
    job->counted = elementwise_count(job, LABEL_MASK);
    job->denominator[0] = (double)job->counted;
    return elementwise_weigh(job, LABEL_WEIGHT, &weight, error);
}

/* Functions of a score, all without cancellation: e^-|x|, log(1 + e^-|x|) and the larger of
 * sigmoid(x) and sigmoid(-x). NaN where x is NaN or +inf. */
typedef struct label {
    mask positive;
    vec size, small, tail, likely; /* small: e^-|x| */
} label;

/* e^-|x|. */
LK_INLINE vec label_ahead(vec x)
{
    const vec top = v_set((real)INFINITY);
    return v_exp_nonpos(-v_abs(v_select(x < top, x, v_set((real)NAN))));
}

LK_INLINE label label_of(const element *e)
{
    const vec one = v_set(1), top = v_set((real)INFINITY), x = e->a;
    return (label){.positive = x >= (vec){0},
                   .size = v_abs(v_select(x < top, x, v_set((real)NAN))),
                   .small = e->ahead,
                   .tail = v_log1p_small(e->ahead),
                   .likely = one / (one + e->ahead)};
}

/* a*b, but 0 where a is 0, whatever b is; NaN where b is NaN. */
LK_INLINE vec label_times(vec a, vec b)
{
    const vec zero = {0}, top = v_set((real)INFINITY);
    return v_where((a != zero) | ~(b <= top), a * b);
}

/* log(1 + e^x). */
LK_INLINE vec label_softplus(const label *l)
{
    return v_where(l->positive, l->size) + l->tail;
}

/* yes*log(1 + e^-x) + no*log(1 + e^x): the cross entropy of a label that applies `yes` times and
 * does not `no` times. Its slope is no*sigmoid(x) - yes*sigmoid(-x). */
LK_INLINE vec label_entropy(const label *l, vec yes, vec no, vec *slope)
{
    const vec wrong = v_select(l->positive, no, yes), right = v_select(l->positive, yes, no);
    const vec rise = v_fma(-right, l->small, wrong) * l->likely;
    *slope = v_select(l->positive, rise, -rise);
    return label_times(wrong, l->size) + (yes + no) * l->tail;
}

/* Is it in [0, 1]? NaN counts as valid, and gives a result of NaN. */
LK_INLINE mask label_is_share(vec y)
{
    const vec zero = {0};
    return ~((y < zero) | (y > v_set(1)));
}

#endif
