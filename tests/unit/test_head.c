/* SPDX-License-Identifier: MIT
 *
 * Request heads: what the guard accepts, how targets are split, which request ids and trace headers
 * are used.
 */
#include "tests/help.h"

#include "http/head.h"

static span text(const char *s)
{
    return (span){s, strlen(s)};
}

/* Pairs of name and value, ended by NULL. */
static const char *verdict(const char *version, const char *const *headers, int64_t *length)
{
    static problem p;
    guard g = {0};
    p = (problem){0};
    for (; headers[0]; headers += 2) {
        /* In memory of exactly their size, so that a sanitizer detects reads beyond the end. */
        char *name = exactly(headers[0], strlen(headers[0]));
        char *value = exactly(headers[1], strlen(headers[1]));
        const span its =
            guard_header(&g, (span){name, strlen(headers[0])}, (span){value, strlen(headers[1])});
        assert_ptr_equal(its.data, value);
        assert_true(its.size == 0 || !strchr(" \t", value[its.size - 1]));
        assert_int_equal(strspn(headers[1] + its.size, " \t"), strlen(headers[1]) - its.size);
        free(name);
        free(value);
    }
    *length = g.length;
    assert_true(guard_passes(&g, version, &p) == (p.status == 0));
    assert_true(p.status == 0 || p.status == 400);
    return p.status ? p.detail : NULL;
}

static void passes(const char *version, int64_t want, const char *const *headers)
{
    int64_t length;
    const char *why = verdict(version, headers, &length);
    if (why || length != want)
        fail_msg("%s: %s: %s, length %lld", headers[0] ? headers[0] : "none",
                 headers[0] ? headers[1] : "", why ? why : "passed", (long long)length);
}

static void refused(const char *version, const char *must_say, const char *const *headers)
{
    int64_t length;
    const char *why = verdict(version, headers, &length);
    if (!why || !strstr(why, must_say))
        fail_msg("%s: %s: \"%s\" does not say \"%s\"", headers[0] ? headers[0] : "none",
                 headers[0] ? headers[1] : "", why ? why : "passed", must_say);
}

#define H(...)                                                                                     \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static void guards(void **unused)
{
    (void)unused;
    passes("HTTP/1.1", 0, H("Host", "a"));
    passes("HTTP/1.0", 0, H("X", "y"));
    for (const char *const *good = H("", "a.example:80", "[::1]:8080", "127.0.0.1", "a_b~c%41");
         *good; good++)
        passes("HTTP/1.1", 0, H("Host", *good));
    for (const char *const *bad = H("a b", "a/b", "a@b", "a\tb", "a?b", "\xc3\xbc", "a\"", "a,b c");
         *bad; bad++)
        refused("HTTP/1.1", "Host must be", H("Host", *bad));
    passes("HTTP/1.1", 0, H("Host", "a \t ", "X", " \t", "Y", "a b "));
    passes("HTTP/1.1", 12, H("hOST", "a", "content-LENGTH", "12"));
    passes("HTTP/1.1", 999999999999999999, H("Host", "a", "Content-Length", "999999999999999999"));
    passes("HTTP/1.1", -1, H("Host", "a", "Transfer-Encoding", "Chunked"));
    passes("HTTP/1.1", 0, H("Host", "a", "X", "tab\there \xc3\xbc"));
    for (const char *const *bad =
             H("", "-1", "+1", "1 2", "1 ", "0x1", "1,1", "1e1", "9999999999999999999");
         *bad; bad++)
        refused("HTTP/1.1", "18 digits", H("Host", "a", "Content-Length", *bad));
    for (const char *const *bad =
             H("", "gzip", "chunked, chunked", "chunked ", "identity", "xchunked", "chunked\v");
         *bad; bad++)
        refused("HTTP/1.1", "must be chunked", H("Host", "a", "Transfer-Encoding", *bad));
    refused("HTTP/1.1", "more than once",
            H("Host", "a", "Content-Length", "1", "Content-Length", "1"));
    refused("HTTP/1.1", "more than once",
            H("Host", "a", "Transfer-Encoding", "chunked", "Transfer-Encoding", "chunked"));
    refused("HTTP/1.1", "exclude",
            H("Host", "a", "Transfer-Encoding", "chunked", "Content-Length", "1"));
    refused("HTTP/1.1", "exclude",
            H("Host", "a", "Content-Length", "1", "Transfer-Encoding", "chunked"));
    refused("HTTP/1.0", "needs HTTP/1.1", H("Transfer-Encoding", "chunked"));
    refused("HTTP/1.1", "Host", H("X", "y"));
    refused("HTTP/1.1", "Host", H("Host", "a", "Host", "a"));
    refused("HTTP/1.0", "Host", H("Host", "a", "Host", "b"));
    refused("HTTP/1.2", "Host", H("X", "y"));
    for (const char *const *bad = H("", "a b", "a:", "a\t", "a\x01", "\xc3\xbc", "(a)"); *bad;
         bad++)
        refused("HTTP/1.1", "not a token", H("Host", "a", *bad, "y"));
    for (const char *const *bad = H("\x01", "a\rb", "a\nb", "\x7f", "a\x1f"); *bad; bad++)
        refused("HTTP/1.1", "control character", H("Host", "a", "X", *bad));
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
        cmocka_unit_test(guards),
        cmocka_unit_test(targets),
        cmocka_unit_test(tokens),
        cmocka_unit_test(traces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
