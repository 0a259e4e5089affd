/* SPDX-License-Identifier: MIT
 *
 * Policy gradient of sampled answers against their advantages: PPO's clipped ratio and its
 * relatives, as GRPO, DAPO, Dr. GRPO, GSPO, CISPO, SAPO, REINFORCE and others use them, with a
 * correction for tokens that another policy sampled and a penalty on the divergence from a
 * reference. A row is a sequence. The normaliser of its tokens follows from mask and options.
 */
#include "rows/policy.h"

enum { LOGPROBS, OLD, REF, ADVANTAGES, MASK, IS_WEIGHTS, ENTROPY, SAMPLING, OFFSETS, GRAD_OUTPUT };
enum { BY_TOKEN, BY_SEQUENCE };                             /* forms of ADVANTAGES */
enum { EACH_TOKEN, EACH_SEQUENCE };                         /* forms of IS_WEIGHTS */
enum { RATIO_MEAN, CLIP_FRACTION, KL, IS_MEAN, IS_MASKED }; /* diagnostics */
enum { LOSS, BONUS, RATIOS };         /* lk_block.sum; the diagnostics follow */
enum { TOKEN, SEQUENCE, GSPO_TOKEN }; /* level */
enum { TOKEN_MEAN, SEQUENCE_MEAN, MAX_LENGTH, NUM_ITEMS }; /* aggregation */
enum { SAME, ENTROPY_TOKEN_MEAN };                         /* entropy_aggregation */
enum { IS_OFF, TRUNCATE, IS_MASK, MASK_ONLY };             /* is_mode */
enum { IS_TOKEN, IS_SEQUENCE, IS_GEOMETRIC };              /* is_level */

#define ABOVE(name_, fallback_, help_)                                                             \
    LK_FIELD(policy_options, name_, fallback_, LK_RANGED | LK_OPEN, 0, (double)INFINITY, help_)
#define NOT_BELOW(name_, fallback_, help_)                                                         \
    LK_FIELD(policy_options, name_, fallback_, LK_RANGED, 0, (double)INFINITY, help_)
#define OFF_OR_ABOVE(name_, help_)                                                                 \
    LK_FIELD(policy_options, name_, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY, help_)

static const lk_field fields[] = {
    LK_WORDS(policy_options, objective, "clip",
             "clip|cispo|sapo|importance|reinforce|dro|dppo_tv|dppo_kl|gmpo|vespo",
             "what is made of the ratio and the advantage, and how the ratio is kept near 1"),
    NOT_BELOW(eps_low, "0.2",
              "clip: the ratio counts from 1 - eps_low on; gmpo: its logarithm from -eps_low, 0.4 "
              "if it is not set"),
    NOT_BELOW(eps_high, "0.2",
              "clip: the ratio counts up to 1 + eps_high; gmpo: its logarithm up to eps_high, 0.4 "
              "if it is not set"),
    LK_FIELD(policy_options, delta, "off", LK_OFF | LK_RANGED | LK_OPEN, 1, (double)INFINITY,
             "clip: bound of the ratio where the advantage is negative (dual clip); above 1 + "
             "eps_high"),
    NOT_BELOW(ratio_low, "0", "cispo: lower bound of the ratio itself"),
    LK_FIELD(policy_options, ratio_high, "5", LK_OFF | LK_RANGED, 0, (double)INFINITY,
             "cispo: upper bound of the ratio itself; not below ratio_low; off: none"),
    ABOVE(sapo_tau_pos, "1", "sapo: temperature where the advantage is positive"),
    ABOVE(sapo_tau_neg, "1.05", "sapo: temperature elsewhere"),
    OFF_OR_ABOVE(dro_beta, "dro: weight of the squared log-ratio; required there"),
    NOT_BELOW(delta_low, "0.2",
              "dppo: how far a probability may fall where the advantage is not positive; dppo_kl: "
              "0.05 if it is not set"),
    NOT_BELOW(delta_high, "0.2",
              "dppo: how far it may rise where it is positive; dppo_kl: 0.05 if it is not set"),
    OFF_OR_ABOVE(ratio_max, "dppo: upper bound of the ratio, which is a constant above it"),
    ABOVE(vespo_k_pos, "2", "vespo: power of the ratio where the advantage is not negative"),
    ABOVE(vespo_lambda_pos, "3", "vespo: decay by the ratio there"),
    ABOVE(vespo_k_neg, "3", "vespo: power of the ratio where the advantage is negative"),
    ABOVE(vespo_lambda_neg, "2", "vespo: decay by the ratio there"),
    LK_WORDS(policy_options, level, "token", "token|sequence|gspo_token",
             "a ratio for each token, or one for the sequence (clip, sapo), whose gradient reaches "
             "all tokens, or through gspo_token (clip) each by its own advantage"),
    LK_WORDS(policy_options, is_mode, "off", "off|truncate|mask|mask_only",
             "correct for sampling_logprobs by the ratio of old_logprobs to them: cut off at the "
             "bounds, or 0 outside of them; mask_only: the token's own ratio, 0 where the one of "
             "is_level is outside"),
    LK_WORDS(policy_options, is_level, "token", "token|sequence|geometric",
             "is_mode: the ratio of the token, of the sequence, or its geometric mean"),
    NOT_BELOW(is_low, "0", "is_mode: lower bound of that ratio"),
    OFF_OR_ABOVE(is_high, "is_mode: upper bound of that ratio; above is_low; off: none"),
    OFF_OR_ABOVE(off_policy_mask,
                 "tokens with a negative advantage are dropped where the mean of the sampler's "
                 "log-probabilities less the present ones exceeds it"),
    NOT_BELOW(kl_weight, "0", "weight of the divergence from ref_logprobs"),
    LK_WORDS(policy_options, kl_estimator, "k3", "k3|k1|k2|abs",
             "of d = logprobs - ref_logprobs: e^-d - 1 + d; d; d^2/2; |d|"),
    LK_WORDS(policy_options, kl_gradient, "direct", "direct|k2|ratio",
             "that of the estimator; d; or that of the estimator times the ratio (unbiased)"),
    LK_WORDS(policy_options, aggregation, "token_mean",
             "token_mean|sequence_mean|max_length|num_items",
             "mean over tokens (BNPO); of the means of the sequences (GRPO; gmpo, if it is not "
             "set); sum over B max_length (Dr. GRPO); sum over num_items (DAPO)"),
    LK_FIELD(policy_options, max_length, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,
             "aggregation=max_length: tokens that a sequence can have"),
    LK_FIELD(policy_options, num_items, "off", LK_OFF | LK_RANGED, 0, (double)INFINITY,
             "aggregation=num_items: tokens of the whole batch, of which this may be a part; "
             "sequence_mean, max_length: its sequences; 0: the empty mean"),
    LK_FIELD(policy_options, count_empty, "true", 0, 0, 0,
             "sequence_mean, max_length: sequences that are masked as a whole count in B"),
    LK_FIELD(
        policy_options, entropy_weight, "0", 0, 0, 0,
        "weight of the entropy bonus: entropy_weight times the aggregated entropy is subtracted"),
    LK_WORDS(policy_options, entropy_aggregation, "same", "same|token_mean",
             "how entropy is aggregated: as the rest, or as a mean over tokens"),
    LK_EMPTY_MEAN_FIELD(policy_options),
    LK_NONFINITE_FIELD(policy_options),
    {0},
};

#define TOKENS(name_, flags_, range_, help_)                                                       \
    {                                                                                              \
        .name = (name_), .forms = {{"B T", LK_FLOATS}}, .flags = (flags_), .range = (range_),      \
        .help = (help_)                                                                            \
    }

static const lk_input inputs[] = {
    [LOGPROBS] = TOKENS("logprobs", LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL, "<=0",
                        "log-probability of each sampled token"),
    [OLD] = TOKENS("old_logprobs", LK_OPTIONAL, "<=0",
                   "the same before this step's updates; default logprobs, as a constant; not read "
                   "by reinforce"),
    [REF] = TOKENS("ref_logprobs", LK_OPTIONAL, "<=0", "the same under the reference model"),
    [ADVANTAGES] = {.name = "advantages",
                    .forms = {[BY_TOKEN] = {"B T", LK_FLOATS}, [BY_SEQUENCE] = {"B", LK_FLOATS}},
                    .help = "how much better than expected each sequence or token is"},
    [MASK] = {.name = "mask",
              .forms = {{"B T", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "tokens with 0 are ignored and not read; default all counted"},
    [IS_WEIGHTS] =
        {.name = "is_weights",
         .forms = {[EACH_TOKEN] = {"B T", LK_FLOATS}, [EACH_SEQUENCE] = {"B 1", LK_FLOATS}},
         .flags = LK_OPTIONAL | LK_WEIGHTS,
         .range = "finite",
         .help = "importance weights, constants; [B,T] or [B,1]; default ones"},
    [ENTROPY] = TOKENS("entropy", LK_OPTIONAL | LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                       NULL, "entropy of the policy at each token, for entropy_weight"),
    [SAMPLING] = TOKENS("sampling_logprobs", LK_OPTIONAL, "<=0",
                        "log-probabilities by the engine that drew the tokens, for is_mode and "
                        "off_policy_mask"),
    [OFFSETS] = LK_OFFSETS_INPUT,
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

#define SCALAR(name_, help_) LK_OUTPUT(name_, "", LK_ANY, help_)

static const lk_output outputs[] = {
    [RATIO_MEAN] = SCALAR("ratio_mean", "mean ratio of the counted tokens"),
    [CLIP_FRACTION] =
        SCALAR("clip_fraction", "share of the counted tokens whose ratio is clipped: clip, cispo, "
                                "dppo and gmpo; 0 for the others"),
    [KL] = SCALAR("kl", "mean of kl_estimator over the counted tokens"),
    [IS_MEAN] = SCALAR("is_mean", "mean correction by is_mode over the counted tokens"),
    [IS_MASKED] = SCALAR("is_masked", "share of the counted tokens whose correction is 0"),
    {0},
};

static int aggregation_of(const lk_job *job)
{
    const policy_options *o = job->options;
    return o->objective == GMPO && !lk_given(job, "aggregation") ? SEQUENCE_MEAN : o->aggregation;
}

/* The options, with the defaults of the objective. */
static policy_options options_of(const lk_job *job)
{
    const policy_options *given = job->options;
    policy_options o = *given;
    o.aggregation = aggregation_of(job);
    if (o.objective == GMPO) {
        o.eps_low = lk_given(job, "eps_low") ? o.eps_low : 0.4;
        o.eps_high = lk_given(job, "eps_high") ? o.eps_high : 0.4;
    }
    if (o.objective == DPPO_KL) {
        o.delta_low = lk_given(job, "delta_low") ? o.delta_low : 0.05;
        o.delta_high = lk_given(job, "delta_high") ? o.delta_high : 0.05;
    }
    return o;
}

static lk_status check_missing(const lk_job *job, lk_error *error)
{
    const policy_options *o = job->options;
    const int aggregation = aggregation_of(job);
    if (!lk_has(job, REF) && o->kl_weight > 0)
        return lk_fail(job, error, LK_MISSING_INPUT, REF, -1,
                       "ref_logprobs is missing; kl_weight=%g needs it", o->kl_weight);
    if (!lk_has(job, ENTROPY) && o->entropy_weight != 0)
        return lk_fail(job, error, LK_MISSING_INPUT, ENTROPY, -1,
                       "entropy is missing; entropy_weight=%g needs it", o->entropy_weight);
    if (!lk_has(job, SAMPLING) && o->is_mode != IS_OFF)
        return lk_fail(job, error, LK_MISSING_INPUT, SAMPLING, -1,
                       "sampling_logprobs is missing; an is_mode other than off needs it");
    if (aggregation == MAX_LENGTH && o->max_length == LK_OFF_INTEGER)
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option max_length is missing; aggregation=max_length needs it");
    if (aggregation == NUM_ITEMS && isnan(o->num_items))
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option num_items is missing; aggregation=num_items needs it");
    if (o->objective == DRO && isnan(o->dro_beta))
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option dro_beta is missing; objective=dro needs it");
    if (!lk_has(job, REF) && (job->out_wanted & 1u << KL))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, REF, -1,
                       "there is no output \"kl\": ref_logprobs was not given");
    return LK_OK;
}

static lk_status check_shapes(const lk_job *job, lk_error *error)
{
    const policy_options *o = job->options;
    if (lk_has(job, OFFSETS) && lk_has(job, IS_WEIGHTS) && job->form[IS_WEIGHTS] == EACH_SEQUENCE)
        return lk_fail(job, error, LK_RANK_MISMATCH, IS_WEIGHTS, -1,
                       "is_weights has a weight for each sequence; with offsets it must have one "
                       "for each of the %lld positions",
                       (long long)job->size['P' - 'A']);
    if (o->objective == GMPO && job->form[ADVANTAGES] == BY_TOKEN)
        return lk_fail(job, error, LK_RANK_MISMATCH, ADVANTAGES, -1,
                       "advantages has one for each token; objective=gmpo needs one for each "
                       "sequence");
    return LK_OK;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const policy_options *o = job->options;
    lk_status status = check_missing(job, error);
    if (status != LK_OK || (status = check_shapes(job, error)) != LK_OK)
        return status;
    if (o->objective == CLIP && o->delta <= 1 + o->eps_high)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "delta is %g; with eps_high=%g it must be above %g", o->delta, o->eps_high,
                       1 + o->eps_high);
    if (o->objective == CISPO && o->ratio_low > o->ratio_high)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "ratio_low is %g; with ratio_high=%g it must be at most that", o->ratio_low,
                       o->ratio_high);
    if (o->is_high <= o->is_low)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "is_high is %g; with is_low=%g it must be above that", o->is_high,
                       o->is_low);
    if (o->objective == CISPO && (lk_given(job, "eps_low") || lk_given(job, "eps_high")))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "objective=cispo does not read eps_low and eps_high, which are distances "
                       "from 1; its bounds are ratio_low and ratio_high, of the ratio itself");
    if (o->level == SEQUENCE && o->objective != CLIP && o->objective != SAPO)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "level=sequence needs objective=clip or sapo");
    if (o->level == GSPO_TOKEN && o->objective != CLIP)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "level=gspo_token needs objective=clip");
    if (aggregation_of(job) == TOKEN_MEAN && !isnan(o->num_items))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "num_items has no meaning with aggregation=token_mean; with num_items it "
                       "counts tokens, with sequence_mean and max_length sequences");
    return LK_OK;
}

LK_INLINE bool counted(const lk_job *job, int64_t i)
{
    return !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
}

static int64_t count_tokens(const lk_job *job, int64_t first, int64_t end)
{
    int64_t tokens = 0;
    if (!job->in[MASK].data)
        return end - first;
    for (int64_t i = first; i < end; i++)
        tokens += counted(job, i);
    return tokens;
}

LK_INLINE double logprob(const lk_job *job, int64_t i)
{
    return (double)r_load((const elem *)job->in[LOGPROBS].data + i);
}

/* What only some objectives do not accept: positive log-probabilities, and negative weights. */
static lk_status check_values(const lk_job *job, lk_error *error)
{
    const policy_options *o = job->options;
    const int64_t positions = lk_sequence(job, job->size['B' - 'A']);
    char place[LK_PLACE_MAX];
    for (int64_t i = 0; o->objective == VESPO && job->in[IS_WEIGHTS].data &&
                        i < lk_tensor_count(&job->in[IS_WEIGHTS]);
         i++)
        if (scalar_constant(job, IS_WEIGHTS, i, 1) < 0)
            return lk_fail(job, error, LK_WEIGHT_INVALID, IS_WEIGHTS, i,
                           "%s is %g; objective=vespo takes its logarithm, so it must be at least "
                           "0",
                           lk_place(job, IS_WEIGHTS, i, place),
                           scalar_constant(job, IS_WEIGHTS, i, 1));
    for (int input = LOGPROBS; o->objective == DPPO_KL && input <= OLD; input++)
        for (int64_t i = 0; job->in[input].data && i < positions; i++) {
            const double x = input == LOGPROBS ? logprob(job, i) : scalar_constant(job, OLD, i, 0);
            if (counted(job, i) && x > 0)
                return lk_fail(job, error, LK_VALUE_OUT_OF_RANGE, input, i,
                               "%s is %g; with objective=dppo_kl it must be at most 0",
                               lk_place(job, input, i, place), x);
        }
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const policy_options o = options_of(job);
    double sequences = 0;
    for (int64_t b = 0; b < job->rows; b++) {
        const int64_t tokens = count_tokens(job, lk_sequence(job, b), lk_sequence(job, b + 1));
        job->counted += tokens;
        sequences += tokens > 0 || o.count_empty;
    }
    if (!isnan(o.num_items))
        sequences = o.num_items;
    job->denominator[LOSS] = o.aggregation == TOKEN_MEAN      ? (double)job->counted
                             : o.aggregation == SEQUENCE_MEAN ? sequences
                             : o.aggregation == MAX_LENGTH    ? sequences * (double)o.max_length
                                                              : o.num_items;
    const bool apart = o.entropy_weight != 0 && o.entropy_aggregation == ENTROPY_TOKEN_MEAN;
    job->denominator[BONUS] = apart ? (double)job->counted : job->denominator[LOSS];
    return check_values(job, error);
}

/* A constant input at the tokens of one sequence: a number for each, or one for all of them. */
typedef struct series {
    const char *at;
    int64_t step; /* in bytes */
} series;

static series series_of(const lk_job *job, int input, bool each, int64_t b, const real *fallback)
{
    const char *at = job->in[input].data;
    const int64_t size = sizeof(real);
    return !at    ? (series){(const char *)fallback, 0}
           : each ? (series){at, size}
                  : (series){at + b * size, 0};
}

LK_INLINE double series_at(const series *s, int64_t i)
{
    real x;
    memcpy(&x, s->at + i * s->step, sizeof x);
    return (double)x;
}

/* One token: what is read of it once. */
typedef struct token {
    int64_t i;
    double now, old; /* logprobs and old_logprobs, which reinforce does not read */
    double log_ratio;
    double a; /* advantage */
} token;

/* One sequence: what its tokens share. */
typedef struct sequence {
    const lk_job *job;
    policy_options o;
    int64_t first, end;
    bool olds, weighed, refers; /* is there old_logprobs to read, a weight, ref_logprobs? */
    series old, advantage, weight, sampling, ref;
    double tokens;
    double ratio;                       /* e to the mean of the log-ratios */
    double correction, mean_correction; /* logs of is_mode's ratio: the sum, the mean */
    double omega;                       /* vespo: log of the sequence's weight */
    double gmpo;                        /* mean of the log-ratio within the bounds */
    double stale; /* mean of the sampler's log-probabilities less the present ones */
} sequence;

static sequence sequence_begin(const lk_job *job, int64_t b)
{
    static const real zero = 0, one = 1;
    sequence s = {.job = job, .o = options_of(job)};
    s.first = lk_sequence(job, b);
    s.end = lk_sequence(job, b + 1);
    s.tokens = (double)count_tokens(job, s.first, s.end);
    s.olds = s.o.objective != REINFORCE && job->in[OLD].data;
    s.weighed = s.o.is_mode != IS_OFF || job->in[IS_WEIGHTS].data;
    s.refers = job->in[REF].data;
    s.old = series_of(job, OLD, true, b, &zero);
    s.advantage = series_of(job, ADVANTAGES, job->form[ADVANTAGES] == BY_TOKEN, b, &zero);
    s.weight = series_of(job, IS_WEIGHTS, job->form[IS_WEIGHTS] == EACH_TOKEN, b, &one);
    s.sampling = series_of(job, SAMPLING, true, b, &zero);
    s.ref = series_of(job, REF, true, b, &zero);
    return s;
}

LK_INLINE token token_at(const sequence *s, int64_t i)
{
    const double now = logprob(s->job, i), old = s->olds ? series_at(&s->old, i) : now;
    return (token){
        .i = i, .now = now, .old = old, .log_ratio = now - old, .a = series_at(&s->advantage, i)};
}

/* log of the ratio to the policy that sampled the token. */
static double log_correction(const sequence *s, const token *t)
{
    return t->old - series_at(&s->sampling, t->i);
}

/* gmpo: the log-ratio, on the side to which the advantage drives it within the bound. */
static double reached(const policy_options *o, const token *t)
{
    return t->a > 0   ? policy_within(t->log_ratio, -(double)INFINITY, o->eps_high)
           : t->a < 0 ? policy_within(t->log_ratio, -o->eps_low, (double)INFINITY)
                      : 0;
}

/* What is_mode multiplies a token with. */
static double correction(const sequence *s, const token *t)
{
    const policy_options *o = &s->o;
    if (o->is_mode == IS_OFF)
        return 1;
    const double own = lk_exp(log_correction(s, t));
    const double r = o->is_level == IS_TOKEN      ? own
                     : o->is_level == IS_SEQUENCE ? lk_exp(s->correction)
                                                  : lk_exp(s->mean_correction);
    if (o->is_mode == TRUNCATE)
        return policy_within(r, o->is_low, o->is_high);
    return r < o->is_low || r > o->is_high ? 0 : o->is_mode == MASK_ONLY ? own : r;
}

/* The token's is_weights times that. */
LK_INLINE double weight(const sequence *s, const token *t, double is)
{
    return s->weighed ? scalar_times(series_at(&s->weight, t->i), is) : 1;
}

static void refuse_nonfinite(const sequence *s, lk_block *block)
{
    for (int64_t i = s->first; i < s->end; i++)
        if (counted(s->job, i) && scalar_nonfinite(logprob(s->job, i)))
            lk_refuse(block, LK_NONFINITE_INPUT, LOGPROBS, i, logprob(s->job, i));
}

/* What the objective, is_mode or off_policy_mask take of all tokens together. */
static void add_up(sequence *s)
{
    const policy_options *o = &s->o;
    const double n = s->tokens > 0 ? s->tokens : 1;
    double log_ratio = 0, within = 0, off = 0, stale = 0;
    for (int64_t i = s->first; i < s->end; i++) {
        if (!counted(s->job, i))
            continue;
        const token t = token_at(s, i);
        log_ratio += t.log_ratio;
        within += o->objective == GMPO ? reached(o, &t) : 0;
        off += o->is_mode != IS_OFF ? log_correction(s, &t) : 0;
        stale += (s->job->in[SAMPLING].data ? series_at(&s->sampling, i) : t.old) - t.now;
    }
    s->ratio = lk_exp(log_ratio / n);
    s->gmpo = within / n;
    s->correction = off;
    s->mean_correction = off / n;
    s->stale = stale / n;
}

static double omega_of(const sequence *s)
{
    static const double most = 20, least = -18.420680743952367; /* log 1e-8 */
    double omega = 0;
    for (int64_t i = s->first; i < s->end; i++)
        if (counted(s->job, i)) {
            const token t = token_at(s, i);
            omega += policy_within(t.log_ratio, -most, most) +
                     policy_within(lk_log(weight(s, &t, correction(s, &t))), least, most);
        }
    return policy_within(omega, least, most);
}

static sequence sequence_of(const lk_job *job, int64_t b, lk_block *block)
{
    sequence s = sequence_begin(job, b);
    const policy_options *o = &s.o;
    if (o->reduce.nonfinite == LK_REFUSE_NONFINITE)
        refuse_nonfinite(&s, block);
    if (o->level != TOKEN || o->objective == GMPO || o->is_mode != IS_OFF ||
        !isnan(o->off_policy_mask))
        add_up(&s);
    if (o->objective == VESPO)
        s.omega = omega_of(&s);
    return s;
}

static surrogate moved_by(const sequence *s, const token *t, double w)
{
    const policy_options *o = &s->o;
    const double a = t->a;
    switch (o->objective) {
    case CLIP:
        return policy_clip(o, w, a);
    case CISPO:
        return policy_cispo(o, w, a, t->now);
    case SAPO:
        return policy_sapo(o, w, a);
    case IMPORTANCE:
        return (surrogate){.value = -w * a, .slope = -w * a};
    case REINFORCE:
        return (surrogate){.value = -a * t->now, .slope = -a};
    case DRO:
        return policy_dro(o, t->log_ratio, a, t->now);
    case GMPO: {
        const double gain = -lk_exp(s->gmpo) * a;
        return (surrogate){
            .value = gain, .slope = gain, .clipped = a != 0 && t->log_ratio != reached(o, t)};
    }
    case VESPO: {
        const double slope = -policy_vespo(o, s->omega, a) * a;
        return (surrogate){.value = slope * t->now, .slope = slope};
    }
    default:
        return policy_dppo(o, t->old, a, t->now);
    }
}

/* Is there nothing to gain or to lose? Then the objective adds 0, whatever the token holds; dro
 * still holds it back. */
static bool idle(const policy_options *o, const token *t)
{
    return t->a == 0 && o->objective != DRO;
}

LK_INLINE surrogate surrogate_of(const sequence *s, const token *t, double w, const bool plain)
{
    surrogate own = plain ? policy_clip(&s->o, w, t->a) : moved_by(s, t, w);
    if (idle(&s->o, t))
        own.value = own.slope = 0;
    return own;
}

/* The entropy bonus of one sequence, which is subtracted. `share` is its factor before the
 * denominator if the entropy is aggregated as the rest is. */
static void bonus(const sequence *s, double share, lk_block *block)
{
    const lk_job *job = s->job;
    const policy_options *o = &s->o;
    const elem *entropy = job->in[ENTROPY].data;
    elem *grad = job->grad[ENTROPY].data;
    const double eta =
        o->entropy_aggregation == SAME ? share * o->entropy_weight : o->entropy_weight;
    const double rho = job->scale[BONUS] * scalar_constant(job, GRAD_OUTPUT, 0, 1);
    for (int64_t i = s->first; entropy && i < s->end; i++) {
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

/* Is it the clipped ratio of each token, without is_mode, off_policy_mask and diagnostics? */
static bool is_plain(const sequence *s)
{
    const policy_options *o = &s->o;
    return o->objective == CLIP && o->level == TOKEN && o->is_mode == IS_OFF &&
           isnan(o->off_policy_mask) && !s->job->out_wanted;
}

static void add_diagnostics(const surrogate *own, double w, double kl, double is, lk_block *block)
{
    const double diagnostics[] = {
        [RATIO_MEAN] = w, [CLIP_FRACTION] = own->clipped, [KL] = kl,
        [IS_MEAN] = is,   [IS_MASKED] = is == 0,
    };
    for (int k = RATIO_MEAN; k <= IS_MASKED; k++)
        block->sum[RATIOS + k] += diagnostics[k];
}

LK_INLINE penalty penalty_of(const sequence *s, const token *t)
{
    if (!s->refers)
        return (penalty){0};
    return policy_penalty(&s->o, t->now - series_at(&s->ref, t->i), t->log_ratio);
}

/* What a counted token adds to the sums. Returns its own slope; that of the objective, which may be
 * one for the whole sequence, is added to *shared as well. */
LK_INLINE double add_token(const sequence *s, int64_t i, const bool plain, lk_block *block,
                           double *value, double *shared)
{
    const policy_options *o = &s->o;
    const token t = token_at(s, i);
    const double w = plain || o->level == TOKEN ? lk_exp(t.log_ratio) : s->ratio;
    const double is = plain ? 1 : correction(s, &t);
    const double kappa = !plain && o->objective == VESPO ? 1 : weight(s, &t, is);
    const surrogate own = surrogate_of(s, &t, w, plain);
    const penalty kl = penalty_of(s, &t);
    const bool dropped = !plain && t.a < 0 && s->stale > o->off_policy_mask; /* NaN: off */
    const double factor = dropped || idle(o, &t) ? 0 : kappa;
    const double term = scalar_times(factor, own.value) + scalar_times(o->kl_weight, kl.value);
    const double slope = scalar_times(factor, own.slope);
    if (!plain && s->job->out_wanted)
        add_diagnostics(&own, w, kl.estimate, is, block);
    *value += term;
    *shared += slope;
    return isnan(term) ? term : slope + scalar_times(o->kl_weight, kl.slope);
}

/* The slope of a token of a sequence that has one ratio for all of its tokens. */
static double shared_slope(const sequence *s, int64_t i, double shared)
{
    const policy_options *o = &s->o;
    const token t = token_at(s, i);
    const penalty kl = penalty_of(s, &t);
    const bool moves = o->objective != GMPO || t.log_ratio == reached(o, &t);
    return (moves ? shared / s->tokens : 0) + scalar_times(o->kl_weight, kl.slope);
}

static void one_sequence(const lk_job *job, int64_t b, lk_block *block)
{
    const sequence s = sequence_of(job, b, block);
    const bool joint = s.o.level == SEQUENCE || s.o.objective == GMPO;
    const double share = s.o.aggregation == SEQUENCE_MEAN && s.tokens > 0 ? 1 / s.tokens : 1;
    const double rho = share * job->scale[LOSS] * scalar_constant(job, GRAD_OUTPUT, 0, 1);
    elem *grad = job->grad[LOGPROBS].data;
    const bool plain = is_plain(&s);
    double value = 0, shared = 0;
    for (int64_t i = s.first; i < s.end; i++) {
        const double slope = !counted(job, i) ? 0
                             : plain          ? add_token(&s, i, true, block, &value, &shared)
                                              : add_token(&s, i, false, block, &value, &shared);
        if (grad && !joint)
            r_store(grad + i, (real)scalar_times(rho, slope));
    }
    for (int64_t i = s.first; grad && joint && i < s.end; i++) {
        const double slope = !counted(job, i) ? 0
                             : isnan(value)   ? value
                                              : shared_slope(&s, i, shared);
        r_store(grad + i, (real)scalar_times(rho, slope));
    }
    block->sum[LOSS] += share * value;
    bonus(&s, share, block);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    (void)scratch;
    for (int64_t b = first; b < first + count; b++)
        one_sequence(job, b, block);
}

static void finish(const lk_job *job, const double *sum)
{
    const policy_options *o = job->options;
    const double nothing = o->reduce.empty_mean == LK_EMPTY_NAN ? (double)NAN : 0;
    for (int k = RATIO_MEAN; k <= IS_MASKED; k++)
        if (job->out[k].data)
            lk_put(&job->out[k], 0,
                   job->counted > 0 ? sum[RATIOS + k] / (double)job->counted : nothing);
}

static const char tex[] =
    "\\begin{aligned} w &= e^{\\text{logprobs} - \\text{old\\_logprobs}},\\quad d = "
    "\\text{ref\\_logprobs} - \\text{logprobs} \\\\ "
    "\\text{clip}: \\ell &= -\\min\\left(\\min(w, \\delta)\\,A,\\ \\operatorname{clip}(w,\\ 1 - "
    "\\varepsilon_l,\\ 1 + \\varepsilon_h)\\,A\\right) \\\\ "
    "\\text{cispo}: \\ell &= -\\operatorname{clip}(w,\\ \\text{ratio\\_low},\\ "
    "\\text{ratio\\_high})\\,A\\,\\text{logprobs} \\\\ "
    "\\text{sapo}: \\ell &= -\\frac{4}{\\tau}\\,\\sigma(\\tau\\,(w - 1))\\,A \\\\ "
    "\\text{kl} &= e^{d} - d - 1 \\\\ "
    "\\text{loss} &= \\frac{1}{N}\\sum_t \\left(\\text{is\\_weights}\\,\\ell + "
    "w_{\\text{kl}}\\,\\text{kl} - w_{\\text{entropy}}\\,\\text{entropy}\\right),\\quad N\\ "
    "\\text{by aggregation} \\end{aligned}";

LK_DESCRIBE(
    policy_gradient, .tex = tex,
    .title = "Policy gradient with a clipped ratio (PPO, GRPO and kin)",
    .formula =
        "w = exp(logprobs - old_logprobs), by level of the token or of the mean; clip: l = "
        "-min(min(w, delta) A, clip(w, 1 - eps_low, 1 + eps_high) A); cispo: -clip(w, "
        "ratio_low, ratio_high) A logprobs, clip(..) constant; sapo: -4/tau sigmoid(tau (w - "
        "1)) A; importance: -w A; reinforce: -A logprobs; dro: -A logprobs + dro_beta/2 log(w)"
        "^2; dppo: -min(w, ratio_max) A, 0 where the probability has moved beyond delta_low "
        "or "
        "delta_high; gmpo: -exp(mean of log w within [-eps_low, eps_high]) A; vespo: "
        "-exp(lambda + k omega - lambda exp(omega)) A logprobs, exp(..) constant, omega the "
        "sum of log w; loss = sum over counted tokens of (is_weights is_mode(old_logprobs - "
        "sampling_logprobs) l + kl_weight kl - entropy_weight entropy) over what aggregation "
        "says",
    .help = "Reinforces sampled tokens by the advantage of their sequence, without letting "
            "the policy run away from the one that sampled them. Sequences are rows of [B,T], "
            "or packed one after another with offsets.",
    .reference = "Schulman et al. 2017; Shao et al. 2024; Yu et al. 2025 (DAPO); Liu et al. "
                 "2025 (Dr. GRPO); Zheng et al. 2025 (GSPO); TRL grpo_trainer.py, gmpo_trainer.py; "
                 "verl core_algos.py, rollout_corr_helper.py; prime-rl; tinker",
    .example = "{\"inputs\": {\"logprobs\": [[-1.0, -0.5], [-0.3, -1.2]], "
               "\"old_logprobs\": [[-1.2, -0.4], [-0.6, -1.0]], \"advantages\": [1.0, "
               "-0.5]}}",
    .traits = LK_ROWWISE | LK_HELD, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(policy_gradient) = {
    .is = &LK_IS(policy_gradient),
    .options_size = sizeof(policy_options),
    .parts = 2,
    .rows_shape = "B",
    .check = check,
    .prepare = prepare,
    .rows = rows,
    .finish = finish,
};
