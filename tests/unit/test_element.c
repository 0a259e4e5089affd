/* SPDX-License-Identifier: MIT
 *
 * Elements of tensors: a double is rounded once, to nearest even, and nothing beside it is written.
 */
#include "tests/element.h"
#include "tests/help.h"

#include "wire/element.h"

static void check_narrow(lk_dtype dtype, double x)
{
    uint16_t got, want = half_bits(dtype, x);
    uint16_t at[3] = {0x5555, 0x5555, 0x5555};
    element_put(dtype, &at[1], x);
    got = at[1];
    if (got != want || at[0] != 0x5555 || at[2] != 0x5555)
        fail_msg("%a as %s is %04x, not %04x", x, lk_dtype_name(dtype), got, want);
}

/* Every value of the format, the middle between it and the next, and what lies closest to both. */
static void narrow_floats(void **unused)
{
    (void)unused;
    for (int format = 0; format < 2; format++) {
        const lk_dtype dtype = format ? LK_F16 : LK_BF16;
        const int fraction = format ? 10 : 7;
        for (unsigned bits = 0; bits < 0x8000; bits++) {
            double x = half_value(dtype, (uint16_t)bits);
            double next = half_value(dtype, (uint16_t)(bits + 1));
            if (!isfinite(x)) {
                check_narrow(dtype, x);
                check_narrow(dtype, -x);
                continue;
            }
            if (isinf(next))
                next = ldexp(1, (0x7fff >> fraction) / 2 + 1);
            const double middle = x + (next - x) / 2;
            const double near[] = {x,
                                   nextafter(x, 0),
                                   nextafter(x, INFINITY),
                                   middle,
                                   nextafter(middle, 0),
                                   nextafter(middle, INFINITY),
                                   x + (next - x) * 0.25,
                                   x + (next - x) * 0.75};
            for (size_t i = 0; i < sizeof near / sizeof *near; i++) {
                check_narrow(dtype, near[i]);
                check_narrow(dtype, -near[i]);
            }
        }
        for (int i = 0; i < 200000; i++) {
            uint64_t random = random_bits();
            double x;
            memcpy(&x, &random, sizeof x);
            check_narrow(dtype, x);
        }
        check_narrow(dtype, 0x1p-1074);
        check_narrow(dtype, 0x1.fffffffffffffp1023);
    }
}

static void wide_floats(void **unused)
{
    (void)unused;
    char place[1 + 2 * sizeof(double)];
    double wide;
    float single;
    element_put(LK_F64, place + 1 + sizeof wide, -0.1);
    memcpy(&wide, place + 1 + sizeof wide, sizeof wide);
    assert_true(wide == -0.1);
    element_put(LK_F32, place + 1 + sizeof single, -0.1);
    memcpy(&single, place + 1 + sizeof single, sizeof single);
    assert_true(single == -0.1f);
    element_put(LK_F32, place, 3.5e38);
    memcpy(&single, place, sizeof single);
    assert_true(isinf(single));
}

/* Whole tensors, at the same place too: each element as if stored alone. */
static void narrowed(void **unused)
{
    (void)unused;
    enum { COUNT = 100000 };
    static const lk_dtype from[] = {LK_F64, LK_F64, LK_F64, LK_F32, LK_F32};
    static const lk_dtype to[] = {LK_F32, LK_F16, LK_BF16, LK_F16, LK_BF16};
    char *wide = malloc(COUNT * sizeof(double)), *copy = malloc(COUNT * sizeof(double));
    assert_true(wide && copy);
    for (size_t k = 0; k < sizeof from / sizeof *from; k++) {
        const size_t width = lk_dtype_size(from[k]), narrow = lk_dtype_size(to[k]);
        for (size_t i = 0; i < COUNT; i++) {
            uint64_t bits = random_bits();
            double x = 0;
            float single;
            if (i % 2 == 0) { /* in the range of all types, and ties among them */
                single = ldexpf((float)(bits >> 46 & 0x1fff), (int)(bits % 20) - 16);
                x = (double)single;
                bits = 0;
                memcpy(&bits, from[k] == LK_F64 ? (void *)&x : (void *)&single, width);
            }
            memcpy(wide + i * width, &bits, width);
        }
        memcpy(copy, wide, COUNT * width);
        const lk_tensor source = lk_vector(from[k], copy, COUNT);
        const lk_tensor target = lk_vector(to[k], copy, COUNT);
        element_narrow(&source, &target);
        for (size_t i = 0; i < COUNT; i++) {
            char want[sizeof(double)];
            double x;
            float single;
            memcpy(&x, wide + i * sizeof x, from[k] == LK_F64 ? sizeof x : 0);
            if (from[k] == LK_F32) {
                memcpy(&single, wide + i * sizeof single, sizeof single);
                x = (double)single;
            }
            element_put(to[k], want, x);
            if (memcmp(copy + i * narrow, want, narrow) != 0)
                fail_msg("%a from %s to %s", x, lk_dtype_name(from[k]), lk_dtype_name(to[k]));
        }
    }
    free(wide);
    free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(narrow_floats),
        cmocka_unit_test(wide_floats),
        cmocka_unit_test(narrowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
