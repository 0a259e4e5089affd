/* SPDX-License-Identifier: MIT
 *
 * See vector/fused.h.
 */
#include "vector/fused.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

__extension__ typedef unsigned __int128 uint128;

enum { FRACTION_BITS = 52, LEAST_EXPONENT = -1074 /* of the unit of a subnormal number */ };

/* |x| = fraction * 2^exponent, for a finite x that is not 0; the fraction has FRACTION_BITS + 1
 * bits. */
typedef struct parts {
    uint64_t fraction;
    int exponent;
} parts;

static parts parts_of(double x)
{
    int exponent;
    const double fraction = frexp(fabs(x), &exponent);
    return (parts){(uint64_t)ldexp(fraction, FRACTION_BITS + 1), exponent - FRACTION_BITS - 1};
}

/* x >> n, and 1 in its lowest bit if anything else is lost: enough to round a longer number by. */
static uint128 sticky_shift(uint128 x, int n)
{
    if (n > 127)
        return x != 0;
    return x >> n | ((x >> n) << n != x);
}

/* x * 2^exponent to nearest, ties to even; 0 < x < 2^127. */
static double rounded(uint128 x, int exponent)
{
    const uint64_t high = (uint64_t)(x >> 64), low = (uint64_t)x;
    const int length = high ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll(low);
    int unit = exponent + length - FRACTION_BITS - 1;
    unit = unit < LEAST_EXPONENT ? LEAST_EXPONENT : unit;
    const int drop = unit - exponent;
    if (drop <= 0)
        return ldexp((double)(uint64_t)(x << -drop), unit);
    if (drop > 127)
        return 0;
    const uint128 kept = x >> drop, rest = x - (kept << drop), half = (uint128)1 << (drop - 1);
    const bool up = rest > half || (rest == half && (kept & 1));
    return ldexp((double)(uint64_t)(kept + up), unit);
}

double lk_fma_without(double a, double b, double c)
{
    enum { PRODUCT_ROOM = 20, SUMMAND_ROOM = 73 }; /* so that either, shifted, is below 2^126 */
    if (!isfinite(a) || !isfinite(b) || a == 0 || b == 0)
        return a * b + c;
    if (!isfinite(c))
        return c; /* though a * b may overflow */
    if (c == 0)
        return a * b;
    const parts x = parts_of(a), y = parts_of(b), z = parts_of(c);
    uint128 product = (uint128)x.fraction * y.fraction, summand = z.fraction;
    int exponent = x.exponent + y.exponent;
    const int ahead = z.exponent - exponent;
    /* Both to one exponent. Digits are lost only of one that is far smaller than the other. */
    if (ahead > SUMMAND_ROOM) {
        product = sticky_shift(product, ahead - SUMMAND_ROOM);
        summand <<= SUMMAND_ROOM;
        exponent = z.exponent - SUMMAND_ROOM;
    } else if (ahead >= 0) {
        summand <<= ahead;
    } else {
        const int up = -ahead < PRODUCT_ROOM ? -ahead : PRODUCT_ROOM;
        product <<= up;
        summand = sticky_shift(summand, -ahead - up);
        exponent -= up;
    }
    const bool minus = signbit(a) != signbit(b);
    if (minus == !!signbit(c))
        return copysign(rounded(product + summand, exponent), c);
    if (product == summand)
        return 0;
    if (product > summand)
        return copysign(rounded(product - summand, exponent), minus ? -1 : 1);
    return copysign(rounded(summand - product, exponent), c);
}

/* In double the product is exact. Of a sum that is not, the last bit is made odd: then rounding it
 * again, to a float, is rounding the exact sum. */
float lk_fmaf_without(float a, float b, float c)
{
    const double product = (double)a * (double)b, summand = (double)c;
    double sum = product + summand;
    const double from = sum - product;
    const double dropped = (product - (sum - from)) + (summand - from);
    if (isfinite(sum) && dropped != 0) {
        uint64_t bits;
        memcpy(&bits, &sum, sizeof bits);
        if (!(bits & 1))
            bits = (dropped > 0) == (sum > 0) ? bits + 1 : bits - 1;
        memcpy(&sum, &bits, sizeof sum);
    }
    return (float)sum;
}

#if LK_FUSED

bool lk_has_fma(void)
{
    return true;
}

double lk_fma(double a, double b, double c)
{
    return __builtin_fma(a, b, c);
}

float lk_fmaf(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}

#elif defined(__x86_64__)

bool lk_has_fma(void)
{
    return __builtin_cpu_supports("fma");
}

static __attribute__((target("fma"))) double by_instruction(double a, double b, double c)
{
    return __builtin_fma(a, b, c);
}

static __attribute__((target("fma"))) float by_instruction_f(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}

double lk_fma(double a, double b, double c)
{
    return lk_has_fma() ? by_instruction(a, b, c) : lk_fma_without(a, b, c);
}

float lk_fmaf(float a, float b, float c)
{
    return lk_has_fma() ? by_instruction_f(a, b, c) : lk_fmaf_without(a, b, c);
}

#else

bool lk_has_fma(void)
{
    return false;
}

double lk_fma(double a, double b, double c)
{
    return lk_fma_without(a, b, c);
}

float lk_fmaf(float a, float b, float c)
{
    return lk_fmaf_without(a, b, c);
}

#endif
