/* SPDX-License-Identifier: MIT
 *
 * Conversions to float types, for tensors that kernels do not read or write in their own type.
 * Widening is fast, for weights may be as many as logits; narrowing is simple.
 */
#include "vector/convert.h"

#include <math.h>
#include <string.h>

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float bf16_value(uint16_t u)
{
    return from_bits((uint32_t)u << 16);
}

/* Shifted by 13, the fraction of an f16 is where a float has it, and the exponent lacks 112. */
static float f16_value(uint16_t u)
{
    const uint32_t size = (uint32_t)(u & 0x7fff) << 13, sign = (uint32_t)(u & 0x8000) << 16;
    const uint32_t exponent = size & 0x0f800000, normal = size + (112u << 23);
    const float least = from_bits(normal + (1u << 23)) - 0x1p-14f; /* of exponent 0 */
    uint32_t bits = exponent == 0x0f800000 ? normal + (112u << 23) : normal;
    if (exponent == 0)
        memcpy(&bits, &least, sizeof bits);
    return from_bits(bits | sign);
}

double lk_real_at(const void *data, lk_dtype dtype, int64_t i)
{
    const char *p = (const char *)data + i * (int64_t)lk_dtype_size(dtype);
    double wide;
    float narrow;
    int64_t whole;
    int32_t small;
    uint16_t u;
    switch (dtype) {
    case LK_F64:
        memcpy(&wide, p, sizeof wide);
        return wide;
    case LK_F32:
        memcpy(&narrow, p, sizeof narrow);
        return (double)narrow;
    case LK_I64:
        memcpy(&whole, p, sizeof whole);
        return (double)whole;
    case LK_I32:
        memcpy(&small, p, sizeof small);
        return (double)small;
    case LK_F16:
        memcpy(&u, p, sizeof u);
        return (double)f16_value(u);
    default:
        memcpy(&u, p, sizeof u);
        return (double)bf16_value(u);
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

/* A loop for each pair of types. */
#define WIDEN(from_type, to_type, value)                                                           \
    for (int64_t i = 0; i < n; i++) {                                                              \
        from_type x;                                                                               \
        memcpy(&x, (const char *)from + i * (int64_t)sizeof x, sizeof x);                          \
        const to_type y = (to_type)(value);                                                        \
        memcpy((char *)to + i * (int64_t)sizeof y, &y, sizeof y);                                  \
    }                                                                                              \
    return;

#define WIDEN_TO(to_type)                                                                          \
    switch (from_dtype) {                                                                          \
    case LK_F64:                                                                                   \
        WIDEN(double, to_type, x)                                                                  \
    case LK_F32:                                                                                   \
        WIDEN(float, to_type, x)                                                                   \
    case LK_I64:                                                                                   \
        WIDEN(int64_t, to_type, x)                                                                 \
    case LK_I32:                                                                                   \
        WIDEN(int32_t, to_type, x)                                                                 \
    case LK_F16:                                                                                   \
        WIDEN(uint16_t, to_type, f16_value(x))                                                     \
    default:                                                                                       \
        WIDEN(uint16_t, to_type, bf16_value(x))                                                    \
    }

void lk_convert(const void *from, lk_dtype from_dtype, void *to, lk_dtype to_dtype, int64_t n)
{
    if (to_dtype == LK_F32)
        WIDEN_TO(float)
    if (to_dtype == LK_F64)
        WIDEN_TO(double)
    for (int64_t i = 0; i < n; i++) {
        const uint16_t half =
            narrow_half(lk_real_at(from, from_dtype, i), to_dtype == LK_F16 ? 10 : 7);
        memcpy((char *)to + i * (int64_t)sizeof half, &half, sizeof half);
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
