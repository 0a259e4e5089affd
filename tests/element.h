/* SPDX-License-Identifier: MIT
 *
 * Element types, converted to and from doubles by the definitions of their formats. It shares no
 * code with the library and the server, because the tests compare these with it.
 */
#ifndef TESTS_ELEMENT_H
#define TESTS_ELEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "losskit.h"

bool is_float(lk_dtype type);
bool is_mask(lk_dtype type);

/* How many bits follow the leading one, and the exponents of the smallest and greatest numbers. */
void float_format(lk_dtype type, int *digits, int *lowest, int *highest);

/* The distance of neighbouring numbers of a float type around x. */
double ulp(lk_dtype type, double x);

/* x rounded to a float type: to nearest, ties to even; too large is infinite. */
double round_to(lk_dtype type, double x);

/* The bits of x rounded to a 16-bit type, a NaN without its sign, and the value of such bits. */
uint16_t half_bits(lk_dtype type, double x);
double half_value(lk_dtype type, uint16_t bits);

/* Element i of a tensor's data, of any alignment. */
double load(const void *data, lk_dtype type, int64_t i);
void store(void *data, lk_dtype type, int64_t i, double x);
/* The same of integers and masks, exact also beyond 2^53. */
int64_t load_int(const void *data, lk_dtype type, int64_t i);
void store_int(void *data, lk_dtype type, int64_t i, int64_t x);

/* The bytes that a tensor's data takes. */
size_t bytes_of(const lk_tensor *t);

#endif
