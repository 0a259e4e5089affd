/* SPDX-License-Identifier: MIT
 *
 * Distillation between two linear heads: from hidden states of student and teacher.
 */
#include "rows/divergence.h"
#include "rows/head.h"

enum {
    HIDDEN,
    WEIGHT,
    TEACHER_HIDDEN,
    TEACHER_WEIGHT,
    BIAS,
    NORM_WEIGHT,
    TEACHER_BIAS,
    TARGETS,
    MASK,
    GRAD_OUTPUT
};

typedef struct options {
    lk_reduce reduce;
    teacher_options teacher;
    head_options head;
    int64_t ignore_index, vocab_size;
    double beta, teacher_temperature, softcap, teacher_softcap;
    int divergence;
} options;

#define CAP(name_, help_)                                                                          \
    LK_FIELD(options, name_, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY, help_)

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, divergence, "forward_kl", "forward_kl|reverse_kl|jsd",
             "how far the student is from the teacher"),
    LK_FIELD(options, beta, "0.5", LK_RANGED, 0, 1, "jsd: the teacher's share of the mixture"),
    TEACHER_FIELDS(options),
    LK_FIELD(options, teacher_temperature, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "divides the teacher's scores in its stead"),
    LK_FIELD(options, vocab_size, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,
             "both sides are cut to as many classes; needed if they have different numbers"),
    CAP(softcap, "c*tanh(x/c) bounds the student's scores to (-c, c) before they are divided"),
    CAP(teacher_softcap, "the same of the teacher's"),
    LK_FIELD(options, ignore_index, "-100", 0, 0, 0, "rows with this target are not read"),
    HEAD_FIELDS(options),
    {0},
};

#define TEACHER(name_, shape_, flags_, help_)                                                      \
    {                                                                                              \
        .name = (name_), .forms = {{shape_, LK_FLOATS}}, .flags = LK_OWN_TYPE | (flags_),          \
        .help = (help_)                                                                            \
    }

static const lk_input inputs[] = {
    [HIDDEN] = HEAD_HIDDEN("the student's last hidden states, one a row"),
    [WEIGHT] = HEAD_WEIGHT,
    [TEACHER_HIDDEN] = TEACHER("teacher_hidden", "* E", 0, "the teacher's hidden states"),
    [TEACHER_WEIGHT] = TEACHER("teacher_weight", "V E", 0, "the teacher's head"),
    [BIAS] = HEAD_BIAS,
    [NORM_WEIGHT] = HEAD_NORM_WEIGHT,
    [TEACHER_BIAS] = TEACHER("teacher_bias", "V", LK_OPTIONAL, "of its scores; default zeros"),
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INDICES}},
                 .flags = LK_OPTIONAL,
                 .help = "only tells which rows to ignore: those with ignore_index"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "rows with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t own = job->size['C' - 'A'], theirs = job->size['V' - 'A'];
    const int64_t least = own < theirs ? own : theirs;
    const lk_status status = head_check(job, error);
    if (status != LK_OK)
        return status;
    if (o->vocab_size == LK_OFF_INTEGER && own != theirs)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, TEACHER_WEIGHT, -1,
                       "teacher_weight has %lld classes, and weight %lld; cut both to as many by "
                       "vocab_size",
                       (long long)theirs, (long long)own);
    if (o->vocab_size > least)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "vocab_size is %lld; with %lld classes it must be in [1, %lld]",
                       (long long)o->vocab_size, (long long)least, (long long)least);
    return LK_OK;
}

static bool counts(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    return (!job->in[MASK].data || lk_int(&job->in[MASK], i) != 0) &&
           (!job->in[TARGETS].data || lk_int(&job->in[TARGETS], i) != o->ignore_index);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)error;
    head_prepare(job);
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

static size_t state(const lk_job *job)
{
    (void)job;
    return 0;
}

static int64_t classes(const lk_job *job)
{
    const options *o = job->options;
    const int64_t own = job->size['C' - 'A'], theirs = job->size['V' - 'A'];
    return o->vocab_size > 0 ? o->vocab_size : own < theirs ? own : theirs;
}

/* The temperature is the student's; the teacher's scores are multiplied by how much its own
 * differs. */
static void bends(const lk_job *job, head_bend to[2])
{
    const options *o = job->options;
    to[0] = (head_bend){.cap = o->softcap > 0 ? (real)class_clamp(o->softcap) : 0, .times = 1};
    to[1] = (head_bend){.cap = o->teacher_softcap > 0 ? (real)class_clamp(o->teacher_softcap) : 0,
                        .times = 1};
    if (o->teacher_temperature > 0)
        to[1].times = (real)(o->teacher.temperature / o->teacher_temperature);
}

/* The factor of all gradients. */
static double whole_weight(const lk_job *job)
{
    const options *o = job->options;
    const bool per_row = o->reduce.reduction == LK_NONE;
    const real *up = job->in[GRAD_OUTPUT].data;
    real upstream = 1;
    if (up && !per_row)
        memcpy(&upstream, up, sizeof upstream);
    return job->scale[0] * (double)upstream * teacher_factor(&o->teacher) *
           teacher_scale(&o->teacher);
}

static int power(const lk_job *job)
{
    return elements_power(whole_weight(job));
}

static double weight_of(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    const real *up = job->in[GRAD_OUTPUT].data;
    real upstream = 1;
    if (up && o->reduce.reduction == LK_NONE)
        memcpy(&upstream, up + i, sizeof upstream);
    return ldexp(whole_weight(job), -power(job)) * (double)upstream;
}

static bool value(const lk_job *job, int64_t i, const real *x, const real *y, lk_block *block,
                  void *note)
{
    const options *o = job->options;
    const divergence_plan plan = {o->divergence, o->beta, teacher_scale(&o->teacher), classes(job)};
    divergence_row *r = note;
    *r = divergence_row_of(&plan, TEACHER_LOGITS);
    r->x = x;
    r->y = y;
    r->student = teacher_normalise(x, true, plan.classes, r->scale);
    r->teacher = teacher_normalise(y, false, plan.classes, r->scale);
    const double d = teacher_factor(&o->teacher) * divergence_value(r, true, NULL);
    block->sum[0] += d;
    if (o->reduce.reduction == LK_NONE && job->value.data)
        lk_put(&job->value, i, d);
    return weight_of(job, i) != 0;
}

static void ignore(const lk_job *job, int64_t i, lk_block *block)
{
    const options *o = job->options;
    (void)block;
    if (o->reduce.reduction == LK_NONE && job->value.data)
        lk_put(&job->value, i, 0);
}

static void slopes(const lk_job *job, int64_t i, const void *note, int64_t first, int64_t count,
                   real *x, const real *y)
{
    divergence_row r;
    (void)first;
    memcpy(&r, note, sizeof r);
    r.x = x;
    r.y = y;
    r.classes = count;
    r.weight = (real)weight_of(job, i);
    divergence_gradient(&r, x);
}

static const head_side teacher = {TEACHER_HIDDEN, TEACHER_WEIGHT, TEACHER_BIAS, -1};

static size_t note_size(const lk_job *job)
{
    (void)job;
    return sizeof(divergence_row);
}

static const head_loss driver = {
    .side = {HIDDEN, WEIGHT, BIAS, NORM_WEIGHT},
    .teacher = &teacher,
    .options = offsetof(options, head),
    .state = state,
    .classes = classes,
    .counts = counts,
    .note = note_size,
    .value = value,
    .ignore = ignore,
    .bends = bends,
    .slopes = slopes,
    .power = power,
};

LK_DESCRIBE(linear_kl, .title = "Distillation between two linear heads, from hidden states",
            .formula = "x = hidden weight' + bias, y = teacher_hidden teacher_weight' + "
                       "teacher_bias, p = softmax(x/T), q = softmax(y/T). forward_kl: sum q (log q "
                       "- log p); reverse_kl: sum p (log p - log q); jsd: beta KL(q|M) + (1-beta) "
                       "KL(p|M), M = beta q + (1-beta) p. All times T^2",
            .help = "distillation over the whole vocabulary, of logits that are made of a few rows "
                    "at a time and never stored: the teacher is told by its hidden states and its "
                    "head.",
            .reference = "Liger-Kernel fused linear JSD; Agarwal et al. 2024 (GKD)",
            .example =
                "{\"inputs\": {\"hidden\": [[1, -1], [0.5, 2]], \"weight\": [[0.3, -0.2], [0.1, "
                "0.4], [-0.5, 0.6]], \"teacher_hidden\": [[0.5, 1], [-1, 0.3]], "
                "\"teacher_weight\": [[0.2, 0.1], [-0.3, 0.5], [0.4, -0.6]]}, \"options\": "
                "{\"temperature\": 2}}",
            .traits = LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
            .options = fields);

LK_LOSS(linear_kl) = {
    .is = &LK_IS(linear_kl),
    .options_size = sizeof(options),
    .parts = 1,
    .driver = &driver,
    .check = check,
    .prepare = prepare,
    HEAD_MEMBERS(WEIGHT, BIAS, NORM_WEIGHT),
};
