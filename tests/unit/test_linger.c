/* SPDX-License-Identifier: MIT
 *
 * The end of a connection whose client may still be sending: it lasts until that has closed it.
 */
#include "tests/help.h"

#include "http/linger.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long it takes, in ms, with a client that has sent as much as is kept for it, and then closes
 * its side, or resets the connection, since it has not read what was sent to it. */
static uint64_t lasts(bool resets)
{
    static const char data[16 * 1024];
    enum { SERVER, CLIENT, ENDS };
    const int much = 1 << 20;
    int ends[ENDS];
    size_t sent = 0;
    ssize_t n;
    uv_loop_t loop;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    (void)setsockopt(ends[CLIENT], SOL_SOCKET, SO_SNDBUF, &much, sizeof much);
    assert_int_equal(fcntl(ends[CLIENT], F_SETFL, O_NONBLOCK), 0);
    while ((n = write(ends[CLIENT], data, sizeof data)) > 0)
        sent += (size_t)n;
    assert_true(sent >
                LINGER_TURN); /* else all of it is dropped at once, and the end is read too */
    if (resets)
        assert_int_equal(write(ends[SERVER], data, 1), 1);
    linger_begin(&loop, ends[SERVER]);
    close(ends[SERVER]);
    close(ends[CLIENT]);
    const uint64_t start = uv_hrtime();
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
    return (uv_hrtime() - start) / 1000000;
}

static void test_ends(void **state)
{
    (void)state;
    assert_true(lasts(false) < 1000);
    assert_true(lasts(true) < 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ends)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
