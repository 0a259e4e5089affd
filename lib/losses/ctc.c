/* SPDX-License-Identifier: MIT
 *
 * Connectionist temporal classification. A row is one example, because its steps are coupled: a
 * forward sweep over its logits computes alpha and the loss, a backward sweep computes beta and the
 * gradient.
 */
#include "rows/class_row.h"
#include "rows/lattice.h"
#include "rows/scalar.h"
#include "vector/vmath.h"

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(lattice_options, "mean", "none|sum|mean",
                       "one loss per example, their sum, or the mean of loss / max(length of the "
                       "target, 1)"),
    LATTICE_FIELDS,
    {0},
};

static const lk_input inputs[] = {
    LATTICE_INPUTS("B T C", "C", "S",
                   "scores of the classes at every step; softmax is applied inside"),
    {0},
};

static const lk_output outputs[] = {{0}};

static int64_t size(const lk_job *job, char letter)
{
    return job->size[letter - 'A'];
}

static lk_status check(const lk_job *job, lk_error *error)
{
    return lattice_check(job, size(job, 'C'), error);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    lk_status status = lattice_check_targets(job, size(job, 'C'), error);
    job->counted = job->rows;
    job->denominator[0] = (double)job->rows;
    return status;
}

/* Numbers. */

LK_INLINE scaled if_any(double condition, scaled a)
{
    return (scaled){condition > 0 ? a.m : 0, condition > 0 ? a.e : scaled_zero.e};
}

/* a + b + c, not normalised, as by scaled_plus: m < 6. */
LK_INLINE scaled plus_three(scaled a, scaled b, scaled c)
{
    double top = a.e > b.e ? a.e : b.e;
    top = c.e > top ? c.e : top;
    return (scaled){a.m * scaled_power(a.e - top) + b.m * scaled_power(b.e - top) +
                        c.m * scaled_power(c.e - top),
                    top};
}

/* Arrays of such numbers, for loops that the compiler vectorises. */
typedef struct scaleds {
    double *m, *e;
} scaleds;

/* Before such a loop: tells the compiler that stores do not alias loads. */
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

LK_INLINE scaled get(scaleds a, int64_t i)
{
    return (scaled){a.m[i], a.e[i]};
}

LK_INLINE void put(scaleds a, int64_t i, scaled x)
{
    a.m[i] = x.m;
    a.e[i] = x.e;
}

/* Scratch: of one example. */

/* The states of a path: one of the n labels, or the blank before label i or after the last one.
 * Labels and blanks are separate arrays, since each kind has its own formula. */
typedef struct states {
    scaleds label; /* [n], with zeros at -1 and n */
    scaleds blank; /* [n + 1] */
} states;

/* The normaliser of a step's softmax. */
typedef struct step {
    double top, sum;
} step;

typedef struct example {
    const lk_job *job;
    int64_t C, blank;
    const elem *x;
    elem *grad; /* may be x; NULL: not wanted */
    int64_t T;  /* its steps */
    int64_t n;  /* its labels */
    int64_t D;  /* its distinct classes, blank among them */

    step *steps;     /* [T] */
    double *alpha;   /* [T + 1] states: before the first step, and after each */
    states beta;     /* before a step */
    states behind;   /* the same without the step's own probabilities; m < 6 */
    scaled *p;       /* [T][D] softmax of the distinct classes */
    scaleds p_label; /* [n] the same of the labels at a step */
    double *skips;   /* [n + 1] 1: if a path may go from label i - 1 directly to label i, else 0 */
    double *occupancy; /* [n] gamma of each label at a step */
    double *l;         /* [D] scores of the distinct classes */
    double *mass;      /* [D] gamma of each */
    int64_t *classes;  /* [D] which they are, in ascending order */
    int64_t *slot;     /* [n + 1] index in `classes` of label i, and at n that of the blank */
    int32_t *known;    /* [C] 0 between examples */
} example;

/* A target of more labels than steps has no path, so that its labels need no room. */
static int64_t most_labels(const lk_job *job)
{
    return size(job, 'S') < size(job, 'T') ? size(job, 'S') : size(job, 'T');
}

/* Doubles. */
static int64_t states_size(int64_t n)
{
    return 2 * (n + 2) + 2 * (n + 1);
}

static states states_at(double *where, int64_t n)
{
    double *blank = where + 2 * (n + 2);
    return (states){.label = {where + 1, where + n + 3}, .blank = {blank, blank + n + 1}};
}

static void states_clear(states a, int64_t n)
{
    for (int64_t i = -1; i <= n; i++)
        put(a.label, i, scaled_zero);
    for (int64_t i = 0; i <= n; i++)
        put(a.blank, i, scaled_zero);
}

static states alpha_at(const example *e, int64_t t)
{
    return states_at(e->alpha + t * states_size(e->n), e->n);
}

static size_t scratch_size(const lk_job *job)
{
    if (job->rows == 0)
        return 0;
    const size_t T = (size_t)size(job, 'T'), n = (size_t)most_labels(job);
    const size_t of_states = (size_t)states_size((int64_t)n) * sizeof(double);
    const size_t of_step = of_states + sizeof(step) + (n + 1) * sizeof(scaled);
    const size_t most = (size_t)1 << 50; /* more than there is */
    if (T > most / of_step)
        return most;
    return T * of_step + 3 * of_states + (n + 1) * (6 * sizeof(double) + 2 * sizeof(int64_t)) +
           (size_t)size(job, 'C') * sizeof(int32_t);
}

static example example_make(const lk_job *job, void *scratch)
{
    const lattice_options *o = job->options;
    const int64_t T = size(job, 'T'), n = most_labels(job);
    example e = {.job = job, .C = size(job, 'C'), .blank = o->blank};
    e.alpha = scratch;
    double *next = e.alpha + (T + 1) * states_size(n);
    e.beta = states_at(next, n);
    e.behind = states_at(next + states_size(n), n);
    e.p = (scaled *)(next + 2 * states_size(n));
    e.steps = (step *)(e.p + T * (n + 1));
    next = (double *)(e.steps + T);
    e.p_label = (scaleds){next, next + n + 1};
    e.skips = next + 2 * (n + 1);
    e.occupancy = e.skips + n + 1;
    e.l = e.occupancy + n + 1;
    e.mass = e.l + n + 1;
    e.classes = (int64_t *)(e.mass + n + 1);
    e.slot = e.classes + n + 1;
    e.known = (int32_t *)(e.slot + n + 1);
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

/* The labels, and which classes are among them. */
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
    for (int64_t i = 0; i < e->n; i++) {
        e->slot[i] = e->known[label(e, b, i)];
        e->skips[i] = i > 0 && e->slot[i] != e->slot[i - 1];
    }
    e->slot[e->n] = e->known[e->blank];
    e->skips[e->n] = 0;
    for (int64_t j = 0; j < e->D; j++)
        e->known[e->classes[j]] = 0;
}

/* Steps. */

/* The softmax of step t. The classes of the target are left out of the sum over the others, which
 * is in the computing type: where one of them has nearly all of the probability, the others, and so
 * the gradient, keep full precision. */
static void step_softmax(example *e, const class_plan *p, int64_t t)
{
    const elem *x = e->x + t * e->C;
    step *s = &e->steps[t];
    real z[CHUNK], greatest = -(real)INFINITY;
    double rest = 0;
    for (int64_t k = 0, j = 0; k < e->C; k += CHUNK) {
        const int64_t n = e->C - k < CHUNK ? e->C - k : CHUNK, padded = padded_lanes(n);
        const real top = class_scores(p, x + k, n, z);
        for (; j < e->D && e->classes[j] < k + n; j++) {
            e->l[j] = (double)z[e->classes[j] - k];
            z[e->classes[j] - k] = -(real)INFINITY;
        }
        if (top > greatest) {
            if (rest > 0)
                rest *= lk_exp((double)greatest - (double)top);
            greatest = top;
        }
        /* 0 until a finite score is seen: e^(-inf - 0) is 0, e^(NaN - 0) is NaN. */
        rest += (double)class_sum_exp(z, padded, isinf(greatest) && greatest < 0 ? 0 : greatest);
    }
    s->top = (double)greatest;
    s->sum = rest;
    scaled *q = e->p + t * e->D;
    for (int64_t j = 0; j < e->D; j++) {
        const double below = e->l[j] - s->top;
        q[j] = scaled_exp(below);
        s->sum += isnan(below) ? below : q[j].m * scaled_power(q[j].e);
    }
    for (int64_t j = 0; j < e->D; j++)
        q[j] = scaled_make(q[j].m / s->sum, q[j].e);
}

/* The probabilities of the labels at step t, one by one, and that of the blank. */
static scaled step_labels(const example *e, int64_t t)
{
    const scaled *p = e->p + t * e->D;
    for (int64_t i = 0; i < e->n; i++)
        put(e->p_label, i, p[e->slot[i]]);
    return p[e->slot[e->n]];
}

/* alpha after step t from that before it: a path stays in its state, comes from the previous state,
 * or comes from the previous label, skipping the optional blank. */
static void forward(const example *e, int64_t t)
{
    const int64_t n = e->n;
    const scaled p_blank = step_labels(e, t);
    const scaleds p_label = e->p_label;
    const double *skips = e->skips;
    const states from = alpha_at(e, t), to = alpha_at(e, t + 1);
    INDEPENDENT
    for (int64_t i = 0; i <= n; i++)
        put(to.blank, i,
            scaled_times(scaled_plus(get(from.blank, i), get(from.label, i - 1)), p_blank));
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        const scaled skip = if_any(skips[i], get(from.label, i - 1));
        put(to.label, i,
            scaled_times(plus_three(get(from.label, i), get(from.blank, i), skip),
                         get(p_label, i)));
    }
    put(to.label, -1, scaled_zero);
    put(to.label, n, scaled_zero);
}

/* P of the target, NaN if a step has no softmax. */
static scaled target_probability(example *e, const class_plan *p)
{
    bool none = false;
    states_clear(alpha_at(e, 0), e->n);
    put(alpha_at(e, 0).blank, 0, scaled_one);
    for (int64_t t = 0; t < e->T; t++) {
        step_softmax(e, p, t);
        none = none || !(e->steps[t].sum > 0);
        if (!none)
            forward(e, t);
    }
    if (none)
        return (scaled){(double)NAN, 0};
    const states last = alpha_at(e, e->T);
    return scaled_plus(get(last.blank, e->n), get(last.label, e->n - 1));
}

/* beta after step t, from beta before step t + 1. */
static void backward(const example *e)
{
    const int64_t n = e->n;
    const double *skips = e->skips;
    const states from = e->beta, to = e->behind;
    INDEPENDENT
    for (int64_t i = 0; i <= n; i++)
        put(to.blank, i, scaled_plus(get(from.blank, i), get(from.label, i)));
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        const scaled skip = if_any(skips[i + 1], get(from.label, i + 1));
        put(to.label, i, plus_three(get(from.label, i), get(from.blank, i + 1), skip));
    }
}

/* a b / 2^e, no more than a few. */
LK_INLINE double product(scaled a, scaled b, double e)
{
    return a.m * b.m * scaled_power(a.e + b.e - e);
}

/* The exponent of a b; that of zero, if the product is 0. */
LK_INLINE double product_exponent(scaled a, scaled b)
{
    return a.m * b.m > 0 ? a.e + b.e : scaled_zero.e;
}

/* gamma of the distinct classes at step t. alpha beta adds up to P at every step: dividing by this
 * step's own sum leaves no rounding of the others in it. */
static void occupy(const example *e, int64_t t)
{
    const int64_t n = e->n;
    const states alpha = alpha_at(e, t + 1), beta = e->behind;
    double *occupancy = e->occupancy, blanks = 0, sum = 0;
    double top = product_exponent(get(alpha.blank, n), get(beta.blank, n));
    for (int64_t i = 0; i < n; i++) {
        const double label_e = product_exponent(get(alpha.label, i), get(beta.label, i));
        const double blank_e = product_exponent(get(alpha.blank, i), get(beta.blank, i));
        const double greater = label_e > blank_e ? label_e : blank_e;
        top = greater > top ? greater : top;
    }
    INDEPENDENT
    for (int64_t i = 0; i < n; i++)
        occupancy[i] = product(get(alpha.label, i), get(beta.label, i), top);
    for (int64_t i = 0; i <= n; i++)
        blanks += product(get(alpha.blank, i), get(beta.blank, i), top);
    for (int64_t j = 0; j < e->D; j++)
        e->mass[j] = 0;
    e->mass[e->slot[n]] = blanks;
    for (int64_t i = 0; i < n; i++)
        e->mass[e->slot[i]] += occupancy[i];
    for (int64_t j = 0; j < e->D; j++)
        sum += e->mass[j];
    for (int64_t j = 0; j < e->D; j++)
        e->mass[j] /= sum;
}

/* rho (p - gamma); may be in place of the scores. */
static void step_gradient(const example *e, int64_t t, double rho)
{
    const step *s = &e->steps[t];
    const scaled *q = e->p + t * e->D;
    const elem *x = e->x + t * e->C;
    elem *grad = e->grad + t * e->C;
    const vec top = v_set((real)s->top), by = v_set((real)(rho / s->sum));
    for (int64_t k = 0; k < e->C; k += LANES) {
        const int64_t n = LK_TAIL(k, e->C);
        v_store_tail(grad + k, n, by * v_exp_nonpos(v_load_tail(x + k, n, 0) - top));
    }
    for (int64_t j = 0; j < e->D; j++)
        r_store(grad + e->classes[j], (real)(rho * (q[j].m * scaled_power(q[j].e) - e->mass[j])));
}

/* beta before step t, from beta after it. */
static void step_backward(const example *e, int64_t t)
{
    const int64_t n = e->n;
    const scaled p_blank = step_labels(e, t);
    const scaleds p_label = e->p_label;
    const states from = e->behind, to = e->beta;
    INDEPENDENT
    for (int64_t i = 0; i <= n; i++)
        put(to.blank, i, scaled_times(get(from.blank, i), p_blank));
    INDEPENDENT
    for (int64_t i = 0; i < n; i++)
        put(to.label, i, scaled_times(get(from.label, i), get(p_label, i)));
}

static void gradient(const example *e, double rho)
{
    states_clear(e->beta, e->n);
    put(e->beta.blank, e->n, scaled_one);
    for (int64_t t = e->T - 1; t >= 0; t--) {
        backward(e);
        occupy(e, t);
        step_gradient(e, t, rho);
        step_backward(e, t);
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
    const lattice_options *o = job->options;
    const int64_t k =
        o->reduce.nonfinite == LK_PROPAGATE ? -1 : elements_nonfinite(e->x, e->T * e->C);
    if (k < 0)
        return false;
    lk_refuse(block, LK_NONFINITE_INPUT, LOGITS, b * size(job, 'T') * e->C + k,
              (double)r_load(e->x + k));
    return true;
}

/* -log P of example b, and its gradient. `share` is the factor of the reduction. */
static double one_example(example *e, const class_plan *p, int64_t b, double share)
{
    const lattice_options *o = e->job->options;
    const bool longer = shortest(e, b) > e->T;
    if (longer)
        e->n = 0; /* only to see whether all steps have a softmax */
    example_labels(e, b);
    const scaled P = target_probability(e, p);
    double log_p = isnan(P.m) ? P.m : scaled_log(P);
    if (longer && !isnan(log_p))
        log_p = -(double)INFINITY;
    const double rho = share * e->job->scale[0] * scalar_constant(e->job, UPSTREAM, b, 1);
    if (e->grad && (isinf(log_p) || rho == 0))
        memset(e->grad, 0, (size_t)(e->T * e->C) * sizeof(elem));
    else if (e->grad && isnan(log_p))
        fill(e->grad, e->T * e->C, (real)NAN);
    else if (e->grad)
        gradient(e, rho);
    if (isinf(log_p) && o->zero_infinity)
        return 0;
    return log_p >= 0 ? 0 : -log_p; /* nor is it negative by a rounding */
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const lattice_options *o = job->options;
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

/* Besides the scores, a step costs an exponential and some twenty multiplications for each
 * label. */
static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    const double cost =
        (double)size(job, 'T') * ((double)size(job, 'C') + 32 * (double)most_labels(job));
    return cost < 0x1p40 ? (int64_t)cost : (int64_t)1 << 40;
}

static const char tex[] =
    "-\\log\\sum_{\\pi\\,\\in\\,B^{-1}(y)}\\ \\prod_t "
    "\\operatorname{softmax}(\\text{logits}_t)_{\\pi_t},\\quad B\\ \\text{merges repeats and "
    "removes blanks}";

LK_DESCRIBE(ctc, .tex = tex, .title = "Connectionist temporal classification",
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
            .traits = LK_NONNEGATIVE | LK_SHIFT_FREE | LK_ROWWISE, .loss_shape = "B",
            .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(ctc) = {
    .is = &LK_IS(ctc),
    .options_size = sizeof(lattice_options),
    .parts = 1,
    .row_cost = row_cost,
    .check = check,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
