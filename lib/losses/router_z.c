/* SPDX-License-Identifier: MIT
 *
 * The z-loss of a mixture of experts: the square of logsumexp keeps the router's logits small.
 */
#include "rows/numbers.h"

enum { ROUTER_LOGITS, MASK, GRAD_OUTPUT };

typedef struct options {
    lk_reduce reduce;
} options;

static const lk_field fields[] = {LK_REDUCE_FIELDS(options), {0}};

static const lk_input inputs[] = {
    [ROUTER_LOGITS] = {.name = "router_logits",
                       .forms = {{"* E", LK_FLOATS}},
                       .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                       .help = "scores of the experts for each token"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "tokens with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static bool counts(const lk_job *job, int64_t i)
{
    return numbers_marked(job, MASK, i);
}

static void row(const lk_job *job, numbers *r)
{
    (void)job;
    const double lse = numbers_softmax(r->x, r->n, r->slope);
    r->value = lse * lse;
    for (int64_t e = 0; e < r->n; e++)
        r->slope[e] *= 2 * lse;
}

static const numbers_loss is = {.row = row, .counts = counts, .grad_output = GRAD_OUTPUT};

NUMBERS_KERNELS(is)

static lk_status check(const lk_job *job, lk_error *error)
{
    if (job->size['E' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, ROUTER_LOGITS, -1,
                       "router_logits has no experts; the last axis must have at least 1");
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)error;
    numbers_count(job, is);
    return LK_OK;
}

static const char tex[] = "\\ell = \\left(\\log \\sum_e e^{x_e}\\right)^2";

LK_DESCRIBE(router_z, .tex = tex, .title = "Router z-loss of a mixture of experts",
            .formula = "lse(router_logits)^2; mean: over the counted tokens",
            .help = "Keeps the logits of a router small, and with them its rounding errors. Beside "
                    "router_balance.",
            .reference = "Zoph et al. 2022; Megatron-LM moe_utils.py z_loss_func",
            .example = "{\"inputs\": {\"router_logits\": [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = outputs, .options = fields);

LK_LOSS(router_z) = {
    .is = &LK_IS(router_z),
    .check = check,
    NUMBERS_MEMBERS(options, prepare),
};
