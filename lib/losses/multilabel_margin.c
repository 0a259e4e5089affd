/* SPDX-License-Identifier: MIT
 *
 * The hinge loss of several right classes: each should lead every other class by 1.
 */
#include "rows/numbers.h"

enum { LOGITS, TARGETS, MASK, GRAD_OUTPUT, SAMPLE_WEIGHT };

typedef struct options {
    lk_reduce reduce;
} options;

static const lk_field fields[] = {LK_REDUCE_FIELDS(options), {0}};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"* C", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "scores of the classes"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"* C", LK_INTS}},
                 .range = "[-1,C)",
                 .help = "the right classes of each row, up to the first -1; what follows is not "
                         "read"},
    [MASK] = NUMBERS_MASK,
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [SAMPLE_WEIGHT] = NUMBERS_WEIGHT,
    {0},
};

static const lk_output outputs[] = {{0}};

static bool counts(const lk_job *job, int64_t i)
{
    return numbers_marked(job, MASK, i);
}

/* How many classes are listed for row i. */
static int64_t listed(const lk_job *job, int64_t i)
{
    const int64_t classes = job->size['C' - 'A'];
    int64_t n = 0;
    while (n < classes && lk_int(&job->in[TARGETS], i * classes + n) != -1)
        n++;
    return n;
}

static void row(const lk_job *job, numbers *r)
{
    const int64_t n = listed(job, r->i);
    const double share = 1 / (double)r->n;
    double *right = r->spare;
    memset(right, 0, (size_t)r->n * sizeof *right);
    for (int64_t k = 0; k < n; k++)
        right[lk_int(&job->in[TARGETS], r->i * r->n + k)] = 1;
    for (int64_t k = 0; k < n; k++) {
        const int64_t j = lk_int(&job->in[TARGETS], r->i * r->n + k);
        for (int64_t i = 0; i < r->n; i++) {
            const double u = 1 - r->x[j] + r->x[i];
            if (right[i] != 0 || !(u > 0)) /* NaN, of two impossible classes: no excess */
                continue;
            r->value += share * u;
            r->slope[i] += share;
            r->slope[j] -= share;
        }
    }
    if (numbers_hopeless(r->x, r->n))
        r->value = (double)NAN;
}

static const numbers_loss is = {
    .row = row, .counts = counts, .weight = SAMPLE_WEIGHT, .grad_output = GRAD_OUTPUT, .spare = 1};

NUMBERS_KERNELS(is)

static lk_status prepare(lk_job *job, lk_error *error)
{
    const int64_t classes = job->size['C' - 'A'];
    char place[LK_PLACE_MAX];
    numbers_count(job, is);
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t n = counts(job, i) ? listed(job, i) : 0;
        for (int64_t k = i * classes; k < i * classes + n; k++) {
            const int64_t y = lk_int(&job->in[TARGETS], k);
            if (y < 0 || y >= classes)
                return lk_fail(
                    job, error, LK_TARGET_OUT_OF_RANGE, TARGETS, k,
                    "%s is %lld; with %lld classes it must be in [0, %lld], or -1 to end "
                    "the list",
                    lk_place(job, TARGETS, k, place), (long long)y, (long long)classes,
                    (long long)classes - 1);
        }
    }
    return LK_OK;
}

/* Every right class meets every other one. */
static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    const double C = (double)job->size['C' - 'A'], cost = C * (C / 2 + 8);
    (void)pass;
    return cost < 0x1p60 ? (int64_t)cost : (int64_t)1 << 60;
}

static const char tex[] =
    "\\ell = \\frac{1}{C} \\sum_{j \\in Y} \\sum_{i \\notin Y} \\max(0,\\ 1 - "
    "x_j + x_i)";

LK_DESCRIBE(
    multilabel_margin, .tex = tex, .title = "Multi-label margin loss",
    .formula = "1/C sum over listed j and other i of max(0, 1 - logits_j + logits_i); mean: "
               "over the counted rows",
    .help = "For samples that belong to several classes: each of them should score higher by "
            "1 than all others.",
    .reference = "PyTorch torch.nn.functional.multilabel_margin_loss",
    .example = "{\"inputs\": {\"logits\": [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]], "
               "\"targets\": [[0, 2, -1], [1, -1, 0]]}}",
    .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(multilabel_margin) = {
    .is = &LK_IS(multilabel_margin),
    .row_cost = row_cost,
    .check = numbers_check,
    NUMBERS_MEMBERS(options, prepare),
};
