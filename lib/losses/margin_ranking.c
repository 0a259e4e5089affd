/* SPDX-License-Identifier: MIT
 *
 * Margin ranking: which of two scores should be the higher one, by a margin.
 */
#include "rows/elementwise.h"

enum { TARGET = GRAD_OUTPUT + 1 };

typedef struct options {
    lk_reduce reduce;
    double margin;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, margin, "0", 0, 0, 0, "how far apart the scores should be"),
    {0},
};

static const lk_input inputs[] = {
    [A] = {.name = "a",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "scores"},
    [B] = {.name = "b",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "the scores they are compared with"},
    REGRESSION_SHARED,
    [TARGET] = {.name = "target",
                .forms = {{"*", LK_FLOATS | LK_INTS}},
                .range = "finite",
                .help = "1 where a should be higher, -1 where b should"},
    {0},
};

LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const vec y = e->factor, short_of = v_set((real)o->margin) - y * (e->a - e->b), zero = {0};
    e->legal = v_abs(y) < v_set((real)INFINITY);
    e->value.a = v_select(short_of <= zero, zero, short_of);
    e->slope_a = v_select(short_of > zero, -y, v_where(v_is_nan(short_of), short_of));
    e->slope_b = -e->slope_a;
}

ELEMENTWISE_KERNELS(options, .constant = true, .factor = TARGET, .ranged = TARGET)

LK_DESCRIBE(margin_ranking, .title = "Margin ranking loss",
            .formula = "max(0, margin - target (a - b))",
            .help = "Learns an order from pairs of scores.",
            .reference = "PyTorch torch.nn.functional.margin_ranking_loss (input1 is a, input2 b)",
            .example = "{\"inputs\": {\"a\": [0.2, -1.0], \"b\": [0.7, -0.4], "
                       "\"target\": [1, -1]}, \"options\": {\"margin\": 0.3}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(margin_ranking) = {
    .is = &LK_IS(margin_ranking),
    ELEMENTWISE_MEMBERS(options, ELEMENTWISE_CHEAP),
};
