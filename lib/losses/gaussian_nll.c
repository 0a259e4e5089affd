/* SPDX-License-Identifier: MIT
 *
 * The negative log-likelihood of numbers that have a normal distribution, whose variance is
 * predicted, too. A row is an element; the gradient of the variances, which may be shared by many,
 * is a pass of its own.
 */
#include "rows/numbers.h"

enum { INPUT, TARGET, VAR, MASK, SAMPLE_WEIGHT, GRAD_OUTPUT };
enum { EACH_VECTOR, EACH_ELEMENT }; /* forms of VAR */

typedef struct options {
    lk_reduce reduce;
    bool full;
    double eps;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, full, "false", 0, 0, 0, "adds log(2 pi)/2"),
    LK_FIELD(options, eps, "1e-6", LK_RANGED | LK_OPEN | LK_HOLDS, 0, (double)INFINITY,
             "the least variance; the gradient of a smaller one is that of this"),
    {0},
};

static const lk_input inputs[] = {
    [INPUT] = {.name = "input",
               .forms = {{"*", LK_FLOATS}},
               .flags = LK_DIFFERENTIABLE | LK_GRADIENT,
               .help = "predictions"},
    [TARGET] = {.name = "target", .forms = {{"~ *", LK_FLOATS}}, .help = "what they should be"},
    [VAR] = {.name = "var",
             .forms = {[EACH_VECTOR] = {"*-", LK_FLOATS}, [EACH_ELEMENT] = {"~ *", LK_FLOATS}},
             .flags = LK_DIFFERENTIABLE | LK_GRADIENT,
             .range = ">=0",
             .help =
                 "predicted variances: as many axes as input has, each of its size or 1; or its "
                 "shape without the last axis"},
    [MASK] = NUMBERS_MASK,
    [SAMPLE_WEIGHT] = NUMBERS_WEIGHT,
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static lk_status check(const lk_job *job, lk_error *error)
{
    const int rank = job->in[VAR].rank;
    if (job->form[VAR] == EACH_ELEMENT && rank != job->lead_rank)
        return lk_fail(job, error, LK_RANK_MISMATCH, VAR, -1,
                       "var has %d axes; it must have %d, as input has, each of its size or 1, or "
                       "the shape of input without the last axis",
                       rank, job->lead_rank);
    return LK_OK;
}

static bool counts(const lk_job *job, int64_t i)
{
    return numbers_marked(job, MASK, i);
}

static const numbers_loss is = {.counts = counts, .weight = SAMPLE_WEIGHT};

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)error;
    numbers_count(job, is);
    return LK_OK;
}

/* How target and var are repeated to the shape of input. */
typedef struct shapes {
    lk_spread target, var;
} shapes;

static shapes shapes_of(const lk_job *job)
{
    return (shapes){
        .target = lk_spread_of(&job->in[TARGET], &job->in[INPUT], false),
        .var = lk_spread_of(&job->in[VAR], &job->in[INPUT], job->form[VAR] == EACH_VECTOR),
    };
}

/* The element of a tensor that element i of input meets. */
static int64_t place(const lk_spread *spread, int64_t i)
{
    int64_t at = 0;
    for (int axis = 0; axis < spread->axes; axis++) {
        at += i % spread->size[axis] * spread->stride[axis];
        i /= spread->size[axis];
    }
    return at;
}

static double read(const lk_job *job, int input, int64_t i)
{
    return lk_real_at(job->in[input].data, job->in[input].dtype, i);
}

/* An element: the input, its error, the variance as it is given and as it is used, at least eps. */
typedef struct element {
    double x, off, var, v;
} element;

static element element_of(const lk_job *job, const shapes *s, int64_t i)
{
    const options *o = job->options;
    element e = {.x = read(job, INPUT, i), .var = read(job, VAR, place(&s->var, i))};
    e.off = e.x - read(job, TARGET, place(&s->target, i));
    e.v = e.var < o->eps ? o->eps : e.var;
    return e;
}

/* What the gradient of element i is multiplied with. */
static double factor(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    const double up = numbers_constant(job, GRAD_OUTPUT, o->reduce.reduction == LK_NONE ? i : 0, 1);
    return counts(job, i) ? numbers_constant(job, SAMPLE_WEIGHT, i, 1) * job->scale[0] * up : 0;
}

static void refuse(const lk_job *job, const shapes *s, const element *e, int64_t i, lk_block *block)
{
    const options *o = job->options;
    if (e->var < 0)
        lk_refuse(block, LK_VALUE_OUT_OF_RANGE, VAR, place(&s->var, i), e->var);
    if (o->reduce.nonfinite != LK_REFUSE_NONFINITE)
        return;
    if (scalar_nonfinite(e->x))
        lk_refuse(block, LK_NONFINITE_INPUT, INPUT, i, e->x);
    if (scalar_nonfinite(e->var))
        lk_refuse(block, LK_NONFINITE_INPUT, VAR, place(&s->var, i), e->var);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const double half_log_2pi = 0x1.d67f1c864beb5p-1;
    const shapes s = shapes_of(job);
    (void)scratch;
    for (int64_t i = first; i < first + count; i++) {
        double value = 0, slope = 0;
        if (counts(job, i)) {
            const element e = element_of(job, &s, i);
            refuse(job, &s, &e, i, block);
            slope = e.off / e.v;
            value = (lk_log(e.v) + slope * e.off) / 2 + (o->full ? half_log_2pi : 0);
            value = scalar_times(numbers_constant(job, SAMPLE_WEIGHT, i, 1), value);
        }
        value = isnan(value) ? (double)NAN : value; /* its sign is the compiler's choice */
        block->sum[0] += value;
        if (job->value.data && o->reduce.reduction == LK_NONE)
            lk_put(&job->value, i, value);
        numbers_write(&job->grad[INPUT], i, 1, &slope, factor(job, i), value);
    }
}

static size_t state_size(const lk_job *job)
{
    const bool wanted = job->grad_wanted >> VAR & 1;
    return wanted ? (size_t)lk_tensor_count(&job->in[VAR]) * sizeof(double) : 0;
}

/* The elements of input that a row of var meets. Its first axis is input's own, or else repeated:
 * then a row meets them all. */
static int64_t elements_of(const lk_job *job)
{
    const lk_tensor *var = &job->in[VAR], *input = &job->in[INPUT];
    const bool apart = var->rank > 0 && var->shape[0] == input->shape[0] && var->shape[0] > 0;
    return apart ? job->rows / var->shape[0] : job->rows;
}

/* Also where var is less than eps, so that a variance that has collapsed can grow again. */
static void var_rows(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const lk_tensor *grad = &job->grad[VAR];
    const shapes s = shapes_of(job);
    const int64_t each = elements_of(job), all = lk_tensor_count(grad);
    const int64_t width = grad->rank > 0 && grad->shape[0] > 0 ? all / grad->shape[0] : all;
    double *sum = job->state;
    (void)scratch;
    for (int64_t i = first * each; i < (first + count) * each; i++) {
        const double rho = factor(job, i);
        if (rho == 0)
            continue;
        const element e = element_of(job, &s, i);
        const double ratio = e.off / e.v;
        sum[place(&s.var, i)] += rho * (1 / e.v - ratio * ratio) / 2;
    }
    for (int64_t k = first * width; k < (first + count) * width; k++)
        numbers_write(grad, k, 1, &sum[k], 1, sum[k]);
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    return pass ? 24 * elements_of(job) : 24;
}

static const char tex[] = "\\ell = \\tfrac{1}{2}\\left(\\log v + \\frac{(x - y)^2}{v}\\right)\\ "
                          "\\left(+\\ \\tfrac{1}{2}\\log 2\\pi\\right),\\qquad v = "
                          "\\max(\\text{var},\\ \\varepsilon)";

LK_DESCRIBE(
    gaussian_nll, .tex = tex, .title = "Gaussian negative log-likelihood",
    .formula = "(log v + (input - target)^2 / v) / 2, v = max(var, eps); full adds log(2 "
               "pi)/2",
    .help = "Regression by a model that predicts how certain it is. The gradient of var is "
            "that of v where var is below eps, too.",
    .reference = "PyTorch torch.nn.functional.gaussian_nll_loss; Nix and Weigend 1994",
    .example = "{\"inputs\": {\"input\": [1.0, 2.0], \"target\": [0.5, 3.0], \"var\": [0.25, "
               "0.5]}}",
    .traits = 0, .loss_shape = "*", .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(gaussian_nll) = {
    .is = &LK_IS(gaussian_nll),
    .options_size = sizeof(options),
    .parts = 1,
    .row_cost = row_cost,
    .check = check,
    .state = state_size,
    .prepare = prepare,
    .rows = rows,
    .passes = {{.input = VAR, .rows = var_rows}},
};
