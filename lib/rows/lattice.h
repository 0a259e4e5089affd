/* SPDX-License-Identifier: MIT
 *
 * Losses that sum over all alignments of a sequence of labels with steps (ctc, rnnt): numbers for
 * their lattices, and the checks of targets and lengths.
 *
 * What a lattice holds are products of as many probabilities as a path has steps. They are stored
 * as a double with a separate exponent: like logarithms they never underflow, but adding two of
 * them needs neither an exponential nor a logarithm, and their precision does not depend on the
 * length of the path.
 */
#ifndef LK_LATTICE_H
#define LK_LATTICE_H

#include "lengths.h"
#include "loss.h"
#include "vector/element.h"

/* m 2^e >= 0: m is 0 or far from subnormal, 1 <= m < 2 unless stated otherwise; e is an integer. */
typedef struct scaled {
    double m, e;
} scaled;

static const scaled scaled_zero = {0, -1e307}, scaled_one = {1, 0};

LK_INLINE uint64_t scaled_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

LK_INLINE double scaled_bits_to(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 2^e for an integer e < 1024; 0 where it would be subnormal. */
LK_INLINE double scaled_power(double e)
{
    /* An integer added to 2^52 + 2^51 is in the low bits of the sum. */
    return scaled_bits_to(scaled_bits((e > -1023 ? e : -1023) + (0x1.8p+52 + 1023)) << 52);
}

/* Normalise m, which must be 0 or neither subnormal nor infinite. NaN becomes 0: callers check for
 * NaN themselves. */
LK_INLINE scaled scaled_make(double m, double e)
{
    const uint64_t bits = scaled_bits(m);
    const double own = scaled_bits_to(bits >> 52 | scaled_bits(0x1p+52)) - (0x1p+52 + 1023),
                 sum = e + own;
    const double rest = scaled_bits_to((bits & (((uint64_t)1 << 52) - 1)) | scaled_bits(1));
    return (scaled){m > 0 ? rest : 0, m > 0 ? sum : scaled_zero.e};
}

LK_STATIC scaled scaled_exp(double x)
{
    const double least = -700; /* its exponential is far from subnormal */
    if (x > least || isinf(x))
        return scaled_make(lk_exp(x), 0);
    const double e = trunc(x / lk_ln_2), rest = x - e * lk_ln_2;
    return scaled_make(lk_exp(rest < -1 ? -1 : rest > 1 ? 1 : rest), e); /* or it is all rounding */
}

LK_STATIC double scaled_log(scaled a)
{
    return a.m > 0 ? lk_log(a.m) + a.e * lk_ln_2 : -(double)INFINITY;
}

/* As a double; 0 where it would be subnormal. */
LK_INLINE double scaled_value(scaled a)
{
    return a.m * scaled_power(a.e);
}

LK_INLINE scaled scaled_times(scaled a, scaled b)
{
    return scaled_make(a.m * b.m, a.e + b.e);
}

/* Not normalised: m < 4, and may be less than 1. Pass it to scaled_make. */
LK_INLINE scaled scaled_plus(scaled a, scaled b)
{
    const double top = a.e > b.e ? a.e : b.e;
    return (scaled){a.m * scaled_power(a.e - top) + b.m * scaled_power(b.e - top), top};
}

/* What such losses share. The logits begin with B and T, and the targets are [B,width]. */
enum { LOGITS, TARGETS, INPUT_LENGTHS, TARGET_LENGTHS, UPSTREAM };

typedef struct lattice_options {
    lk_reduce reduce;
    int64_t blank;
    bool zero_infinity;
} lattice_options;

#define LATTICE_FIELDS                                                                             \
    LK_FIELD(lattice_options, blank, "0", LK_RANGED, 0, (double)INFINITY,                          \
             "the class that is no label"),                                                        \
        LK_FIELD(lattice_options, zero_infinity, "false", 0, 0, 0,                                 \
                 "an example whose target no path can give is worth 0 instead of infinity"),       \
        LK_EMPTY_MEAN_FIELD(lattice_options), LK_NONFINITE_FIELD(lattice_options)

/* `classes` and `labels` are the letters of these sizes. */
#define LATTICE_INPUTS(logits_, classes, labels, logits_help)                                      \
    [LOGITS] = {.name = "logits",                                                                  \
                .forms = {{logits_, LK_FLOATS}},                                                   \
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,                           \
                .help = (logits_help)},                                                            \
    [TARGETS] = {.name = "targets",                                                                \
                 .forms = {{"B " labels, LK_INDICES}},                                             \
                 .range = "[0," classes ") except blank",                                          \
                 .help = "labels; those beyond an example's target_lengths are not read"},         \
    [INPUT_LENGTHS] = {.name = "input_lengths",                                                    \
                       .forms = {{"B", LK_INTS}},                                                  \
                       .range = "[1,T]",                                                           \
                       .help = "steps of each example; the ones beyond are not read"},             \
    [TARGET_LENGTHS] = {.name = "target_lengths",                                                  \
                        .forms = {{"B", LK_INTS}},                                                 \
                        .range = "[0," labels "]",                                                 \
                        .help = "labels of each example"},                                         \
    [UPSTREAM] = LK_GRAD_OUTPUT

LK_STATIC lk_status lattice_check(const lk_job *job, int64_t classes, lk_error *error)
{
    const lattice_options *o = job->options;
    if (job->rows > 0 && job->size['T' - 'A'] == 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, LOGITS, -1,
                       "logits has no steps; an example must have at least 1");
    if (job->rows > 0 && classes == 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, LOGITS, -1,
                       "logits has no classes; the last axis must have at least 1");
    if (job->rows > 0 && o->blank >= classes)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "blank is %lld; with %lld classes it must be in [0, %lld]",
                       (long long)o->blank, (long long)classes, (long long)classes - 1);
    return LK_OK;
}

/* Are there no more steps than T, and labels that are classes but blank? */
LK_STATIC lk_status lattice_check_targets(const lk_job *job, int64_t classes, lk_error *error)
{
    const lattice_options *o = job->options;
    const int64_t width = job->in[TARGETS].shape[1];
    char place[LK_PLACE_MAX];
    lk_status status = lk_check_lengths(job, INPUT_LENGTHS, 1, job->size['T' - 'A'], error);
    if (status == LK_OK)
        status = lk_check_lengths(job, TARGET_LENGTHS, 0, width, error);
    for (int64_t b = 0; status == LK_OK && b < job->rows; b++) {
        const int64_t end = b * width + lk_int(&job->in[TARGET_LENGTHS], b);
        for (int64_t i = b * width; i < end; i++) {
            const int64_t y = lk_int(&job->in[TARGETS], i);
            if (y < 0 || y >= classes || y == o->blank)
                return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, TARGETS, i,
                               "%s is %lld; with %lld classes it must be in [0, %lld] and not "
                               "blank (%lld)",
                               lk_place(job, TARGETS, i, place), (long long)y, (long long)classes,
                               (long long)classes - 1, (long long)o->blank);
        }
    }
    return status;
}

#endif
