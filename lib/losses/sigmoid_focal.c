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

/* q^g for q in [0, 1]: whole powers that are usual by multiplication. */
LK_INLINE vec power(vec q, v_logarithm log_q, double g)
{
    const vec zero = {0};
    if (g == 0)
        return v_set(1);
    if (g == 1)
        return q;
    if (g == 2)
        return q * q;
    /* With this greatest exponent any q below 1 gives 0. */
    const vec y = v_pow_long(log_q, (real)(g < 1e30 ? g : 1e30)),
              none = v_set(g > 0 ? 0 : (real)INFINITY);
    return v_select(q > zero, y, v_select(q == zero, none, q));
}

/* a bce q^gamma, a = alpha y + (1-alpha)(1-y), q = p + y - 2py = 1 - p_t. */
LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const vec one = v_set(1), zero = {0}, top = v_set((real)INFINITY);
    const vec y = label_applies(o->label_smoothing, e->b);
    const vec not_y = label_applies(o->label_smoothing, one - e->b);
    const vec x = e->a, gamma = v_set((real)o->gamma), keep = v_set((real)(1 - o->label_smoothing));
    const bool balanced = isnan(o->alpha);
    const vec alpha = v_set(balanced ? 1 : (real)o->alpha);
    const vec beta = v_set(balanced ? 1 : (real)(1 - o->alpha));
    const vec a = alpha * y + beta * not_y;
    const mask some = a != zero; /* else nothing is left, whatever x is */
    const label l = label_of(e);
    const vec unlikely = l.small * l.likely;
    const vec yes = v_select(l.positive, l.likely, unlikely); /* sigmoid(x), */
    const vec no = v_select(l.positive, unlikely, l.likely);  /* sigmoid(-x) */
    vec slope;
    const vec bce = label_entropy(&l, y, not_y, &slope);
    e->legal = label_is_share(e->b);
    if (o->gamma == 0) { /* no 0^0 */
        e->value.a = v_where(some, label_times(a, bce));
        e->slope_a = v_where(some, a * slope);
        e->slope_b = keep * ((alpha - beta) * bce - a * x);
        return;
    }
    const vec q = not_y * yes + y * no;
    const bool usual = o->gamma == 1 || o->gamma == 2;
    const v_logarithm log_q = usual ? (v_logarithm){zero, zero} : v_log_long(q);
    const vec fade = power(q, log_q, o->gamma), steep = gamma * power(q, log_q, o->gamma - 1);
    const vec bend = v_where(q != zero, bce * steep);
    e->value.a = v_where(some, label_times(a * fade, bce));
    e->slope_a = v_where(some, a * (slope * fade + label_times((not_y - y) * (yes * no), bend)));
    /* At -inf bce is y times infinity, whose factor is what is left of the slope. */
    const vec growth = v_where(y != zero, y * steep);
    const vec factor = (alpha - beta) * (y * fade) + a * (growth + fade);
    e->slope_b =
        v_select(x == -top, label_times(keep * factor, top),
                 keep * ((alpha - beta) * (bce * fade) + a * (bend * (no - yes) - x * fade)));
}

ELEMENTWISE_LOOP(options, label_ahead, .ranged = B, .weight = LABEL_WEIGHT, .mask = LABEL_MASK,
                 .grad_output = LABEL_GRAD_OUTPUT)

static const char tex[] =
    "\\ell = w\\,a\\,(1 - p_t)^\\gamma\\,\\operatorname{bce}(x, y),\\quad a = \\alpha y + (1 - "
    "\\alpha)(1 - y),\\quad 1 - p_t = p + y - 2py,\\quad p = \\sigma(x)";

LK_DESCRIBE(sigmoid_focal, .tex = tex, .title = "Focal loss of logits",
            .formula = "weight * a * bce * (1-p_t)^gamma, a = alpha*y + (1-alpha)*(1-y), "
                       "1-p_t = p + y - 2*p*y, p = sigmoid(logits), y = targets",
            .help = "For labels of which most do not apply, as in the detection of objects.",
            .reference = "Lin et al. 2017; torchvision sigmoid_focal_loss",
            .example = "{\"inputs\": {\"logits\": [-1.5, 0.0, 2.0], \"targets\": [0, 1, 1]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(sigmoid_focal) = {
    .is = &LK_IS(sigmoid_focal),
    .options_size = sizeof(options),
    .parts = 1,
    .light = ELEMENTWISE_COSTLY,
    .checks_weights = true,
    .prepare = label_prepare,
    ELEMENTWISE_ROWS,
};
