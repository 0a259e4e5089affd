/* SPDX-License-Identifier: MIT
 *
 * Bodies that are read to where they stay: whatever comes at a time and however much is asked for,
 * the reader gets as many bytes as without it, and what lies behind the body as it is. Replies that
 * are held: the client gets all of them, in order, and none is held that may be lost.
 */
#include "tests/help.h"

#include "http/gate.h"
#include "http/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

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

/* A connection whose ends are both here. */
typedef struct line {
    int own, client;
    framing framing;
} line;

static void connect_line(line *l)
{
    int both[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, both), 0);
    *l = (line){both[0], both[1], {0}};
    assert_int_equal(fcntl(l->own, F_SETFL, O_NONBLOCK), 0);
    assert_true(gate_open(l->own, &l->framing, false));
}

/* The same over TCP, as listen.c leaves it. */
static void connect_tcp(line *l)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    const endpoint e = {.inet = true};
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, size), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &size), 0);
    const int client = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&at, size), 0);
    *l = (line){accept(listener, NULL, NULL), client, {0}};
    close(listener);
    listen_accepted(&e, l->own);
    assert_int_equal(fcntl(l->own, F_SETFL, O_NONBLOCK), 0);
    assert_true(gate_open(l->own, &l->framing, false));
}

static void end_line(line *l)
{
    (void)gate_close(l->own);
    close(l->own);
    close(l->client);
}

static const char stays[] = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
                  ends[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

/* As libmicrohttpd replies: what it takes as sent. */
static ssize_t reply_with(const line *l, const char *head, const char *body, size_t size)
{
    struct iovec both[] = {{(void *)(uintptr_t)head, strlen(head)},
                           {(void *)(uintptr_t)body, size}};
    const struct msghdr message = {.msg_iov = both, .msg_iovlen = 2};
    return sendmsg(l->own, &message, MSG_NOSIGNAL);
}

static const span nothing = {"", 0};

/* The next reply, with a body of so many bytes, may be held. */
static void hold(const line *l, size_t size)
{
    assert_true(gate_hold(l->own, size, nothing));
}

/* What the client has got, up to the room. */
static size_t arrived(const line *l, char *to, size_t room)
{
    size_t size = 0;
    for (ssize_t got = 1; got > 0 && size<room; size += got> 0 ? (size_t)got : 0)
        got = recvfrom(l->client, to + size, room - size, MSG_DONTWAIT, NULL, NULL);
    return size;
}

static void test_held(void **state)
{
    enum { HEAD = sizeof stays - 1 };
    char got[1000];
    line l;
    (void)state;
    connect_line(&l);
    assert_int_equal(reply_with(&l, stays, "abcd", 4), HEAD + 4); /* not told to hold it */
    assert_int_equal(arrived(&l, got, sizeof got), HEAD + 4);
    hold(&l, 4);
    assert_int_equal(reply_with(&l, stays, "efgh", 4), HEAD + 4);
    assert_int_equal(arrived(&l, got, sizeof got), 0);
    gate_flush();
    assert_int_equal(arrived(&l, got, sizeof got), HEAD + 4);
    assert_memory_equal(got, stays, HEAD);
    assert_memory_equal(got + HEAD, "efgh", 4);
    hold(&l, 4); /* before more is read from it */
    (void)reply_with(&l, stays, "ijkl", 4);
    assert_int_equal(recv(l.own, got, sizeof got, 0), -1);
    assert_int_equal(arrived(&l, got, sizeof got), HEAD + 4);
    hold(&l, 4); /* and before something else is written, to it or to others */
    (void)reply_with(&l, stays, "mnop", 4);
    assert_int_equal(send(l.own, "qrst", 4, 0), 4);
    assert_int_equal(arrived(&l, got, sizeof got), HEAD + 8);
    assert_memory_equal(got + HEAD, "mnopqrst", 8);
    hold(&l, 4); /* and before it is closed */
    (void)reply_with(&l, stays, "uvwx", 4);
    (void)gate_close(l.own);
    assert_int_equal(arrived(&l, got, sizeof got), HEAD + 4);
    end_line(&l);
    gate_end();
}

/* libmicrohttpd closes the connection at once, so that the reply must have been sent. */
static void test_not_held(void **state)
{
    char got[1000];
    line l;
    (void)state;
    connect_line(&l);
    hold(&l, 4);
    (void)reply_with(&l, ends, "abcd", 4);
    assert_int_equal(arrived(&l, got, sizeof got), sizeof ends - 1 + 4);
    assert_int_equal(shutdown(l.client, SHUT_WR), 0);
    assert_int_equal(recv(l.own, got, sizeof got, 0), 0);
    hold(&l, 4);
    (void)reply_with(&l, stays, "abcd", 4);
    assert_int_equal(arrived(&l, got, sizeof got), sizeof stays - 1 + 4);
    end_line(&l);
    gate_end();
}

/* Lines that libmicrohttpd does not get, and does not count, are the last of the head, whether the
 * reply is held or sent at once, with its body or by itself. */
static void test_lines(void **state)
{
    enum { HEAD = sizeof stays - 1, LINE = 6, LONG = GATE_LINES + 1 };
    static const char want[] = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nA: b\r\n\r\nabcd",
                      close_want[] = "HTTP/1.1 200 OK\r\nConnection: close\r\nA: b\r\n\r\nabcd";
    const span added = {"A: b\r\n", LINE};
    char got[1000];
    line l;
    (void)state;
    connect_line(&l);
    assert_true(gate_hold(l.own, 4, added));
    assert_int_equal(reply_with(&l, stays, "abcd", 4), HEAD + 4);
    assert_int_equal(arrived(&l, got, sizeof got), 0);
    assert_true(gate_hold(l.own, 4, added)); /* which sends the first */
    assert_int_equal(arrived(&l, got, sizeof got), HEAD + LINE + 4);
    assert_memory_equal(got, want, HEAD + LINE + 4);
    assert_int_equal(reply_with(&l, ends, "abcd", 4), sizeof ends - 1 + 4);
    assert_int_equal(arrived(&l, got, sizeof got), sizeof close_want - 1);
    assert_memory_equal(got, close_want, sizeof close_want - 1);
    assert_true(gate_hold(l.own, 4, added));
    assert_int_equal(send(l.own, stays, HEAD, 0), HEAD);
    assert_int_equal(send(l.own, "abcd", 4, 0), 4);
    assert_int_equal(arrived(&l, got, sizeof got), HEAD + LINE + 4);
    assert_memory_equal(got, want, HEAD + LINE + 4);
    assert_int_equal(reply_with(&l, stays, "abcd", 4), HEAD + 4); /* they are of that reply alone */
    assert_int_equal(arrived(&l, got, sizeof got), HEAD + 4);
    memset(got, 'a', LONG);
    assert_false(gate_hold(l.own, 4, (span){got, LONG}));
    assert_false(gate_hold(l.client, 4, added)); /* no connection */
    end_line(&l);
    gate_end();
}

static void test_many_held(void **state)
{
    enum { MANY = 16 };
    char got[1000];
    line l[MANY];
    (void)state;
    for (int i = 0; i < MANY; i++)
        connect_line(&l[i]);
    for (int i = 0; i < MANY; i++) {
        hold(&l[i], 4);
        (void)reply_with(&l[i], stays, "abcd", 4);
        assert_int_equal(arrived(&l[0], got, sizeof got) > 0, i == MANY - 1);
    }
    for (int i = 1; i < MANY; i++)
        assert_int_equal(arrived(&l[i], got, sizeof got), sizeof stays - 1 + 4);
    for (int i = 0; i < MANY; i++)
        end_line(&l[i]);
    gate_end();
}

/* A client that reads nothing: in the end the kernel takes no more, and says so. */
static void fill_up(line *l, size_t size)
{
    enum { MOST = 1 << 24, HEAD = sizeof stays - 1 };
    char *body = must(calloc(size, 1)), *got = must(malloc(MOST));
    size_t all = 0, last = size + HEAD;
    for (int i = 0; last == size + HEAD; i++) {
        memset(body, i, size);
        (void)gate_hold(l->own, size, nothing);
        const ssize_t taken = reply_with(l, stays, body, size);
        last = taken > 0 ? (size_t)taken : 0;
        all += last;
        assert_true(all < MOST);
        gate_flush();
    }
    for (size_t at = 0; at < all;) {
        const ssize_t more = recvfrom(l->client, got + at, all - at, 0, NULL, NULL);
        assert_true(more > 0);
        at += (size_t)more;
    }
    for (size_t at = 0, i = 0; at + size + HEAD <= all; i++) {
        assert_memory_equal(got + at, stays, HEAD);
        at += HEAD + size;
        assert_int_equal((unsigned char)got[at - 1], i % 256);
    }
    assert_int_equal(send(l->own, "x", 1, MSG_NOSIGNAL), 1); /* it has not been closed */
    end_line(l);
    gate_end();
    free(body);
    free(got);
}

static void test_full(void **state)
{
    static const size_t sizes[] = {1, 100, 600, 4000, 16000, 32000};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        line l;
        connect_line(&l);
        fill_up(&l, sizes[i]);
        connect_tcp(&l);
        fill_up(&l, sizes[i]);
    }
}

/* A connection with a reply that the client's kernel has no room for may not be closed at once. */
static void test_unsent(void **state)
{
    enum { SIZE = 16000 };
    static char body[SIZE];
    line l;
    (void)state;
    connect_tcp(&l);
    assert_false(gate_unsent(l.own));
    while (reply_with(&l, stays, body, SIZE) == SIZE + (ssize_t)sizeof stays - 1)
        continue;
    assert_true(gate_unsent(l.own));
    assert_true(gate_close(l.own));
    end_line(&l);
    connect_line(&l);
    (void)reply_with(&l, stays, body, SIZE);
    assert_false(gate_unsent(l.own)); /* it is with the client already */
    assert_false(gate_close(l.own));
    end_line(&l);
    gate_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),   cmocka_unit_test(test_held),
        cmocka_unit_test(test_not_held), cmocka_unit_test(test_many_held),
        cmocka_unit_test(test_lines),    cmocka_unit_test(test_full),
        cmocka_unit_test(test_unsent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
