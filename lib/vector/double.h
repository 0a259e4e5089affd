/* SPDX-License-Identifier: MIT
 *
 * e^x, log x and related functions of one double, for the totals of rows and for losses whose rows
 * are a few numbers. They are compiled once, and made of operations that IEEE 754 defines to the
 * last bit, so that the results are the same on every processor, operating system and compiler:
 * those of libm are not. sqrt, fabs, floor, ldexp and frexp are exact everywhere and stay libm's.
 *
 * Their error, in units of the last place of the result:
 *   lk_exp, lk_log, lk_log1p   below 0.55
 *   lk_expm1, lk_pow           below 0.65
 *   lk_cos, lk_sin             below 0.85
 * and below 1 where the result is subnormal. NaN, infinities and signed zeros give what C
 * specifies. They need the rounding mode to be to nearest, and set neither errno nor, reliably,
 * exceptions.
 */
#ifndef LK_DOUBLE_H
#define LK_DOUBLE_H

#define LK_FUNCTION __attribute__((const, visibility("hidden")))

LK_FUNCTION double lk_exp(double x);
LK_FUNCTION double lk_expm1(double x);
LK_FUNCTION double lk_log(double x);
LK_FUNCTION double lk_log1p(double x);
LK_FUNCTION double lk_pow(double x, double y); /* x >= 0; NaN for x < 0 */
LK_FUNCTION double lk_cos(double x);           /* |x| <= 4 */
LK_FUNCTION double lk_sin(double x);           /* |x| <= 4 */

static const double lk_ln_2 = 0x1.62e42fefa39efp-1;

#endif
