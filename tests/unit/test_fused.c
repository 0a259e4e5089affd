/* SPDX-License-Identifier: MIT
 *
 * A multiply-add without the instruction, compared with the C library's, which rounds once as C
 * says.
 */
#include <math.h>

#include "tests/help.h"
#include "tests/random.h"
#include "vector/fused.h"

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

static void check(double a, double b, double c)
{
    const double want = fma(a, b, c), got = lk_fma_without(a, b, c), ours = lk_fma(a, b, c);
    if (isnan(want) ? !isnan(got) || !isnan(ours)
                    : memcmp(&want, &got, sizeof want) || memcmp(&want, &ours, sizeof want))
        fail_msg("%a * %a + %a is %a, not %a or %a", a, b, c, want, got, ours);
}

static void check_float(float a, float b, float c)
{
    const float want = fmaf(a, b, c), got = lk_fmaf_without(a, b, c), ours = lk_fmaf(a, b, c);
    if (isnan(want) ? !isnan(got) || !isnan(ours)
                    : memcmp(&want, &got, sizeof want) || memcmp(&want, &ours, sizeof want))
        fail_msg("%a * %a + %a is %a, not %a or %a", (double)a, (double)b, (double)c, (double)want,
                 (double)got, (double)ours);
}

static void test_special(void **state)
{
    (void)state;
    const double x[] = {0,
                        -0.0,
                        1,
                        -1,
                        0x1p-1074,
                        -0x1p-1074,
                        0x1p-1022,
                        0x1p-538,
                        -0x1p-537,
                        0x1p1023,
                        INFINITY,
                        -INFINITY,
                        (double)NAN,
                        0x1.fffffffffffffp1023,
                        0x1.0000000000001p0,
                        0x1.fffffffffffffp-1,
                        0x1.8p-1074,
                        3,
                        0x1p53,
                        -0x1p54};
    enum { N = sizeof x / sizeof *x };
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            for (int k = 0; k < N; k++) {
                check(x[i], x[j], x[k]);
                check_float((float)x[i], (float)x[j], (float)x[k]);
            }
}

/* Any bits; and sums whose parts nearly cancel, or whose smaller part decides a tie. */
static void test_drawn(void **state)
{
    (void)state;
    random_state = 1;
    for (int i = 0; i < 1000000; i++) {
        const double a = double_of(random_bits()), b = double_of(random_bits());
        check(a, b, double_of(random_bits()));
        const double near = ldexp(1 + random_unit(), random_below(300) - 150);
        const double by = ldexp(1 + random_unit(), random_below(300) - 150);
        check(near, by, -near * by);
        check(near, by, ldexp(near * by, random_below(220) - 110));
        check(near, by, -ldexp(near * by, random_below(220) - 110));
        check(ldexp(near, -900), ldexp(by, -150), ldexp(random_unit(), -1000 - random_below(74)));
        const float c = float_of((uint32_t)random_bits()), d = float_of((uint32_t)random_bits());
        check_float(c, d, float_of((uint32_t)random_bits()));
        check_float(c, d, -c * d);
        check_float(c, d, ldexpf(c * d, random_below(100) - 50));
        check_float((float)near, (float)by, (float)ldexp(near * by, random_below(60) - 30));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_special),
                                       cmocka_unit_test(test_drawn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
