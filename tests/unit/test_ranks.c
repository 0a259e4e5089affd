/* SPDX-License-Identifier: MIT
 *
 * Sorting by size.
 */
#include "tests/help.h"

#include "ranks.h"
#include "tests/random.h"

/* Compare with a selection of the greatest, the first of equal ones. */
static void check_sorted(const double *x, int64_t n)
{
    lk_rank *ranks = must(malloc((size_t)(2 * n + 1) * sizeof *ranks));
    for (int64_t i = 0; i < n; i++)
        ranks[i] = (lk_rank){lk_rank_key(x[i]), i};
    const lk_rank *sorted = lk_ranks_sort(ranks, ranks + n, n);
    for (int64_t k = 1; k < n; k++) {
        const double before = x[sorted[k - 1].at], now = x[sorted[k].at];
        assert_true(before > now || (before == now && sorted[k - 1].at < sorted[k].at));
    }
    free(ranks);
}

static void test_sizes(void **state)
{
    static const int64_t sizes[] = {0, 1, 2, 47, 48, 49, 1000, 70000};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int64_t n = sizes[s];
        double *x = must(malloc((size_t)(n + 1) * sizeof *x));
        for (int64_t i = 0; i < n; i++)
            x[i] = random_normal();
        check_sorted(x, n);
        for (int64_t i = 0; i < n; i++)
            x[i] = (double)(float)x[i];
        check_sorted(x, n);
        for (int64_t i = 0; i < n; i++)
            x[i] = (double)random_int(-3, 3);
        check_sorted(x, n);
        free(x);
    }
}

static void test_edges(void **state)
{
    double x[] = {0.0, -0.0, (double)INFINITY, -(double)INFINITY, -1e308, 1e-320, -1e-320, 0.0};
    (void)state;
    check_sorted(x, sizeof x / sizeof *x);
    assert_true(lk_rank_key(0.0) == lk_rank_key(-0.0));
    assert_true(lk_rank_key((double)INFINITY) < lk_rank_key(1e308));
    assert_true(lk_rank_key((double)NAN) > lk_rank_key(-(double)INFINITY));
    assert_true(lk_rank_key((double)NAN) == lk_rank_key(-(double)NAN));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes), cmocka_unit_test(test_edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
