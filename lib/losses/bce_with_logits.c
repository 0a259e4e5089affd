/* SPDX-License-Identifier: MIT
 *
 * Binary cross entropy of scores: multi-label classification.
 */
#include "rows/label.h"

enum { POS_WEIGHT = LABEL_INPUTS };

typedef struct options {
    lk_reduce reduce;
    double label_smoothing;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LABEL_SMOOTHING(options),
    {0},
};

static const lk_input inputs[] = {
    LABEL_SCORES,
    [POS_WEIGHT] =
        {.name = "pos_weight",
         .forms = {{"~ *", LK_FLOATS}},
         .flags = LK_OPTIONAL | LK_WEIGHTS,
         .range = "finite",
         .help = "weight of each label where it applies, which broadcasts to logits; default 1"},
    {0},
};

/* P y softplus(-x) + (1-y) softplus(x), P = pos_weight. */
LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const vec one = v_set(1), zero = {0};
    const vec y = label_applies(o->label_smoothing, e->b);
    const vec not_y = label_applies(o->label_smoothing, one - e->b);
    const label l = label_of(e);
    e->legal = label_is_share(e->b);
    e->value.a = label_entropy(&l, e->factor * y, not_y, &e->slope_a);
    if (e->factored) { /* nothing is left of a term without weight, whatever x is */
        const mask some = (e->factor * y != zero) | (not_y != zero);
        e->value.a = v_where(some, e->value.a);
        e->slope_a = v_where(some, e->slope_a);
    }
    /* P softplus(-x) - softplus(x), with what cancels in it taken out: it is -x where P is 1. */
    const vec more = (e->factor - one) * label_softplus(&l);
    e->slope_b =
        v_set((real)(1 - o->label_smoothing)) * (v_where(more != zero, more) - e->factor * e->a);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    double weight;
    const lk_status status = label_prepare(job, error);
    return status != LK_OK ? status : elementwise_weigh(job, POS_WEIGHT, &weight, error);
}

ELEMENTWISE_LOOP(options, label_ahead, .ranged = B, .weight = LABEL_WEIGHT, .factor = POS_WEIGHT,
                 .mask = LABEL_MASK, .grad_output = LABEL_GRAD_OUTPUT)

static const char tex[] =
    "\\ell = w\\left(\\pi\\,y\\,\\log(1 + e^{-x}) + (1 - y)\\,\\log(1 + e^{x})\\right),\\quad x "
    "= \\text{logits},\\ y = \\text{targets},\\ w = \\text{weight},\\ \\pi = \\text{pos\\_weight}";

LK_DESCRIBE(bce_with_logits, .tex = tex, .title = "Binary cross entropy of logits",
            .formula = "weight * (pos_weight * y * softplus(-x) + (1-y) * softplus(x)), "
                       "x = logits, y = targets; mean: over the counted elements",
            .help = "Classification with labels that do not exclude each other.",
            .reference = "PyTorch torch.nn.functional.binary_cross_entropy_with_logits",
            .example = "{\"inputs\": {\"logits\": [-1.5, 0.0, 2.0], \"targets\": [0, 1, 1]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(bce_with_logits) = {
    .is = &LK_IS(bce_with_logits),
    .options_size = sizeof(options),
    .parts = 1,
    .light = ELEMENTWISE_COSTLY,
    .checks_weights = true,
    .prepare = prepare,
    ELEMENTWISE_ROWS,
};
