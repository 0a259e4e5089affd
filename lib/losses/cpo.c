/* SPDX-License-Identifier: MIT
 *
 * Contrastive preference optimisation: DPO without a reference model, plus the likelihood of the
 * chosen answer.
 */
#include "rows/scalar.h"

enum { CHOSEN_NLL = REJECTED + 1, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
    double beta, gamma, label_smoothing, alpha;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, beta, "0.1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "how much a difference of log-probabilities is worth"),
    LK_FIELD(options, gamma, "0", 0, 0, 0, "the margin that beta times the difference should have"),
    LK_FIELD(options, label_smoothing, "0", LK_RANGED, 0, 0.5,
             "share of preferences taken to be flipped"),
    LK_FIELD(options, alpha, "1", 0, 0, 0, "weight of chosen_nll"),
    {0},
};

static const lk_input inputs[] = {
    [CHOSEN] = PAIR_INPUT("chosen_logps", "log-probabilities of the preferred answers"),
    [REJECTED] = PAIR_INPUT("rejected_logps", "log-probabilities of the other ones"),
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

LK_LOSS(cpo) = {
    .is =
        {.name = "cpo",
         .title = "Contrastive preference optimisation",
         .formula = "u = beta (chosen_logps - rejected_logps) - gamma; -(1-e) log sigmoid(u) - e "
                    "log sigmoid(-u) + alpha chosen_nll, e = label_smoothing",
         .help = "Preferences without a reference model; chosen_nll keeps the policy close to the "
                 "preferred answers. The inputs are sums of log-probabilities.",
         .reference = "Xu et al. 2024; TRL cpo_trainer.py",
         .example =
             "{\"inputs\": {\"chosen_logps\": [-10.0, -12.0], \"rejected_logps\": [-11.0, -9.0]}}",
         .traits = LK_ROWWISE,
         .loss_shape = "N",
         .inputs = inputs,
         .outputs = pair_outputs,
         .options = fields},
    SCALARWISE_MEMBERS(options, scalarwise_prepare),
};
