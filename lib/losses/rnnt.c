/* SPDX-License-Identifier: MIT
 *
 * Transducer (RNN-T). A row is one example: a lattice of steps t by labels u that are given
 * already. From each of its cells a path goes to the next step with the blank, or on to the next
 * label. A forward sweep computes the softmax of each cell and alpha, the probability to come
 * there; a backward sweep beta, the probability to end from there, and the gradient.
 */
#include "rows/class_row.h"
#include "rows/lattice.h"
#include "rows/scalar.h"
#include "vector/vmath.h"

enum { MEAN_TARGET = LK_MEAN + 1, MEAN_VOLUME }; /* reduction */

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(lattice_options, "mean", "none|sum|mean|mean_target|mean_volume",
                       "one loss per example, their sum, their mean, the mean of loss / "
                       "max(length of the target, 1), or the sum over all labels' number"),
    LK_NUM_ITEMS_FIELD(lattice_options),
    LATTICE_FIELDS,
    {0},
};

static const lk_input inputs[] = {
    LATTICE_INPUTS("B T U+1 V", "V", "U",
                   "scores of the classes at every step, after every number of labels; "
                   "softmax is applied inside"),
    {0},
};

static const lk_output outputs[] = {{0}};

static int64_t size(const lk_job *job, char letter)
{
    return job->size[letter - 'A'];
}

static lk_status check(const lk_job *job, lk_error *error)
{
    return lattice_check(job, size(job, 'V'), error);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const lattice_options *o = job->options;
    lk_status status = lattice_check_targets(job, size(job, 'V'), error);
    double labels = 0;
    for (int64_t b = 0; b < job->rows; b++)
        labels += (double)lk_int(&job->in[TARGET_LENGTHS], b);
    job->counted = job->rows;
    job->denominator[0] = o->reduce.reduction == MEAN_VOLUME ? labels : (double)job->rows;
    return status;
}

/* A cell of the lattice: its softmax, of which the blank and the next label are not in `rest`, so
 * that one of them may have nearly all of the probability and the others keep full precision. */
typedef struct cell {
    scaled alpha;
    scaled blank, label; /* their probabilities; label: 0 after the last one */
    double top;          /* the greatest score */
    double rest, sum;    /* of e^(x - top), over the other classes and over all */
} cell;

/* One example. */
typedef struct example {
    int64_t V, T, U, blank; /* its own steps and labels */
    int64_t stride;         /* elements of a step */
    const elem *x;
    elem *grad; /* may be x; NULL: not wanted */
    const lk_tensor *targets;
    int64_t first; /* of its targets */
    cell *cells;   /* [T][U+1] */
    scaled *beta;  /* [U+1] of a step */
} example;

/* The class that goes on from cells of u labels; -1: none. */
static int64_t label_at(const example *e, int64_t u)
{
    return u < e->U ? lk_int(e->targets, e->first + u) : -1;
}

/* Take class k out of a chunk of scores from class `from` on, if it is there. */
LK_INLINE void take_out(real *z, int64_t from, int64_t n, int64_t k, double *score)
{
    if (k < from || k >= from + n)
        return;
    *score = (double)z[k - from];
    z[k - from] = -(real)INFINITY;
}

/* The softmax of a cell with scores x. Its sum is NaN if it has none. */
static void cell_softmax(const example *e, const class_plan *p, const elem *x, int64_t label,
                         cell *c)
{
    real z[CHUNK], greatest = -(real)INFINITY;
    double blank = 0, next = -(double)INFINITY, rest = 0;
    for (int64_t k = 0; k < e->V; k += CHUNK) {
        const int64_t n = e->V - k < CHUNK ? e->V - k : CHUNK;
        const real top = class_scores(p, x + k, n, z);
        take_out(z, k, n, e->blank, &blank);
        take_out(z, k, n, label, &next);
        if (top > greatest) {
            if (rest > 0)
                rest *= lk_exp((double)greatest - (double)top);
            greatest = top;
        }
        /* 0 until a finite score is seen: e^(-inf - 0) is 0, e^(NaN - 0) is NaN. */
        rest += (double)class_sum_exp(z, padded_lanes(n),
                                      isinf(greatest) && greatest < 0 ? 0 : greatest);
    }
    c->top = (double)greatest;
    c->rest = rest;
    const scaled to_blank = scaled_exp(blank - c->top);
    const scaled to_label = label >= 0 ? scaled_exp(next - c->top) : scaled_zero;
    c->sum = rest + scaled_value(to_blank) + scaled_value(to_label);
    if (isnan(blank - c->top) || (label >= 0 && isnan(next - c->top)))
        c->sum = (double)NAN;
    c->blank = scaled_make(to_blank.m / c->sum, to_blank.e);
    c->label = scaled_make(to_label.m / c->sum, to_label.e);
}

/* The probability of the target; its m is NaN if a cell has no softmax. */
static scaled forward(const example *e, const class_plan *p)
{
    const int64_t width = e->U + 1;
    double all = 0; /* NaN: a cell has no softmax, which is all that it tells */
    for (int64_t t = 0; t < e->T; t++)
        for (int64_t u = 0; u < width; u++) {
            cell *c = e->cells + t * width + u;
            cell_softmax(e, p, e->x + t * e->stride + u * e->V, label_at(e, u), c);
            all += c->sum;
            const scaled by_blank =
                t > 0 ? scaled_times(c[-width].alpha, c[-width].blank) : scaled_zero;
            const scaled by_label = u > 0 ? scaled_times(c[-1].alpha, c[-1].label) : scaled_zero;
            const scaled sum = scaled_plus(by_blank, by_label);
            c->alpha = t + u == 0 ? scaled_one : scaled_make(sum.m, sum.e);
        }
    const cell *last = e->cells + e->T * width - 1;
    return isnan(all) ? (scaled){all, 0} : scaled_times(last->alpha, last->blank);
}

/* The gradient of a cell, of shares of all paths: those that go on with the blank, and with the
 * label: p (by_blank + by_label), less these at their classes. There it is written so that nothing
 * cancels. */
static void cell_gradient(const example *e, const cell *c, int64_t label, double by_blank,
                          double by_label, double rho, const elem *x, elem *grad)
{
    const double blank_p = scaled_value(c->blank), label_p = scaled_value(c->label);
    const double rest = c->rest / c->sum;
    const vec top = v_set((real)c->top), by = v_set((real)(rho * (by_blank + by_label) / c->sum));
    for (int64_t k = 0; k < e->V; k += LANES) {
        const int64_t n = LK_TAIL(k, e->V);
        v_store_tail(grad + k, n, by * v_exp_nonpos(v_load_tail(x + k, n, 0) - top));
    }
    r_store(grad + e->blank, (real)(rho * (by_label * blank_p - by_blank * (rest + label_p))));
    if (label >= 0)
        r_store(grad + label, (real)(rho * (by_blank * label_p - by_label * (rest + blank_p))));
}

/* Of all paths, whose probability is P, the share that passes through `here` and on to `there`. */
LK_INLINE double share_of(scaled here, scaled there, scaled P)
{
    return here.m * there.m / P.m * scaled_power(here.e + there.e - P.e);
}

static void backward(const example *e, scaled P, double rho)
{
    const int64_t width = e->U + 1;
    const int power = elements_power(rho);
    for (int64_t u = 0; u < width; u++) /* after the last step */
        e->beta[u] = u < e->U ? scaled_zero : scaled_one;
    for (int64_t t = e->T - 1; t >= 0; t--)
        for (int64_t u = e->U; u >= 0; u--) {
            const cell *c = e->cells + t * width + u;
            const int64_t at = t * e->stride + u * e->V;
            const scaled by_blank = scaled_times(c->blank, e->beta[u]);
            const scaled by_label = u < e->U ? scaled_times(c->label, e->beta[u + 1]) : scaled_zero;
            const scaled sum = scaled_plus(by_blank, by_label);
            e->beta[u] = scaled_make(sum.m, sum.e);
            cell_gradient(e, c, label_at(e, u), share_of(c->alpha, by_blank, P),
                          share_of(c->alpha, by_label, P), ldexp(rho, -power), e->x + at,
                          e->grad + at);
            if (power != 0)
                elements_scale(e->grad + at, e->V, power);
        }
}

/* Set the gradient of the cells that the example has. */
static void fill_own(const example *e, real x)
{
    for (int64_t t = 0; t < e->T; t++)
        elements_fill(e->grad + t * e->stride, (e->U + 1) * e->V, x);
}

/* Clear that of the others: of the labels beyond its own, and of the steps. */
static void clear_beyond(const example *e, int64_t steps)
{
    const int64_t used = (e->U + 1) * e->V;
    for (int64_t t = 0; t < e->T; t++)
        elements_fill(e->grad + t * e->stride + used, e->stride - used, 0);
    elements_fill(e->grad + e->T * e->stride, (steps - e->T) * e->stride, 0);
}

/* The first score of the example that nonfinite=error refuses, or -1. */
static int64_t refused(const lk_job *job, const example *e)
{
    const lattice_options *o = job->options;
    int64_t k = -1;
    for (int64_t t = 0; o->reduce.nonfinite != LK_PROPAGATE && k < 0 && t < e->T; t++) {
        k = elements_nonfinite(e->x + t * e->stride, (e->U + 1) * e->V);
        k += k < 0 ? 0 : t * e->stride;
    }
    return k;
}

/* -log P, and the gradient times rho of it. */
static double one_example(const lk_job *job, const example *e, double rho)
{
    const lattice_options *o = job->options;
    const class_plan p = {.classes = e->V, .width = e->V, .scale = 1};
    const scaled P = forward(e, &p);
    const double log_p = isnan(P.m) ? P.m : scaled_log(P);
    if (e->grad && (isnan(log_p) || isinf(log_p) || rho == 0))
        fill_own(e, rho == 0 || isinf(log_p) ? 0 : (real)NAN);
    else if (e->grad)
        backward(e, P, rho);
    if (isinf(log_p) && o->zero_infinity)
        return 0;
    return log_p >= 0 ? 0 : -log_p; /* nor is it negative by a rounding */
}

/* Cells of the largest example, and one row of beta. */
static size_t scratch_size(const lk_job *job)
{
    const size_t width = (size_t)size(job, 'U') + 1;
    return job->rows > 0 ? width * ((size_t)size(job, 'T') * sizeof(cell) + sizeof(scaled)) : 0;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const lattice_options *o = job->options;
    const int64_t T = size(job, 'T'), U = size(job, 'U'), V = size(job, 'V');
    const int64_t stride = (U + 1) * V;
    elem *grad = job->grad[LOGITS].data;
    example e = {.V = V, .stride = stride, .blank = o->blank, .targets = &job->in[TARGETS]};
    e.cells = scratch;
    e.beta = (scaled *)(e.cells + T * (U + 1));
    for (int64_t b = first; b < first + count; b++) {
        e.x = (const elem *)job->in[LOGITS].data + b * T * stride;
        e.grad = grad ? grad + b * T * stride : NULL;
        e.T = lk_int(&job->in[INPUT_LENGTHS], b);
        e.U = lk_int(&job->in[TARGET_LENGTHS], b);
        e.first = b * U;
        const int64_t bad = refused(job, &e);
        if (bad >= 0) {
            lk_refuse(block, LK_NONFINITE_INPUT, LOGITS, b * T * stride + bad,
                      (double)r_load(e.x + bad));
            continue;
        }
        const double share = o->reduce.reduction == MEAN_TARGET && e.U > 0 ? 1 / (double)e.U : 1;
        const double up = scalar_constant(job, UPSTREAM, b, 1);
        const double value = share * one_example(job, &e, share * job->scale[0] * up);
        if (e.grad)
            clear_beyond(&e, T);
        block->sum[0] += value;
        if (o->reduce.reduction == LK_NONE && job->value.data)
            lk_put(&job->value, b, value);
    }
}

/* A cell costs two exponentials of each class, and as much as some of them besides. */
static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    const double cells = (double)size(job, 'T') * ((double)size(job, 'U') + 1);
    const double cost = cells * ((double)size(job, 'V') + 64);
    return cost < 0x1p40 ? (int64_t)cost : (int64_t)1 << 40;
}

static const char tex[] =
    "-\\log\\sum_{\\pi}\\ \\prod_{(t, u, k) \\in \\pi} "
    "\\operatorname{softmax}(\\text{logits}_{t u})_k,\\quad \\pi\\ \\text{the paths that emit the "
    "target's labels in order and a blank at the end of each step}";

LK_DESCRIBE(
    rnnt, .tex = tex, .title = "Transducer (RNN-T)",
    .formula = "-log of the sum, over all paths that emit the target's labels in order and a "
               "blank at the end of each step, of the product of softmax(logits[t,u]) along "
               "the path; u labels are emitted before",
    .help = "Trains a recogniser of speech whose next label depends on those before it. "
            "Besides its tensors a run needs 72 bytes for each step and number of labels of "
            "one example. torchaudio's blank is the last class.",
    .reference = "Graves 2012; torchaudio rnnt_loss; transformers loss_rnnt (reductions)",
    .example = "{\"inputs\": {\"logits\": [[[[0.1, 0.6, 0.1], [0.5, 0.1, 0.2]], "
               "[[0.3, 0.2, 0.9], [1.0, 0.4, 0.1]]]], \"targets\": [[1]], "
               "\"input_lengths\": [2], \"target_lengths\": [1]}}",
    .traits = LK_NONNEGATIVE | LK_SHIFT_FREE | LK_ROWWISE, .loss_shape = "B", .inputs = inputs,
    .outputs = outputs, .options = fields);

LK_LOSS(rnnt) = {
    .is = &LK_IS(rnnt),
    .options_size = sizeof(lattice_options),
    .parts = 1,
    .row_cost = row_cost,
    .check = check,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
