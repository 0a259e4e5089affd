/* SPDX-License-Identifier: MIT
 *
 * Odds ratio preference optimisation.
 */
#include "rows/scalar.h"

enum { CHOSEN_NLL = REJECTED + 1, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
    double beta;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, beta, "0.1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "weight of the odds ratio beside chosen_nll"),
    {0},
};

#define MEAN_LOGPS(name_, help_)                                                                   \
    {                                                                                              \
        .name = (name_), .forms = {{"N", LK_FLOATS}},                                              \
        .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL, .range = "<=0", .help = (help_)   \
    }

static const lk_input inputs[] = {
    [CHOSEN] = MEAN_LOGPS("chosen_logps", "mean log-probability a token of the preferred answers"),
    [REJECTED] = MEAN_LOGPS("rejected_logps", "mean log-probability a token of the other ones"),
    [CHOSEN_NLL] = PAIR_NUMBERS("chosen_nll", "negative log-likelihood of the preferred answers, "
                                              "added; a constant here"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static void row(const lk_job *job, scalar_row *r)
{
    const options *o = job->options;
    const double beta = o->beta, c = r->x[CHOSEN], d = r->x[REJECTED];
    const double odds = c - d - (scalar_log1mexp(c) - scalar_log1mexp(d)); /* their log-ratio */
    const double rejected_odds = lk_exp(d) / -lk_expm1(d);
    for (int k = CHOSEN; k <= REJECTED; k++)
        if (r->x[k] > 0)
            lk_refuse(r->block, LK_VALUE_OUT_OF_RANGE, k, r->i, r->x[k]);
    pair_rewards(r, beta * c, beta * d);
    r->value = beta * lk_softplus(-odds);
    r->slope[CHOSEN] = -beta * rejected_odds / (lk_exp(c) - rejected_odds * lk_expm1(c));
    r->slope[REJECTED] = beta * scalar_sigmoid(-odds) / -lk_expm1(d);
    if (d == 0) { /* infinite odds against the answer that should win */
        r->value = isnan(c) ? c : (double)INFINITY;
        r->slope[CHOSEN] = r->slope[REJECTED] = (double)NAN;
    }
    r->value += scalar_constant(job, CHOSEN_NLL, r->i, 0);
}

SCALARWISE_KERNELS(row, 2, 0, GRAD_OUTPUT)

static const char tex[] =
    "\\begin{aligned} o &= c - r - \\left(\\log(1 - e^c) - \\log(1 - e^r)\\right),\\quad c = "
    "\\log\\pi_{\\text{chosen}},\\ r = \\log\\pi_{\\text{rejected}} \\\\ "
    "\\ell &= -\\beta\\,\\log\\sigma(o) + \\text{nll}_{\\text{chosen}} \\end{aligned}";

LK_DESCRIBE(orpo, .tex = tex, .title = "Odds ratio preference optimisation",
            .formula = "o = c - r - (log(1 - e^c) - log(1 - e^r)), c = chosen_logps, r = "
                       "rejected_logps; -beta log sigmoid(o) + chosen_nll",
            .help = "Preferences without a reference model, as a penalty beside the likelihood of "
                    "the preferred answers. The inputs are means of the log-probabilities of the "
                    "answers' tokens.",
            .reference = "Hong et al. 2024; TRL orpo_trainer.py",
            .example = "{\"inputs\": {\"chosen_logps\": [-0.5, -1.0], \"rejected_logps\": "
                       "[-1.5, -0.7]}}",
            .traits = LK_ROWWISE, .loss_shape = "N", .inputs = inputs, .outputs = pair_outputs,
            .options = fields);

LK_LOSS(orpo) = {
    .is = &LK_IS(orpo),
    SCALARWISE_MEMBERS(options, scalarwise_prepare),
};
