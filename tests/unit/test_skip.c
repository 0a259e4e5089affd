/* SPDX-License-Identifier: MIT
 *
 * What is passed over is JSON, all of it and nothing else: beside jansson, and where jansson has
 * limits of its own.
 */
#include "tests/help.h"

#include "wire/skip.h"

#include <jansson.h>

static bool skips(const char *text, size_t size)
{
    char *copy = exactly(text, size);
    const bool is = skip_value((span){copy, size});
    assert_memory_equal(copy, text, size); /* it may be mapped read-only, or compared later */
    free(copy);
    return is;
}

static void examples(void **unused)
{
    (void)unused;
    static const char *const good[] = {"0",
                                       "-0",
                                       "12.50e+03",
                                       "1E-9",
                                       "1e999",
                                       "-123456789012345678901234567890",
                                       "\"\"",
                                       "\"\\u0000\\ud800 \\\"\xc3\xa9\"",
                                       "true",
                                       "false",
                                       "null",
                                       " [ ] ",
                                       "{}",
                                       "{ \"\" : {} }",
                                       "[[],[[]],{\"a\":[{}]},1]",
                                       "{\"a\":1,\"a\":{\"a\":2}}",
                                       "\t\n\r [1 , 2]\n",
                                       "[\"]\",\"}\"]"};
    static const char *const bad[] = {"",
                                      " ",
                                      "01",
                                      "+1",
                                      "1.",
                                      ".5",
                                      "-",
                                      "1e",
                                      "1e+",
                                      "0x1",
                                      "NaN",
                                      "Infinity",
                                      "-Infinity",
                                      "nul",
                                      "truefalse",
                                      "True",
                                      "\"",
                                      "\"\\x\"",
                                      "\"\\u12\"",
                                      "\"\x1f\"",
                                      "\"\n\"",
                                      "\"\xff\"",
                                      "\"\xed\xa0\x80\"",
                                      "'a'",
                                      "[",
                                      "]",
                                      "[}",
                                      "{]",
                                      "[1",
                                      "[1,",
                                      "[1,]",
                                      "[,1]",
                                      "[1 2]",
                                      "[1]]",
                                      "{",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{\"a\":1,}",
                                      "{,}",
                                      "{1:2}",
                                      "{\"a\" 1}",
                                      "{\"a\":1 \"b\":2}",
                                      "{\"a\":[}]",
                                      "1 2",
                                      "[] []",
                                      "\f1",
                                      "\xef\xbb\xbf"
                                      "1",
                                      "/**/1",
                                      "[1]x"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!skips(good[i], strlen(good[i])))
            fail_msg("%s is JSON", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (skips(bad[i], strlen(bad[i])))
            fail_msg("%s is not JSON", bad[i]);
    assert_false(skips("1\0", 2));
    assert_false(skips("[\0]", 3));
}

/* Pieces put together: mostly not JSON, often enough it is. */
static void say_value(bytes *b, int depth)
{
    static const char *const plain[] = {"0",    "-1.5e3", "true",         "false",
                                        "null", "\"a\"",  "\"\\u00e9[\"", "\"\""};
    const bool object = chance(0.5);
    if (depth == 0 || chance(0.4)) {
        say(b, "%s", plain[random_below(sizeof plain / sizeof *plain)]);
        return;
    }
    say(b, object ? "{" : "[");
    for (int n = random_below(4), i = 0; i < n; i++) {
        say(b, "%s", i == 0 ? "" : chance(0.2) ? " , " : ",");
        if (object)
            say(b, "\"k%d\":%s", i, chance(0.2) ? " " : "");
        say_value(b, depth - 1);
    }
    say(b, object ? "}" : "]");
}

static void beside_jansson(void **unused)
{
    (void)unused;
    static const char marks[] = "[]{},:\"\\ 01e.-tfn\x80";
    int good = 0, bad = 0;
    for (int round = 0; round < 100000; round++) {
        bytes text = {0};
        say_value(&text, 4);
        for (int n = random_below(3); n > 0; n--)
            text.data[random_below((int)text.size)] = marks[random_below(sizeof marks - 1)];
        json_error_t error;
        json_t *tree =
            json_loadb(text.data, text.size,
                       JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &error);
        const bool is = tree || json_error_code(&error) == json_error_numeric_overflow;
        if (skips(text.data, text.size) != is)
            fail_msg("%.*s: %s", (int)text.size, text.data, is ? "JSON" : error.text);
        good += is;
        bad += !is;
        json_decref(tree);
        free(text.data);
    }
    assert_true(good > 20000 && bad > 20000);
}

/* As deep as a body can be, in either kind and in both by turns. */
static void deep(void **unused)
{
    (void)unused;
    enum { DEPTH = 1000000 };
    for (int kind = 0; kind < 3; kind++) {
        bytes text = {0};
        for (int i = 0; i < DEPTH; i++)
            put(&text, kind == 0 || (kind == 2 && i % 3) ? "[" : "{\"\":",
                kind == 0 || (kind == 2 && i % 3) ? 1 : 4);
        put(&text, "1", 1);
        for (int i = DEPTH; i-- > 0;)
            put(&text, kind == 0 || (kind == 2 && i % 3) ? "]" : "}", 1);
        assert_true(skips(text.data, text.size));
        assert_false(skips(text.data, text.size - 1));
        char *close = &text.data[text.size - DEPTH / 2];
        *close = *close == ']' ? '}' : ']';
        assert_false(skips(text.data, text.size));
        free(text.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples),
        cmocka_unit_test(beside_jansson),
        cmocka_unit_test(deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
