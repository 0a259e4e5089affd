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
    [POS_WEIGHT] = {.name = "pos_weight",
                    .forms = {{"C", LK_FLOATS}},
                    .flags = LK_OPTIONAL | LK_WEIGHTS,
                    .help = "weight of each label where it applies; default ones"},
    {0},
};

/* P y softplus(-x) + (1-y) softplus(x), P = pos_weight. */
LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const vec eps = v_set((real)o->label_smoothing), one = v_set(1), half = v_set((real)0.5);
    const vec y = (one - eps) * e->b + eps * half, not_y = (one - eps) * (one - e->b) + eps * half;
    const vec x = e->a, py = e->factor * y, zero = {0};
    const label l = label_of(x);
    e->legal = label_is_share(e->b);
    e->value.a =
        label_times(py, label_softplus(&l, -x)) + label_times(not_y, label_softplus(&l, x));
    e->slope_a = not_y * l.yes - py * l.no;
    /* P softplus(-x) - softplus(x), with what cancels in it taken out: it is -x where P is 1. */
    const vec more = (e->factor - one) * label_softplus(&l, x);
    e->slope_b = (one - eps) * (v_where(more != zero, more) - e->factor * x);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    static const elementwise is = {.weight = LABEL_WEIGHT,
                                   .factor = POS_WEIGHT,
                                   .mask = LABEL_MASK,
                                   .grad_output = LABEL_GRAD_OUTPUT};
    const options o = *(const options *)job->options;
    (void)scratch;
    elementwise_rows(job, &o, first, count, block, each, is, true);
}

LK_LOSS(bce_with_logits) = {
    .is = {.name = "bce_with_logits",
           .title = "Binary cross entropy of logits",
           .formula = "weight * (pos_weight * y * softplus(-x) + (1-y) * softplus(x)), "
                      "x = logits, y = targets; mean: over the counted elements",
           .help = "Classification with labels that do not exclude each other.",
           .reference = "PyTorch torch.nn.functional.binary_cross_entropy_with_logits",
           .example = "{\"inputs\": {\"logits\": [-1.5, 0.0, 2.0], \"targets\": [0, 1, 1]}}",
           .traits = LK_NONNEGATIVE | LK_ROWWISE,
           .loss_shape = "* C",
           .inputs = inputs,
           .outputs = elementwise_outputs,
           .options = fields},
    .options_size = sizeof(options),
    .parts = 1,
    .prepare = label_prepare,
    .rows = rows,
    .finish = elementwise_finish,
};
