/* SPDX-License-Identifier: MIT
 *
 * The logarithm of the hyperbolic cosine: quadratic near zero, linear far away, smooth between.
 */
#include "rows/elementwise.h"

typedef struct options {
    lk_reduce reduce;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    {0},
};

/* e^(-2|r|) - 1, from which tanh |r| follows without cancellation. */
LK_INLINE vec decay(vec r)
{
    return v_expm1(v_set(-2) * v_abs(r));
}

LK_INLINE vec slope_of(vec r, vec d)
{
    return vm_sign(-d / (v_set(2) + d), r);
}

/* |r| + log(1 + e^(-2|r|)) - log 2, and near 0, where that cancels, -log(1 - tanh(r)^2) / 2. */
LK_INLINE product value(const options *o, vec r)
{
    const vec one = v_set(1), size = v_abs(r), d = decay(r), t = slope_of(r, d);
    const mask near = size < one;
    const vec log_part = v_log1p(v_select(near, -t * t, one + d));
    (void)o;
    return (product){
        v_select(near, v_set((real)-0.5) * log_part, size + (log_part - v_set((real)lk_ln_2))),
        one};
}

LK_INLINE vec slope(const options *o, vec r)
{
    (void)o;
    return slope_of(r, decay(r));
}

REGRESSION_KERNELS(options, value, slope)

LK_DESCRIBE(
    log_cosh, .title = "Log-cosh loss",
    .formula = "r = a - b; log cosh r = |r| + log(1 + e^(-2|r|)) - log 2",
    .help = "Regression that is not ruled by outliers, and twice differentiable everywhere.",
    .reference = "optax log_cosh",
    .example = "{\"inputs\": {\"a\": [0.5, 3.0], \"b\": [0.0, 0.0]}}",
    .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = regression_inputs,
    .outputs = elementwise_outputs, .options = fields);

LK_LOSS(log_cosh) = {
    .is = &LK_IS(log_cosh),
    ELEMENTWISE_MEMBERS(options, ELEMENTWISE_COSTLY),
};
