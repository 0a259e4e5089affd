/* SPDX-License-Identifier: MIT
 *
 * Focal loss of scores: binary cross entropy in which what is classified well counts less.
 */
#include "rows/label.h"

typedef struct options {
    lk_reduce reduce;
    double alpha, gamma, label_smoothing;
} options;

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(options, "none", "none|sum|mean",
                       "one loss per element, their sum, or their mean"),
    LK_NUM_ITEMS_FIELD(options),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    LK_FIELD(options, alpha, "0.25", LK_OFF | LK_RANGED, 0, 1,
             "weight of labels that apply; 1-alpha is that of the others; off: 1 for both"),
    LK_FIELD(options, gamma, "2", LK_RANGED, 0, (double)INFINITY,
             "elements count (1-p)^gamma, p the probability of what is right"),
    LABEL_SMOOTHING(options),
    {0},
};

static const lk_input inputs[] = {LABEL_SCORES, {0}};

/* q^g for q in [0, 1], without the error that exp(g log q) has for small q: whole powers by
 * multiplication, others lane by lane in double. */
LK_INLINE vec power(vec q, double g)
{
    if (g == 0)
        return v_set(1);
    if (g == 1)
        return q;
    if (g == 2)
        return q * q;
    vec y = q;
    for (int k = 0; k < LANES; k++)
        y[k] = (real)pow((double)q[k], g);
    return y;
}

/* a bce q^gamma, a = alpha y + (1-alpha)(1-y), q = p + y - 2py = 1 - p_t. */
LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const vec eps = v_set((real)o->label_smoothing), one = v_set(1), half = v_set((real)0.5);
    const vec gamma = v_set((real)o->gamma), zero = {0}, top = v_set((real)INFINITY);
    const vec y = (one - eps) * e->b + eps * half, not_y = (one - eps) * (one - e->b) + eps * half;
    const vec x = e->a;
    const label l = label_of(x);
    const bool balanced = isnan(o->alpha);
    const vec alpha = v_set(balanced ? 1 : (real)o->alpha);
    const vec beta = v_set(balanced ? 1 : (real)(1 - o->alpha));
    const vec a = alpha * y + beta * not_y;
    const vec bce =
        label_times(y, label_softplus(&l, -x)) + label_times(not_y, label_softplus(&l, x));
    const vec q = not_y * l.yes + y * l.no, fade = power(q, o->gamma);
    const vec bend = v_where(q != zero, bce * (gamma * power(q, o->gamma - 1)));
    e->legal = label_is_share(e->b);
    e->value.a = label_times(a * fade, bce);
    e->slope_a =
        a * ((not_y * l.yes - y * l.no) * fade + label_times((not_y - y) * (l.yes * l.no), bend));
    /* At -inf bce is y times infinity, whose factor is what is left of the slope. */
    const vec growth = v_where(y != zero, y * (gamma * power(q, o->gamma - 1)));
    const vec factor = (alpha - beta) * (y * fade) + a * (growth + fade);
    e->slope_b = v_select(
        x == -top, label_times((one - eps) * factor, top),
        (one - eps) * ((alpha - beta) * (bce * fade) + a * (bend * (l.no - l.yes) - x * fade)));
    if (o->gamma == 0) { /* no 0^0 */
        e->value.a = label_times(a, bce);
        e->slope_a = a * (not_y * l.yes - y * l.no);
        e->slope_b = (one - eps) * ((alpha - beta) * bce - a * x);
    }
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    static const elementwise is = {
        .weight = LABEL_WEIGHT, .mask = LABEL_MASK, .grad_output = LABEL_GRAD_OUTPUT};
    const options o = *(const options *)job->options;
    (void)scratch;
    elementwise_rows(job, &o, first, count, block, each, is, true);
}

LK_LOSS(sigmoid_focal) = {
    .is = {.name = "sigmoid_focal",
           .title = "Focal loss of logits",
           .formula = "weight * a * bce * (1-p_t)^gamma, a = alpha*y + (1-alpha)*(1-y), "
                      "1-p_t = p + y - 2*p*y, p = sigmoid(logits), y = targets",
           .help = "For labels of which most do not apply, as in the detection of objects.",
           .reference = "Lin et al. 2017; torchvision sigmoid_focal_loss",
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
