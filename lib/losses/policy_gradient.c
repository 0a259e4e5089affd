/* SPDX-License-Identifier: MIT
 *
 * Policy gradient of sampled answers against their advantages: PPO's clipped ratio and its
 * variants, as GRPO, DAPO, Dr. GRPO, GSPO, CISPO and SAPO use them, with a penalty on the
 * divergence from a reference. A row is a sequence. The normaliser of its tokens follows from mask
 * and options.
 */
#include "rows/scalar.h"

enum { LOGPROBS, OLD, REF, ADVANTAGES, MASK, IS_WEIGHTS, ENTROPY, GRAD_OUTPUT };
enum { BY_SEQUENCE, BY_TOKEN };                            /* forms of ADVANTAGES */
enum { EACH_TOKEN, EACH_SEQUENCE };                        /* forms of IS_WEIGHTS */
enum { RATIO_MEAN, CLIP_FRACTION, KL };                    /* diagnostics */
enum { LOSS, BONUS, RATIOS, CLIPPED, KLS };                /* lk_block.sum */
enum { CLIP, CISPO, SAPO };                                /* objective */
enum { TOKEN, SEQUENCE };                                  /* level */
enum { TOKEN_MEAN, SEQUENCE_MEAN, MAX_LENGTH, NUM_ITEMS }; /* aggregation */
enum { SAME, ENTROPY_TOKEN_MEAN };                         /* entropy_aggregation */

typedef struct options {
    lk_reduce reduce;
    int objective, level, aggregation, entropy_aggregation;
    double eps_low, eps_high, delta, ratio_low, ratio_high, sapo_tau_pos, sapo_tau_neg, kl_weight,
        num_items, entropy_weight;
    int64_t max_length;
} options;

static const lk_field fields[] = {
    LK_WORDS(options, objective, "clip", "clip|cispo|sapo", "how the ratio is kept near 1"),
    LK_FIELD(options, eps_low, "0.2", LK_RANGED, 0, (double)INFINITY,
             "clip: the ratio counts from 1 - eps_low on"),
    LK_FIELD(options, eps_high, "0.2", LK_RANGED, 0, (double)INFINITY,
             "clip: the ratio counts up to 1 + eps_high"),
    LK_FIELD(options, delta, "off", LK_OFF | LK_RANGED | LK_OPEN, 1, (double)INFINITY,
             "clip: bound of the ratio where the advantage is negative; above 1 + eps_high"),
    LK_FIELD(options, ratio_low, "0", LK_RANGED, 0, (double)INFINITY,
             "cispo: lower bound of the ratio itself"),
    LK_FIELD(options, ratio_high, "5", LK_OFF | LK_RANGED, 0, (double)INFINITY,
             "cispo: upper bound of the ratio itself; not below ratio_low; off: none"),
    LK_WORDS(options, level, "token", "token|sequence",
             "a ratio for each token, or one for the sequence; sequence: clip only"),
    LK_FIELD(options, sapo_tau_pos, "1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "sapo: temperature where the advantage is positive"),
    LK_FIELD(options, sapo_tau_neg, "1.05", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "sapo: temperature elsewhere"),
    LK_FIELD(options, kl_weight, "0", LK_RANGED, 0, (double)INFINITY,
             "weight of the divergence from ref_logprobs"),
    LK_WORDS(options, aggregation, "token_mean", "token_mean|sequence_mean|max_length|num_items",
             "mean over tokens (BNPO); of the means of the sequences (GRPO); sum over B max_length "
             "(Dr. GRPO); sum over num_items (DAPO)"),
    LK_FIELD(options, max_length, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,
             "aggregation=max_length: tokens that a sequence can have"),
    LK_FIELD(options, num_items, "off", LK_OFF | LK_RANGED, 0, (double)INFINITY,
             "aggregation=num_items: tokens of the whole batch, of which this may be a part; 0: "
             "the empty mean"),
    LK_FIELD(
        options, entropy_weight, "0", 0, 0, 0,
        "weight of the entropy bonus: entropy_weight times the aggregated entropy is subtracted"),
    LK_WORDS(options, entropy_aggregation, "same", "same|token_mean",
             "how entropy is aggregated: as the rest, or as a mean over tokens"),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    {0},
};

static const lk_input inputs[] = {
    [LOGPROBS] = {.name = "logprobs",
                  .forms = {{"B T", LK_FLOATS}},
                  .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                  .help = "log-probability of each sampled token"},
    [OLD] = {.name = "old_logprobs",
             .forms = {{"B T", LK_FLOATS}},
             .flags = LK_OPTIONAL,
             .help = "the same when they were sampled; default logprobs, as a constant"},
    [REF] = {.name = "ref_logprobs",
             .forms = {{"B T", LK_FLOATS}},
             .flags = LK_OPTIONAL,
             .help = "the same under the reference model"},
    [ADVANTAGES] = {.name = "advantages",
                    .forms = {[BY_SEQUENCE] = {"B", LK_FLOATS}, [BY_TOKEN] = {"B T", LK_FLOATS}},
                    .help = "how much better than expected each sequence or token is"},
    [MASK] = {.name = "mask",
              .forms = {{"B T", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "tokens with 0 are ignored and not read; default all counted"},
    [IS_WEIGHTS] =
        {.name = "is_weights",
         .forms = {[EACH_TOKEN] = {"B T", LK_FLOATS}, [EACH_SEQUENCE] = {"B 1", LK_FLOATS}},
         .flags = LK_OPTIONAL | LK_WEIGHTS,
         .help = "importance weights, constants; [B,T] or [B,1]; default ones"},
    [ENTROPY] = {.name = "entropy",
                 .forms = {{"B T", LK_FLOATS}},
                 .flags = LK_OPTIONAL | LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                 .help = "entropy of the policy at each token, for entropy_weight"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    [RATIO_MEAN] = {.name = "ratio_mean",
                    .shape = "",
                    .dtype = LK_ANY,
                    .help = "mean ratio of the counted tokens"},
    [CLIP_FRACTION] = {.name = "clip_fraction",
                       .shape = "",
                       .dtype = LK_ANY,
                       .help = "share of the counted tokens whose ratio is clipped; 0 for sapo"},
    [KL] = {.name = "kl",
            .shape = "",
            .dtype = LK_ANY,
            .help = "mean divergence of the counted tokens from ref_logprobs"},
    {0},
};

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    if (!lk_has(job, REF) && o->kl_weight > 0)
        return lk_fail(job, error, LK_MISSING_INPUT, REF, -1,
                       "ref_logprobs is missing; kl_weight=%g needs it", o->kl_weight);
    if (!lk_has(job, ENTROPY) && o->entropy_weight != 0)
        return lk_fail(job, error, LK_MISSING_INPUT, ENTROPY, -1,
                       "entropy is missing; entropy_weight=%g needs it", o->entropy_weight);
    if (o->aggregation == MAX_LENGTH && !(o->max_length > 0))
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option max_length is missing; aggregation=max_length needs it");
    if (o->aggregation == NUM_ITEMS && isnan(o->num_items))
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option num_items is missing; aggregation=num_items needs it");
    if (!lk_has(job, REF) && (job->out_wanted & 1u << KL))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, REF, -1,
                       "there is no output \"kl\": ref_logprobs was not given");
    if (o->objective == CLIP && o->delta <= 1 + o->eps_high)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "delta is %g; with eps_high=%g it must be above %g", o->delta, o->eps_high,
                       1 + o->eps_high);
    if (o->objective == CISPO && o->ratio_low > o->ratio_high)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "ratio_low is %g; with ratio_high=%g it must be at most that", o->ratio_low,
                       o->ratio_high);
    if (o->objective == CISPO && (lk_given(job, "eps_low") || lk_given(job, "eps_high")))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "objective=cispo does not read eps_low and eps_high, which are distances "
                       "from 1; its bounds are ratio_low and ratio_high, of the ratio itself");
    if (o->objective != CLIP && o->level == SEQUENCE)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "level=sequence needs objective=clip");
    return LK_OK;
}

static bool counted(const lk_job *job, int64_t i)
{
    return !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const double sequences = (double)job->rows;
    const int64_t tokens = job->rows * job->size['T' - 'A'];
    (void)error;
    for (int64_t i = 0; i < tokens; i++)
        job->counted += counted(job, i);
    job->denominator[LOSS] = o->aggregation == TOKEN_MEAN      ? (double)job->counted
                             : o->aggregation == SEQUENCE_MEAN ? sequences
                             : o->aggregation == MAX_LENGTH    ? sequences * (double)o->max_length
                                                               : o->num_items;
    const bool apart = o->entropy_weight != 0 && o->entropy_aggregation == ENTROPY_TOKEN_MEAN;
    job->denominator[BONUS] = apart ? (double)job->counted : job->denominator[LOSS];
    return LK_OK;
}

/* l of one token, and its derivative by logprobs: with the ratio w, dl/dw * w. */
typedef struct surrogate {
    double value, slope;
    bool clipped;
} surrogate;

static surrogate clip(const options *o, double w, double a)
{
    const double low = 1 - o->eps_low, high = 1 + o->eps_high;
    const bool beyond = w > o->delta; /* false where delta is off, NaN */
    const bool below = w<low, above = w> high;
    const double plain = (beyond ? o->delta : w) * a;
    const double cut = (below ? low : above ? high : w) * a;
    const double plain_moves = beyond ? 0 : 1, cut_moves = below || above ? 0 : 1;
    const double moves = plain < cut   ? plain_moves
                         : cut < plain ? cut_moves
                                       : (plain_moves + cut_moves) / 2;
    surrogate s = {.value = -(plain < cut ? plain : cut)};
    s.slope = -scalar_times(a * moves, w);
    s.clipped = a > 0 ? above : a < 0 && (below || beyond);
    return s;
}

static surrogate cispo(const options *o, double w, double a, double logprob)
{
    const bool below = w<o->ratio_low, above = w> o->ratio_high; /* false where it is off, NaN */
    surrogate s = {.clipped = below || above};
    s.slope = -(below ? o->ratio_low : above ? o->ratio_high : w) * a;
    s.value = s.slope * logprob;
    return s;
}

static surrogate sapo(const options *o, double w, double a)
{
    const double tau = a > 0 ? o->sapo_tau_pos : o->sapo_tau_neg;
    const double near = scalar_sigmoid(tau * (w - 1)), far = scalar_sigmoid(-tau * (w - 1));
    return (surrogate){.value = -4 / tau * near * a, .slope = -scalar_times(4 * near * far * a, w)};
}

/* e^x - x - 1, never negative, of x = ref - logprob and grown = e^x - 1. */
static double divergence(double x, double grown)
{
    return isinf(grown) ? grown : grown - x;
}

static double logprob(const lk_job *job, int64_t i)
{
    return (double)r_load((const elem *)job->in[LOGPROBS].data + i);
}

static double log_ratio(const lk_job *job, int64_t i)
{
    const double x = logprob(job, i);
    return x - scalar_constant(job, OLD, i, x);
}

/* The entropy bonus of one sequence, which is subtracted. `share` is its factor before the
 * denominator if the entropy is aggregated as the rest is. */
static void bonus(const lk_job *job, int64_t b, double share, lk_block *block)
{
    const options *o = job->options;
    const int64_t length = job->size['T' - 'A'];
    const elem *entropy = job->in[ENTROPY].data;
    elem *grad = job->grad[ENTROPY].data;
    const double eta =
        o->entropy_aggregation == SAME ? share * o->entropy_weight : o->entropy_weight;
    const double rho = job->scale[BONUS] * scalar_constant(job, GRAD_OUTPUT, 0, 1);
    for (int64_t i = b * length; entropy && i < (b + 1) * length; i++) {
        const bool counts = counted(job, i);
        const double h = counts ? (double)r_load(entropy + i) : 0;
        if (o->reduce.nonfinite == LK_REFUSE_NONFINITE && scalar_nonfinite(h))
            lk_refuse(block, LK_NONFINITE_INPUT, ENTROPY, i, h);
        const double term = scalar_times(eta, h);
        block->sum[BONUS] -= term;
        if (grad)
            r_store(grad + i, (real)(counts ? scalar_times(rho, isnan(term) ? term : -eta) : 0));
    }
}

static void sequence(const lk_job *job, int64_t b, lk_block *block)
{
    const options *o = job->options;
    const int64_t length = job->size['T' - 'A'], first = b * length, end = first + length;
    elem *grad = job->grad[LOGPROBS].data;
    double tokens = 0, mean = 0, value = 0, slopes = 0;
    for (int64_t i = first; i < end; i++) {
        if (!counted(job, i))
            continue;
        tokens++;
        if (o->level == SEQUENCE)
            mean += log_ratio(job, i);
        if (o->reduce.nonfinite == LK_REFUSE_NONFINITE && scalar_nonfinite(logprob(job, i)))
            lk_refuse(block, LK_NONFINITE_INPUT, LOGPROBS, i, logprob(job, i));
    }
    if (tokens > 0)
        mean /= tokens;
    const double share = o->aggregation == SEQUENCE_MEAN && tokens > 0 ? 1 / tokens : 1;
    const double rho = share * job->scale[LOSS] * scalar_constant(job, GRAD_OUTPUT, 0, 1);

    for (int64_t i = first; i < end; i++) {
        double slope = 0;
        if (counted(job, i)) {
            const double x = logprob(job, i);
            const double w = lk_exp(o->level == SEQUENCE ? mean : log_ratio(job, i));
            const double a =
                scalar_constant(job, ADVANTAGES, job->form[ADVANTAGES] == BY_TOKEN ? i : b, 0);
            const double kappa =
                scalar_constant(job, IS_WEIGHTS, job->form[IS_WEIGHTS] == EACH_TOKEN ? i : b, 1);
            const surrogate s = o->objective == CLIP    ? clip(o, w, a)
                                : o->objective == CISPO ? cispo(o, w, a, x)
                                                        : sapo(o, w, a);
            const double away = scalar_constant(job, REF, i, x) - x;
            const bool apart = job->in[REF].data;
            const double grown = apart ? lk_expm1(away) : 0;
            const double kl = apart ? divergence(away, grown) : 0;
            const double term = kappa * s.value + scalar_times(o->kl_weight, kl);
            value += term;
            slopes += kappa * s.slope;
            slope = kappa * s.slope - scalar_times(o->kl_weight, grown);
            if (isnan(term))
                slope = (double)NAN;
            block->sum[RATIOS] += w;
            block->sum[CLIPPED] += s.clipped;
            block->sum[KLS] += kl;
        }
        if (grad && o->level == TOKEN)
            r_store(grad + i, (real)scalar_times(rho, slope));
    }
    block->sum[LOSS] += share * value;
    bonus(job, b, share, block);

    for (int64_t i = first; grad && o->level == SEQUENCE && i < end; i++) {
        double slope = 0;
        if (counted(job, i)) {
            const double x = logprob(job, i);
            const double away = scalar_constant(job, REF, i, x) - x;
            slope = slopes / tokens - scalar_times(o->kl_weight, lk_expm1(away));
            if (isnan(value))
                slope = (double)NAN;
        }
        r_store(grad + i, (real)scalar_times(rho, slope));
    }
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    (void)scratch;
    for (int64_t b = first; b < first + count; b++)
        sequence(job, b, block);
}

static void finish(const lk_job *job, const double *sum)
{
    const options *o = job->options;
    const double nothing = o->reduce.empty_mean == LK_EMPTY_NAN ? (double)NAN : 0;
    for (int k = RATIO_MEAN; k <= KL; k++)
        if (job->out[k].data)
            lk_put(&job->out[k], 0,
                   job->counted > 0 ? sum[RATIOS + k] / (double)job->counted : nothing);
}

LK_LOSS(policy_gradient) = {
    .is =
        {.name = "policy_gradient",
         .title = "Policy gradient with a clipped ratio (PPO, GRPO and kin)",
         .formula =
             "w = exp(logprobs - old_logprobs), level=sequence: of their mean; clip: l = "
             "-min(min(w, delta) A, clip(w, 1 - eps_low, 1 + eps_high) A); cispo: l = "
             "-clip(w, ratio_low, ratio_high) A logprobs, clip(..) constant; sapo: l = -4/tau "
             "sigmoid(tau (w - 1)) A; "
             "kl = exp(ref - logprobs) - (ref - logprobs) - 1; loss = sum over counted tokens "
             "of (is_weights l + kl_weight kl - entropy_weight entropy) over what aggregation says",
         .help = "Reinforces sampled tokens by the advantage of their sequence, without letting "
                 "the policy run away from the one that sampled them.",
         .reference = "Schulman et al. 2017; Shao et al. 2024; Yu et al. 2025 (DAPO); Liu et al. "
                      "2025 (Dr. GRPO); Zheng et al. 2025 (GSPO); TRL grpo_trainer.py",
         .example = "{\"inputs\": {\"logprobs\": [[-1.0, -0.5], [-0.3, -1.2]], "
                    "\"old_logprobs\": [[-1.2, -0.4], [-0.6, -1.0]], \"advantages\": [1.0, "
                    "-0.5]}}",
         .traits = LK_ROWWISE | LK_HELD,
         .inputs = inputs,
         .outputs = outputs,
         .options = fields},
    .options_size = sizeof(options),
    .parts = 2,
    .rows_shape = "B",
    .check = check,
    .prepare = prepare,
    .rows = rows,
    .finish = finish,
};
