/* SPDX-License-Identifier: MIT
 *
 * Operations on the elements of a row, whatever the loss.
 */
#ifndef LK_ELEMENTS_H
#define LK_ELEMENTS_H

#include "loss.h"
#include "vector/element.h"

/* Each variant has its own copy, under its own names; defined in rows/elements.c. */
#define elements_at        LK_PASTE(LK_VARIANT, elements_at)
#define elements_fill      LK_PASTE(LK_VARIANT, elements_fill)
#define elements_nonfinite LK_PASTE(LK_VARIANT, elements_nonfinite)

/* Element i. */
LK_DRIVER real elements_at(const elem *x, int64_t i);

/* Set all n elements to x. */
LK_DRIVER void elements_fill(elem *to, int64_t n, real x);

/* The first NaN or +inf among n elements, or -1. */
LK_DRIVER int64_t elements_nonfinite(const elem *x, int64_t n);

#endif
