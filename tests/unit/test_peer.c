/* SPDX-License-Identifier: MIT
 *
 * Deadlines of a connection in each of its states.
 */
#include "tests/help.h"

#include <sys/socket.h>
#include <unistd.h>

#include "http/peer.h"

static const uint64_t MS = 1000000, S = 1000000000;
static const flags f = {.header_timeout = 10000,
                        .body_timeout = 30000,
                        .request_timeout = 100000,
                        .idle_timeout = 60000,
                        .body_rate = 1000};

static void deadlines(void **unused)
{
    peers all;
    (void)unused;
    peers_setup(&all, &f);
    peer *p = peer_add(&all, 0);
    peer_enter(&all, p, PEER_IDLE, 1 * S, 0);
    assert_true(p->deadline == 11 * S);
    peer_enter(&all, p, PEER_HEAD, 9 * S, 0);
    assert_true(p->deadline ==
                11 * S); /* the head of a new connection is one span with its start */
    peer_enter(&all, p, PEER_BODY, 10 * S, 0);
    assert_true(p->deadline == 40 * S);
    peer_moved(&all, p, 9 * S, 5500);
    assert_true(p->deadline == 45500 * MS);
    peer_moved(&all, p, 9 * S, 1000 * 1000);
    assert_true(p->deadline == 109 * S); /* not longer than the request may take */
    peer_enter(&all, p, PEER_WORK, 20 * S, 0);
    assert_true(p->deadline == 0);
    peer_enter(&all, p, PEER_REPLY, 21 * S, 2000);
    assert_true(p->deadline == 53 * S);
    peer_enter(&all, p, PEER_IDLE, 22 * S, 0);
    assert_true(p->deadline == 82 * S);
    peer_enter(&all, p, PEER_HEAD, 80 * S, 0);
    assert_true(p->deadline == 90 * S);
    peer_remove(p);
    assert_null(all.first);
}

static void lists(void **unused)
{
    peers all;
    (void)unused;
    peers_setup(&all, &f);
    peer *p[5];
    for (int i = 0; i < 5; i++)
        p[i] = peer_add(&all, i);
    /* Remove from the middle, then both ends, then the rest: the list stays consistent. */
    static const int order[] = {2, 4, 0, 1, 3};
    for (int i = 0; i < 5; i++) {
        int left = 0;
        peer_remove(p[order[i]]);
        for (peer *q = all.first; q; q = q->next, left++)
            assert_ptr_equal(*q->back, q);
        assert_int_equal(left, 4 - i);
    }
}

static void leaving(void **unused)
{
    peers all;
    int ends[2];
    (void)unused;
    peers_setup(&all, &f);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    peer *p = peer_add(&all, ends[0]);
    assert_false(peer_has_left(p));
    assert_false(peer_is_over(p));
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_false(peer_has_left(p));
    shutdown(ends[1], SHUT_WR);
    assert_true(peer_has_left(p));
    assert_false(peer_ask(p, false)); /* TLS */
    p->plain = true;
    assert_false(peer_ask(p, true)); /* HTTP/1.0 */
    p->named = true;                 /* then half a close can be told from a whole one */
    assert_false(peer_ask(p, false));
    assert_false(peer_has_left(p));
    p->named = false;
    assert_true(peer_ask(p, false)); /* and then, too */
    assert_false(peer_has_left(p));
    assert_false(peer_ask(p, false)); /* once */
    peer_enter(&all, p, PEER_WORK, 1 * S, 0);
    assert_true(peer_has_left(p));
    assert_true(peer_ask(p, false)); /* once for each request */
    peer_enter(&all, p, PEER_IDLE, 1 * S, 0);
    assert_false(peer_is_over(p)); /* something is there to be read yet */
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_true(peer_is_over(p));
    peer_enter(&all, p, PEER_BODY, 1 * S, 0);
    assert_false(peer_is_over(p)); /* its request was read to the end, and waits for an answer */
    assert_int_equal(framing_pass(&p->framing, "P", 1, &byte), 1);
    assert_true(peer_is_over(p)); /* of another one no more will come */
    close(ends[1]);
    assert_true(peer_has_left(p));
    close(ends[0]);
    peer_remove(p);
}

/* What waits to be read while its server runs and runs will wait for ever; what comes in the
 * meantime, or was read, will not. */
static void stuck(void **unused)
{
    peers all;
    int ends[2];
    uint64_t run = 100;
    char byte;
    (void)unused;
    peers_setup(&all, &f);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    peer *p = peer_add(&all, ends[0]);
    peer_enter(&all, p, PEER_BODY, 1 * S, 0);
    for (; run < 10000; run++) /* nothing has come, and others are at work */
        assert_false(peer_is_stuck(p, run, 0));
    assert_int_equal(write(ends[1], "xyz", 3), 3);
    assert_false(peer_is_stuck(p, run, 0));
    assert_false(peer_is_stuck(p, run, 0)); /* however often it is asked in one run */
    assert_false(peer_is_stuck(p, run + 7, 0));
    assert_true(peer_is_stuck(p, run + 8, 0));
    run += 1000;
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_false(peer_is_stuck(p, run, 0)); /* the head is coming, or chunks with nothing in them */
    assert_int_equal(write(ends[1], "x", 1), 1);
    peer_moved(&all, p, 1 * S, 1);
    run += 1000;
    assert_false(peer_is_stuck(p, run, 0)); /* a client that is faster: as many wait as before */
    assert_true(peer_is_stuck(p, run + 8, 0));
    peer_enter(&all, p, PEER_WORK, 0, 0);
    run += 1000;
    assert_false(peer_is_stuck(p, run, 0)); /* what waits now is the next request */
    assert_false(peer_is_stuck(p, run + 8, 0));
    /* All was read, and yet the server runs for no reason. */
    peer_enter(&all, p, PEER_BODY, 2 * S, 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_false(peer_is_stuck(p, run, 10000));
    assert_false(peer_is_stuck(p, run + 4095, 10000));
    assert_false(peer_is_stuck(p, run + 4096, 4095));
    assert_true(peer_is_stuck(p, run + 4096, 4096));
    close(ends[0]);
    close(ends[1]);
    peer_remove(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deadlines),
        cmocka_unit_test(lists),
        cmocka_unit_test(leaving),
        cmocka_unit_test(stuck),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
