/* SPDX-License-Identifier: MIT
 *
 * JSON text without a tree, beside jansson, which makes one.
 */
#include "tests/help.h"

#include "wire/walk.h"

#include <jansson.h>

/* One piece of what may stand in a string, often well-formed. */
static void say_piece(bytes *b)
{
    static const char *const pieces[] = {"a",
                                         "/",
                                         "\\/",
                                         "\\\"",
                                         "\\\\",
                                         "\\n",
                                         "\\b",
                                         "\\f",
                                         "\\r",
                                         "\\t",
                                         "\\u0041",
                                         "\\u00e9",
                                         "\\uFFff",
                                         "\\u20AC",
                                         "\\ud83d",
                                         "\\uDE00",
                                         "\\u0000",
                                         "\\u003d",
                                         "\\x",
                                         "\\u12",
                                         "\\u12g4",
                                         "\\",
                                         "\n",
                                         "\x7f",
                                         "\xc3\xa9",
                                         "\xe2\x82\xac",
                                         "\xf0\x9f\x98\x80",
                                         "\xc3",
                                         "\xed\xa0\x80",
                                         "\xff"};
    const size_t count = sizeof pieces / sizeof *pieces;
    const char *piece = pieces[random_below(chance(0.9) ? 18 : (int)count)];
    put(b, piece, strlen(piece));
}

/* Whatever jansson reads is read alike. It refuses a NUL and half a pair, which have other forms
 * here. */
static void strings(void **unused)
{
    (void)unused;
    int same = 0, refused = 0;
    for (int round = 0; round < 100000; round++) {
        bytes text = {0}, got = {0};
        put(&text, "\"", 1);
        for (int n = random_below(6); n > 0; n--)
            say_piece(&text);
        put(&text, "\"", 1);
        char *copy = exactly(text.data, text.size);
        cursor c = cursor_new((span){copy + 1, text.size - 2});
        bool good = true, other = false;
        while (good && cursor_left(&c)) {
            char bytes_of[4];
            const size_t size = walk_character(&c, bytes_of);
            good = size > 0;
            other = other || (size == 3 && memcmp(bytes_of, "\xef\xbf\xbd", 3) == 0);
            put(&got, bytes_of, size);
        }
        json_error_t error;
        json_t *tree = json_loadb(copy, text.size, JSON_DECODE_ANY, &error);
        if (tree) {
            assert_true(good && !other);
            assert_int_equal(json_string_length(tree), got.size);
            if (got.size > 0)
                assert_memory_equal(json_string_value(tree), got.data, got.size);
            same++;
        } else if (good && !other) {
            fail_msg("%.*s: %s", (int)text.size, text.data, error.text);
        } else {
            refused++;
        }
        json_decref(tree);
        free(copy);
        free(text.data);
        free(got.data);
    }
    assert_true(same > 20000 && refused > 20000);
}

/* Cut where a character begins, and then nowhere else. */
static void names(void **unused)
{
    (void)unused;
    char name[WALK_NAME], text[200], want[100];
    for (int plain = 0; plain < 70; plain++) {
        memset(want, 'a', (size_t)plain);
        strcpy(want + plain, "\xe2\x82\xac"
                             "b");
        snprintf(text, sizeof text, "\"%s\"", want);
        assert_true(walk_text((span){text, strlen(text)}, name));
        const int cut = plain + 4 < WALK_NAME   ? plain + 4
                        : plain + 3 < WALK_NAME ? plain + 3
                                                : plain;
        want[cut < WALK_NAME ? cut : WALK_NAME - 1] = '\0';
        assert_string_equal(name, want);
    }
    assert_true(walk_text((span){"\"a\\u0000b\"", 10}, name));
    assert_string_equal(name, "a\xef\xbf\xbd"
                              "b");
    for (const char *const *bad =
             (const char *const[]){"", "\"", "a", "\"a", "a\"", "\"\\u1\"", NULL};
         *bad; bad++)
        assert_false(walk_text((span){*bad, strlen(*bad)}, name));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
