/* SPDX-License-Identifier: MIT
 *
 * The negative log-likelihood of counts that have a Poisson distribution.
 */
#include "rows/elementwise.h"

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
                 ">=0 unless log_input", ">=0", "counts"),
    {0},
};

/* y log y - y + log(2 pi y)/2 where y > 1. */
LK_INLINE vec stirling(vec y)
{
    const vec one = v_set(1), half = v_set((real)0.5);
    const vec log_y = v_log(v_select(y > one, y, one));
    return v_where(y > one, y * (log_y - one) + half * (log_y + v_set((real)0x1.d67f1c864beb5p+0)));
}

LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const real least = sizeof(real) == sizeof(double) ? (real)0x1p-1000 : (real)0x1p-120;
    const vec one = v_set(1), zero = {0}, y = e->factor, x = e->a;
    e->legal = y >= zero;
    if (o->log_input) {
        const vec expected = v_exp(x);
        e->legal_a = m_set(-1);
        e->value.a = expected - v_where(y != zero, y * x);
        e->slope_a = expected - y;
    } else {
        const vec shifted = x + v_set((real)o->eps > least ? (real)o->eps : least);
        e->legal_a = ~(x < zero);
        e->value.a = x - v_where(y != zero, y * v_log(shifted));
        e->slope_a = one - y / shifted;
    }
    if (o->full)
        e->value.a += stirling(y);
}

SCORE_KERNELS(options, .ranged = B, .ranged_a = true)

LK_LOSS(poisson_nll) = {
    .is = {.name = "poisson_nll",
           .title = "Poisson negative log-likelihood",
           .formula = "e^x - y x, or x - y log(x + eps) with log_input=false; x = input, "
                      "y = target; full adds y log y - y + log(2 pi y)/2 where y > 1",
           .help = "Regression of counts.",
           .reference = "PyTorch torch.nn.functional.poisson_nll_loss",
           .example = "{\"inputs\": {\"input\": [0.2, -1.0, 2.5], \"target\": [0, 3, 1]}}",
           .traits = LK_ROWWISE,
           .loss_shape = "*",
           .inputs = inputs,
           .outputs = elementwise_outputs,
           .options = fields},
    ELEMENTWISE_MEMBERS(options, ELEMENTWISE_COSTLY),
};
