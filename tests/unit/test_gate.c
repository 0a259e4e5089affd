/* SPDX-License-Identifier: MIT
 *
 * Bodies that are read to where they stay: whatever comes at a time and however much is asked for,
 * the reader gets as many bytes as without it, and what lies behind the body as it is.
 */
#include "tests/help.h"

#include "http/gate.h"

#include <errno.h>

enum { FD = 5 };

/* What a client has sent, of which a read gets at most `most` bytes, and nothing every second
 * time. */
typedef struct sent {
    const char *data;
    size_t size, at, most;
    bool empty;
} sent;

static ssize_t take(void *from, void *to, size_t size)
{
    sent *s = from;
    const size_t left = s->size - s->at, most = left < s->most ? left : s->most;
    const size_t n = size < most ? size : most;
    s->empty = !s->empty;
    if (s->empty || n == 0) {
        errno = EAGAIN;
        return -1;
    }
    memcpy(to, s->data + s->at, n);
    s->at += n;
    return (ssize_t)n;
}

/* Two requests, the first with a body. The reader asks for `size` bytes at a time, sets the place
 * once it has so many of the body, and takes it away again once it has `until`. */
static void check(size_t length, size_t most, size_t size, size_t set, size_t until)
{
    static const char second[] = "GET / HTTP/1.1\r\nHost:h\r\n\r\n";
    char head[80];
    const size_t heads = (size_t)snprintf(
        head, sizeof head, "POST /a HTTP/1.1\r\nHost:h\r\nContent-Length:%zu\r\n\r\n", length);
    bytes all = {0}, got = {0};
    put(&all, head, heads);
    for (size_t i = 0; i < length; i++)
        put(&all, (const char[]){(char)(i * 31 + i / 256)}, 1);
    put(&all, second, strlen(second));
    char *place = must(calloc(length + 1, 1)), *to = must(malloc(size));
    framing f = {0};
    sent s = {all.data, all.size, 0, most, false};
    size_t body = 0;
    bool placed = false;
    assert_true(gate_open(FD, &f, false));
    while (got.size < all.size) {
        const ssize_t n = gate_read(FD, to, size, take, &s);
        if (n < 0)
            continue;
        assert_true(n > 0 && (size_t)n <= size);
        put(&got, to, (size_t)n);
        body = got.size < heads ? 0 : got.size - heads;
        if (!placed && body >= set && body < length && framing_left(&f) == length - body) {
            placed = true;
            memcpy(place, got.data + heads, body);
            gate_place(FD, place + body);
        }
        if (placed && body >= until)
            gate_place(FD, NULL);
    }
    assert_int_equal(got.size, all.size);
    assert_memory_equal(got.data, head, heads);
    assert_memory_equal(got.data + heads + length, second, strlen(second));
    assert_true(framing_whole(&f) && f.requests == 2 && f.status == 0);
    if (until >= length && placed)
        assert_memory_equal(place, all.data + heads, length);
    assert_int_equal(place[length], 0);
    (void)gate_close(FD);
    gate_end();
    free(all.data);
    free(got.data);
    free(place);
    free(to);
}

static void test_places(void **state)
{
    static const size_t lengths[] = {1, 2, 100, 5000, 600000}, mosts[] = {1, 7, 1000, 1 << 30},
                        sizes[] = {1, 64, 4096, 32768};
    (void)state;
    for (int l = 0; l < 5; l++)
        for (int m = 0; m < 4; m++)
            for (int s = 0; s < 4; s++) {
                if (lengths[l] > 5000 && (mosts[m] < 1000 || sizes[s] < 4096))
                    continue;
                check(lengths[l], mosts[m], sizes[s], 0, SIZE_MAX);
                check(lengths[l], mosts[m], sizes[s], lengths[l] / 3, SIZE_MAX);
                check(lengths[l], mosts[m], sizes[s], 0, lengths[l] / 2);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_places)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
