/* SPDX-License-Identifier: MIT
 *
 * Elements of float tensors, from numbers of a text.
 */
#ifndef LOSSD_ELEMENT_H
#define LOSSD_ELEMENT_H

#include <losskit.h>

/* Store x, rounded to nearest even, as element i of a float tensor. */
void element_put(lk_dtype dtype, void *data, int64_t i, double x);

#endif
