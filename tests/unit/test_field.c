/* SPDX-License-Identifier: MIT
 *
 * Option tables: defaults, the text form of every type, ranges.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "internal.h"

typedef struct options {
    double real, maybe, open, bounded, inner, below;
    int64_t integer, count;
    uint64_t size;
    bool flag;
    int choice;
    lk_list list, several;
} options;

enum {
    REAL,
    MAYBE,
    OPEN,
    BOUNDED,
    INNER,
    BELOW,
    INTEGER,
    COUNT,
    SIZE,
    FLAG,
    CHOICE,
    LIST,
    SEVERAL
};

static const lk_field fields[] = {
    [REAL] = LK_FIELD(options, real, "1.5", 0, 0, 0, ""),
    [MAYBE] =
        LK_FIELD(options, maybe, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY, ""),
    [OPEN] = LK_FIELD(options, open, "1", LK_RANGED | LK_OPEN, 0, 2, ""),
    [BOUNDED] = LK_FIELD(options, bounded, NULL, LK_RANGED, 0, 1, ""),
    [INNER] = LK_FIELD(options, inner, "0.5", LK_RANGED | LK_OPEN | LK_OPEN_END, 0, 1, ""),
    [BELOW] =
        LK_FIELD(options, below, "off", LK_OFF | LK_RANGED | LK_OPEN_END, -(double)INFINITY, 0, ""),
    [INTEGER] = LK_FIELD(options, integer, "-100", 0, 0, 0, ""),
    [COUNT] = LK_FIELD(options, count, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY, ""),
    [SIZE] = LK_FIELD(options, size, "7", LK_RANGED, 2, 9, ""),
    [FLAG] = LK_FIELD(options, flag, "true", 0, 0, 0, ""),
    [CHOICE] = LK_WORDS(options, choice, "mean", "none|sum|mean", ""),
    [LIST] = {.name = "list",
              .type = LK_LIST,
              .offset = offsetof(options, list),
              .fallback = "101,102",
              .help = ""},
    [SEVERAL] = LK_SEVERAL(options, several, "sum", "none|sum|mean", ""),
    {0},
};

static options o;

/* Parse, then check the range. */
static lk_status set(int field, const char *text)
{
    lk_error error = {0};
    lk_status status = lk_field_parse(&fields[field], &o, text, &error);
    if (status == LK_OK)
        status = lk_field_check(&fields[field], &o, &error);
    assert_int_equal(error.status, status);
    assert_true(status == LK_OK || strstr(error.text, fields[field].name) == error.text);
    assert_true((lk_field_parse(&fields[field], &o, text, NULL) == LK_OK) ==
                (status != LK_OPTION_INVALID));
    return status;
}

static void test_defaults(void **state)
{
    (void)state;
    o = (options){0};
    lk_fields_default(fields, &o);
    assert_true(o.real == 1.5 && isnan(o.maybe) && o.open == 1 && o.bounded == 0);
    assert_true(o.integer == -100 && o.count == INT64_MIN && o.size == 7);
    assert_true(o.flag && o.choice == 2);
    assert_true(o.list.count == 2 && o.list.value[0] == 101 && o.list.value[1] == 102);
    for (int i = 0; fields[i].name; i++) {
        assert_ptr_equal(lk_field_find(fields, fields[i].name), &fields[i]);
        assert_int_equal(lk_field_check(&fields[i], &o, NULL), LK_OK);
    }
    assert_null(lk_field_find(fields, "rea"));
    assert_null(lk_field_find(fields, ""));
}

static void test_reals(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    " 1",  "1 ",  "0x1p3", "nan", "inf",      "-inf",
                                      "1,5", "1e",  ".",   "-",     "+-1", "1.2.3",    "1e400",
                                      "one", "off", "1_0", "1e5e5", "--1", "infinity", "1\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(set(REAL, bad[i]), LK_OPTION_INVALID);
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0},     {"-0.1", -0.1},   {"1e-3", 1e-3},        {"+2", 2},
                {".5", 0.5},  {"5.", 5},        {"1E3", 1000},         {"1e-400", 0},
                {"0.1", 0.1}, {"1e308", 1e308}, {"4.9e-324", 4.9e-324}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(set(REAL, good[i].text), LK_OK);
        assert_true(o.real == good[i].value);
    }
}

static void test_ranges(void **state)
{
    (void)state;
    assert_int_equal(set(MAYBE, "off"), LK_OK);
    assert_true(isnan(o.maybe));
    assert_int_equal(set(MAYBE, "0"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(MAYBE, "-0"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(MAYBE, "4.9e-324"), LK_OK);
    assert_int_equal(set(MAYBE, "1e308"), LK_OK);
    assert_int_equal(set(OPEN, "0"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(OPEN, "2"), LK_OK); /* only min is open */
    assert_int_equal(set(OPEN, "2.0000000000000005"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(OPEN, "off"), LK_OPTION_INVALID);
    assert_int_equal(set(BOUNDED, "0"), LK_OK);
    assert_int_equal(set(BOUNDED, "1"), LK_OK);
    assert_int_equal(set(BOUNDED, "-4.9e-324"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(BOUNDED, "1.0000000000000003"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(INNER, "0"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(INNER, "4.9e-324"), LK_OK);
    assert_int_equal(set(INNER, "0.99999999999999989"), LK_OK);
    assert_int_equal(set(INNER, "1"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(BELOW, "off"), LK_OK);
    assert_int_equal(set(BELOW, "-1e308"), LK_OK);
    assert_int_equal(set(BELOW, "-4.9e-324"), LK_OK);
    assert_int_equal(set(BELOW, "-0"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(BELOW, "1"), LK_OPTION_OUT_OF_RANGE);
}

static void says(int field, const char *text, const char *sentence)
{
    lk_error error = {0};
    assert_int_equal(lk_field_parse(&fields[field], &o, text, &error), LK_OK);
    assert_int_equal(lk_field_check(&fields[field], &o, &error), LK_OPTION_OUT_OF_RANGE);
    assert_string_equal(error.text, sentence);
}

static void test_range_texts(void **state)
{
    (void)state;
    says(MAYBE, "0", "maybe is 0; it must be > 0");
    says(COUNT, "0", "count is 0; it must be >= 1");
    says(BELOW, "0", "below is 0; it must be < 0");
    says(OPEN, "3", "open is 3; it must be in (0, 2]");
    says(BOUNDED, "3", "bounded is 3; it must be in [0, 1]");
    says(INNER, "1", "inner is 1; it must be in (0, 1)");
}

static void test_integers(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "1.0",
                                      "1e3",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x10",
                                      "off",
                                      "-",
                                      "9223372036854775808",
                                      "-9223372036854775809"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(set(INTEGER, bad[i]), LK_OPTION_INVALID);
    assert_int_equal(set(INTEGER, "9223372036854775807"), LK_OK);
    assert_true(o.integer == INT64_MAX);
    assert_int_equal(set(INTEGER, "-9223372036854775808"), LK_OK);
    assert_true(o.integer == INT64_MIN);
    assert_int_equal(set(INTEGER, "-0"), LK_OK);
    assert_int_equal(set(INTEGER, "010"), LK_OK);
    assert_true(o.integer == 10);

    assert_int_equal(set(COUNT, "0"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(COUNT, "-1"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(COUNT, "1"), LK_OK);
    assert_int_equal(set(COUNT, "9223372036854775807"), LK_OK);
    /* This is the stored form of off, and must not be accepted as a value. */
    assert_int_not_equal(set(COUNT, "-9223372036854775808"), LK_OK);
    assert_int_equal(set(COUNT, "off"), LK_OK);
    assert_true(o.count == INT64_MIN);
}

static void test_unsigned(void **state)
{
    (void)state;
    assert_int_equal(set(SIZE, "1"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(SIZE, "10"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(SIZE, "18446744073709551615"), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(set(SIZE, "18446744073709551616"), LK_OPTION_INVALID);
    assert_int_equal(set(SIZE, "-1"), LK_OPTION_INVALID);
    assert_int_equal(set(SIZE, "+3"), LK_OPTION_INVALID);
    assert_int_equal(set(SIZE, "3.0"), LK_OPTION_INVALID);
    assert_int_equal(set(SIZE, ""), LK_OPTION_INVALID);
    assert_int_equal(set(SIZE, "9"), LK_OK);
    assert_true(o.size == 9);
}

static void test_words(void **state)
{
    (void)state;
    assert_int_equal(set(FLAG, "false"), LK_OK);
    assert_false(o.flag);
    assert_int_equal(set(FLAG, "true"), LK_OK);
    assert_true(o.flag);
    assert_int_equal(set(FLAG, "1"), LK_OPTION_INVALID);
    assert_int_equal(set(FLAG, "True"), LK_OPTION_INVALID);
    assert_int_equal(set(FLAG, ""), LK_OPTION_INVALID);
    static const char *const bad[] = {"", "me", "mean ", "Mean", "none|sum", "|", "meann"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(set(CHOICE, bad[i]), LK_OPTION_INVALID);
    assert_int_equal(set(CHOICE, "none"), LK_OK);
    assert_int_equal(o.choice, 0);
    assert_int_equal(set(CHOICE, "sum"), LK_OK);
    assert_int_equal(o.choice, 1);
    assert_int_equal(set(CHOICE, "mean"), LK_OK);
    assert_int_equal(o.choice, 2);
}

static void test_lists(void **state)
{
    (void)state;
    static const char *const bad[] = {
        ",", "1,", ",1", "1,,2", "1, 2", "a", "1.5", "-", "+1", "9223372036854775808", "1;2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(set(LIST, bad[i]), LK_OPTION_INVALID);
    assert_int_equal(set(LIST, "-1,0,9223372036854775807"), LK_OK);
    assert_true(o.list.count == 3 && o.list.value[0] == -1 && o.list.value[2] == INT64_MAX);
    assert_int_equal(set(LIST, ""), LK_OK);
    assert_int_equal(o.list.count, 0);
    assert_int_equal(set(LIST, "off"), LK_OK);
    assert_int_equal(o.list.count, 0);
    char text[2 * LK_LIST_MAX + 3] = "";
    for (int i = 0; i < LK_LIST_MAX; i++)
        memcpy(text + 2 * i, i ? ",1" : " 1", 2);
    assert_int_equal(set(LIST, text + 1), LK_OK);
    assert_int_equal(o.list.count, LK_LIST_MAX);
    memcpy(text + 2 * LK_LIST_MAX, ",1", 3);
    assert_int_equal(set(LIST, text + 1), LK_OPTION_INVALID);
}

static void test_several(void **state)
{
    (void)state;
    static const char *const bad[] = {"",     ",",       "sum,", ",sum",    "sum, mean",
                                      "sums", "sum,sum", "off",  "none|sum"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(set(SEVERAL, bad[i]), LK_OPTION_INVALID);
    assert_int_equal(set(SEVERAL, "mean"), LK_OK);
    assert_true(o.several.count == 1 && o.several.value[0] == 2);
    assert_int_equal(set(SEVERAL, "mean,none,sum"), LK_OK);
    assert_true(o.several.count == 3 && o.several.value[1] == 0 && o.several.value[2] == 1);
}

/* Long text is quoted only in part. */
static void test_long_text(void **state)
{
    (void)state;
    char text[1000];
    lk_error error;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(lk_field_parse(&fields[REAL], &o, text, &error), LK_OPTION_INVALID);
    assert_non_null(strstr(error.text, "xxx...\"; it must be"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_reals),
        cmocka_unit_test(test_ranges),   cmocka_unit_test(test_range_texts),
        cmocka_unit_test(test_integers), cmocka_unit_test(test_unsigned),
        cmocka_unit_test(test_words),    cmocka_unit_test(test_lists),
        cmocka_unit_test(test_several),  cmocka_unit_test(test_long_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
