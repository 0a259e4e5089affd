/* SPDX-License-Identifier: MIT
 *
 * Kullback-Leibler divergence of log-probabilities from a target distribution.
 */
#include "rows/elementwise.h"

enum { ROW_MASK = B + 1, ROW_GRAD_OUTPUT };
enum { BATCHMEAN = LK_MEAN + 1 }; /* reduction */

typedef struct options {
    lk_reduce reduce;
    bool log_target;
} options;

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(options, "batchmean", "none|sum|mean|batchmean",
                       "one loss per element, their sum, their mean over elements, or the sum over "
                       "the size of the first axis"),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    LK_FIELD(options, log_target, "false", 0, 0, 0, "target holds log-probabilities"),
    {0},
};

static const lk_input inputs[] = {
    [A] = {.name = "input",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "log-probabilities of the model"},
    [B] = {.name = "target",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_ROW_LOCAL,
           .range = ">=0",
           .help = "probabilities, or with log_target their logarithms, which have no range"},
    [ROW_MASK] =
        {.name = "mask",
         .forms = {{"*-", LK_MASKS}},
         .flags = LK_OPTIONAL | LK_IGNORES,
         .help = "rows along the last axis with 0 are ignored and not read; default all counted"},
    [ROW_GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

/* The entries of the first axis that have a counted row. */
static double batch(const lk_job *job)
{
    const lk_tensor *given = &job->in[ROW_MASK], *x = &job->in[A];
    const int64_t first = x->rank > 0 ? x->shape[0] : 1;
    const bool has_rows = x->rank > 1; /* else the mask is one number, for all entries */
    const int64_t each = given->data && has_rows && first > 0 ? lk_tensor_count(given) / first : 1;
    double entries = 0;
    for (int64_t i = 0; given->data && i < first; i++) {
        bool any = false;
        for (int64_t k = 0; k < each; k++)
            any = any || lk_int(given, has_rows ? i * each + k : 0) != 0;
        entries += any;
    }
    return given->data ? entries : (double)first;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    (void)error;
    job->counted = elementwise_count(job, ROW_MASK);
    job->denominator[0] = o->reduce.reduction == BATCHMEAN ? batch(job) : (double)job->counted;
    return LK_OK;
}

/* q (log q - x), 0 where q is 0. */
LK_INLINE void each(const void *given, element *e)
{
    const options *o = given;
    const vec one = v_set(1), zero = {0}, x = e->a;
    const vec q = o->log_target ? v_exp(e->b) : e->b, log_q = o->log_target ? e->b : v_log(e->b);
    const mask some = q != zero;
    const vec gap = log_q - x;
    e->legal = o->log_target ? m_set(-1) : ~(q < zero);
    e->value.a = v_where(some, q * gap);
    e->slope_a = -q;
    e->slope_b = v_where(some, o->log_target ? q * (gap + one) : gap + one);
}

ELEMENTWISE_LOOP(options, NULL, .ranged = B, .mask = ROW_MASK, .grad_output = ROW_GRAD_OUTPUT)

static const char *const shapes[] = {"*", "", "", ""};

static const char tex[] =
    "\\ell = q\\,(\\log q - x),\\quad x = \\text{input},\\quad q = \\text{target}\\ \\text{or}\\ "
    "e^{\\text{target}}";

LK_DESCRIBE(kl_div, .tex = tex, .title = "Kullback-Leibler divergence",
            .formula = "q * (log q - x), x = input, q = target, or exp(target) with log_target; 0 "
                       "where q = 0; batchmean: the sum divided by the entries "
                       "of the first axis that have a counted row",
            .help = "The order is PyTorch's: the model's log-probabilities first, then what they "
                    "should be.",
            .reference = "Kullback, Leibler 1951; PyTorch torch.nn.functional.kl_div",
            .example = "{\"inputs\": {\"input\": [[-0.7, -1.6, -1.2]], "
                       "\"target\": [[0.5, 0.2, 0.3]]}}",
            .traits = LK_ROWWISE, .loss_shape = "*", .loss_shapes = shapes, .inputs = inputs,
            .outputs = elementwise_outputs, .options = fields);

LK_LOSS(kl_div) = {
    .is = &LK_IS(kl_div),
    .options_size = sizeof(options),
    .parts = 1,
    .light = ELEMENTWISE_COSTLY,
    .prepare = prepare,
    ELEMENTWISE_ROWS,
};
