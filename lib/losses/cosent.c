/* SPDX-License-Identifier: MIT
 *
 * CoSENT: a ranking loss on the cosines of pairs, which should be in the order of their targets.
 */
#include "rows/elements.h"
#include "rows/prefixes.h"
#include "rows/units.h"

enum { COSINE, ANGLE }; /* similarity */
enum { A = PAIR_A, B = PAIR_B, TARGET = PAIR_TARGET };

typedef struct options {
    lk_reduce reduce;
    double scale;
    int similarity;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_FIELD(options, scale, "20", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "the similarities are multiplied with it: 1/temperature"),
    LK_WORDS(options, similarity, "cosine", "cosine|angle",
             "cos(a, b), or AnglE's: the halves of a vector are the real and the imaginary parts "
             "of complex numbers, whose quotients are summed and normalised"),
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
    double *s;         /* scale * similarity(a_i, b_i) */
    double *slope;     /* dL/ds_i */
    double *ahead;     /* log of sum over j: y_j < y_i of e^(s_j - s_i) */
    pair_place *order; /* by target */
    size_t bytes;
} plan;

static plan plan_of(const lk_job *job)
{
    plan p = {.bytes = 0};
    const int64_t n = job->rows;
    p.loss = take(job->state, &p.bytes, 1, sizeof *p.loss);
    p.s = take(job->state, &p.bytes, n, sizeof *p.s);
    p.slope = take(job->state, &p.bytes, n, sizeof *p.slope);
    p.ahead = take(job->state, &p.bytes, n, sizeof *p.ahead);
    p.order = take(job->state, &p.bytes, n, sizeof *p.order);
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

/* AnglE's similarity of a and b is sqrt(2) |t|, t the cosine of a and b', where b = (c, d) in
 * halves and b' = (c - d, c + d); a zero is appended if they are odd. The vectors are multiplied by
 * powers of two, so that no square overflows. */
typedef struct angle {
    double t, by_a, by_b, n_a, n_b;
    bool open_a, open_b; /* is the norm more than cos_eps, so that it has a slope? */
} angle;

/* Component k of v, 0 beyond its end. */
static double at(const elem *v, int64_t k, int64_t width)
{
    return k < width ? (double)elements_at(v, k) : 0;
}

/* Component k of b'. */
static double turned(const elem *b, int64_t k, int64_t width)
{
    const int64_t half = (width + 1) / 2;
    return k < half ? at(b, k, width) - at(b, k + half, width)
                    : at(b, k - half, width) + at(b, k, width);
}

/* The sum over k of a_k b'_k has b_k with this factor. */
static double turned_back(const elem *a, int64_t k, int64_t width)
{
    const int64_t half = (width + 1) / 2;
    return k < half ? at(a, k, width) + at(a, k + half, width)
                    : at(a, k, width) - at(a, k - half, width);
}

/* The power of two that makes the largest component about 1; NaN if it is not finite. */
static double power_for(const elem *v, int64_t width, double eps)
{
    const double most = pair_largest(v, width), root = pair_root(most > eps ? most : eps);
    return isnan(most) ? most : root * root;
}

static angle angle_of(const elem *a, const elem *b, int64_t width, double eps)
{
    angle g = {.by_a = power_for(a, width, eps), .by_b = power_for(b, width, eps)};
    double dot = 0, aa = 0, bb = 0;
    for (int64_t k = 0; k < width; k++) {
        const double x = g.by_a * at(a, k, width), y = g.by_b * at(b, k, width);
        dot += x * (g.by_b * turned(b, k, width));
        aa += x * x;
        bb += y * y;
    }
    const double n_a = sqrt(aa), n_b = sqrt(2 * bb), eps_a = eps * g.by_a, eps_b = eps * g.by_b;
    g.open_a = n_a > eps_a;
    g.open_b = n_b > eps_b;
    g.n_a = n_a <= eps_a ? eps_a : n_a;
    g.n_b = n_b <= eps_b ? eps_b : n_b;
    g.t = dot / g.n_a / g.n_b;
    return g;
}

/* c dt/da and c dt/db, where they are requested. */
static void angle_back(const angle *g, double c, const elem *a, const elem *b, int64_t width,
                       elem *grad_a, elem *grad_b)
{
    const double own_a = g->open_a ? g->t / g->n_a * g->by_a : 0;
    const double own_b = g->open_b ? 2 * g->t / g->n_b * g->by_b : 0;
    for (int64_t k = 0; k < width; k++) {
        const double to_a = g->by_b / g->n_b * turned(b, k, width) - own_a * at(a, k, width);
        const double to_b = g->by_a / g->n_a * turned_back(a, k, width) - own_b * at(b, k, width);
        if (grad_a)
            elements_fill(grad_a + k, 1, (real)(c == 0 ? 0 : c * g->by_a / g->n_a * to_a));
        if (grad_b)
            elements_fill(grad_b + k, 1, (real)(c == 0 ? 0 : c * g->by_b / g->n_b * to_b));
    }
}

static double similarity_of(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    const int64_t width = job->size['D' - 'A'];
    const elem *a = (const elem *)job->in[A].data + i * width;
    const elem *b = (const elem *)job->in[B].data + i * width;
    if (o->similarity == ANGLE)
        return sqrt(2) * fabs(angle_of(a, b, width, o->cos_eps).t);
    pair c;
    pair_cosine(&c, PAIR_SIMILARITY, a, b, width, o->cos_eps);
    return c.value;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const plan p = plan_of(job);
    (void)error;
    for (int64_t i = 0; i < job->rows; i++)
        p.s[i] = o->scale * similarity_of(job, i);
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

static void angle_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block)
{
    const options *o = job->options;
    const int64_t width = job->size['D' - 'A'];
    elem *grad_a = job->grad[A].data, *grad_b = job->grad[B].data;
    for (int64_t i = first; i < first + count; i++) {
        const elem *a = (const elem *)job->in[A].data + i * width;
        const elem *b = (const elem *)job->in[B].data + i * width;
        const bool bad = pair_refuses(job) && pair_refuse(job, A, i, width, block);
        if ((pair_refuses(job) && pair_refuse(job, B, i, width, block)) || bad)
            continue;
        const angle g = angle_of(a, b, width, o->cos_eps);
        const pair_row r = row(job, i, 0);
        const double by_t = g.t > 0 ? sqrt(2) : g.t < 0 ? -sqrt(2) : 0 * g.t;
        pair_put(job, block, i, r.value);
        angle_back(&g, scalar_times(pair_weight(job, PAIR_GRAD_OUTPUT, i), by_t * r.slope), a, b,
                   width, grad_a ? grad_a + i * width : NULL, grad_b ? grad_b + i * width : NULL);
    }
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    (void)scratch;
    for (int64_t i = first; i < first + count; i++)
        if (isnan(pair_number(job, TARGET, i)))
            lk_refuse(block, LK_VALUE_OUT_OF_RANGE, TARGET, i, pair_number(job, TARGET, i));
    if (o->similarity == ANGLE)
        angle_rows(job, first, count, block);
    else
        pair_rows(job, first, count, block, PAIR_SIMILARITY, o->cos_eps, row);
}

static const char tex[] = "\\log\\left(1 + \\sum_{y_i < y_j} e^{s_i - s_j}\\right),\\quad s = "
                          "\\text{scale}\\cdot\\cos(a, b),\\ y = \\text{target}";

LK_DESCRIBE(
    cosent, .tex = tex, .title = "CoSENT",
    .formula = "log(1 + sum of e^(s_i - s_j) over target_i < target_j), s = scale*cos(a, b)",
    .help = "Ranks pairs: wherever a target is less than another, so should the similarity "
            "be. With similarity=angle it is AnglE's loss: cosines have no slope where they "
            "are near 1 or -1, angles have.",
    .reference = "sentence-transformers CoSENTLoss, AnglELoss; Li, Li 2024",
    .example = "{\"inputs\": {\"a\": [[1.0, 0.0], [1.0, 2.0]], "
               "\"b\": [[1.0, 1.0], [2.0, 1.0]], \"target\": [0.2, 0.9]}}",
    .traits = LK_NONNEGATIVE | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(cosent) = {
    .is = &LK_IS(cosent),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .rows_shape = "N",
    .check = pair_check_width,
    .state = state,
    .prepare = prepare,
    .rows = rows,
};
