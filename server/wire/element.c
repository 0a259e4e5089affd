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

void element_put(lk_dtype dtype, void *to, double x)
{
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

/* The elements from..to of wide floats as doubles, in order, so that what is written at the same
 * place is behind what is read. */
static void narrow_each(const lk_tensor *from, const lk_tensor *to, int64_t count)
{
    const int64_t size = (int64_t)lk_dtype_size(to->dtype);
    for (int64_t i = 0; i < count; i++) {
        double x;
        float single;
        if (from->dtype == LK_F64) {
            memcpy(&x, (const char *)from->data + i * (int64_t)sizeof x, sizeof x);
        } else {
            memcpy(&single, (const char *)from->data + i * (int64_t)sizeof single, sizeof single);
            x = (double)single;
        }
        element_put(to->dtype, (char *)to->data + i * size, x);
    }
}

/* The frequent cases, by bits. bf16: add half of the last place, less if the result is even already
 * at a tie, and cut. */
static void narrow_to_bf16(const char *from, char *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, from + i * (int64_t)sizeof bits, sizeof bits);
        const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        const uint16_t half = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
        memcpy(to + i * (int64_t)sizeof half, &half, sizeof half);
    }
}

/* Below the smallest normal number the processor's own addition rounds: the last place of 0.5 is
 * that of the subnormal numbers of f16. */
static uint16_t half_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000)
        return 0x7e00;
    if (size >= 0x47800000) /* 2^16 */
        return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) { /* 2^-14 */
        const float sum = fabsf(x) + 0.5F;
        memcpy(&bits, &sum, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    return (uint16_t)(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
}

static void narrow_to_f16(const char *from, char *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        float x;
        memcpy(&x, from + i * (int64_t)sizeof x, sizeof x);
        const uint16_t half = half_of(x);
        memcpy(to + i * (int64_t)sizeof half, &half, sizeof half);
    }
}

void element_narrow(const lk_tensor *from, const lk_tensor *to)
{
    const int64_t count = lk_tensor_count(from);
    if (from->dtype == LK_F32 && to->dtype == LK_BF16)
        narrow_to_bf16(from->data, to->data, count);
    else if (from->dtype == LK_F32 && to->dtype == LK_F16)
        narrow_to_f16(from->data, to->data, count);
    else
        narrow_each(from, to, count);
}
