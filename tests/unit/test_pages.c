/* SPDX-License-Identifier: MIT
 *
 * Memory of large bodies: the contents are preserved as bodies grow; memory is kept for reuse
 * within limits.
 */
#include "tests/help.h"

#include "http/pages.h"

enum { MIB = 1 << 20 };

static void fill(pages *p, size_t from, size_t to)
{
    for (size_t i = from; i < to; i += 997)
        p->at[i] = (char)(i / 997);
}

static void check(const pages *p, size_t to)
{
    for (size_t i = 0; i < to; i += 997)
        assert_int_equal(p->at[i], (char)(i / 997));
}

static void grows_and_keeps_what_it_holds(void **unused)
{
    (void)unused;
    static const size_t steps[] = {1, 5000, 3 * MIB, 8 * MIB - 1, 8 * MIB, 9 * MIB, 40 * MIB + 3};
    pages p = {0};
    size_t filled = 0;
    pages_setup(64 * MIB);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_true(pages_grow(&p, steps[i]));
        assert_true(p.size >= steps[i]);
        check(&p, filled);
        fill(&p, 0, steps[i]);
        filled = steps[i];
        char *at = p.at;
        assert_true(pages_grow(&p, filled / 2)); /* enough is there */
        assert_ptr_equal(p.at, at);
    }
    pages_free(&p);
    assert_null(p.at);
    assert_int_equal(p.size, 0);
    pages_free(&p);
    pages_age(0);
}

static void gives_back_what_it_does_not_need(void **unused)
{
    (void)unused;
    static const size_t steps[][2] = {
        {3 * MIB, 1000}, {9 * MIB, 5 * MIB}, {40 * MIB + 3, 9 * MIB + 7}, {5000, 5000}};
    pages_setup(64 * MIB);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const size_t most = steps[i][0], size = steps[i][1];
        pages p = {0};
        assert_true(pages_grow(&p, most));
        fill(&p, 0, most);
        pages_fit(&p, size);
        assert_in_range(p.size, size, size + 64 * 1024);
        check(&p, size);
        pages_free(&p);
    }
    pages_age(0);
}

static pages of(size_t size)
{
    pages p = {0};
    assert_true(pages_grow(&p, size));
    return p;
}

static void gives_what_it_kept_to_the_next(void **unused)
{
    (void)unused;
    pages_setup(100 * MIB);
    pages small = of(10 * MIB), large = of(30 * MIB);
    char *const small_at = small.at, *const large_at = large.at;
    pages_free(&small);
    pages_free(&large);
    pages twelve = of(12 * MIB), fifteen = of(15 * MIB), nine = of(9 * MIB);
    assert_ptr_not_equal(twelve.at, small_at); /* too small; and most of the other would be idle */
    assert_ptr_not_equal(twelve.at, large_at);
    assert_ptr_equal(fifteen.at, large_at);
    assert_ptr_equal(nine.at, small_at);
    pages_free(&twelve);
    pages_free(&fifteen);
    pages_free(&nine);
    pages_age(0);
}

static void keeps_no_more_than_it_may(void **unused)
{
    (void)unused;
    pages_setup(40 * MIB);
    pages beyond = of(41 * MIB), first = of(20 * MIB), second = of(20 * MIB), third = of(20 * MIB);
    char *const second_at = second.at, *const third_at = third.at;
    pages_free(&first);
    pages_free(&second);
    pages_free(&third); /* in place of the first */
    pages_free(&beyond);
    pages a = of(20 * MIB), b = of(20 * MIB);
    assert_true((a.at == second_at && b.at == third_at) || (a.at == third_at && b.at == second_at));
    pages_free(&a);
    pages_free(&b);
    pages many[12];
    for (int i = 0; i < 12; i++)
        many[i] = of(8 * MIB);
    pages_setup(1000 * MIB);
    for (int i = 0; i < 12; i++)
        pages_free(&many[i]);
    pages_age(0);
}

static void gives_back_what_has_waited(void **unused)
{
    (void)unused;
    pages_setup(100 * MIB);
    pages first = of(10 * MIB), second = of(30 * MIB);
    char *const second_at = second.at;
    memset(first.at, 1, first.size);
    pages_free(&first);
    pages_age(3);
    pages_age(3);
    pages_free(&second);
    pages_age(3); /* the third time for the first only */
    first = of(10 * MIB);
    second = of(30 * MIB);
    assert_ptr_equal(second.at, second_at);
    for (size_t i = 0; i < first.size; i += 4096)
        assert_int_equal(first.at[i], 0); /* new from the system: it had been written to */
    memset(first.at, 1, first.size);
    pages_free(&first);
    pages_age(2);
    first = of(10 * MIB); /* not yet */
    assert_int_equal(first.at[0], 1);
    pages_free(&first);
    pages_free(&second);
    pages_age(0);
}

/* Under the address sanitizer each has memory of its own size instead. */
static void keeps_one_small_block(void **unused)
{
    (void)unused;
    pages body = of(20000);
    char *const at = body.at;
    pages_free(&body);
    body = of(15000);
#if defined(__SANITIZE_ADDRESS__)
    (void)at;
    assert_int_equal(body.size, 15000);
#else
    assert_ptr_equal(body.at, at);
    assert_true(body.size >= 20000);
#endif
    pages_free(&body);
    pages little = of(5000); /* most of it would be idle */
    assert_true(little.size < 10000);
    fill(&little, 0, 5000);
    assert_true(pages_grow(&little, 100000));
    check(&little, 5000);
    pages_free(&little);
    pages_age(0);
}

static void says_that_there_is_no_memory(void **unused)
{
    (void)unused;
    pages p = of(100);
    fill(&p, 0, 100);
    char *const at = p.at;
    assert_false(pages_grow(&p, SIZE_MAX / 4));
    assert_false(pages_grow(&p, SIZE_MAX - 5));
    assert_ptr_equal(p.at, at);
    check(&p, 100);
    pages_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_keeps_what_it_holds),
        cmocka_unit_test(gives_back_what_it_does_not_need),
        cmocka_unit_test(gives_what_it_kept_to_the_next),
        cmocka_unit_test(keeps_no_more_than_it_may),
        cmocka_unit_test(gives_back_what_has_waited),
        cmocka_unit_test(keeps_one_small_block),
        cmocka_unit_test(says_that_there_is_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
