/* SPDX-License-Identifier: MIT
 *
 * The Bradley-Terry loss of reward models.
 */
#include "rows/scalar.h"

enum { MARGIN = REJECTED + 1, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
    double centre;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, centre, "0", LK_RANGED, 0, (double)INFINITY,
             "weight of the square of the sum of both scores, which keeps them around 0"),
    {0},
};

static const lk_input inputs[] = {
    [CHOSEN] = PAIR_INPUT("chosen_scores", "scores of the answers that were preferred"),
    [REJECTED] = PAIR_INPUT("rejected_scores", "scores of the other ones"),
    [MARGIN] = PAIR_NUMBERS("margin", "how far apart the scores should be; default 0"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static void row(const lk_job *job, scalar_row *r)
{
    const options *o = job->options;
    const double c = r->x[CHOSEN], d = r->x[REJECTED], off = c + d;
    pair_rewards(r, c, d);
    pair_logistic(r, c - d - scalar_constant(job, MARGIN, r->i, 0), 1, 0);
    r->value += scalar_times(o->centre, off * off);
    r->slope[CHOSEN] += scalar_times(2 * o->centre, off);
    r->slope[REJECTED] += scalar_times(2 * o->centre, off);
}

SCALARWISE_KERNELS(row, 2, 0, GRAD_OUTPUT)

static const char tex[] =
    "\\ell = \\log\\left(1 + e^{-(s_{\\text{chosen}} - s_{\\text{rejected}} - m)}\\right),\\quad "
    "m = \\text{margin}";

LK_DESCRIBE(
    pairwise_logistic, .tex = tex, .title = "Pairwise logistic loss of reward models",
    .formula = "softplus(-(chosen_scores - rejected_scores - margin)) + centre (chosen_scores + "
               "rejected_scores)^2",
    .help = "The negative log-likelihood of the preferences under the model of Bradley and "
            "Terry. The rewards it reports are the scores.",
    .reference = "Bradley and Terry 1952; Ouyang et al. 2022; Touvron et al. 2023 (margin); "
                 "Eisenstein et al. 2023 (centre)",
    .example = "{\"inputs\": {\"chosen_scores\": [1.5, 0.2], \"rejected_scores\": "
               "[0.5, 0.4]}}",
    .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "N", .inputs = inputs,
    .outputs = pair_outputs, .options = fields);

LK_LOSS(pairwise_logistic) = {
    .is = &LK_IS(pairwise_logistic),
    SCALARWISE_MEMBERS(options, scalarwise_prepare),
};
