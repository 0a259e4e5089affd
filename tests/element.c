/* SPDX-License-Identifier: MIT
 *
 * Conversion between doubles and the element types, from the definitions of the formats.
 */
#include "tests/element.h"

#include <math.h>
#include <string.h>

bool is_float(lk_dtype type)
{
    return (unsigned)type < LK_DTYPE_COUNT && ((LK_FLOATS >> type) & 1u) != 0;
}

bool is_mask(lk_dtype type)
{
    return (unsigned)type < LK_DTYPE_COUNT && ((LK_MASKS >> type) & 1u) != 0;
}

void float_format(lk_dtype type, int *digits, int *lowest, int *highest)
{
    *digits = type == LK_F64 ? 52 : type == LK_F32 ? 23 : type == LK_F16 ? 10 : 7;
    *lowest = type == LK_F64 ? -1022 : type == LK_F16 ? -14 : -126;
    *highest = type == LK_F64 ? 1023 : type == LK_F16 ? 15 : 127;
}

double ulp(lk_dtype type, double x)
{
    int digits, lowest, highest;
    float_format(type, &digits, &lowest, &highest);
    if (!isfinite(x))
        return 0;
    int e = x == 0 ? lowest : ilogb(x);
    return ldexp(1, (e < lowest ? lowest : e) - digits);
}

double round_to(lk_dtype type, double x)
{
    int digits, lowest, highest;
    float_format(type, &digits, &lowest, &highest);
    if (!isfinite(x) || type == LK_F64)
        return x;
    double unit = ulp(type, x), rounded = rint(x / unit) * unit;
    return fabs(rounded) >= ldexp(2, highest) ? copysign((double)INFINITY, x) : rounded;
}

uint16_t half_bits(lk_dtype type, double x)
{
    int digits, lowest, highest;
    float_format(type, &digits, &lowest, &highest);
    uint32_t sign = signbit(x) ? 0x8000 : 0, top = 0x7fffu >> digits << digits;
    if (isnan(x))
        return (uint16_t)(top | 1u << (digits - 1));
    x = round_to(type, x);
    if (isinf(x))
        return (uint16_t)(sign | top);
    x = fabs(x);
    if (x < ldexp(1, lowest))
        return (uint16_t)(sign | (uint32_t)ldexp(x, digits - lowest));
    int e = ilogb(x);
    uint32_t fraction = (uint32_t)ldexp(x, digits - e) - (1u << digits);
    return (uint16_t)(sign | (uint32_t)(e - lowest + 1) << digits | fraction);
}

double half_value(lk_dtype type, uint16_t bits)
{
    int digits, lowest, highest;
    float_format(type, &digits, &lowest, &highest);
    int e = (bits & 0x7fff) >> digits, fraction = bits & ((1 << digits) - 1);
    double x = e == 0 ? ldexp(fraction, lowest - digits)
               : e == highest - lowest + 2
                   ? (fraction ? (double)NAN : (double)INFINITY)
                   : ldexp((1 << digits) + fraction, lowest + e - 1 - digits);
    return bits & 0x8000 ? -x : x;
}

int64_t load_int(const void *data, lk_dtype type, int64_t i)
{
    const unsigned char *at = (const unsigned char *)data + (size_t)i * lk_dtype_size(type);
    int64_t wide;
    int32_t narrow;
    if (type == LK_I64)
        return memcpy(&wide, at, sizeof wide), wide;
    if (type == LK_I32)
        return memcpy(&narrow, at, sizeof narrow), narrow;
    return *at;
}

void store_int(void *data, lk_dtype type, int64_t i, int64_t x)
{
    unsigned char *at = (unsigned char *)data + (size_t)i * lk_dtype_size(type);
    int32_t narrow = (int32_t)x;
    if (type == LK_I64)
        memcpy(at, &x, sizeof x);
    else if (type == LK_I32)
        memcpy(at, &narrow, sizeof narrow);
    else
        *at = (unsigned char)x;
}

double load(const void *data, lk_dtype type, int64_t i)
{
    const char *at = (const char *)data + (size_t)i * lk_dtype_size(type);
    double wide;
    float narrow;
    uint16_t half;
    switch (type) {
    case LK_F64:
        memcpy(&wide, at, sizeof wide);
        return wide;
    case LK_F32:
        memcpy(&narrow, at, sizeof narrow);
        return (double)narrow;
    case LK_F16:
    case LK_BF16:
        memcpy(&half, at, sizeof half);
        return half_value(type, half);
    default:
        return (double)load_int(data, type, i);
    }
}

void store(void *data, lk_dtype type, int64_t i, double x)
{
    char *at = (char *)data + (size_t)i * lk_dtype_size(type);
    float narrow = (float)x;
    uint16_t half;
    switch (type) {
    case LK_F64:
        memcpy(at, &x, sizeof x);
        break;
    case LK_F32:
        memcpy(at, &narrow, sizeof narrow);
        break;
    case LK_F16:
    case LK_BF16:
        half = half_bits(type, x);
        memcpy(at, &half, sizeof half);
        break;
    default:
        store_int(data, type, i, (int64_t)x);
        break;
    }
}

size_t bytes_of(const lk_tensor *t)
{
    return (size_t)lk_tensor_count(t) * lk_dtype_size(t->dtype);
}
