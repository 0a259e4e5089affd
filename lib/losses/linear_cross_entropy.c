/* SPDX-License-Identifier: MIT
 *
 * Cross entropy of a linear head: of hidden states and the weight that makes them logits.
 */
#include "rows/head.h"
#include "rows/shard.h"

enum { HIDDEN = LOGITS, SAMPLE_WEIGHTS = OFFSETS + 1, WEIGHT, BIAS, NORM_WEIGHT, TOTAL_LSE };
enum { TARGET_LOGIT = WORD_PERPLEXITY + 1 };

typedef struct options {
    sequence_options sequence;
    head_options head;
    int64_t vocab_total, vocab_start;
} options;

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(classwise_options, "mean",
                       "none|sum|mean|sequence_sum|sequence_mean|mean_of_sequence_means|"
                       "mean_of_sequence_sums",
                       "over rows; with sequences: within each of them, or both"),
    LK_NUM_ITEMS_FIELD(classwise_options),
    LK_EMPTY_MEAN_FIELD(classwise_options),
    LK_NONFINITE_FIELD(classwise_options),
    LK_FIELD(
        sequence_options, shift, "0", LK_RANGED, 0, (double)INFINITY,
        "hidden [B,T,D]: position t is scored against targets at t + shift; 1: causal language "
        "model; what has no target so does not count"),
    TEXT_FIELDS(sequence_options),
    CLASS_FIELDS,
    HEAD_FIELDS(options),
    LK_FIELD(options, vocab_total, "off", LK_OFF | LK_RANGED | LK_HOLDS, 1, (double)INFINITY,
             "weight and bias are those of a part of so many classes, which targets and "
             "class_weight refer to: see the input lse"),
    LK_FIELD(options, vocab_start, "0", LK_RANGED, 0, (double)INFINITY,
             "with vocab_total: the first class of the part"),
    {0},
};

static const lk_input inputs[] = {
    [HIDDEN] = HEAD_HIDDEN("the last hidden states, one a row"),
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INDICES}},
                 .range = "[0,C)",
                 .help = "the class of each row; position t + shift is what position t predicts"},
    [MASK] = CLASSWISE_MASK("*"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [CLASS_WEIGHT] = CLASSWISE_CLASS_WEIGHT("V"),
    [LENGTHS] = {.name = "lengths",
                 .forms = {{"*-", LK_INTS}},
                 .flags = LK_OPTIONAL,
                 .range = "[0,*]",
                 .help = "hidden [B,T,D]: tokens of each sequence; what lies beyond is ignored"},
    [POSITION_WEIGHT] =
        {.name = "position_weight",
         .forms = {[EACH_POSITION] = {"*", LK_FLOATS}, [EACH_PLACE] = {"T", LK_FLOATS}},
         .flags = LK_OPTIONAL | LK_WEIGHTS,
         .range = ">=0",
         .help = "hidden [B,T,D]: weight of each predicted token; default ones"},
    [OFFSETS] = LK_OFFSETS_INPUT,
    [SAMPLE_WEIGHTS] = {.name = "sample_weight",
                        .forms = {{"*", LK_FLOATS}},
                        .flags = LK_OPTIONAL | LK_WEIGHTS,
                        .range = ">=0",
                        .help = "weight of each target; default ones"},
    [WEIGHT] = HEAD_WEIGHT,
    [BIAS] = HEAD_BIAS,
    [NORM_WEIGHT] = HEAD_NORM_WEIGHT,
    [TOTAL_LSE] = {.name = "lse",
                   .forms = {{"*", LK_FLOATS}},
                   .flags = LK_OPTIONAL,
                   .help = "with vocab_total: the logsumexp of the outputs lse of all parts. With "
                           "it loss, nll, z_loss, entropy, grad.hidden and grad.norm_weight are "
                           "the part's share, which add up to those of all classes; without it "
                           "there are lse and target_logit alone"},
    {0},
};

static const lk_output outputs[] = {
    CLASSWISE_DIAGNOSTICS("*"),
    TEXT_DIAGNOSTICS,
    [TARGET_LOGIT] = LK_OUTPUT("target_logit", "*", LK_ANY,
                               "scaled score of the target; 0 where it is of another part of the "
                               "classes, or ignored"),
    {0}};

static shard shard_of(const lk_job *job)
{
    const options *o = job->options;
    return (shard){.total = o->vocab_total,
                   .start = o->vocab_start,
                   .classes = job->in[WEIGHT].shape[0],
                   .combined = lk_has(job, TOTAL_LSE)};
}

/* Are the rows positions of sequences: hidden [B,T,D], or packed? */
static bool has_sequences(const lk_job *job)
{
    return job->lead_rank == 2 || lk_has(job, OFFSETS);
}

/* What needs sequences. */
static const char *needs_sequences(const lk_job *job)
{
    const sequence_options *o = job->options;
    return lk_has(job, LENGTHS)                   ? "lengths"
           : lk_has(job, POSITION_WEIGHT)         ? "position_weight"
           : o->shift > 0                         ? "shift"
           : o->common.reduce.reduction > LK_MEAN ? "a reduction by sequence"
                                                  : NULL;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const sequence_options *o = job->options;
    const char *needs = needs_sequences(job);
    lk_status status = text_check(job, &o->text, error);
    if (status != LK_OK || (status = head_check(job, error)) != LK_OK)
        return status;
    if ((status = sequence_check(job, error)) != LK_OK)
        return status;
    if (needs && !has_sequences(job))
        return lk_fail(job, error, LK_OPTION_CONFLICT, HIDDEN, -1,
                       "%s needs sequences: hidden of shape [B,T,D], or offsets", needs);
    if (lk_has(job, POSITION_WEIGHT) && job->form[POSITION_WEIGHT] == EACH_PLACE &&
        job->size['T' - 'A'] != job->lead[1])
        return lk_fail(job, error, LK_SHAPE_MISMATCH, POSITION_WEIGHT, -1,
                       "position_weight has %lld elements; it must have %lld, or [%lld,%lld]",
                       (long long)job->size['T' - 'A'], (long long)job->lead[1],
                       (long long)job->lead[0], (long long)job->lead[1]);
    if (lk_has(job, POSITION_WEIGHT) && lk_has(job, SAMPLE_WEIGHTS))
        return lk_fail(job, error, LK_OPTION_CONFLICT, SAMPLE_WEIGHTS, -1,
                       "sample_weight and position_weight exclude each other: both weigh targets");
    const shard s = shard_of(job);
    if ((status = shard_check(job, &s, CLASS_WEIGHT, TOTAL_LSE, error)) != LK_OK)
        return status;
    lk_job whole = *job;
    if (s.total > 0)
        whole.size['C' - 'A'] = s.total;
    return classwise_check(&whole, error);
}

/* Without the logsumexp of all parts, a part tells its own. */
static bool default_output(const lk_job *job, int output)
{
    const shard s = shard_of(job);
    return shard_asks(&s) ? output == LSE || output == TARGET_LOGIT : output < 0;
}

static bool default_gradient(const lk_job *job, int input)
{
    const shard s = shard_of(job);
    (void)input;
    return !shard_asks(&s);
}

/* Rows of any other shape are sequences of one. */
static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    if (!lk_has(job, OFFSETS)) {
        const bool sequences = has_sequences(job);
        job->size['B' - 'A'] = sequences ? job->lead[0] : job->rows;
        job->size['T' - 'A'] = sequences ? job->lead[1] : 1;
    }
    if (lk_has(job, SAMPLE_WEIGHTS)) {
        job->in[POSITION_WEIGHT] = job->in[SAMPLE_WEIGHTS];
        job->form[POSITION_WEIGHT] = EACH_POSITION;
    }
    if (o->vocab_total > 0)
        job->size['C' - 'A'] = o->vocab_total;
    const lk_status status = sequence_prepare(job, error);
    if (status == LK_OK)
        head_prepare(job);
    return status;
}

/* Rows. */

static class_plan plan_of(const lk_job *job)
{
    const classwise_options *o = job->options;
    class_plan p = class_plan_make(job, &o->row, job->size['C' - 'A']);
    p.weight = job->in[CLASS_WEIGHT].data;
    p.want_entropy = job->out[ENTROPY].data;
    p.want_argmax = job->out[PREDICTED].data || job->out[ACCURACY].data;
    classwise_factors(job, &p);
    return p;
}

static const head_options *head_options_of(const lk_job *job)
{
    const options *o = job->options;
    return &o->head;
}

static bool counts(const lk_job *job, int64_t i)
{
    return sequence_place(job, i) >= 0;
}

static int power(const lk_job *job)
{
    return plan_of(job).power;
}

/* What a row leaves for its slopes. */
typedef struct note {
    int64_t y;
    class_norm norm;
    class_slope slope;
} note;

static double *values(const lk_job *job)
{
    sequence_state *state = job->state;
    return by_sequence(job->options) ? state->part + 2 * job->rows : NULL;
}

static bool value(const lk_job *job, int64_t i, const real *x, const real *y, lk_block *block,
                  void *to)
{
    const class_plan p = plan_of(job);
    const shard part = shard_of(job);
    const class_target t = sequence_target(job, i);
    const double upstream = real_or_one(job, GRAD_OUTPUT, t.up);
    class_row row = {.x = x,
                     .y = t.y,
                     .rho = t.main * p.main * upstream,
                     .zeta = t.z * p.z * upstream,
                     .argmax = -1};
    double gap;
    note *n = to;
    (void)y;
    n->y = t.y;
    if (part.total > 0 && !part.combined) {
        const shard_logits own = shard_ask(&part, &p, &row);
        put_row(job, LSE, i, own.lse);
        put_row(job, TARGET_LOGIT, i, own.target);
        return false;
    }
    if (part.total > 0) {
        n->slope = shard_conclude(&part, &p, &row, real_or_one(job, TOTAL_LSE, i), &n->norm);
    } else {
        n->norm = class_normalise(&p, &row);
        n->slope = class_conclude(&p, &row, &n->norm);
        if (p.want_entropy)
            row.entropy = (real)class_entropy(&p, &row, &n->norm, &gap);
    }
    put_row(job, TARGET_LOGIT, i, row.y >= 0 ? (double)n->norm.at : 0);
    classwise_put(job, i, t.main, t.z, &row, values(job), block);
    return row.rho != 0 || row.zeta != 0;
}

static void ignore(const lk_job *job, int64_t i, lk_block *block)
{
    const class_row none = {.y = -1, .argmax = -1};
    put_row(job, TARGET_LOGIT, i, 0);
    classwise_put(job, i, 0, 0, &none, values(job), block);
}

/* The row's own formula, on some of its classes. */
static void slopes(const lk_job *job, int64_t i, const void *from, int64_t first, int64_t count,
                   real *x, const real *y)
{
    const note *n = from;
    const shard part = shard_of(job);
    class_plan p = plan_of(job);
    class_slope slope = n->slope;
    const class_row row = {.x = x, .y = n->y, .grad_x = x};
    (void)i;
    (void)y;
    first += part.total > 0 ? part.start : 0;
    p.classes = p.width = count;
    p.weight = p.weight ? p.weight + first : NULL;
    slope.y = n->y >= first && n->y < first + count ? n->y - first : -1;
    class_gradient(&p, &row, &n->norm, &slope);
}

static int64_t classes(const lk_job *job)
{
    const options *o = job->options;
    return o->vocab_total > 0 ? job->in[WEIGHT].shape[0] : classwise_classes(job);
}

static const head_loss driver = {
    .side = {HIDDEN, WEIGHT, BIAS, NORM_WEIGHT},
    .options = head_options_of,
    .state = sequence_state_size,
    .classes = classes,
    .counts = counts,
    .note = sizeof(note),
    .value = value,
    .ignore = ignore,
    .slopes = slopes,
    .power = power,
};

static const char *const shapes[] = {"*", "", "", "*-", "*-", "", ""};

LK_LOSS(linear_cross_entropy) = {
    .is =
        {
            .name = "linear_cross_entropy",
            .title = "Cross entropy of a linear head, from hidden states",
            .formula = "loss_i = cross_entropy(x_i, targets_i), x = hidden weight' + bias; with "
                       "norm_weight hidden is norm_weight * hidden / rms(hidden)",
            .help = "For heads with many classes, whose logits are much larger than the hidden "
                    "states: logits are made of a few rows at a time and never stored. "
                    "grad.weight, grad.bias and grad.norm_weight are computed if they are asked "
                    "for.",
            .reference = "PyTorch torch.nn.functional.linear_cross_entropy; Liger-Kernel fused "
                         "linear cross entropy; Wijmans et al. 2024 (Cut Your Losses)",
            .example = "{\"inputs\": {\"hidden\": [[1, -1], [0.5, 2]], \"targets\": [0, 2], "
                       "\"weight\": [[0.3, -0.2], [0.1, 0.4], [-0.5, 0.6]]}}",
            .loss_shape = "*",
            .loss_shapes = shapes,
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(options),
    .parts = 2,
    .driver = &driver,
    .row_cost = head_row_cost,
    .check = check,
    .default_gradient = default_gradient,
    .default_output = default_output,
    .state = head_state,
    .prepare = prepare,
    .scratch = head_scratch,
    .rows = head_rows,
    .whole_runs = true,
    .passes = {{WEIGHT, head_back_weight}, {BIAS, head_back_bias}, {NORM_WEIGHT, head_back_norm}},
    .finish = sequence_finish,
};
