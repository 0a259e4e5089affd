/* SPDX-License-Identifier: MIT
 *
 * Soft margin: logistic loss with targets of 1 and -1.
 */
#include "rows/elementwise.h"

typedef struct options {
    lk_reduce reduce;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    SCORE_INPUTS("scores", NULL, "finite", "1 or -1, the sign that the score should have"),
    {0},
};

/* softplus(-y x) and -y sigmoid(-y x), without overflow. */
LK_INLINE void each(const void *given, element *e)
{
    const vec one = v_set(1), zero = {0}, y = e->factor, u = y * e->a;
    const vec small = v_exp_nonpos(-v_abs(u)), likely = one / (one + small);
    (void)given;
    e->legal = v_abs(y) < v_set((real)INFINITY);
    e->value.a = v_select(u >= zero, zero, -u) + v_log1p_small(small);
    e->slope_a = -y * v_select(u >= zero, small * likely, likely);
}

SCORE_KERNELS(options, .ranged = B)

LK_DESCRIBE(soft_margin, .title = "Soft margin loss", .formula = "log(1 + e^(-target input))",
            .help = "Classification into two classes, called 1 and -1.",
            .reference = "PyTorch torch.nn.functional.soft_margin_loss",
            .example = "{\"inputs\": {\"input\": [0.2, -1.0], \"target\": [1, -1]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(soft_margin) = {
    .is = &LK_IS(soft_margin),
    ELEMENTWISE_MEMBERS(options, ELEMENTWISE_COSTLY),
};
