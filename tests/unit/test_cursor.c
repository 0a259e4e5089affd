/* SPDX-License-Identifier: MIT
 *
 * Cursors: they never read out of bounds, and a failed cursor stays failed.
 */
#include "tests/help.h"

#include "cursor.h"

static void takes(void **unused)
{
    (void)unused;
    char *body = exactly("abcdef", 6);
    cursor c = cursor_new((span){body, 6});
    assert_int_equal(cursor_left(&c), 6);
    assert_int_equal(cursor_peek(&c), 'a');
    span s = cursor_take(&c, 2);
    assert_true(span_is(s, "ab"));
    s = cursor_take(&c, 0);
    assert_int_equal(s.size, 0);
    s = cursor_take(&c, 4);
    assert_true(span_is(s, "cdef"));
    assert_int_equal(cursor_left(&c), 0);
    assert_int_equal(cursor_peek(&c), '\0');
    s = cursor_take(&c, 0);
    assert_false(c.failed);
    s = cursor_take(&c, 1);
    assert_true(c.failed);
    assert_int_equal(s.size, 0);
    free(body);
}

static void failure_stays(void **unused)
{
    (void)unused;
    char *body = exactly("  abcdefgh", 10);
    cursor c = cursor_new((span){body, 10});
    (void)cursor_take(&c, SIZE_MAX);
    assert_true(c.failed);
    assert_int_equal(cursor_left(&c), 0);
    assert_int_equal(cursor_peek(&c), '\0');
    assert_int_equal(cursor_take(&c, 1).size, 0);
    assert_int_equal(cursor_u64(&c), 0);
    assert_false(cursor_accept(&c, ' '));
    cursor_space(&c);
    assert_ptr_equal(c.p, body);
    free(body);
}

static void numbers(void **unused)
{
    (void)unused;
    char *body = exactly("\x01\x02\x03\x04\x05\x06\x07\xf8\xff", 9);
    cursor c = cursor_new((span){body, 9});
    assert_true(cursor_u64(&c) == 0xf807060504030201u);
    assert_int_equal(cursor_u64(&c), 0);
    assert_true(c.failed);
    free(body);
}

static void hexadecimal(void **unused)
{
    (void)unused;
    cursor c = cursor_new((span){"00fFAb09", 8});
    assert_int_equal(cursor_hex(&c, 4), 0xff);
    assert_int_equal(cursor_hex(&c, 3), 0xab0);
    assert_int_equal(cursor_hex(&c, 2), -1); /* there is one */
    assert_true(c.failed);
    for (const char *bad = "/:@G`g-+ "; *bad != '\0'; bad++) {
        const char text[] = {'1', *bad};
        c = cursor_new((span){text, sizeof text});
        assert_int_equal(cursor_hex(&c, 2), -1);
        assert_true(c.failed);
    }
}

static void accepts(void **unused)
{
    (void)unused;
    char *body = exactly(" \t\r\n{\v}  ", 9);
    cursor c = cursor_new((span){body, 9});
    assert_false(cursor_accept(&c, '['));
    assert_true(cursor_accept(&c, '{'));
    assert_false(cursor_accept(&c, '}')); /* a vertical tab is no white space of JSON */
    (void)cursor_take(&c, 1);
    assert_true(cursor_accept(&c, '}'));
    assert_false(cursor_accept(&c, '\0'));
    assert_int_equal(cursor_left(&c), 0);
    assert_false(c.failed);
    free(body);
}

static void empty(void **unused)
{
    (void)unused;
    cursor c = cursor_new((span){NULL, 0});
    assert_int_equal(cursor_left(&c), 0);
    cursor_space(&c);
    assert_false(cursor_accept(&c, '{'));
    assert_false(c.failed);
    assert_int_equal(cursor_take(&c, 1).size, 0);
    assert_true(c.failed);
}

static void spans(void **unused)
{
    (void)unused;
    assert_true(span_is((span){"abc", 3}, "abc"));
    assert_false(span_is((span){"abc", 2}, "abc"));
    assert_false(span_is((span){"abcd", 4}, "abc"));
    assert_true(span_is((span){"", 0}, ""));
    assert_false(span_is((span){"a\0c", 3}, "a"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes),       cmocka_unit_test(failure_stays), cmocka_unit_test(numbers),
        cmocka_unit_test(hexadecimal), cmocka_unit_test(accepts),       cmocka_unit_test(empty),
        cmocka_unit_test(spans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
