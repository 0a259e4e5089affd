/* SPDX-License-Identifier: MIT
 *
 * Direct preference optimisation and its published variants.
 */
#include "rows/scalar.h"
#include "rows/units.h"

enum {
    REF_CHOSEN = REJECTED + 1,
    REF_REJECTED,
    CHOSEN_LENGTHS,
    REJECTED_LENGTHS,
    PAIR_WEIGHT,
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
    AOT,
    AOT_UNPAIRED,
    DISCOPOP,
};
enum { REVERSE_KL, FORWARD_KL, JS, ALPHA }; /* f_divergence */

typedef struct options {
    lk_reduce reduce;
    int loss_type, f_divergence;
    double beta, label_smoothing, f_alpha, discopop_tau;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    {
        .name = "loss_type",
        .type = LK_CHOICE,
        .flags = LK_COUPLES,
        .offset = offsetof(options, loss_type),
        .fallback = "sigmoid",
        .choices =
            "sigmoid|hinge|ipo|robust|exo_pair|nca_pair|bco_pair|sppo_hard|apo_zero|apo_down|"
            "sigmoid_norm|aot|aot_unpaired|discopop",
        .help = "the form of the loss; the aot types compare pairs of the same rank",
    },
    LK_FIELD(options, beta, "0.1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "how much a log-ratio is worth: the higher, the closer to the reference"),
    LK_FIELD(options, label_smoothing, "0", LK_RANGED, 0, 1,
             "share of preferences taken to be flipped: sigmoid and aot types [0,0.5], robust "
             "[0,0.5), exo_pair (0,1) and there 0.001 if it is not set"),
    LK_WORDS(options, f_divergence, "reverse_kl", "reverse_kl|forward_kl|js|alpha",
             "from the reference; not for aot types, apo_zero and apo_down"),
    LK_FIELD(options, f_alpha, "0.5", 0, 0, 0, "f_divergence=alpha: its order; 1: reverse_kl"),
    LK_FIELD(options, discopop_tau, "0.05", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "discopop: temperature of the mixture of a logistic and an exponential loss"),
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
    [PAIR_WEIGHT] = {.name = "pair_weight",
                     .forms = {{"N", LK_FLOATS}},
                     .flags = LK_OPTIONAL | LK_WEIGHTS,
                     .range = "finite",
                     .help = "weight of each pair; the mean still divides by N; not for aot types"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

/* Does a pair's loss depend on the ranks of all pairs? */
static bool is_ranked(const options *o)
{
    return o->loss_type == AOT || o->loss_type == AOT_UNPAIRED;
}

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
    if ((o->loss_type == SIGMOID || is_ranked(o)) && eps > 0.5)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "label_smoothing is %g; for sigmoid and aot types it must be in [0, 0.5]",
                       eps);
    if (o->loss_type == ROBUST && eps >= 0.5)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "label_smoothing is %g; for robust it must be in [0, 0.5)", eps);
    if (o->loss_type == EXO_PAIR && !(eps > 0 && eps < 1))
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "label_smoothing is %g; for exo_pair it must be in (0, 1)", eps);
    if (o->loss_type != SIGMOID && o->loss_type != ROBUST && o->loss_type != EXO_PAIR &&
        !is_ranked(o) && eps != 0)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "label_smoothing is %g; it must be 0 but for sigmoid, robust, exo_pair and "
                       "aot types",
                       eps);
    if (o->f_divergence != REVERSE_KL &&
        (is_ranked(o) || o->loss_type == APO_ZERO || o->loss_type == APO_DOWN))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "aot types, apo_zero and apo_down need f_divergence=reverse_kl");
    if (is_ranked(o) && lk_has(job, PAIR_WEIGHT))
        return lk_fail(job, error, LK_OPTION_CONFLICT, PAIR_WEIGHT, -1,
                       "aot types have no pair_weight: their pairs are compared by rank");
    return LK_OK;
}

/* The log-ratio to the reference of a chosen or rejected answer. */
static double log_ratio(const lk_job *job, int side, int64_t i)
{
    const double x = (double)r_load((const elem *)job->in[side].data + i);
    return x - scalar_constant(job, side == CHOSEN ? REF_CHOSEN : REF_REJECTED, i, 0);
}

/* Of a ranked type: the loss of every pair, and its slopes, of which that of a rejected answer may
 * have the upstream gradient of another pair. */
typedef struct ranked {
    double value, slope[2];
    int64_t up;
} ranked;

static size_t state(const lk_job *job)
{
    return is_ranked(job->options) ? (size_t)job->rows * (sizeof(ranked) + 2 * sizeof(pair_place))
                                   : 0;
}

/* What is sorted on both sides: the policy's margins and the reference's; or the log-ratios of the
 * chosen and of the rejected answers. */
static void sides_of(const lk_job *job, int64_t i, double side[2])
{
    const options *o = job->options;
    if (o->loss_type == AOT_UNPAIRED) {
        side[0] = log_ratio(job, CHOSEN, i);
        side[1] = log_ratio(job, REJECTED, i);
        return;
    }
    const elem *c = job->in[CHOSEN].data, *r = job->in[REJECTED].data;
    side[0] = (double)r_load(c + i) - (double)r_load(r + i);
    side[1] = scalar_constant(job, REF_CHOSEN, i, 0) - scalar_constant(job, REF_REJECTED, i, 0);
}

/* The logistic loss of the differences of what has the same rank on both sides. */
static void rank(const lk_job *job)
{
    const options *o = job->options;
    const int64_t n = job->rows;
    ranked *all = job->state;
    pair_place *first = (pair_place *)(all + n), *second = first + n;
    const bool apart = o->loss_type == AOT_UNPAIRED;
    for (int64_t i = 0; i < n; i++) {
        double side[2];
        sides_of(job, i, side);
        first[i] = (pair_place){pair_key(side[0]), i};
        second[i] = (pair_place){pair_key(side[1]), i};
    }
    pair_sort(first, n);
    pair_sort(second, n);
    for (int64_t k = 0; k < n; k++) {
        double chosen[2], rejected[2];
        sides_of(job, first[k].at, chosen);
        sides_of(job, second[k].at, rejected);
        scalar_row r = {.i = k};
        pair_logistic(&r, o->beta * (chosen[0] - rejected[1]), o->beta, o->label_smoothing);
        const int64_t at = apart ? second[k].at : first[k].at;
        all[first[k].at].value = r.value;
        all[first[k].at].slope[CHOSEN] = r.slope[CHOSEN];
        all[at].slope[REJECTED] = r.slope[REJECTED];
        all[at].up = first[k].at;
    }
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
    if (is_ranked(job->options))
        rank(job);
    return scalarwise_prepare(job, error);
}

static double length(const lk_job *job, int input, int64_t i)
{
    return job->in[input].data ? (double)lk_int(&job->in[input], i) : 1;
}

/* What f_divergence makes of a log-ratio, and the slope of that. */
typedef struct bent {
    double value, slope;
} bent;

static bent bend(const options *o, double t)
{
    const double order = o->f_alpha - 1;
    switch (o->f_divergence) {
    case FORWARD_KL:
        return (bent){-lk_exp(-t), lk_exp(-t)};
    case JS:
        return (bent){-lk_softplus(-t), scalar_sigmoid(-t)};
    case ALPHA:
        if (order != 0)
            return (bent){lk_exp(order * t) / order, lk_exp(order * t)};
        return (bent){t, 1};
    default:
        return (bent){t, 1};
    }
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

/* A logistic loss that gives way to an exponential one where the margin is large. */
static void discopop(scalar_row *r, double u, double beta, double tau)
{
    const double rest = scalar_sigmoid(-u / tau), soft = lk_softplus(-u);
    const double share = scalar_sigmoid(u / tau), steep = share * rest / tau;
    const double hard = lk_exp(-lk_softplus(-u / tau) - u); /* share e^-u */
    pair_set(
        r, scalar_times(rest, soft) + hard,
        beta * (-rest * scalar_sigmoid(-u) - hard + rest / tau * hard - scalar_times(steep, soft)));
}

/* The loss and its slopes by the log-ratios c and d. */
static void value_of(const lk_job *job, scalar_row *r, double c, double d)
{
    const options *o = job->options;
    const double beta = o->beta, eps = smoothing(job);
    const double u = beta * (c - d), a = beta * c, b = beta * d;
    double *const slope = r->slope;
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
    case DISCOPOP:
        discopop(r, u, beta, o->discopop_tau);
        break;
    default: {
        const double n = length(job, CHOSEN_LENGTHS, r->i), m = length(job, REJECTED_LENGTHS, r->i);
        const double v = beta * (c / n - d / m), short_of = beta * scalar_sigmoid(-v);
        r->value = lk_softplus(-v);
        slope[CHOSEN] = -short_of / n;
        slope[REJECTED] = short_of / m;
    }
    }
}

static void row(const lk_job *job, scalar_row *r)
{
    const options *o = job->options;
    const double c = r->x[CHOSEN] - scalar_constant(job, REF_CHOSEN, r->i, 0);
    const double d = r->x[REJECTED] - scalar_constant(job, REF_REJECTED, r->i, 0);
    const double weight = scalar_constant(job, PAIR_WEIGHT, r->i, 1);
    pair_rewards(r, o->beta * c, o->beta * d);
    if (is_ranked(o)) {
        const ranked *of = (const ranked *)job->state + r->i;
        r->value = of->value;
        r->slope[CHOSEN] = of->slope[CHOSEN];
        r->slope[REJECTED] = of->slope[REJECTED];
        r->up[REJECTED] = of->up;
        return;
    }
    const bent chosen = bend(o, c), rejected = bend(o, d);
    value_of(job, r, chosen.value, rejected.value);
    r->value = scalar_times(weight, r->value);
    r->slope[CHOSEN] = scalar_times(weight, scalar_times(r->slope[CHOSEN], chosen.slope));
    r->slope[REJECTED] = scalar_times(weight, scalar_times(r->slope[REJECTED], rejected.slope));
}

SCALARWISE_KERNELS(row, 2, 0, GRAD_OUTPUT)

static const char tex[] =
    "\\begin{aligned} c &= "
    "\\log\\frac{\\pi(\\text{chosen})}{\\pi_{\\text{ref}}(\\text{chosen})},\\quad r = "
    "\\log\\frac{\\pi(\\text{rejected})}{\\pi_{\\text{ref}}(\\text{rejected})},\\quad u = "
    "\\beta\\,(c - r) \\\\ "
    "\\text{sigmoid} &= -(1 - \\varepsilon)\\log\\sigma(u) - \\varepsilon\\log\\sigma(-u) \\\\ "
    "\\text{hinge} &= \\max(0,\\ 1 - u) \\\\ "
    "\\text{ipo} &= \\left(\\frac{c}{n_c} - \\frac{r}{n_r} - \\frac{1}{2\\beta}\\right)^2 \\\\ "
    "\\text{robust} &= \\frac{-(1 - \\varepsilon)\\log\\sigma(u) + "
    "\\varepsilon\\log\\sigma(-u)}{1 - 2\\varepsilon} \\\\ "
    "\\text{exo\\_pair} &= \\operatorname{KL}\\left((\\sigma(u), \\sigma(-u)) \\parallel (1 - "
    "\\varepsilon, \\varepsilon)\\right) \\\\ "
    "\\text{nca\\_pair} &= -\\log\\sigma(\\beta c) - \\frac{1}{2}\\log\\sigma(-\\beta c) - "
    "\\frac{1}{2}\\log\\sigma(-\\beta r) \\\\ "
    "\\text{bco\\_pair} &= -\\log\\sigma(\\beta c) - \\log\\sigma(-\\beta r) \\\\ "
    "\\text{sppo\\_hard} &= \\left(c - \\frac{1}{2\\beta}\\right)^2 + \\left(r + "
    "\\frac{1}{2\\beta}\\right)^2 \\\\ "
    "\\text{apo\\_zero} &= \\sigma(-\\beta c) + \\sigma(\\beta r) \\\\ "
    "\\text{apo\\_down} &= \\sigma(\\beta c) + \\sigma(-u) \\\\ "
    "\\text{sigmoid\\_norm} &= -\\log\\sigma\\left(\\beta\\left(\\frac{c}{n_c} - "
    "\\frac{r}{n_r}\\right)\\right) \\end{aligned}";

LK_DESCRIBE(
    dpo, .tex = tex, .title = "Direct preference optimisation",
    .formula = "c = chosen_logps - ref_chosen_logps, r likewise, u = beta (c - r); sigmoid: "
               "-(1-e) log s(u) - e log s(-u); hinge: max(0, 1-u); ipo: (c/n_c - r/n_r - "
               "1/(2 beta))^2; robust: (-(1-e) log s(u) + e log s(-u))/(1-2e); exo_pair: "
               "KL((s(u), s(-u)) || (1-e, e)); nca_pair: -log s(beta c) - log s(-beta c)/2 - "
               "log s(-beta r)/2; bco_pair: -log s(beta c) - log s(-beta r); sppo_hard: "
               "(c - 1/(2 beta))^2 + (r + 1/(2 beta))^2; apo_zero: s(-beta c) + s(beta r); "
               "apo_down: s(beta c) + s(-u); sigmoid_norm: -log s(beta (c/n_c - r/n_r)); "
               "aot: sigmoid of the k-th smallest chosen_logps - rejected_logps less the k-th "
               "smallest "
               "of the reference; aot_unpaired: of c less that of r; discopop: (1-t) softplus(-u) "
               "+ t "
               "exp(-u), t = s(u/discopop_tau); s = sigmoid. f_divergence replaces c and r: "
               "forward_kl -exp(-c), js log s(c), alpha exp((f_alpha-1) c)/(f_alpha-1)",
    .help = "Tunes a policy on pairs of a preferred and a rejected answer, without a reward "
            "model. The inputs are sums of the log-probabilities of the answers' tokens.",
    .reference = "Rafailov et al. 2023; hinge: Zhao et al. 2023; ipo: Azar et al. 2023; "
                 "robust: Chowdhury et al. 2024; exo_pair: Ji et al. 2024; nca_pair: Chen "
                 "et al. 2024; bco_pair: Jung et al. 2024; sppo_hard: Wu et al. 2024; apo: "
                 "D'Oosterlinck et al. 2024; aot: Melnyk et al. 2024; discopop: Lu et al. 2024; "
                 "f_divergence: Wang et al. 2023; pair_weight: Zhou et al. 2024 (WPO); TRL "
                 "dpo_trainer.py",
    .example = "{\"inputs\": {\"chosen_logps\": [-10.0, -12.0], \"rejected_logps\": [-11.0, -9.0], "
               "\"ref_chosen_logps\": [-10.5, -11.0], \"ref_rejected_logps\": [-10.0, -9.5]}}",
    .traits = LK_ROWWISE, .loss_shape = "N", .inputs = inputs, .outputs = pair_outputs,
    .options = fields);

LK_LOSS(dpo) = {
    .is = &LK_IS(dpo),
    .check = check,
    .state = state,
    SCALARWISE_MEMBERS(options, prepare),
};
