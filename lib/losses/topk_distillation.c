/* SPDX-License-Identifier: MIT
 *
 * A student learns from the few most likely classes that a teacher has told of.
 */
#include "rows/teacher.h"

enum { STUDENT, TEACHER_IDS, TEACHER_LOGPROBS, MASK, GRAD_OUTPUT };
enum { RENORMALIZE, TRUNCATED, CONDITIONAL, TAIL }; /* tail */

typedef struct options {
    teacher_options common;
    int tail;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(teacher_options),
    LK_WORDS(options, tail, "renormalize", "renormalize|truncated|conditional|tail",
             "what becomes of the teacher's mass that it has not told of: scaled away, left out, "
             "left out on both sides, or one class of its own"),
    TEACHER_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [STUDENT] = {.name = "student_logits",
                 .forms = {{"N V", LK_FLOATS}},
                 .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                 .help = "the student's scores of all classes"},
    [TEACHER_IDS] = {.name = "teacher_ids",
                     .forms = {{"N K", LK_INTS}},
                     .range = "[-1,V), distinct",
                     .help = "distinct classes; -1: absent"},
    [TEACHER_LOGPROBS] = {.name = "teacher_logprobs",
                          .forms = {{"N K", LK_FLOATS}},
                          .range = "<=0, exp sums to <=1",
                          .help = "their log-probabilities, which add up to at most 1"},
    [MASK] = {.name = "mask",
              .forms = {{"N", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "rows with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static int64_t id_at(const lk_job *job, int64_t i, int64_t k)
{
    return lk_int(&job->in[TEACHER_IDS], i * job->size['K' - 'A'] + k);
}

static double logprob_at(const lk_job *job, int64_t i, int64_t k)
{
    const char *data = job->in[TEACHER_LOGPROBS].data;
    real x;
    memcpy(&x, data + (i * job->size['K' - 'A'] + k) * (int64_t)sizeof x, sizeof x);
    return (double)x;
}

static bool counts(const lk_job *job, int64_t i)
{
    return !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    if (job->size['V' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, STUDENT, -1,
                       "student_logits has no classes; the last axis must have at least 1");
    return LK_OK;
}

/* job->state: a bit for each class, to find what comes twice in a row. */
static size_t state(const lk_job *job)
{
    return job->rows > 0 ? (size_t)job->size['V' - 'A'] / 8 + 1 : 0; /* no rows, any V */
}

static lk_status check_ids(const lk_job *job, int64_t i, lk_error *error)
{
    const int64_t V = job->size['V' - 'A'], K = job->size['K' - 'A'];
    unsigned char *seen = job->state;
    char place[LK_PLACE_MAX];
    lk_status status = LK_OK;
    for (int64_t k = 0; k < K && status == LK_OK; k++) {
        const int64_t id = id_at(job, i, k);
        if (id < -1 || id >= V)
            status = lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, TEACHER_IDS, i * K + k,
                             "%s is %lld; with %lld classes it must be in [0, %lld], or -1",
                             lk_place(job, TEACHER_IDS, i * K + k, place), (long long)id,
                             (long long)V, (long long)V - 1);
        else if (id >= 0 && (seen[id / 8] >> (id % 8) & 1))
            status = lk_fail(job, error, LK_OPTION_CONFLICT, TEACHER_IDS, i * K + k,
                             "%s is %lld, which its row has already; the ids of a row must be "
                             "distinct",
                             lk_place(job, TEACHER_IDS, i * K + k, place), (long long)id);
        else if (id >= 0)
            seen[id / 8] |= (unsigned char)(1 << id % 8);
    }
    for (int64_t k = 0; k < K; k++)
        if (id_at(job, i, k) >= 0 && id_at(job, i, k) < V)
            seen[id_at(job, i, k) / 8] = 0;
    return status;
}

/* The mass that a row's teacher has told of. */
static double told(const lk_job *job, int64_t i)
{
    double mass = 0;
    for (int64_t k = 0; k < job->size['K' - 'A']; k++)
        if (id_at(job, i, k) >= 0)
            mass += exp(logprob_at(job, i, k));
    return mass;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const int64_t K = job->size['K' - 'A'];
    char place[LK_PLACE_MAX];
    for (int64_t i = 0; i < job->rows; i++) {
        if (!counts(job, i))
            continue;
        lk_status status = check_ids(job, i, error);
        if (status != LK_OK)
            return status;
        const double mass = told(job, i);
        if (mass > 1.001)
            return lk_fail(job, error, LK_VALUE_OUT_OF_RANGE, TEACHER_LOGPROBS, i * K,
                           "the probabilities of the row of %s add up to %g; it must be at most 1",
                           lk_place(job, TEACHER_LOGPROBS, i * K, place), mass);
        job->counted++;
    }
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

static size_t told_size(int64_t classes)
{
    return (size_t)(classes + 63) / 64 * sizeof(uint64_t);
}

/* One counted row. */
typedef struct told_row {
    const lk_job *job;
    int64_t i;
    const elem *x;
    real scale;
    double top, log_sum, sum; /* of all scores: z - top - log_sum is log p */
    double rest;              /* sum of e^(z - top) over the classes not told of */
    double mass, here;        /* Q; log of the student's mass on the classes told of */
} told_row;

/* Softmax in two sums, over the classes told of and over the rest: neither is taken from 1. A bit
 * for each class says which are which, so that the cost is that of V + K, however many are told of.
 */
static void normalise(told_row *r, const class_plan *plan, uint64_t *is_told)
{
    const class_row row = {.x = r->x, .y = -1};
    const class_norm all = class_normalise(plan, &row);
    const int64_t K = r->job->size['K' - 'A'];
    real z[CHUNK];
    double on = 0;
    r->top = (double)all.top;
    r->sum = all.sum;
    r->log_sum = all.log_sum;
    r->rest = 0;
    memset(is_told, 0, told_size(plan->classes));
    for (int64_t k = 0; k < K; k++) {
        const int64_t id = id_at(r->job, r->i, k);
        if (id >= 0)
            is_told[id / 64] |= UINT64_C(1) << id % 64;
    }
    for (int64_t c = 0; c < plan->classes; c += CHUNK) {
        const int64_t n = plan->classes - c < CHUNK ? plan->classes - c : CHUNK;
        class_scores(plan, r->x + c, n, z);
        for (int64_t word = 0; word < n; word += 64) {
            for (uint64_t bits = is_told[(c + word) / 64]; bits; bits &= bits - 1) {
                const int64_t at = word + __builtin_ctzll(bits);
                on += exp((double)z[at] - r->top);
                z[at] = -(real)INFINITY;
            }
        }
        r->rest += (double)class_sum_exp(z, class_padded(n), all.top);
    }
    r->here = log(on) - r->log_sum;
    if (isnan(r->sum))
        r->rest = (double)NAN;
}

/* log p of one class. */
static double log_p(const told_row *r, int64_t id)
{
    return ((double)r_load(r->x + id) * (double)r->scale - r->top) - r->log_sum;
}

/* What the teacher has not told of; rounding may have made more than all of what it has. */
static double unsaid_of(const told_row *r)
{
    return r->mass < 1 ? 1 - r->mass : 0;
}

static double xlogy(double q, double y)
{
    return q == 0 ? 0 : q * y;
}

static double value_of(const told_row *r, int tail)
{
    const double log_mass = log(r->mass), unsaid = unsaid_of(r);
    double value = 0;
    for (int64_t k = 0; k < r->job->size['K' - 'A']; k++) {
        const int64_t id = id_at(r->job, r->i, k);
        if (id < 0)
            continue;
        const double lq = logprob_at(r->job, r->i, k), l = log_p(r, id);
        if (tail == TRUNCATED || tail == TAIL)
            value += xlogy(exp(lq), lq - l);
        else if (r->mass > 0)
            value += xlogy(exp(lq - log_mass),
                           (lq - log_mass) - (tail == CONDITIONAL ? l - r->here : l));
    }
    if (tail == TAIL)
        value += xlogy(unsaid, log(unsaid) - (log(r->rest) - r->log_sum));
    return value;
}

/* The gradient is c p off the classes told of, c different for each mode, and what at_id tells on
 * them. */
static double off(const told_row *r, int tail)
{
    const double unsaid = unsaid_of(r);
    switch (tail) {
    case RENORMALIZE:
        return r->mass > 0; /* of nothing there is nothing to learn */
    case TRUNCATED:
        return r->mass;
    case CONDITIONAL:
        return 0;
    default:
        return unsaid == 0 ? 1 : r->rest > 0 ? 1 - unsaid / (r->rest / r->sum) : 0;
    }
}

static double at_id(const told_row *r, int tail, int64_t id, double lq)
{
    const double l = log_p(r, id), share = r->mass > 0 ? exp(lq - log(r->mass)) : 0;
    switch (tail) {
    case RENORMALIZE:
        return r->mass > 0 ? exp(l) - share : 0;
    case TRUNCATED:
        return r->mass * exp(l) - exp(lq);
    case CONDITIONAL:
        return r->mass > 0 ? exp(l - r->here) - share : 0;
    default:
        return exp(l) - exp(lq);
    }
}

/* The scores may lie where the gradient goes: what is written last is computed first. */
static void gradient(const told_row *r, const class_plan *plan, int tail, double weight, elem *grad,
                     double *at)
{
    const int64_t K = r->job->size['K' - 'A'];
    const vec c = v_set((real)(weight * off(r, tail) / r->sum)), top = v_set((real)r->top);
    for (int64_t k = 0; k < K; k++) {
        const int64_t id = id_at(r->job, r->i, k);
        at[k] = id < 0 ? 0 : weight * at_id(r, tail, id, logprob_at(r->job, r->i, k));
    }
    for (int64_t k = 0; k < plan->classes; k += LANES) {
        const int64_t n = LK_TAIL(k, plan->classes);
        const vec z = v_load_tail(r->x + k, n, 0) * r->scale;
        v_store_tail(grad + k, n, c * v_exp_nonpos(z - top));
    }
    for (int64_t k = 0; k < K; k++)
        if (id_at(r->job, r->i, k) >= 0)
            r_store(grad + id_at(r->job, r->i, k), (real)at[k]);
}

static size_t scratch_size(const lk_job *job)
{
    const size_t K = (size_t)job->size['K' - 'A'];
    return job->rows > 0 ? K * sizeof(double) + told_size(job->size['V' - 'A']) : 0;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const bool per_row = o->common.reduce.reduction == LK_NONE;
    const int64_t V = job->size['V' - 'A'];
    const double factor = teacher_factor(&o->common);
    const real *up = job->in[GRAD_OUTPUT].data;
    const class_options scores = {.logit_scale = 1 / o->common.temperature};
    const class_plan plan = class_plan_make(job, &scores, V);
    double *at = scratch;
    uint64_t *is_told = (uint64_t *)(at + job->size['K' - 'A']);
    for (int64_t i = first; i < first + count; i++) {
        elem *grad = job->grad[STUDENT].data ? (elem *)job->grad[STUDENT].data + i * V : NULL;
        real upstream = 1;
        double value = 0;
        if (counts(job, i)) {
            told_row r = {.job = job, .i = i, .scale = (real)plan.scale};
            r.x = (const elem *)job->in[STUDENT].data + i * V;
            if (up)
                memcpy(&upstream, up + (per_row ? i : 0), sizeof upstream);
            const int64_t bad =
                o->common.reduce.nonfinite == LK_REFUSE_NONFINITE ? class_nonfinite(r.x, V) : -1;
            if (bad >= 0)
                teacher_bad(block, LK_NONFINITE_INPUT, STUDENT, i * V + bad);
            r.mass = told(job, i);
            normalise(&r, &plan, is_told);
            value = isnan(r.sum) ? (double)NAN : factor * value_of(&r, o->tail);
            const double weight = job->scale[0] * (double)upstream * factor * plan.scale;
            if (grad && isnan(value))
                class_fill(grad, V, (real)NAN);
            else if (grad)
                gradient(&r, &plan, o->tail, weight, grad, at);
        } else if (grad) {
            memset(grad, 0, (size_t)V * sizeof(elem));
        }
        block->sum[0] += value;
        if (per_row && job->value.data)
            lk_put(&job->value, i, value);
    }
}

LK_LOSS(topk_distillation) = {
    .is =
        {
            .name = "topk_distillation",
            .title = "Distillation from a teacher's most likely classes",
            .formula =
                "q the teacher's probabilities of K classes, Q their sum, p = softmax(student/T). "
                "renormalize: KL(q/Q | p); truncated: sum_K q (log q - log p); conditional: "
                "KL(q/Q | p restricted to K); tail: truncated with one more class of the masses "
                "1-Q and 1-sum_K p. All times T^2",
            .help = "For teachers that are stored, or served with their best log-probabilities "
                    "alone.",
            .reference = "TRL self-distillation (conditional, tail); DistillKit (renormalize)",
            .example = "{\"inputs\": {\"student_logits\": [[1.2, -0.8, -0.5]], "
                       "\"teacher_ids\": [[0, 1]], \"teacher_logprobs\": [[-0.73, -1.13]]}}",
            .traits = LK_SHIFT_FREE | LK_ROWWISE,
            .loss_shape = "N",
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(options),
    .parts = 1,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
