/* SPDX-License-Identifier: MIT
 *
 * Numbers that the server reads from JSON have the bits that strtod gives, and everything else is
 * refused.
 *
 * usage: test_number_read [exhaustive]
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

static double double_of(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The token `text` gives the same value as strtod: at the end of the input, before a comma, and
 * negated. */
static void check_read(const char *text)
{
    static char wide[4096];
    size_t n = strlen(text);
    assert_true(n + 3 < sizeof wide);
    double expected = strtod(text, NULL), value = 7;
    char *copy = exactly(text, n);
    const char *after = number_read(copy, copy + n, &value);
    if (after != copy + n || bits_of(value) != bits_of(expected))
        fail_msg("%s: %a, not %a", text, value, expected);
    free(copy);
    if (text[0] == '-')
        return;
    wide[0] = '-';
    memcpy(wide + 1, text, n);
    memcpy(wide + 1 + n, ",3", 2);
    after = number_read(wide, wide + n + 3, &value);
    if (after != wide + n + 1 || bits_of(value) != bits_of(-expected))
        fail_msg("-%s,: %a, not %a", text, value, -expected);
}

static void test_read_known(void **unused)
{
    (void)unused;
    static const char *const texts[] = {
        "0",
        "-0",
        "0.0",
        "-0.0",
        "0e5",
        "0E-5",
        "0.000",
        "0e999999999999",
        "-0e-999999999999",
        "1",
        "10",
        "3.0",
        "1e5",
        "1E+5",
        "1e-05",
        "1e00000000000000000000000000000005",
        "123456789",
        "12345678",
        "1234567",
        "0.1",
        "0.12345678",
        "0.123456789",
        "1.17549435e-38",
        "3.4028235e38",
        "7.038531e-26",
        /* The limits of exact products and quotients. */
        "9007199254740992e22",
        "9007199254740993e22",
        "9007199254740992e23",
        "1e22",
        "1e23",
        "9007199254740991e-22",
        "9007199254740992e-22",
        "9007199254740993e-22",
        "1e-22",
        "1e-23",
        /* Midpoints of two doubles, and their neighbourhood. */
        "9007199254740993",
        "9007199254740993.0",
        "9007199254740992.9999",
        "9007199254740993.0001",
        "9007199254740995",
        "900719925474099.3e1",
        "90071992547409930e-1",
        "18014398509481986",
        "18014398509481990",
        "9223372036854776833",
        "9223372036854776832",
        "9223372036854776831",
        "18446744073709553664",
        "18446744073709553663",
        "18446744073709553665",
        "9007199254740993.00000000000000000000000000000000000000000000000000000000000000000001",
        "9007199254740992.99999999999999999999999999999999999999999999999999999999999999999999",
        "1.00000000000000011102230246251565404236316680908203125",
        "1.00000000000000011102230246251565404236316680908203124",
        "1.00000000000000011102230246251565404236316680908203126",
        "4503599627370496.5",
        "4503599627370497.5",
        "4503599627370497.4999999999999999999",
        "8.5e-1",
        "1.5e-300",
        "5e-324",
        "2.5e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "2.47032822920623272e-324",
        "2.47032822920623273e-324",
        "1e-324",
        "1e-323",
        "7.4e-324",
        "7.5e-324",
        "1e-400",
        "1e-342",
        "1e-343",
        "9999999999999999999e-343",
        "9999999999999999999e-342",
        "123456789012345678e-341",
        "2.2250738585072014e-308",
        "2.2250738585072011e-308",
        "2.2250738585072012e-308",
        "2.225073858507201e-308",
        "2.22507385850720113605740979670913197593481954635164564e-308",
        "2.2250738585072009e-308",
        "4.9406564584124654e-324",
        "1e308",
        "1e309",
        "1.8e308",
        "1.7976931348623157e308",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "1.797693134862315807e308",
        "1.797693134862315808e308",
        "1.7976931348623158079e308",
        "17976931348623157e292",
        "1e310",
        "1e400",
        "9999999999999999999e308",
        /* Exponents that overflow an integer. */
        "1e999999999999",
        "1e-999999999999",
        "1e99999999999999999999999999999999",
        "1e-99999999999999999999999999999999",
        "1e2147483648",
        "1e-2147483648",
        "1e4294967296",
        "1e18446744073709551616",
        "1e-18446744073709551616",
        "0.1e9223372036854775807",
        "10e-9223372036854775808",
        /* 18 to 21 digits, with and without a point and zeros. */
        "999999999999999999",
        "1234567890123456789",
        "9999999999999999999",
        "12345678901234567890",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999",
        "123456789012345678901",
        "1.234567890123456789",
        "1.2345678901234567890",
        "0.1234567890123456789",
        "0.12345678901234567891",
        "0.0000000000000000000000000000001234567890123456789",
        "0.00000000000000000000000000000012345678901234567891",
        "0.0000000000000000000000000000000000000000000000000",
        "10000000000000000000000000000000",
        "100000000000000000000000000000000000.0000000000000000000000000000000000000000001",
        "0.00000000000000000000000000000000000000000000000000000000000000000000e400",
        "0.0000000000000000000000000000000000000000000000000000000000000000001e400",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_read(texts[i]);

    double value = 0;
    static const char infinity[] = "Infinity,", minus_infinity[] = "-Infinity", nan_[] = "NaN]";
    assert_ptr_equal(number_read(infinity, infinity + 9, &value), infinity + 8);
    assert_true(value == HUGE_VAL);
    assert_ptr_equal(number_read(minus_infinity, minus_infinity + 9, &value), minus_infinity + 9);
    assert_true(value == -HUGE_VAL);
    assert_ptr_equal(number_read(nan_, nan_ + 4, &value), nan_ + 3);
    assert_true(isnan(value) && !signbit(value));
}

/* Tokens of thousands of digits, whose value depends on the first ones. */
static void test_read_long(void **unused)
{
    (void)unused;
    static char text[4096];
    for (int zeros = 1; zeros < 4000; zeros += 133) {
        memset(text, '0', sizeof text);
        text[1] = '.';
        snprintf(text + 2 + zeros, 80, "123456789012345678901234567890e%d", zeros);
        check_read(text);
        memset(text, '0', sizeof text);
        text[0] = '7';
        snprintf(text + 1 + zeros, 80, "e-%d", zeros + 300);
        check_read(text);
        memset(text, '9', sizeof text);
        snprintf(text + 1 + zeros, 80, ".5e-%d", zeros);
        check_read(text);
        memset(text, '3', sizeof text);
        text[zeros] = '.';
        text[4000] = '\0';
        check_read(text);
    }
}

/* Midpoints of neighbours with all their digits, up to 767, and numbers that differ only in the
 * last digits. */
static void test_read_middles(void **unused)
{
    (void)unused;
#if LDBL_MANT_DIG > DBL_MANT_DIG && LDBL_MAX_EXP > DBL_MAX_EXP
    static char text[2048], changed[2048];
    for (int i = 0; i < 3000; i++) {
        uint64_t bits = random_bits() >> 1;
        if (i % 3 == 0)
            bits >>= 11; /* small and subnormal */
        if (i < 40)
            bits = (uint64_t)i;
        double low = double_of(bits), high = double_of(bits + 1);
        if (!isfinite(low) || !isfinite(high))
            continue;
        snprintf(text, sizeof text, "%.*Le", 800, ((long double)low + (long double)high) / 2);
        check_read(text);
        char *e = strchr(text, 'e');
        ptrdiff_t end = e - text;
        snprintf(changed, sizeof changed, "%.*s1%s", (int)end, text, e);
        check_read(changed);
        ptrdiff_t last = end - 1;
        while (text[last] == '0' || text[last] == '.')
            last--;
        text[last]--;
        check_read(text);
        snprintf(changed, sizeof changed, "%.*s99999999999%s", (int)last + 1, text, e);
        check_read(changed);
        text[last]++;
        snprintf(changed, sizeof changed, "%.*s00000000001%s", (int)last + 1, text, e);
        check_read(changed);
        snprintf(changed, sizeof changed, "%.*s%s", (int)last + 1, text, e);
        check_read(changed);
    }
#endif
}

static void test_read_random(void **unused)
{
    (void)unused;
    static char text[1200];
    for (long i = 0; i < random_count * 2; i++) {
        uint64_t bits = random_bits(), choice = random_bits();
        double x = choice % 3 == 0 ? (double)float_of((uint32_t)bits) : double_of(bits);
        if (isfinite(x)) {
            snprintf(text, sizeof text, "%.17g", x);
            check_read(text);
            snprintf(text, sizeof text, "%.9g", x);
            check_read(text);
            snprintf(text, sizeof text, "%.20e", x);
            check_read(text);
            snprintf(text, sizeof text, "%.*e", (int)(choice >> 8 & 15), x);
            check_read(text);
        }
        snprintf(text, sizeof text, "%.*f", (int)(choice >> 16 & 31),
                 ldexp((double)(int64_t)bits, -(int)(choice >> 32 & 127)));
        check_read(text);

        char *p = text;
        int whole = (int)(choice >> 8 & 31), fraction = (int)(choice >> 16 & 31);
        if ((choice >> 24) % 64 == 0)
            fraction = 700;
        *p++ = (char)('1' + random_bits() % 9);
        if (whole == 31)
            p[-1] = '0';
        else
            for (int k = 0; k < whole; k++)
                *p++ = (char)('0' + random_bits() % 10);
        if (fraction > 0) {
            *p++ = '.';
            int zeros = (choice >> 32 & 3) == 0 ? (int)(choice >> 40 & 31) : 0;
            for (int k = 0; k < zeros; k++)
                *p++ = '0';
            for (int k = 0; k < fraction; k++)
                *p++ = (char)('0' + random_bits() % 10);
        }
        int exponent = (int)(random_bits() % 720) - 360;
        snprintf(p, 8, "%c%d", 'e', exponent);
        check_read(text);
    }
}

/* Whether the grammar of JSON gives `text`, by a table of states: rows are the states, columns the
 * classes - + . 0 1-9 eE, and 0 is the end of hope. */
static bool is_json_number(const char *text, size_t n)
{
    static const char next[][6] = {
        {0, 0, 0, 0, 0, 0}, {2, 0, 0, 3, 4, 0}, {0, 0, 0, 3, 4, 0}, {0, 0, 5, 0, 0, 7},
        {0, 0, 5, 4, 4, 7}, {0, 0, 0, 6, 6, 0}, {0, 0, 0, 6, 6, 7}, {8, 8, 0, 9, 9, 0},
        {0, 0, 0, 9, 9, 0}, {0, 0, 0, 9, 9, 0},
    };
    int at = 1;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        int class = c == '-'               ? 0
                    : c == '+'             ? 1
                    : c == '.'             ? 2
                    : c == '0'             ? 3
                    : c > '0' && c <= '9'  ? 4
                    : c == 'e' || c == 'E' ? 5
                                           : -1;
        at = class < 0 ? 0 : next[at][class];
    }
    return at == 3 || at == 4 || at == 6 || at == 9;
}

static bool is_json_integer(const char *text, size_t n)
{
    return is_json_number(text, n) && strcspn(text, ".eE") >= n;
}

/* Reads the first n bytes of `text` with both functions: a token or not, as the grammar has it, and
 * nothing is changed if not. */
static void check_grammar(const char *text, size_t n)
{
    char *copy = exactly(text, n);
    const char *end = copy + n;
    double value = 7;
    const char *after = number_read(copy, end, &value);
    if (after != (is_json_number(text, n) ? end : NULL) || (after == NULL && value != 7))
        fail_msg("%.*s: %s", (int)n, text, after == NULL ? "refused" : "taken");
    int64_t integer = 7;
    bool fits = false;
    after = number_read_integer(copy, end, &integer, &fits);
    if (after != (is_json_integer(text, n) ? end : NULL) ||
        (after == NULL && (integer != 7 || fits)))
        fail_msg("%.*s: %s as an integer", (int)n, text, after == NULL ? "refused" : "taken");
    free(copy);
}

static void test_grammar(void **unused)
{
    (void)unused;
    static const char *const refused[] = {
        "",          "+1",         "+",          "-",        "--1",       "-+1",       "01",
        "-01",       "00",         "1.",         "-1.",      ".5",        "-.5",       "1.e5",
        "1e",        "1e+",        "1e-",        "1e+-5",    "1E",        "0x10",      "0b1",
        "1.5.2",     "1e5.5",      "1e5e5",      "1-2",      "1+2",       "1_000",     "1f",
        "1L",        "nan",        "NAN",        "Nan",      "-NaN",      "NaNs",      "NaN1",
        "inf",       "Inf",        "infinity",   "INFINITY", "+Infinity", "Infinity1", "Infinit",
        "-Infinit",  "-",          "--Infinity", "Na",       "N",         "I",         "-I",
        "null",      "true",       "\"1\"",      " 1",       "[1]",       ",",         "1.5x",
        "12345678x", "123456789a", "1\xC3",
    };
    for (size_t i = 0; i + 1 < sizeof refused / sizeof *refused; i++) {
        size_t n = strlen(refused[i]);
        double value = 7;
        char *copy = exactly(refused[i], n);
        if (number_read(copy, copy + n, &value) != NULL || value != 7)
            fail_msg("%s: taken", refused[i]);
        free(copy);
    }
    static const char *const cut[] = {
        "-12345678901234567890.12345678901234567890e-12",
        "0.123456789e+05",
        "-0.0E0",
        "12345678.12345678e12345678",
        "1234567.1234567e1",
        "-0",
        "123456789012345678901234567890",
    };
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++)
        for (size_t n = 0; n <= strlen(cut[i]); n++)
            check_grammar(cut[i], n);
    static const char alphabet[] = "-+..00123456789eE";
    for (long i = 0; i < random_count; i++) {
        char text[24];
        size_t n = random_bits() % sizeof text;
        for (size_t k = 0; k < n; k++) {
            /* Mostly digits, so that many are valid tokens. */
            uint64_t r = random_bits();
            text[k] = r % 4 == 0 ? alphabet[(r >> 8) % (sizeof alphabet - 1)]
                                 : (char)('0' + (r >> 8) % 10);
        }
        check_grammar(text, n);
    }
    /* Characters that may follow a number. */
    static const char followers[] = ", ]}\t\n\r:\"[{/\0\x80\xFF";
    for (size_t i = 0; i < sizeof followers - 1; i++) {
        char text[] = "-15 7654321";
        text[3] = followers[i];
        double value = 0;
        int64_t integer = 0;
        bool fits = false;
        assert_ptr_equal(number_read(text, text + 11, &value), text + 3);
        assert_true(value == -15);
        assert_ptr_equal(number_read_integer(text, text + 11, &integer, &fits), text + 3);
        assert_true(fits && integer == -15);
    }
}

static void check_integer(const char *text, int64_t expected, bool expected_fits)
{
    size_t n = strlen(text);
    char *copy = exactly(text, n);
    int64_t value = 7;
    bool fits = !expected_fits;
    assert_ptr_equal(number_read_integer(copy, copy + n, &value, &fits), copy + n);
    if (value != expected || fits != expected_fits)
        fail_msg("%s: %lld, %d", text, (long long)value, fits);
    free(copy);
}

static void test_integers(void **unused)
{
    (void)unused;
    check_integer("0", 0, true);
    check_integer("-0", 0, true);
    check_integer("7", 7, true);
    check_integer("-12345678", -12345678, true);
    check_integer("9223372036854775807", INT64_MAX, true);
    check_integer("9223372036854775808", INT64_MAX, false);
    check_integer("-9223372036854775808", INT64_MIN, true);
    check_integer("-9223372036854775809", INT64_MIN, false);
    check_integer("9999999999999999999", INT64_MAX, false);
    check_integer("18446744073709551617", INT64_MAX, false);
    check_integer("-18446744073709551617", INT64_MIN, false);
    check_integer("36893488147419103233", INT64_MAX, false);
    check_integer("340282366920938463463374607431768211457", INT64_MAX, false);
    for (long i = 0; i < random_count; i++) {
        uint64_t r = random_bits();
        int64_t x = (int64_t)(r >> (random_bits() % 64));
        if (random_bits() % 2 != 0)
            x = x == INT64_MIN ? x : -x;
        if (i == 0)
            x = INT64_MIN;
        if (i == 1)
            x = INT64_MAX;
        if (i >= 2 && i < 38) {
            x = 1;
            for (long k = 2; k < i; k += 2)
                x *= 10;
            x -= i % 2;
        }
        char expected[32], text[32];
        snprintf(expected, sizeof expected, "%lld", (long long)x);
        char *out = exactly(expected, NUMBER_I64_MAX);
        char *end = number_write_i64(out, x);
        snprintf(text, sizeof text, "%.*s", (int)(end - out), out);
        assert_string_equal(text, expected);
        free(out);
        check_integer(text, x, true);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "exhaustive") == 0)
        random_count = 10000000;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_known),   cmocka_unit_test(test_read_long),
        cmocka_unit_test(test_read_middles), cmocka_unit_test(test_read_random),
        cmocka_unit_test(test_grammar),      cmocka_unit_test(test_integers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
