/* SPDX-License-Identifier: MIT
 *
 * Compressed bodies: whatever the bytes, the result is the inflated body or a problem, and never
 * more bytes than requested.
 */
#include "tests/help.h"

#include "http/coding.h"

#include <zlib.h>

/* Some bytes compressed by zlib. */
static bytes packed(coding c, const char *data, size_t size, int level)
{
    z_stream z = {0};
    bytes to = {0};
    assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, c == CODING_GZIP ? 31 : 15, 8, 0), Z_OK);
    to.room = deflateBound(&z, size) + 64;
    to.data = malloc(to.room);
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)size;
    z.next_out = (Bytef *)to.data;
    z.avail_out = (uInt)to.room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    to.size = to.room - z.avail_out;
    deflateEnd(&z);
    return to;
}

/* Measured, then inflated into memory of exactly that size. NULL with a problem. */
static char *plain(coding c, const bytes *body, size_t max, size_t *size, problem *p)
{
    char *copy = exactly(body->data, body->size), *to = NULL;
    if (coding_measure(c, (span){copy, body->size}, max, size, p)) {
        to = malloc(*size ? *size : 1);
        assert_true(coding_inflate(c, (span){copy, body->size}, to, *size, p));
    }
    free(copy);
    return to;
}

static void round_trips(void **unused)
{
    (void)unused;
    static char text[300000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(chance(0.5) ? '0' + random_below(10) : ',');
    static const size_t lengths[] = {0, 1, 2, 100, 65535, 65536, 65537, 131072, sizeof text};
    for (coding c = CODING_GZIP; c <= CODING_DEFLATE; c++)
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++)
            for (int level = 0; level < 10; level += 3) {
                bytes body = packed(c, text, lengths[k], level);
                problem p = {0};
                size_t size = 0;
                char *got = plain(c, &body, lengths[k], &size, &p);
                assert_non_null(got);
                assert_int_equal(size, lengths[k]);
                assert_memory_equal(got, text, size);
                free(got);
                /* One byte more than the limit. */
                if (lengths[k] > 0) {
                    assert_null(plain(c, &body, lengths[k] - 1, &size, &p));
                    assert_int_equal(p.status, 413);
                    /* And a size other than the measured one. */
                    got = malloc(lengths[k]);
                    assert_false(
                        coding_inflate(c, (span){body.data, body.size}, got, lengths[k] - 1, &p));
                    free(got);
                }
                free(body.data);
            }
}

static void deflated(void **unused)
{
    (void)unused;
    static char text[300000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(chance(0.5) ? '0' + random_below(10) : ',');
    for (coding c = CODING_GZIP; c <= CODING_DEFLATE; c++) {
        buffer to = buffer_new(sizeof text);
        assert_true(coding_deflate(c, (span){text, sizeof text}, &to));
        assert_true(to.size < sizeof text / 2 + 1000 && to.size <= to.capacity);
        bytes body = {to.data, to.size, to.capacity};
        problem p = {0};
        size_t size;
        char *got = plain(c, &body, sizeof text, &size, &p);
        assert_non_null(got);
        assert_int_equal(size, sizeof text);
        assert_memory_equal(got, text, size);
        free(got);
        /* Output that does not fit is not written. */
        for (size_t max = 0; max < to.size; max += 1 + to.size / 50) {
            buffer small = buffer_new(max);
            assert_false(coding_deflate(c, (span){text, sizeof text}, &small));
            assert_true(small.size <= max);
            buffer_free(&small);
        }
        buffer_free(&to);
    }
}

/* What appending compressors write: several members one behind the other, each of any length. */
static void members(void **unused)
{
    (void)unused;
    static const char *const texts[][4] = {{"{\"a\":", "1}", NULL}, {"", "{}", NULL},
                                           {"{}", "", NULL},        {"", "", NULL},
                                           {"", "a", "", NULL},     {"ab", "c", "defg", NULL}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bytes body = {0}, text = {0};
        problem p = {0};
        size_t size, first = 0;
        put(&text, "", 0);
        for (int k = 0; texts[i][k]; k++) {
            bytes member = packed(CODING_GZIP, texts[i][k], strlen(texts[i][k]), 9);
            put(&text, texts[i][k], strlen(texts[i][k]));
            put(&body, member.data, member.size);
            first = k == 0 ? member.size : first;
            free(member.data);
        }
        char *got = plain(CODING_GZIP, &body, text.size, &size, &p);
        assert_non_null(got);
        assert_int_equal(size, text.size);
        assert_memory_equal(got, text.data, size);
        free(got);
        if (text.size > 0) { /* the limit is for all of them together */
            assert_null(plain(CODING_GZIP, &body, text.size - 1, &size, &p));
            assert_int_equal(p.status, 413);
        }
        for (size_t n = first + 1; n < body.size; n++) { /* cut off, but for where a member ends */
            bytes cut = {body.data, n, n};
            free(got = plain(CODING_GZIP, &cut, text.size, &size, &p));
            assert_true(got ? texts[i][2] != NULL : p.status == 400);
        }
        put(&body, "\0", 1); /* no member */
        assert_null(plain(CODING_GZIP, &body, text.size, &size, &p));
        assert_int_equal(p.status, 400);
        free(body.data);
        free(text.data);
    }
    /* zlib's format has no members. */
    bytes once = packed(CODING_DEFLATE, "{}", 2, 9), twice = {0};
    problem p = {0};
    size_t size;
    put(&twice, once.data, once.size);
    put(&twice, once.data, once.size);
    assert_null(plain(CODING_DEFLATE, &twice, 100, &size, &p));
    assert_int_equal(p.status, 400);
    free(once.data);
    free(twice.data);
}

/* Truncated anywhere, followed by any bytes, or with any byte changed. */
static void wrong_bodies(void **unused)
{
    (void)unused;
    static const char text[] = "{\"inputs\":{\"a\":[1,2,3,4,5,6],\"b\":[1,2,3,4,5,6]}}";
    for (coding c = CODING_GZIP; c <= CODING_DEFLATE; c++) {
        bytes body = packed(c, text, sizeof text, 9);
        problem p = {0};
        size_t size, same = 0;
        for (size_t n = 0; n < body.size; n++) {
            bytes cut = {body.data, n, n};
            assert_null(plain(c, &cut, 1000, &size, &p));
            assert_int_equal(p.status, 400);
        }
        for (size_t i = 0; i < body.size; i++)
            for (int v = 1; v < 256; v++) {
                body.data[i] = (char)(body.data[i] ^ v);
                char *got = plain(c, &body, 1000, &size, &p);
                /* A few bits do not matter: the text is the same whatever they are. */
                if (got) {
                    same++;
                    assert_int_equal(size, sizeof text);
                    assert_memory_equal(got, text, size);
                }
                free(got);
                body.data[i] = (char)(body.data[i] ^ v);
            }
        assert_true(same < body.size * 255 / 4);
        put(&body, "", 1);
        assert_null(plain(c, &body, 1000, &size, &p));
        free(body.data);
    }
    for (int round = 0; round < 20000; round++) {
        char noise[64];
        size_t size;
        problem p = {0};
        for (size_t i = 0; i < sizeof noise; i++)
            noise[i] = (char)random_bits();
        memcpy(noise, round % 2 ? "\x78\x9c" : "\x1f\x8b\x08\0", round % 2 ? 2 : 4);
        bytes body = {noise, (size_t)random_below(64) + 1, sizeof noise};
        free(plain(round % 2 ? CODING_DEFLATE : CODING_GZIP, &body, 100000, &size, &p));
    }
}

/* A small body that would become a large one. */
static void bombs(void **unused)
{
    (void)unused;
    const size_t large = (size_t)64 << 20;
    char *zeros = calloc(1, large);
    for (coding c = CODING_GZIP; c <= CODING_DEFLATE; c++) {
        bytes body = packed(c, zeros, large, 9);
        problem p = {0};
        size_t size = 0;
        assert_true(body.size < 100000);
        assert_null(plain(c, &body, 1 << 20, &size, &p));
        assert_int_equal(p.status, 413);
        assert_non_null(strstr(p.detail, "1048576"));
        free(body.data);
    }
    free(zeros);
}

static void headers(void **unused)
{
    (void)unused;
    static const struct {
        const char *header;
        int coding; /* -1: refused */
    } contents[] = {
        {NULL, CODING_NONE},
        {"", CODING_NONE},
        {"identity", CODING_NONE},
        {"gzip", CODING_GZIP},
        {"GZip", CODING_GZIP},
        {"x-gzip", CODING_GZIP},
        {"br", -1},
        {"deflate", CODING_DEFLATE},
        {"gzip, gzip", -1},
        {"gzip;q=1", -1},
        {"gzi", -1},
        {"gzipp", -1},
    };
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        coding c;
        const bool known = coding_of_content(contents[i].header, &c);
        if (known != (contents[i].coding >= 0) || (known && (int)c != contents[i].coding))
            fail_msg("Content-Encoding: %s", contents[i].header);
    }
    static const struct {
        const char *header;
        coding coding;
    } accepts[] = {
        {NULL, CODING_NONE},
        {"", CODING_NONE},
        {"identity", CODING_NONE},
        {"br, zstd", CODING_NONE},
        {"gzip", CODING_GZIP},
        {"x-gzip", CODING_GZIP},
        {"deflate", CODING_DEFLATE},
        {"gzip, deflate, br", CODING_GZIP},
        {"deflate, gzip", CODING_GZIP},
        {"deflate;q=1, gzip;q=0.5", CODING_DEFLATE},
        {"gzip;q=0", CODING_NONE},
        {"gzip; q=0.0, deflate", CODING_DEFLATE},
        {"*", CODING_GZIP},
        {"*;q=0", CODING_NONE},
        {"gzip;q=0, *", CODING_DEFLATE},
        {"identity;q=1, *;q=0", CODING_NONE},
        {"GZIP;Q=1", CODING_GZIP},
        {" , ,gzip", CODING_GZIP},
    };
    for (size_t i = 0; i < sizeof accepts / sizeof *accepts; i++)
        if (coding_of_accept(accepts[i].header) != accepts[i].coding)
            fail_msg("Accept-Encoding: %s", accepts[i].header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),  cmocka_unit_test(deflated), cmocka_unit_test(members),
        cmocka_unit_test(wrong_bodies), cmocka_unit_test(bombs),    cmocka_unit_test(headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
