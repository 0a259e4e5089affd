/* SPDX-License-Identifier: MIT
 *
 * Zeros of both signs among the scores: which of them is a row's maximum must not depend on how
 * many lanes there are, since a gradient that is 0 has a sign as well.
 */
#include "tests/help.h"

#include "losskit.h"
#include "tests/element.h"

enum { ROWS = 3, MOST = 1100 };

static uint64_t scores[ROWS * MOST], above[ROWS], grad[ROWS * MOST], first[ROWS * MOST];
static int64_t targets[ROWS];

/* The gradient of the entropies by `width` scores of each row. */
static void run(lk_dtype type, int64_t width, uint64_t *to)
{
    const lk_tensor x = {scores, type, 3, {1, ROWS, width}}, g = {to, type, 3, {1, ROWS, width}};
    lk_error error;
    if (lk_evaluate("token_logprobs", NULL,
                    (lk_named[]){{"logits", x},
                                 {"targets", lk_matrix(LK_I64, targets, 1, ROWS)},
                                 {"grad_entropy", lk_matrix(type, above, 1, ROWS)},
                                 {NULL, {0}}},
                    (lk_named[]){{"grad.logits", g}, {NULL, {0}}}, &error) != LK_OK)
        fail_msg("%s", error.text);
}

static void test_zeros(void **state)
{
    static const lk_dtype types[] = {LK_F64, LK_F32, LK_F16, LK_BF16};
    static const int64_t widths[] = {2, 7, 100, 130, 300, 1100};
    const char *best = lk_isa_used();
    (void)state;
    for (size_t i = 0; i < 4 * sizeof widths / sizeof *widths; i++) {
        const lk_dtype type = types[i % 4];
        const int64_t width = widths[i / 4], n = ROWS * width;
        for (int64_t k = 0; k < n; k++)
            store(scores, type, k, random_unit() < 0.5 ? -0.0 : 0.0);
        for (int64_t k = 0; k < ROWS; k++)
            store(above, type, k, (double)k - 1.5);
        assert_true(lk_isa_use("scalar"));
        run(type, width, first);
        for (int isa = 0; isa < lk_isa_count(); isa++) {
            if (!lk_isa_use(lk_isa_name(isa)))
                continue;
            run(type, width, grad);
            if (memcmp(first, grad, (size_t)n * lk_dtype_size(type)) != 0)
                fail_msg("%s, %s, %d classes: other bits than scalar", lk_isa_used(),
                         lk_dtype_name(type), (int)width);
        }
    }
    assert_true(lk_isa_use(best));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_zeros)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
