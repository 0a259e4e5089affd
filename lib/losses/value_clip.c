/* SPDX-License-Identifier: MIT
 *
 * The value loss of PPO: half the squared error, the larger of unclipped and clipped.
 */
#include "rows/scalar.h"

enum { VALUES, OLD_VALUES, RETURNS, MASK, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
    double eps;
} options;

static const lk_field fields[] = {
    LK_FIELD(options, eps, "0.2", LK_RANGED, 0, (double)INFINITY,
             "how far a value may move from the old one before it is clipped"),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    {0},
};

static const lk_input inputs[] = {
    [VALUES] = {.name = "values",
                .forms = {{"*", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "what the value model predicts now"},
    [OLD_VALUES] = {.name = "old_values",
                    .forms = {{"*", LK_FLOATS}},
                    .help = "what it predicted when the answers were sampled"},
    [RETURNS] = {.name = "returns", .forms = {{"*", LK_FLOATS}}, .help = "what it should predict"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "elements with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)error;
    for (int64_t i = 0; i < job->rows; i++)
        job->counted += !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

static void row(const lk_job *job, scalar_row *r)
{
    const options *o = job->options;
    const double v = r->x[VALUES], old = scalar_constant(job, OLD_VALUES, r->i, 0);
    const double target = scalar_constant(job, RETURNS, r->i, 0);
    const double low = old - o->eps, high = old + o->eps;
    const bool clipped = v < low || v > high;
    const double plain = v - target, cut = (v < low ? low : v > high ? high : v) - target;
    const double a = plain * plain, b = cut * cut, cut_slope = clipped ? 0 : cut;
    r->value = (b > a ? b : a) / 2;
    r->slope[VALUES] = a > b ? plain : b > a ? cut_slope : (plain + cut_slope) / 2;
}

SCALARWISE_KERNELS(row, 1, MASK, GRAD_OUTPUT)

LK_LOSS(value_clip) = {
    .is = {.name = "value_clip",
           .title = "Clipped value loss of PPO",
           .formula = "vc = clip(values, old_values - eps, old_values + eps); sum of mask * "
                      "max((values - returns)^2, (vc - returns)^2) / (2 sum of mask)",
           .help =
               "Keeps a value model from moving far in one step, beside policy_gradient for the "
               "policy.",
           .reference = "Schulman et al. 2017; TRL ppo_trainer.py",
           .example = "{\"inputs\": {\"values\": [0.5, 1.4], \"old_values\": [0.4, 1.0], "
                      "\"returns\": [1.0, 0.8]}}",
           .traits = LK_NONNEGATIVE | LK_ROWWISE,
           .inputs = inputs,
           .outputs = outputs,
           .options = fields},
    .rows_shape = "*",
    SCALARWISE_MEMBERS(options, prepare),
};
