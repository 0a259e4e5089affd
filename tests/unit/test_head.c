/* SPDX-License-Identifier: MIT
 *
 * The text of a request's head: which characters and words are valid, how targets are split, which
 * trace headers are used.
 */
#include "tests/help.h"

#include "http/head.h"

static span text(const char *s)
{
    return (span){s, strlen(s)};
}

static void values(void **unused)
{
    static const char *const cases[][2] = {
        {"", ""}, {" \t", ""}, {"a", "a"}, {"a b\t ", "a b"}, {" a\v", " a\v"}};
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *value = exactly(cases[i][0], strlen(cases[i][0]));
        const span its = head_trimmed((span){value, strlen(cases[i][0])});
        assert_ptr_equal(its.data, value);
        assert_int_equal(its.size, strlen(cases[i][1]));
        free(value);
    }
}

static void hosts(void **unused)
{
    (void)unused;
    for (int c = 0; c < 256; c++) {
        const bool word =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        const bool mark = c != 0 && strchr("-._~!$&'()*+,;=:%[]", c);
        assert_int_equal(head_is_host((char)c), word || mark);
    }
}

/* Segments separated by '|', then the query. */
static void splits(const char *path, const char *segments, const char *query)
{
    char *copy = exactly(path, strlen(path) + 1), got[256] = "";
    problem p = {0};
    target t;
    if (!target_split(copy, &t, &p))
        fail_msg("%s: %s", path, p.detail);
    for (int i = 0; i < t.segments; i++) {
        strcat(got, i ? "|" : "");
        strcat(got, t.segment[i]);
    }
    assert_string_equal(got, segments);
    assert_string_equal(t.query, query);
    free(copy);
}

static void splits_not(const char *path, int status)
{
    char *copy = exactly(path, strlen(path) + 1);
    problem p = {0};
    target t;
    if (target_split(copy, &t, &p) || p.status != status)
        fail_msg("%s: status %d", path, p.status);
    free(copy);
}

static void targets(void **unused)
{
    (void)unused;
    splits("/", "", "");
    splits("/v1/losses", "v1|losses", "");
    splits("/v1/losses/", "v1|losses|", "");
    splits("//v1", "|v1", "");
    splits("/%76%31?a=%20&b", "v1", "a=%20&b");
    splits("/a?b?c", "a", "b?c");
    splits("http://host:1/a/b", "a|b", "");
    splits("HTTPS://host/a?q", "a", "q");
    splits("http://host", "", "");
    splits("http://host?q", "", "q");
    splits("*", "", "");
    splits("/1/2/3/4/5/6/7/8", "1|2|3|4|5|6|7|8", "");
    splits_not("/1/2/3/4/5/6/7/8/9", 404);
    splits_not("", 400);
    splits_not("v1", 400);
    splits_not("*x", 400);
    splits_not("/a/../b", 400);
    splits_not("/a/%2e%2E", 400);
    splits_not("/.", 400);
    splits_not("/a%2fb", 400);
    splits_not("/a%00", 400);
    splits_not("/a%0a", 400);
    splits_not("/%7f", 400);
    splits_not("/%", 400);
    splits_not("/%4", 400);
    splits_not("/%zz", 400);
}

static void lists(void **unused)
{
    (void)unused;
    static const char *const with[] = {"upgrade", "Upgrade", " close,\tUPGRADE ", ",,upgrade,",
                                       "a, upgrade , b"};
    static const char *const without[] = {"",           ",",           "upgrades", "up, grade",
                                          "an upgrade", "upgrade;q=1", "upgrad"};
    for (size_t i = 0; i < sizeof with / sizeof *with; i++)
        assert_true(head_lists(text(with[i]), "upgrade"));
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        assert_false(head_lists(text(without[i]), "upgrade"));
    assert_false(head_lists((span){"upgrade", 6}, "upgrade"));
}

static void tokens(void **unused)
{
    (void)unused;
    assert_true(head_is_token(text("aZ09!#$%&'*+-.^_`|~")));
    assert_false(head_is_token(text("")));
    for (int c = 0; c < 256; c++) {
        const char one = (char)c;
        const bool word =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        const bool mark = c != 0 && strchr("!#$%&'*+-.^_`|~", c);
        assert_int_equal(head_is_token((span){&one, 1}), word || mark);
        assert_int_equal(head_is_tchar(one), word || mark);
    }
}

static void traces(void **unused)
{
    static const char good[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    (void)unused;
    assert_true(head_is_traceparent(good));
    assert_true(
        head_is_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later"));
    assert_false(
        head_is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later"));
    assert_false(head_is_traceparent("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    assert_false(head_is_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"));
    assert_false(head_is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"));
    for (size_t n = 0; n < sizeof good - 1; n++) {
        char *cut = exactly(good, n + 1), *changed = exactly(good, sizeof good);
        cut[n] = '\0';
        assert_false(head_is_traceparent(cut));
        changed[n] = 'G';
        assert_false(head_is_traceparent(changed));
        free(cut);
        free(changed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values), cmocka_unit_test(hosts),  cmocka_unit_test(targets),
        cmocka_unit_test(lists),  cmocka_unit_test(tokens), cmocka_unit_test(traces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
