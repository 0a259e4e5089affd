/* SPDX-License-Identifier: MIT */
#include "wire/element.h"

#include <math.h>
#include <string.h>

/* x as a 16-bit float with `fraction` bits of fraction, rounded once, from the double: x is scaled
 * so that its last place is 1, then rint() rounds to nearest even. */
static uint16_t narrow(double x, int fraction)
{
    int top = 0x7fff >> fraction, bias = top >> 1, exponent;
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x))
        return (uint16_t)(0x7fff & ~((1 << (fraction - 1)) - 1));
    x = fabs(x);
    if (isinf(x))
        return (uint16_t)(sign | top << fraction);
    frexp(x, &exponent);
    exponent = exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
    if (exponent > bias)
        return (uint16_t)(sign | top << fraction);
    /* The fraction with its leading bit; a carry increments the exponent. */
    int whole = (int)rint(ldexp(x, fraction - exponent));
    int bits = whole < 1 << fraction ? whole : whole + ((exponent + bias - 1) << fraction);
    return (uint16_t)(sign | bits);
}

void element_put(lk_dtype dtype, void *data, int64_t i, double x)
{
    char *to = (char *)data + i * (int64_t)lk_dtype_size(dtype);
    float single = (float)x;
    uint16_t half;
    switch (dtype) {
    case LK_F64:
        memcpy(to, &x, sizeof x);
        break;
    case LK_F32:
        memcpy(to, &single, sizeof single);
        break;
    default:
        half = narrow(x, dtype == LK_F16 ? 10 : 7);
        memcpy(to, &half, sizeof half);
        break;
    }
}
