/* SPDX-License-Identifier: MIT
 *
 * Shape patterns: the sizes that they bind, conflicts, the shapes that they produce, and their
 * text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "internal.h"

typedef struct axes {
    int64_t class_dim;
} axes;

static const lk_field fields[] = {LK_FIELD(axes, class_dim, "-1", 0, 0, 0, ""), {0}};

#define SHAPE(...)                                                                                 \
    ((lk_tensor){NULL, LK_F32, sizeof((int[]){__VA_ARGS__}) / sizeof(int), {__VA_ARGS__}})
static const lk_tensor number = {NULL, LK_F32, 0, {0}};

static lk_sizes sizes;

static bool bind_at(int64_t class_dim, const char *pattern, lk_tensor shape)
{
    axes o = {class_dim};
    return lk_shape_bind(pattern, &shape, true, &sizes, fields, &o);
}

static bool bind(const char *pattern, lk_tensor shape)
{
    return bind_at(-1, pattern, shape);
}

static void assert_makes(int64_t class_dim, const char *pattern, const char *text)
{
    axes o = {class_dim};
    lk_tensor made;
    char is[LK_SHAPE_TEXT];
    assert_true(lk_shape_make(pattern, &sizes, fields, &o, &made));
    assert_string_equal(lk_shape_text(&made, is), text);
}

static void test_letters(void **state)
{
    (void)state;
    lk_sizes_clear(&sizes);
    assert_true(bind("B T", SHAPE(2, 3)));
    assert_true(bind("B T C", SHAPE(2, 3, 5)));
    assert_false(bind("B T", SHAPE(2, 4)));
    assert_false(bind("B", SHAPE(3)));
    assert_false(bind("B T", SHAPE(2)));
    assert_false(bind("B T", SHAPE(2, 3, 1)));
    assert_true(bind("C", SHAPE(5)));
    assert_makes(-1, "C B", "[5,2]");
    assert_makes(-1, "", "[]");
    lk_tensor made;
    assert_false(lk_shape_make("D", &sizes, fields, &(axes){-1}, &made)); /* not bound */
    assert_false(lk_shape_make("* C", &sizes, fields, &(axes){-1}, &made));
}

/* A shape that does not fit changes nothing. */
static void test_failure_binds_nothing(void **state)
{
    (void)state;
    lk_sizes_clear(&sizes);
    assert_false(bind("A A", SHAPE(2, 3)));
    assert_true(bind("A A", SHAPE(3, 3)));
    lk_sizes_clear(&sizes);
    assert_true(bind("C", SHAPE(5)));
    assert_false(bind("* D C", SHAPE(7, 2, 4)));
    assert_int_equal(sizes.lead_rank, -1);
    assert_int_equal(sizes.size['D' - 'A'], -1);
}

static void test_star(void **state)
{
    (void)state;
    lk_sizes_clear(&sizes);
    assert_true(bind("* C", SHAPE(2, 3, 5)));
    assert_int_equal(sizes.lead_rank, 2);
    assert_true(bind("*", SHAPE(2, 3)));
    assert_false(bind("*", SHAPE(2)));
    assert_false(bind("*", SHAPE(3, 2)));
    assert_false(bind("*", number));
    assert_makes(-1, "*", "[2,3]");
    assert_makes(-1, "* C", "[2,3,5]");

    lk_sizes_clear(&sizes);
    assert_true(bind("* C", SHAPE(5)));
    assert_true(bind("*", number));
    assert_false(bind("*", SHAPE(5)));
    lk_sizes_clear(&sizes);
    assert_false(bind("* C", number));
    lk_sizes_clear(&sizes);
    assert_true(bind("*", SHAPE(1, 2, 3, 4, 5, 6, 7, 8)));
    lk_tensor made;
    sizes.size['C' - 'A'] = 2;
    assert_false(lk_shape_make("* C", &sizes, fields, &(axes){-1}, &made)); /* of rank 9 */
}

static void test_option_axis(void **state)
{
    (void)state;
    lk_sizes_clear(&sizes);
    assert_true(bind_at(1, "* C@class_dim", SHAPE(2, 5, 3, 4)));
    assert_int_equal(sizes.size['C' - 'A'], 5);
    assert_int_equal(sizes.lead_rank, 3);
    assert_true(bind("*", SHAPE(2, 3, 4)));
    assert_makes(1, "* C@class_dim", "[2,5,3,4]");
    assert_makes(0, "* C@class_dim", "[5,2,3,4]");
    assert_makes(-1, "* C@class_dim", "[2,3,4,5]");
    assert_true(bind_at(3, "* C@class_dim", SHAPE(2, 3, 4, 5)));
    assert_false(bind_at(4, "* C@class_dim", SHAPE(2, 3, 4, 5))); /* there is no such axis */
    lk_sizes_clear(&sizes);
    assert_false(bind_at(1, "* C@class_dim", SHAPE(5)));
    assert_true(bind_at(0, "* C@class_dim", SHAPE(5)));
    assert_false(bind_at(INT64_MAX, "* C@class_dim", SHAPE(5)));
    lk_sizes_clear(&sizes);
    assert_false(bind_at(1, "A@class_dim B", SHAPE(2, 3))); /* both on the same axis */
    assert_true(lk_shape_rank("* C@class_dim", 1, &sizes)); /* whatever the option */
}

/* With offsets the two axes of sequences are one. */
static void test_packed(void **state)
{
    (void)state;
    lk_sizes_clear(&sizes);
    assert_true(bind("B+1", SHAPE(1)));
    assert_int_equal(sizes.size['B' - 'A'], 0);
    lk_sizes_clear(&sizes);
    assert_false(bind("B+1", SHAPE(0)));
    assert_true(bind("B T", SHAPE(2, 3)));
    assert_false(bind("B+1", SHAPE(2)));
    assert_true(bind("B+1", SHAPE(3)));
    assert_makes(-1, "B+1", "[3]");

    char text[LK_SHAPE_TEXT];
    lk_sizes_clear(&sizes);
    sizes.packed = true;
    assert_string_equal(lk_pattern_text("B T C", &sizes, text), "[P,C]");
    assert_string_equal(lk_pattern_text("B+1", &sizes, text), "[B+1]");
    assert_false(bind("B T C", SHAPE(2, 3, 5)));
    assert_true(bind("B T C", SHAPE(7, 5)));
    assert_true(bind("B T", SHAPE(7)));
    assert_true(bind("B+1", SHAPE(4)));
    assert_true(bind("B", SHAPE(3)));
    assert_makes(-1, "B T", "[7]");
    assert_makes(-1, "B 1", "[3,1]");
}

/* [1] is accepted for [] if requested. */
static void test_one_number(void **state)
{
    (void)state;
    lk_tensor one = SHAPE(1), two = SHAPE(2), deep = SHAPE(1, 1);
    lk_sizes_clear(&sizes);
    assert_true(bind("", number));
    assert_false(bind("", one));
    assert_true(lk_shape_bind("", &one, false, &sizes, fields, NULL));
    assert_false(lk_shape_bind("", &two, false, &sizes, fields, NULL));
    assert_false(lk_shape_bind("", &deep, false, &sizes, fields, NULL));
    sizes.lead_rank = 0;
    assert_true(lk_shape_bind("*", &one, false, &sizes, fields, NULL));
    sizes.lead_rank = 1;
    sizes.lead[0] = 2;
    assert_false(lk_shape_bind("*", &one, false, &sizes, fields, NULL));
}

static void test_ranks(void **state)
{
    (void)state;
    lk_sizes_clear(&sizes);
    assert_true(lk_shape_rank("", 0, &sizes));
    assert_false(lk_shape_rank("", 1, &sizes));
    assert_true(lk_shape_rank("* C", 1, &sizes));
    assert_true(lk_shape_rank("* C", 8, &sizes));
    assert_false(lk_shape_rank("* C", 0, &sizes));
    sizes.lead_rank = 2;
    assert_true(lk_shape_rank("* C", 3, &sizes));
    assert_false(lk_shape_rank("* C", 2, &sizes));
}

/* "*-": the leading sizes but the last one. */
static void test_cut(void **state)
{
    (void)state;
    lk_sizes_clear(&sizes);
    assert_true(bind("*", SHAPE(2, 3, 5)));
    assert_true(lk_shape_rank("*-", 2, &sizes));
    assert_false(lk_shape_rank("*-", 3, &sizes));
    assert_true(bind("*-", SHAPE(2, 3)));
    assert_false(bind("*-", SHAPE(2, 5)));
    assert_false(bind("*-", SHAPE(2, 3, 5)));
    assert_int_equal(sizes.lead_rank, 3);
    assert_makes(-1, "*-", "[2,3]");
    assert_makes(-1, "*", "[2,3,5]");
    lk_sizes_clear(&sizes);
    assert_true(bind("*", SHAPE(7)));
    assert_true(bind("*-", number));
    const lk_tensor one = SHAPE(1), seven = SHAPE(7);
    assert_true(lk_shape_bind("*-", &one, false, &sizes, fields, NULL));
    assert_false(lk_shape_bind("*-", &seven, false, &sizes, fields, NULL));
    lk_sizes_clear(&sizes);
    assert_true(bind("*", number)); /* which has no axis to leave out */
    lk_tensor made;
    assert_false(bind("*-", number));
    assert_false(lk_shape_bind("*-", &one, false, &sizes, fields, NULL));
    assert_false(lk_shape_make("*-", &sizes, fields, &(axes){-1}, &made));
}

/* "~ *": what broadcasts. */
static void test_spread(void **state)
{
    (void)state;
    const struct {
        lk_tensor shape;
        int misfit; /* the axis; as the rank: none */
    } cases[] = {
        {{NULL, LK_F32, 0, {0}}, 0},
        {SHAPE(1), 1},
        {SHAPE(5), 1},
        {SHAPE(4), 0},
        {SHAPE(3, 5), 2},
        {SHAPE(3, 1), 2},
        {SHAPE(1, 5), 2},
        {SHAPE(5, 3), 0},
        {SHAPE(3, 3), 1},
        {SHAPE(2, 3, 5), 3},
        {SHAPE(1, 1, 1), 3},
        {SHAPE(2, 1, 5), 3},
        {SHAPE(3, 3, 5), 0},
        {SHAPE(1, 2, 3, 5), 0},
        {SHAPE(0), 0},
    };
    lk_tensor to;
    lk_sizes_clear(&sizes);
    assert_false(bind("~ *", SHAPE(1))); /* nothing is bound */
    assert_int_equal(lk_shape_misfit("*", &cases[1].shape, &sizes, fields, NULL, &to), -1);
    assert_true(bind("*", SHAPE(2, 3, 5)));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const lk_tensor *t = &cases[i].shape;
        assert_int_equal(bind("~ *", *t), cases[i].misfit == t->rank);
        assert_int_equal(lk_shape_misfit("~ *", t, &sizes, fields, NULL, &to), cases[i].misfit);
        assert_int_equal(lk_shape_rank("~ *", t->rank, &sizes), t->rank < 4);
    }
    assert_makes(-1, "*", "[2,3,5]"); /* it binds nothing */
    lk_sizes_clear(&sizes);
    assert_true(bind("*", SHAPE(0, 3)));
    assert_true(bind("~ *", SHAPE(1, 3)));
    assert_false(bind("~ *", SHAPE(2, 3)));
    lk_sizes_clear(&sizes);
    assert_true(bind("*", number));
    assert_true(bind("~ *", number));
    assert_false(bind("~ *", SHAPE(1)));
    const lk_tensor one = SHAPE(1);
    assert_true(lk_shape_bind("~ *", &one, false, &sizes, fields, NULL));
}

static void test_texts(void **state)
{
    (void)state;
    char text[LK_SHAPE_TEXT];
    lk_tensor t = SHAPE(2, 5);
    assert_string_equal(lk_shape_text(&t, text), "[2,5]");
    assert_string_equal(lk_shape_text(&number, text), "[]");
    t.rank = 9;
    assert_string_equal(lk_shape_text(&t, text), "of rank 9");
    t = SHAPE(1, 1, 1, 1, 1, 1, 1, 1);
    for (int i = 0; i < LK_MAX_RANK; i++)
        t.shape[i] = INT64_MAX;
    assert_true(strlen(lk_shape_text(&t, text)) < LK_SHAPE_TEXT);

    lk_sizes_clear(&sizes);
    assert_string_equal(lk_pattern_text("* C@class_dim", &sizes, text), "[*,C]");
    assert_string_equal(lk_pattern_text("", &sizes, text), "[]");
    assert_string_equal(lk_pattern_text("*", &sizes, text), "[*]");
    assert_string_equal(lk_pattern_text("*-", &sizes, text), "[*]");
    sizes.lead_rank = 0;
    assert_string_equal(lk_pattern_text("*-", &sizes, text),
                        "left out, since there is no last axis");
    lk_sizes_clear(&sizes);
    assert_true(bind("* C", SHAPE(2, 3, 5)));
    assert_string_equal(lk_pattern_text("* C D", &sizes, text), "[2,3,5,D]");
    assert_string_equal(lk_pattern_text("*-", &sizes, text), "[2]");
    for (int i = 0; i < 26; i++)
        sizes.size[i] = INT64_MAX;
    sizes.lead_rank = LK_MAX_RANK;
    for (int i = 0; i < LK_MAX_RANK; i++)
        sizes.lead[i] = INT64_MAX;
    assert_true(strlen(lk_pattern_text("* A B C", &sizes, text)) < LK_SHAPE_TEXT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_letters), cmocka_unit_test(test_failure_binds_nothing),
        cmocka_unit_test(test_star),    cmocka_unit_test(test_option_axis),
        cmocka_unit_test(test_packed),  cmocka_unit_test(test_one_number),
        cmocka_unit_test(test_ranks),   cmocka_unit_test(test_cut),
        cmocka_unit_test(test_spread),  cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
