/* SPDX-License-Identifier: MIT
 *
 * The negative log-likelihood of counts that have a Poisson distribution.
 */
#include "rows/elementwise.h"
#include "vector/accurate.h"

typedef struct options {
    lk_reduce reduce;
    bool log_input, full;
    double eps;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, log_input, "true", 0, 0, 0,
             "input is the logarithm of the expected count; false: that count, at least 0"),
    LK_FIELD(options, full, "false", 0, 0, 0,
             "adds Stirling's approximation of log(target!) where target is above 1"),
    LK_FIELD(options, eps, "1e-8", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "added to an input that is a count, before its logarithm is taken"),
    {0},
};

static const lk_input inputs[] = {
    SCORE_INPUTS("logarithms of the expected counts; with log_input=false these counts",
                 ">=0 unless log_input", ">=0, finite", "counts"),
    {0},
};

/* y log y - y + log(2 pi y)/2 where y > 1. */
LK_INLINE double stirling(double y)
{
    return y > 1 ? y * (lk_log(y) - 1) + (lk_log(y) + 0x1.d67f1c864beb5p+0) / 2 : 0;
}

/* In double: e^x and y x, and e^x and y, cancel where the prediction is good. */
LK_INLINE double one(const options *o, double x, double y, double *slope)
{
    const double shifted = x + o->eps, more = o->full ? stirling(y) : 0;
    if (!o->log_input) {
        *slope = 1 - y / shifted;
        return x - scalar_times(y, lk_log(shifted)) + more;
    }
    const double expected = lk_exp(x);
    *slope = expected - y;
    return expected - scalar_times(y, x) + more;
}

LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const vec zero = {0};
    e->legal = (e->factor >= zero) & (e->factor < v_set((real)INFINITY));
    e->legal_a = o->log_input ? m_set(-1) : ~(e->a < zero);
    for (int k = 0; k < LANES; k++) {
        double slope;
        e->value.a[k] = (real)one(o, (double)e->a[k], (double)e->factor[k], &slope);
        e->slope_a[k] = (real)slope;
    }
}

SCORE_KERNELS(options, .ranged = B, .ranged_a = true)

LK_DESCRIBE(poisson_nll, .title = "Poisson negative log-likelihood",
            .formula = "e^x - y x, or x - y log(x + eps) with log_input=false; x = input, "
                       "y = target; full adds y log y - y + log(2 pi y)/2 where y > 1",
            .help = "Regression of counts.",
            .reference = "PyTorch torch.nn.functional.poisson_nll_loss",
            .example = "{\"inputs\": {\"input\": [0.2, -1.0, 2.5], \"target\": [0, 3, 1]}}",
            .traits = LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(poisson_nll) = {
    .is = &LK_IS(poisson_nll),
    ELEMENTWISE_MEMBERS(options, ELEMENTWISE_COSTLY),
};
