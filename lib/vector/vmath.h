/* SPDX-License-Identifier: MIT
 *
 * e^x, log x and related functions on the vectors of vector/vec.h, without branches on lane values.
 *
 * Their accuracy:
 *   real float    within 1 ulp of the exact value, for every argument
 *   real double   within 2 ulp
 * NaN, infinities and signed zeros give what C specifies, except that v_exp is 0 where the exact
 * value would be subnormal. Arguments may be subnormal.
 *
 * The bits are the same on every ISA. The polynomials are minimax (Remez exchange, then a search
 * over neighbouring coefficients for float); the bound at each is of its own error, before
 * rounding.
 */
#ifndef LK_VMATH_H
#define LK_VMATH_H

#include <math.h>

#include "vector/vec.h"

/* VM_ROUND: adding it to a small x leaves the nearest integer to x in the low bits of the sum.
 * VM_LN2_HI has trailing zeros enough for its product with any exponent to be exact. */
#if defined(LK_ELEMENT_F64)
#define VM_FRACTION_BITS 52
#define VM_BIAS          1023
#define VM_ONE           UINT64_C(0x3ff0000000000000) /* the bits of 1 */
#define VM_SQRT_HALF     UINT64_C(0x3fe6a09e667f3bcd) /* and of sqrt(1/2) */
#define VM_INTEGER       UINT64_C(0x4330000000000000) /* and of 2^52 */
#define VM_ROUND         0x1.8p+52
#define VM_LN2_HI        0x1.62e42fefap-1
#define VM_LN2_LO        0x1.cf79abc9e3b3ap-40
#define VM_LOG2_E        0x1.71547652b82fep+0
#define VM_MIN_NORMAL    0x1p-1022
#define VM_EXP_LEAST     -0x1.6232bdd7abcd2p+9 /* e^x is at least 2^-1022 from here */
#define VM_EXP_GREATEST  0x1.62e42fefa39efp+9  /* and finite to here */
#else
#define VM_FRACTION_BITS 23
#define VM_BIAS          127
#define VM_ONE           UINT32_C(0x3f800000)
#define VM_SQRT_HALF     UINT32_C(0x3f3504f3)
#define VM_INTEGER       UINT32_C(0x4b000000)
#define VM_ROUND         0x1.8p+23f
#define VM_LN2_HI        0x1.62e4p-1f
#define VM_LN2_LO        0x1.7f7d1cp-20f
#define VM_LOG2_E        0x1.715476p+0f
#define VM_MIN_NORMAL    0x1p-126f
#define VM_EXP_LEAST     -0x1.5d589ep+6f
#define VM_EXP_GREATEST  0x1.62e42ep+6f
#endif

/* x with the sign of s; x is not negative, or has that sign already. */
LK_INLINE vec vm_sign(vec x, vec s)
{
    return (vec)((mask)x | ((mask)s & (mask)v_set((real)-0.0)));
}

/* (e^r - 1 - r) / r^2 for |r| <= ln(2)/2. */
LK_INLINE vec vm_exp_poly(vec r)
{
#if defined(LK_ELEMENT_F64)
    /* e^r - 1 within a relative 2^-54.7. */
    vec q = v_set(0x1.ae6ba9447fb0ep-26);
    q = v_fma(q, r, v_set(0x1.28a1df879d9dep-22));
    q = v_fma(q, r, v_set(0x1.71de8807970fep-19));
    q = v_fma(q, r, v_set(0x1.a019a76fc5346p-16));
    q = v_fma(q, r, v_set(0x1.a01a017513917p-13));
    q = v_fma(q, r, v_set(0x1.6c16c17edb7a7p-10));
    q = v_fma(q, r, v_set(0x1.1111111118fb2p-7));
    q = v_fma(q, r, v_set(0x1.55555555522b8p-5));
    q = v_fma(q, r, v_set(0x1.5555555555539p-3));
    return v_fma(q, r, v_set(0x1.0000000000005p-1));
#else
    /* e^r within a relative 2^-28.0. */
    vec q = v_set(0x1.6b6de6p-10f);
    q = v_fma(q, r, v_set(0x1.122f1cp-7f));
    q = v_fma(q, r, v_set(0x1.555688p-5f));
    q = v_fma(q, r, v_set(0x1.5554a4p-3f));
    return v_fma(q, r, v_set(0.5f));
#endif
}

/* x = n ln 2 + r: gives e^r, and in the low bits of *n the integer n + bias. */
LK_INLINE vec vm_exp_reduced(vec x, int bias, uvec *n)
{
    const real round = VM_ROUND + (real)bias;
    vec rounded = v_fma(x, v_set(VM_LOG2_E), v_set(round));
    vec k = rounded - v_set(round);
    *n = (uvec)rounded;
    vec r = v_fma(k, v_set(-VM_LN2_LO), v_fma(k, v_set(-VM_LN2_HI), x));
    return v_fma(v_fma(vm_exp_poly(r), r, v_set(1)), r, v_set(1));
}

/* e^x for x <= 64, intended for x <= 0: the results of v_exp at less cost. Undefined for larger
 * x. */
LK_INLINE vec v_exp_nonpos(vec x)
{
    uvec n;
    vec y = vm_exp_reduced(x, VM_BIAS, &n), power = (vec)(n << VM_FRACTION_BITS);
    const vec least = v_set(VM_EXP_LEAST);
#if LK_VECTOR_BYTES == 64 /* product and select in one */
    const native_bits counts = X86_BITS(cmp)((native)x, (native)least, _CMP_NLT_UQ);
    return (vec)X86(maskz_mul)(counts, (native)y, (native)power);
#else
    mask vanishes = x < least;
    return v_where(~vanishes, y * power);
#endif
}

/* e^x for |x| <= 64: the results of v_exp at still less cost. Undefined beyond. */
LK_INLINE vec v_exp_small(vec x)
{
    uvec n;
    vec y = vm_exp_reduced(x, VM_BIAS, &n);
    return y * (vec)(n << VM_FRACTION_BITS);
}

LK_INLINE vec v_exp(vec x)
{
    uvec n;
    vec y = vm_exp_reduced(x, 0, &n);
    /* Not a product with 2^n: n may be 128 (1024), where y < 1 and only the product is finite. */
    y = (vec)((uvec)y + (n << VM_FRACTION_BITS));
    mask vanishes = x < v_set(VM_EXP_LEAST);
    y = v_where(~vanishes, y);
    /* Above the range, infinity; for NaN, n is undefined. */
    const vec inf = v_set((real)INFINITY), greatest = v_set(VM_EXP_GREATEST);
#if LK_VECTOR_BYTES == 64 /* a tenth faster than a select */
    const native_bits beyond = X86_BITS(cmp)((native)x, (native)greatest, _CMP_NLE_UQ);
    return (vec)X86(mask_mul)((native)y, beyond, (native)x, (native)inf);
#else
    return v_select(x <= greatest, y, x * inf);
#endif
}

/* e^x - 1 = 2^n (e^r - 1) + (2^n - 1), where the larger parts of the sum are kept in two reals. */
LK_INLINE vec v_expm1(vec x)
{
    /* Beyond these limits the result is -1 or infinity. A NaN in the second argument of v_min or
     * v_max is returned. */
    vec y = v_min(v_set(VM_EXP_GREATEST + (real)0.25), x);
    y = v_max(v_set(-VM_FRACTION_BITS - 10), y);
    /* 2^(n-1), since 2^128 (2^1024) would not be finite: everything is doubled at the end. */
    const real bias = VM_BIAS - 1;
    vec rounded = v_fma(y, v_set(VM_LOG2_E), v_set(VM_ROUND + bias));
    vec n = rounded - v_set(VM_ROUND + bias);
    vec scale = (vec)((uvec)rounded << VM_FRACTION_BITS);
    vec hi = v_fma(n, v_set(-VM_LN2_HI), y);
    vec lo = n * v_set(-VM_LN2_LO);
    vec r = hi + lo;
    vec square = r * r;
#if defined(LK_ELEMENT_F64)
    vec rest = v_fma(square, vm_exp_poly(r), lo);
#else
    /* Where 1 is taken away from nearly 1.4, vm_exp_poly's error would count three times. This is
     * for the same interval: e^r - 1 within a relative 2^-30.9. */
    vec p = v_set(0x1.9fbe38p-13f);
    p = v_fma(p, r, v_set(0x1.6d3fd4p-10f));
    p = v_fma(p, r, v_set(0x1.111252p-7f));
    p = v_fma(p, r, v_set(0x1.5554f4p-5f));
    p = v_fma(p, r, v_set(0x1.555554p-3f));
    vec rest = v_fma(square, v_set(0.5f), v_fma(square * r, p, lo));
#endif
    /* Each sum starts from the greater part, so that what it drops is exact. */
    vec whole = scale - v_set((real)0.5);
    vec sum = v_fma(scale, hi, whole);
    vec dropped = ((scale - whole) - v_set((real)0.5)) + v_fma(scale, hi, whole - sum);
    y = sum + v_fma(scale, rest, dropped);
    y += y;
    /* The halving above costs a subnormal its last bit, and -0 its sign. */
    return v_select(v_abs(x) < v_set((real)0x1p-60), x, y);
}

/* 1 - 2 / (e^(2|x|) + 1), but near 0, where that cancels, a polynomial. */
LK_INLINE vec v_tanh(vec x)
{
    vec a = v_abs(x);
    /* From half of this on, tanh rounds to 1. NaN passes through. */
    vec y = v_min(v_set(VM_FRACTION_BITS), a + a);
    vec rounded = v_fma(y, v_set(VM_LOG2_E), v_set(VM_ROUND + VM_BIAS));
    vec n = rounded - v_set(VM_ROUND + VM_BIAS);
    vec scale = (vec)((uvec)rounded << VM_FRACTION_BITS);
    vec r = v_fma(n, v_set(-VM_LN2_LO), v_fma(n, v_set(-VM_LN2_HI), y));
    vec grown = v_fma(r * r, vm_exp_poly(r), r);
    vec large = v_set(1) - v_set(2) / v_fma(scale, grown, scale + v_set(1));
    vec square = a * a;
#if defined(LK_ELEMENT_F64)
    /* tanh(x)/x - 1 over x^2, for |x| <= 0.625: tanh within a relative 2^-55.9. */
    const real least_large = 0.625;
    vec p = v_set(-0x1.0da714c756e6cp-16);
    p = v_fma(p, square, v_set(0x1.439117304b582p-14));
    p = v_fma(p, square, v_set(-0x1.df5574d921b85p-13));
    p = v_fma(p, square, v_set(0x1.3366123749f00p-11));
    p = v_fma(p, square, v_set(-0x1.7d68a310abe65p-10));
    p = v_fma(p, square, v_set(0x1.d6cf280b15303p-9));
    p = v_fma(p, square, v_set(-0x1.226e162bd2ba2p-7));
    p = v_fma(p, square, v_set(0x1.664f477ad9002p-6));
    p = v_fma(p, square, v_set(-0x1.ba1ba1b5063eap-5));
    p = v_fma(p, square, v_set(0x1.111111110acccp-3));
    p = v_fma(p, square, v_set(-0x1.55555555554ffp-2));
#else
    /* tanh(x)/x - 1 over x^2, for |x| <= 1: tanh within a relative 2^-27.6. */
    const real least_large = 1;
    vec p = v_set(-0x1.77c4fap-12f);
    p = v_fma(p, square, v_set(0x1.2d9d74p-9f));
    p = v_fma(p, square, v_set(-0x1.045f58p-7f));
    p = v_fma(p, square, v_set(0x1.600988p-6f));
    p = v_fma(p, square, v_set(-0x1.b96238p-5f));
    p = v_fma(p, square, v_set(0x1.110be4p-3f));
    p = v_fma(p, square, v_set(-0x1.55553cp-2f));
#endif
    vec small = v_fma(a, square * p, a);
    return vm_sign(v_select(a < v_set(least_large), small, large), x);
}

/* 1 - tanh(u)^2 without cancellation, even where tanh is within a rounding error of 1. */
LK_INLINE vec v_tanh_slope(vec u)
{
    const vec one = v_set(1), e = v_exp_nonpos(v_set(-2) * v_abs(u));
    return v_set(4) * e / ((one + e) * (one + e));
}

/* log(1 + f) - f + tail, for 1 + f from sqrt(1/2) to sqrt(2) and a small tail. */
LK_INLINE vec vm_log_rest(vec f, vec tail)
{
    vec square = f * f;
    /* (log(1 + f) - f + f^2/2) / f^3, even and odd powers apart for a shorter chain. */
#if defined(LK_ELEMENT_F64)
    /* log(1 + f) within a relative 2^-56.2. */
    vec even = v_set(0x1.ac756d1a5ddbap-6), odd = v_set(-0x1.ea05b507fefffp-5);
    even = v_fma(even, square, v_set(0x1.0a621453d8c7bp-4));
    odd = v_fma(odd, square, v_set(-0x1.d11fb22e8584fp-5));
    even = v_fma(even, square, v_set(0x1.d05a78a321601p-5));
    odd = v_fma(odd, square, v_set(-0x1.fba1c60147128p-5));
    even = v_fma(even, square, v_set(0x1.11ccff9190889p-4));
    odd = v_fma(odd, square, v_set(-0x1.24d74e6e06322p-4));
    even = v_fma(even, square, v_set(0x1.3b0b8921de713p-4));
    odd = v_fma(odd, square, v_set(-0x1.5550ee7954f8cp-4));
    even = v_fma(even, square, v_set(0x1.745d3f1c85e20p-4));
    odd = v_fma(odd, square, v_set(-0x1.9999c26b11050p-4));
    even = v_fma(even, square, v_set(0x1.c71c71e016ba5p-4));
    odd = v_fma(odd, square, v_set(-0x1.ffffff2bf78e3p-4));
    even = v_fma(even, square, v_set(0x1.24924922a3e0ep-3));
    odd = v_fma(odd, square, v_set(-0x1.555555566b361p-3));
    even = v_fma(even, square, v_set(0x1.999999999f756p-3));
    odd = v_fma(odd, square, v_set(-0x1.fffffffffef14p-3));
    even = v_fma(even, square, v_set(0x1.5555555555533p-2));
#else
    /* log(1 + f) within a relative 2^-27.3. */
    vec even = v_set(0x1.055cb8p-3f), odd = v_set(-0x1.38ba56p-4f);
    even = v_fma(even, square, v_set(0x1.22d9c8p-3f));
    odd = v_fma(odd, square, v_set(-0x1.0d852ap-3f));
    even = v_fma(even, square, v_set(0x1.99a012p-3f));
    odd = v_fma(odd, square, v_set(-0x1.547230p-3f));
    even = v_fma(even, square, v_set(0x1.555554p-2f));
    odd = v_fma(odd, square, v_set(-0x1.000228p-2f));
#endif
    vec p = v_fma(odd, f, even);
    return v_fma(square, v_fma(f, p, v_set((real)-0.5)), tail);
}

/* n ln 2 + log(1 + f) + tail. The product is exact, so that what the sum drops is known too. */
LK_INLINE vec vm_log_sum(vec n, vec f, vec tail)
{
    vec rest = vm_log_rest(f, tail), sum = v_fma(n, v_set(VM_LN2_HI), f);
    vec dropped = v_fma(n, v_set(VM_LN2_HI), -sum) + f;
    return sum + (dropped + rest);
}

/* The n of u = 2^n m with m from sqrt(1/2) to sqrt(2), from bits = vm_log_bits(u): they hold n and
 * the bias where an exponent belongs, then m - sqrt(1/2) in the unit that m's fraction has. */
LK_INLINE uvec vm_log_bits(vec u)
{
    return (uvec)u + (VM_ONE - VM_SQRT_HALF);
}

LK_INLINE vec vm_log_exponent(uvec bits)
{
    /* As the low bits of 2^23 + n + bias (2^52 for double): AVX2 cannot convert 64-bit integers. */
    vec n = (vec)(bits >> VM_FRACTION_BITS | VM_INTEGER);
    return n - v_set((real)((ulane)1 << VM_FRACTION_BITS) + VM_BIAS);
}

/* The n and f of x = 2^n (1 + f), for x > 0. */
LK_INLINE vec vm_log_parts(vec x, vec *n)
{
    mask subnormal = x < v_set(VM_MIN_NORMAL);
    const real lift = VM_FRACTION_BITS + 1;
    vec u = v_select(subnormal, x * v_set(2 * (real)((ulane)1 << VM_FRACTION_BITS)), x);
    uvec bits = vm_log_bits(u);
    *n = vm_log_exponent(bits) - v_where(subnormal, v_set(lift));
    uvec fraction = bits & (((ulane)1 << VM_FRACTION_BITS) - 1);
    return (vec)(fraction + VM_SQRT_HALF) - v_set(1);
}

LK_INLINE vec v_log(vec x)
{
    vec n, f = vm_log_parts(x, &n);
    vec y = vm_log_sum(n, f, n * v_set(VM_LN2_LO));
    mask inside = (x > v_set(0)) & (x < v_set((real)INFINITY));
    vec outside = v_select(x < v_set(0), v_set((real)NAN), x);
    outside = v_select(x == v_set(0), v_set((real)-INFINITY), outside);
    return v_select(inside, y, outside);
}

/* With 1 + x = 2^n m: m - 1 = (2^-n - 1) + 2^-n x, which loses nothing of a small x. */
LK_INLINE vec v_log1p(vec x)
{
    uvec bits = vm_log_bits(v_set(1) + x);
    vec n = vm_log_exponent(bits);
    uvec power = bits & ~(((ulane)1 << VM_FRACTION_BITS) - 1); /* n + bias, in its place */
    /* For the greatest n, 2^-n is below the exponents there are; it no longer matters. */
    vec a = v_max((vec)(2 * VM_ONE - power), v_set(0)) - v_set(1);
    vec b = (vec)((uvec)x - power + VM_ONE);
    vec f = a + b;
    vec dropped = b - (f - a);
    /* log(1 + f + d) is log(1 + f) + d/(1 + f), and d - d f is near enough to that. */
    vec tail = v_fma(-dropped, f, dropped);
    vec y = vm_log_sum(n, f, v_fma(n, v_set(VM_LN2_LO), tail));
    mask inside = (x > v_set(-1)) & (x < v_set((real)INFINITY));
    vec outside = v_select(x < v_set(-1), v_set((real)NAN), x);
    outside = v_select(x == v_set(-1), v_set((real)-INFINITY), outside);
    return vm_sign(v_select(inside, y, outside), x);
}

/* log(1 + x) for 0 <= x <= 1, and NaN: the results of v_log1p at less cost, for n is 0 or 1. */
LK_INLINE vec v_log1p_small(vec x)
{
    const ulane least = VM_SQRT_HALF + ((ulane)1 << VM_FRACTION_BITS);
    real root;
    memcpy(&root, &least, sizeof root);
    const mask halved = v_set(1) + x >= v_set(root);
    const vec half = v_set((real)0.5), b = half * x, a = b - half;
    const vec f = v_select(halved, a, x), dropped = v_where(halved, b - (a + half));
    const vec tail = v_where(halved, v_set(VM_LN2_LO)) + v_fma(-dropped, f, dropped);
    const vec rest = vm_log_rest(f, tail), high = v_where(halved, v_set(VM_LN2_HI));
    const vec sum = high + f;
    return sum + (((high - sum) + f) + rest);
}

/* Powers of x > 0 from its logarithm in two parts: as one real, that of a small x would lack the
 * digits that an exponent makes count. The upper part has half the digits of a real, so that its
 * product with as many is exact. */
typedef struct v_logarithm {
    vec upper, lower;
} v_logarithm;

LK_INLINE vec vm_upper_half(vec x)
{
    return (vec)((uvec)x & ~(((ulane)1 << (VM_FRACTION_BITS + 2) / 2) - 1));
}

LK_INLINE v_logarithm v_log_long(vec x)
{
    vec n, f = vm_log_parts(x, &n);
    vec sum = v_fma(n, v_set(VM_LN2_HI), f), dropped = v_fma(n, v_set(VM_LN2_HI), -sum) + f;
    vec upper = vm_upper_half(sum);
    return (v_logarithm){upper, (sum - upper) + (dropped + vm_log_rest(f, n * v_set(VM_LN2_LO)))};
}

/* x^g, within 2 + |g|/4 ulp. */
LK_INLINE vec v_pow_long(v_logarithm x, real g)
{
    const vec most = vm_upper_half(v_set(g)), rest = v_set(g) - most;
    vec exact = x.upper * most, small = x.upper * rest + x.lower * v_set(g);
    vec sum = exact + small, y = v_exp(sum);
    return v_fma(y, small - (sum - exact), y);
}

/* One real. */

LK_INLINE real r_exp(real x)
{
    return v_exp(v_set(x))[0];
}

LK_INLINE real r_log(real x)
{
    return v_log(v_set(x))[0];
}

LK_INLINE real r_log1p(real x)
{
    return v_log1p(v_set(x))[0];
}

LK_INLINE real r_tanh(real x)
{
    return v_tanh(v_set(x))[0];
}

LK_INLINE real r_expm1(real x)
{
    return v_expm1(v_set(x))[0];
}

#endif
