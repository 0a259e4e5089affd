/* SPDX-License-Identifier: MIT
 *
 * Every allocation of the server fails once while it serves a request, from the accept of the
 * connection on. Each request is sent with the first, second, third, ... allocation failing, either
 * only that one or all from it on, until none fails. Every reply must be the usual one or a 503,
 * and afterwards the server must work as before.
 */
#define _GNU_SOURCE /* strcasestr */
#include "tests/bytes.h"
#include "tests/failing.h"

#include "catalogue/trees.h"
#include "http/access.h"
#include "http/http.h"
#include "request.h"
#include "route.h"
#include "tell/log.h"
#include "tell/metrics.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

/* A server on its own thread. */

static uv_loop_t loop;
static uv_async_t over;
static http *server;
static pthread_t thread;
static int port;

static void on_over(uv_async_t *handle)
{
    http_stop(server);
    uv_close((uv_handle_t *)handle, NULL);
}

static void *run(void *unused)
{
    uv_run(&loop, UV_RUN_DEFAULT);
    return unused;
}

static int start(void **unused)
{
    static flags f;
    const char *const argv[] = {"lossd", "--listen", "127.0.0.1:0", "--workers", "2", NULL};
    int words;
    bool help;
    (void)unused;
    spared = true;
    trees_setup();
    if (!flags_parse(&f, 5, (char **)argv, 1, &words, &help) || !access_setup(&f))
        return -1;
    log_set(false, LOG_ERROR);
    uv_loop_init(&loop);
    request_setup(&f);
    server = http_start(&loop, &f, &route_handler, NULL);
    if (!server || uv_async_init(&loop, &over, on_over) != 0)
        return -1;
    port = atoi(strrchr(http_url(server, 0), ':') + 1);
    return pthread_create(&thread, NULL, run, NULL);
}

static int stop(void **unused)
{
    (void)unused;
    uv_async_send(&over);
    pthread_join(thread, NULL);
    return uv_loop_close(&loop);
}

/* A reply of HTTP/1.1. */
typedef struct heard {
    int status; /* 0: the connection was closed without one */
    bytes text;
    char *body;
    size_t size; /* of the body */
} heard;

static int say_it(const bytes *sent)
{
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval patience = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    /* The server does not read all of it if it has already replied and closed the connection. */
    (void)!send(fd, sent->data, sent->size, MSG_NOSIGNAL);
    return fd;
}

static heard hear(int fd)
{
    heard h = {0};
    size_t length = SIZE_MAX;
    for (char part[65536]; h.text.size < length;) {
        const ssize_t n = recv(fd, part, sizeof part, 0);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail_msg("no answer");
        if (n <= 0)
            break;
        put(&h.text, part, (size_t)n);
        put(&h.text, "", 0);
        const char *end = strstr(h.text.data, "\r\n\r\n");
        const char *field = end ? strcasestr(h.text.data, "\r\nContent-Length: ") : NULL;
        if (end)
            length = (size_t)(end + 4 - h.text.data) +
                     (field && field < end ? strtoul(field + 18, NULL, 10) : 0);
    }
    if (h.text.size > 0) {
        assert_int_equal(h.text.size, length);
        assert_int_equal(sscanf(h.text.data, "HTTP/1.1 %d", &h.status), 1);
        h.body = strstr(h.text.data, "\r\n\r\n") + 4;
        h.size = h.text.size - (size_t)(h.body - h.text.data);
    }
    return h;
}

static bool connections; /* there were some before */

static void torture(const char *name, int status, const bytes *sent)
{
    heard usual = {0}; /* the first that was no refusal: all others must be the same */
    for (int everything = 0; everything < 2; everything++) {
        int silent = 0, refused = 0;
        bool short_of_memory = true;
        for (long n = 1; short_of_memory; n++) {
            failing_begin(n, everything);
            const int fd = say_it(sent);
            heard h = hear(fd);
            short_of_memory = failing_end();
            close(fd);
            silent += h.status == 0;
            refused += h.status == 503;
            if (h.status == 503 && !strstr(h.body, "no memory"))
                fail_msg("%s, allocation %ld: %s", name, n, h.body);
            if (h.status != status && (!short_of_memory || (h.status != 0 && h.status != 503)))
                fail_msg("%s, allocation %ld: %s", name, n, h.text.data);
            if (h.status == status && !usual.body) {
                usual = h;
                h = (heard){0};
            } else if (h.status == status &&
                       (h.size != usual.size || memcmp(h.body, usual.body, h.size) != 0)) {
                fail_msg("%s, allocation %ld: %s, and before: %s", name, n, h.text.data,
                         usual.text.data);
            }
            free(h.text.data);
            assert_true(n < 10000);
        }
        /* Only a connection for which no state could be allocated is closed without a reply. The
         * first one has, besides its own, the table of all connections. */
        if (silent > 1 + !connections || refused == 0)
            fail_msg("%s: %d times no reply, %d times 503", name, silent, refused);
    }
    connections = true;
    free(usual.text.data);
}

static void torture_text(const char *name, int status, const char *text)
{
    bytes sent = {0};
    put(&sent, text, strlen(text));
    torture(name, status, &sent);
    free(sent.data);
}

/* The requests. */

#define POST(path) "POST " path " HTTP/1.1\r\nHost: h\r\n"

static void torture_body(const char *name, int status, const char *head, const char *body)
{
    bytes sent = {0};
    put(&sent, head, strlen(head));
    say(&sent, "Content-Length: %zu\r\n\r\n", strlen(body));
    put(&sent, body, strlen(body));
    torture(name, status, &sent);
    free(sent.data);
}

static void documents(void **unused)
{
    (void)unused;
    torture_text("OpenAPI", 200, "GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n");
    torture_text("health", 200, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    torture_text("losses", 200, "GET /v1/losses HTTP/1.1\r\nHost: h\r\n\r\n");
    torture_text("a loss", 200, "GET /v1/losses/huber HTTP/1.1\r\nHost: h\r\n\r\n");
    torture_text("models", 200, "GET /v2/models HTTP/1.1\r\nHost: h\r\n\r\n");
    torture_text("a model", 200, "GET /v2/models/ctc HTTP/1.1\r\nHost: h\r\n\r\n");
    torture_text("nothing", 404, "GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n");
    torture_text("a bad head", 400, "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n");
    torture_text("no such model", 404, "GET /v2/models/none HTTP/1.1\r\nHost: h\r\n\r\n");
}

static void bodies(void **unused)
{
    (void)unused;
    torture_body("JSON", 200, POST("/v1/losses/cross_entropy?reduction=sum"),
                 "{\"inputs\":{\"logits\":[[0.2,0.4,0.4]],\"targets\":[2]}}");
    torture_text("chunks", 200,
                 POST("/v1/losses/cross_entropy") "Transfer-Encoding: chunked\r\n\r\n"
                                                  "14\r\n{\"inputs\":{\"logits\":\r\n"
                                                  "1f\r\n[[0.2,0.4,0.4]],\"targets\":[2]}}\r\n"
                                                  "0\r\n\r\n");
    torture_body("a wrong body", 422, POST("/v1/losses/huber"), "{\"inputs\":{}}");
    torture_body("a wrong target", 422, POST("/v1/losses/cross_entropy"),
                 "{\"inputs\":{\"logits\":[[0.2,0.4,0.4]],\"targets\":[3]}}");
    torture_body("the Open Inference Protocol", 200, POST("/v2/models/huber/infer"),
                 "{\"id\":\"7\",\"inputs\":["
                 "{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[2],\"data\":[1,2]},"
                 "{\"name\":\"b\",\"datatype\":\"FP32\",\"shape\":[2],\"data\":[0,0]}]}");
}

/* Large enough for several shards, and for a reply that is worth gzip. */
static void binary(void **unused)
{
    enum { ROWS = 128, CLASSES = 512, VALUES = 4 * ROWS * CLASSES, ALL = VALUES + 8 * ROWS };
    bytes body = {0}, sent = {0};
    char head[256];
    (void)unused;
    const int size =
        snprintf(head, sizeof head,
                 "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[0,%d]},"
                 "\"targets\":{\"dtype\":\"I64\",\"shape\":[%d],\"data_offsets\":[%d,%d]}}",
                 ROWS, CLASSES, VALUES, ROWS, VALUES, ALL);
    const uint64_t length = (uint64_t)size;
    put(&body, &length, 8);
    put(&body, head, (size_t)size);
    char *data = calloc(1, ALL);
    put(&body, data, ALL);
    free(data);
    say(&sent,
        POST("/v1/losses/cross_entropy") "Content-Type: application/x-safetensors\r\n"
                                         "Accept-Encoding: gzip\r\nContent-Length: %zu\r\n\r\n",
        body.size);
    put(&sent, body.data, body.size);
    torture("safetensors, gzip back", 200, &sent);
    sent.size = 0;

    uLongf packed = compressBound(body.size);
    Bytef *deflated = malloc(packed);
    assert_int_equal(compress(deflated, &packed, (const Bytef *)body.data, body.size), Z_OK);
    say(&sent,
        POST("/v1/losses/cross_entropy") "Content-Type: application/x-safetensors\r\n"
                                         "Content-Encoding: deflate\r\nAccept: "
                                         "application/json\r\nContent-Length: %lu\r\n\r\n",
        packed);
    put(&sent, deflated, packed);
    torture("deflated safetensors, JSON back", 200, &sent);
    free(deflated);
    free(sent.data);
    free(body.data);
}

/* No memory may be left allocated. */
static void nothing_is_left(void **unused)
{
    (void)unused;
    for (int i = 0; i < 500 && (metric.connections > 0 || metric.queue_bytes > 0); i++)
        usleep(10000);
    assert_int_equal(metric.connections, 0);
    assert_int_equal(metric.queue_bytes, 0);
    assert_int_equal(metric.queue_jobs, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),
        cmocka_unit_test(bodies),
        cmocka_unit_test(binary),
        cmocka_unit_test(nothing_is_left),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
