/* SPDX-License-Identifier: MIT
 *
 * Smooth L1: quadratic below beta, then parallel to the absolute error.
 */
#include "rows/elementwise.h"

typedef struct options {
    lk_reduce reduce;
    double beta;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, beta, "1", LK_RANGED, 0, (double)INFINITY,
             "where the loss turns from quadratic to linear; 0 is the absolute error"),
    {0},
};

/* r / beta. By a power of two, which beta mostly is, a product rounds to the same. */
LK_INLINE vec in_betas(const options *o, vec r)
{
    const real beta = (real)o->beta;
    ulane bits;
    memcpy(&bits, &beta, sizeof bits);
    const bool power_of_two = (bits & (((ulane)1 << VM_FRACTION_BITS) - 1)) == 0;
    return power_of_two ? r * v_set(1 / beta) : r / v_set(beta);
}

LK_INLINE product value(const options *o, vec r)
{
    const vec beta = v_set((real)o->beta), half = v_set((real)0.5), size = v_abs(r);
    const mask near = size < beta;
    return (product){v_select(near, half * r, size - half * beta),
                     v_select(near, in_betas(o, r), v_set(1))};
}

LK_INLINE vec slope(const options *o, vec r)
{
    return v_select(v_abs(r) < v_set((real)o->beta), in_betas(o, r), v_sign(r));
}

REGRESSION_KERNELS(options, value, slope)

static const char tex[] =
    "\\ell = \\begin{cases} \\frac{r^2}{2\\beta} & \\lvert r\\rvert < \\beta \\\\ "
    "\\lvert r\\rvert - \\frac{1}{2}\\beta & \\text{otherwise} \\end{cases}\\qquad r = a - b";

LK_DESCRIBE(smooth_l1, .tex = tex, .title = "Smooth L1 loss",
            .formula = "r = a - b; r^2/(2 beta) where |r| < beta, else |r| - beta/2",
            .help = "Huber loss divided by its delta: the slope never exceeds 1.",
            .reference = "Girshick 2015; PyTorch torch.nn.functional.smooth_l1_loss",
            .example = "{\"inputs\": {\"a\": [0.5, 3.0], \"b\": [0.0, 0.0]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = regression_inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(smooth_l1) = {
    .is = &LK_IS(smooth_l1),
    REGRESSION_MEMBERS(options),
};
