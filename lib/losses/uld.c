/* SPDX-License-Identifier: MIT
 *
 * Universal logit distillation: a student learns from a teacher of another vocabulary, by how
 * probable the first, the second, ... of all tokens is to either.
 */
#include "ranks.h"
#include "rows/teacher.h"

enum { STUDENT, TEACHER_LOGITS, TEACHER_PROBS, MASK, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
    double temperature, teacher_temperature; /* NaN: as the student's */
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, temperature, "1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "divides the student's scores before softmax"),
    LK_FIELD(options, teacher_temperature, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "divides teacher_logits; off: as temperature"),
    {0},
};

static const lk_input inputs[] = {
    [STUDENT] = {.name = "student_logits",
                 .forms = {{"* V", LK_FLOATS}},
                 .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                 .help = "the student's scores"},
    [TEACHER_LOGITS] = {.name = "teacher_logits",
                        .forms = {{"* W", LK_FLOATS}},
                        .flags = LK_OPTIONAL,
                        .help = "the teacher's scores, of its own vocabulary; or teacher_probs"},
    [TEACHER_PROBS] = {.name = "teacher_probs",
                       .forms = {{"* W", LK_FLOATS}},
                       .flags = LK_OPTIONAL,
                       .range = "[0,1]",
                       .help = "its probabilities; no temperature applies"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "rows with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static int64_t size(const lk_job *job, char letter)
{
    return job->size[letter - 'A'];
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const bool logits = lk_has(job, TEACHER_LOGITS), probs = lk_has(job, TEACHER_PROBS);
    if (!logits && !probs)
        return lk_fail(job, error, LK_MISSING_INPUT, TEACHER_LOGITS, -1,
                       "teacher_logits is missing; give the teacher's scores, or teacher_probs");
    if (job->rows > 0 && size(job, 'V') == 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, STUDENT, -1,
                       "student_logits has no classes; the last axis must have at least 1");
    if (job->rows > 0 && size(job, 'W') == 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, logits ? TEACHER_LOGITS : TEACHER_PROBS, -1,
                       "the teacher has no classes; the last axis must have at least 1");
    if (logits && probs)
        return lk_fail(job, error, LK_OPTION_CONFLICT, TEACHER_PROBS, -1,
                       "teacher_logits and teacher_probs are both given; leave one of them out");
    if (probs && lk_given(job, "teacher_temperature"))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "teacher_temperature applies to teacher_logits, not to teacher_probs");
    return LK_OK;
}

static bool counts(const lk_job *job, int64_t i)
{
    return !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)error;
    for (int64_t i = 0; i < job->rows; i++)
        job->counted += counts(job, i);
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

/* Scratch of a row. */
typedef struct room {
    lk_rank *ranks, *other; /* of either side */
    double *teacher;        /* its probabilities, the greatest first */
    real *e;                /* e^(z - top) of the student's classes, or what the teacher's are of */
    real *sign;             /* of p - q, of each of the student's classes */
} room;

static room room_of(const lk_job *job, void *scratch, size_t *bytes)
{
    const int64_t V = size(job, 'V'), W = size(job, 'W'), most = V > W ? V : W;
    const size_t ranks = (size_t)most * sizeof(lk_rank), teacher = (size_t)W * sizeof(double);
    const size_t reals = (size_t)padded_lanes(most) * sizeof(real);
    char *at = scratch;
    *bytes = 2 * ranks + teacher + 2 * reals;
    if (!at)
        return (room){0};
    return (room){(lk_rank *)at, (lk_rank *)(at + ranks), (double *)(at + 2 * ranks),
                  (real *)(at + 2 * ranks + teacher), (real *)(at + 2 * ranks + teacher + reals)};
}

static size_t scratch_size(const lk_job *job)
{
    size_t bytes;
    (void)room_of(job, NULL, &bytes);
    return bytes;
}

/* The teacher's probabilities, the greatest first. False: it has none. */
static bool teacher_sorted(const lk_job *job, const room *r, int64_t i, lk_block *block)
{
    const options *o = job->options;
    const int64_t n = size(job, 'W');
    const double own = isnan(o->teacher_temperature) ? o->temperature : o->teacher_temperature;
    const bool given = job->in[TEACHER_PROBS].data;
    const real *q = (const real *)job->in[given ? TEACHER_PROBS : TEACHER_LOGITS].data + i * n;
    double sum = 1; /* probabilities that are given stay as they are */
    if (!given) {
        sum = teacher_exponentials(q, false, n, (real)class_clamp(1 / own), r->e);
        q = r->e;
    }
    for (int64_t k = 0; k < n; k++) {
        if (given && !(q[k] >= 0 && q[k] <= 1))
            lk_refuse(block, LK_VALUE_OUT_OF_RANGE, TEACHER_PROBS, i * n + k, (double)q[k]);
        r->ranks[k] = (lk_rank){lk_rank_key((double)q[k]), k};
    }
    const lk_rank *sorted = lk_ranks_sort(r->ranks, r->other, n);
    for (int64_t k = 0; k < n; k++)
        r->teacher[k] = (double)q[sorted[k].at] / sum;
    return !isnan(sum);
}

/* The student's mass where p is more than q of its rank, less, and the same; and the loss. */
typedef struct distance {
    double loss, more, less, even;
    double sum; /* of the student's e^(z - top); NaN: either side has no softmax */
} distance;

static distance compare(const lk_job *job, const room *r, const elem *x)
{
    const options *o = job->options;
    const int64_t V = size(job, 'V'), W = size(job, 'W');
    distance d = {
        .sum = teacher_exponentials(x, true, V, (real)class_clamp(1 / o->temperature), r->e)};
    if (isnan(d.sum))
        return d;
    for (int64_t k = 0; k < V; k++)
        r->ranks[k] = (lk_rank){lk_rank_key((double)r_load(x + k)), k};
    const lk_rank *sorted = lk_ranks_sort(r->ranks, r->other, V);
    for (int64_t k = 0; k < V || k < W; k++) {
        const double p = k < V ? (double)r->e[sorted[k].at] / d.sum : 0;
        const double q = k < W ? r->teacher[k] : 0;
        d.loss += fabs(p - q);
        *(p > q ? &d.more : p < q ? &d.less : &d.even) += p;
        if (k < V)
            r->sign[sorted[k].at] = (real)((p > q) - (p < q));
    }
    return d;
}

/* p (s - sum of p s) / temperature, s the signs: the last two differ by masses that do not
 * cancel. */
static void gradient(const room *r, const distance *d, double weight, int64_t n, elem *grad)
{
    const int power = elements_power(weight);
    const vec by = v_set((real)(ldexp(weight, -power) / d->sum)), zero = {0};
    const vec more = v_set((real)(2 * d->less + d->even));
    const vec less = v_set((real)(-2 * d->more - d->even));
    const vec even = v_set((real)(d->less - d->more));
    for (int64_t k = 0; k < n; k += LANES) {
        const vec sign = v_read(r->sign + k);
        const vec slope = v_select(sign > zero, more, v_select(sign < zero, less, even));
        v_store_tail(grad + k, LK_TAIL(k, n), by * v_read(r->e + k) * slope);
    }
    if (power != 0)
        elements_scale(grad, n, power);
}

/* The loss of row i, 0 if it is not counted, and its gradient. */
static double one_row(const lk_job *job, int64_t i, const room *r, lk_block *block)
{
    const options *o = job->options;
    const int64_t V = size(job, 'V');
    const elem *x = (const elem *)job->in[STUDENT].data + i * V;
    elem *grad = job->grad[STUDENT].data ? (elem *)job->grad[STUDENT].data + i * V : NULL;
    const real *up = job->in[GRAD_OUTPUT].data;
    const bool each = o->reduce.reduction == LK_NONE;
    const double weight = job->scale[0] * (up ? (double)up[each ? i : 0] : 1);
    const int64_t bad = o->reduce.nonfinite == LK_REFUSE_NONFINITE && counts(job, i)
                            ? elements_nonfinite(x, V)
                            : -1;
    distance d = {0};
    if (bad >= 0)
        lk_refuse(block, LK_NONFINITE_INPUT, STUDENT, i * V + bad, (double)r_load(x + bad));
    else if (counts(job, i) && teacher_sorted(job, r, i, block))
        d = compare(job, r, x);
    else if (counts(job, i))
        d.sum = (double)NAN;
    if (grad && (!counts(job, i) || weight == 0))
        memset(grad, 0, (size_t)V * sizeof *grad);
    else if (grad && (isnan(d.sum) || bad >= 0))
        elements_fill(grad, V, (real)NAN);
    else if (grad)
        gradient(r, &d, weight * class_clamp(1 / o->temperature), V, grad);
    return isnan(d.sum) ? d.sum : d.loss;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    size_t bytes;
    const room r = room_of(job, scratch, &bytes);
    for (int64_t i = first; i < first + count; i++) {
        const double loss = one_row(job, i, &r, block);
        block->sum[0] += loss;
        if (o->reduce.reduction == LK_NONE && job->value.data)
            lk_put(&job->value, i, loss);
    }
}

/* To sort costs more than all the rest. */
static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    return 16 * (size(job, 'V') + size(job, 'W'));
}

static const char tex[] =
    "\\ell = \\sum_i \\left\\lvert p_{(i)} - q_{(i)}\\right\\rvert,\\quad p = "
    "\\operatorname{softmax}(\\text{student}/\\tau),\\ q\\ \\text{the teacher's},\\ \\text{each "
    "sorted, the shorter one followed by zeros}";

LK_DESCRIBE(uld, .tex = tex, .title = "Universal logit distillation",
            .formula =
                "sum_i |p_(i) - q_(i)|, p = softmax(student/temperature) and the teacher's q "
                "each sorted from the greatest on, the shorter one followed by zeros",
            .help = "Distils from a teacher of another vocabulary: what counts is how sharp its "
                    "distribution is, not which tokens it prefers. A run needs 56 bytes for each "
                    "class of the larger vocabulary.",
            .reference = "Boizard et al. 2024; TRL GOLDTrainer",
            .example = "{\"inputs\": {\"student_logits\": [[1.2, -0.8, -0.5]], "
                       "\"teacher_logits\": [[0.5, 0.1, -0.4, 1.0]]}}",
            .traits = LK_NONNEGATIVE | LK_SHIFT_FREE | LK_ROWWISE, .loss_shape = "*",
            .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(uld) = {
    .is = &LK_IS(uld),
    .options_size = sizeof(options),
    .parts = 1,
    .row_cost = row_cost,
    .check = check,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
