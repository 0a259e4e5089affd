/* SPDX-License-Identifier: MIT
 *
 * Sequences of class scores, [B,T,C] or packed, [P,C]: which positions count, what they weigh, and
 * reductions by sequence. Row i is position i; it is scored against the target `shift` positions
 * further on in its sequence.
 */
#ifndef LK_SEQUENCE_H
#define LK_SEQUENCE_H

#include "lengths.h"
#include "rows/class.h"

enum { LENGTHS = CLASSWISE_INPUTS, POSITION_WEIGHT, OFFSETS };
enum { EACH_POSITION, EACH_PLACE }; /* forms of POSITION_WEIGHT */

/* reduction, beyond none, sum and mean */
enum { SEQUENCE_SUM = LK_MEAN + 1, SEQUENCE_MEAN, MEAN_OF_SEQUENCE_MEANS, MEAN_OF_SEQUENCE_SUMS };

/* Measures of a text (bits per byte and similar), which losses for evaluating language models have
 * after the class diagnostics: options, fields of the option table, outputs, checks and values. */

enum {
    NLL_SUM = CLASSWISE_OUTPUTS,
    BITS_PER_TOKEN,
    BITS_PER_BYTE,
    BYTE_PERPLEXITY,
    WORD_PERPLEXITY
};

typedef struct text_options {
    double num_bytes, num_words; /* NaN: off */
} text_options;

#define TEXT_FIELD(st, name_, help_)                                                               \
    {                                                                                              \
        .name = #name_, .type = LK_REAL, .flags = LK_OFF | LK_RANGED | LK_OPEN, .min = 0,          \
        .max = (double)INFINITY, .offset = offsetof(st, text.name_), .fallback = "off",            \
        .help = (help_)                                                                            \
    }
#define TEXT_FIELDS(st)                                                                            \
    TEXT_FIELD(st, num_bytes, "bytes of the text, for bits_per_byte and byte_perplexity"),         \
        TEXT_FIELD(st, num_words, "words of the text, for word_perplexity")

#define TEXT_DIAGNOSTICS                                                                           \
    [NLL_SUM] = LK_OUTPUT("nll_sum", "", LK_ANY, "sum of the counted nll"),                        \
    [BITS_PER_TOKEN] = LK_OUTPUT("bits_per_token", "", LK_ANY, "nll_sum / (count ln 2)"),          \
    [BITS_PER_BYTE] = LK_OUTPUT("bits_per_byte", "", LK_ANY, "nll_sum / (num_bytes ln 2)"),        \
    [BYTE_PERPLEXITY] = LK_OUTPUT("byte_perplexity", "", LK_ANY, "exp(nll_sum / num_bytes)"),      \
    [WORD_PERPLEXITY] = LK_OUTPUT("word_perplexity", "", LK_ANY, "exp(nll_sum / num_words)")

LK_STATIC lk_status text_check(const lk_job *job, const text_options *o, lk_error *error)
{
    const unsigned by_bytes = 1u << BITS_PER_BYTE | 1u << BYTE_PERPLEXITY;
    if ((job->out_wanted & by_bytes) && isnan(o->num_bytes))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "bits_per_byte and byte_perplexity need the option num_bytes");
    if ((job->out_wanted & 1u << WORD_PERPLEXITY) && isnan(o->num_words))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "word_perplexity needs the option num_words");
    return LK_OK;
}

LK_STATIC void text_finish(const lk_job *job, const text_options *o, const double *sum)
{
    const classwise_options *common = job->options;
    const double nll = sum[SUM_NLL], bits = nll / lk_ln_2, n = (double)job->counted;
    const double nothing = common->reduce.empty_mean == LK_EMPTY_NAN ? (double)NAN : 0;
    put_row(job, NLL_SUM, 0, nll);
    put_row(job, BITS_PER_TOKEN, 0, n > 0 ? bits / n : nothing);
    put_row(job, BITS_PER_BYTE, 0, bits / o->num_bytes);
    put_row(job, BYTE_PERPLEXITY, 0, lk_exp(nll / o->num_bytes));
    put_row(job, WORD_PERPLEXITY, 0, lk_exp(nll / o->num_words));
}

typedef struct sequence_options {
    classwise_options common;
    text_options text;
    int64_t shift;
} sequence_options;

/* What prepare stores in job->state for the rows: the weights of both parts of every row, and room
 * for their values where the loss has one number for each sequence. */
typedef struct sequence_state {
    double denominator; /* sum of D_b */
    double part[];      /* [B*T][2] weights, then [B*T][2] values */
} sequence_state;

LK_STATIC bool by_sequence(const sequence_options *o)
{
    return o->common.reduce.reduction == SEQUENCE_SUM ||
           o->common.reduce.reduction == SEQUENCE_MEAN;
}

LK_STATIC size_t sequence_state_size(const lk_job *job)
{
    size_t parts = by_sequence(job->options) ? 4 : 2;
    return sizeof(sequence_state) + (size_t)job->rows * parts * sizeof(double);
}

/* The index of row i's target in the target-side inputs, or -1 if the row is ignored. Its sequence
 * ends at `end`, which the shift may exceed. */
LK_STATIC int64_t shifted_place(const lk_job *job, int64_t i, int64_t shift, int64_t end)
{
    return shift < end - i && classwise_counts(job, i + shift) ? i + shift : -1;
}

LK_STATIC int64_t sequence_place(const lk_job *job, int64_t i)
{
    const sequence_options *o = job->options;
    const int64_t b = lk_sequence_of(job, i);
    int64_t end = lk_sequence(job, b + 1);
    if (job->in[LENGTHS].data)
        end = lk_sequence(job, b) + lk_int(&job->in[LENGTHS], b);
    return shifted_place(job, i, o->shift, end);
}

LK_STATIC class_target sequence_target(const lk_job *job, int64_t i)
{
    const sequence_options *o = job->options;
    const sequence_state *state = job->state;
    const int64_t place = sequence_place(job, i);
    class_target t = {.counts = place >= 0, .y = -1};
    if (!t.counts)
        return t;
    t.y = job->in[TARGETS].data ? lk_int(&job->in[TARGETS], place) : -1;
    t.up = o->common.reduce.reduction == LK_NONE ? i : by_sequence(o) ? lk_sequence_of(job, i) : 0;
    t.main = state->part[2 * i];
    t.z = state->part[2 * i + 1];
    return t;
}

LK_STATIC void sequence_targets(const lk_job *job, int64_t first, int count, class_targets *to)
{
    for (int k = 0; k < count; k++)
        class_put_target(to, k, sequence_target(job, first + k));
}

/* What packed sequences exclude. */
LK_STATIC lk_status sequence_check(const lk_job *job, lk_error *error)
{
    if (!lk_has(job, OFFSETS))
        return LK_OK;
    if (lk_has(job, LENGTHS))
        return lk_fail(job, error, LK_OPTION_CONFLICT, LENGTHS, -1,
                       "lengths and offsets exclude each other: offsets tell the lengths");
    if (lk_has(job, POSITION_WEIGHT) && job->form[POSITION_WEIGHT] == EACH_PLACE)
        return lk_fail(job, error, LK_OPTION_CONFLICT, POSITION_WEIGHT, -1,
                       "position_weight has %lld elements; with offsets it has one for each of the "
                       "%lld positions",
                       (long long)job->in[POSITION_WEIGHT].shape[0],
                       (long long)job->size['P' - 'A']);
    return LK_OK;
}

/* Is what a counted position is scored against, at a place of the target-side inputs, valid? */
typedef lk_status (*sequence_checks)(const lk_job *job, int64_t place, lk_error *error);

LK_STATIC lk_status sequence_check_target(const lk_job *job, int64_t place, lk_error *error)
{
    return classwise_check_target(job, TARGETS, place, error);
}

/* The weights of one sequence before any division, and their sums. */
LK_STATIC lk_status sequence_weigh(lk_job *job, int64_t b, sequence_checks valid, double *D,
                                   double *n, lk_error *error)
{
    sequence_state *state = job->state;
    const int64_t first = lk_sequence(job, b), end = lk_sequence(job, b + 1);
    const bool by_place = job->form[POSITION_WEIGHT] == EACH_PLACE;
    lk_status status;
    *D = *n = 0;
    for (int64_t i = first; i < end; i++) {
        int64_t place = sequence_place(job, i);
        if (place < 0)
            continue;
        if ((status = valid(job, place, error)) != LK_OK)
            return status;
        double m = real_or_one(job, POSITION_WEIGHT, by_place ? place - first : place);
        const bool by_class = job->in[CLASS_WEIGHT].data;
        job->counted++;
        *D += by_class ? m * real_or_one(job, CLASS_WEIGHT, lk_int(&job->in[TARGETS], place)) : m;
        *n += m;
        state->part[2 * i] = state->part[2 * i + 1] = m;
    }
    return LK_OK;
}

LK_STATIC void sequence_divide(lk_job *job, int64_t b, double main, double z)
{
    sequence_state *state = job->state;
    for (int64_t i = lk_sequence(job, b); i < lk_sequence(job, b + 1); i++) {
        state->part[2 * i] = main != 0 ? state->part[2 * i] / main : 0;
        state->part[2 * i + 1] = z != 0 ? state->part[2 * i + 1] / z : 0;
    }
}

LK_STATIC lk_status sequence_prepare_rows(lk_job *job, sequence_checks valid, lk_error *error)
{
    const sequence_options *o = job->options;
    const int reduction = o->common.reduce.reduction;
    const int64_t B = job->size['B' - 'A'];
    double D, n, all_D = 0, all_n = 0, with_D = 0, with_n = 0;
    lk_status status = lk_check_lengths(job, LENGTHS, 0, job->size['T' - 'A'], error);
    for (int64_t b = 0; status == LK_OK && b < B; b++) {
        status = sequence_weigh(job, b, valid, &D, &n, error);
        if (reduction == SEQUENCE_MEAN || reduction == MEAN_OF_SEQUENCE_MEANS)
            sequence_divide(job, b, D, n);
        all_D += D;
        all_n += n;
        with_D += D != 0;
        with_n += n != 0;
    }
    ((sequence_state *)job->state)->denominator = all_D;
    if (reduction <= LK_MEAN) {
        job->denominator[MAIN] = all_D;
        job->denominator[Z] = all_n;
    } else if (reduction == MEAN_OF_SEQUENCE_MEANS) {
        job->denominator[MAIN] = with_D;
        job->denominator[Z] = with_n;
    } else if (reduction == MEAN_OF_SEQUENCE_SUMS) {
        job->denominator[MAIN] = job->denominator[Z] = (double)B;
    }
    classwise_total_weight(job);
    return status;
}

LK_STATIC lk_status sequence_prepare(lk_job *job, lk_error *error)
{
    return sequence_prepare_rows(job, sequence_check_target, error);
}

LK_STATIC void sequence_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                             void *scratch)
{
    sequence_state *state = job->state;
    double *value = by_sequence(job->options) ? state->part + 2 * job->rows : NULL;
    classwise_rows(job, sequence_targets, value, first, count, block, scratch);
}

/* `loss` and `z_loss` where they have one number for each sequence. */
LK_STATIC void sequence_values(const lk_job *job)
{
    const sequence_options *o = job->options;
    const sequence_state *state = job->state;
    const bool means = o->common.reduce.reduction == SEQUENCE_MEAN;
    const bool nan = means && o->common.reduce.empty_mean == LK_EMPTY_NAN;
    for (int64_t b = 0; b < job->size['B' - 'A']; b++) {
        const int64_t first = lk_sequence(job, b), length = lk_sequence(job, b + 1) - first;
        const double *weight = state->part + 2 * first, *value = weight + 2 * job->rows;
        double sum[2] = {0};
        bool weighs[2] = {false, false};
        for (int64_t k = 0; k < 2 * length; k++) {
            sum[k % 2] += value[k];
            weighs[k % 2] |= weight[k] != 0;
        }
        for (int part = 0; part < 2; part++)
            if (nan && !weighs[part])
                sum[part] = (double)NAN;
        if (job->value.data)
            lk_put(&job->value, b, sum[MAIN] + sum[Z]);
        put_row(job, Z_LOSS, b, sum[Z]);
    }
}

LK_STATIC void sequence_finish(const lk_job *job, const double *sum)
{
    const sequence_options *o = job->options;
    const sequence_state *state = job->state;
    classwise_finish(job, sum);
    if (o->common.reduce.reduction > LK_MEAN)
        put_row(job, DENOMINATOR, 0, state->denominator);
    text_finish(job, &o->text, sum);
    if (by_sequence(o))
        sequence_values(job);
}

#endif
