/* SPDX-License-Identifier: MIT
 *
 * Message framing: what is passed on of requests and of what is none, however their bytes are cut.
 */
#include "tests/help.h"

#include "http/framing.h"

#define GET   "GET / HTTP/1.1\r\n"
#define POST  "POST /a HTTP/1.1\r\nHost:h\r\n"
#define CHUNK POST "Transfer-Encoding:chunked\r\n\r\n"

/* Pass one piece in place, as far from its output as it must be. */
static void pass_piece(framing *f, const char *piece, size_t size, bytes *got)
{
    const size_t gap = framing_gap(f);
    char *memory = must(malloc(gap + size + 1));
    memcpy(memory + gap, piece, size);
    const size_t wrote = framing_pass(f, memory + gap, size, memory);
    assert_true(wrote <= gap + size);
    put(got, memory, wrote);
    free(memory);
}

/* Pass a text in pieces that end at the cuts, and what makes a refused request complete. */
static framing pass(const char *text, size_t size, size_t cut, size_t step, bytes *got)
{
    framing f = {0};
    char rest[4];
    *got = (bytes){0};
    put(got, "", 0);
    for (size_t at = 0, next; at < size; at = next) {
        next = step ? at + step : at < cut ? cut : size;
        if (next > size)
            next = size;
        pass_piece(&f, text + at, next - at, got);
    }
    for (size_t n; f.status != 0 && (n = framing_finish(&f, rest, sizeof rest)) > 0;)
        put(got, rest, n);
    return f;
}

/* The text becomes `want`, in `requests` requests, and the last one is refused with `status` (0: it
 * is not), for a reason that says `why`; whole, cut anywhere, and byte by byte. */
static void check(const char *text, size_t size, const char *want, unsigned requests, int status,
                  const char *why)
{
    bytes got;
    for (size_t cut = 0; cut <= size; cut++) {
        const framing f = pass(text, size, cut, cut == 0, &got);
        if (f.status != status || f.requests != requests || strcmp(got.data, want) != 0 ||
            (status && !strstr(f.why, why)))
            fail_msg("%s\ncut at %zu: %u requests, status %d (%s):\n%s", text, cut, f.requests,
                     f.status, f.why ? f.why : "", got.data);
        free(got.data);
    }
}

static void same(const char *text, unsigned requests)
{
    check(text, strlen(text), text, requests, 0, "");
}

static void becomes(const char *text, const char *want, unsigned requests)
{
    check(text, strlen(text), want, requests, 0, "");
}

static void refused(const char *text, const char *want, int status, const char *why)
{
    check(text, strlen(text), want, 1, status, why);
}

static void requests(void **unused)
{
    (void)unused;
    same("", 0);
    same("GET", 1);
    same(GET "Host:h\r\n\r\n", 1);
    same(GET "Host:\r\n\r\n" GET "Host:a.b~_-!$&'()*+,;=:%[::1]:80\r\n\r\n", 2);
    same("GET /?a=\xc3\xbc HTTP/1.0\r\n\r\n", 1);
    same("FROB * HTTP/1.7\r\nhost:h\r\nAccept:  a\tb \xe9 \r\nOrigin:\r\n\r\n", 1);
    same(POST "Content-Length:5\r\n\r\nGET /" POST "CONTENT-LENGTH:0\r\n\r\n" GET, 3);
    same(POST "content-length:0003\r\n\r\nab", 1);
    same(CHUNK "3\r\nabc\r\n11\r\n0123456789abcdef!\r\n0\r\n\r\n" GET, 2);
    same(CHUNK "3\r\nGET\r\n0\r\n\r\n" CHUNK "1\r\na\r\n0\r\n\r\n", 2);
    same(POST "ACCEPT:a\r\naccept:b\r\nAccept-Encoding:c\r\nX-Request-Id:d\r\n\r\n", 1);
}

static void rewritten(void **unused)
{
    (void)unused;
    becomes("\r\n", "", 0);
    becomes("\r\n\r\n" GET "Host:h\r\n\r\n\r\n" GET, GET "Host:h\r\n\r\n" GET, 2);
    becomes(POST "Content-Length: \t3 \t\r\n\r\nabc", POST "Content-Length: \t3\r\n\r\nabc", 1);
    becomes(GET "Host: \th \r\n\r\n", GET "Host: \th\r\n\r\n", 1);
    becomes(POST "Transfer-Encoding:\tChunked \r\n\r\n0\r\n\r\n",
            POST "Transfer-Encoding:\tChunked\r\n\r\n0\r\n\r\n", 1);
    /* Of what nobody reads as much as shows that it is nothing else. */
    becomes(GET "Host:h\r\nCookie: a=b; c\r\nUser-Agent: d\r\nX-Y:\r\nAccept-Language:e\r\n\r\n",
            GET "Host:h\r\nCoo:\r\nUs:\r\nX-Y:\r\nAccept-L:\r\n\r\n", 1);
    becomes(POST "Transfer-Encodin:x\r\nTransfer-Encodings:x\r\nContent-Length-:x\r\n\r\n",
            POST "Transfer-Encodin:\r\nTransfer-Encodings:\r\nContent-Length-:\r\n\r\n", 1);
    becomes(CHUNK "000A;a=b\r\n0123456789\r\n1 \t; c=\"d;e\"\r\na\r\n0;f\r\n\r\n" GET,
            CHUNK "a\r\n0123456789\r\n1\r\na\r\n0\r\n\r\n" GET, 2);
    becomes(CHUNK "1\r\na\r\n00000\r\nX: y\r\nContent-Length: 5\r\nHost: i\r\n\r\n" GET,
            CHUNK "1\r\na\r\n0\r\n\r\n" GET, 2);
    becomes(CHUNK "fffffffffffffff\r\nabc", CHUNK "fffffffffffffff\r\nabc", 1);
    /* What is not yet known to be a size stays behind. */
    becomes(CHUNK "1\r\na\r\n2;", CHUNK "1\r\na\r\n", 1);
    becomes(CHUNK "0\r\nX: y\r\n", CHUNK, 1);
}

static void refused_lines(void **unused)
{
    (void)unused;
    refused("\r" GET, "- / HTTP/1.1\r\n\r\n", 400, "CR LF");
    refused("\n" GET, "- / HTTP/1.1\r\n\r\n", 400, "method");
    refused(" GET", "- / HTTP/1.1\r\n\r\n", 400, "method");
    refused("HEAD\t/", "HEAD- / HTTP/1.1\r\n\r\n", 400, "method");
    refused("GET  /", "GET / HTTP/1.1\r\n\r\n", 400, "one space");
    refused("GET /v2/\x7f", "GET /v2/ HTTP/1.1\r\n\r\n", 400, "one space");
    refused("GET /\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", 400, "one space");
    for (int i = 0; i < 9; i++) {
        char text[64], want[64];
        snprintf(text, sizeof text, "GET / %.*sx", i, "HTTP/1.1");
        snprintf(want, sizeof want, "GET / HTTP/1.1\r\n\r\n");
        refused(text, want, 400, "ends with HTTP/1.1");
    }
    refused("GET /a HTTP/1.1 HTTP/1.1\r\n", "GET /a HTTP/1.1\r\n\r\n", 400, "ends with");
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/1.1\r\n\r\n", 505, "version");
    refused("GET / HTTP/0.9\r\n", "GET / HTTP/1.1\r\n\r\n", 505, "version");
    refused("GET / HTTP/1.1\n", "GET / HTTP/1.1\r\n\r\n", 400, "CR LF");
    refused("GET / HTTP/1.1\r\r", "GET / HTTP/1.1\r\n\r\n", 400, "CR LF");
}

static void refused_headers(void **unused)
{
    (void)unused;
    for (int c = 0; c < 256; c++) {
        char text[] = GET "X?Y: z\r\n", *mark = strchr(text, '?'), want[] = GET "X-:\r\n\r\n";
        char kept[64];
        const bool word = c >= 0x80 ? false : c && strchr("!#$%&'*+-.^_`|~:", c) != NULL;
        *mark = (char)c;
        snprintf(kept, sizeof kept, GET "X%s%c%s\r\n", c == '-' ? "-" : "", c == '-' ? 'Y' : c,
                 c == ':' ? "" : ":");
        if (word || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'))
            check(text, sizeof text - 1, kept, 1, 0, "");
        else
            check(text, sizeof text - 1, want, 1, 400, "not a token");
        char value[] = GET "Accept: ?\r\n", cut[] = GET "Accept: \r\n\r\n";
        mark = strchr(value, '?');
        *mark = (char)c;
        if (c == '\r')
            check(value, sizeof value - 1, cut, 1, 400, "CR LF");
        else if ((c < ' ' && c != '\t') || c == 0x7f)
            check(value, sizeof value - 1, cut, 1, 400, "control character");
        else
            check(value, sizeof value - 1, value, 1, 0, "");
    }
    refused(GET "Content-Length : 5", GET "Content-Length-:\r\n\r\n", 400, "not a token");
    refused(GET ": x", GET "\r\n", 400, "not a token");
    static const char ends[] = GET "Transfer-Encoding\0x: chunked\r\n"; /* as a string it is one */
    check(ends, sizeof ends - 1, GET "Transfer-Encoding-:\r\n\r\n", 1, 400, "not a token");
    refused(GET "nonsense\r\n", GET "n-:\r\n\r\n", 400, "not a token");
    refused(GET " X: y", GET "\r\n", 400, "folded");
    refused(GET "X: y\r\n\tz\r\n", GET "X:\r\n\r\n", 400, "folded");
    refused(GET "X: y\nZ", GET "X:\r\n\r\n", 400, "control");
    refused(GET "Host: h\r\n\rX", GET "Host: h\r\n\r\n", 400, "CR LF");
    refused(GET "\r\n", GET "\r\n", 400, "exactly one Host");
    refused(GET "Host: h\r\nHost: h\r\n", GET "Host: h\r\nHost-:\r\n\r\n", 400, "exactly one Host");
    for (const char *bad = "/@?#\"\\<> ^`{|}\x80"; *bad; bad++) {
        char text[] = GET "Host: h?i\r\n";
        *strrchr(text, '?') = *bad;
        refused(text, GET "Host: h\r\n\r\n", 400, "Host must be");
    }
    static const char *const lengths[][2] = {
        {"", "0"},    {" \t", " \t0"}, {"-1", "0"},  {"+1", "0"},
        {"1 2", "1"}, {"0x1", "0"},    {"1,1", "1"}, {"1e1", "1"},
        {"1.0", "1"}, {"\v1", "0"},    {"1_1", "1"}, {"9999999999999999999", "999999999999999999"},
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char text[256], want[256];
        snprintf(text, sizeof text, POST "Content-Length:%s\r\n\r\n", lengths[i][0]);
        snprintf(want, sizeof want, POST "Content-Length:%s\r\n\r\n", lengths[i][1]);
        refused(text, want, 400, lengths[i][0][0] == '\v' ? "control" : "18 digits");
    }
    refused(POST "Content-Length:1\r\nContent-Length:1\r\n",
            POST "Content-Length:1\r\nContent-Length-:\r\n\r\n", 400, "more than once");
    refused(CHUNK "Transfer-Encoding:chunked\r\n", CHUNK "0\r\n\r\n", 400, "hexadecimal");
    refused(POST "Transfer-Encoding:chunked\r\nTransfer-Encoding:chunked\r\n",
            POST "Transfer-Encoding:chunked\r\nTransfer-Encoding-:\r\n\r\n", 400, "more than once");
    refused(POST "Content-Length:1\r\nTransfer-Encoding:chunked\r\n",
            POST "Content-Length:1\r\nTransfer-Encoding-:\r\n\r\n", 400, "exclude");
    refused(POST "Transfer-Encoding:chunked\r\nContent-Length:1\r\n",
            POST "Transfer-Encoding:chunked\r\nContent-Length-:\r\n\r\n", 400, "exclude");
    refused("GET / HTTP/1.0\r\nTransfer-Encoding:chunked\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding-:\r\n\r\n", 400, "needs HTTP/1.1");
    static const char *const codings[][2] = {
        {"", ""},
        {"gzip", ""},
        {"chunked, chunked", "chunked"},
        {"chunk", "chunk"},
        {"chunkedx", "chunked"},
        {"gzip, chunked", ""},
        {"chunked d", "chunked"},
        {"\"chunked\"", ""},
        {"chun ked", "chun"},
    };
    for (size_t i = 0; i < sizeof codings / sizeof *codings; i++) {
        char text[256], want[256];
        snprintf(text, sizeof text, POST "Transfer-Encoding:%s\r\n\r\n", codings[i][0]);
        snprintf(want, sizeof want, POST "Transfer-Encoding:%s\r\n\r\n", codings[i][1]);
        refused(text, want, 400, "must be chunked");
    }
}

static void refused_chunks(void **unused)
{
    (void)unused;
    static const char *const sizes[] = {"\r\n",    ";a\r\n",  " 1\r\n",  "+1\r\n",
                                        "-1\r\n",  "0x1\r\n", "1g\r\n",  "1 \r\n",
                                        "1 1\r\n", "1\n",     "1_1\r\n", "\t;a"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char text[256];
        snprintf(text, sizeof text, CHUNK "1\r\na\r\n%s", sizes[i]);
        refused(text, CHUNK "1\r\na\r\n0\r\n\r\n", 400, "hexadecimal digits");
    }
    refused(CHUNK "1\rX", CHUNK "0\r\n\r\n", 400, "CR LF");
    refused(CHUNK "1;a\nb", CHUNK "0\r\n\r\n", 400, "control");
    refused(CHUNK "1;a\rb", CHUNK "0\r\n\r\n", 400, "CR LF");
    refused(CHUNK "1000000000000000\r\n", CHUNK "0\r\n\r\n", 413, "2^60");
    refused(CHUNK "0001000000000000001c\r\n", CHUNK "0\r\n\r\n", 413, "2^60");
    refused(CHUNK "1\r\nab", CHUNK "1\r\na\r\n0\r\n\r\n", 400, "must end with CR LF");
    refused(CHUNK "1\r\na\n", CHUNK "1\r\na\r\n0\r\n\r\n", 400, "must end with CR LF");
    refused(CHUNK "1\r\na\rX", CHUNK "1\r\na\r\n0\r\n\r\n", 400, "must end with CR LF");
    refused(CHUNK "0\r\nGET / HTTP", CHUNK "0\r\n\r\n", 400, "not a token");
    refused(CHUNK "0\r\nX: y\n\r\n", CHUNK "0\r\n\r\n", 400, "control");
    refused(CHUNK "0\r\nX: y\r\n z", CHUNK "0\r\n\r\n", 400, "folded");
    refused(CHUNK "0\r\nX: y\r\n\rz", CHUNK "0\r\n\r\n", 400, "CR LF");
}

/* What follows a refused request is dropped, and the refusal is that of the last one. */
static void pipelined(void **unused)
{
    static const char text[] =
        POST "Content-Length:2\r\n\r\nhi" CHUNK "1\r\na\r\n1\n\r\n" GET "Host:h\r\n\r\n";
    (void)unused;
    check(text, sizeof text - 1, POST "Content-Length:2\r\n\r\nhi" CHUNK "1\r\na\r\n0\r\n\r\n", 2,
          400, "hexadecimal");
}

/* `before`, `n` times `part`, `after`: refused with `status` if n is more than `most`. */
static void limit(const char *before, const char *part, size_t most, const char *after, int status,
                  unsigned counts)
{
    for (size_t n = most; n <= most + 1; n++) {
        bytes text = {0}, got;
        put(&text, before, strlen(before));
        for (size_t i = 0; i < n; i++)
            put(&text, part, strlen(part));
        put(&text, after, strlen(after));
        const size_t steps[] = {0, 1, 7, 4096};
        for (size_t i = 0; i < 4; i++) {
            const framing f = pass(text.data, text.size, 0, steps[i], &got);
            if (f.status != (n > most ? status : 0) || f.requests != (counts ? counts : n > most))
                fail_msg("%zu times \"%s\" in steps of %zu: %u requests, status %d (%s)", n, part,
                         steps[i], f.requests, f.status, f.why ? f.why : "");
            free(got.data);
        }
        free(text.data);
    }
}

/* Trailers are counted by themselves, and a long name is none of those that end like it. */
static void many_and_long(void **unused)
{
    bytes text = {0}, got;
    (void)unused;
    put(&text, POST, strlen(POST));
    for (int i = 0; i < FRAMING_HEADERS_MAX - 2; i++)
        put(&text, "X:\r\n", 4);
    say(&text, "Transfer-Encoding:chunked\r\n\r\n0\r\n");
    for (int i = 0; i < FRAMING_HEADERS_MAX; i++)
        put(&text, "X:\r\n", 4);
    put(&text, "\r\n", 2);
    framing f = pass(text.data, text.size, 0, 0, &got);
    assert_int_equal(f.status, 0);
    free(got.data);
    text.size -= 2;
    say(&text, "X:\r\n\r\n");
    f = pass(text.data, text.size, 0, 0, &got);
    assert_int_equal(f.status, 431);
    assert_non_null(strstr(f.why, "128 trailers"));
    free(got.data);
    text.size = 0;
    say(&text, POST);
    for (int i = 0; i < 256; i++)
        put(&text, "a", 1);
    say(&text, "Host:b\r\n\r\n");
    f = pass(text.data, text.size, 0, 0, &got);
    assert_int_equal(f.status, 0);
    assert_string_equal(got.data, POST "aa:\r\n\r\n");
    free(got.data);
    free(text.data);
}

static void limits(void **unused)
{
    (void)unused;
    limit("GET /", "a", FRAMING_LINE_MAX - strlen("GET / HTTP/1.1\r\n"), " HTTP/1.1\r\n", 414, 1);
    limit("", "a", FRAMING_LINE_MAX, "", 414, 1);
    limit("", "\r\n", FRAMING_LINE_MAX / 2, "", 414, 0);
    limit(GET "Host:h\r\nX:", "a", FRAMING_HEADER_BYTES - strlen("Host:h\r\nX:\r\n\r\n"),
          "\r\n\r\n", 431, 1);
    limit(GET "Host:h\r\nAccept:", "a",
          FRAMING_KEPT_MAX - strlen("\nHost:h\r\nAccept:\r\n\r\n") - 2 * (size_t)FRAMING_EACH,
          "\r\n\r\n", 431, 1);
    limit(GET "Host:h\r\nX: ", "a ", FRAMING_HEADER_BYTES / 2 - 8, "\r\n\r\n", 431, 1);
    limit(GET "Cookie:", " ", FRAMING_HEADER_BYTES - strlen("Cookie:"), "", 431, 1);
    limit(GET, "a", FRAMING_HEADER_BYTES, "", 431, 1);
    limit(GET "Host:h\r\n", "X:\r\n", FRAMING_HEADERS_MAX - 1, "\r\n", 431, 1);
    limit(CHUNK "1;", "a", FRAMING_CHUNK_MAX - strlen("1;\r\n"), "\r\n", 400, 1);
    limit(CHUNK, "0", FRAMING_CHUNK_MAX, "", 400, 1);
    limit(CHUNK "1\r\na\r\n0\r\nX:", "a", FRAMING_CHUNK_MAX - strlen("\r\n0\r\nX:"), "", 400, 1);
    /* Extensions that data pays for, and such that it does not: 16 bytes and two for each byte. */
    limit(CHUNK, "1;abcdefghijk\r\na\r\n", 100000, "", 0, 1);
    limit(CHUNK, "1;abcdefghijklm\r\na\r\n", FRAMING_CHUNK_MAX - 17, "", 400, 1);
    limit(POST "Content-Length:40000\r\n\r\n", "a", 40000, GET, 0, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests),       cmocka_unit_test(rewritten),
        cmocka_unit_test(refused_lines),  cmocka_unit_test(refused_headers),
        cmocka_unit_test(refused_chunks), cmocka_unit_test(pipelined),
        cmocka_unit_test(many_and_long),  cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
