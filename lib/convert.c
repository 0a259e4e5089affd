/* SPDX-License-Identifier: MIT
 *
 * Conversions between float types, for tensors that kernels do not read or write in their own type.
 * Simple rather than fast: such inputs are small compared with the logits.
 */
#include "internal.h"

/* f16 and bf16 hold a sign, an exponent and `bits` of fraction; a float represents all their values
 * exactly. */
static double half(uint16_t u, int bits)
{
    int exponent = (u & 0x7fff) >> bits, top = 0x7fff >> bits, bias = top >> 1;
    int fraction = u & ((1 << bits) - 1), one = 1 << bits;
    double x;
    if (exponent == top)
        x = fraction ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        x = ldexp(fraction, 1 - bias - bits);
    else
        x = ldexp(one + fraction, exponent - bias - bits);
    return u & 0x8000 ? -x : x;
}

double lk_real_at(const void *data, lk_dtype dtype, int64_t i)
{
    const char *p = (const char *)data + i * (int64_t)lk_dtype_size(dtype);
    double wide;
    float narrow;
    uint16_t u;
    switch (dtype) {
    case LK_F64:
        memcpy(&wide, p, sizeof wide);
        return wide;
    case LK_F32:
        memcpy(&narrow, p, sizeof narrow);
        return (double)narrow;
    case LK_F16:
        memcpy(&u, p, sizeof u);
        return half(u, 10);
    default:
        memcpy(&u, p, sizeof u);
        return half(u, 7);
    }
}

/* x as a 16-bit float with `bits` of fraction, rounded to nearest even: x is scaled so that its
 * last place is 1, then rint() rounds. A carry out of the fraction increments the exponent. */
static uint16_t narrow_half(double x, int bits)
{
    const int top = 0x7fff >> bits, bias = top >> 1;
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    int exponent;
    if (isnan(x))
        return (uint16_t)(sign | top << bits | 1 << (bits - 1));
    x = fabs(x);
    frexp(x, &exponent);
    exponent = exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
    if (isinf(x) || exponent > bias)
        return (uint16_t)(sign | top << bits);
    const int whole = (int)rint(ldexp(x, bits - exponent));
    const int all = whole < 1 << bits ? whole : whole + ((exponent + bias - 1) << bits);
    return (uint16_t)(sign | all);
}

void lk_convert(const void *from, lk_dtype from_dtype, void *to, lk_dtype to_dtype, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double x = lk_real_at(from, from_dtype, i);
        char *at = (char *)to + i * (int64_t)lk_dtype_size(to_dtype);
        const float single = (float)x;
        uint16_t half;
        switch (to_dtype) {
        case LK_F64:
            memcpy(at, &x, sizeof x);
            break;
        case LK_F32:
            memcpy(at, &single, sizeof single);
            break;
        default:
            half = narrow_half(x, to_dtype == LK_F16 ? 10 : 7);
            memcpy(at, &half, sizeof half);
            break;
        }
    }
}

void lk_scale(void *data, lk_dtype dtype, int64_t n, int power)
{
    for (int64_t i = 0; i < n; i++) {
        char *at = (char *)data + i * (int64_t)lk_dtype_size(dtype);
        const double x = ldexp(lk_real_at(at, dtype, 0), power);
        lk_convert(&x, LK_F64, at, dtype, 1);
    }
}
