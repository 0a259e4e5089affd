/* SPDX-License-Identifier: MIT
 *
 * Log-probabilities of given tokens by a linear head: the front end of the preference and policy
 * losses for hidden states.
 */
#include "rows/head.h"
#include "rows/logprobs.h"

enum { HIDDEN = LOGITS, WEIGHT = LOGPROBS_INPUTS, BIAS, NORM_WEIGHT, PACKED };
enum { LSES = LOGPROBS_OUTPUTS, PREDICTIONS };

typedef struct options {
    logprobs_options logprobs;
    head_options head;
} options;

static const lk_field fields[] = {
    LK_NONFINITE_FIELD(classwise_options),
    LK_FIELD(
        logprobs_options, shift, "0", LK_RANGED, 0, (double)INFINITY,
        "hidden [B,T,D]: position t is scored against targets at t + shift; 1: causal language "
        "model; what has no target so does not count"),
    CLASS_VOCAB_SIZE,
    CLASS_IGNORE_INDEX,
    CLASS_LOGIT_SCALE,
    CLASS_SOFTCAP,
    HEAD_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [HIDDEN] = HEAD_HIDDEN("the last hidden states, one a row"),
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INDICES}},
                 .range = "[0,C)",
                 .help = "tokens; position t + shift is what position t predicts"},
    [MASK] = CLASSWISE_MASK("*"),
    LOGPROBS_UPSTREAMS("*", "*-"),
    [WEIGHT] = HEAD_WEIGHT,
    [BIAS] = HEAD_BIAS,
    [NORM_WEIGHT] = HEAD_NORM_WEIGHT,
    [PACKED] = LK_OFFSETS_INPUT,
    {0},
};

static const lk_output outputs[] = {
    LOGPROBS_RESULTS("*", "*-"),
    [LSES] = LK_OUTPUT("lse", "*", LK_ANY, "logsumexp of the scaled scores; 0 where not counted"),
    [PREDICTIONS] =
        LK_OUTPUT("predicted", "*", LK_I64, "the class of the highest score; -1 where not counted"),
    {0},
};

/* Are the rows positions of sequences: hidden [B,T,D], or packed? */
static bool has_sequences(const lk_job *job)
{
    return job->lead_rank == 2 || lk_has(job, PACKED);
}

static bool default_output(const lk_job *job, int output)
{
    return output < 0 || output == LOGPROBS || (output == SEQUENCE_LOGPROBS && has_sequences(job));
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const logprobs_options *o = job->options;
    const uint32_t sequences = 1u << SEQUENCE_LOGPROBS | 1u << MEAN_LOGPROBS;
    const bool sized = job->size['D' - 'A'] > 0;
    const lk_status status = head_check(job, error);
    if (status != LK_OK)
        return status;
    if (sized && !has_sequences(job) && (job->out_wanted & sequences))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "sequence_logprobs and mean_logprobs need sequences: hidden of shape "
                       "[B,T,D], or offsets");
    if (!has_sequences(job) &&
        (o->shift > 0 || lk_has(job, GRAD_SEQUENCE) || lk_has(job, GRAD_MEAN)))
        return lk_fail(job, error, LK_OPTION_CONFLICT, HIDDEN, -1,
                       "%s needs sequences: hidden of shape [B,T,D], or offsets",
                       o->shift > 0                 ? "shift"
                       : lk_has(job, GRAD_SEQUENCE) ? "grad_sequence_logprobs"
                                                    : "grad_mean_logprobs");
    return classwise_check(job, error);
}

/* Rows of any other shape are sequences of one. */
static int64_t sequences_of(const lk_job *job)
{
    return lk_has(job, PACKED)   ? job->size['B' - 'A']
           : job->lead_rank == 2 ? job->lead[0]
                                 : job->rows;
}

static size_t state(const lk_job *job)
{
    return (size_t)(sequences_of(job) + job->rows) * sizeof(double);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    job->size['B' - 'A'] = sequences_of(job);
    job->size['T' - 'A'] = job->lead_rank == 2 ? job->lead[1] : 1;
    const lk_status status = logprobs_prepare(job, error);
    if (status == LK_OK)
        head_prepare(job);
    return status;
}

static class_plan plan_of(const lk_job *job)
{
    const logprobs_options *o = job->options;
    class_plan p = class_plan_make(job, &o->common.row, job->size['C' - 'A']);
    p.want_argmax = job->out[PREDICTIONS].data;
    return p;
}

static bool counts(const lk_job *job, int64_t i)
{
    return logprobs_place(job, i) >= 0;
}

static void put(const lk_job *job, int64_t i, double logprob, const class_row *row, lk_block *block)
{
    put_row(job, ENTROPIES, i, (double)row->entropy);
    put_row(job, LSES, i, (double)row->lse);
    put_row(job, PREDICTIONS, i, (double)row->argmax);
    logprobs_put(job, i, logprob, block);
}

static void ignore(const lk_job *job, int64_t i, lk_block *block)
{
    const class_row none = {.argmax = -1};
    put(job, i, 0, &none, block);
}

static bool value(const lk_job *job, int64_t i, const real *x, const real *y, lk_block *block,
                  void *to)
{
    const class_plan p = plan_of(job);
    const double up = logprobs_upstream(job, i), bend = logprobs_upstream_entropy(job, i);
    logprobs_row *n = to;
    class_row row = {.x = x, .y = lk_int(&job->in[TARGETS], logprobs_place(job, i)), .argmax = -1};
    (void)y;
    n->norm = class_normalise(&p, &row);
    const bool none = isnan(n->norm.sum);
    (void)class_conclude(&p, &row, &n->norm);
    if (bend != 0 || job->out[ENTROPIES].data)
        row.entropy = (real)class_entropy(&p, &row, &n->norm, &n->gap);
    if (none)
        row.entropy = (real)NAN;
    put(job, i, none ? (double)NAN : -class_nll(&n->norm), &row, block);
    return up != 0 || bend != 0;
}

static void slopes(const lk_job *job, int64_t i, const void *from, int64_t first, int64_t count,
                   real *x, const real *y)
{
    class_plan p = plan_of(job);
    const int64_t target = lk_int(&job->in[TARGETS], logprobs_place(job, i));
    const bool here = target >= first && target < first + count;
    const class_row row = {.x = x, .y = here ? target - first : -1, .grad_x = x};
    (void)y;
    p.classes = p.width = count;
    logprobs_gradient(job, &p, &row, from, i);
}

/* Upstream gradients are reals. */
static int power(const lk_job *job)
{
    (void)job;
    return 0;
}

static size_t note_size(const lk_job *job)
{
    (void)job;
    return sizeof(logprobs_row);
}

static const head_loss driver = {
    .side = {HIDDEN, WEIGHT, BIAS, NORM_WEIGHT},
    .options = offsetof(options, head),
    .state = state,
    .classes = classwise_classes,
    .counts = counts,
    .note = note_size,
    .value = value,
    .ignore = ignore,
    .slopes = slopes,
    .power = power,
};

LK_DESCRIBE(linear_token_logprobs,
            .title = "Log-probabilities of given tokens by a linear head, from hidden states",
            .formula = "logprobs_i = log softmax(z_i)_y, y = targets_i, z = logit_scale * softcap "
                       "* tanh(x / softcap), x = hidden weight' + bias; loss: their sum",
            .help = "token_logprobs of logits that are made of a few rows at a time and never "
                    "stored: with it every preference and policy loss has a fused head. Send "
                    "their gradients back as grad_logprobs and so on, or make both parts of a "
                    "composite.",
            .reference = "Liger-Kernel fused linear losses; verl linear cross entropy kernel",
            .example = "{\"inputs\": {\"hidden\": [[1, -1], [0.5, 2]], \"targets\": [0, 2], "
                       "\"weight\": [[0.3, -0.2], [0.1, 0.4], [-0.5, 0.6]]}}",
            .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(linear_token_logprobs) = {
    .is = &LK_IS(linear_token_logprobs),
    .options_size = sizeof(options),
    .parts = 1,
    .driver = &driver,
    .rows_shape = "*",
    .check = check,
    .default_gradient = logprobs_default_gradient,
    .default_output = default_output,
    .prepare = prepare,
    HEAD_MEMBERS(WEIGHT, BIAS, NORM_WEIGHT),
    .finish = logprobs_finish,
};
