/* SPDX-License-Identifier: MIT
 *
 * MarginMSE: the margin between the similarities of an anchor to its positive and to a negative
 * should be a teacher's margin.
 */
#include "rows/pair.h"
#include "rows/prefixes.h"

enum { ANCHORS, POSITIVES, NEGATIVES, TARGET, TEACHER_SCORES, MASK, GRAD_OUTPUT };
enum { DOT, COSINE }; /* similarity */

typedef struct options {
    lk_reduce reduce;
    int similarity;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, similarity, "dot", "dot|cosine", "how two vectors are compared"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [ANCHORS] = PAIR_VECTORS("anchors", "B D", LK_ROW_LOCAL, "a query each"),
    [POSITIVES] = PAIR_VECTORS("positives", "B D", LK_ROW_LOCAL, "the passage that answers it"),
    [NEGATIVES] = PAIR_VECTORS("negatives", "B K D", LK_ROW_LOCAL, "K others for each"),
    [TARGET] = {.name = "target",
                .forms = {{"B K", LK_FLOATS}},
                .flags = LK_OPTIONAL,
                .help = "the teacher's margins: its score of the positive minus that of the "
                        "negative; this or teacher_scores"},
    [TEACHER_SCORES] = {.name = "teacher_scores",
                        .forms = {{"B K+1", LK_FLOATS}},
                        .flags = LK_OPTIONAL,
                        .help = "the teacher's scores: of the positive, then of the negatives"},
    [MASK] = {.name = "mask",
              .forms = {{"B K", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "negatives with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static int64_t negatives_of(const lk_job *job)
{
    return job->size['K' - 'A'];
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const bool margins = lk_has(job, TARGET), scores = lk_has(job, TEACHER_SCORES);
    if (!margins && !scores)
        return lk_fail(job, error, LK_MISSING_INPUT, TARGET, -1,
                       "target is missing; give the teacher's margins, or teacher_scores");
    if (job->size['D' - 'A'] == 0 && job->rows > 0)
        return pair_check_width(job, error);
    if (margins && scores)
        return lk_fail(job, error, LK_OPTION_CONFLICT, TEACHER_SCORES, -1,
                       "target and teacher_scores are both given; leave one of them out");
    return LK_OK;
}

static bool counts(const lk_job *job, int64_t i)
{
    return !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)error;
    for (int64_t i = 0; i < job->rows * negatives_of(job); i++)
        job->counted += counts(job, i);
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

/* The teacher's margin of negative k of anchor b. */
static double margin_of(const lk_job *job, int64_t b, int64_t k)
{
    const int64_t n = negatives_of(job);
    if (job->in[TARGET].data)
        return pair_number(job, TARGET, b * n + k);
    return pair_number(job, TEACHER_SCORES, b * (n + 1)) -
           pair_number(job, TEACHER_SCORES, b * (n + 1) + k + 1);
}

/* Scratch: sums for the gradients of the anchor and of the positive. */
static size_t scratch_size(const lk_job *job)
{
    return 2 * (size_t)padded_lanes(job->size['D' - 'A']) * sizeof(double);
}

/* An anchor and what it is compared with. */
typedef struct example {
    const elem *a, *p, *n;          /* n: the first negative */
    elem *grad_a, *grad_p, *grad_n; /* NULL: not wanted */
    pair positive;
} example;

static elem *gradient_at(const lk_job *job, int input, int64_t i)
{
    return job->grad[input].data ? (elem *)job->grad[input].data + i : NULL;
}

static bool refused(const lk_job *job, int64_t b, lk_block *block)
{
    const int64_t width = job->size['D' - 'A'], n = negatives_of(job);
    bool any = false, bad = false;
    for (int64_t k = b * n; pair_refuses(job) && k < (b + 1) * n; k++)
        if (counts(job, k)) {
            any = true;
            bad = pair_refuse(job, NEGATIVES, k, width, block) || bad;
        }
    for (int input = ANCHORS; any && input <= POSITIVES; input++)
        bad = pair_refuse(job, input, b, width, block) || bad;
    return bad;
}

/* Example b. The sums for its gradients are in `sum`, first that of the anchor. */
static void one_example(const lk_job *job, example *e, int64_t b, lk_block *block, double *sum)
{
    const options *o = job->options;
    const int kind = o->similarity == DOT ? PAIR_DOT : PAIR_SIMILARITY;
    const int64_t width = job->size['D' - 'A'], n = negatives_of(job);
    double *const sum_a = e->grad_a ? sum : NULL;
    double *const sum_p = e->grad_p ? sum + padded_lanes(width) : NULL;
    double all = 0; /* the slope of the positive's similarity */
    bool any = false;
    memset(sum, 0, scratch_size(job));
    for (int64_t k = 0; k < n; k++) {
        const int64_t i = b * n + k;
        const elem *negative = e->n + k * width;
        elem *grad = e->grad_n ? e->grad_n + k * width : NULL;
        pair q;
        if (!counts(job, i)) {
            if (grad)
                memset(grad, 0, (size_t)width * sizeof *grad);
            pair_put(job, block, i, 0);
            continue;
        }
        if (!any)
            pair_of(&e->positive, kind, e->a, e->p, width, o->cos_eps, 0);
        any = true;
        pair_of(&q, kind, e->a, negative, width, o->cos_eps, 0);
        const double error = e->positive.value - q.value - margin_of(job, b, k);
        const double weight = pair_weight(job, GRAD_OUTPUT, i);
        const double slope = weight == 0 ? 0 : 2 * error * weight;
        pair_put(job, block, i, error * error);
        pair_add(&q, -slope, e->a, negative, width, sum_a, NULL);
        pair_back(&q, -slope, e->a, negative, width, NULL, grad, false);
        all += slope;
    }
    if (any)
        pair_add(&e->positive, all, e->a, e->p, width, sum_a, sum_p);
    if (sum_a)
        pair_round(sum_a, width, e->grad_a);
    if (sum_p)
        pair_round(sum_p, width, e->grad_p);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const int64_t width = job->size['D' - 'A'], all = negatives_of(job) * width;
    for (int64_t b = first; b < first + count; b++) {
        example e = {.a = (const elem *)job->in[ANCHORS].data + b * width,
                     .p = (const elem *)job->in[POSITIVES].data + b * width,
                     .n = (const elem *)job->in[NEGATIVES].data + b * all,
                     .grad_a = gradient_at(job, ANCHORS, b * width),
                     .grad_p = gradient_at(job, POSITIVES, b * width),
                     .grad_n = gradient_at(job, NEGATIVES, b * all)};
        if (!refused(job, b, block))
            one_example(job, &e, b, block, scratch);
    }
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    return (negatives_of(job) + 2) * job->size['D' - 'A'];
}

static const char tex[] =
    "\\ell_{ik} = \\left(s(a_i, p_i) - s(a_i, n_{ik}) - y_{ik}\\right)^2,\\quad y_{ik} = "
    "\\text{target}\\ \\text{or}\\ \\text{teacher}_{i0} - \\text{teacher}_{i,k+1}";

LK_DESCRIBE(
    margin_mse, .tex = tex, .title = "MarginMSE",
    .formula = "(s(anchor_i, positive_i) - s(anchor_i, negative_ik) - y_ik)^2, y the "
               "teacher's margins: target, or teacher_scores of the positive minus those of "
               "the negatives",
    .help = "Distils a cross-encoder's scores into embeddings: how much better the positive "
            "is than each negative counts, not the scores themselves.",
    .reference = "Hofstätter et al. 2020; sentence-transformers MarginMSELoss",
    .example = "{\"inputs\": {\"anchors\": [[1.0, 0.0], [1.0, 2.0]], "
               "\"positives\": [[1.0, 1.0], [2.0, 1.0]], "
               "\"negatives\": [[[0.0, 1.0]], [[-1.0, 1.0]]], "
               "\"target\": [[0.5], [2.0]]}}",
    .traits = LK_NONNEGATIVE, .loss_shape = "B K", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(margin_mse) = {
    .is = &LK_IS(margin_mse),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .rows_shape = "B",
    .row_cost = row_cost,
    .check = check,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
