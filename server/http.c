/* SPDX-License-Identifier: MIT
 *
 * One libmicrohttpd daemon for each address, without threads of its own: its epoll descriptor is a
 * uv_poll_t, its timeout a uv_timer_t. Callbacks only mark that a daemon is due; it runs once a
 * turn of the loop, however many things happened in that turn.
 */
#include "http.h"

#include "log.h"
#include "metrics.h"
#include "percent.h"
#include "route.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    CONNECTION_MEMORY = 64 * 1024, /* libmicrohttpd zeroes it at every request: keep it small */
    BACKLOG = 1024,
    SWEEP_MS = 500,
};

typedef struct listener {
    http *server;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    int socket;
    bool due;
    char url[160];
    char path[108]; /* of a Unix socket, "" otherwise */
} listener;

/* An open connection. */
typedef struct peer {
    struct peer *next, **back;
    int fd;
    bool answering; /* its request is whole: it may have shut its side down and still wait */
} peer;

struct http {
    uv_loop_t *loop;
    uv_prepare_t prepare;
    uv_timer_t timer;
    uv_timer_t sweep;
    peer *peers;
    int listeners;
    listener listener[LISTEN_MAX];
    int exchanges;
    int handles; /* still being closed */
    bool closing;
    size_t drain_max;
};

/* Requests. */

const char *http_header(const exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

/* How often a header comes. */
typedef struct tally_of {
    const char *name;
    int times;
} tally_of;

static enum MHD_Result count_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                    const char *value)
{
    tally_of *t = cls;
    (void)kind;
    (void)value;
    t->times += strcasecmp(t->name, name) == 0;
    return MHD_YES;
}

int http_header_times(const exchange *x, const char *name)
{
    tally_of t = {name, 0};
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, count_header, &t);
    return t.times;
}

/* A token of RFC 9110: what a header name is made of. */
static bool is_token(const char *text, size_t size)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < size; i++) {
        char c = text[i], letter = (char)(c | 0x20);
        bool word = (letter >= 'a' && letter <= 'z') || (c >= '0' && c <= '9');
        if (!word && (c == '\0' || !strchr(marks, c)))
            return false;
    }
    return size > 0;
}

/* What libmicrohttpd lets through, and a proxy in front may read otherwise. */
typedef struct guard {
    int lengths, encodings, hosts;
    int64_t length;
    const char *bad; /* NULL: nothing yet */
} guard;

static enum MHD_Result look_at_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                      size_t name_size, const char *value, size_t value_size)
{
    guard *g = cls;
    (void)kind;
    if (!is_token(name, name_size))
        g->bad = "a header name is not a token";
    for (size_t i = 0; i < value_size; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            g->bad = "a header value has a control character";
    if (strcasecmp(name, "Content-Length") == 0) {
        g->lengths++;
        if (value_size == 0 || value_size > 18 || value[strspn(value, "0123456789")] != '\0')
            g->bad = "Content-Length must be at most 18 digits";
        else
            g->length = strtoll(value, NULL, 10);
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        g->encodings++;
        if (strcasecmp(value, "chunked") != 0)
            g->bad = "Transfer-Encoding must be chunked";
        g->length = -1;
    } else if (strcasecmp(name, "Host") == 0) {
        g->hosts++;
    }
    return MHD_YES;
}

static bool guard_headers(exchange *x, const char *version, problem *p)
{
    guard g = {0};
    MHD_get_connection_values_n(x->connection, MHD_HEADER_KIND, look_at_header, &g);
    if (!g.bad && g.lengths > 1)
        g.bad = "Content-Length comes more than once";
    if (!g.bad && g.encodings > 1)
        g.bad = "Transfer-Encoding comes more than once";
    if (!g.bad && g.lengths > 0 && g.encodings > 0)
        g.bad = "Content-Length and Transfer-Encoding exclude each other";
    if (!g.bad && strcmp(version, "HTTP/1.1") == 0 && g.hosts != 1)
        g.bad = "HTTP/1.1 needs exactly one Host";
    x->length = g.length;
    return !g.bad || problem_set(p, 400, "malformed_request", "%s", g.bad);
}

/* Decode one path segment where it stands, which only makes it shorter. */
static bool decode_segment(char *s)
{
    size_t size = strlen(s);
    if (!percent_decode((span){s, size}, false, s, size + 1))
        return false;
    for (const char *c = s; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f || *c == '/')
            return false;
    return strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
}

/* Split before decoding, so that an encoded slash is not one. */
static bool split_target(exchange *x, problem *p)
{
    char *path = x->target, *query = strchr(path, '?');
    x->query = "";
    if (query) {
        *query = '\0';
        x->query = query + 1;
    }
    /* The absolute form, which a server must take though only proxies send it. */
    if (strncasecmp(path, "http://", 7) == 0)
        path += 7 + strcspn(path + 7, "/");
    if (path[0] != '/')
        return problem_set(p, 400, "malformed_request", "the path must begin with /");
    for (bool more = true; more;) {
        char *segment = path + 1;
        path = segment + strcspn(segment, "/");
        more = *path == '/';
        *path = '\0';
        if (x->segments == HTTP_SEGMENTS)
            return problem_set(p, 404, "not_found", "there is nothing at so long a path");
        if (!decode_segment(segment))
            return problem_set(p, 400, "malformed_request",
                               "a path segment is not well encoded, or is . or ..");
        x->segment[x->segments++] = segment;
    }
    return true;
}

static void choose_id(exchange *x)
{
    const char *given = http_header(x, "X-Request-Id");
    size_t size = given ? strlen(given) : 0;
    if (size > 0 && size <= HTTP_ID_MAX && is_token(given, size)) {
        memcpy(x->id, given, size + 1);
        return;
    }
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random)
        random = x->start;
    snprintf(x->id, sizeof x->id, "%016llx", (unsigned long long)random);
}

/* Replies. */

void http_reply_text(exchange *x, int status, const char *media, buffer *text)
{
    reply *r = &x->reply;
    r->status = status;
    r->media = media;
    r->text = *text;
    *text = buffer_new(text->max);
    r->pieces = 1;
    r->piece[0] = (span){r->text.data, r->text.size};
}

/* Clients of the Open Inference Protocol want errors of its form; also where the path has not been
 * split yet, because something before it was wrong. */
static bool is_oip(const exchange *x)
{
    return x->segments > 0 ? strcmp(x->segment[0], "v2") == 0
                           : strncmp(x->target, "/v2", 3) == 0 && strchr("/?", x->target[3]);
}

void http_reply_problem(exchange *x, const problem *p)
{
    const bool oip = is_oip(x);
    buffer text = buffer_new(4096);
    if (oip)
        problem_write_oip(p, &text);
    else
        problem_write(p, &text);
    x->reply.retry = p->status == 503;
    http_reply_text(x, oip && p->status == 422 ? 400 : p->status,
                    oip ? "application/json" : "application/problem+json", &text);
}

static void header(struct MHD_Response *response, const char *name, const char *value)
{
    /* Without memory for a header the reply goes out without it. */
    if (value && *value != '\0')
        (void)MHD_add_response_header(response, name, value);
}

static enum MHD_Result send_reply(exchange *x)
{
    reply *r = &x->reply;
    struct MHD_IoVec iov[HTTP_PIECES];
    for (int i = 0; i < r->pieces; i++) {
        iov[i] = (struct MHD_IoVec){r->piece[i].data, r->piece[i].size};
        metric.sent_bytes_total += r->piece[i].size;
    }
    struct MHD_Response *response =
        MHD_create_response_from_iovec(iov, (unsigned)r->pieces, NULL, NULL);
    if (!response)
        return MHD_NO;
    header(response, "Content-Type", r->media);
    char length[24];
    snprintf(length, sizeof length, "%llu", (unsigned long long)r->head);
    header(response, "Inference-Header-Content-Length", r->head > 0 ? length : NULL);
    header(response, "Content-Encoding", r->encoding);
    header(response, "Vary", r->encoding ? "Accept-Encoding" : NULL);
    header(response, "X-Request-Id", x->id);
    header(response, "Server-Timing", r->timing);
    header(response, "Allow", r->allow);
    header(response, "Retry-After", r->retry ? "1" : NULL);
    header(response, "Connection", x->close || x->server->closing ? "close" : NULL);
    enum MHD_Result result = MHD_queue_response(x->connection, (unsigned)r->status, response);
    MHD_destroy_response(response);
    return result;
}

/* The body. */

/* Room for `more` bytes, exactly where the length is known. */
static bool grow_body(exchange *x, size_t more)
{
    size_t need = x->body_size + more;
    if (need <= x->body_capacity)
        return true;
    size_t capacity = x->length > 0 ? (size_t)x->length : need + need / 2;
    if (capacity > x->body_max)
        capacity = x->body_max;
    if (x->length < 0 && !route_grow(x, capacity - x->body_capacity))
        return false;
    char *body = realloc(x->body, capacity);
    if (!body) {
        problem p;
        problem_set(&p, 503, "no_memory", "no memory for a body of %zu bytes", capacity);
        http_reply_problem(x, &p);
        return false;
    }
    x->body = body;
    x->body_capacity = capacity;
    return true;
}

static void too_large(exchange *x)
{
    problem p;
    problem_set(&p, 413, "too_large", "the body is larger than %zu bytes (--max-body)",
                x->body_max);
    http_reply_problem(x, &p);
    x->refused = true;
}

static void free_body(exchange *x)
{
    free(x->body);
    x->body = NULL;
    x->body_size = x->body_capacity = 0;
}

static enum MHD_Result take_body(exchange *x, const char *data, size_t size)
{
    metric.received_bytes_total += size;
    if (!x->refused && !x->unwanted && size > x->body_max - x->body_size)
        too_large(x);
    if (!x->refused && !x->unwanted && !grow_body(x, size))
        x->refused = true;
    if (x->refused || x->unwanted) {
        free_body(x);
        x->discarded += size;
        /* A reply in the middle of a body is not possible: beyond the limit, hang up. */
        return x->discarded <= x->server->drain_max ? MHD_YES : MHD_NO;
    }
    memcpy(x->body + x->body_size, data, size);
    x->body_size += size;
    return MHD_YES;
}

/* The head is there: refuse, or go on with the body. */
static enum MHD_Result take_head(exchange *x, const char *version)
{
    problem p;
    choose_id(x);
    if (!guard_headers(x, version, &p)) {
        x->close = true;
        http_reply_problem(x, &p);
        return send_reply(x);
    }
    const char *expect = http_header(x, "Expect");
    if (expect && strcasecmp(expect, "100-continue") != 0) {
        problem_set(&p, 417, "expectation_failed",
                    "Expect is \"%.40s\"; only 100-continue is known", expect);
        http_reply_problem(x, &p);
        x->refused = true;
    } else if (!split_target(x, &p)) {
        http_reply_problem(x, &p);
        x->refused = true;
    } else if (!route_begin(x)) {
        x->refused = true;
    } else if (!x->unwanted && x->length > 0 && (uint64_t)x->length > x->body_max) {
        too_large(x);
    }
    if (!x->refused || x->length == 0)
        return MHD_YES;
    /* Refused, with a body on its way. A client that waits for 100 Continue gets its answer now;
     * any other one would take a reset for it, so its body is read and dropped first. */
    bool waits = http_header(x, "Expect") != NULL;
    if (!waits && x->length <= (int64_t)x->server->drain_max)
        return MHD_YES;
    x->close = true;
    return send_reply(x);
}

static void set_answering(struct MHD_Connection *connection, bool answering)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (info && info->socket_context)
        ((peer *)info->socket_context)->answering = answering;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state)
{
    exchange *x = *state;
    (void)cls;
    (void)url;
    if (!x)
        return MHD_NO; /* no memory for it when the request line came */
    if (!x->connection) {
        x->connection = connection;
        x->method = method;
        return take_head(x, version);
    }
    if (*size > 0) {
        enum MHD_Result result = take_body(x, data, *size);
        *size = 0;
        return result;
    }
    set_answering(connection, true);
    if (x->reply.status == 0)
        route_run(x);
    return x->reply.status == 0 ? MHD_YES : send_reply(x); /* 0: suspended */
}

void http_suspend(exchange *x)
{
    MHD_suspend_connection(x->connection);
}

static listener *listener_of(const exchange *x)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_DAEMON);
    for (int i = 0; i < x->server->listeners; i++)
        if (x->server->listener[i].daemon == info->daemon)
            return &x->server->listener[i];
    return NULL;
}

void http_resume(exchange *x)
{
    listener *l = listener_of(x);
    MHD_resume_connection(x->connection);
    if (l)
        l->due = true;
}

/* Beginning and end. */

static void *on_uri(void *cls, const char *uri, struct MHD_Connection *connection)
{
    http *server = cls;
    (void)connection;
    exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->server = server;
    x->start = uv_hrtime();
    x->target = strdup(uri);
    if (!x->target) {
        free(x);
        return NULL;
    }
    server->exchanges++;
    return x;
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    http *server = cls;
    exchange *x = *state;
    (void)code;
    *state = NULL;
    set_answering(connection, false);
    if (!x)
        return;
    server->exchanges--;
    route_end(x);
    free_body(x);
    buffer_free(&x->reply.text);
    free(x->target);
    free(x);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    http *server = cls;
    peer *l = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        atomic_fetch_add(&metric.connections, 1);
        l = calloc(1, sizeof *l);
        *context = l;
        if (!l)
            return; /* it is not swept, and closes by the idle timeout */
        l->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        l->next = server->peers;
        l->back = &server->peers;
        if (l->next)
            l->next->back = &l->next;
        server->peers = l;
        return;
    }
    atomic_fetch_sub(&metric.connections, 1);
    if (!l)
        return;
    *l->back = l->next;
    if (l->next)
        l->next->back = l->back;
    free(l);
}

/* libmicrohttpd takes a short read for the end of what has come and waits for the next edge of
 * epoll; where the end of the stream came with the data there is no next edge. Such a connection,
 * whose request can no more become whole, would stay until the idle timeout and hold a shutdown up.
 */
static void on_sweep(uv_timer_t *timer)
{
    http *server = timer->data;
    char byte;
    for (peer *l = server->peers; l; l = l->next)
        if (!l->answering && recv(l->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
            shutdown(l->fd, SHUT_RDWR); /* makes an edge; libmicrohttpd closes it */
}

/* Paths are split before they are decoded; see split_target. */
static size_t no_unescape(void *cls, struct MHD_Connection *connection, char *text)
{
    (void)cls;
    (void)connection;
    return strlen(text);
}

static void on_message(void *cls, const char *format, va_list args)
{
    char text[512];
    (void)cls;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = '\0';
    log_line(LOG_DEBUG, "http", "message", text, NULL);
}

/* The loop. */

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    ((listener *)poll->data)->due = true;
}

static void on_timer(uv_timer_t *timer)
{
    http *server = timer->data;
    for (int i = 0; i < server->listeners; i++)
        server->listener[i].due = true;
}

static void on_prepare(uv_prepare_t *prepare)
{
    http *server = prepare->data;
    uint64_t soonest = UINT64_MAX;
    for (int i = 0; i < server->listeners; i++) {
        listener *l = &server->listener[i];
        MHD_UNSIGNED_LONG_LONG timeout;
        if (l->due) {
            l->due = false;
            MHD_run(l->daemon);
        }
        if (MHD_get_timeout(l->daemon, &timeout) == MHD_YES && timeout < soonest)
            soonest = timeout;
    }
    if (soonest == UINT64_MAX)
        uv_timer_stop(&server->timer);
    else
        uv_timer_start(&server->timer, on_timer, soonest, 0);
}

/* Listening. */

static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    /* A socket that nobody listens on was left by a process that is gone. */
    if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        int probe = socket(AF_UNIX, SOCK_STREAM, 0);
        if (probe >= 0 && connect(probe, (struct sockaddr *)&address, sizeof address) != 0 &&
            errno == ECONNREFUSED)
            unlink(path);
        if (probe >= 0)
            close(probe);
    }
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, BACKLOG) != 0) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

static int listen_tcp(const char *text, const char **why)
{
    char host[256], *end;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    snprintf(host, sizeof host, "%s", text[0] == '[' ? text + 1 : text);
    end = strrchr(host, ':');
    const char *port = end + 1;
    *(text[0] == '[' ? end - 1 : end) = '\0';
    int code = getaddrinfo(host, port, &hints, &found);
    if (code != 0) {
        *why = gai_strerror(code);
        return -1;
    }
    int fd = socket(found->ai_family, SOCK_STREAM, 0), one = 1;
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
            *why = strerror(errno);
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd;
}

static void describe_address(listener *l)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char host[80], port[16];
    if (getsockname(l->socket, (struct sockaddr *)&address, &size) != 0 ||
        getnameinfo((struct sockaddr *)&address, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    bool six = address.ss_family == AF_INET6;
    snprintf(l->url, sizeof l->url, "http://%s%s%s:%s", six ? "[" : "", host, six ? "]" : "", port);
}

static bool start_listener(listener *l, const char *address, const flags *f)
{
    const char *why = NULL;
    if (strncmp(address, "unix:", 5) == 0) {
        l->socket = listen_unix(address + 5);
        snprintf(l->url, sizeof l->url, "%s", address);
        if (l->socket >= 0)
            snprintf(l->path, sizeof l->path, "%s", address + 5);
    } else {
        l->socket = listen_tcp(address, &why);
        if (l->socket >= 0)
            describe_address(l);
    }
    if (l->socket < 0) {
        fprintf(stderr, "lossd: cannot listen on %s: %s\n", address, why ? why : strerror(errno));
        return false;
    }
    l->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
        l->server, MHD_OPTION_EXTERNAL_LOGGER, on_message, NULL, MHD_OPTION_LISTEN_SOCKET,
        l->socket, MHD_OPTION_NOTIFY_COMPLETED, on_completed, l->server,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, l->server, MHD_OPTION_URI_LOG_CALLBACK, on_uri,
        l->server, MHD_OPTION_UNESCAPE_CALLBACK, no_unescape, NULL,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)f->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)((f->idle_timeout + 999) / 1000), MHD_OPTION_END);
    if (!l->daemon) {
        fprintf(stderr,
                "lossd: cannot start serving on %s: too many connections allowed for this "
                "process's file limit, or no memory\n",
                address);
        return false;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    uv_poll_init(l->server->loop, &l->poll, info->epoll_fd);
    l->poll.data = l;
    uv_poll_start(&l->poll, UV_READABLE, on_readable);
    return true;
}

http *http_start(uv_loop_t *loop, const flags *f)
{
    http *server = calloc(1, sizeof *server);
    if (!server)
        return NULL;
    server->loop = loop;
    server->drain_max = (size_t)f->drain_max;
    uv_prepare_init(loop, &server->prepare);
    server->prepare.data = server;
    uv_timer_init(loop, &server->timer);
    server->timer.data = server;
    uv_timer_init(loop, &server->sweep);
    server->sweep.data = server;
    for (int i = 0; i < f->listens; i++) {
        listener *l = &server->listener[i];
        l->server = server;
        l->due = true;
        if (!start_listener(l, f->listen[i], f)) {
            if (l->socket >= 0)
                close(l->socket);
            http_stop(server);
            return NULL;
        }
        server->listeners++;
    }
    uv_prepare_start(&server->prepare, on_prepare);
    uv_timer_start(&server->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    return server;
}

const char *http_url(const http *server, int i)
{
    return i < server->listeners ? server->listener[i].url : NULL;
}

int http_exchanges(const http *server)
{
    return server->exchanges;
}

void http_quiesce(http *server)
{
    server->closing = true;
    for (int i = 0; i < server->listeners; i++) {
        listener *l = &server->listener[i];
        if (l->socket < 0)
            continue;
        int fd = MHD_quiesce_daemon(l->daemon);
        if (fd >= 0)
            close(fd);
        l->socket = -1;
        if (l->path[0] != '\0')
            unlink(l->path);
        l->due = true;
    }
}

/* libuv lets go of its handles one by one, in no order that matters. */
static void on_closed(uv_handle_t *handle)
{
    http *server = handle->data;
    if (--server->handles == 0)
        free(server);
}

static void close_handle(http *server, uv_handle_t *handle)
{
    handle->data = server;
    server->handles++;
    uv_close(handle, on_closed);
}

void http_stop(http *server)
{
    http_quiesce(server);
    for (int i = 0; i < server->listeners; i++) {
        listener *l = &server->listener[i];
        uv_poll_stop(&l->poll);
        close_handle(server, (uv_handle_t *)&l->poll);
        MHD_stop_daemon(l->daemon);
    }
    close_handle(server, (uv_handle_t *)&server->prepare);
    close_handle(server, (uv_handle_t *)&server->timer);
    close_handle(server, (uv_handle_t *)&server->sweep);
}
