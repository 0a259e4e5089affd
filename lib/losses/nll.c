/* SPDX-License-Identifier: MIT
 *
 * The negative log-likelihood of classes whose log-probabilities are given.
 */
#include "rows/numbers.h"

enum { LOGPROBS, TARGETS, MASK, GRAD_OUTPUT, CLASS_WEIGHT, SAMPLE_WEIGHT };
enum { COUNT, DENOMINATOR }; /* diagnostics */

typedef struct options {
    lk_reduce reduce;
    int64_t class_dim, ignore_index;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, class_dim, "-1", LK_RANGED | LK_NONZERO, -1, 1,
             "where the classes stand: -1 last, 1 second as in [N,C,d1,...]"),
    LK_FIELD(options, ignore_index, "-100", 0, 0, 0, "rows with this target are not read"),
    {0},
};

static const lk_input inputs[] = {
    [LOGPROBS] = {.name = "logprobs",
                  .forms = {{"* C@class_dim", LK_FLOATS}},
                  .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                  .help = "log-probabilities of the classes; they are used as they are"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INDICES}},
                 .range = "[0,C)",
                 .help = "the right class of each row"},
    [MASK] = NUMBERS_MASK,
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [CLASS_WEIGHT] = {.name = "class_weight",
                      .forms = {{"C", LK_FLOATS}},
                      .flags = LK_OPTIONAL | LK_WEIGHTS,
                      .range = "finite",
                      .help = "weight of each class; default ones"},
    [SAMPLE_WEIGHT] = NUMBERS_WEIGHT,
    {0},
};

static const lk_output outputs[] = {
    [COUNT] = LK_OUTPUT("count", "", LK_I64, "number of counted rows"),
    [DENOMINATOR] = LK_OUTPUT("denominator", "", LK_ANY, "what the mean divides by"),
    {0},
};

static bool counts(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    return numbers_marked(job, MASK, i) && lk_int(&job->in[TARGETS], i) != o->ignore_index;
}

/* The weight of a row that counts. */
static double weight(const lk_job *job, int64_t i)
{
    return numbers_constant(job, SAMPLE_WEIGHT, i, 1) *
           numbers_constant(job, CLASS_WEIGHT, lk_int(&job->in[TARGETS], i), 1);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t classes = job->size['C' - 'A'];
    double sum = 0;
    for (int64_t i = 0; i < job->rows; i++) {
        if (!counts(job, i))
            continue;
        const int64_t y = lk_int(&job->in[TARGETS], i);
        if (y < 0 || y >= classes)
            return lk_refuse_target(job, error, TARGETS, i, classes, o->ignore_index);
        job->counted++;
        sum += weight(job, i);
    }
    job->denominator[0] = sum;
    return LK_OK;
}

/* Elements between two classes of a row. */
static int64_t inner_size(const lk_job *job)
{
    const options *o = job->options;
    int64_t inner = 1;
    for (int axis = 2; o->class_dim == 1 && axis < job->in[LOGPROBS].rank; axis++)
        inner *= job->in[LOGPROBS].shape[axis];
    return inner;
}

/* Only the target's entry is read, and has a slope. The place of class k is first + k * step. */
static void row(const lk_job *job, int64_t i, int64_t first, int64_t step, lk_block *block)
{
    const options *o = job->options;
    const bool per_row = o->reduce.reduction == LK_NONE, counted = counts(job, i);
    const int64_t classes = job->size['C' - 'A'];
    const lk_tensor *x = &job->in[LOGPROBS], *grad = &job->grad[LOGPROBS];
    const int64_t at = counted ? first + lk_int(&job->in[TARGETS], i) * step : first;
    const double w = counted ? weight(job, i) : 0;
    const double logprob = counted ? lk_real_at(x->data, x->dtype, at) : 0;
    if (scalar_nonfinite(logprob) && o->reduce.nonfinite == LK_REFUSE_NONFINITE)
        lk_refuse(block, LK_NONFINITE_INPUT, LOGPROBS, at, logprob);
    const double value = scalar_times(-w, scalar_nonfinite(logprob) ? (double)NAN : logprob);
    const double rho = job->scale[0] * numbers_constant(job, GRAD_OUTPUT, per_row ? i : 0, 1);
    block->sum[0] += value;
    if (per_row && job->value.data)
        lk_put(&job->value, i, value);
    double elsewhere = isnan(value) && rho != 0 ? (double)NAN : 0, slope = -w;
    const int64_t width = (int64_t)lk_dtype_size(x->dtype);
    for (int64_t k = 0; grad->data && k < classes; k++)
        lk_convert(&elsewhere, LK_F64, (char *)grad->data + (first + k * step) * width, x->dtype,
                   1);
    numbers_write(grad, at, 1, &slope, w == 0 ? 0 : rho, value);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const int64_t classes = job->size['C' - 'A'], inner = inner_size(job);
    (void)scratch;
    for (int64_t i = first; i < first + count; i++)
        row(job, i, i / inner * classes * inner + i % inner, inner, block);
}

static void finish(const lk_job *job, const double *sum)
{
    (void)sum;
    if (job->out[COUNT].data)
        lk_put(&job->out[COUNT], 0, (double)job->counted);
    if (job->out[DENOMINATOR].data)
        lk_put(&job->out[DENOMINATOR], 0, job->denominator[0]);
}

static const char tex[] = "\\ell_i = -w_{y_i}\\,\\log p_{i y_i},\\qquad \\text{mean} = "
                          "\\frac{\\sum_i \\ell_i}{\\sum_i w_{y_i}}";

LK_DESCRIBE(nll, .tex = tex, .title = "Negative log-likelihood of log-probabilities",
            .formula = "loss_i = -w_(y_i) logprobs_(i, y_i); mean: sum_i / sum_i w_(y_i)",
            .help = "The cross entropy of a model that ends in log_softmax. Only the entry of the "
                    "target is read, and it is not normalised; for logits use cross_entropy.",
            .reference = "PyTorch torch.nn.functional.nll_loss",
            .example = "{\"inputs\": {\"logprobs\": [[-0.3, -2.3, -1.8], [-1.2, -0.5, -2.4]], "
                       "\"targets\": [0, 1]}}",
            .traits = LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
            .options = fields);

LK_LOSS(nll) = {
    .is = &LK_IS(nll),
    .options_size = sizeof(options),
    .parts = 1,
    .check = numbers_check,
    .prepare = prepare,
    .rows = rows,
    .finish = finish,
};
