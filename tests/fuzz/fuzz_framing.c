/* SPDX-License-Identifier: MIT
 *
 * Streams of requests: a byte that says where to cut the rest, which a client sends in two pieces.
 * lossd, libmicrohttpd included, must find the requests that a second, simpler reader finds in what
 * framing makes of the stream, and every reply must be lossd's own.
 */
#include "fuzz.h"

#include "server/http/framing.h"
#include "server/http/http.h"
#include "server/http/reply.h"
#include "server/tell/log.h"
#include "server/tell/metrics.h"

#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A server that tells of each request its method, and the size and sum of its body. */

static unsigned long sum_of(const char *data, size_t size, unsigned long sum)
{
    for (size_t i = 0; i < size; i++)
        sum = sum * 31 + (unsigned char)data[i];
    return sum;
}

static bool begin(exchange *x)
{
    x->body_max = 1 << 20;
    return true;
}

static bool grow(exchange *x, size_t more)
{
    (void)x;
    (void)more;
    return true;
}

static void pass_over(exchange *x)
{
    (void)x;
}

static void run(exchange *x)
{
    buffer text = buffer_new(4096);
    buffer_printf(&text, "%.100s %zu %lu", x->method, x->body_size,
                  sum_of(x->body, x->body_size, 0));
    http_reply_text(x, 200, "text/plain", &text);
}

static void rest(void)
{
}

static const handler teller = {.begin = begin,
                               .grow = grow,
                               .refuse = pass_over,
                               .run = run,
                               .leave = pass_over,
                               .end = pass_over,
                               .rest = rest};
static uv_loop_t loop;
static http *server;
static char folder[] = "/tmp/framing.XXXXXX";
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void stop(void)
{
    http_stop(server);
    uv_run(&loop, UV_RUN_DEFAULT);
    rmdir(folder);
}

static void start(void)
{
    static flags f;
    static char listen[sizeof address.sun_path + 8];
    const char *const argv[] = {"lossd", "--listen", listen, NULL};
    int words;
    bool help;
    REQUIRE(mkdtemp(folder));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", folder);
    snprintf(listen, sizeof listen, "unix:%s", address.sun_path);
    log_set(false, LOG_ERROR);
    REQUIRE(flags_parse(&f, 3, (char **)(uintptr_t)argv, 1, &words, &help));
    REQUIRE(uv_loop_init(&loop) == 0);
    server = http_start(&loop, &f, &teller, NULL);
    REQUIRE(server && atexit(stop) == 0);
}

/* The client. */

typedef struct text {
    char *data;
    size_t size;
} text;

static void append(text *t, const void *data, size_t size)
{
    t->data = realloc(t->data, t->size + size + 1);
    REQUIRE(t->data);
    if (size > 0)
        memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = '\0';
}

/* Let the server run until it has nothing more to say. */
static void hear(int fd, text *heard)
{
    char part[4096];
    for (int quiet = 0; quiet < 8; quiet++) {
        uv_run(&loop, UV_RUN_NOWAIT);
        for (ssize_t n; (n = recv(fd, part, sizeof part, MSG_DONTWAIT)) > 0; quiet = 0)
            append(heard, part, (size_t)n);
    }
}

static text replies_to(const char *data, size_t size, size_t cut)
{
    text heard = {0};
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    append(&heard, NULL, 0);
    REQUIRE(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    /* The server may have closed the connection before it has read everything. */
    (void)!send(fd, data, cut, MSG_NOSIGNAL);
    hear(fd, &heard);
    (void)!send(fd, data + cut, size - cut, MSG_NOSIGNAL);
    hear(fd, &heard);
    close(fd);
    while (metric.connections > 0)
        uv_run(&loop, UV_RUN_NOWAIT);
    return heard;
}

/* The second reader. */

typedef struct told {
    char method[101];
    size_t size;
    unsigned long sum;
} told;

static const char *find(const char *from, const char *end, const char *what)
{
    const size_t size = strlen(what);
    for (; from + size <= end; from++)
        if (memcmp(from, what, size) == 0)
            return from;
    return NULL;
}

static const char *read_chunks(const char *at, const char *end, told *request)
{
    for (;;) {
        const char *line = find(at, end, "\r\n");
        if (!line)
            return NULL;
        const size_t size = strtoul(at, NULL, 16);
        at = line + 2;
        if ((size_t)(end - at) < 2 || size > (size_t)(end - at) - 2)
            return NULL;
        REQUIRE(memcmp(at + size, "\r\n", 2) == 0);
        request->sum = sum_of(at, size, request->sum);
        request->size += size;
        at += size + 2;
        if (size == 0)
            return at;
    }
}

/* Read a request. Returns its end, or NULL if it is not complete. */
static const char *read_request(const char *at, const char *end, told *request)
{
    const char *head = find(at, end, "\r\n\r\n"), *line = find(at, end, "\r\n");
    size_t length = 0;
    bool chunked = false;
    *request = (told){0};
    if (!head)
        return NULL;
    snprintf(request->method, sizeof request->method, "%.*s", (int)strcspn(at, " "), at);
    for (; line < head; line = find(line + 2, end, "\r\n")) {
        if (strncasecmp(line + 2, "Content-Length:", 15) == 0)
            length = strtoul(line + 17, NULL, 10);
        if (strncasecmp(line + 2, "Transfer-Encoding:", 18) == 0)
            chunked = true;
    }
    at = head + 4;
    if (chunked)
        return read_chunks(at, end, request);
    if (length > (size_t)(end - at))
        return NULL;
    request->sum = sum_of(at, length, 0);
    request->size = length;
    return at + length;
}

static const char *after_interim(const char *at, const char *end)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    return find(at, end, interim) == at ? at + strlen(interim) : at;
}

/* Read a reply to the request, which must be lossd's. Returns its status, and whether it is the
 * last of its connection. */
static int read_reply(const char **at, const char *end, const told *request, bool *last)
{
    char want[200];
    *at = after_interim(*at, end);
    const char *head = find(*at, end, "\r\n\r\n");
    REQUIRE(head && strncmp(*at, "HTTP/1.1 ", 9) == 0);
    const int status = atoi(*at + 9);
    REQUIRE(status != 500);
    const char *length = find(*at, head, "\r\nContent-Length: ");
    REQUIRE(length && find(*at, head, "\r\nX-Request-Id: "));
    const size_t size = strtoul(length + 18, NULL, 10);
    *last = find(*at, head + 2, "\r\nConnection: close\r\n") != NULL;
    *at = head + 4;
    if (strcmp(request->method, "HEAD") == 0)
        return status;
    REQUIRE(size <= (size_t)(end - *at));
    snprintf(want, sizeof want, "%s %zu %lu", request->method, request->size, request->sum);
    REQUIRE(status != 200 || (size == strlen(want) && memcmp(*at, want, size) == 0));
    *at += size;
    return status;
}

static void compare(const framing *f, const text *passed, const text *heard)
{
    const char *at = passed->data, *const end = at + passed->size, *next;
    const char *said = heard->data, *const all = said + heard->size;
    unsigned requests = 0;
    bool last = false;
    for (told request; (next = read_request(at, end, &request)) != NULL; at = next) {
        requests++;
        if (!last)
            (void)read_reply(&said, all, &request, &last);
    }
    if (f->status != 0) {
        told request;
        text whole = {0};
        append(&whole, at, (size_t)(end - at));
        append(&whole, f->rest, strlen(f->rest));
        /* Its body may be missing, if its head was refused. */
        (void)read_request(whole.data, whole.data + whole.size, &request);
        REQUIRE(find(whole.data, whole.data + whole.size, "\r\n\r\n"));
        REQUIRE(f->requests == requests + 1);
        REQUIRE(last || (read_reply(&said, all, &request, &last) == f->status && last));
        free(whole.data);
    } else {
        REQUIRE(f->requests == requests + (at < end));
    }
    said = after_interim(said, all);
    if (said < all && !last) { /* to a request that was refused before its body was complete */
        told request;
        snprintf(request.method, sizeof request.method, "%.*s", (int)strcspn(at, " "), at);
        REQUIRE(read_reply(&said, all, &request, &last) >= 400 && last);
    }
    REQUIRE(said == all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!server)
        start();
    if (size == 0)
        return 0;
    const char *bytes = (const char *)data + 1;
    const size_t cut = size > 1 ? data[0] % size : 0;
    text passed = {0}, heard = replies_to(bytes, size - 1, cut);
    framing f = {0}, again = {0};
    append(&passed, bytes, size - 1);
    passed.size = framing_pass(&f, bytes, size - 1, passed.data);
    passed.data[passed.size] = '\0';
    compare(&f, &passed, &heard);
    /* What was passed on is passed on as it is. */
    text same = {0};
    append(&same, passed.data, passed.size);
    REQUIRE(framing_pass(&again, passed.data, passed.size, same.data) == passed.size);
    REQUIRE(memcmp(same.data, passed.data, passed.size) == 0 && again.status == 0);
    free(same.data);
    free(passed.data);
    free(heard.data);
    return 0;
}
