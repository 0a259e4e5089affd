/* SPDX-License-Identifier: MIT
 *
 * Huber loss: quadratic near zero, linear beyond delta.
 */
#include "rows/elementwise.h"

typedef struct options {
    lk_reduce reduce;
    double delta;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, delta, "1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "where the loss turns from quadratic to linear"),
    {0},
};

LK_INLINE product value(const options *o, vec r)
{
    const vec delta = v_set((real)o->delta), half = v_set((real)0.5), size = v_abs(r);
    const mask near = size <= delta;
    return (product){v_select(near, half * r, delta), v_select(near, r, size - half * delta)};
}

LK_INLINE vec slope(const options *o, vec r)
{
    const vec delta = v_set((real)o->delta);
    return v_max(-delta, v_min(delta, r));
}

REGRESSION_KERNELS(options, value, slope)

static const char tex[] =
    "\\ell = \\begin{cases} \\frac{1}{2} r^2 & \\lvert r\\rvert \\le \\delta \\\\ "
    "\\delta\\left(\\lvert r\\rvert - \\frac{1}{2}\\delta\\right) & \\text{otherwise} "
    "\\end{cases}\\qquad r = a - b";

LK_DESCRIBE(huber, .tex = tex, .title = "Huber loss",
            .formula = "r = a - b; r^2/2 where |r| <= delta, else delta*(|r| - delta/2)",
            .help = "Regression that is not ruled by outliers.",
            .reference = "Huber 1964; PyTorch torch.nn.functional.huber_loss",
            .example = "{\"inputs\": {\"a\": [0.5, 3.0], \"b\": [0.0, 0.0]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = regression_inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(huber) = {
    .is = &LK_IS(huber),
    REGRESSION_MEMBERS(options),
};
