/* SPDX-License-Identifier: MIT
 *
 * Quantile regression: the pinball loss.
 */
#include "rows/elementwise.h"

typedef struct options {
    lk_reduce reduce;
    double quantile;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, quantile, "0.5", LK_RANGED | LK_OPEN | LK_OPEN_END, 0, 1,
             "which quantile is predicted: 0.5 is the median"),
    {0},
};

/* The slopes where the prediction is too low, and where it is too high. */
LK_INLINE vec below(const options *o)
{
    return v_set((real)-o->quantile);
}

LK_INLINE vec above(const options *o)
{
    return v_set((real)(1 - o->quantile));
}

LK_INLINE product value(const options *o, vec r)
{
    const vec zero = {0};
    return (product){v_select(r < zero, below(o), above(o)), r};
}

LK_INLINE vec slope(const options *o, vec r)
{
    const vec zero = {0}, kink = v_set((real)(0.5 - o->quantile));
    const vec flat = v_select(r == zero, kink, r); /* NaN */
    return v_select(r < zero, below(o), v_select(r > zero, above(o), flat));
}

REGRESSION_KERNELS(options, value, slope)

LK_DESCRIBE(quantile, .title = "Quantile loss",
            .formula = "max(q (b - a), (q - 1)(b - a)), q = quantile",
            .help = "Predicts a quantile instead of the mean: a is what a share q of the targets b "
                    "lies below.",
            .reference = "Koenker, Bassett 1978",
            .example = "{\"inputs\": {\"a\": [0.5, 3.0], \"b\": [0.0, 4.0]}, "
                       "\"options\": {\"quantile\": 0.9}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = regression_inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(quantile) = {
    .is = &LK_IS(quantile),
    REGRESSION_MEMBERS(options),
};
