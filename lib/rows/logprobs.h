/* SPDX-License-Identifier: MIT
 *
 * Log-probabilities of given tokens, by position and by sequence, whatever their scores are made
 * of: outputs, upstream gradients, and what a row's gradient needs. Row i is position i; it is
 * scored against the target `shift` positions further on in its sequence.
 */
#ifndef LK_LOGPROBS_H
#define LK_LOGPROBS_H

#include "rows/sequence.h"

enum { GRAD_LOGPROBS = GRAD_OUTPUT + 1, GRAD_ENTROPY, GRAD_SEQUENCE, GRAD_MEAN, LOGPROBS_INPUTS };
enum { LOGPROBS, ENTROPIES, SEQUENCE_LOGPROBS, MEAN_LOGPROBS, LOGPROBS_OUTPUTS };

typedef struct logprobs_options {
    classwise_options common;
    int64_t shift;
} logprobs_options;

#define LOGPROBS_COTANGENT(name_, shape_, help_)                                                   \
    {                                                                                              \
        .name = (name_), .forms = {{shape_, LK_FLOATS}}, .flags = LK_OPTIONAL | LK_COTANGENT,      \
        .help = (help_)                                                                            \
    }
#define LOGPROBS_UPSTREAMS(positions, sequences)                                                   \
    [GRAD_OUTPUT] = {.name = "grad_output",                                                        \
                     .forms = {{"", LK_FLOATS}},                                                   \
                     .flags = LK_OPTIONAL,                                                         \
                     .help = "upstream gradient of loss; default 1, or 0 where another upstream "  \
                             "gradient is given"},                                                 \
    [GRAD_LOGPROBS] = LOGPROBS_COTANGENT("grad_logprobs", positions,                               \
                                         "upstream gradient of logprobs; default 0"),              \
    [GRAD_ENTROPY] =                                                                               \
        LOGPROBS_COTANGENT("grad_entropy", positions, "upstream gradient of entropy; default 0"),  \
    [GRAD_SEQUENCE] = LOGPROBS_COTANGENT("grad_sequence_logprobs", sequences,                      \
                                         "upstream gradient of sequence_logprobs; default 0"),     \
    [GRAD_MEAN] = LOGPROBS_COTANGENT("grad_mean_logprobs", sequences,                              \
                                     "upstream gradient of mean_logprobs; default 0")

#define LOGPROBS_RESULTS(positions, sequences)                                                     \
    [LOGPROBS] = {.name = "logprobs",                                                              \
                  .shape = positions,                                                              \
                  .dtype = LK_ANY,                                                                 \
                  .flags = LK_DEFAULT,                                                             \
                  .help = "log p of each target; 0 where not counted"},                            \
    [ENTROPIES] =                                                                                  \
        LK_OUTPUT("entropy", positions, LK_ANY, "entropy of softmax; 0 where not counted"),        \
    [SEQUENCE_LOGPROBS] = {.name = "sequence_logprobs",                                            \
                           .shape = sequences,                                                     \
                           .dtype = LK_ANY,                                                        \
                           .flags = LK_DEFAULT,                                                    \
                           .help = "sum of each sequence's logprobs"},                             \
    [MEAN_LOGPROBS] = LK_OUTPUT("mean_logprobs", sequences, LK_ANY,                                \
                                "mean over each sequence's counted positions; 0 without any")

/* A gradient is computed by default if its upstream gradient was sent. */
LK_STATIC bool logprobs_default_gradient(const lk_job *job, int input)
{
    (void)input;
    return job->given & ((2u << GRAD_MEAN) - (1u << GRAD_OUTPUT));
}

/* The index of row i's target, or -1 if the row is ignored. */
LK_STATIC int64_t logprobs_place(const lk_job *job, int64_t i)
{
    const logprobs_options *o = job->options;
    return shifted_place(job, i, o->shift, lk_sequence(job, lk_sequence_of(job, i) + 1));
}

/* What the gradient of a row needs beside its scores. */
typedef struct logprobs_row {
    class_norm norm;
    double gap; /* class_entropy's */
} logprobs_row;

/* job->state: how many positions of each sequence count, then log p of every row. */
LK_STATIC size_t logprobs_state(const lk_job *job)
{
    return (size_t)(job->size['B' - 'A'] + job->rows) * sizeof(double);
}

LK_STATIC lk_status logprobs_prepare(lk_job *job, lk_error *error)
{
    double *counted = job->state;
    lk_status status;
    for (int64_t i = 0; i < job->rows; i++) {
        int64_t place = logprobs_place(job, i);
        if (place < 0)
            continue;
        if ((status = classwise_check_target(job, TARGETS, place, error)) != LK_OK)
            return status;
        counted[lk_sequence_of(job, i)]++;
    }
    return LK_OK;
}

/* The upstream gradients of row i's log p and entropy. */
LK_STATIC double logprobs_upstream(const lk_job *job, int64_t i)
{
    const int64_t b = lk_sequence_of(job, i);
    const double *counted = job->state;
    const bool others = job->given & ((2u << GRAD_MEAN) - (1u << GRAD_LOGPROBS));
    double g = others && !lk_has(job, GRAD_OUTPUT) ? 0 : real_or_one(job, GRAD_OUTPUT, 0);
    if (lk_has(job, GRAD_LOGPROBS))
        g += real_or_one(job, GRAD_LOGPROBS, i);
    if (lk_has(job, GRAD_SEQUENCE))
        g += real_or_one(job, GRAD_SEQUENCE, b);
    if (lk_has(job, GRAD_MEAN))
        g += real_or_one(job, GRAD_MEAN, b) / counted[b];
    return g;
}

LK_STATIC double logprobs_upstream_entropy(const lk_job *job, int64_t i)
{
    return lk_has(job, GRAD_ENTROPY) ? real_or_one(job, GRAD_ENTROPY, i) : 0;
}

/* E of a counted row, or of some of its classes, in row->grad_x. */
LK_STATIC void logprobs_gradient(const lk_job *job, const class_plan *p, const class_row *row,
                                 const logprobs_row *of, int64_t i)
{
    const double g_h = logprobs_upstream_entropy(job, i), g_l = logprobs_upstream(job, i);
    if (g_l == 0 && g_h == 0)
        class_zero(p, row);
    else if (isnan(of->norm.sum))
        elements_fill(row->grad_x, p->width, (real)NAN);
    else
        class_gradient_logprob(p, row, &of->norm, g_l, g_h, of->gap);
}

LK_STATIC void logprobs_put(const lk_job *job, int64_t i, double value, lk_block *block)
{
    double *logprob = (double *)job->state + job->size['B' - 'A'];
    logprob[i] = value;
    block->sum[0] += value;
    put_row(job, LOGPROBS, i, value);
}

LK_STATIC void logprobs_finish(const lk_job *job, const double *sum)
{
    const int64_t B = job->size['B' - 'A'];
    const double *counted = job->state, *logprob = counted + B;
    (void)sum;
    for (int64_t b = 0; b < B; b++) {
        double total = 0;
        for (int64_t i = lk_sequence(job, b); i < lk_sequence(job, b + 1); i++)
            total += logprob[i];
        put_row(job, SEQUENCE_LOGPROBS, b, total);
        put_row(job, MEAN_LOGPROBS, b, counted[b] > 0 ? total / counted[b] : 0);
    }
}

#endif
