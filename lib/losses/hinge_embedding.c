/* SPDX-License-Identifier: MIT
 *
 * Hinge embedding: distances that should be small, or at least a margin.
 */
#include "rows/elementwise.h"

typedef struct options {
    lk_reduce reduce;
    double margin;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, margin, "1", 0, 0, 0, "how far apart what is different should be"),
    {0},
};

static const lk_input inputs[] = {
    SCORE_INPUTS("distances", NULL, "{-1,1}", "1: the two are alike, -1: they are different"),
    {0},
};

LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const vec one = v_set(1), zero = {0}, y = e->factor, x = e->a;
    const vec short_of = v_set((real)o->margin) - x, odd = v_where(v_is_nan(x), x);
    e->legal = v_abs(y) == one;
    e->value.a = v_select(y > zero, x, v_select(short_of <= zero, zero, short_of));
    e->slope_a = v_select(y > zero, one + odd, v_select(short_of > zero, -one, odd));
}

SCORE_KERNELS(options, .ranged = B)

LK_DESCRIBE(hinge_embedding, .title = "Hinge embedding loss",
            .formula = "x where target is 1, max(0, margin - x) where it is -1; x = input",
            .help = "For distances of pairs that are alike or not.",
            .reference = "PyTorch torch.nn.functional.hinge_embedding_loss",
            .example = "{\"inputs\": {\"input\": [0.2, 0.4], \"target\": [1, -1]}}",
            .traits = LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(hinge_embedding) = {
    .is = &LK_IS(hinge_embedding),
    ELEMENTWISE_MEMBERS(options, ELEMENTWISE_CHEAP),
};
