/* SPDX-License-Identifier: MIT
 *
 * One libmicrohttpd daemon for each address, without threads of its own: its epoll descriptor is a
 * uv_poll_t, its timeout a uv_timer_t. Callbacks only mark that a daemon is due; it runs once a
 * turn of the loop, however many things happened in that turn.
 */
#include "http/http.h"

#include "http/listen.h"
#include "http/peer.h"
#include "http/systemd.h"
#include "http/tls.h"
#include "route.h"
#include "tell/log.h"
#include "tell/metrics.h"

#include <malloc.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONNECTION_MEMORY = 64 * 1024, /* libmicrohttpd zeroes it at every request: keep it small */
    SWEEP_MS = 200,
    QUIET_SWEEPS = 5,
};

typedef struct listener {
    http *server;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    endpoint at;
    bool due, tls;
} listener;

struct http {
    uv_loop_t *loop;
    uv_prepare_t prepare;
    uv_timer_t timer;
    uv_timer_t sweep;
    peers peers;
    int listeners;
    listener listener[LISTEN_MAX];
    int exchanges;
    int handles; /* still being closed */
    bool closing;
    int quiet; /* sweeps in a row without an exchange */
    size_t drain_max;
    struct MHD_Response *exhausted; /* for when there is no memory for another */
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

/* The guard, and how long the head is of which it was shown all. */
typedef struct look {
    guard guard;
    size_t size;
} look;

static enum MHD_Result look_at_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                      size_t name_size, const char *value, size_t value_size)
{
    look *l = cls;
    (void)kind;
    guard_header(&l->guard, (span){name, name_size}, (span){value, value_size});
    l->size += name_size + strlen(": ") + value_size + strlen("\r\n");
    return MHD_YES;
}

/* libmicrohttpd leaves out what stands on folded lines and behind a NUL, where somebody in front
 * may see a length. It tells how long the head was: if that is not what the usual spelling of what
 * it showed makes, the connection ends with the reply, and what comes behind it is never a request.
 */
static bool is_usual(const exchange *x, const look *l, const char *version)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    const size_t line = strlen(x->method) + 1 + strlen(x->line) + 1 + strlen(version);
    return info && info->header_size == line + strlen("\r\n") + l->size + strlen("\r\n");
}

/* The client's, if it is fit to be repeated. */
static void choose_id(exchange *x, const char *given)
{
    const size_t size = given ? strlen(given) : 0;
    if (given && size <= HTTP_ID_MAX && head_is_token((span){given, size})) {
        memcpy(x->id, given, size + 1);
        return;
    }
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random)
        random = x->start;
    snprintf(x->id, sizeof x->id, "%016llx", (unsigned long long)random);
}

bool http_is_local(const exchange *x)
{
    return x->listener->at.local;
}

const char *http_client(const exchange *x)
{
    return x->peer->address;
}

/* Replies. */

void http_reply_kept(exchange *x, int status, const char *media, span text)
{
    reply *r = &x->reply;
    r->status = status;
    r->media = media;
    r->pieces = 1;
    r->piece[0] = text;
}

void http_reply_text(exchange *x, int status, const char *media, buffer *text)
{
    reply *r = &x->reply;
    r->text = *text;
    *text = buffer_new(text->max);
    http_reply_kept(x, status, media, (span){r->text.data, r->text.size});
}

/* Clients of the Open Inference Protocol want errors of its form; also where the path has not been
 * split yet, because something before it was wrong. */
static bool is_oip(const exchange *x)
{
    return x->target.segments > 0 ? strcmp(x->target.segment[0], "v2") == 0
                                  : strncmp(x->line, "/v2", 3) == 0 && strchr("/?", x->line[3]);
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
    x->reply.authenticate = p->status == 401;
    x->reply.code = p->code;
    http_reply_text(x, oip && p->status == 422 ? 400 : p->status,
                    oip ? "application/json" : "application/problem+json", &text);
}

static void header(struct MHD_Response *response, const char *name, const char *value)
{
    /* Without memory for a header the reply goes out without it. */
    if (value && *value != '\0')
        (void)MHD_add_response_header(response, name, value);
}

/* What a web page of another origin needs to see it. */
static void share(const exchange *x, struct MHD_Response *response)
{
    header(response, "Access-Control-Allow-Origin", http_header(x, "Origin"));
    header(response, "Vary", "Origin");
    if (!x->reply.preflight) {
        header(response, "Access-Control-Expose-Headers",
               "X-Request-Id, Server-Timing, Retry-After, Inference-Header-Content-Length");
        return;
    }
    header(response, "Access-Control-Allow-Methods", x->reply.allow);
    header(response, "Access-Control-Allow-Headers",
           "Authorization, Content-Type, Content-Encoding, Inference-Header-Content-Length, "
           "X-Request-Id, X-Request-Timeout, traceparent");
    header(response, "Access-Control-Max-Age", "600");
}

static const char exhausted_text[] =
    "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,"
    "\"code\":\"no_memory\",\"detail\":\"no memory for a reply\"}\n";

static struct MHD_Response *make_exhausted(void)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        sizeof exhausted_text - 1, (void *)exhausted_text, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return NULL;
    header(response, "Content-Type", "application/problem+json");
    header(response, "Retry-After", "1");
    header(response, "Connection", "close");
    return response;
}

/* A reply of at least so many bytes goes out a part at a time: handed over whole, one call sends
 * all of it where the client reads as fast as it comes, and the loop is kept from everybody else.
 * The parts are copied, while they are in the caches anyway. */
enum { LONG_REPLY = 32 << 20, REPLY_PART = 512 << 10 };

static ssize_t copy_part(void *context, uint64_t at, char *to, size_t most)
{
    const reply *r = context;
    size_t done = 0;
    for (int i = 0; i < r->pieces && done < most; i++) {
        const span all = r->piece[i];
        if (at >= all.size) {
            at -= all.size;
            continue;
        }
        const size_t n = all.size - at < most - done ? all.size - at : most - done;
        memcpy(to + done, all.data + at, n);
        done += n;
        at = 0;
    }
    return (ssize_t)done;
}

static struct MHD_Response *make_response(reply *r)
{
    struct MHD_IoVec iov[HTTP_PIECES];
    if (r->size >= LONG_REPLY)
        return MHD_create_response_from_callback(r->size, REPLY_PART, copy_part, r, NULL);
    for (int i = 0; i < r->pieces; i++)
        iov[i] = (struct MHD_IoVec){r->piece[i].data, r->piece[i].size};
    return MHD_create_response_from_iovec(iov, (unsigned)r->pieces, NULL, NULL);
}

static enum MHD_Result send_reply(exchange *x)
{
    reply *r = &x->reply;
    for (int i = 0; i < r->pieces; i++)
        r->size += r->piece[i].size;
    struct MHD_Response *response = r->text.failed ? NULL : make_response(r);
    if (!response) {
        r->status = 503;
        r->code = "no_memory";
        r->size = sizeof exhausted_text - 1;
    }
    metric.sent_bytes_total += r->size;
    metrics_refused(r->code);
    peer_enter(&x->server->peers, x->peer, PEER_REPLY, uv_hrtime(), r->size);
    if (!response)
        return MHD_queue_response(x->connection, 503, x->server->exhausted);
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
    header(response, "WWW-Authenticate", r->authenticate ? "Bearer realm=\"lossd\"" : NULL);
    header(response, "Connection", x->close || x->server->closing ? "close" : NULL);
    if (x->shared)
        share(x, response);
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
    if (!pages_grow(&x->room, capacity)) {
        problem p;
        problem_set(&p, 503, "no_memory", "no memory for a body of %zu bytes", capacity);
        http_reply_problem(x, &p);
        return false;
    }
    x->body = x->room.at;
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
    pages_free(&x->room);
    x->body = NULL;
    x->body_size = x->body_capacity = 0;
}

static enum MHD_Result take_body(exchange *x, const char *data, size_t size)
{
    metric.received_bytes_total += size;
    peer_moved(&x->server->peers, x->peer, x->start, size);
    if (!x->refused && !x->unwanted && size > x->body_max - x->body_size)
        too_large(x);
    if (!x->refused && !x->unwanted && !grow_body(x, size))
        x->refused = true;
    if (x->refused || x->unwanted) {
        if (x->discarded == 0)
            route_refuse(x);
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
    look l = {0};
    choose_id(x, http_header(x, "X-Request-Id"));
    peer_enter(&x->server->peers, x->peer, PEER_BODY, uv_hrtime(), 0);
    peer_moved(&x->server->peers, x->peer, x->start, 0);
    MHD_get_connection_values_n(x->connection, MHD_HEADER_KIND, look_at_header, &l);
    x->length = l.guard.length;
    x->close = !is_usual(x, &l, version);
    if (!guard_passes(&l.guard, version, &p)) {
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
    } else if (!target_split(x->line, &x->target, &p)) {
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
    if (!expect && x->length <= (int64_t)x->server->drain_max)
        return MHD_YES;
    x->close = true;
    return send_reply(x);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state)
{
    exchange *x = *state;
    (void)url;
    if (!x) /* no memory for it when the request line came */
        return MHD_queue_response(connection, 503, ((http *)cls)->exhausted);
    if (!x->connection) {
        x->connection = connection;
        x->method = method;
        return take_head(x, version);
    }
    /* Without data the request is whole. None of a size of 0 is not that: it comes where 100
     * Continue was asked for and there is no body. */
    if (data) {
        enum MHD_Result result = *size > 0 ? take_body(x, data, *size) : MHD_YES;
        *size = 0;
        return result;
    }
    if (x->reply.status == 0) {
        peer_enter(&x->server->peers, x->peer, PEER_WORK, 0, 0);
        route_run(x);
    }
    return x->reply.status == 0 ? MHD_YES : send_reply(x); /* 0: suspended */
}

void http_suspend(exchange *x)
{
    MHD_suspend_connection(x->connection);
}

void http_resume(exchange *x)
{
    MHD_resume_connection(x->connection);
    x->listener->due = true;
}

/* The life of requests and connections. */

static peer *peer_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void *on_uri(void *cls, const char *uri, struct MHD_Connection *connection)
{
    listener *l = cls;
    peer *p = peer_of(connection);
    exchange *x = p ? calloc(1, sizeof *x) : NULL;
    if (!x)
        return NULL;
    x->server = l->server;
    x->listener = l;
    x->peer = p;
    x->start = uv_hrtime();
    x->target.query = x->line = strdup(uri);
    if (!x->line) {
        free(x);
        return NULL;
    }
    p->exchange = x;
    peer_enter(&l->server->peers, p, PEER_HEAD, x->start, 0);
    l->server->exchanges++;
    l->server->quiet = 0;
    return x;
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    http *server = cls;
    exchange *x = *state;
    (void)connection;
    (void)code;
    *state = NULL;
    if (!x)
        return;
    x->peer->exchange = NULL;
    peer_enter(&server->peers, x->peer, PEER_IDLE, uv_hrtime(), 0);
    server->exchanges--;
    route_end(x);
    free_body(x);
    buffer_free(&x->reply.text);
    free(x->line);
    free(x);
}

static void name_client(peer *p, const union MHD_ConnectionInfo *info)
{
    char host[46], port[6];
    const struct sockaddr *a = info ? info->client_addr : NULL;
    if (a && (a->sa_family == AF_INET || a->sa_family == AF_INET6) &&
        getnameinfo(
            a, a->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6),
            host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(p->address, sizeof p->address, a->sa_family == AF_INET ? "%s:%s" : "[%s]:%s", host,
                 port);
    else
        snprintf(p->address, sizeof p->address, "unix");
}

static void begin_connection(listener *l, struct MHD_Connection *connection, void **context)
{
    const int fd =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    peer *p = peer_add(&l->server->peers, fd);
    listen_accepted(&l->at, fd);
    *context = p;
    if (!p) {
        shutdown(fd, SHUT_RDWR); /* without a deadline it could stay for ever */
        return;
    }
    name_client(p, MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS));
    if (l->tls)
        p->tls = tls_attach(
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION)->tls_session);
    p->plain = !l->tls;
    peer_enter(&l->server->peers, p, PEER_IDLE, uv_hrtime(), 0);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    listener *l = cls;
    peer *p = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        atomic_fetch_add(&metric.connections, 1);
        begin_connection(l, connection, context);
        return;
    }
    /* At --max-connections libmicrohttpd stops listening, and begins again only when it is run the
     * next time: nothing else may come that makes it run. */
    l->due = true;
    atomic_fetch_sub(&metric.connections, 1);
    if (!p)
        return;
    tls_detach(p->tls);
    peer_remove(p);
}

/* The sweep over all connections. */

/* libmicrohttpd cannot answer before a request is whole. Nothing of an answer has been sent, so it
 * may be written past it, before the connection ends. */
static void answer_early(exchange *x)
{
    reply *r = &x->reply;
    problem p;
    if (r->status == 0) {
        if (x->id[0] == '\0')
            choose_id(x, NULL);
        problem_set(&p, 408, "client_too_slow",
                    "the request did not come in time (--header-timeout, --body-timeout, "
                    "--request-timeout)");
        http_reply_problem(x, &p);
    }
    metrics_refused(r->code);
    if (!x->peer->plain)
        return;
    buffer text = buffer_new(8192);
    buffer_printf(&text,
                  "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                  "X-Request-Id: %s\r\nConnection: close\r\n\r\n",
                  r->status, problem_title(r->status), r->media, r->text.size, x->id);
    buffer_append(&text, r->text.data, r->text.size);
    if (!text.failed) /* what does not fit at once a slow client would hardly read */
        (void)!send(x->peer->fd, text.data, text.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    buffer_free(&text);
}

static void end_late(peer *p)
{
    const struct linger at_once = {.l_onoff = 1};
    if (p->phase == PEER_HEAD || p->phase == PEER_BODY)
        answer_early(p->exchange);
    if (p->phase == PEER_REPLY) /* what is not read is not kept */
        setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    p->deadline = 0;
    shutdown(p->fd, SHUT_RDWR); /* makes an edge; libmicrohttpd closes it */
}

/* libmicrohttpd takes a short read for the end of what has come and waits for the next edge of
 * epoll; where the end of the stream came with the data there is no next edge. Such a connection,
 * whose request can no more become whole, would stay until its deadline and hold a shutdown up. */
static void on_sweep(uv_timer_t *timer)
{
    http *server = timer->data;
    const uint64_t now = uv_hrtime();
    pages_age(QUIET_SWEEPS);
    if (server->exchanges == 0 && ++server->quiet == QUIET_SWEEPS)
        malloc_trim(0); /* the C library keeps what large bodies have left */
    for (peer *p = server->peers.first; p; p = p->next) {
        if (p->deadline != 0 && now > p->deadline)
            end_late(p);
        else if (p->phase == PEER_WORK && peer_has_left(p))
            route_leave(p->exchange);
        else if (p->phase < PEER_WORK && peer_is_over(p))
            shutdown(p->fd, SHUT_RDWR);
    }
}

/* Paths are split before they are decoded; see target_split. */
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
        if (l->due) /* again: soon, not at once, so that the loop gets its turn */
            soonest = 0;
        if (MHD_get_timeout(l->daemon, &timeout) == MHD_YES && timeout < soonest)
            soonest = timeout;
    }
    if (soonest == UINT64_MAX)
        uv_timer_stop(&server->timer);
    else
        uv_timer_start(&server->timer, on_timer, soonest, 0);
}

/* Beginning and end. */

static bool start_listener(listener *l, const endpoint *at, const flags *f)
{
    const bool secure = at->inet && tls_wanted();
    const unsigned how = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    const struct MHD_OptionItem with_tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, secure ? (void *)(uintptr_t)tls_certificate() : NULL},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, secure ? (void *)(uintptr_t)tls_key() : NULL},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)tls_priorities},
        {MHD_OPTION_END, 0, NULL}};
    const struct MHD_OptionItem without[] = {{MHD_OPTION_END, 0, NULL}};
    l->at = *at;
    l->tls = secure;
    l->due = true;
    if (secure)
        snprintf(l->at.url, sizeof l->at.url, "https%.150s", at->url + strlen("http"));
    /* No timeout of libmicrohttpd's: ours are absolute. */
    l->daemon = MHD_start_daemon(
        how | (secure ? MHD_USE_TLS : 0), 0, NULL, NULL, on_request, l->server,
        MHD_OPTION_EXTERNAL_LOGGER, on_message, NULL, MHD_OPTION_LISTEN_SOCKET, l->at.fd,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, l->server, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, l, MHD_OPTION_URI_LOG_CALLBACK, on_uri, l, MHD_OPTION_UNESCAPE_CALLBACK,
        no_unescape, NULL, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)f->max_connections, MHD_OPTION_ARRAY,
        secure ? with_tls : without, MHD_OPTION_END);
    if (!l->daemon) {
        fprintf(stderr,
                "lossd: cannot start serving on %s: too many connections allowed for this "
                "process's file limit, or no memory\n",
                l->at.url);
        return false;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    uv_poll_init(l->server->loop, &l->poll, info->epoll_fd);
    l->poll.data = l;
    uv_poll_start(&l->poll, UV_READABLE, on_readable);
    return true;
}

/* The address number i: those that were handed over come first, and replace the default. */
static bool open_endpoint(const flags *f, int i, endpoint *at)
{
    int first;
    const int inherited = systemd_sockets(&first);
    return i < inherited ? listen_inherited(first + i, at)
                         : listen_at(f->listen[i - inherited], at);
}

static bool start_listeners(http *server, const flags *f)
{
    int first;
    const int inherited = systemd_sockets(&first);
    const int count = inherited + (inherited > 0 && !f->listen_given ? 0 : f->listens);
    if (count > LISTEN_MAX) {
        fprintf(stderr, "lossd: at most %d addresses, those handed over included\n", LISTEN_MAX);
        return false;
    }
    for (int i = 0; i < count; i++) {
        listener *l = &server->listener[i];
        endpoint at;
        l->server = server;
        if (!open_endpoint(f, i, &at))
            return false;
        if (!start_listener(l, &at, f)) {
            close(at.fd);
            return false;
        }
        server->listeners++;
    }
    return true;
}

http *http_start(uv_loop_t *loop, const flags *f)
{
    http *server = calloc(1, sizeof *server);
    if (!server)
        return NULL;
    server->loop = loop;
    server->drain_max = (size_t)f->drain_max;
    pages_setup((size_t)f->memory_budget / 8);
    uv_prepare_init(loop, &server->prepare);
    server->prepare.data = server;
    uv_timer_init(loop, &server->timer);
    server->timer.data = server;
    uv_timer_init(loop, &server->sweep);
    server->sweep.data = server;
    peers_setup(&server->peers, f);
    server->exhausted = make_exhausted();
    if (!server->exhausted || !start_listeners(server, f)) {
        http_stop(server);
        return NULL;
    }
    uv_prepare_start(&server->prepare, on_prepare);
    uv_timer_start(&server->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    return server;
}

const char *http_url(const http *server, int i)
{
    return i < server->listeners ? server->listener[i].at.url : NULL;
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
        if (l->at.fd < 0)
            continue;
        int fd = MHD_quiesce_daemon(l->daemon);
        if (fd >= 0)
            close(fd);
        l->at.fd = -1;
        if (l->at.path[0] != '\0')
            unlink(l->at.path);
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
    pages_age(0);
    if (server->exhausted)
        MHD_destroy_response(server->exhausted);
    close_handle(server, (uv_handle_t *)&server->prepare);
    close_handle(server, (uv_handle_t *)&server->timer);
    close_handle(server, (uv_handle_t *)&server->sweep);
}
