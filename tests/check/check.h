/* SPDX-License-Identifier: MIT
 *
 * check_losses: the checks, and the functions that they share.
 */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include "tests/help.h"
#include "tests/trial/trial.h"

/* The options of the command line, and the number of failures. */
extern uint64_t seed;
extern int64_t count;    /* rounds; 0: as many as take some seconds in all */
extern const char *only; /* the one loss to check, or NULL: all */
extern int failures;

/* check.c: what the checks share. */

extern const lk_dtype elements[4];

void complain(const trial *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void begin_round(int test, int loss, int element, int64_t round);
bool draw(trial *t, const lk_loss *loss, const wish *w);
trial widened(const trial *t);
answer expect(const trial *t, const how *h);
bool both_given(const trial *t, const answer *a, const answer *b, const char *what);
const char *isa_drawn(void);
bool is_asked(int i);
bool has_rows(const lk_loss *loss);
const char *cotangent_of(const trial_input *in);

#define FOR_EACH_LOSS(i)                                                                           \
    for (int i = 0; i < lk_loss_count(); i++)                                                      \
        if (is_asked(i))

/* compare.c: tolerances, and comparing. */

/* The magnitudes of a trial, from which its rounding errors are bounded.
 *
 * The error of a row of F32 may be 2e-6 (1 + |loss|) + 2^-23 Z, with Z the largest |score|, and
 * that of a gradient (1e-6 + 2^-22 Z) max |g| + 2 ulp. A description does not say what the scores
 * are, but they, and the terms of a loss without its weights, are not larger than the inputs times
 * the options that scale them:
 *
 * z: max finite |x| of the differentiable inputs, times max(1, |o|) of every real option given.
 * w: the greatest weight or 1, over the inputs that are not differentiated.
 * rho: the factor of a row's gradient: |grad_output| with none and sum, divided by the denominator
 * with mean.
 * terms: the number of rows that a scalar sums without division.
 *
 * If the terms of a gradient cancel (a probability row of one class; a saturated softcap), its
 * error is relative to the terms and not to their small sum, so 2^-22 z w rho is added to its
 * bound. */
typedef struct sizes {
    double z, w, rho, terms, rows, divisor;
    double relative, step; /* 2e-6 and 2^-23 in f32; in f64 likewise with its own precision */
} sizes;

sizes sizes_of(const trial *t, const answer *a);
double value_bound(const sizes *s, double x);
double diagnostic_bound(const sizes *s, double x, bool scalar);
double gradient_bound(const sizes *s, lk_dtype type, double peak, double x);
bool close_to(double x, double y, double bound);
const char *output_pattern(const trial *t, const char *name);
void compare(const trial *t, const answer *reference, const answer *other, double times,
             const char *who);
void compare_bits(const trial *t, const answer *a, const answer *b, const char *what);
/* The same, but of a NaN instruction sets may give others: IEEE 754 leaves sign and digits open. */
void compare_isas(const trial *t, const answer *a, const answer *b, const char *what);

/* The checks. */

void test_isas(void **state);        /* isas.c */
void test_differences(void **state); /* differences.c */
void test_same_bits(void **state);   /* same_bits.c */
void test_every_offset(void **state);
void test_row_alone(void **state); /* rows.c */
void test_ignored_rows(void **state);
void test_traits(void **state);     /* traits.c */
void test_reductions(void **state); /* reductions.c */
void test_linear(void **state);
void test_packed(void **state); /* packed.c */
void test_zeros(void **state);  /* zeros.c */
void test_unread(void **state); /* unread.c */
void test_ranges(void **state); /* ranges.c */

#endif
