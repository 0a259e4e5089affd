/* SPDX-License-Identifier: MIT
 *
 * Kahneman-Tversky optimisation: answers that are desirable or not, without pairs.
 */
#include "rows/scalar.h"

enum { LOGPS, REF_LOGPS, LABELS, KL, REWARD_SHIFT, GRAD_OUTPUT };
enum { REWARDS };
enum { KTO, APO_ZERO_UNPAIRED, BCO };

typedef struct options {
    lk_reduce reduce;
    int loss_type;
    double beta, desirable_weight, undesirable_weight;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, loss_type, "kto", "kto|apo_zero_unpaired|bco",
             "rewards are compared with kl, with 0, or by a logistic loss with reward_shift"),
    LK_FIELD(options, beta, "0.1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "how much a log-ratio is worth: the higher, the closer to the reference"),
    LK_FIELD(options, desirable_weight, "1", LK_RANGED, 0, (double)INFINITY,
             "weight of the desirable answers"),
    LK_FIELD(options, undesirable_weight, "1", LK_RANGED, 0, (double)INFINITY,
             "weight of the others"),
    {0},
};

static const lk_input inputs[] = {
    [LOGPS] = {.name = "logps",
               .forms = {{"N", LK_FLOATS}},
               .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
               .help = "log-probabilities of the answers"},
    [REF_LOGPS] = {.name = "ref_logps",
                   .forms = {{"N", LK_FLOATS}},
                   .flags = LK_OPTIONAL,
                   .help = "those of the reference model; default 0: without it"},
    [LABELS] = {.name = "labels", .forms = {{"N", LK_MASKS}}, .help = "is the answer desirable?"},
    [KL] = {.name = "kl",
            .forms = {{"", LK_FLOATS}},
            .flags = LK_OPTIONAL,
            .help = "estimate of the divergence from the reference, a constant; default 0, which "
                    "a negative one counts as"},
    [REWARD_SHIFT] = {.name = "reward_shift",
                      .forms = {{"", LK_FLOATS}},
                      .flags = LK_OPTIONAL,
                      .help = "bco: the running mean of the rewards, a constant; default 0"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    [REWARDS] = {.name = "rewards",
                 .shape = "N",
                 .dtype = LK_ANY,
                 .help = "implicit reward of each answer"},
    {0},
};

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    if (o->loss_type == BCO && lk_has(job, KL))
        return lk_fail(job, error, LK_OPTION_CONFLICT, KL, -1,
                       "loss_type=bco compares with reward_shift, not with kl");
    return LK_OK;
}

static void row(const lk_job *job, scalar_row *r)
{
    const options *o = job->options;
    const bool desirable = lk_int(&job->in[LABELS], r->i) != 0;
    const double x = r->x[LOGPS] - scalar_constant(job, REF_LOGPS, r->i, 0);
    const double kl = o->loss_type == KTO ? scalar_constant(job, KL, 0, 0) : 0;
    const double sign = desirable ? 1 : -1;
    const double weight = desirable ? o->desirable_weight : o->undesirable_weight;
    const double shift = o->loss_type == BCO ? scalar_constant(job, REWARD_SHIFT, 0, 0)
                                             : o->beta * (kl < 0 ? 0 : kl);
    const double v = sign * (o->beta * x - shift), miss = scalar_sigmoid(-v);
    r->out[REWARDS] = o->beta * x;
    r->value = scalar_times(weight, o->loss_type == BCO ? lk_softplus(-v) : miss);
    r->slope[LOGPS] = scalar_times(
        weight, -sign * o->beta * (o->loss_type == BCO ? miss : scalar_sigmoid(v) * miss));
}

SCALARWISE_KERNELS(row, 1, 0, GRAD_OUTPUT)

static const char tex[] =
    "\\ell = \\begin{cases} w_d\\,\\left(1 - \\sigma(\\beta\\,(x - \\text{kl}))\\right) & "
    "\\text{desirable} \\\\ "
    "w_u\\,\\left(1 - \\sigma(\\beta\\,(\\text{kl} - x))\\right) & \\text{undesirable} "
    "\\end{cases}\\qquad x = \\log\\frac{\\pi(y)}{\\pi_{\\text{ref}}(y)}";

LK_DESCRIBE(
    kto, .tex = tex, .title = "Kahneman-Tversky optimisation",
    .formula = "x = logps - ref_logps; desirable_weight (1 - sigmoid(beta (x - kl))) where "
               "labels, else undesirable_weight (1 - sigmoid(beta (kl - x))); bco: "
               "softplus(-(beta x - reward_shift)) where labels, else softplus(beta x - "
               "reward_shift), weighted likewise",
    .help = "Tunes a policy on single answers that are known to be good or bad. The inputs "
            "are sums of the log-probabilities of the answers' tokens.",
    .reference =
        "Ethayarajh et al. 2024; D'Oosterlinck et al. 2024 (apo_zero_unpaired); Jung et al. "
        "2024 (bco); TRL kto_trainer.py, bco_trainer.py",
    .example = "{\"inputs\": {\"logps\": [-10.0, -12.0], \"ref_logps\": [-10.5, -11.0], "
               "\"labels\": [true, false], \"kl\": 0.2}}",
    .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "N", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(kto) = {
    .is = &LK_IS(kto),
    .check = check,
    SCALARWISE_MEMBERS(options, scalarwise_prepare),
};
