/* SPDX-License-Identifier: MIT
 *
 * Knowledge distillation: a student learns a teacher's distribution over all classes.
 */
#include "rows/divergence.h"

/* What a teacher gives is an input each, from TEACHER on. */
enum { STUDENT, TEACHER, TARGETS = TEACHER + TEACHER_FORMS, MASK, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
    teacher_options teacher;
    int64_t ignore_index, vocab_size;
    double beta, teacher_temperature;
    int divergence;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, divergence, "forward_kl",
             "forward_kl|reverse_kl|jsd|tvd|skew_forward_kl|mse_logits",
             "how far the student is from the teacher"),
    LK_FIELD(options, beta, "0.5", LK_RANGED, 0, 1,
             "jsd, skew_forward_kl: the teacher's share of the mixture"),
    TEACHER_FIELDS(options),
    LK_FIELD(options, teacher_temperature, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "divides the teacher's logits; off: temperature does"),
    LK_FIELD(options, vocab_size, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,
             "both sides are cut to their first classes, as many as this, and may then have "
             "different numbers of them"),
    LK_FIELD(options, ignore_index, "-100", 0, 0, 0, "rows with this target are not read"),
    {0},
};

#define TEACHER_INPUT(name_, range_, help_)                                                        \
    {                                                                                              \
        .name = (name_), .forms = {{"* U", LK_FLOATS}}, .flags = LK_OPTIONAL, .range = (range_),   \
        .help = (help_)                                                                            \
    }

static const lk_input inputs[] = {
    [STUDENT] = {.name = "student_logits",
                 .forms = {{"* V", LK_FLOATS}},
                 .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                 .help = "the student's scores"},
    [TEACHER + TEACHER_LOGITS] =
        TEACHER_INPUT("teacher_logits", NULL, "the teacher's scores; or one of these:"),
    [TEACHER + TEACHER_LOGPROBS] =
        TEACHER_INPUT("teacher_logprobs", "<=0", "its log-probabilities; no temperature applies"),
    [TEACHER + TEACHER_PROBS] =
        TEACHER_INPUT("teacher_probs", "[0,1]", "its probabilities; no temperature applies"),
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

/* The classes that are compared. */
static int64_t classes_of(const lk_job *job)
{
    const options *o = job->options;
    return o->vocab_size == LK_OFF_INTEGER ? job->size['V' - 'A'] : o->vocab_size;
}

/* What the teacher gives. */
static int given_of(const lk_job *job)
{
    int given = TEACHER_LOGITS;
    for (int i = 0; i < TEACHER_FORMS; i++)
        if (lk_has(job, TEACHER + i))
            given = i;
    return given;
}

static lk_status check_classes(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t V = job->size['V' - 'A'], U = job->size['U' - 'A'], n = classes_of(job);
    const int teacher = TEACHER + given_of(job);
    const char *name = job->loss->is->inputs[teacher].name;
    if (o->vocab_size == LK_OFF_INTEGER && V != U)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, teacher, -1,
                       "%s has %lld classes and student_logits %lld; where the first ones are the "
                       "same, vocab_size says how many",
                       name, (long long)U, (long long)V);
    if (o->vocab_size > 0 && given_of(job) != TEACHER_LOGITS && U != n)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, teacher, -1,
                       "%s has %lld classes; with vocab_size it must have as many as that, %lld",
                       name, (long long)U, (long long)n);
    if (o->vocab_size != LK_OFF_INTEGER && job->rows > 0 && (n > V || n > U))
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "vocab_size is %lld; it must be in [1,%lld], the classes that both sides "
                       "have",
                       (long long)n, (long long)(V < U ? V : U));
    return LK_OK;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    int teachers = 0;
    for (int i = 0; i < TEACHER_FORMS; i++)
        teachers += lk_has(job, TEACHER + i);
    if (job->size['V' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, STUDENT, -1,
                       "student_logits has no classes; the last axis must have at least 1");
    if (teachers != 1)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "%d teachers are given; exactly one of teacher_logits, teacher_logprobs and "
                       "teacher_probs is needed",
                       teachers);
    if (o->divergence == MSE_LOGITS && !lk_has(job, TEACHER + TEACHER_LOGITS))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "divergence=mse_logits needs teacher_logits");
    if (!isnan(o->teacher_temperature) && !lk_has(job, TEACHER + TEACHER_LOGITS))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "teacher_temperature needs teacher_logits; log-probabilities and "
                       "probabilities have none");
    return check_classes(job, error);
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
    for (int64_t i = 0; i < job->rows; i++)
        job->counted += counts(job, i);
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

/* Finds the first element of a row outside the teacher's range. NaN counts as valid, and gives
 * NaN. */
static void check_teacher(const lk_job *job, const divergence_row *r, int64_t i, lk_block *block)
{
    const vec most = v_set(r->given == TEACHER_LOGPROBS ? 0 : 1);
    const vec least = v_set(r->given == TEACHER_LOGPROBS ? -(real)INFINITY : 0);
    for (int64_t k = 0; k < r->classes && r->given != TEACHER_LOGITS; k += LANES) {
        const int64_t n = LK_TAIL(k, r->classes);
        const vec y = v_read_tail(r->y + k, n, 0);
        const mask bad = (y < least) | (y > most);
        if (m_none(bad))
            continue;
        int64_t first = 0;
        while (!bad[first])
            first++;
        lk_refuse(block, LK_VALUE_OUT_OF_RANGE, TEACHER + r->given,
                  i * job->size['U' - 'A'] + k + first, (double)y[first]);
        return;
    }
}

static divergence_row row_of(const lk_job *job)
{
    const options *o = job->options;
    const divergence_plan plan = {o->divergence, o->beta, teacher_scale(&o->teacher),
                                  classes_of(job)};
    divergence_row r = divergence_row_of(&plan, given_of(job));
    if (!isnan(o->teacher_temperature))
        r.teacher_scale = (real)class_clamp(1 / o->teacher_temperature);
    return r;
}

/* Are rows of few classes, on both sides, one after another? */
static bool are_few(const lk_job *job, const divergence_row *r)
{
    return r->classes <= TEACHER_FEW && r->classes == job->size['V' - 'A'] &&
           r->classes == job->size['U' - 'A'];
}

/* The softmax of rows first..first+count-1, of the student and of a teacher that gives logits,
 * where the divergence is one of distributions. */
static void normalise(const lk_job *job, const divergence_row *r, int64_t first, int count,
                      teacher_norm *student, teacher_norm *teacher)
{
    const int64_t n = r->classes;
    const elem *x = (const elem *)job->in[STUDENT].data + first * job->size['V' - 'A'];
    const real *y = (const real *)job->in[TEACHER + r->given].data + first * job->size['U' - 'A'];
    const bool few = are_few(job, r), logits = r->given == TEACHER_LOGITS;
    if (r->divergence == MSE_LOGITS)
        return;
    if (few)
        teacher_normalise_few(x, true, n, count, r->scale, student);
    else
        student[0] = teacher_normalise(x, true, n, r->scale);
    if (logits && few)
        teacher_normalise_few(y, false, n, count, r->teacher_scale, teacher);
    else if (logits)
        teacher[0] = teacher_normalise(y, false, n, r->teacher_scale);
}

/* The value of counted row i. */
static double counted_row(const lk_job *job, divergence_row *r, int64_t i, elem *grad,
                          lk_block *block)
{
    const options *o = job->options;
    const bool per_row = o->reduce.reduction == LK_NONE, raw = o->divergence == MSE_LOGITS;
    const int64_t V = job->size['V' - 'A'], n = r->classes;
    const double factor = raw ? 1 / (double)n : teacher_factor(&o->teacher);
    const double chain = raw ? factor : factor * teacher_scale(&o->teacher);
    const real *up = job->in[GRAD_OUTPUT].data;
    real upstream = 1;
    if (up)
        memcpy(&upstream, up + (per_row ? i : 0), sizeof upstream);
    r->x = (const elem *)job->in[STUDENT].data + i * V;
    r->y = (const real *)job->in[TEACHER + r->given].data + i * job->size['U' - 'A'];
    const double weight = job->scale[0] * (double)upstream * chain;
    const int power = elements_power(weight);
    r->weight = (real)ldexp(weight, -power);
    const int64_t bad =
        o->reduce.nonfinite == LK_REFUSE_NONFINITE ? elements_nonfinite(r->x, n) : -1;
    if (bad >= 0)
        lk_refuse(block, LK_NONFINITE_INPUT, STUDENT, i * V + bad, (double)r_load(r->x + bad));
    check_teacher(job, r, i, block);
    const double value = factor * divergence_value(r, grad, grad);
    if (grad)
        divergence_gradient(r, grad);
    if (grad && power != 0)
        elements_scale(grad, n, power);
    if (grad && n < V)
        memset(grad + n, 0, (size_t)(V - n) * sizeof *grad);
    return value;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const bool per_row = o->reduce.reduction == LK_NONE;
    const int64_t V = job->size['V' - 'A'], end = first + count;
    divergence_row r = row_of(job);
    const int together = are_few(job, &r) ? LANES : 1;
    (void)scratch;
    for (int64_t from = first; from < end; from += together) {
        const int group = end - from < together ? (int)(end - from) : together;
        teacher_norm student[LANES] = {{0}}, teacher[LANES] = {{0}};
        normalise(job, &r, from, group, student, teacher);
        for (int k = 0; k < group; k++) {
            const int64_t i = from + k;
            elem *grad = job->grad[STUDENT].data ? (elem *)job->grad[STUDENT].data + i * V : NULL;
            double value = 0;
            if (counts(job, i)) {
                r.student = student[k];
                r.teacher = teacher[k];
                value = counted_row(job, &r, i, grad, block);
            } else if (grad) {
                memset(grad, 0, (size_t)V * sizeof(elem));
            }
            block->sum[0] += value;
            if (per_row && job->value.data)
                lk_put(&job->value, i, value);
        }
    }
}

static const char tex[] =
    "\\begin{aligned} p &= \\operatorname{softmax}(\\text{student}/T),\\quad q\\ \\text{the "
    "teacher's},\\quad M = \\beta q + (1 - \\beta)p \\\\ "
    "\\text{forward\\_kl} &= T^2\\sum q\\,(\\log q - \\log p) \\\\ "
    "\\text{reverse\\_kl} &= T^2\\sum p\\,(\\log p - \\log q) \\\\ "
    "\\text{jsd} &= T^2\\left(\\beta\\,\\operatorname{KL}(q \\parallel M) + (1 - "
    "\\beta)\\operatorname{KL}(p \\parallel M)\\right) \\\\ "
    "\\text{tvd} &= \\frac{T^2}{2}\\sum\\lvert p - q\\rvert \\\\ "
    "\\text{skew\\_forward\\_kl} &= T^2\\operatorname{KL}(q \\parallel M) \\\\ "
    "\\text{mse\\_logits} &= \\operatorname{mean}\\,(x - y)^2 \\end{aligned}";

LK_DESCRIBE(
    distillation, .tex = tex, .title = "Distillation: divergence of a student from a teacher",
    .formula = "p = softmax(student/T), q the teacher's. forward_kl: sum q (log q - log p); "
               "reverse_kl: sum p (log p - log q); jsd: beta KL(q|M) + (1-beta) KL(p|M), "
               "M = beta q + (1-beta) p; tvd: sum |p-q| / 2; skew_forward_kl: KL(q|M); "
               "mse_logits: mean (x-y)^2. All but the last times T^2",
    .help = "The teacher comes as logits, log-probabilities or probabilities. jsd with "
            "beta 0 is forward_kl, with beta 1 reverse_kl.",
    .reference = "Hinton et al. 2015; Agarwal et al. 2024 (GKD)",
    .example = "{\"inputs\": {\"student_logits\": [[1.2, -0.8, -0.5]], "
               "\"teacher_logits\": [[0.5, 0.1, -0.4]]}, \"options\": "
               "{\"temperature\": 2}}",
    .traits = LK_SHIFT_FREE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(distillation) = {
    .is = &LK_IS(distillation),
    .options_size = sizeof(options),
    .parts = 1,
    .check = check,
    .prepare = prepare,
    .rows = rows,
};
