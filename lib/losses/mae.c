/* SPDX-License-Identifier: MIT
 *
 * Absolute error.
 */
#include "rows/elementwise.h"

typedef struct options {
    lk_reduce reduce;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    {0},
};

LK_INLINE product value(const options *o, vec r)
{
    (void)o;
    return (product){v_abs(r), v_set(1)};
}

LK_INLINE vec slope(const options *o, vec r)
{
    (void)o;
    return v_sign(r);
}

REGRESSION_KERNELS(options, value, slope)

static const char tex[] = "\\ell = \\lvert a - b\\rvert";

LK_DESCRIBE(mae, .tex = tex, .title = "Absolute error", .formula = "r = a - b; |r|",
            .help = "Regression towards the median; the slope at 0 is 0.",
            .reference = "PyTorch torch.nn.functional.l1_loss",
            .example = "{\"inputs\": {\"a\": [0.5, 3.0], \"b\": [0.0, 0.0]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = regression_inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(mae) = {
    .is = &LK_IS(mae),
    REGRESSION_MEMBERS(options),
};
