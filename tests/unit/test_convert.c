/* SPDX-License-Identifier: MIT
 *
 * Every 16-bit number of both formats, compared with the value defined by its bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "internal.h"

/* A bf16 is the upper half of a float. An f16 with exponent 15 + e and fraction f is
 * 2^e (1 + f/1024); with exponent 0, 2^-14 f/1024. As strings, for another way than ldexp's. */
static double meaning(lk_dtype dtype, uint16_t bits)
{
    if (dtype == LK_BF16) {
        uint32_t wide = (uint32_t)bits << 16;
        float x;
        memcpy(&x, &wide, sizeof x);
        return (double)x;
    }
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    char text[40];
    if (exponent == 31)
        snprintf(text, sizeof text, "%s%s", bits >> 15 ? "-" : "", fraction ? "nan" : "inf");
    else
        snprintf(text, sizeof text, "%s0x%d.%03xp%d", bits >> 15 ? "-" : "", exponent > 0,
                 fraction << 2, exponent > 0 ? exponent - 15 : -14);
    return strtod(text, NULL);
}

static void assert_same(double x, double y)
{
    assert_true(isnan(x) == isnan(y));
    assert_true(isnan(x) || (x == y && signbit(x) == signbit(y)));
}

static void test_halves(void **state)
{
    (void)state;
    static const lk_dtype types[] = {LK_F16, LK_BF16};
    for (int t = 0; t < 2; t++) {
        for (uint32_t u = 0; u < 0x10000; u++) {
            char place[3]; /* of odd address, once in two */
            uint16_t bits = (uint16_t)u;
            memcpy(place + u % 2, &bits, sizeof bits);
            double expected = meaning(types[t], bits), wide;
            float narrow;
            assert_same(lk_real_at(place + u % 2, types[t], 0), expected);
            lk_convert(place + u % 2, types[t], &wide, LK_F64, 1);
            lk_convert(place + u % 2, types[t], &narrow, LK_F32, 1);
            assert_same(wide, expected);
            assert_same((double)narrow, expected); /* no half is too fine for a float */
        }
    }
}

static void test_floats(void **state)
{
    (void)state;
    const double x[] = {1, -0.0, 0.1, 1e300, -1e-300, (double)INFINITY, (double)NAN, 16777217};
    float narrow[8], again[8];
    double wide[8];
    lk_convert(x, LK_F64, narrow, LK_F32, 8);
    lk_convert(narrow, LK_F32, wide, LK_F64, 8);
    lk_convert(narrow, LK_F32, again, LK_F32, 8);
    for (int i = 0; i < 8; i++) {
        assert_same((double)narrow[i], (double)(float)x[i]);
        assert_same(wide[i], (double)narrow[i]);
        assert_same((double)again[i], (double)narrow[i]);
        assert_same(lk_real_at(x, LK_F64, i), x[i]);
        assert_same(lk_real_at(narrow, LK_F32, i), (double)narrow[i]);
    }
    assert_true(narrow[7] == 16777216); /* to nearest, ties to even */
    wide[0] = 5;
    lk_convert(x, LK_F64, wide, LK_F64, 0);
    assert_true(wide[0] == 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_floats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
