/* SPDX-License-Identifier: MIT
 *
 * Functions of doubles that stay accurate where the obvious formula cancels or overflows. NaN gives
 * NaN.
 */
#ifndef LK_ACCURATE_H
#define LK_ACCURATE_H

#include <math.h>
#include <stdbool.h>

#include "vector/double.h"
#include "vector/element.h"

/* 1/(1 + e^-x). */
LK_INLINE double scalar_sigmoid(double x)
{
    double e = lk_exp(x >= 0 ? -x : x);
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

/* log(1 - e^x) for x <= 0. */
LK_INLINE double scalar_log1mexp(double x)
{
    return x > -lk_ln_2 ? lk_log(-lk_expm1(x)) : lk_log1p(-lk_exp(x));
}

/* a*b, but 0 where a is 0, whatever b is. */
LK_INLINE double scalar_times(double a, double b)
{
    return a == 0 ? 0 : a * b;
}

/* Is it a value that nonfinite=error refuses? */
LK_INLINE bool scalar_nonfinite(double x)
{
    return isnan(x) || (isinf(x) && x > 0);
}

#endif
