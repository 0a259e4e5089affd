/* SPDX-License-Identifier: MIT */
#include "number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(const char *p, const char *end)
{
    return p < end && *p >= '0' && *p <= '9';
}

/* Whether the byte at `p` would go on with a number or a word, so that what precedes is no token.
 */
static bool is_glued(const char *p, const char *end)
{
    if (p == end)
        return false;
    char c = *p;
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '+' || c == '-' || c == '_';
}

static const char *read_word(const char *p, const char *end, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(end - p) < n || memcmp(p, word, n) != 0 || is_glued(p + n, end))
        return NULL;
    return p + n;
}

const char *number_read(const char *p, const char *end, double *value)
{
    const char *start = p;
    if (p < end && *p == '-')
        p++;
    bool negative = p != start;
    if (!is_digit(p, end)) {
        const char *after = read_word(p, end, "Infinity");
        if (after != NULL) {
            *value = negative ? -HUGE_VAL : HUGE_VAL;
            return after;
        }
        after = negative ? NULL : read_word(p, end, "NaN");
        if (after != NULL)
            *value = (double)NAN;
        return after;
    }
    if (*p == '0') {
        p++;
    } else {
        while (is_digit(p, end))
            p++;
    }
    if (p < end && *p == '.') {
        p++;
        if (!is_digit(p, end))
            return NULL;
        while (is_digit(p, end))
            p++;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        if (!is_digit(p, end))
            return NULL;
        while (is_digit(p, end))
            p++;
    }
    if (is_glued(p, end))
        return NULL;
    char small[64];
    size_t n = (size_t)(p - start);
    char *copy = n < sizeof small ? small : malloc(n + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, start, n);
    copy[n] = '\0';
    *value = strtod(copy, NULL);
    if (copy != small)
        free(copy);
    return p;
}

const char *number_read_integer(const char *p, const char *end, int64_t *value, bool *fits)
{
    bool negative = p < end && *p == '-';
    if (negative)
        p++;
    if (!is_digit(p, end))
        return NULL;
    uint64_t limit = (uint64_t)INT64_MAX + negative, magnitude = 0;
    bool within = true;
    if (*p == '0') {
        p++;
    } else {
        for (; is_digit(p, end); p++) {
            unsigned digit = (unsigned)(*p - '0');
            within = within && magnitude <= (limit - digit) / 10;
            if (within)
                magnitude = magnitude * 10 + digit;
        }
    }
    if (is_glued(p, end))
        return NULL;
    if (!within)
        magnitude = limit;
    *fits = within;
    /* In two steps, for the magnitude of INT64_MIN is no int64_t. */
    *value = negative && magnitude > 0 ? -(int64_t)(magnitude - 1) - 1 : (int64_t)magnitude;
    return p;
}

static double f16_to_double(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double x = exponent == 31  ? (fraction != 0 ? (double)NAN : HUGE_VAL)
               : exponent == 0 ? ldexp(fraction, -24)
                               : ldexp(fraction + 1024, exponent - 25);
    return bits >> 15 ? -x : x;
}

static double bf16_to_double(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return (double)x;
}

/* Rounds to `width` bits of significand with the least exponent `least`, by the current rounding.
 */
static double narrow(double x, int width, int least)
{
    int exponent;
    frexp(x, &exponent);
    int unit = exponent - width < least ? least : exponent - width;
    return ldexp(nearbyint(ldexp(x, -unit)), unit);
}

static char *write_shortest(char *out, double x, int width, int least)
{
    if (isnan(x)) {
        memcpy(out, "NaN", 3);
        return out + 3;
    }
    bool negative = signbit(x);
    if (negative) {
        *out++ = '-';
        x = -x;
    }
    if (isinf(x)) {
        memcpy(out, "Infinity", 8);
        return out + 8;
    }
    if (x == 0) {
        memcpy(out, "0.0", 3);
        return negative ? out + 3 : out + 1;
    }
    char text[40];
    int digits = 0;
    for (; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits, x);
        double back = strtod(text, NULL);
        if (width == 53 ? back == x : narrow(back, width, least) == x)
            break;
    }
    int exponent = atoi(strchr(text, 'e') + 1);
    if (digits > 0)
        memmove(text + 1, text + 2, (size_t)digits);
    digits++;
    if (exponent < -5 || exponent >= 17) {
        *out++ = text[0];
        if (digits > 1) {
            *out++ = '.';
            memcpy(out, text + 1, (size_t)(digits - 1));
            out += digits - 1;
        }
        int n = snprintf(text, sizeof text, "e%d", exponent);
        memcpy(out, text, (size_t)n);
        return out + n;
    }
    if (exponent < 0) {
        *out++ = '0';
        *out++ = '.';
        for (int i = -1; i > exponent; i--)
            *out++ = '0';
        memcpy(out, text, (size_t)digits);
        return out + digits;
    }
    for (int i = 0; i < digits || i <= exponent; i++) {
        if (i == exponent + 1)
            *out++ = '.';
        *out++ = i < digits ? text[i] : '0';
    }
    return out;
}

char *number_write_f64(char *out, double x)
{
    return write_shortest(out, x, 53, -1074);
}

char *number_write_f32(char *out, float x)
{
    return write_shortest(out, (double)x, 24, -149);
}

char *number_write_f16(char *out, uint16_t bits)
{
    return write_shortest(out, f16_to_double(bits), 11, -24);
}

char *number_write_bf16(char *out, uint16_t bits)
{
    return write_shortest(out, bf16_to_double(bits), 8, -133);
}

char *number_write_i64(char *out, int64_t value)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%lld", (long long)value);
    memcpy(out, text, (size_t)n);
    return out + n;
}
