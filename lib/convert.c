/* SPDX-License-Identifier: MIT
 *
 * Floats from one type to another, for the inputs that kernels do not read in their own type.
 * Simple rather than fast: such inputs are short beside the logits.
 */
#include "internal.h"

/* Both halves hold a sign, an exponent and `bits` of fraction; all their values fit a float. */
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

void lk_convert(const void *from, lk_dtype from_dtype, void *to, lk_dtype to_dtype, int64_t n)
{
    double *wide = to;
    float *narrow = to;
    for (int64_t i = 0; i < n; i++) {
        double x = lk_real_at(from, from_dtype, i);
        if (to_dtype == LK_F64)
            wide[i] = x;
        else
            narrow[i] = (float)x;
    }
}
