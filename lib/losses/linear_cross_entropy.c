/* SPDX-License-Identifier: MIT
 *
 * Cross entropy of a linear head: of hidden states and the weight that makes them logits.
 */
#include "rows/head.h"
#include "rows/listed.h"
#include "rows/shard.h"

enum {
    HIDDEN = LOGITS,
    SAMPLE_WEIGHTS = OFFSETS + 1,
    WEIGHT,
    BIAS,
    NORM_WEIGHT,
    TOTAL_LSE,
    TEACHER_IDS,
    TEACHER_LOGPROBS
};
enum { TARGET_LOGIT = WORD_PERPLEXITY + 1 };

typedef struct options {
    sequence_options sequence;
    head_options head;
    teacher_options teacher;
    listed_options listed;
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
    LISTED_TAIL(options),
    LISTED_FLOOR(options),
    TEACHER_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [HIDDEN] = HEAD_HIDDEN("the last hidden states, one a row"),
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INDICES}},
                 .flags = LK_OPTIONAL,
                 .range = "[0,C)",
                 .help = "the class of each row; position t + shift is what position t predicts. "
                         "With a teacher optional: they only tell which rows to ignore"},
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
         .range = "finite",
         .help = "hidden [B,T,D]: weight of each predicted token; default ones"},
    [OFFSETS] = LK_OFFSETS_INPUT,
    [SAMPLE_WEIGHTS] = {.name = "sample_weight",
                        .forms = {{"*", LK_FLOATS}},
                        .flags = LK_OPTIONAL | LK_WEIGHTS,
                        .range = "finite",
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
    [TEACHER_IDS] = LISTED_IDS(LK_OPTIONAL, "C",
                               "with teacher_logprobs: distinct classes, -1: absent. The loss is "
                               "topk_distillation against them, where targets would be"),
    [TEACHER_LOGPROBS] =
        LISTED_LOGPROBS(LK_OPTIONAL, "a teacher's log-probabilities of teacher_ids, which add up "
                                     "to at most 1; rows are those of targets"),
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

/* Are rows scored against a teacher, and not against targets? */
static bool has_teacher(const lk_job *job)
{
    return lk_has(job, TEACHER_IDS);
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

/* Faults are looked for in the order of lk_status_order: of names, of shapes, of options. */

static lk_status check_names(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const shard s = shard_of(job);
    const uint32_t of_teacher = 1u << LK_MAX_OUTPUTS | 1u << COUNT | 1u << DENOMINATOR;
    if (lk_has(job, TEACHER_IDS) != lk_has(job, TEACHER_LOGPROBS)) {
        const int missing = lk_has(job, TEACHER_IDS) ? TEACHER_LOGPROBS : TEACHER_IDS;
        return lk_fail(job, error, LK_MISSING_INPUT, missing, -1,
                       "%s is missing; a teacher has teacher_ids and teacher_logprobs",
                       inputs[missing].name);
    }
    if (!has_teacher(job) && !lk_has(job, TARGETS))
        return lk_fail(job, error, LK_MISSING_INPUT, TARGETS, -1,
                       "targets is missing; without teacher_ids and teacher_logprobs it is what "
                       "rows are scored against");
    if (has_teacher(job) && (job->out_wanted & ~of_teacher))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "with teacher_ids there are loss, gradients, count and denominator alone");
    const lk_status status = text_check(job, &o->sequence.text, error);
    return status == LK_OK ? shard_check_outputs(job, &s, error) : status;
}

static lk_status check_shapes(const lk_job *job, lk_error *error)
{
    const shard s = shard_of(job);
    const lk_status status = head_check(job, error);
    if (status != LK_OK)
        return status;
    if (lk_has(job, POSITION_WEIGHT) && job->form[POSITION_WEIGHT] == EACH_PLACE &&
        has_sequences(job) && !lk_has(job, OFFSETS) && job->size['T' - 'A'] != job->lead[1])
        return lk_fail(job, error, LK_SHAPE_MISMATCH, POSITION_WEIGHT, -1,
                       "position_weight has %lld elements; it must have %lld, or [%lld,%lld]",
                       (long long)job->size['T' - 'A'], (long long)job->lead[1],
                       (long long)job->lead[0], (long long)job->lead[1]);
    return shard_check_weights(job, &s, CLASS_WEIGHT, error);
}

/* The first of some options that was given. */
static const char *given_of(const lk_job *job, const char *const *names)
{
    while (*names && !lk_given(job, *names))
        names++;
    return *names;
}

/* What belongs to targets, and what to a teacher. */
static lk_status check_sides(const lk_job *job, lk_error *error)
{
    static const char *const of_targets[] = {"num_bytes",
                                             "num_words",
                                             "label_smoothing",
                                             "smoothing_mode",
                                             "logit_scale",
                                             "softcap",
                                             "z_loss",
                                             "focal_gamma",
                                             "poly1",
                                             "target_scaling",
                                             "subtract_entropy",
                                             "vocab_total",
                                             "vocab_start",
                                             NULL};
    static const char *const of_teacher[] = {"tail", "logprob_floor", "temperature", "scale_by_t2",
                                             NULL};
    const options *o = job->options;
    const char *name = given_of(job, has_teacher(job) ? of_targets : of_teacher);
    const int input = lk_has(job, CLASS_WEIGHT) ? CLASS_WEIGHT : TOTAL_LSE;
    if (name && has_teacher(job))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "%s is for targets; it does not go with teacher_ids", name);
    if (name)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "%s is for a teacher: it needs teacher_ids and teacher_logprobs", name);
    if (has_teacher(job) && lk_has(job, input))
        return lk_fail(job, error, LK_OPTION_CONFLICT, input, -1,
                       "%s is for targets; it does not go with teacher_ids", inputs[input].name);
    return listed_check(job, &o->listed, error);
}

static lk_status check_options(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const char *needs = needs_sequences(job);
    const shard s = shard_of(job);
    lk_status status;
    if ((status = check_sides(job, error)) != LK_OK ||
        (status = sequence_check(job, error)) != LK_OK)
        return status;
    if (needs && !has_sequences(job))
        return lk_fail(job, error, LK_OPTION_CONFLICT, HIDDEN, -1,
                       "%s needs sequences: hidden of shape [B,T,D], or offsets", needs);
    if (lk_has(job, POSITION_WEIGHT) && lk_has(job, SAMPLE_WEIGHTS))
        return lk_fail(job, error, LK_OPTION_CONFLICT, SAMPLE_WEIGHTS, -1,
                       "sample_weight and position_weight exclude each other: both weigh targets");
    if ((status = shard_check_options(job, &s, TOTAL_LSE, error)) != LK_OK)
        return status;
    lk_job whole = *job;
    if (o->vocab_total > 0)
        whole.size['C' - 'A'] = o->vocab_total;
    return classwise_check(&whole, error);
}

static lk_status check(const lk_job *job, lk_error *error)
{
    lk_status status;
    if ((status = check_names(job, error)) != LK_OK || (status = check_shapes(job, error)) != LK_OK)
        return status;
    return check_options(job, error);
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

/* How rows are compared with a teacher's. */
static listed_plan teacher_plan(const lk_job *job)
{
    const options *o = job->options;
    return (listed_plan){.job = job,
                         .ids = TEACHER_IDS,
                         .logprobs = TEACHER_LOGPROBS,
                         .classes = classwise_classes(job),
                         .options = o->listed,
                         .divergence = LISTED_FORWARD,
                         .scale = teacher_scale(&o->teacher),
                         .slopes = job->grad_wanted != 0};
}

/* With a teacher a bit for each class follows what sequences need. */
static size_t state(const lk_job *job)
{
    const size_t sequences = sequence_state_size(job);
    return has_teacher(job) ? sequences + listed_seen_size(classwise_classes(job)) : sequences;
}

static lk_status check_listed(const lk_job *job, int64_t place, lk_error *error)
{
    const listed_plan plan = teacher_plan(job);
    unsigned char *seen = (unsigned char *)job->state + sequence_state_size(job);
    return listed_check_row(&plan, place, seen, error);
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
    const lk_status status =
        sequence_prepare_rows(job, has_teacher(job) ? check_listed : sequence_check_target, error);
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

static bool counts(const lk_job *job, int64_t i)
{
    return sequence_place(job, i) >= 0;
}

static double *values(const lk_job *job)
{
    sequence_state *state = job->state;
    return by_sequence(job->options) ? state->part + 2 * job->rows : NULL;
}

/* Rows against a teacher. */

/* The factor of all gradients, which rows and their upstream gradients multiply. */
static double teacher_factors(const lk_job *job)
{
    const options *o = job->options;
    return job->scale[MAIN] * teacher_factor(&o->teacher) * teacher_scale(&o->teacher);
}

static int teacher_power(const lk_job *job)
{
    const bool one = job->in[GRAD_OUTPUT].data && job->in[GRAD_OUTPUT].rank == 0;
    return elements_power(teacher_factors(job) * (one ? real_or_one(job, GRAD_OUTPUT, 0) : 1));
}

static double teacher_weight(const lk_job *job, const class_target *t)
{
    return ldexp(teacher_factors(job), -teacher_power(job)) * t->main *
           real_or_one(job, GRAD_OUTPUT, t->up);
}

static bool teacher_value(const lk_job *job, int64_t i, const class_target *t, const real *x,
                          lk_block *block, void *note)
{
    const options *o = job->options;
    const listed_plan plan = teacher_plan(job);
    class_row row = {.y = -1, .argmax = -1};
    row.main = teacher_factor(&o->teacher) * listed_value(&plan, sequence_place(job, i), x, note);
    classwise_put(job, i, t->main, 0, &row, values(job), block);
    return teacher_weight(job, t) != 0;
}

/* Rows against targets. */

/* What a row leaves for its slopes. */
typedef struct note {
    int64_t y;
    class_norm norm;
    class_slope slope;
} note;

static bool target_value(const lk_job *job, int64_t i, const class_target *t, const real *x,
                         lk_block *block, note *n)
{
    const class_plan p = plan_of(job);
    const shard part = shard_of(job);
    const double upstream = real_or_one(job, GRAD_OUTPUT, t->up);
    const double main = class_main(&p, t->y, t->main);
    class_row row = {.x = x,
                     .y = t->y,
                     .rho = main * p.main * upstream,
                     .zeta = t->z * p.z * upstream,
                     .argmax = -1};
    double gap;
    n->y = t->y;
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
    classwise_put(job, i, main, t->z, &row, values(job), block);
    return row.rho != 0 || row.zeta != 0;
}

/* The row's own formula, on some of its classes. */
static void target_slopes(const lk_job *job, const note *n, int64_t first, int64_t count, real *x)
{
    const shard part = shard_of(job);
    class_plan p = plan_of(job);
    class_slope slope = n->slope;
    const class_row row = {.x = x, .y = n->y, .grad_x = x};
    first += part.total > 0 ? part.start : 0;
    p.classes = p.width = count;
    p.weight = p.weight ? p.weight + first : NULL;
    slope.y = n->y >= first && n->y < first + count ? n->y - first : -1;
    class_gradient(&p, &row, &n->norm, &slope);
}

/* Rows of either kind. */

static size_t note_size(const lk_job *job)
{
    return has_teacher(job) ? listed_note_size(job->size['K' - 'A']) : sizeof(note);
}

static bool value(const lk_job *job, int64_t i, const real *x, const real *y, lk_block *block,
                  void *to)
{
    const class_target t = sequence_target(job, i);
    (void)y;
    return has_teacher(job) ? teacher_value(job, i, &t, x, block, to)
                            : target_value(job, i, &t, x, block, to);
}

static void ignore(const lk_job *job, int64_t i, lk_block *block)
{
    const class_row none = {.y = -1, .argmax = -1};
    put_row(job, TARGET_LOGIT, i, 0);
    classwise_put(job, i, 0, 0, &none, values(job), block);
}

static void slopes(const lk_job *job, int64_t i, const void *from, int64_t first, int64_t count,
                   real *x, const real *y)
{
    (void)y;
    if (has_teacher(job)) {
        const class_target t = sequence_target(job, i);
        listed_slopes(from, teacher_weight(job, &t), first, count, x, x);
    } else {
        target_slopes(job, from, first, count, x);
    }
}

static int power(const lk_job *job)
{
    return has_teacher(job) ? teacher_power(job) : plan_of(job).power;
}

static int64_t classes(const lk_job *job)
{
    const options *o = job->options;
    return o->vocab_total > 0 ? job->in[WEIGHT].shape[0] : classwise_classes(job);
}

static const head_loss driver = {
    .side = {HIDDEN, WEIGHT, BIAS, NORM_WEIGHT},
    .options = offsetof(options, head),
    .state = state,
    .classes = classes,
    .counts = counts,
    .note = note_size,
    .value = value,
    .ignore = ignore,
    .slopes = slopes,
    .power = power,
};

static const char *const shapes[] = {"*", "", "", "*-", "*-", "", ""};

LK_DESCRIBE(linear_cross_entropy, .title = "Cross entropy of a linear head, from hidden states",
            .formula = "loss_i = cross_entropy(x_i, targets_i), or topk_distillation(x_i, "
                       "teacher_ids_i, teacher_logprobs_i), x = hidden weight' + bias; with "
                       "norm_weight hidden is norm_weight * hidden / rms(hidden)",
            .help = "For heads with many classes, whose logits are much larger than the hidden "
                    "states: logits are made of a few rows at a time and never stored. "
                    "grad.weight, grad.bias and grad.norm_weight are computed if they are asked "
                    "for. In place of targets rows may be scored against a teacher's most likely "
                    "classes; of the options for targets vocab_size, ignore_index, shift and the "
                    "reductions go with it.",
            .reference = "PyTorch torch.nn.functional.linear_cross_entropy; Liger-Kernel fused "
                         "linear cross entropy; Wijmans et al. 2024 (Cut Your Losses)",
            .example = "{\"inputs\": {\"hidden\": [[1, -1], [0.5, 2]], \"targets\": [0, 2], "
                       "\"weight\": [[0.3, -0.2], [0.1, 0.4], [-0.5, 0.6]]}}",
            .loss_shape = "*", .loss_shapes = shapes, .inputs = inputs, .outputs = outputs,
            .options = fields);

LK_LOSS(linear_cross_entropy) = {
    .is = &LK_IS(linear_cross_entropy),
    .options_size = sizeof(options),
    .parts = 2,
    .driver = &driver,
    .check = check,
    .default_gradient = default_gradient,
    .default_output = default_output,
    .prepare = prepare,
    HEAD_MEMBERS(WEIGHT, BIAS, NORM_WEIGHT),
    .finish = sequence_finish,
};
