/* SPDX-License-Identifier: MIT
 *
 * CoSENT: a ranking loss on the cosines of pairs, which should be in the order of their targets.
 */
#include "rows/prefixes.h"
#include "rows/units.h"

enum { A = PAIR_A, B = PAIR_B, TARGET = PAIR_TARGET };

typedef struct options {
    lk_reduce reduce;
    double scale;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_FIELD(options, scale, "20", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "the cosines are multiplied with it: 1/temperature"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    LK_NONFINITE_FIELD(options),
    {0},
};

static const lk_input inputs[] = {
    [PAIR_A] = PAIR_VECTORS("a", "N D", 0, "one vector a row"),
    [PAIR_B] = PAIR_VECTORS("b", "N D", 0, "the vector it is compared with"),
    [PAIR_TARGET] = {.name = "target",
                     .forms = {{"N", LK_FLOATS}},
                     .help = "how similar the two are; only the order of the numbers matters"},
    [PAIR_GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

typedef struct plan {
    double *loss;      /* of all */
    double *s;         /* scale * cos(a_i, b_i) */
    double *slope;     /* dL/ds_i */
    double *ahead;     /* log of sum over j: y_j < y_i of e^(s_j - s_i) */
    pair_place *order; /* by target */
    size_t bytes;
} plan;

static plan plan_of(const lk_job *job)
{
    plan p = {.bytes = 0};
    const size_t n = (size_t)job->rows;
    p.loss = pair_take(job, &p.bytes, sizeof *p.loss);
    p.s = pair_take(job, &p.bytes, n * sizeof *p.s);
    p.slope = pair_take(job, &p.bytes, n * sizeof *p.slope);
    p.ahead = pair_take(job, &p.bytes, n * sizeof *p.ahead);
    p.order = pair_take(job, &p.bytes, n * sizeof *p.order);
    return p;
}

static size_t state(const lk_job *job)
{
    return plan_of(job).bytes;
}

/* The targets in order. */
static void sort_targets(const lk_job *job, pair_place *order)
{
    for (int64_t i = 0; i < job->rows; i++)
        order[i] = (pair_place){pair_key(pair_number(job, TARGET, i)), i};
    pair_sort(order, job->rows);
}

/* log of a sum of e^x that grows. */
typedef struct log_sum {
    double top, sum;
} log_sum;

static void log_sum_add(log_sum *l, double x)
{
    if (x > l->top) {
        l->sum = l->sum * lk_exp(l->top - x) + 1;
        l->top = x;
    } else {
        l->sum += lk_exp(x - l->top);
    }
}

static double log_sum_of(const log_sum *l)
{
    return l->top + lk_log(l->sum);
}

/* L = log(1 + sum of e^(s_i - s_j) over y_i < y_j), and its slopes. The i of a j are the prefix of
 * the order that its target ends, the j of an i the rest after it. */
static double solve(const plan *p, int64_t n)
{
    const pair_place *order = p->order;
    log_sum before = {-(double)INFINITY, 0}, after = before, all = {0, 0};
    int64_t k, end;
    for (k = 0; k < n; k = end) {
        for (end = k; end < n && order[end].key == order[k].key; end++)
            p->ahead[order[end].at] = log_sum_of(&before) - p->s[order[end].at];
        for (int64_t m = k; m < end; m++)
            log_sum_add(&before, p->s[order[m].at]);
    }
    const int64_t least = n > 0 ? order[0].key : 0;
    for (k = 0; k < n; k++)
        if (order[k].key > least)
            log_sum_add(&all, p->ahead[order[k].at]);
    const double loss =
        all.top > 0 ? all.top + lk_log(lk_exp(-all.top) + all.sum) : lk_log1p(all.sum);
    for (k = n; k > 0; k = end) {
        for (end = k; end > 0 && order[end - 1].key == order[k - 1].key; end--) {
            const int64_t i = order[end - 1].at;
            if (k < n)
                p->slope[i] += lk_exp(p->s[i] + log_sum_of(&after) - loss);
            if (order[k - 1].key > least)
                p->slope[i] -= lk_exp(p->ahead[i] - loss);
        }
        for (int64_t m = end; m < k; m++)
            log_sum_add(&after, -p->s[order[m].at]);
    }
    return loss;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const plan p = plan_of(job);
    const int64_t width = job->size['D' - 'A'];
    const elem *a = job->in[A].data, *b = job->in[B].data;
    (void)error;
    for (int64_t i = 0; i < job->rows; i++) {
        pair c;
        pair_cosine(&c, PAIR_SIMILARITY, a + i * width, b + i * width, width, o->cos_eps);
        p.s[i] = o->scale * c.value;
    }
    sort_targets(job, p.order);
    *p.loss = solve(&p, job->rows);
    return LK_OK;
}

/* The whole loss counts as the first row's. */
static pair_row row(const lk_job *job, int64_t i, double s)
{
    const options *o = job->options;
    const plan p = plan_of(job);
    (void)s;
    return (pair_row){i == 0 ? *p.loss : 0, o->scale * p.slope[i]};
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    (void)scratch;
    for (int64_t i = first; i < first + count; i++)
        if (isnan(pair_number(job, TARGET, i)))
            lk_refuse(block, LK_VALUE_OUT_OF_RANGE, TARGET, i, pair_number(job, TARGET, i));
    pair_rows(job, first, count, block, PAIR_SIMILARITY, o->cos_eps, row);
}

static const char tex[] = "\\log\\left(1 + \\sum_{y_i < y_j} e^{s_i - s_j}\\right),\\quad s = "
                          "\\text{scale}\\cdot\\cos(a, b),\\ y = \\text{target}";

LK_LOSS(cosent) = {
    .is = {.name = "cosent",
           .tex = tex,
           .title = "CoSENT",
           .formula = "log(1 + sum of e^(s_i - s_j) over target_i < target_j), s = scale*cos(a, b)",
           .help = "Ranks pairs: wherever a target is less than another, so should the cosine be.",
           .reference = "sentence-transformers CoSENTLoss",
           .example = "{\"inputs\": {\"a\": [[1.0, 0.0], [1.0, 2.0]], "
                      "\"b\": [[1.0, 1.0], [2.0, 1.0]], \"target\": [0.2, 0.9]}}",
           .traits = LK_NONNEGATIVE | LK_COUPLED,
           .inputs = inputs,
           .outputs = outputs,
           .options = fields},
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .rows_shape = "N",
    .check = pair_check_width,
    .state = state,
    .prepare = prepare,
    .rows = rows,
};
