/* SPDX-License-Identifier: MIT
 *
 * Losses of elements whose values need no function that differs between instruction sets: the order
 * of their sums does not either, and so the bits are the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <losskit.h>
#include <stdlib.h>
#include <string.h>

#include "tests/random.h"

enum { MOST = 150000 };

static const struct {
    const char *loss, *weights;
} cases[] = {
    {"mse", NULL}, {"mse", "sample_weight"}, {"mae", NULL}, {"huber", "mask"}, {"smooth_l1", NULL},
};

/* The loss of n elements at an odd place in memory. */
static void evaluate(size_t k, lk_dtype dtype, const char *data, int64_t n, void *loss)
{
    const size_t bytes = (size_t)n * lk_dtype_size(dtype);
    const bool masked = cases[k].weights && strcmp(cases[k].weights, "mask") == 0;
    char *room = malloc(3 * bytes + 3);
    lk_error error;
    assert_non_null(room);
    memcpy(room + 1, data, 3 * bytes);
    const lk_named in[] = {
        {"a", lk_vector(dtype, room + 1, n)},
        {"b", lk_vector(dtype, room + 1 + bytes, n)},
        {cases[k].weights, lk_vector(masked ? LK_U8 : dtype, room + 1 + 2 * bytes, n)},
        {NULL, lk_scalar(dtype, NULL)}};
    const lk_named out[] = {{"loss", lk_scalar(dtype, loss)}, {NULL, lk_scalar(dtype, NULL)}};
    assert_int_equal(lk_evaluate(cases[k].loss, NULL, in, out, &error), LK_OK);
    free(room);
}

static void test_sums(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 7, 31, 33, 255, 257, 1000, 65537, MOST};
    static double data[3 * MOST];
    for (int wide = 0; wide < 2; wide++) {
        const lk_dtype dtype = wide ? LK_F64 : LK_F32;
        for (int64_t i = 0; i < 3 * MOST; i++) {
            const double x = random_unit() * 8 - 4;
            const float narrow = (float)x;
            if (wide)
                memcpy((char *)data + i * 8, &x, sizeof x);
            else
                memcpy((char *)data + i * 4, &narrow, sizeof narrow);
        }
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                double first = 0;
                for (int i = 0; i < lk_isa_count(); i++) {
                    double loss = 0;
                    if (!lk_isa_use(lk_isa_name(i)))
                        continue;
                    evaluate(k, dtype, (const char *)data, sizes[s], &loss);
                    if (first == 0)
                        first = loss;
                    assert_memory_equal(&loss, &first, lk_dtype_size(dtype));
                }
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
