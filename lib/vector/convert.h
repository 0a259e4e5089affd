/* SPDX-License-Identifier: MIT
 *
 * Element types: reading one number, and converting many.
 */
#ifndef LK_CONVERT_H
#define LK_CONVERT_H

#include <losskit.h>

/* Convert n floats from one type to another, rounded to nearest even. */
void lk_convert(const void *from, lk_dtype from_dtype, void *to, lk_dtype to_dtype, int64_t n);

/* Multiply n floats by 2^power. */
void lk_scale(void *data, lk_dtype dtype, int64_t n, int power);

/* One float or integer, as a double. */
double lk_real_at(const void *data, lk_dtype dtype, int64_t i);

#endif
