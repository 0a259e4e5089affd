/* SPDX-License-Identifier: MIT
 *
 * Squared error.
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
    return (product){r, r};
}

LK_INLINE vec slope(const options *o, vec r)
{
    (void)o;
    return v_set(2) * r;
}

REGRESSION_KERNELS(options, value, slope)

static const char tex[] = "\\ell = (a - b)^2";

LK_DESCRIBE(mse, .tex = tex, .title = "Squared error", .formula = "r = a - b; r^2",
            .help = "Regression with a normal error.",
            .reference = "Gauss 1809; PyTorch torch.nn.functional.mse_loss",
            .example = "{\"inputs\": {\"a\": [0.5, 3.0], \"b\": [0.0, 0.0]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = regression_inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(mse) = {
    .is = &LK_IS(mse),
    REGRESSION_MEMBERS(options),
};
