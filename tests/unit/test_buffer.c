/* SPDX-License-Identifier: MIT
 *
 * Buffers: the maximum size is exact, a failed buffer stays failed, and strings are written as
 * valid JSON whatever they contain.
 */
#include "tests/help.h"

#include <jansson.h>

#include "buffer.h"

static void appends(void **unused)
{
    (void)unused;
    buffer b = buffer_new(100000);
    bytes all = {0};
    put(&all, "", 0);
    for (int i = 0; i < 500; i++) {
        char piece[64];
        size_t n = (size_t)random_below(64);
        memset(piece, 'a' + i % 26, sizeof piece);
        buffer_append(&b, piece, n);
        put(&all, piece, n);
        buffer_printf(&b, "%d,", i);
        say(&all, "%d,", i);
        buffer_text(&b, "");
        assert_true(b.capacity <= b.max && b.size <= b.capacity);
    }
    assert_false(b.failed);
    assert_int_equal(b.size, all.size);
    assert_memory_equal(b.data, all.data, all.size);
    free(all.data);
    buffer_free(&b);
    assert_null(b.data);
    assert_int_equal(b.size, 0);
    assert_int_equal(b.max, 100000);
    buffer_text(&b, "again");
    assert_int_equal(b.size, 5);
    buffer_free(&b);
    buffer_free(&b);
}

static void maximum(void **unused)
{
    (void)unused;
    buffer b = buffer_new(10);
    buffer_append(&b, "0123456789", 10);
    assert_false(b.failed);
    assert_int_equal(b.size, 10);
    buffer_append(&b, "", 0);
    assert_false(b.failed);
    buffer_append(&b, "x", 1);
    assert_true(b.failed);
    assert_int_equal(b.size, 10);
    buffer_free(&b);
    assert_false(b.failed);

    b = buffer_new(10);
    buffer_text(&b, "01234567");
    buffer_text(&b, "89a");
    assert_true(b.failed);
    buffer_text(&b, "x"); /* would fit, but what was to come before it is missing */
    assert_int_equal(b.size, 8);
    assert_memory_equal(b.data, "01234567", 8);
    buffer_free(&b);

    b = buffer_new(0);
    buffer_append(&b, NULL, 0);
    assert_false(b.failed);
    buffer_json_string(&b, "");
    assert_true(b.failed);
    buffer_free(&b);

    b = buffer_new(SIZE_MAX);
    buffer_text(&b, "abc");
    assert_false(buffer_reserve(&b, SIZE_MAX));
    assert_false(buffer_reserve(&b, 0));
    assert_true(b.failed);
    buffer_free(&b);
}

static void reserve(void **unused)
{
    (void)unused;
    buffer b = buffer_new(1 << 20);
    assert_true(buffer_reserve(&b, 1 << 20));
    assert_int_equal(b.capacity, 1 << 20);
    assert_int_equal(b.size, 0);
    memset(b.data, 'x', b.capacity);
    assert_false(buffer_reserve(&b, (1 << 20) + 1));
    buffer_free(&b);
    b = buffer_new(1000);
    for (int i = 0; i < 100; i++)
        buffer_printf(&b, "%s", "123456789");
    assert_false(b.failed);
    assert_int_equal(b.size, 900);
    buffer_free(&b);
}

static void check_string(const char *text, const char *want)
{
    buffer b = buffer_new(4096);
    char *copy = exactly(text, strlen(text) + 1);
    buffer_json_string(&b, copy);
    assert_false(b.failed);
    if (b.size != strlen(want) || memcmp(b.data, want, b.size) != 0)
        fail_msg("%.*s, not %s", (int)b.size, b.data, want);
    free(copy);
    buffer_free(&b);
}

static void strings(void **unused)
{
    (void)unused;
    check_string("", "\"\"");
    check_string("plain", "\"plain\"");
    check_string("a\"b\\c/d", "\"a\\\"b\\\\c/d\"");
    check_string("\n\r\t\b\f\x01\x1f\x7f",
                 "\"\\u000a\\u000d\\u0009\\u0008\\u000c\\u0001\\u001f\\u007f\"");
    check_string("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
                 "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
    /* Characters that a terminal or a line reader takes for control characters or line ends. */
    check_string("\xc2\x80\xc2\x85\xc2\x9b\xc2\x9f\xc2\xa0",
                 "\"\\u0080\\u0085\\u009b\\u009f\xc2\xa0\"");
    check_string("\xe2\x80\xa7\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa",
                 "\"\xe2\x80\xa7\\u2028\\u2029\xe2\x80\xaa\"");
#define BAD "\xef\xbf\xbd"
    check_string("\x80", "\"" BAD "\"");
    check_string("\xff\xfe", "\"" BAD BAD "\"");
    check_string("\xc3", "\"" BAD "\"");
    check_string("\xc3(", "\"" BAD "(\"");
    check_string("\xe2\x82", "\"" BAD BAD "\"");
    check_string("\xf0\x9f\x98", "\"" BAD BAD BAD "\"");
    check_string("\xf0", "\"" BAD "\"");
    check_string("\xc0\xaf", "\"" BAD BAD "\"");                 /* overlong */
    check_string("\xe0\x80\xaf", "\"" BAD BAD BAD "\"");         /* overlong */
    check_string("\xed\xa0\x80", "\"" BAD BAD BAD "\"");         /* a surrogate */
    check_string("\xf4\x90\x80\x80", "\"" BAD BAD BAD BAD "\""); /* beyond U+10FFFF */
    check_string("\xf4\x8f\xbf\xbf", "\"\xf4\x8f\xbf\xbf\"");
}

/* Whatever the bytes, a JSON parser accepts the string, and reads valid UTF-8 unchanged. */
static void any_string(void **unused)
{
    (void)unused;
    for (int round = 0; round < 20000; round++) {
        char text[17];
        int n = random_below(17);
        for (int i = 0; i < n; i++)
            text[i] = (char)(1 + random_below(255));
        text[n] = '\0';
        buffer b = buffer_new(4096);
        json_error_t error;
        buffer_json_string(&b, text);
        json_t *value = json_loadb(b.data, b.size, JSON_DECODE_ANY, &error);
        if (!value)
            fail_msg("%.*s: %s", (int)b.size, b.data, error.text);
        json_t *same = json_string(text);
        if (same)
            assert_true(json_equal(same, value));
        json_decref(same);
        json_decref(value);
        buffer_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends), cmocka_unit_test(maximum),    cmocka_unit_test(reserve),
        cmocka_unit_test(strings), cmocka_unit_test(any_string),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
