/* SPDX-License-Identifier: MIT
 *
 * Random numbers for tests: a fixed seed gives the same numbers in every run and on every machine,
 * so no function of libm takes part. A test that needs others sets the state.
 */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

extern uint64_t random_state;

uint64_t random_bits(void);
int64_t random_int(int64_t lo, int64_t hi); /* in [lo, hi] */
int random_below(int n);                    /* in [0, n); 0 if n < 1 */
double random_unit(void);                   /* in (0, 1) */
double random_normal(void);                 /* nearly: the sum of twelve others, in (-6, 6) */
bool chance(double p);                      /* true with probability p */
double at_least_log(int64_t n);             /* log n, or up to log 2 more */

#endif
