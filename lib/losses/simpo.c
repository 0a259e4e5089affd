/* SPDX-License-Identifier: MIT
 *
 * Simple preference optimisation: compares mean log-probabilities, with a margin and no reference.
 */
#include "rows/scalar.h"

enum { CHOSEN_NLL = REJECTED + 1, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
    double beta, gamma, label_smoothing, alpha;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, beta, "2", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "how much a difference of log-probabilities is worth"),
    LK_FIELD(options, gamma, "0.5", 0, 0, 0,
             "the margin that beta times the difference should have"),
    LK_FIELD(options, label_smoothing, "0", LK_RANGED, 0, 0.5,
             "share of preferences taken to be flipped"),
    LK_FIELD(options, alpha, "1", 0, 0, 0, "weight of chosen_nll"),
    {0},
};

static const lk_input inputs[] = {
    [CHOSEN] = PAIR_INPUT("chosen_logps", "mean log-probability a token of the preferred answers"),
    [REJECTED] = PAIR_INPUT("rejected_logps", "mean log-probability a token of the other ones"),
    [CHOSEN_NLL] = PAIR_NUMBERS("chosen_nll", "negative log-likelihood of the preferred answers, "
                                              "added alpha times; a constant here"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static void row(const lk_job *job, scalar_row *r)
{
    const options *o = job->options;
    const double a = o->beta * r->x[CHOSEN], b = o->beta * r->x[REJECTED];
    pair_rewards(r, a, b);
    pair_logistic(r, o->beta * (r->x[CHOSEN] - r->x[REJECTED]) - o->gamma, o->beta,
                  o->label_smoothing);
    r->value += scalar_times(o->alpha, scalar_constant(job, CHOSEN_NLL, r->i, 0));
}

SCALARWISE_KERNELS(row, 2, 0, GRAD_OUTPUT)

LK_LOSS(simpo) = {
    .is = {.name = "simpo",
           .title = "Simple preference optimisation",
           .formula = "u = beta (chosen_logps - rejected_logps) - gamma; -(1-e) log sigmoid(u) - e "
                      "log sigmoid(-u) + alpha chosen_nll, e = label_smoothing",
           .help =
               "Preferences without a reference model, where long answers are worth no more than "
               "short ones. The inputs are means of the log-probabilities of the answers' tokens.",
           .reference = "Meng et al. 2024; TRL CPOTrainer",
           .example =
               "{\"inputs\": {\"chosen_logps\": [-0.5, -1.0], \"rejected_logps\": [-1.5, -0.7]}}",
           .traits = LK_ROWWISE,
           .loss_shape = "N",
           .inputs = inputs,
           .outputs = pair_outputs,
           .options = fields},
    SCALARWISE_MEMBERS(options, scalarwise_prepare),
};
