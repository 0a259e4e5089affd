/* SPDX-License-Identifier: MIT
 *
 * Numbers that the server writes have the fewest digits that read back to the same bits, and among
 * those the closest; compared with printf for each number of digits.
 *
 * usage: test_number_write [exhaustive]
 */
#include "tests/help.h"

#include <float.h>

#include "wire/number.h"

static long random_count = 100000;

static uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

enum type { F64, F32, F16, BF16 };

static const struct {
    int width, least, most;
} types[] = {
    [F64] = {53, -1074, NUMBER_F64_MAX},
    [F32] = {24, -149, NUMBER_F32_MAX},
    [F16] = {11, -24, NUMBER_F16_MAX},
    [BF16] = {8, -133, NUMBER_BF16_MAX},
};

static int longest[4];

/* The value of the bits of a type, by its definition. */
static double widen(enum type type, uint64_t bits)
{
    int fraction_bits = types[type].width - 1, size = type == F64 ? 64 : type == F32 ? 32 : 16;
    uint64_t fraction = bits & ((UINT64_C(1) << fraction_bits) - 1);
    uint64_t top = (UINT64_C(1) << (size - 1 - fraction_bits)) - 1, field = bits >> fraction_bits;
    bool negative = field > top;
    field &= top;
    double x;
    if (field == top)
        x = fraction != 0 ? (double)NAN : HUGE_VAL;
    else if (field == 0)
        x = ldexp((double)fraction, types[type].least);
    else
        x = ldexp((double)(fraction + (UINT64_C(1) << fraction_bits)),
                  types[type].least + (int)field - 1);
    return negative ? -x : x;
}

/* Rounds to the type, to nearest even. */
static double narrow(enum type type, double x)
{
    int exponent;
    frexp(x, &exponent);
    int unit = exponent - types[type].width;
    if (unit < types[type].least)
        unit = types[type].least;
    return ldexp(nearbyint(ldexp(x, -unit)), unit);
}

/* Whether `text` reads back to x, an absolute value of the type. */
static bool reads_back(enum type type, const char *text, double x)
{
    double back = strtod(text, NULL);
    if (type == F64)
        return back == x;
    if (type == F32)
        return (double)(float)back == x && (double)strtof(text, NULL) == x;
    return narrow(type, back) == x;
}

static char *write_as(enum type type, char *out, double x, uint64_t bits)
{
    if (type == F64)
        return number_write_f64(out, x);
    if (type == F32)
        return number_write_f32(out, (float)x);
    return type == F16 ? number_write_f16(out, (uint16_t)bits)
                       : number_write_bf16(out, (uint16_t)bits);
}

/* The digits of an unsigned decimal, and the exponent of the first digit. */
struct decimal {
    char digits[40];
    int count, exponent;
};

static struct decimal take_apart(const char *text)
{
    struct decimal d = {.exponent = -1};
    bool point = false;
    for (; *text != '\0' && *text != 'e'; text++) {
        if (*text == '.') {
            point = true;
            continue;
        }
        if (d.count > 0 || *text != '0')
            d.digits[d.count++] = *text;
        if (!point ? d.count > 0 : d.count == 0)
            d.exponent += point ? -1 : 1;
    }
    if (*text == 'e')
        d.exponent += atoi(text + 1);
    while (d.count > 1 && d.digits[d.count - 1] == '0')
        d.count--;
    d.digits[d.count] = '\0';
    return d;
}

static void lay_out(char *out, const struct decimal *d)
{
    if (d->exponent < -5 || d->exponent >= 17) {
        sprintf(out, "%.1s%s%se%d", d->digits, d->count > 1 ? "." : "", d->digits + 1, d->exponent);
    } else if (d->exponent < 0) {
        sprintf(out, "0.%.*s%s", -1 - d->exponent, "0000", d->digits);
    } else if (d->count <= d->exponent + 1) {
        sprintf(out, "%s%.*s", d->digits, d->exponent + 1 - d->count, "00000000000000000");
    } else {
        sprintf(out, "%.*s.%s", d->exponent + 1, d->digits, d->digits + d->exponent + 1);
    }
}

/* `trials`: the number of shorter forms that are tried. */
static void check_write(enum type type, uint64_t bits, int trials)
{
    char text[64], expected[64];
    double x = widen(type, bits);
    char *out = exactly("                                        ", NUMBER_ROOM);
    char *end = write_as(type, out, x, bits);
    assert_in_range(end - out, 1, types[type].most);
    if (end - out > longest[type])
        longest[type] = (int)(end - out);
    memcpy(text, out, (size_t)(end - out));
    text[end - out] = '\0';
    double back;
    assert_ptr_equal(number_read(out, end, &back), end);
    free(out);
    if (isnan(x)) {
        assert_string_equal(text, "NaN");
        return;
    }
    char *magnitude = text;
    if (signbit(x)) {
        assert_int_equal(*magnitude++, '-');
        x = -x;
        back = -back;
    }
    if (isinf(x) || x == 0) {
        assert_string_equal(magnitude, isinf(x)                     ? "Infinity"
                                       : signbit(widen(type, bits)) ? "0.0"
                                                                    : "0");
        assert_true(back == x);
        return;
    }
    if (!reads_back(type, magnitude, x))
        fail_msg("%a: %s reads back to %a", x, magnitude, back);

    struct decimal d = take_apart(magnitude);
    lay_out(expected, &d);
    assert_string_equal(magnitude, expected);
    for (int count = d.count - 1; count > 0 && count >= d.count - trials; count--) {
        snprintf(expected, sizeof expected, "%.*e", count - 1, x);
        if (reads_back(type, expected, x))
            fail_msg("%a: %s, but %s is shorter", x, magnitude, expected);
    }
    /* Of as many digits printf gives the closest. It may lie on the near side of a power of two and
     * read back to something else. */
    snprintf(expected, sizeof expected, "%.*e", d.count - 1, x);
    struct decimal closest = take_apart(expected);
    if (reads_back(type, expected, x) &&
        (strcmp(d.digits, closest.digits) != 0 || d.exponent != closest.exponent))
        fail_msg("%a: %s, but %s is closer", x, magnitude, expected);
}

static void test_write_known(void **unused)
{
    (void)unused;
    static const struct {
        double x;
        const char *text;
    } known[] = {
        {0, "0"},
        {-0.0, "-0.0"},
        {3, "3"},
        {-3, "-3"},
        {0.5, "0.5"},
        {100, "100"},
        {0.1, "0.1"},
        {1e16, "10000000000000000"},
        {1e17, "1e17"},
        {1e30, "1e30"},
        {123e15, "1.23e17"},
        {99999999999999984.0, "99999999999999980"},
        {1e-5, "0.00001"},
        {1e-6, "1e-6"},
        {1.25e-5, "0.0000125"},
        {9.5e-6, "9.5e-6"},
        {1e23, "1e23"},
        {9e22, "9e22"},
        {1e100, "1e100"},
        {-1.5e-100, "-1.5e-100"},
        {1.0 / 3, "0.3333333333333333"},
        {2.0 / 3, "0.6666666666666666"},
        {5e-324, "5e-324"},
        {DBL_MIN, "2.2250738585072014e-308"},
        {DBL_MAX, "1.7976931348623157e308"},
        {9007199254740991, "9007199254740991"},
        {9007199254740992, "9007199254740992"},
        {9007199254740994, "9007199254740994"},
        {0x1p-44, "5.684341886080802e-14"},
        {1234567.875, "1234567.875"},
        {HUGE_VAL, "Infinity"},
        {-HUGE_VAL, "-Infinity"},
        {(double)NAN, "NaN"},
        {-(double)NAN, "NaN"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char text[NUMBER_ROOM];
        *number_write_f64(text, known[i].x) = '\0';
        assert_string_equal(text, known[i].text);
    }
    static const struct {
        float x;
        const char *text;
    } narrow_known[] = {
        {0, "0"},
        {-0.0F, "-0.0"},
        {0.1F, "0.1"},
        {16777216, "16777216"},
        {1e10F, "10000000000"},
        {0x1p40F, "1099511600000"},
        {FLT_MAX, "3.4028235e38"},
        {FLT_MIN, "1.1754944e-38"},
        {1e-45F, "1e-45"},
        {1.2345679e16F, "12345680000000000"},
        /* Here 7.038531e-26 is enough for strtof, but not through a double. */
        {0x1.5c87fap-84F, "7.0385307e-26"},
    };
    for (size_t i = 0; i < sizeof narrow_known / sizeof *narrow_known; i++) {
        char text[NUMBER_ROOM];
        *number_write_f32(text, narrow_known[i].x) = '\0';
        assert_string_equal(text, narrow_known[i].text);
    }
}

static void test_write_f64(void **unused)
{
    (void)unused;
    for (int exponent = 0; exponent < 2048; exponent++)
        for (int around = -2; around <= 2; around++)
            check_write(F64, ((uint64_t)exponent << 52) + (uint64_t)around, 17);
    for (int k = -330; k < 310; k++) {
        char text[16];
        snprintf(text, sizeof text, "1e%d", k);
        for (int around = -2; around <= 2; around++)
            check_write(F64, bits_of(strtod(text, NULL)) + (uint64_t)around, 17);
    }
    for (long i = 0; i < random_count; i++)
        check_write(F64, random_bits(), i < 100000 ? 17 : 1);
    for (long i = 0; i < random_count; i++) {
        uint64_t r = random_bits();
        /* Few digits, integers, and numbers with few significant bits. */
        check_write(F64, bits_of((double)(r % 1000000007) / 1e5), 1);
        check_write(F64, bits_of((double)(r >> (r % 64))), 1);
        check_write(F64, bits_of(ldexp((double)(r >> 50), (int)(r % 1500) - 900)), 1);
    }
    assert_int_equal(longest[F64], NUMBER_F64_MAX);
}

static void test_write_f32(void **unused)
{
    (void)unused;
    for (uint32_t exponent = 0; exponent < 512; exponent++)
        for (uint32_t around = 0; around <= 4; around++)
            check_write(F32, (uint32_t)((exponent << 23) + around - 2), 9);
    for (uint32_t small = 0; small < 3000; small++)
        check_write(F32, small, 9);
    for (long i = 0; i < random_count; i++)
        check_write(F32, random_bits() >> 32, i < 100000 ? 9 : 1);
    for (long i = 0; i < random_count; i++) {
        uint64_t r = random_bits();
        float x = (float)(r >> (r % 64));
        float y = (float)(r % 1000003) / 1e4F;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        check_write(F32, bits, 1);
        memcpy(&bits, &y, sizeof bits);
        check_write(F32, bits, 1);
    }
    check_write(F32, 0x5a800001, 9);
    char text[NUMBER_ROOM];
    assert_int_equal(number_write_f32(text, -1.2345679e16F) - text, NUMBER_F32_MAX);
}

static void test_write_short(void **unused)
{
    (void)unused;
    for (unsigned bits = 0; bits <= UINT16_MAX; bits++) {
        check_write(F16, bits, 5);
        check_write(BF16, bits, 5);
    }
    assert_int_equal(longest[F16], NUMBER_F16_MAX);
    assert_int_equal(longest[BF16], NUMBER_BF16_MAX);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "exhaustive") == 0)
        random_count = 10000000;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_known),
        cmocka_unit_test(test_write_f64),
        cmocka_unit_test(test_write_f32),
        cmocka_unit_test(test_write_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
