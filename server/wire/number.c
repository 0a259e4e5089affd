/* SPDX-License-Identifier: MIT */
#include "wire/number.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/powers.h"

__extension__ typedef unsigned __int128 u128;

/* Inlined so that the width of a number is a compile-time constant. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* ------------------------------------------------------------------------------------ shared -- */

static const uint64_t small_powers[] = {1,
                                        10,
                                        100,
                                        1000,
                                        10000,
                                        100000,
                                        1000000,
                                        10000000,
                                        100000000,
                                        1000000000,
                                        10000000000,
                                        100000000000,
                                        1000000000000,
                                        10000000000000,
                                        100000000000000,
                                        1000000000000000,
                                        10000000000000000,
                                        100000000000000000,
                                        1000000000000000000,
                                        10000000000000000000U};

/* floor(log2(10^p)), for |p| <= 400. The compilers shift a negative number arithmetically, and so
 * do the two logarithms below. */
static int log2_of_power(int p)
{
    return p * 108853 >> 15;
}

/* Load and store eight characters as a word, the first one in the lowest byte. */
static uint64_t load_eight(const char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static void store_eight(char *p, uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    memcpy(p, &word, sizeof word);
}

static void store_sixteen(char *p, uint64_t first, uint64_t second)
{
    store_eight(p, first);
    store_eight(p + 8, second);
}

#define EIGHT_ZEROS 0x3030303030303030U

/* ----------------------------------------------------------------------------------- reading -- */

/* The number that eight digits (0 to 9, not characters) write, the first one in the lowest byte:
 * neighbours are joined to pairs, pairs to fours, fours to the whole. */
static uint64_t join_eight(uint64_t digits)
{
    uint64_t pairs = (digits * (1 + (10 << 8)) >> 8) & 0x00FF00FF00FF00FFU;
    uint64_t fours = (pairs * (1 + (100 << 16)) >> 16) & 0x0000FFFF0000FFFFU;
    return fours * (1 + (UINT64_C(10000) << 32)) >> 32;
}

/* Reads digits up to the first other byte, and appends them to `*number`, modulo 2^64. */
static inline const char *read_digits(const char *p, const char *end, uint64_t *number)
{
    uint64_t n = *number;
    while (end - p >= 8) {
        uint64_t digits = load_eight(p) ^ EIGHT_ZEROS;
        /* The high bit of each byte that is above 9. The sum of such a byte may carry into those
         * that follow, but only the first one counts. */
        uint64_t others = ((digits + 0x7676767676767676U) | digits) & 0x8080808080808080U;
        if (others != 0) {
            int count = __builtin_ctzll(others) >> 3;
            if (count > 0)
                n = n * small_powers[count] + join_eight(digits << (64 - 8 * count));
            *number = n;
            return p + count;
        }
        n = n * 100000000 + join_eight(digits);
        p += 8;
    }
    for (; p < end; p++) {
        unsigned digit = (unsigned)*p - '0';
        if (digit > 9)
            break;
        n = n * 10 + digit;
    }
    *number = n;
    return p;
}

/* Does the byte at `p` continue a number or a word, so that what precedes is not a token? */
static inline bool is_glued(const char *p, const char *end)
{
    if (p == end || *p == ',')
        return false;
    unsigned c = (unsigned char)*p;
    return c - '0' <= 9 || (c | 32) - 'a' < 26 || c == '.' || c == '+' || c == '-' || c == '_';
}

/* The double nearest to w * 10^q, for w > 0, by one multiplication with the power of ten; false if
 * the product is too close to the midpoint of two doubles to decide.
 *
 * The power's significand is too large by less than one unit of its 128 bits, and w has 64, so in
 * units of the product's high 128 bits the exact product lies above `high:low` - 1 and not above
 * `high:low` and what follows it. */
static bool scale_by_power(uint64_t w, int q, double *value)
{
    const uint64_t *power = powers[q - POWER_LEAST];
    int shift = __builtin_clzll(w);
    w <<= shift;
    u128 product = (u128)w * power[0];
    uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product, last = 0;
    /* The low half of the power adds less than one to `high`. Usually the nine bits that are always
     * below the rounding position stop the carry, and show that the rest is not zero. */
    if (((high + 1) & 0x1FF) <= 1) {
        u128 rest = (u128)w * power[1];
        last = (uint64_t)rest;
        product += (uint64_t)(rest >> 64);
        high = (uint64_t)(product >> 64);
        low = (uint64_t)product;
    }
    int top = (int)(high >> 63);
    int exponent = log2_of_power(q) + 63 + top - shift;
    int drop = 10 + top; /* leaves 53 bits */
    if (exponent > 1023) {
        *value = HUGE_VAL;
        return true;
    }
    if (exponent < -1022) {
        drop += -1022 - exponent;
        exponent = -1022;
        if (drop > 64) {
            *value = 0;
            return true;
        }
    }
    uint64_t half = UINT64_C(1) << (drop - 1);
    bool more = (high & (half - 1)) != 0 || low != 0;
    if (!more) {
        /* The exact product is a midpoint or a double, or less than a unit from one. From 10^0 to
         * 10^55 the power is exact, so `last` tells. Down to 10^-27, where 5^-q is below 2^63, a
         * product that is not at such a point is a multiple of 2^127 / 5^-q away, which is more
         * than a unit; so this one is exactly at the point. Elsewhere no such products are known,
         * so finer tests would not pay. */
        if (q < -27 || q > 55)
            return false;
        more = q >= 0 && last != 0;
    }
    uint64_t bits = drop == 64 ? 0 : high >> drop;
    if ((high & half) != 0 && (more || (bits & 1) != 0))
        bits++;
    /* The leading one of a normal number is added to the exponent field, and so is a carry out of
     * the significand, correctly, up to infinity. */
    bits += (uint64_t)(exponent + 1022) << 52;
    memcpy(value, &bits, sizeof bits);
    return true;
}

/* The double nearest to w * 10^q; false as above. */
static inline bool scale(uint64_t w, int64_t q, double *value)
{
    _Static_assert(FLT_EVAL_METHOD == 0, "double operations round to double");
    static const double exact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    /* Both operands are exact, so one operation rounds once. */
    if (q >= -22 && q <= 22 && w <= UINT64_C(1) << 53) {
        *value = q < 0 ? (double)w / exact[-q] : (double)w * exact[q];
        return true;
    }
    if (w == 0 || q < POWER_LEAST) { /* w * 10^q < 2^64 * 10^-343 < 2^-1075 */
        *value = 0;
        return true;
    }
    if (q > 308) {
        *value = HUGE_VAL;
        return true;
    }
    return scale_by_power(w, (int)q, value);
}

/* At most 767 significant digits are needed to decide between two doubles; of further ones it
 * matters only whether any is not 0. */
enum { KEPT = 770 };

/* The double nearest to the digits (skipping a point among them) as an integer, times 10^exponent.
 * For digits that do not fit in 64 bits or are too close to a midpoint. */
static double read_long(const char *p, const char *end, int64_t exponent)
{
    while (p < end && (*p == '0' || *p == '.'))
        p++;
    char text[KEPT + 32];
    size_t kept = 0;
    uint64_t w = 0;
    int64_t dropped = 0, beyond = 0;
    bool sticky = false;
    for (; p < end; p++) {
        if (*p == '.')
            continue;
        if (kept < 19)
            w = w * 10 + (unsigned)(*p - '0');
        else
            dropped++;
        if (kept < KEPT) {
            text[kept++] = *p;
        } else {
            beyond++;
            sticky = sticky || *p != '0';
        }
    }
    double below, above;
    if (scale(w, exponent + dropped, &below)) {
        if (dropped == 0)
            return below;
        /* The dropped digits are less than one unit of w. */
        if (scale(w + 1, exponent + dropped, &above) && below >= above)
            return below;
    }
    /* Here 10^exponent is in the range of a double, and so is what is printed. */
    exponent += beyond;
    if (sticky) {
        text[kept++] = '1';
        exponent--;
    }
    snprintf(text + kept, sizeof text - kept, "e%d", (int)exponent);
    return strtod(text, NULL);
}

static const char *read_word(const char *p, const char *end, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(end - p) < n || memcmp(p, word, n) != 0 || is_glued(p + n, end))
        return NULL;
    return p + n;
}

static const char *read_special(const char *p, const char *end, bool negative, double *value)
{
    const char *after = read_word(p, end, "Infinity");
    if (after != NULL) {
        *value = negative ? -HUGE_VAL : HUGE_VAL;
        return after;
    }
    if (!negative)
        after = read_word(p, end, "NaN");
    if (after != NULL)
        *value = (double)NAN;
    return after;
}

const char *number_read(const char *p, const char *end, double *value)
{
    bool negative = p < end && *p == '-';
    if (negative)
        p++;
    if (p == end)
        return NULL;
    uint64_t w = (unsigned)*p - '0';
    if (w > 9)
        return read_special(p, end, negative, value);
    const char *digits = p++;
    if (w != 0)
        p = read_digits(p, end, &w);
    int64_t exponent = 0;
    bool point = p < end && *p == '.';
    if (point) {
        const char *fraction = ++p;
        p = read_digits(p, end, &w);
        if (p == fraction)
            return NULL;
        exponent = fraction - p;
    }
    const char *digits_end = p;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        bool down = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+'))
            p++;
        const char *first = p;
        int64_t given = 0;
        for (; p < end; p++) {
            unsigned digit = (unsigned)*p - '0';
            if (digit > 9)
                break;
            /* Larger than the number of digits of any text. */
            if (given < INT64_C(100000000000000000))
                given = given * 10 + digit;
        }
        if (p == first)
            return NULL;
        exponent += down ? -given : given;
    }
    if (is_glued(p, end))
        return NULL;
    ptrdiff_t count = digits_end - digits - point;
    if (count > 19 && *digits == '0') {
        /* Leading zeros are not digits of w. */
        for (const char *zero = digits; zero < digits_end && (*zero == '0' || *zero == '.'); zero++)
            count -= *zero == '0';
    }
    double magnitude;
    if (count > 19 || !scale(w, exponent, &magnitude))
        magnitude = read_long(digits, digits_end, exponent);
    *value = negative ? -magnitude : magnitude;
    return p;
}

const char *number_read_integer(const char *p, const char *end, int64_t *value, bool *fits)
{
    bool negative = p < end && *p == '-';
    if (negative)
        p++;
    if (p == end)
        return NULL;
    uint64_t magnitude = (unsigned)*p - '0';
    if (magnitude > 9)
        return NULL;
    const char *digits = p++;
    if (magnitude != 0)
        p = read_digits(p, end, &magnitude);
    if (is_glued(p, end))
        return NULL;
    /* 19 digits fit in 64 bits, and 20 exceed int64_t, since the first is not 0. */
    uint64_t limit = (uint64_t)INT64_MAX + negative;
    *fits = p - digits <= 19 && magnitude <= limit;
    if (!*fits)
        magnitude = limit;
    /* In two steps, since the magnitude of INT64_MIN exceeds int64_t. */
    *value = negative && magnitude > 0 ? -(int64_t)(magnitude - 1) - 1 : (int64_t)magnitude;
    return p;
}

/* ----------------------------------------------------------------------------------- writing -- */

/* The eight digits of n < 10^8, the first one in the lowest byte: the reverse of join_eight. The
 * quotient goes into the lower part, the remainder into the upper: rest << s | quotient is (n << s)
 * - quotient * (10^i << s) + quotient. Two of the divisions are multiplications, exact for numbers
 * this small. */
static inline uint64_t split_eight(uint32_t n)
{
    uint64_t fours = ((uint64_t)n << 32) - n / 10000 * ((UINT64_C(10000) << 32) - 1);
    uint64_t hundreds = (fours * 5243 >> 19) & 0x0000007F0000007FU;
    uint64_t pairs = (fours << 16) - hundreds * ((100 << 16) - 1);
    uint64_t tens = (pairs * 103 >> 10) & 0x000F000F000F000FU;
    return (pairs << 8) - tens * ((10 << 8) - 1);
}

static inline int count_digits(uint64_t n)
{
    n |= 1; /* makes 0 count as one digit; no other count changes */
    /* floor(bits * log10(2)) is the count or one less. */
    int guess = (64 - __builtin_clzll(n)) * 1233 >> 12;
    return guess + (n >= small_powers[guess]);
}

/* Maximum digits of a significand: of a double, and of a format with at most 24 bits. */
enum { WIDE_DIGITS = 17, NARROW_DIGITS = 9 };

/* n * 10^exponent, where n has `digits` digits. */
typedef struct decimal {
    uint64_t n;
    int exponent, digits;
} decimal;

/* Writes x, for 0 < n < 10^most, where `most` is one of these, to NUMBER_ROOM bytes. The digits
 * after the first one are kept in registers and stored together, sixteen at once, wherever they
 * begin: reading back bytes just stored in smaller pieces would stall (store forwarding). */
static ALWAYS_INLINE char *write_decimal(char *out, decimal x, const int most)
{
    const uint64_t n = x.n * small_powers[most - x.digits]; /* so the first digit is not 0 */
    int exponent = x.exponent + x.digits - 1;               /* exponent of the first digit */
    uint64_t high, low = 0;
    char first;
    if (most == WIDE_DIGITS) {
        const uint64_t top = n / 100000000;
        first = (char)('0' + top / 100000000);
        high = split_eight((uint32_t)(top % 100000000));
        low = split_eight((uint32_t)(n % 100000000));
    } else {
        first = (char)('0' + n / 100000000);
        high = split_eight((uint32_t)(n % 100000000));
    }
    /* The last digit that is not 0 is in `high` or in `low`; selected without a branch, which would
     * be mispredicted. A word's highest four bits are free, so its digits are moved there, and a 1
     * below them stands for the digits before. */
    const uint64_t wide = 0 - (uint64_t)(low != 0), last = high ^ ((high ^ low) & wide);
    const int count = 1 + (int)(wide & 8) + ((67 - __builtin_clzll(last << 4 | 1)) >> 3);
    high |= EIGHT_ZEROS;
    low |= EIGHT_ZEROS;
    if (exponent >= 0 && exponent < 17) {
        out[0] = first;
        store_sixteen(out + 1, high, low);
        if (count <= exponent + 1)
            return out + exponent + 1;
        out[exponent + 1] = '.';
        const u128 fraction = ((u128)low << 64 | high) >> (8 * exponent);
        store_sixteen(out + exponent + 2, (uint64_t)fraction, (uint64_t)(fraction >> 64));
        return out + count + 1;
    }
    if (exponent < 0 && exponent >= -5) {
        memcpy(out, "0.000000", 8);
        out[1 - exponent] = first;
        store_sixteen(out + 2 - exponent, high, low);
        return out + 1 - exponent + count;
    }
    out[0] = first;
    out[1] = '.';
    store_sixteen(out + 2, high, low);
    out += count > 1 ? count + 1 : 1;
    *out++ = 'e';
    if (exponent < 0) {
        *out++ = '-';
        exponent = -exponent;
    }
    unsigned e = (unsigned)exponent;
    if (e >= 100)
        *out++ = (char)('0' + e / 100);
    if (e >= 10)
        *out++ = (char)('0' + e / 10 % 10);
    *out++ = (char)('0' + e % 10);
    return out;
}

/* The shortest decimal that reads back to c * 2^q, for c > 0; its n may end in zeros. The
 * significand c has `width` bits, or fewer if q is the least exponent of the format.
 *
 * The method is Schubfach's. Let 10^k be the largest power of ten that is not wider than the
 * interval of the reals that read back to the value. It holds at least one multiple of 10^k, and
 * at most one of 10^(k+1), which is shorter if it is there. The value and half the interval are
 * taken in 2^-71 of 10^k, each wrong by less than two of them; over all values and exponents no
 * distance comes closer than 2^-65 of 10^k to what it is compared with, but equals it, so that
 * with a margin between the two the comparisons are exact. */
static __attribute__((noinline)) decimal shortest_exact(uint64_t c, int q, int width, bool least)
{
    enum { POINT = 71, MARGIN = 8 };
    const bool dense = c == UINT64_C(1) << (width - 1) && !least;
    int k = q * 315653 >> 20;            /* floor(log10(2^q)) */
    if (dense)                           /* the values below a power of two are twice as dense */
        k = (q * 315653 - 131008) >> 20; /* floor(log10(3/4 * 2^q)) */
    const uint64_t *power = powers[-k - POWER_LEAST];
    const int shift = q + log2_of_power(-k) + 1; /* 1 to 4 */
    const uint64_t a = c << (shift + 7);
    const u128 value = (u128)a * power[0] + (uint64_t)((u128)a * power[1] >> 64);
    /* The ends of the interval read back to the value if c is even. If it is odd, and the format
     * is read through a double, what is so close to an end that it gives that end as a double does
     * not either: half a unit of a double. */
    u128 half = ((u128)power[0] << 64 | power[1]) >> (58 - shift);
    if ((c & 1) == 0)
        half += MARGIN;
    else
        half -= MARGIN + (width == 53 ? 0 : half >> (53 - width));
    const u128 half_below = dense ? half >> 1 : half;

    const uint64_t n = (uint64_t)(value >> POINT), tens = n / 10;
    const u128 unit = (u128)1 << POINT, over = value & (unit - 1);
    const u128 tens_over = over + ((u128)(n - 10 * tens) << POINT);
    const bool tens_down = tens_over <= half_below, tens_up = 10 * unit - tens_over <= half;
    const bool down = over <= half_below, up = unit - over <= half;
    const bool nearer_up = over + (n & 1) * 2 * MARGIN > unit / 2 + MARGIN;
    /* With one digit, n + 1 may have as few digits as n, and be closer than 0 or 10. */
    const bool shorter = n >= 10 && tens_down != tens_up;
    const uint64_t found = shorter ? 10 * (tens + tens_up) : n + (up && (!down || nearer_up));
    return (decimal){found, k, count_digits(found)};
}

/* The same. The comparisons are made in 64 bits; where these do not decide, or the interval is
 * irregular, shortest_exact is called. */
static ALWAYS_INLINE decimal shortest(uint64_t c, int q, int width, bool least)
{
    enum { POINT = 59 };
    if (q <= 0 && q > -width && (c & ((UINT64_C(1) << -q) - 1)) == 0) {
        /* An integer, and the next integer would not read back to it: all digits are needed. */
        return (decimal){c >> -q, 0, count_digits(c >> -q)};
    }
    const int k = q * 315653 >> 20;
    const uint64_t *power = powers[-k - POWER_LEAST];
    const int shift = q + log2_of_power(-k) + 1;
    const uint64_t a = c << shift;
    u128 value = (u128)a * power[0];
    if (width == 53)
        value += (uint64_t)((u128)a * power[1] >> 64);
    const uint64_t n = (uint64_t)(value >> 64), tens = n / 10 * 10;
    const uint64_t over = (uint64_t)value >> (64 - POINT);
    const uint64_t half = power[0] >> (65 - POINT) << shift;
    /* Differences, any of which may be negative: from the middle of two multiples of 10^k, from
     * that of two of 10^(k+1), and of the nearer of these from the end of the interval. */
    const uint64_t unit = UINT64_C(1) << POINT;
    const uint64_t middle = over - unit / 2, tens_middle = ((n - tens) << POINT | over) - 5 * unit;
    const uint64_t negative = 0 - (tens_middle >> 63);
    const uint64_t inside = ((tens_middle ^ negative) - negative) + half - 5 * unit;
    /* What is left out above is far less than this, and half a unit of a double is half of it. */
    const uint64_t close = width == 53 ? 64 : half >> (52 - width);
    /* The number of digits of n, where c <= n < 10 * 2^width; and of the result, if 10 more do not
     * add a digit. */
    const int fewest = count_digits(UINT64_C(1) << (width - 1));
    const int digits = fewest + (n >= small_powers[fewest]) + (n >= small_powers[fewest + 1]);
    if ((inside + close <= 2 * close) | (middle + close <= 2 * close) |
        (n + 10 >= small_powers[digits]) | (c <= UINT64_C(1) << (width - 1)))
        return shortest_exact(c, q, width, least);
    /* Selected without a branch, which would be mispredicted. */
    const uint64_t all = n + 1 - (middle >> 63), shorter = (inside >> 63) - 1;
    return (decimal){all ^ ((all ^ (tens + (10 & ~negative))) & shorter), k, digits};
}

/* Writes the IEEE 754 number of `size` bits with a significand of `width`, the leading one of which
 * is not among them. All but `bits` are constants where this is inlined. */
static ALWAYS_INLINE char *write_binary(char *out, uint64_t bits, int size, int width)
{
    const uint64_t negative = bits >> (size - 1);
    const uint64_t one = UINT64_C(1) << (width - 1), fraction = bits & (one - 1);
    const int top = (1 << (size - width)) - 1, field = (int)(bits >> (width - 1)) & top;
    const int least = 3 - (top + 1) / 2 - width;
    if (field == top) {
        const char *word = fraction != 0 ? "NaN" : negative ? "-Infinity" : "Infinity";
        size_t n = strlen(word);
        memcpy(out, word, n);
        return out + n;
    }
    *out = '-';
    out += negative;
    if ((bits & ~(UINT64_C(1) << (size - 1))) == 0) {
        memcpy(out, "0.0", 3);
        return out + (negative ? 3 : 1);
    }
    const uint64_t c = field > 0 ? fraction | one : fraction;
    const decimal x = shortest(c, least + (field > 0 ? field - 1 : 0), width, field <= 1);
    return write_decimal(out, x, width > 24 ? WIDE_DIGITS : NARROW_DIGITS);
}

char *number_write_f64(char *out, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return write_binary(out, bits, 64, 53);
}

char *number_write_f32(char *out, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return write_binary(out, bits, 32, 24);
}

char *number_write_f16(char *out, uint16_t bits)
{
    return write_binary(out, bits, 16, 11);
}

char *number_write_bf16(char *out, uint16_t bits)
{
    return write_binary(out, bits, 16, 8);
}

char *number_write_i64(char *out, int64_t value)
{
    uint64_t n = (uint64_t)value;
    if (value < 0) {
        *out++ = '-';
        n = 0 - n;
    }
    const int count = count_digits(n);
    if (count <= 8) {
        store_eight(out, (split_eight((uint32_t)n) | EIGHT_ZEROS) >> (64 - 8 * count));
        return out + count;
    }
    char digits[24];
    uint64_t high = n / 100000000;
    store_eight(digits, split_eight((uint32_t)(high / 100000000)) | EIGHT_ZEROS);
    store_eight(digits + 8, split_eight((uint32_t)(high % 100000000)) | EIGHT_ZEROS);
    store_eight(digits + 16, split_eight((uint32_t)(n % 100000000)) | EIGHT_ZEROS);
    memcpy(out, digits + sizeof digits - count, (size_t)count);
    return out + count;
}
