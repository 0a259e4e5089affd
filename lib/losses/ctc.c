/* SPDX-License-Identifier: MIT
 *
 * Connectionist temporal classification. A row is one example: its steps hang together, so that a
 * forward sweep over its logits finds alpha and the loss, and a backward one beta and the gradient.
 *
 * alpha and beta are products of as many probabilities as there are steps: numbers in double with
 * an exponent of their own. Like logarithms they never underflow, but adding two of them takes
 * neither an exponential nor a logarithm, and they keep their digits however long the example is.
 */
#include "../classrow.h"
#include "../scalarwise.h"

enum { LOGITS, TARGETS, INPUT_LENGTHS, TARGET_LENGTHS, UPSTREAM };

typedef struct options {
    lk_reduce reduce;
    int64_t blank;
    bool zero_infinity;
} options;

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(options, "mean", "none|sum|mean",
                       "one loss per example, their sum, or the mean of loss / max(length of the "
                       "target, 1)"),
    LK_FIELD(options, blank, "0", LK_RANGED, 0, (double)INFINITY, "the class that is no label"),
    LK_FIELD(options, zero_infinity, "false", 0, 0, 0,
             "an example whose target no path can give is worth 0 instead of infinity"),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    {0},
};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"B T C", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "scores of the classes at every step; softmax is applied inside"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"B S", LK_INTS}},
                 .range = "[0,C) except blank",
                 .help = "labels; those beyond an example's target_lengths are not read"},
    [INPUT_LENGTHS] = {.name = "input_lengths",
                       .forms = {{"B", LK_INTS}},
                       .range = "[1,T]",
                       .help = "steps of each example; the ones beyond are not read"},
    [TARGET_LENGTHS] = {.name = "target_lengths",
                        .forms = {{"B", LK_INTS}},
                        .range = "[0,S]",
                        .help = "labels of each example"},
    [UPSTREAM] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static int64_t size(const lk_job *job, char letter)
{
    return job->size[letter - 'A'];
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t C = size(job, 'C');
    if (job->rows > 0 && size(job, 'T') == 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, LOGITS, -1,
                       "logits has no steps; an example must have at least 1");
    if (job->rows > 0 && C == 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, LOGITS, -1,
                       "logits has no classes; the class axis must have at least 1");
    if (job->rows > 0 && o->blank >= C)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "blank is %lld; with %lld classes it must be in [0, %lld]",
                       (long long)o->blank, (long long)C, (long long)C - 1);
    return LK_OK;
}

static lk_status check_lengths(const lk_job *job, int input, int64_t least, int64_t most,
                               lk_error *error)
{
    char place[LK_PLACE_MAX];
    for (int64_t b = 0; b < job->rows; b++) {
        const int64_t length = lk_int(&job->in[input], b);
        if (length < least || length > most)
            return lk_fail(job, error, LK_LENGTH_OUT_OF_RANGE, input, b,
                           "%s is %lld; it must be in [%lld, %lld]", lk_place(job, input, b, place),
                           (long long)length, (long long)least, (long long)most);
    }
    return LK_OK;
}

static lk_status check_targets(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t S = size(job, 'S'), C = size(job, 'C');
    char place[LK_PLACE_MAX];
    for (int64_t b = 0; b < job->rows; b++) {
        const int64_t end = b * S + lk_int(&job->in[TARGET_LENGTHS], b);
        for (int64_t i = b * S; i < end; i++) {
            const int64_t y = lk_int(&job->in[TARGETS], i);
            if (y < 0 || y >= C || y == o->blank)
                return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, TARGETS, i,
                               "%s is %lld; with %lld classes it must be in [0, %lld] and not "
                               "blank (%lld)",
                               lk_place(job, TARGETS, i, place), (long long)y, (long long)C,
                               (long long)C - 1, (long long)o->blank);
        }
    }
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    lk_status status = check_lengths(job, INPUT_LENGTHS, 1, size(job, 'T'), error);
    if (status == LK_OK)
        status = check_lengths(job, TARGET_LENGTHS, 0, size(job, 'S'), error);
    if (status == LK_OK)
        status = check_targets(job, error);
    job->counted = job->rows;
    job->denominator[0] = (double)job->rows;
    return status;
}

/* Numbers. */

static const double ln_2 = 0x1.62e42fefa39efp-1;

/* m 2^e >= 0: 1 <= m < 2, or m is 0; e is a whole number. */
typedef struct scaled {
    double m, e;
} scaled;

static const scaled nothing = {0, -1e307}, one = {1, 0};

/* 2^e for a whole e <= 0; 0 where it would not matter beside 1. */
static double power(double e)
{
    const uint64_t bits = (uint64_t)((e > -1000 ? e : -1023) + 1023) << 52;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* m is 0 or not subnormal. */
static scaled scaled_make(double m, double e)
{
    uint64_t bits;
    memcpy(&bits, &m, sizeof bits);
    e += (double)(int64_t)(bits >> 52) - 1023;
    bits = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1023 << 52;
    if (!(m > 0 && e > nothing.e))
        return nothing;
    memcpy(&m, &bits, sizeof m);
    return (scaled){m, e};
}

static scaled scaled_exp(double x)
{
    const double least = -700; /* its exponential is far from subnormal */
    if (x > least || isinf(x))
        return scaled_make(exp(x), 0);
    const double e = trunc(x / ln_2);
    return scaled_make(exp(x - e * ln_2), e);
}

static double scaled_log(scaled a)
{
    return a.m > 0 ? log(a.m) + a.e * ln_2 : -(double)INFINITY;
}

static scaled times(scaled a, scaled b)
{
    return scaled_make(a.m * b.m, a.e + b.e);
}

static scaled plus(scaled a, scaled b, scaled c)
{
    double top = a.e > b.e ? a.e : b.e;
    top = c.e > top ? c.e : top;
    return scaled_make(a.m * power(a.e - top) + b.m * power(b.e - top) + c.m * power(c.e - top),
                       top);
}

/* Divide n numbers by the power of two that leaves the greatest near 1; its exponent. */
static double level(scaled *a, int64_t n)
{
    double top = nothing.e;
    for (int64_t s = 0; s < n; s++)
        top = a[s].e > top ? a[s].e : top;
    for (int64_t s = 0; s < n && top > nothing.e; s++)
        a[s].e = a[s].m > 0 ? a[s].e - top : nothing.e;
    return top > nothing.e ? top : 0;
}

/* Scratch: of one example. */

/* The normaliser of a step's softmax. */
typedef struct step {
    double top, sum, log_sum;
} step;

typedef struct example {
    const lk_job *job;
    int64_t C, blank;
    const elem *x;
    elem *grad; /* may be x; NULL: not wanted */
    int64_t T;  /* its steps */
    int64_t n;  /* its labels */
    int64_t D;  /* its distinct classes, blank among them */

    step *steps;      /* [T] */
    scaled *alpha;    /* [T][U], U = 2 n + 1 */
    scaled *beta;     /* [U] of a step, its own probabilities included */
    scaled *p;        /* [D] softmax of the distinct classes at a step */
    double *l;        /* [D] their scores */
    double *mass;     /* [D] gamma of each */
    int64_t *classes; /* [D] which they are, in ascending order */
    int64_t *slot;    /* [U] which of them the extended label s is */
    bool *skips;      /* [U] may a path come to s from s - 2? */
    int32_t *known;   /* [C] 0 between examples */
} example;

/* A target of more labels than steps has no path, so that its labels need no room. */
static int64_t most_labels(const lk_job *job)
{
    return size(job, 'S') < size(job, 'T') ? size(job, 'S') : size(job, 'T');
}

static size_t scratch_size(const lk_job *job)
{
    if (job->rows == 0)
        return 0;
    const size_t T = (size_t)size(job, 'T'), n = (size_t)most_labels(job), U = 2 * n + 1;
    const size_t most = (size_t)1 << 50; /* more than there is */
    if (T > most / sizeof(scaled) / U)
        return most;
    return T * U * sizeof(scaled) + T * sizeof(step) +
           U * (sizeof(scaled) + sizeof(int64_t) + sizeof(bool)) +
           (n + 1) * (sizeof(scaled) + 2 * sizeof(double) + sizeof(int64_t)) +
           (size_t)size(job, 'C') * sizeof(int32_t);
}

static example example_make(const lk_job *job, void *scratch)
{
    const options *o = job->options;
    const int64_t T = size(job, 'T'), n = most_labels(job), U = 2 * n + 1;
    example e = {.job = job, .C = size(job, 'C'), .blank = o->blank};
    e.alpha = scratch;
    e.steps = (step *)(e.alpha + T * U);
    e.beta = (scaled *)(e.steps + T);
    e.p = e.beta + U;
    e.l = (double *)(e.p + n + 1);
    e.mass = e.l + n + 1;
    e.classes = (int64_t *)(e.mass + n + 1);
    e.slot = e.classes + n + 1;
    e.known = (int32_t *)(e.slot + U);
    e.skips = (bool *)(e.known + e.C);
    memset(e.known, 0, (size_t)e.C * sizeof *e.known);
    return e;
}

static int64_t label(const example *e, int64_t b, int64_t i)
{
    return lk_int(&e->job->in[TARGETS], b * size(e->job, 'S') + i);
}

/* How many steps the shortest path has: equal neighbours need a blank between them. */
static int64_t shortest(const example *e, int64_t b)
{
    int64_t steps = e->n;
    for (int64_t i = 1; i < e->n; i++)
        steps += label(e, b, i) == label(e, b, i - 1);
    return steps;
}

/* The extended labels, and which classes are among them. */
static void example_labels(example *e, int64_t b)
{
    e->known[e->blank] = 1;
    for (int64_t i = 0; i < e->n; i++)
        e->known[label(e, b, i)] = 1;
    e->D = 0;
    for (int64_t k = 0; k < e->C; k++) {
        if (!e->known[k])
            continue;
        e->known[k] = (int32_t)e->D;
        e->classes[e->D++] = k;
    }
    for (int64_t s = 0; s <= 2 * e->n; s++) {
        const int64_t k = s % 2 ? label(e, b, s / 2) : e->blank;
        e->slot[s] = e->known[k];
        e->skips[s] = s > 1 && s % 2 && k != label(e, b, s / 2 - 1);
    }
    for (int64_t j = 0; j < e->D; j++)
        e->known[e->classes[j]] = 0;
}

/* Steps. */

/* The normaliser of step t. The classes that matter stay out of the sum over the others, which is
 * in the computing type: where one of them has nearly all of the probability, the others keep their
 * digits, and so does the gradient. */
static void step_normalise(example *e, const class_plan *p, int64_t t)
{
    const elem *x = e->x + t * e->C;
    step *s = &e->steps[t];
    real z[CHUNK], greatest = -(real)INFINITY;
    double rest = 0;
    for (int64_t k = 0, j = 0; k < e->C; k += CHUNK) {
        const int64_t n = e->C - k < CHUNK ? e->C - k : CHUNK, padded = class_padded(n);
        const real top = class_scores(p, x + k, n, z);
        for (; j < e->D && e->classes[j] < k + n; j++) {
            e->l[j] = (double)z[e->classes[j] - k];
            z[e->classes[j] - k] = -(real)INFINITY;
        }
        if (top > greatest) {
            if (rest > 0)
                rest *= exp((double)greatest - (double)top);
            greatest = top;
        }
        /* Until something finite has come: e^(-inf - 0) is 0, e^(NaN - 0) is NaN. */
        rest += (double)class_sum_exp(z, padded, isinf(greatest) && greatest < 0 ? 0 : greatest);
    }
    s->top = (double)greatest;
    s->sum = rest;
    for (int64_t j = 0; j < e->D; j++)
        s->sum += exp(e->l[j] - s->top);
    s->log_sum = log(s->sum);
}

/* The probabilities of the classes that matter. */
static void step_scores(const example *e, int64_t t)
{
    const step *s = &e->steps[t];
    for (int64_t j = 0; j < e->D; j++) {
        const double x = (double)r_load(e->x + t * e->C + e->classes[j]);
        e->p[j] = scaled_exp((x - s->top) - s->log_sum);
    }
}

/* alpha_0(s), and then alpha_t(s) from alpha_(t-1). What they were levelled by. */
static double forward(const example *e, int64_t t)
{
    const int64_t U = 2 * e->n + 1;
    scaled *now = e->alpha + t * U;
    const scaled *last = now - U;
    for (int64_t s = 0; s < U; s++) {
        scaled before = s < 2 ? one : nothing;
        if (t > 0)
            before =
                plus(last[s], s > 0 ? last[s - 1] : nothing, e->skips[s] ? last[s - 2] : nothing);
        now[s] = times(before, e->p[e->slot[s]]);
    }
    return level(now, U);
}

/* log P of the target, NaN if a step has no softmax. */
static double log_probability(example *e, const class_plan *p)
{
    const int64_t U = 2 * e->n + 1;
    double shift = 0;
    bool none = false;
    for (int64_t t = 0; t < e->T; t++) {
        step_normalise(e, p, t);
        none = none || !(e->steps[t].sum > 0);
        if (none)
            continue;
        step_scores(e, t);
        shift += forward(e, t);
    }
    if (none)
        return (double)NAN;
    const scaled *last = e->alpha + (e->T - 1) * U;
    scaled P = plus(last[U - 1], U > 1 ? last[U - 2] : nothing, nothing);
    P.e += P.m > 0 ? shift : 0;
    return scaled_log(P);
}

/* beta_t(s) from beta_(t+1) with the probabilities of t + 1, in its place. */
static void backward(const example *e, int64_t t)
{
    const int64_t U = 2 * e->n + 1;
    scaled *b = e->beta;
    for (int64_t s = 0; s < U; s++) {
        if (t == e->T - 1)
            b[s] = s >= U - 2 ? one : nothing;
        else
            b[s] = plus(b[s], s + 1 < U ? b[s + 1] : nothing,
                        s + 2 < U && e->skips[s + 2] ? b[s + 2] : nothing);
    }
}

/* gamma of the distinct classes at step t. alpha beta adds up to P at every step: dividing by this
 * step's own sum leaves no rounding of the others in it. */
static void occupy(const example *e, int64_t t)
{
    const int64_t U = 2 * e->n + 1;
    scaled *share = e->alpha + t * U;
    double sum = 0;
    for (int64_t s = 0; s < U; s++)
        share[s] = times(share[s], e->beta[s]);
    (void)level(share, U);
    for (int64_t j = 0; j < e->D; j++)
        e->mass[j] = 0;
    for (int64_t s = 0; s < U; s++) {
        const double x = share[s].m * power(share[s].e);
        e->mass[e->slot[s]] += x;
        sum += x;
    }
    for (int64_t j = 0; j < e->D; j++)
        e->mass[j] /= sum;
}

/* rho (p - gamma), over the scores if need be. */
static void step_gradient(const example *e, int64_t t, double rho)
{
    const step *s = &e->steps[t];
    const elem *x = e->x + t * e->C;
    elem *grad = e->grad + t * e->C;
    const vec top = v_set((real)s->top), by = v_set((real)(rho / s->sum));
    for (int64_t k = 0; k < e->C; k += LANES) {
        const int64_t n = LK_TAIL(k, e->C);
        v_store_tail(grad + k, n, by * v_exp_nonpos(v_load_tail(x + k, n, 0) - top));
    }
    for (int64_t j = 0; j < e->D; j++) {
        const scaled q = e->p[j];
        const double p = q.m * power(q.e < 0 ? q.e : 0);
        r_store(grad + e->classes[j], (real)(rho * (p - e->mass[j])));
    }
}

static void gradient(const example *e, double rho)
{
    const int64_t U = 2 * e->n + 1;
    for (int64_t t = e->T - 1; t >= 0; t--) {
        step_scores(e, t);
        backward(e, t);
        occupy(e, t);
        step_gradient(e, t, rho);
        for (int64_t s = 0; s < U; s++)
            e->beta[s] = times(e->beta[s], e->p[e->slot[s]]);
        (void)level(e->beta, U);
    }
}

static void fill(elem *to, int64_t n, real x)
{
    for (int64_t k = 0; k < n; k++)
        r_store(to + k, x);
}

/* Rows. */

static bool refuse(const lk_job *job, const example *e, int64_t b, lk_block *block)
{
    const options *o = job->options;
    const int64_t k = o->reduce.nonfinite == LK_PROPAGATE ? -1 : class_nonfinite(e->x, e->T * e->C);
    if (k < 0)
        return false;
    scalar_refuse(block, LK_NONFINITE_INPUT, LOGITS, b * size(job, 'T') * e->C + k);
    return true;
}

/* -log P of example b, and its gradient. `share` is what the reduction multiplies it with. */
static double one_example(example *e, const class_plan *p, int64_t b, double share)
{
    const options *o = e->job->options;
    const bool longer = shortest(e, b) > e->T;
    if (longer)
        e->n = 0; /* only to see whether all steps have a softmax */
    example_labels(e, b);
    double log_p = log_probability(e, p);
    if (longer && !isnan(log_p))
        log_p = -(double)INFINITY;
    const double rho = share * e->job->scale[0] * scalar_constant(e->job, UPSTREAM, b, 1);
    if (e->grad && isnan(log_p))
        fill(e->grad, e->T * e->C, (real)NAN);
    else if (e->grad && (isinf(log_p) || rho == 0))
        memset(e->grad, 0, (size_t)(e->T * e->C) * sizeof(elem));
    else if (e->grad)
        gradient(e, rho);
    if (isinf(log_p) && o->zero_infinity)
        return 0;
    return log_p >= 0 ? 0 : -log_p; /* nor is it negative by a rounding */
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const int64_t whole = size(job, 'T') * size(job, 'C');
    const class_plan p = {.classes = size(job, 'C'), .width = size(job, 'C'), .scale = 1};
    const elem *logits = job->in[LOGITS].data;
    elem *grad = job->grad[LOGITS].data;
    example e = example_make(job, scratch);
    for (int64_t b = first; b < first + count; b++) {
        e.x = logits + b * whole;
        e.grad = grad ? grad + b * whole : NULL;
        e.T = lk_int(&job->in[INPUT_LENGTHS], b);
        e.n = lk_int(&job->in[TARGET_LENGTHS], b);
        if (refuse(job, &e, b, block))
            continue;
        const int64_t used = e.T * e.C;
        const double share = o->reduce.reduction == LK_MEAN && e.n > 0 ? 1 / (double)e.n : 1;
        const double value = share * one_example(&e, &p, b, share);
        if (e.grad)
            memset(e.grad + used, 0, (size_t)(whole - used) * sizeof(elem));
        block->sum[0] += value;
        if (o->reduce.reduction == LK_NONE && job->value.data)
            lk_put(&job->value, b, value);
    }
}

/* Beside a score, a step costs a few exponentials for each label. */
static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    const double cost =
        (double)size(job, 'T') * ((double)size(job, 'C') + 64 * (double)most_labels(job));
    return cost < 0x1p40 ? (int64_t)cost : (int64_t)1 << 40;
}

LK_LOSS(ctc) = {
    .is =
        {
            .name = "ctc",
            .title = "Connectionist temporal classification",
            .formula = "-log of the sum, over all paths of one class a step that give the target "
                       "once repeats are merged and blanks removed, of the product of "
                       "softmax(logits) along the path",
            .help = "Trains a recogniser of speech or handwriting without knowing which step says "
                    "which label. A target that no path gives, because it is longer than the "
                    "input, is worth infinity and has no gradient.",
            .reference = "Graves et al. 2006; PyTorch CTCLoss",
            .example = "{\"inputs\": {\"logits\": [[[0.1, 0.6, 0.1, 0.1, 0.1], "
                       "[0.1, 0.1, 0.6, 0.1, 0.1]]], \"targets\": [[1, 2]], "
                       "\"input_lengths\": [2], \"target_lengths\": [2]}}",
            .traits = LK_NONNEGATIVE | LK_SHIFT_FREE | LK_ROWWISE,
            .loss_shape = "B",
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(options),
    .parts = 1,
    .row_cost = row_cost,
    .check = check,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
