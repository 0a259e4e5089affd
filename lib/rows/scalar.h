/* SPDX-License-Identifier: MIT
 *
 * Losses whose rows are a few numbers each: one or two differentiable inputs [N], which come first
 * in the loss's table, and constants [N] or []. A loss file gives a function that computes one row,
 * and gets reading, checking, scaling, diagnostics and kernels from here:
 *
 *     static void row(const lk_job *job, scalar_row *r) { ... r->x[0] ... r->value = ... }
 *     SCALARWISE_KERNELS(row, inputs, mask, grad_output)
 *     LK_LOSS(name) = {.is = &LK_IS(name), SCALARWISE_MEMBERS(options, scalarwise_prepare)};
 *
 * Everything is computed in double, whatever the element type: N is a number of sequences, so there
 * is little to compute, and log-probabilities of sequences are large beside their differences.
 */
#ifndef LK_SCALAR_H
#define LK_SCALAR_H

#include "loss.h"
#include "vector/accurate.h"
#include "vector/vec.h"

/* Element i of a constant float input, or the only one it has; `fallback` where it is not given. */
LK_INLINE double scalar_constant(const lk_job *job, int input, int64_t i, double fallback)
{
    const lk_tensor *t = &job->in[input];
    real x;
    if (!t->data)
        return fallback;
    if (t->rank == 0 || (t->rank == 1 && t->shape[0] == 1))
        i = 0;
    memcpy(&x, (const char *)t->data + i * (int64_t)sizeof x, sizeof x);
    return (double)x;
}

enum { SCALARS_MOST = 2, SCALAR_OUTS = LK_MAX_SUMS - 1 };

/* One row: the inputs, then the results. */
typedef struct scalar_row {
    int64_t i;
    lk_block *block;        /* where the row records bad values, by lk_refuse */
    double x[SCALARS_MOST]; /* the differentiable inputs */

    double value;
    double slope[SCALARS_MOST]; /* d value / d x */
    int64_t up[SCALARS_MOST];   /* the row whose upstream gradient the slope has: this one, unless
                                   the loss sets another */
    double out[SCALAR_OUTS]; /* by diagnostic: the element of one of shape "N"; one of shape "" is
                                the mean over rows */
} scalar_row;

LK_INLINE lk_status scalarwise_prepare(lk_job *job, lk_error *error)
{
    (void)error;
    job->counted = job->rows;
    job->denominator[0] = (double)job->rows;
    return LK_OK;
}

LK_INLINE bool scalarwise_is_mean(const lk_job *job, int output)
{
    return job->loss->is->outputs[output].shape[0] == '\0';
}

/* `mask_input` is 0 if the loss has no mask; input 0 is never a mask here. */
LK_INLINE void scalarwise_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                               void (*row)(const lk_job *job, scalar_row *r), const int inputs,
                               const int mask_input, const int grad_output)
{
    const lk_reduce *reduce = job->options;
    const bool per_row = job->loss->is->loss_shape && reduce->reduction == LK_NONE;
    const lk_output *outputs = job->loss->is->outputs;
    for (int64_t i = first; i < first + count; i++) {
        scalar_row r = {.i = i, .block = block, .up = {i, i}};
        const bool counts =
            !mask_input || !job->in[mask_input].data || lk_int(&job->in[mask_input], i) != 0;
        for (int k = 0; counts && k < inputs; k++) {
            r.x[k] = (double)r_load((const elem *)job->in[k].data + i);
            if (reduce->nonfinite == LK_REFUSE_NONFINITE && scalar_nonfinite(r.x[k]))
                lk_refuse(block, LK_NONFINITE_INPUT, k, i, r.x[k]);
        }
        if (counts)
            row(job, &r);
        block->sum[0] += r.value;
        if (per_row && job->value.data)
            lk_put(&job->value, i, r.value);
        for (int k = 0; job->out_wanted && outputs[k].name; k++) {
            block->sum[1 + k] += r.out[k];
            if (job->out[k].data && !scalarwise_is_mean(job, k))
                lk_put(&job->out[k], i, r.out[k]);
        }
        for (int k = 0; k < inputs; k++) {
            if (!job->grad[k].data)
                continue;
            const double rho = job->scale[0] * scalar_constant(job, grad_output, r.up[k], 1);
            const double g = rho == 0 ? 0 : isnan(r.value) ? (double)NAN : r.slope[k] * rho;
            r_store((elem *)job->grad[k].data + i, (real)(counts ? g : 0));
        }
    }
}

LK_INLINE void scalarwise_finish(const lk_job *job, const double *sum)
{
    const lk_reduce *reduce = job->options;
    const double nothing = reduce->empty_mean == LK_EMPTY_NAN ? (double)NAN : 0;
    for (int k = 0; job->loss->is->outputs[k].name; k++)
        if (job->out[k].data && scalarwise_is_mean(job, k))
            lk_put(&job->out[k], 0, job->counted > 0 ? sum[1 + k] / (double)job->counted : nothing);
}

#define SCALARWISE_KERNELS(row, inputs, mask, grad_output)                                         \
    static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,             \
                     void *scratch)                                                                \
    {                                                                                              \
        (void)scratch;                                                                             \
        scalarwise_rows(job, first, count, block, row, inputs, mask, grad_output);                 \
    }

#define SCALARWISE_MEMBERS(options, prepare_)                                                      \
    .options_size = sizeof(options), .parts = 1, .prepare = (prepare_), .rows = rows,              \
    .finish = scalarwise_finish

/* Shared by the losses of a chosen and a rejected answer. */

enum { CHOSEN, REJECTED };                                    /* inputs, and slopes */
enum { CHOSEN_REWARDS, REJECTED_REWARDS, MARGINS, ACCURACY }; /* diagnostics */

#define PAIR_INPUT(name_, help_)                                                                   \
    {                                                                                              \
        .name = (name_), .forms = {{"N", LK_FLOATS}},                                              \
        .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL, .help = (help_)                   \
    }

/* Constants: [N], and [N] or [] for all rows. */
#define PAIR_CONSTANT(name_, help_)                                                                \
    {                                                                                              \
        .name = (name_), .forms = {{"N", LK_FLOATS}}, .flags = LK_OPTIONAL, .help = (help_)        \
    }
#define PAIR_NUMBERS(name_, help_)                                                                 \
    {                                                                                              \
        .name = (name_), .forms = {{"N", LK_FLOATS}, {"", LK_FLOATS}}, .flags = LK_OPTIONAL,       \
        .help = (help_)                                                                            \
    }

static const lk_output pair_outputs[] = {
    [CHOSEN_REWARDS] = {.name = "chosen_rewards",
                        .shape = "N",
                        .dtype = LK_ANY,
                        .help = "implicit reward of each chosen answer"},
    [REJECTED_REWARDS] = {.name = "rejected_rewards",
                          .shape = "N",
                          .dtype = LK_ANY,
                          .help = "implicit reward of each rejected answer"},
    [MARGINS] = {.name = "margins",
                 .shape = "N",
                 .dtype = LK_ANY,
                 .help = "chosen_rewards - rejected_rewards"},
    [ACCURACY] = {.name = "accuracy",
                  .shape = "",
                  .dtype = LK_ANY,
                  .help = "share of the pairs whose margin is above 0"},
    {0},
};

/* Set the diagnostics from both rewards. */
LK_INLINE void pair_rewards(scalar_row *r, double chosen, double rejected)
{
    r->out[CHOSEN_REWARDS] = chosen;
    r->out[REJECTED_REWARDS] = rejected;
    r->out[MARGINS] = chosen - rejected;
    r->out[ACCURACY] = r->out[MARGINS] > 0;
}

/* Set a value that depends only on chosen - rejected. */
LK_INLINE void pair_set(scalar_row *r, double value, double slope)
{
    r->value = value;
    r->slope[CHOSEN] = slope;
    r->slope[REJECTED] = -slope;
}

/* The Bradley-Terry loss, where a fraction eps of the labels is wrong: u = beta (chosen - rejected)
 * + constant. */
LK_INLINE void pair_logistic(scalar_row *r, double u, double beta, double eps)
{
    /* softplus and sigmoid of u and -u are made of the same numbers. */
    const double e = lk_exp(-fabs(u)), tail = lk_log1p(e), likely = 1 / (1 + e), rare = e / (1 + e);
    const double right = (u < 0 ? -u : 0) + tail, wrong = (u > 0 ? u : 0) + tail;
    pair_set(r, (1 - eps) * right + scalar_times(eps, wrong),
             -beta * (u >= 0 ? (1 - eps) * rare - eps * likely : (1 - eps) * likely - eps * rare));
}

#endif
