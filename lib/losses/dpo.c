/* SPDX-License-Identifier: MIT
 *
 * Direct preference optimisation and its published variants.
 */
#include "rows/scalar.h"

enum {
    REF_CHOSEN = REJECTED + 1,
    REF_REJECTED,
    CHOSEN_LENGTHS,
    REJECTED_LENGTHS,
    GRAD_OUTPUT,
};
enum {
    SIGMOID,
    HINGE,
    IPO,
    ROBUST,
    EXO_PAIR,
    NCA_PAIR,
    BCO_PAIR,
    SPPO_HARD,
    APO_ZERO,
    APO_DOWN,
    SIGMOID_NORM,
};

typedef struct options {
    lk_reduce reduce;
    int loss_type;
    double beta, label_smoothing;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, loss_type, "sigmoid",
             "sigmoid|hinge|ipo|robust|exo_pair|nca_pair|bco_pair|sppo_hard|apo_zero|apo_down|"
             "sigmoid_norm",
             "the form of the loss"),
    LK_FIELD(options, beta, "0.1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "how much a log-ratio is worth: the higher, the closer to the reference"),
    LK_FIELD(options, label_smoothing, "0", LK_RANGED, 0, 1,
             "share of preferences taken to be flipped: sigmoid [0,0.5], robust [0,0.5), exo_pair "
             "(0,1) and there 0.001 if it is not set"),
    {0},
};

static const lk_input inputs[] = {
    [CHOSEN] = PAIR_INPUT("chosen_logps", "log-probabilities of the preferred answers"),
    [REJECTED] = PAIR_INPUT("rejected_logps", "log-probabilities of the other ones"),
    [REF_CHOSEN] =
        PAIR_CONSTANT("ref_chosen_logps", "those of the reference model; default 0: without it"),
    [REF_REJECTED] =
        PAIR_CONSTANT("ref_rejected_logps", "those of the reference model; default 0: without it"),
    [CHOSEN_LENGTHS] = {.name = "chosen_lengths",
                        .forms = {{"N", LK_INTS}},
                        .flags = LK_OPTIONAL,
                        .range = ">=1",
                        .help = "tokens of the preferred answers; ipo (default 1), sigmoid_norm"},
    [REJECTED_LENGTHS] = {.name = "rejected_lengths",
                          .forms = {{"N", LK_INTS}},
                          .flags = LK_OPTIONAL,
                          .range = ">=1",
                          .help = "tokens of the other ones; ipo (default 1), sigmoid_norm"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static double smoothing(const lk_job *job)
{
    const options *o = job->options;
    return o->loss_type == EXO_PAIR && !lk_given(job, "label_smoothing") ? 1e-3
                                                                         : o->label_smoothing;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const double eps = smoothing(job);
    const bool chosen = lk_has(job, CHOSEN_LENGTHS), rejected = lk_has(job, REJECTED_LENGTHS);
    const int missing = chosen ? REJECTED_LENGTHS : CHOSEN_LENGTHS;
    if (o->loss_type == SIGMOID_NORM && !(chosen && rejected))
        return lk_fail(job, error, LK_MISSING_INPUT, missing, -1,
                       "%s is missing; loss_type=sigmoid_norm needs chosen_lengths and "
                       "rejected_lengths",
                       inputs[missing].name);
    if (o->loss_type == IPO && chosen != rejected)
        return lk_fail(job, error, LK_MISSING_INPUT, missing, -1,
                       "%s is missing; loss_type=ipo needs both lengths or neither",
                       inputs[missing].name);
    if (o->loss_type == SIGMOID && eps > 0.5)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "label_smoothing is %g; for sigmoid it must be in [0, 0.5]", eps);
    if (o->loss_type == ROBUST && eps >= 0.5)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "label_smoothing is %g; for robust it must be in [0, 0.5)", eps);
    if (o->loss_type == EXO_PAIR && !(eps > 0 && eps < 1))
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "label_smoothing is %g; for exo_pair it must be in (0, 1)", eps);
    if (o->loss_type != SIGMOID && o->loss_type != ROBUST && o->loss_type != EXO_PAIR && eps != 0)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "label_smoothing is %g; it must be 0 but for sigmoid, robust and exo_pair",
                       eps);
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    for (int input = CHOSEN_LENGTHS; input <= REJECTED_LENGTHS; input++) {
        for (int64_t i = 0; job->in[input].data && i < job->rows; i++) {
            int64_t n = lk_int(&job->in[input], i);
            char place[LK_PLACE_MAX];
            if (n < 1)
                return lk_fail(job, error, LK_LENGTH_OUT_OF_RANGE, input, i,
                               "%s is %lld; it must be at least 1", lk_place(job, input, i, place),
                               (long long)n);
        }
    }
    return scalarwise_prepare(job, error);
}

static double length(const lk_job *job, int input, int64_t i)
{
    return job->in[input].data ? (double)lk_int(&job->in[input], i) : 1;
}

/* KL of the preferences under the model, (sigmoid(u), sigmoid(-u)), to the smoothed labels. */
static void exo_pair(scalar_row *r, double u, double beta, double eps)
{
    const double p = scalar_sigmoid(u), q = scalar_sigmoid(-u);
    const double log_yes = lk_log1p(-eps), log_no = lk_log(eps);
    pair_set(
        r, scalar_times(p, -lk_softplus(-u) - log_yes) + scalar_times(q, -lk_softplus(u) - log_no),
        beta * scalar_times(p * q, u - (log_yes - log_no)));
}

static void row(const lk_job *job, scalar_row *r)
{
    const options *o = job->options;
    const double beta = o->beta, eps = smoothing(job);
    const double c = r->x[CHOSEN] - scalar_constant(job, REF_CHOSEN, r->i, 0);
    const double d = r->x[REJECTED] - scalar_constant(job, REF_REJECTED, r->i, 0);
    const double u = beta * (c - d), a = beta * c, b = beta * d; /* rewards and their margin */
    double *const slope = r->slope;
    pair_rewards(r, a, b);
    switch (o->loss_type) {
    case SIGMOID:
        pair_logistic(r, u, beta, eps);
        break;
    case HINGE:
        pair_set(r, u >= 1 ? 0 : 1 - u, u < 1 ? -beta : 0);
        break;
    case IPO: {
        const double n = length(job, CHOSEN_LENGTHS, r->i), m = length(job, REJECTED_LENGTHS, r->i);
        const double h = c / n - d / m - 1 / (2 * beta);
        r->value = h * h;
        slope[CHOSEN] = 2 * h / n;
        slope[REJECTED] = -2 * h / m;
        break;
    }
    case ROBUST:
        pair_set(
            r, ((1 - eps) * lk_softplus(-u) - scalar_times(eps, lk_softplus(u))) / (1 - 2 * eps),
            -beta * ((1 - eps) * scalar_sigmoid(-u) + eps * scalar_sigmoid(u)) / (1 - 2 * eps));
        break;
    case EXO_PAIR:
        exo_pair(r, u, beta, eps);
        break;
    case NCA_PAIR:
        r->value = lk_softplus(-a) + lk_softplus(a) / 2 + lk_softplus(b) / 2;
        slope[CHOSEN] = beta * (scalar_sigmoid(a) / 2 - scalar_sigmoid(-a));
        slope[REJECTED] = beta * scalar_sigmoid(b) / 2;
        break;
    case BCO_PAIR:
        r->value = lk_softplus(-a) + lk_softplus(b);
        slope[CHOSEN] = -beta * scalar_sigmoid(-a);
        slope[REJECTED] = beta * scalar_sigmoid(b);
        break;
    case SPPO_HARD: {
        const double won = c - 1 / (2 * beta), lost = d + 1 / (2 * beta);
        r->value = won * won + lost * lost;
        slope[CHOSEN] = 2 * won;
        slope[REJECTED] = 2 * lost;
        break;
    }
    case APO_ZERO:
        r->value = scalar_sigmoid(-a) + scalar_sigmoid(b);
        slope[CHOSEN] = -beta * scalar_sigmoid(a) * scalar_sigmoid(-a);
        slope[REJECTED] = beta * scalar_sigmoid(b) * scalar_sigmoid(-b);
        break;
    case APO_DOWN: {
        const double apart = beta * scalar_sigmoid(u) * scalar_sigmoid(-u);
        r->value = scalar_sigmoid(a) + scalar_sigmoid(-u);
        slope[CHOSEN] = beta * scalar_sigmoid(a) * scalar_sigmoid(-a) - apart;
        slope[REJECTED] = apart;
        break;
    }
    default: {
        const double n = length(job, CHOSEN_LENGTHS, r->i), m = length(job, REJECTED_LENGTHS, r->i);
        const double v = beta * (c / n - d / m), short_of = beta * scalar_sigmoid(-v);
        r->value = lk_softplus(-v);
        slope[CHOSEN] = -short_of / n;
        slope[REJECTED] = short_of / m;
    }
    }
}

SCALARWISE_KERNELS(row, 2, 0, GRAD_OUTPUT)

LK_LOSS(dpo) = {
    .is = {.name = "dpo",
           .title = "Direct preference optimisation",
           .formula =
               "c = chosen_logps - ref_chosen_logps, r likewise, u = beta (c - r); sigmoid: "
               "-(1-e) log s(u) - e log s(-u); hinge: max(0, 1-u); ipo: (c/n_c - r/n_r - "
               "1/(2 beta))^2; robust: (-(1-e) log s(u) + e log s(-u))/(1-2e); exo_pair: "
               "KL((s(u), s(-u)) || (1-e, e)); nca_pair: -log s(beta c) - log s(-beta c)/2 - "
               "log s(-beta r)/2; bco_pair: -log s(beta c) - log s(-beta r); sppo_hard: "
               "(c - 1/(2 beta))^2 + (r + 1/(2 beta))^2; apo_zero: s(-beta c) + s(beta r); "
               "apo_down: s(beta c) + s(-u); sigmoid_norm: -log s(beta (c/n_c - r/n_r)); "
               "s = sigmoid",
           .help = "Tunes a policy on pairs of a preferred and a rejected answer, without a reward "
                   "model. The inputs are sums of the log-probabilities of the answers' tokens.",
           .reference = "Rafailov et al. 2023; hinge: Zhao et al. 2023; ipo: Azar et al. 2023; "
                        "robust: Chowdhury et al. 2024; exo_pair: Ji et al. 2024; nca_pair: Chen "
                        "et al. 2024; bco_pair: Jung et al. 2024; sppo_hard: Wu et al. 2024; apo: "
                        "D'Oosterlinck et al. 2024; TRL dpo_trainer.py",
           .example =
               "{\"inputs\": {\"chosen_logps\": [-10.0, -12.0], \"rejected_logps\": [-11.0, -9.0], "
               "\"ref_chosen_logps\": [-10.5, -11.0], \"ref_rejected_logps\": [-10.0, -9.5]}}",
           .traits = LK_ROWWISE,
           .loss_shape = "N",
           .inputs = inputs,
           .outputs = pair_outputs,
           .options = fields},
    .check = check,
    SCALARWISE_MEMBERS(options, prepare),
};
