/* SPDX-License-Identifier: MIT
 *
 * The value loss of PPO: half the squared error, or Huber's, the larger of unclipped and clipped.
 */
#include "rows/scalar.h"

enum { VALUES, OLD_VALUES, RETURNS, MASK, GRAD_OUTPUT };

enum { MSE, HUBER }; /* base */

typedef struct options {
    lk_reduce reduce;
    double eps, delta;
    int base;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, eps, "0.2", LK_OFF | LK_RANGED, 0, (double)INFINITY,
             "how far a value may move from the old one before it is clipped; off: not clipped"),
    LK_WORDS(options, base, "mse", "mse|huber", "half the squared error, or Huber's loss"),
    LK_FIELD(options, delta, "10", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "huber: from this error on the loss is linear"),
    {0},
};

static const lk_input inputs[] = {
    [VALUES] = {.name = "values",
                .forms = {{"*", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "what the value model predicts now"},
    [OLD_VALUES] = {.name = "old_values",
                    .forms = {{"*", LK_FLOATS}},
                    .flags = LK_OPTIONAL,
                    .help = "what it predicted when the answers were sampled; required unless eps "
                            "is off"},
    [RETURNS] = {.name = "returns", .forms = {{"*", LK_FLOATS}}, .help = "what it should predict"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "elements with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    if (!lk_has(job, OLD_VALUES) && !isnan(o->eps))
        return lk_fail(job, error, LK_MISSING_INPUT, OLD_VALUES, -1,
                       "old_values is missing; clipping needs it, unless eps is off");
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)error;
    for (int64_t i = 0; i < job->rows; i++)
        job->counted += !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

/* The loss of an error, and its slope. */
static double base(const options *o, double u)
{
    const double size = fabs(u);
    return o->base == HUBER && size > o->delta ? o->delta * (size - o->delta / 2) : u * u / 2;
}

static double base_slope(const options *o, double u)
{
    return o->base == HUBER && fabs(u) > o->delta ? copysign(o->delta, u) : u;
}

static void row(const lk_job *job, scalar_row *r)
{
    const options *o = job->options;
    const double v = r->x[VALUES], old = scalar_constant(job, OLD_VALUES, r->i, 0);
    const double target = scalar_constant(job, RETURNS, r->i, 0);
    const double low = old - o->eps, high = old + o->eps; /* NaN: eps is off */
    const bool clipped = v < low || v > high;
    const double plain = v - target, cut = (v < low ? low : v > high ? high : v) - target;
    const double a = base(o, plain), b = base(o, cut);
    const double slope = base_slope(o, plain), cut_slope = clipped ? 0 : base_slope(o, cut);
    r->value = b > a ? b : a;
    r->slope[VALUES] = a > b ? slope : b > a ? cut_slope : (slope + cut_slope) / 2;
}

SCALARWISE_KERNELS(row, 1, MASK, GRAD_OUTPUT)

static const char tex[] =
    "\\begin{aligned} v_c &= \\operatorname{clip}(v,\\ v_{\\text{old}} - \\varepsilon,\\ "
    "v_{\\text{old}} + \\varepsilon) \\\\ \\ell &= \\max\\left(h(v - R),\\ h(v_c - R)\\right), "
    "\\qquad h(u) = \\tfrac{1}{2} u^2 \\text{ or Huber's loss} \\end{aligned}";

LK_DESCRIBE(
    value_clip, .tex = tex, .title = "Clipped value loss of PPO",
    .formula = "vc = clip(values, old_values - eps, old_values + eps); max(h(values - returns), "
               "h(vc - returns)), h(u) = u^2/2 or Huber's loss; mean: over the counted",
    .help = "Keeps a value model from moving far in one step, beside policy_gradient for the "
            "policy.",
    .reference = "Schulman et al. 2017; TRL ppo_trainer.py; verl core_algos.py; AReaL (huber)",
    .example = "{\"inputs\": {\"values\": [0.5, 1.4], \"old_values\": [0.4, 1.0], "
               "\"returns\": [1.0, 0.8]}}",
    .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(value_clip) = {
    .is = &LK_IS(value_clip),
    .check = check,
    SCALARWISE_MEMBERS(options, prepare),
};
