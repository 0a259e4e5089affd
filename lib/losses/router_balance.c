/* SPDX-License-Identifier: MIT
 *
 * The load-balancing loss of a mixture of experts: the share of the tokens that each expert is
 * chosen for, times its mean score. The shares are constants, which prepare counts; then the loss
 * is a sum over tokens.
 */
#include "rows/numbers.h"

enum { ROUTER_LOGITS, MASK, EXPERT_INDEX, EXPERT_COUNTS, GRAD_OUTPUT };
enum { EACH_ROW, EACH_TOKEN };           /* forms of MASK: the second is repeated for each layer */
enum { SOFTMAX, SIGMOID, SQRTSOFTPLUS }; /* score */
enum { BATCH, SEQUENCE };                /* scope */
enum { OFF, SEPARATE, JOINT };           /* layers */

typedef struct options {
    lk_reduce reduce;
    int64_t top_k;
    int score, scope, layers;
    bool divide_by_k;
} options;

static const lk_field fields[] = {
    LK_FIELD(options, top_k, "2", LK_RANGED, 1, (double)INFINITY,
             "experts that a token is sent to; with expert_index as many as that has"),
    LK_WORDS(options, score, "softmax", "softmax|sigmoid|sqrtsoftplus",
             "what the scores are made of; the latter two are divided by their sum"),
    LK_WORDS(options, scope, "batch", "batch|sequence",
             "balance over all tokens, or in each sequence of [B,T,E]"),
    LK_WORDS(options, layers, "off", "off|separate|joint",
             "the first axis is layers: the mean of their losses, or one loss of all their tokens"),
    LK_FIELD(options, divide_by_k, "true", 0, 0, 0,
             "perfect balance gives 1; false: top_k, as Hugging Face's function"),
    {.name = "num_items",
     .type = LK_REAL,
     .flags = LK_OFF | LK_RANGED,
     .min = 0,
     .max = (double)INFINITY,
     .offset = offsetof(options, reduce.num_items),
     .fallback = "off",
     .help = "tokens that expert_counts were counted over; required there. The losses of "
             "micro-batches then add up; 0: the empty mean"},
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    {0},
};

static const lk_input inputs[] = {
    [ROUTER_LOGITS] = {.name = "router_logits",
                       .forms = {{"* E", LK_FLOATS}},
                       .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                       .help =
                           "scores of the experts for each token: [N,E], [B,T,E], or with layers "
                           "one more axis before these"},
    [MASK] = {.name = "mask",
              .forms = {[EACH_ROW] = {"*", LK_MASKS}, [EACH_TOKEN] = {"~ *", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "tokens with 0 are ignored and not read; the same for all layers, whose axis "
                      "it has not; default all counted"},
    [EXPERT_INDEX] = {.name = "expert_index",
                      .forms = {{"* K", LK_INTS}},
                      .flags = LK_OPTIONAL,
                      .range = "[0,E)",
                      .help = "the experts that each token was sent to; default those of the top_k "
                              "highest logits"},
    [EXPERT_COUNTS] = {.name = "expert_counts",
                       .forms = {{"E", LK_FLOATS}},
                       .flags = LK_OPTIONAL,
                       .range = ">=0, finite",
                       .help = "how many tokens of the whole batch, of which this may be a part, "
                               "were sent to each expert; with num_items"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

/* Where tokens are: `groups` are balanced each by itself. */
typedef struct places {
    int64_t layers, tokens, experts; /* tokens of a layer */
    int64_t length;                  /* tokens of a sequence, or of the layer with scope=batch */
    int64_t groups;
} places;

static places places_of(const lk_job *job)
{
    const options *o = job->options;
    places p = {.layers = o->layers == OFF || job->lead_rank == 0 ? 1 : job->lead[0],
                .experts = job->size['E' - 'A']};
    p.tokens = p.layers > 0 ? job->rows / p.layers : 0;
    p.length =
        o->scope == SEQUENCE && job->lead_rank > 0 ? job->lead[job->lead_rank - 1] : p.tokens;
    p.groups = p.length > 0 ? p.tokens / p.length * (o->layers == SEPARATE ? p.layers : 1) : 0;
    return p;
}

static int64_t group_of(const lk_job *job, const places *p, int64_t i)
{
    const options *o = job->options;
    if (p->tokens <= 0 || p->length <= 0)
        return 0; /* there is no row to ask for */
    const int64_t layer = o->layers == SEPARATE ? i / p->tokens : 0;
    return (layer * p->tokens + i % p->tokens) / p->length;
}

static int64_t chosen_per_token(const lk_job *job)
{
    const options *o = job->options;
    return lk_has(job, EXPERT_INDEX) ? job->size['K' - 'A'] : o->top_k;
}

static bool counts(const lk_job *job, int64_t i)
{
    const lk_tensor *mask = &job->in[MASK];
    return !mask->data || lk_int(mask, i % lk_tensor_count(mask)) != 0;
}

static lk_status check_shapes(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int more = o->layers == OFF ? 0 : 1;
    if (o->scope == SEQUENCE ? job->lead_rank != 2 + more : job->lead_rank < more)
        return lk_fail(job, error, LK_RANK_MISMATCH, ROUTER_LOGITS, -1,
                       "router_logits has %d axes; with scope=%s%s it must be %s",
                       job->lead_rank + 1, o->scope == SEQUENCE ? "sequence" : "batch",
                       more ? " and layers" : "",
                       o->scope == BATCH ? "[L,N,E] or [L,B,T,E]"
                       : more            ? "[L,B,T,E]"
                                         : "[B,T,E]");
    const lk_tensor *mask = &job->in[MASK];
    const char *const without = more ? "the layers and the experts" : "the experts";
    if (lk_has(job, MASK) && mask->rank != job->lead_rank - more)
        return lk_fail(job, error, LK_RANK_MISMATCH, MASK, -1,
                       "mask has rank %d; it must have rank %d, as router_logits without %s",
                       mask->rank, job->lead_rank - more, without);
    for (int axis = 0; lk_has(job, MASK) && axis < mask->rank; axis++)
        if (mask->shape[axis] != job->lead[more + axis])
            return lk_fail(job, error, LK_SHAPE_MISMATCH, MASK, -1,
                           "axis %d of mask has %lld; it must have %lld, as router_logits without "
                           "%s",
                           axis, (long long)mask->shape[axis], (long long)job->lead[more + axis],
                           without);
    if (job->size['E' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, ROUTER_LOGITS, -1,
                       "router_logits has no experts; the last axis must have at least 1");
    if (lk_has(job, EXPERT_INDEX) && job->size['K' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, EXPERT_INDEX, -1,
                       "expert_index has no experts for a token; the last axis must have at least "
                       "1");
    return LK_OK;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t experts = job->size['E' - 'A'], chosen = job->size['K' - 'A'];
    if (lk_has(job, EXPERT_COUNTS) && isnan(o->reduce.num_items))
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option num_items is missing; expert_counts needs it");
    const lk_status status = job->in[ROUTER_LOGITS].rank > 0 ? check_shapes(job, error) : LK_OK;
    if (status != LK_OK)
        return status;
    if (!lk_has(job, EXPERT_INDEX) && experts > 0 && o->top_k > experts)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "top_k is %lld; with %lld experts it must be in [1, %lld]",
                       (long long)o->top_k, (long long)experts, (long long)experts);
    if (lk_has(job, EXPERT_INDEX) && lk_given(job, "top_k") && chosen > 0 && o->top_k != chosen)
        return lk_fail(job, error, LK_OPTION_CONFLICT, EXPERT_INDEX, -1,
                       "top_k is %lld, and expert_index has %lld experts for each token; leave "
                       "top_k out",
                       (long long)o->top_k, (long long)chosen);
    if (lk_has(job, EXPERT_COUNTS) && (o->layers != OFF || o->scope == SEQUENCE))
        return lk_fail(job, error, LK_OPTION_CONFLICT, EXPERT_COUNTS, -1,
                       "expert_counts is for one layer and scope=batch");
    if (!lk_has(job, EXPERT_COUNTS) && !isnan(o->reduce.num_items))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "num_items needs expert_counts: shares that are counted over this batch "
                       "alone do not add up");
    return LK_OK;
}

/* What prepare leaves to the rows: for each group its counted tokens, and f of each expert. After
 * the last group's there is room for `choose`. */

static double *tokens_of(const lk_job *job)
{
    return job->state;
}

static double *shares_of(const lk_job *job, const places *p, int64_t group)
{
    return tokens_of(job) + p->groups + group * p->experts;
}

static size_t state_size(const lk_job *job)
{
    const places p = places_of(job);
    const size_t room = (size_t)p.groups * (1 + (size_t)p.experts) + 2 * (size_t)p.experts;
    return job->rows > 0 ? room * sizeof(double) : 0;
}

/* Add 1 for each of the k highest logits of token i; among equals the lowest index. */
static void choose(const lk_job *job, int64_t i, int64_t k, double *share, double *room)
{
    const int64_t experts = job->size['E' - 'A'];
    double *x = room, *taken = room + experts;
    numbers_read(&job->in[ROUTER_LOGITS], i * experts, experts, x);
    memset(taken, 0, (size_t)experts * sizeof *taken);
    for (; k > 0; k--) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++)
            if (taken[e] == 0 && (best < 0 || x[e] > x[best] || (isnan(x[best]) && !isnan(x[e]))))
                best = e;
        taken[best] = 1;
        share[best]++;
    }
}

static lk_status count_given(const lk_job *job, int64_t i, int64_t k, double *share,
                             lk_error *error)
{
    const int64_t experts = job->size['E' - 'A'];
    char place[LK_PLACE_MAX];
    for (int64_t at = i * k; at < i * k + k; at++) {
        const int64_t e = lk_int(&job->in[EXPERT_INDEX], at);
        if (e < 0 || e >= experts)
            return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, EXPERT_INDEX, at,
                           "%s is %lld; with %lld experts it must be in [0, %lld]",
                           lk_place(job, EXPERT_INDEX, at, place), (long long)e, (long long)experts,
                           (long long)experts - 1);
        share[e]++;
    }
    return LK_OK;
}

/* The counts of a whole batch take the place of those of its group, the only one. */
static lk_status take_counts(const lk_job *job, const places *p, lk_error *error)
{
    char place[LK_PLACE_MAX];
    for (int64_t e = 0; job->in[EXPERT_COUNTS].data && e < p->experts; e++) {
        const double n = numbers_constant(job, EXPERT_COUNTS, e, 0);
        if (!(n >= 0 && isfinite(n)))
            return lk_fail(job, error, LK_VALUE_OUT_OF_RANGE, EXPERT_COUNTS, e,
                           "%s is %g; it must be at least 0, and finite",
                           lk_place(job, EXPERT_COUNTS, e, place), n);
        if (p->groups > 0)
            shares_of(job, p, 0)[e] = n;
    }
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const places p = places_of(job);
    const int64_t k = chosen_per_token(job);
    lk_status status = LK_OK;
    double *room = job->rows > 0 ? shares_of(job, &p, p.groups) : NULL, groups = 0;
    for (int64_t i = 0; i < job->rows && status == LK_OK; i++) {
        if (!counts(job, i))
            continue;
        const int64_t g = group_of(job, &p, i);
        job->counted++;
        groups += tokens_of(job)[g] == 0;
        tokens_of(job)[g]++;
        if (job->in[EXPERT_INDEX].data)
            status = count_given(job, i, k, shares_of(job, &p, g), error);
        else if (!job->in[EXPERT_COUNTS].data)
            choose(job, i, k, shares_of(job, &p, g), room);
    }
    if (status != LK_OK || (status = take_counts(job, &p, error)) != LK_OK)
        return status;
    const double whole = o->reduce.num_items; /* NaN: this batch is */
    for (int64_t g = 0; job->rows > 0 && g < p.groups; g++)
        for (int64_t e = 0; e < p.experts; e++)
            shares_of(job, &p, g)[e] /= (double)k * (isnan(whole) ? tokens_of(job)[g] : whole);
    job->denominator[0] = isnan(whole) ? groups : whole;
    return LK_OK;
}

/* log(log(1 + e^x)), which is x where that is small. */
static double log_softplus(double x)
{
    return x < -40 ? x : lk_log(lk_softplus(x));
}

/* A score is the exponential of this, over the sum of these; and the derivative of this by x. */
static double log_score(const options *o, double x, double *slope)
{
    switch (o->score) {
    case SIGMOID:
        *slope = scalar_sigmoid(-x);
        return -lk_softplus(-x);
    case SQRTSOFTPLUS:
        *slope = x < -40 ? 0.5 : scalar_sigmoid(x) / (2 * lk_softplus(x));
        return log_softplus(x) / 2;
    default:
        *slope = 1;
        return x;
    }
}

static void row(const lk_job *job, numbers *r)
{
    const options *o = job->options;
    const places p = places_of(job);
    const int64_t g = group_of(job, &p, r->i), E = r->n;
    const double *f = shares_of(job, &p, g), k = (double)chosen_per_token(job);
    /* num_items is the denominator: job->scale divides by it. f is over k already. */
    const double tokens = isnan(o->reduce.num_items) ? tokens_of(job)[g] : 1;
    const double factor = (double)E / tokens * (o->divide_by_k ? 1 : k);
    double *s = r->spare, mean = 0;
    for (int64_t e = 0; e < E; e++)
        s[e] = log_score(o, r->x[e], &r->slope[e]);
    numbers_softmax(s, E, s);
    for (int64_t e = 0; e < E; e++)
        mean += f[e] * s[e];
    for (int64_t e = 0; e < E; e++)
        r->slope[e] *= factor * s[e] * (f[e] - mean);
    r->value = numbers_hopeless(r->x, E) ? (double)NAN : factor * mean;
}

static const numbers_loss is = {
    .row = row, .counts = counts, .grad_output = GRAD_OUTPUT, .spare = 1};

NUMBERS_KERNELS(is)

/* Beside what a row costs: choosing the experts. */
static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    return job->size['E' - 'A'] * (16 + (lk_has(job, EXPERT_INDEX) ? 0 : chosen_per_token(job)));
}

static const char tex[] =
    "\\begin{aligned} L &= E \\sum_e f_e P_e,\\qquad f_e = \\frac{1}{k n} \\sum_t \\#[e \\text{ "
    "chosen at } t],\\qquad P_e = \\frac{1}{n} \\sum_t s_{te} \\\\ s_t &= "
    "\\operatorname{softmax}(x_t) \\text{ or } \\frac{r_t}{\\sum_e r_{te}},\\quad r = \\sigma(x) "
    "\\text{ or } \\sqrt{\\log(1 + e^x)} \\end{aligned}";

LK_DESCRIBE(
    router_balance, .tex = tex, .title = "Load balancing of a mixture of experts",
    .formula = "E sum_e f_e P_e; f_e: tokens sent to expert e / (top_k tokens), a constant; "
               "P_e: mean over tokens of s_e; s = softmax(x), or r/sum r with r = sigmoid(x) "
               "or sqrt(softplus(x))",
    .help = "Added with a small weight, it keeps a router from sending most tokens to a few "
            "experts. Perfect balance gives 1. Over micro-batches: expert_counts of the "
            "whole batch and num_items.",
    .reference = "Fedus et al. 2022; Megatron-LM moe_utils.py; transformers "
                 "modeling_mixtral.py load_balancing_loss_func (divide_by_k=false, "
                 "layers=joint)",
    .example = "{\"inputs\": {\"router_logits\": [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]}, "
               "\"options\": {\"top_k\": 2}}",
    .traits = LK_NONNEGATIVE | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(router_balance) = {
    .is = &LK_IS(router_balance),
    .rows_shape = "*",
    .row_cost = row_cost,
    .check = check,
    .state = state_size,
    NUMBERS_MEMBERS(options, prepare),
};
