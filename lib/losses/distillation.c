/* SPDX-License-Identifier: MIT
 *
 * A student learns the distribution over all classes that a teacher gives.
 */
#include "rows/teacher.h"

enum { STUDENT, TEACHER_LOGITS, TEACHER_LOGPROBS, TEACHER_PROBS, TARGETS, MASK, GRAD_OUTPUT };
enum { FORWARD_KL, REVERSE_KL, JSD, TVD, SKEW_FORWARD_KL, MSE_LOGITS }; /* divergence */

typedef struct options {
    teacher_options common;
    int64_t ignore_index;
    double beta;
    int divergence;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(teacher_options),
    LK_WORDS(options, divergence, "forward_kl",
             "forward_kl|reverse_kl|jsd|tvd|skew_forward_kl|mse_logits",
             "how far the student is from the teacher"),
    LK_FIELD(options, beta, "0.5", LK_RANGED, 0, 1,
             "jsd, skew_forward_kl: the teacher's share of the mixture"),
    TEACHER_FIELDS(options),
    LK_FIELD(options, ignore_index, "-100", 0, 0, 0, "rows with this target are not read"),
    {0},
};

#define TEACHER(name_, range_, help_)                                                              \
    {                                                                                              \
        .name = (name_), .forms = {{"* V", LK_FLOATS}}, .flags = LK_OPTIONAL, .range = (range_),   \
        .help = (help_)                                                                            \
    }

static const lk_input inputs[] = {
    [STUDENT] = {.name = "student_logits",
                 .forms = {{"* V", LK_FLOATS}},
                 .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                 .help = "the student's scores"},
    [TEACHER_LOGITS] = TEACHER("teacher_logits", NULL, "the teacher's scores; or one of these:"),
    [TEACHER_LOGPROBS] =
        TEACHER("teacher_logprobs", "<=0", "its log-probabilities; no temperature applies"),
    [TEACHER_PROBS] =
        TEACHER("teacher_probs", "[0,1]", "its probabilities; no temperature applies"),
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INTS}},
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
    int teachers = 0;
    for (int i = TEACHER_LOGITS; i <= TEACHER_PROBS; i++)
        teachers += lk_has(job, i);
    if (teachers != 1)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "%d teachers are given; exactly one of teacher_logits, teacher_logprobs and "
                       "teacher_probs is needed",
                       teachers);
    if (o->divergence == MSE_LOGITS && !lk_has(job, TEACHER_LOGITS))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "divergence=mse_logits needs teacher_logits");
    if (job->size['V' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, STUDENT, -1,
                       "student_logits has no classes; the last axis must have at least 1");
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
    for (int64_t i = 0; i < job->rows; i++)
        job->counted += counts(job, i);
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

/* One counted row: both sides at their temperature. */
typedef struct pair {
    const elem *x;
    const real *y;  /* of the teacher, whatever it gives */
    int given;      /* which of its inputs */
    int divergence; /* jsd at the ends of its range is another one */
    int64_t classes;
    real scale, beta, log_beta, log_rest; /* log beta, log(1-beta) */
    class_norm student, teacher;
    double sum;               /* sum over k of p r, or of q: what is in every class's gradient */
    double plus, minus, even; /* tvd: the student's mass where p > q, p < q, p = q */
    real weight;              /* of the gradient */
} pair;

/* LANES classes of a row. */
typedef struct lanes {
    vec x, y;
    vec l, p, lq, q; /* logs and values of both distributions */
} lanes;

LK_INLINE lanes lanes_of(const pair *r, int64_t k, int64_t n)
{
    const vec log_sum = v_set((real)r->student.log_sum), top = v_set(r->student.top);
    lanes a = {.x = v_load_tail(r->x + k, n, 0), .y = v_read_tail(r->y + k, n, 0)};
    a.l = (a.x * r->scale - top) - log_sum;
    a.p = v_exp_nonpos(a.l);
    if (r->given == TEACHER_PROBS) {
        a.q = a.y;
        a.lq = v_log(a.y);
        return a;
    }
    a.lq = a.y;
    if (r->given == TEACHER_LOGITS)
        a.lq = (a.y * r->scale - v_set(r->teacher.top)) - v_set((real)r->teacher.log_sum);
    a.q = v_exp_nonpos(a.lq);
    return a;
}

/* log(beta q + (1-beta) p). */
LK_INLINE vec mixture(const pair *r, const lanes *a)
{
    const vec u = v_set(r->log_beta) + a->lq, v = v_set(r->log_rest) + a->l;
    const vec high = v_select(u > v, u, v), none = v_set(-(real)INFINITY);
    return v_select(high > none, high + v_log1p(v_exp_nonpos(-v_abs(u - v))), high);
}

/* a*b, but 0 where a is 0, whatever b is. */
LK_INLINE vec times(vec a, vec b)
{
    const vec zero = {0};
    return v_where(a != zero, a * b);
}

/* What a class adds to the row's value. */
LK_INLINE vec value_of(const pair *r, const lanes *a, const int divergence)
{
    const vec half = v_set((real)0.5), beta = v_set(r->beta), rest = v_set(1) - beta;
    switch (divergence) {
    case FORWARD_KL:
        return times(a->q, a->lq - a->l);
    case REVERSE_KL:
        return times(a->p, a->l - a->lq);
    case JSD: {
        const vec m = mixture(r, a);
        return beta * times(a->q, a->lq - m) + rest * times(a->p, a->l - m);
    }
    case TVD:
        return half * v_abs(a->p - a->q);
    case SKEW_FORWARD_KL:
        return times(a->q, a->lq - mixture(r, a));
    default:
        return (a->x - a->y) * (a->x - a->y);
    }
}

/* p r, whose sum over the classes the gradient subtracts, p times. In forward_kl q, p times whose
 * sum is what q is subtracted from: it is 1, but for what rounding or a teacher's caller made of
 * it. */
LK_INLINE vec slope_of(const pair *r, const lanes *a, const int divergence)
{
    const vec rest = v_set(1) - v_set(r->beta);
    switch (divergence) {
    case FORWARD_KL:
        return a->q;
    case REVERSE_KL:
        return times(a->p, a->l - a->lq);
    case JSD:
        return rest * times(a->p, a->l - mixture(r, a));
    default: { /* -(1-beta) q p / M, but for a multiple of p, which the sum takes away again */
        const vec m = mixture(r, a), zero = {0};
        return v_where((a->p != zero) & (rest != zero),
                       -rest * rest * ((a->q - a->p) * v_exp(a->l - m)));
    }
    }
}

LK_INLINE double sweep_values(pair *r, const int divergence, const bool slopes)
{
    double total = 0;
    const vec zero = {0};
    r->sum = r->plus = r->minus = r->even = 0;
    for (int64_t c = 0; c < r->classes; c += CHUNK) {
        const int64_t end = r->classes - c < CHUNK ? r->classes : c + CHUNK;
        vec value = {0}, slope = {0}, plus = {0}, minus = {0}, even = {0};
        for (int64_t k = c; k < end; k += LANES) {
            const int64_t n = LK_TAIL(k, end);
            const mask inside = m_first(n);
            const lanes a = lanes_of(r, k, n);
            value += v_where(inside, value_of(r, &a, divergence));
            if (slopes && divergence == TVD) {
                const vec p = v_where(inside, a.p), d = a.p - a.q;
                plus += v_where(d > zero, p);
                minus += v_where(d < zero, p);
                even += v_where(d == zero, p);
            } else if (slopes && divergence != MSE_LOGITS)
                slope += v_where(inside, slope_of(r, &a, divergence));
        }
        total += (double)v_sum(value);
        r->sum += (double)v_sum(slope);
        r->plus += (double)v_sum(plus);
        r->minus += (double)v_sum(minus);
        r->even += (double)v_sum(even);
    }
    if (divergence == FORWARD_KL && r->given == TEACHER_LOGITS)
        r->sum = 1;
    return total;
}

/* sign(p-q) less its mean under p, which is near it where one sign has most of the mass: the mass
 * of the others tells how far. */
LK_INLINE vec away_from_mean(const pair *r, vec d)
{
    const vec zero = {0}, above = v_set((real)(2 * r->minus + r->even));
    const vec below = v_set((real)(-2 * r->plus - r->even));
    const vec even = v_set((real)(r->minus - r->plus));
    return v_select(d > zero, above, v_select(d < zero, below, even));
}

LK_INLINE void sweep_gradient(const pair *r, elem *grad, const int divergence)
{
    const vec weight = v_set(r->weight), sum = v_set((real)r->sum), two = v_set(2);
    const vec half = v_set((real)0.5);
    for (int64_t k = 0; k < r->classes; k += LANES) {
        const int64_t n = LK_TAIL(k, r->classes);
        const lanes a = lanes_of(r, k, n);
        vec g = divergence == FORWARD_KL   ? a.p * sum - a.q
                : divergence == MSE_LOGITS ? two * (a.x - a.y)
                : divergence == TVD        ? half * a.p * away_from_mean(r, a.p - a.q)
                : divergence == REVERSE_KL ? times(a.p, (a.l - a.lq) - sum)
                                           : slope_of(r, &a, divergence) - a.p * sum;
        v_store_tail(grad + k, n, weight * g);
    }
}

/* A template for each divergence. */
#define DIVERGENCE(d)                                                                              \
    case d:                                                                                        \
        value = sweep_values(r, d, grad);                                                          \
        if (grad && isfinite(value + r->sum))                                                      \
            sweep_gradient(r, grad, d);                                                            \
        else if (grad && d == FORWARD_KL && !isnan(value))                                         \
            sweep_gradient(r, grad, d);                                                            \
        else if (grad)                                                                             \
            class_fill(grad, r->classes, (real)NAN);                                               \
        break;

static double one_row(pair *r, elem *grad)
{
    double value = (double)NAN;
    switch (r->divergence) {
        DIVERGENCE(FORWARD_KL)
        DIVERGENCE(REVERSE_KL)
        DIVERGENCE(JSD)
        DIVERGENCE(TVD)
        DIVERGENCE(SKEW_FORWARD_KL)
        DIVERGENCE(MSE_LOGITS)
    default:
        break;
    }
    return value;
}

/* The first number of a row that is outside the teacher's range; NaN passes, and makes NaN. */
static void check_teacher(const lk_job *job, const pair *r, int64_t i, lk_block *block)
{
    for (int64_t k = 0; k < r->classes && r->given != TEACHER_LOGITS; k++) {
        real y;
        memcpy(&y, r->y + k, sizeof y);
        if (r->given == TEACHER_LOGPROBS ? y > 0 : y < 0 || y > 1) {
            teacher_bad(block, LK_VALUE_OUT_OF_RANGE, r->given, i * job->size['V' - 'A'] + k);
            return;
        }
    }
}

static pair pair_of(const lk_job *job)
{
    const options *o = job->options;
    pair r = {.classes = job->size['V' - 'A'], .divergence = o->divergence};
    const bool mixed = o->divergence == JSD || o->divergence == SKEW_FORWARD_KL;
    for (int i = TEACHER_LOGITS; i <= TEACHER_PROBS; i++)
        if (lk_has(job, i))
            r.given = i;
    if (mixed && o->beta == 0)
        r.divergence = FORWARD_KL;
    else if (o->divergence == JSD && o->beta == 1)
        r.divergence = REVERSE_KL;
    r.scale = (real)teacher_scale(&o->common);
    r.beta = (real)o->beta;
    r.log_beta = (real)log(o->beta);
    r.log_rest = (real)log1p(-o->beta);
    return r;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const bool per_row = o->common.reduce.reduction == LK_NONE, raw = o->divergence == MSE_LOGITS;
    const int64_t V = job->size['V' - 'A'];
    const double factor = raw ? 1 / (double)V : teacher_factor(&o->common);
    const double chain = raw ? factor : factor * teacher_scale(&o->common);
    const real *up = job->in[GRAD_OUTPUT].data;
    const class_options scores = {.logit_scale = 1 / o->common.temperature};
    const class_plan plan = class_plan_make(job, &scores, V);
    pair r = pair_of(job);
    (void)scratch;
    for (int64_t i = first; i < first + count; i++) {
        elem *grad = job->grad[STUDENT].data ? (elem *)job->grad[STUDENT].data + i * V : NULL;
        real upstream = 1;
        double value = 0;
        if (counts(job, i)) {
            if (up)
                memcpy(&upstream, up + (per_row ? i : 0), sizeof upstream);
            r.x = (const elem *)job->in[STUDENT].data + i * V;
            r.y = (const real *)job->in[r.given].data + i * V;
            r.weight = (real)(job->scale[0] * (double)upstream * chain);
            const class_row row = {.x = r.x, .y = -1};
            const int64_t bad =
                o->common.reduce.nonfinite == LK_REFUSE_NONFINITE ? class_nonfinite(r.x, V) : -1;
            if (bad >= 0)
                teacher_bad(block, LK_NONFINITE_INPUT, STUDENT, i * V + bad);
            check_teacher(job, &r, i, block);
            r.student = class_normalise(&plan, &row);
            if (r.given == TEACHER_LOGITS)
                r.teacher = teacher_normalise(r.y, V, r.scale);
            value = factor * one_row(&r, grad);
        } else if (grad) {
            memset(grad, 0, (size_t)V * sizeof(elem));
        }
        block->sum[0] += value;
        if (per_row && job->value.data)
            lk_put(&job->value, i, value);
    }
}

LK_LOSS(distillation) = {
    .is =
        {
            .name = "distillation",
            .title = "Distillation: divergence of a student from a teacher",
            .formula =
                "p = softmax(student/T), q the teacher's. forward_kl: sum q (log q - log p); "
                "reverse_kl: sum p (log p - log q); jsd: beta KL(q|M) + (1-beta) KL(p|M), "
                "M = beta q + (1-beta) p; tvd: sum |p-q| / 2; skew_forward_kl: KL(q|M); "
                "mse_logits: mean (x-y)^2. All but the last times T^2",
            .help = "The teacher comes as logits, log-probabilities or probabilities. jsd with "
                    "beta 0 is forward_kl, with beta 1 reverse_kl.",
            .reference = "Hinton et al. 2015; Agarwal et al. 2024 (GKD)",
            .example = "{\"inputs\": {\"student_logits\": [[1.2, -0.8, -0.5]], "
                       "\"teacher_logits\": [[0.5, 0.1, -0.4]]}, \"options\": "
                       "{\"temperature\": 2}}",
            .traits = LK_SHIFT_FREE | LK_ROWWISE,
            .loss_shape = "*",
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(options),
    .parts = 1,
    .check = check,
    .prepare = prepare,
    .rows = rows,
};
