/* SPDX-License-Identifier: MIT
 *
 * Preferences without a reference: cpo and simpo, which differ in their defaults and in what their
 * inputs are, sums of log-probabilities or means. Their options, inputs and rows.
 */
#ifndef LK_CONTRAST_H
#define LK_CONTRAST_H

#include "rows/scalar.h"

enum { CHOSEN_NLL = REJECTED + 1, CONTRAST_GRAD_OUTPUT };
enum { CONTRAST_SIGMOID, CONTRAST_HINGE, CONTRAST_IPO }; /* loss_type */

typedef struct contrast_options {
    lk_reduce reduce;
    int loss_type;
    double beta, gamma, label_smoothing, alpha, shape;
} contrast_options;

#define CONTRAST_FIELDS(beta_, gamma_, types_)                                                     \
    LK_REDUCE_FIELDS(contrast_options),                                                            \
        LK_WORDS(contrast_options, loss_type, "sigmoid", types_, "the form of the loss"),          \
        LK_FIELD(contrast_options, beta, beta_, LK_RANGED | LK_OPEN, 0, (double)INFINITY,          \
                 "how much a difference of log-probabilities is worth"),                           \
        LK_FIELD(contrast_options, gamma, gamma_, 0, 0, 0,                                         \
                 "the margin that beta times the difference should have; not for ipo"),            \
        LK_FIELD(contrast_options, label_smoothing, "0", LK_RANGED, 0, 0.5,                        \
                 "share of preferences taken to be flipped; sigmoid only"),                        \
        LK_FIELD(contrast_options, alpha, "1", 0, 0, 0, "weight of chosen_nll"),                   \
        LK_FIELD(contrast_options, shape, "0", LK_RANGED, 0, (double)INFINITY,                     \
                 "log-probabilities x become (1 - exp(-shape x))/shape (AlphaPO); 0: as they are")

#define CONTRAST_INPUTS(what_)                                                                     \
    [CHOSEN] = PAIR_INPUT("chosen_logps", what_ " of the preferred answers"),                      \
    [REJECTED] = PAIR_INPUT("rejected_logps", what_ " of the other ones"),                         \
    [CHOSEN_NLL] = PAIR_NUMBERS("chosen_nll", "negative log-likelihood of the preferred answers, " \
                                              "added alpha times; a constant here"),               \
    [CONTRAST_GRAD_OUTPUT] = LK_GRAD_OUTPUT

LK_STATIC lk_status contrast_check(const lk_job *job, lk_error *error)
{
    const contrast_options *o = job->options;
    if (o->loss_type != CONTRAST_SIGMOID && o->label_smoothing != 0)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "label_smoothing is %g; it must be 0 but for loss_type=sigmoid",
                       o->label_smoothing);
    return LK_OK;
}

/* A log-probability x with the shape of AlphaPO, and the slope of that. */
LK_INLINE double contrast_shaped(const contrast_options *o, double x)
{
    return o->shape > 0 ? -lk_expm1(-o->shape * x) / o->shape : x;
}

LK_INLINE double contrast_slope(const contrast_options *o, double x)
{
    return o->shape > 0 ? lk_exp(-o->shape * x) : 1;
}

LK_INLINE void contrast_row(const lk_job *job, scalar_row *r)
{
    const contrast_options *o = job->options;
    const double beta = o->beta, x = r->x[CHOSEN], y = r->x[REJECTED];
    const double apart = contrast_shaped(o, x) - contrast_shaped(o, y);
    const double u = beta * apart - o->gamma, h = apart - 1 / (2 * beta);
    pair_rewards(r, beta * x, beta * y);
    if (o->loss_type == CONTRAST_SIGMOID)
        pair_logistic(r, u, beta, o->label_smoothing);
    else if (o->loss_type == CONTRAST_HINGE)
        pair_set(r, u >= 1 ? 0 : 1 - u, u < 1 ? -beta : 0);
    else
        pair_set(r, h * h, 2 * h);
    r->slope[CHOSEN] = scalar_times(r->slope[CHOSEN], contrast_slope(o, x));
    r->slope[REJECTED] = scalar_times(r->slope[REJECTED], contrast_slope(o, y));
    r->value += scalar_times(o->alpha, scalar_constant(job, CHOSEN_NLL, r->i, 0));
}

#endif
