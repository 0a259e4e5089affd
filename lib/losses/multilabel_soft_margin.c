/* SPDX-License-Identifier: MIT
 *
 * Binary cross entropy of each class, and its mean over the classes of a row.
 */
#include "rows/numbers.h"

enum { LOGITS, TARGETS, MASK, GRAD_OUTPUT, WEIGHT, SAMPLE_WEIGHT };

typedef struct options {
    lk_reduce reduce;
} options;

static const lk_field fields[] = {LK_REDUCE_FIELDS(options), {0}};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"* C", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "a score of each class by itself"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"* C", LK_FLOATS}},
                 .range = "finite",
                 .help = "1 where a sample belongs to a class, else 0; any other number, too"},
    [MASK] = NUMBERS_MASK,
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [WEIGHT] = {.name = "weight",
                .forms = {{"~ * C", LK_FLOATS}},
                .flags = LK_OPTIONAL | LK_WEIGHTS,
                .range = "finite",
                .help = "weight of each class of each row; default ones"},
    [SAMPLE_WEIGHT] = NUMBERS_WEIGHT,
    {0},
};

static const lk_output outputs[] = {{0}};

static bool counts(const lk_job *job, int64_t i)
{
    return numbers_marked(job, MASK, i);
}

/* Read the weights of row i, by way of some room. */
static void weights(const lk_job *job, int64_t i, int64_t n, double *to, void *room)
{
    const lk_tensor *t = &job->in[WEIGHT];
    for (int64_t c = 0; c < n; c++)
        to[c] = 1;
    if (!t->data)
        return;
    const lk_spread spread = lk_spread_of(t, &job->in[LOGITS], false);
    lk_convert(lk_spread_read(&spread, i * n, n, room), t->dtype, to, LK_F64, n);
}

static void row(const lk_job *job, numbers *r)
{
    const lk_tensor *targets = &job->in[TARGETS];
    double *w = r->spare;
    weights(job, r->i, r->n, w, w + r->n);
    for (int64_t c = 0; c < r->n; c++) {
        const int64_t at = r->i * r->n + c;
        const double x = r->x[c], y = lk_real_at(targets->data, targets->dtype, at);
        if (!isfinite(y))
            lk_refuse(r->block, LK_VALUE_OUT_OF_RANGE, TARGETS, at, y);
        const double lost = scalar_times(y, lk_softplus(-x)) + scalar_times(1 - y, lk_softplus(x));
        const double share = w[c] / (double)r->n;
        r->value += scalar_times(share, scalar_nonfinite(x) ? (double)NAN : lost);
        r->slope[c] = scalar_times(share, y == 1 ? -scalar_sigmoid(-x) : scalar_sigmoid(x) - y);
    }
}

static const numbers_loss is = {
    .row = row, .counts = counts, .weight = SAMPLE_WEIGHT, .grad_output = GRAD_OUTPUT, .spare = 2};

NUMBERS_KERNELS(is)

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)error;
    numbers_count(job, is);
    return LK_OK;
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    return job->size['C' - 'A'] * 64;
}

static const char tex[] =
    "\\ell = -\\frac{1}{C} \\sum_c w_c \\left(y_c \\log\\sigma(x_c) + (1 - y_c) "
    "\\log\\sigma(-x_c)\\right)";

LK_DESCRIBE(multilabel_soft_margin, .tex = tex, .title = "Multi-label soft margin loss",
            .formula =
                "1/C sum_c w_c (y_c softplus(-x_c) + (1 - y_c) softplus(x_c)); mean: over the "
                "counted rows",
            .help = "Binary cross entropy, whose mean over the classes is the loss of a row. For "
                    "losses of elements, or positives that weigh more, use bce_with_logits.",
            .reference = "PyTorch torch.nn.functional.multilabel_soft_margin_loss",
            .example = "{\"inputs\": {\"logits\": [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]], "
                       "\"targets\": [[1.0, 0, 1.0], [0, 1.0, 0]]}}",
            .traits = LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
            .options = fields);

LK_LOSS(multilabel_soft_margin) = {
    .is = &LK_IS(multilabel_soft_margin),
    .row_cost = row_cost,
    .check = numbers_check,
    NUMBERS_MEMBERS(options, prepare),
};
