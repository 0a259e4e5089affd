/* SPDX-License-Identifier: MIT
 *
 * Elements of float tensors, rounded to nearest even.
 */
#ifndef LOSSD_ELEMENT_H
#define LOSSD_ELEMENT_H

#include <losskit.h>

/* Store x, rounded to nearest even, as an element of a float tensor. */
void element_put(lk_dtype dtype, void *to, double x);

/* Round all elements of a float tensor to those of a narrower one of the same shape, whose data may
 * be the same memory. A NaN becomes the one that element_put stores. */
void element_narrow(const lk_tensor *from, const lk_tensor *to);

#endif
