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
#define elements_scale     LK_PASTE(LK_VARIANT, elements_scale)
#define elements_sum       LK_PASTE(LK_VARIANT, elements_sum)
#define elements_widen     LK_PASTE(LK_VARIANT, elements_widen)
#define elements_narrow    LK_PASTE(LK_VARIANT, elements_narrow)

/* Element i. */
LK_DRIVER real elements_at(const elem *x, int64_t i);

/* Set all n elements to x. */
LK_DRIVER void elements_fill(elem *to, int64_t n, real x);

/* The first NaN or +inf among n elements, or -1. */
LK_DRIVER int64_t elements_nonfinite(const elem *x, int64_t n);

/* Multiply n elements by 2^power. */
LK_DRIVER void elements_scale(elem *x, int64_t n, int power);

/* A factor of a gradient may be beyond the range of reals where the gradient is not. The gradient
 * is then computed with factor * 2^-power, and multiplied by 2^power. Returns that power: 0 if the
 * factor needs none, otherwise no more than it needs. What the factor meets, a weight or a slope,
 * may be as far beyond 1 on the other side, and elements of 16 bits are rounded in between. */
LK_INLINE int elements_power(double factor)
{
#if defined(LK_ELEMENT_F16)
    const int most = 120; /* their own range is much smaller */
#else
    const int most = sizeof(real) == sizeof(double) ? 1000 : 100;
#endif
    int exponent = 0;
    if (isfinite(factor))
        (void)frexp(factor, &exponent);
    return exponent > most ? exponent - most : exponent < -most ? exponent + most : 0;
}

/* The sum of n reals: in double, in an order that is the same on every ISA. */
LK_DRIVER double elements_sum(const real *x, int64_t n);

/* n elements as reals, and n reals rounded to elements. */
LK_DRIVER void elements_widen(const elem *x, int64_t n, real *to);
LK_DRIVER void elements_narrow(const real *x, int64_t n, elem *to);

#endif
