/* SPDX-License-Identifier: MIT
 *
 * A client leaves while its request waits for a worker. The sweep that sees it takes the work out
 * of the queue; the next sweep may see it once more, before the connection is closed, if the thread
 * had to wait for a processor in between.
 */
#include "tests/help.h"

#include "http/access.h"
#include "http/http.h"
#include "request.h"
#include "route.h"
#include "tell/log.h"
#include "tell/metrics.h"

#include <arpa/inet.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SWEEP_MS = 200 }; /* at least that of http.c */

static uv_loop_t loop;
static http *server;
static sem_t gate;
static uv_work_t busy; /* the only worker */

static void wait_at_gate(uv_work_t *work)
{
    (void)work;
    sem_wait(&gate);
}

static void after_gate(uv_work_t *work, int status)
{
    (void)work;
    (void)status;
}

static int client(void)
{
    const char body[] = "{\"inputs\":{\"a\":[1,2],\"b\":[0,0]}}";
    char text[512];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    to.sin_port = htons((uint16_t)atoi(strrchr(http_url(server, 0), ':') + 1));
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const int size = snprintf(text, sizeof text,
                              "POST /v1/losses/huber HTTP/1.1\r\nHost: localhost\r\n"
                              "Content-Length: %zu\r\n\r\n%s",
                              strlen(body), body);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    assert_int_equal(send(fd, text, (size_t)size, MSG_NOSIGNAL), size);
    return fd;
}

static void is_seen_twice(void **unused)
{
    const struct timespec longer = {.tv_nsec = (SWEEP_MS + 50) * 1000000L};
    (void)unused;
    uv_queue_work(&loop, &busy, wait_at_gate, after_gate);
    const int fd = client();
    while (atomic_load(&metric.queue_jobs) == 0)
        uv_run(&loop, UV_RUN_NOWAIT);
    close(fd);
    while (atomic_load(&metric.queue_jobs) > 0) /* until the sweep, and the work's return */
        uv_run(&loop, UV_RUN_NOWAIT);
    nanosleep(&longer, NULL);
    uv_run(&loop, UV_RUN_NOWAIT); /* timers come first: it is the sweep's turn */
    for (int i = 0; i < 100; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(atomic_load(&metric.in_flight_requests), 0);
    assert_int_equal(atomic_load(&metric.queue_jobs), 0);
    assert_int_equal(atomic_load(&metric.queue_bytes), 0);
}

static int start(void **unused)
{
    static flags f;
    const char *const argv[] = {"lossd", "--listen",       "127.0.0.1:0", "--workers",
                                "1",     "--inline-limit", "0",           NULL};
    int words;
    bool help;
    (void)unused;
    setenv("UV_THREADPOOL_SIZE", "1", 1);
    if (!flags_parse(&f, 7, (char **)(uintptr_t)argv, 1, &words, &help) || !access_setup(&f))
        return -1;
    log_set(false, LOG_ERROR);
    uv_loop_init(&loop);
    sem_init(&gate, 0, 0);
    request_setup(&f);
    server = http_start(&loop, &f, &route_handler, NULL);
    return server ? 0 : -1;
}

static int stop(void **unused)
{
    (void)unused;
    sem_post(&gate);
    http_stop(server);
    uv_run(&loop, UV_RUN_DEFAULT);
    access_end();
    return uv_loop_close(&loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(is_seen_twice, start, stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
