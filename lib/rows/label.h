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
           .forms = {{"* C", LK_FLOATS}},                                                          \
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,                                \
           .help = "scores; sigmoid makes them probabilities"},                                    \
    [B] = {.name = "targets",                                                                      \
           .forms = {{"* C", LK_FLOATS}},                                                          \
           .flags = LK_DIFFERENTIABLE | LK_ROW_LOCAL,                                              \
           .range = "[0,1]",                                                                       \
           .help = "the probability that each label applies"},                                     \
    [LABEL_WEIGHT] = {.name = "weight",                                                            \
                      .forms = {{"* C", LK_FLOATS}, {"C", LK_FLOATS}, {"", LK_FLOATS}},            \
                      .flags = LK_OPTIONAL | LK_WEIGHTS,                                           \
                      .help = "weight of each element, of each label, or of all; default 1"},      \
    [LABEL_MASK] = {.name = "mask",                                                                \
                    .forms = {{"* C", LK_MASKS}},                                                  \
                    .flags = LK_OPTIONAL | LK_IGNORES,                                             \
                    .help = "elements with 0 are ignored and not read; default all counted"},      \
    [LABEL_GRAD_OUTPUT] = LK_GRAD_OUTPUT

#define LABEL_SMOOTHING(st)                                                                        \
    LK_FIELD(st, label_smoothing, "0", LK_RANGED, 0, 1, "targets y become y(1-eps) + eps/2")

/* The mean divides by the number of counted elements, not by their weights. */
LK_STATIC lk_status label_prepare(lk_job *job, lk_error *error)
{
    (void)error;
    job->denominator[0] = elementwise_count(job, LABEL_MASK, 0);
    return LK_OK;
}

/* Functions of a score: log(1 + e^-|x|), sigmoid(x) and sigmoid(-x), all without cancellation. NaN
 * where x is NaN or +inf. */
typedef struct label {
    vec tail, yes, no;
} label;

LK_INLINE label label_of(vec x)
{
    const vec one = v_set(1), top = v_set((real)INFINITY);
    const vec fair = v_select(x < top, x, v_set((real)NAN));
    const vec e = v_exp_nonpos(-v_abs(fair)), big = one / (one + e), small = e / (one + e);
    const mask positive = fair >= (vec){0};
    return (label){.tail = v_log1p(e),
                   .yes = v_select(positive, big, small),
                   .no = v_select(positive, small, big)};
}

/* log(1 + e^x); log(1 + e^-x) is that of -x. */
LK_INLINE vec label_softplus(const label *l, vec x)
{
    const vec zero = {0};
    return v_select(x > zero, x, zero) + l->tail;
}

/* a*b, but 0 where a is 0, whatever b is; NaN where b is NaN. */
LK_INLINE vec label_times(vec a, vec b)
{
    const vec zero = {0}, top = v_set((real)INFINITY);
    return v_where((a != zero) | ~(b <= top), a * b);
}

/* Is it in [0, 1]? NaN counts as valid, and gives a result of NaN. */
LK_INLINE mask label_is_share(vec y)
{
    const vec zero = {0};
    return ~((y < zero) | (y > v_set(1)));
}

#endif
