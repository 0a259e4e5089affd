/* SPDX-License-Identifier: MIT
 *
 * Knowledge distillation from the most likely classes of a teacher, where only those are given.
 */
#include "rows/listed.h"

enum { STUDENT, TEACHER_IDS, TEACHER_LOGPROBS, MASK, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
    teacher_options teacher;
    listed_options listed;
    int divergence;
    double beta;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LISTED_TAIL(options),
    LK_WORDS(options, divergence, "forward_kl", "forward_kl|reverse_kl|jsd|mixed",
             "how far the student is from the teacher; mixed: beta forward_kl + (1 - beta) "
             "reverse_kl; all but forward_kl with tail=conditional or tail"),
    LK_FIELD(options, beta, "0.5", LK_RANGED, 0, 1, "jsd, mixed: the teacher's share"),
    LISTED_FLOOR(options),
    TEACHER_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [STUDENT] = {.name = "student_logits",
                 .forms = {{"* V", LK_FLOATS}},
                 .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                 .help = "the student's scores of all classes"},
    [TEACHER_IDS] = LISTED_IDS(0, "V", "distinct classes; -1: absent"),
    [TEACHER_LOGPROBS] = LISTED_LOGPROBS(0, "their log-probabilities, which add up to at most 1"),
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "rows with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static bool counts(const lk_job *job, int64_t i)
{
    return !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const bool open = o->listed.tail == RENORMALIZE || o->listed.tail == TRUNCATED;
    if (job->size['V' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, STUDENT, -1,
                       "student_logits has no classes; the last axis must have at least 1");
    const lk_status status = listed_check(job, &o->listed, error);
    if (status == LK_OK && o->divergence != LISTED_FORWARD && open)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "divergences other than forward_kl need tail=conditional or tail=tail");
    return status;
}

static listed_plan plan_of(const lk_job *job)
{
    const options *o = job->options;
    return (listed_plan){.job = job,
                         .ids = TEACHER_IDS,
                         .logprobs = TEACHER_LOGPROBS,
                         .classes = job->size['V' - 'A'],
                         .options = o->listed,
                         .divergence = o->divergence,
                         .beta = o->beta,
                         .scale = teacher_scale(&o->teacher),
                         .slopes = job->grad[STUDENT].data};
}

/* job->state: a bit for each class. */
static size_t state(const lk_job *job)
{
    return job->rows > 0 ? listed_seen_size(job->size['V' - 'A']) : 0; /* no rows, any V */
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const listed_plan plan = plan_of(job);
    for (int64_t i = 0; i < job->rows; i++) {
        if (!counts(job, i))
            continue;
        const lk_status status = listed_check_row(&plan, i, job->state, error);
        if (status != LK_OK)
            return status;
        job->counted++;
    }
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

static size_t scratch_size(const lk_job *job)
{
    return job->rows > 0 ? listed_note_size(job->size['K' - 'A']) : 0;
}

/* The value of counted row i, multiplied by the temperature's factor, and its gradient. */
static double counted_row(const listed_plan *plan, int64_t i, elem *grad, lk_block *block,
                          void *note)
{
    const lk_job *job = plan->job;
    const options *o = job->options;
    const int64_t V = plan->classes;
    const elem *x = (const elem *)job->in[STUDENT].data + i * V;
    const real *up = job->in[GRAD_OUTPUT].data;
    const double factor = teacher_factor(&o->teacher);
    real upstream = 1;
    if (up)
        memcpy(&upstream, up + (o->reduce.reduction == LK_NONE ? i : 0), sizeof upstream);
    const int64_t bad = o->reduce.nonfinite == LK_REFUSE_NONFINITE ? elements_nonfinite(x, V) : -1;
    if (bad >= 0)
        lk_refuse(block, LK_NONFINITE_INPUT, STUDENT, i * V + bad, (double)r_load(x + bad));
    const double value = listed_value(plan, i, x, note);
    const double weight = job->scale[0] * (double)upstream * factor * plan->scale;
    const int power = elements_power(weight);
    if (grad)
        listed_slopes(note, ldexp(weight, -power), 0, V, x, grad);
    if (grad && power != 0)
        elements_scale(grad, V, power);
    return factor * value;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const listed_plan plan = plan_of(job);
    for (int64_t i = first; i < first + count; i++) {
        elem *grad = plan.slopes ? (elem *)job->grad[STUDENT].data + i * plan.classes : NULL;
        double value = 0;
        if (counts(job, i))
            value = counted_row(&plan, i, grad, block, scratch);
        else if (grad)
            memset(grad, 0, (size_t)plan.classes * sizeof *grad);
        block->sum[0] += value;
        if (o->reduce.reduction == LK_NONE && job->value.data)
            lk_put(&job->value, i, value);
    }
}

static const char tex[] =
    "\\begin{aligned} q&\\ \\text{the teacher's of}\\ K\\ \\text{classes},\\quad Q = \\sum_K "
    "q,\\quad p = \\operatorname{softmax}(\\text{student}/T) \\\\ "
    "\\text{renormalize} &= T^2\\operatorname{KL}(q/Q \\parallel p) \\\\ "
    "\\text{truncated} &= T^2\\sum_K q\\,(\\log q - \\log p) \\\\ "
    "\\text{conditional} &= T^2\\operatorname{KL}(q/Q \\parallel p_K) \\\\ "
    "\\text{tail} &= \\text{truncated} + T^2(1 - Q)\\left(\\log(1 - Q) - \\log\\left(1 - \\sum_K "
    "p\\right)\\right) \\end{aligned}";

LK_DESCRIBE(
    topk_distillation, .tex = tex, .title = "Distillation from a teacher's most likely classes",
    .formula = "q the teacher's probabilities of K classes, Q their sum, p = softmax(student/T). "
               "renormalize: KL(q/Q | p); truncated: sum_K q (log q - log p); conditional: "
               "KL(q/Q | p restricted to K); tail: truncated with one more class of the masses "
               "1-Q and 1-sum_K p. All times T^2",
    .help = "For teachers that are stored, or served with their best log-probabilities "
            "alone. divergence compares the same cells in other ways: the listed classes "
            "and, with tail=tail, the rest.",
    .reference = "TRL self-distillation (conditional, tail); DistillKit (renormalize); "
                 "NeMo-RL (mixed); verl (a floor)",
    .example = "{\"inputs\": {\"student_logits\": [[1.2, -0.8, -0.5]], "
               "\"teacher_ids\": [[0, 1]], \"teacher_logprobs\": [[-0.73, -1.13]]}}",
    .traits = LK_SHIFT_FREE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(topk_distillation) = {
    .is = &LK_IS(topk_distillation),
    .options_size = sizeof(options),
    .parts = 1,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
