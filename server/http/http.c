/* SPDX-License-Identifier: MIT
 *
 * One libmicrohttpd daemon for each address, without threads of its own: its epoll descriptor is a
 * uv_poll_t, its timeout a uv_timer_t. Callbacks only mark that a daemon is due; it then runs once
 * in each iteration of the loop, however many events there were.
 */
#include "http/http.h"

#include "http/gate.h"
#include "http/handover.h"
#include "http/linger.h"
#include "http/receive.h"
#include "http/reply.h"
#include "http/server.h"
#include "http/stream.h"
#include "http/systemd.h"
#include "http/tls.h"
#include "tell/log.h"
#include "tell/metrics.h"

#include <malloc.h>
#include <microhttpd.h>
#include <netdb.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONNECTION_MEMORY = 36 * 1024, /* libmicrohttpd zeroes it at every request, and a half again */
    SWEEP_MS = 200,
    QUIET_SWEEPS = 5,
    IDLE_TURNS = 64,
    /* A run reads of each connection what libmicrohttpd has memory for, of a body that goes to its
     * place (gate_place) but a part of what is there. So run again, for so many ns, before asking
     * for other events, each of which takes a system call an address. */
    RUNS = 100 * 1000,
};

/* Connections. */

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
    if (!p || !gate_open(fd, &p->framing, l->tls)) {
        shutdown(fd, SHUT_RDWR); /* no deadline would end it, or no check of what it sends */
        return;
    }
    name_client(p, MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS));
    if (l->tls)
        p->tls = tls_attach(
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION)->tls_session);
    p->plain = !l->tls;
    p->named = !l->at.inet;
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
    /* At --max-connections libmicrohttpd stops accepting, and resumes only in its next run: make it
     * run, since there may be no other event. */
    l->due = true;
    atomic_fetch_sub(&metric.connections, 1);
    if (!p)
        return;
    if (gate_close(p->fd))
        linger_begin(l->server->loop, p->fd);
    tls_detach(p->tls);
    peer_remove(p);
}

/* The sweep over all connections. */

static void end_late(peer *p)
{
    const struct linger at_once = {.l_onoff = 1};
    exchange *x = p->exchange;
    const bool coming = p->phase == PEER_HEAD || p->phase == PEER_BODY;
    const bool answering = coming && x->stream && !stream_has_ended(x);
    if (coming)
        reply_early(x);
    if (answering && !stream_is_over(x)) { /* what has come is answered before it ends */
        stream_hold(x);
        return;
    }
    if (p->phase == PEER_REPLY) /* discard what the client has not read */
        setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    p->deadline = 0;
    shutdown(p->fd, SHUT_RDWR); /* an event for libmicrohttpd, which then closes the connection */
}

/* libmicrohttpd keeps trying, at full CPU load, to process what does not fit in its buffer. framing
 * lets no such line pass; if it happens all the same, end the connection. */
static void end_stuck(http *server)
{
    for (peer *p = server->peers.first; p; p = p->next) {
        exchange *x = p->exchange;
        problem no_room;
        if (!x || p->deadline == 0)
            continue;
        /* If its buffer is completely full, there may be no unread bytes in the socket. */
        const bool chunked = p->phase == PEER_BODY && x->length < 0;
        if (!peer_is_stuck(p, x->listener->runs, chunked ? server->idle : 0))
            continue;
        metrics_count(stuck_connections_total, 1);
        problem_set(&no_room, 400, "malformed_request", "the request could not be read to its end");
        if (x->reply.status == 0)
            http_reply_problem(x, &no_room);
        end_late(p);
    }
}

/* Has the client got a streamed reply to its end? Before that a close of both sides could lose it:
 * the kernel drops what is unsent when more of the request comes. */
static bool has_all(const peer *p)
{
    const exchange *x = p->exchange;
    return x->stream && stream_has_ended(x) && stream_is_over(x) && !gate_unsent(p->fd);
}

/* A client seems to have left: is it asked whether it has? Not amid a streamed reply. */
static bool is_asked(peer *p)
{
    const exchange *x = p->exchange;
    return !x->stream && peer_ask(p, x->old);
}

/* After a short read libmicrohttpd waits for the next edge of epoll; but if the end of the stream
 * arrived together with the data, there is no further edge. Such a connection, whose request can
 * never be complete, would stay open until its deadline and delay a shutdown. */
static void on_sweep(uv_timer_t *timer)
{
    http *server = timer->data;
    const uint64_t now = uv_hrtime();
    log_flush();
    pages_age(QUIET_SWEEPS);
    end_stuck(server);
    if (server->exchanges == 0 && ++server->quiet == QUIET_SWEEPS) {
        server->handler->rest();
        malloc_trim(0); /* the C library keeps memory that large bodies have freed */
    }
    for (peer *p = server->peers.first; p; p = p->next) {
        if (p->deadline != 0 && now > p->deadline)
            end_late(p);
        else if (p->phase == PEER_WORK && peer_has_left(p) && !is_asked(p))
            server->handler->leave(p->exchange);
        else if (p->phase < PEER_WORK && peer_is_over(p))
            shutdown(p->fd, SHUT_RDWR);
        else if (server->closing && p->exchange && has_all(p))
            shutdown(p->fd, SHUT_RDWR); /* it need not end by itself */
        else if (server->closing && p->phase == PEER_IDLE && p->exchange)
            server->handler->room(p->exchange); /* between two units of a body that is streamed */
        else if (server->closing && p->phase == PEER_IDLE && peer_is_quiet(p))
            shutdown(p->fd, SHUT_RDWR); /* between two requests */
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
    listener *l = poll->data;
    listener_is_due(l);
    l->server->idle = 0;
}

static void on_timer(uv_timer_t *timer)
{
    http *server = timer->data;
    for (int i = 0; i < server->listeners; i++)
        listener_is_due(&server->listener[i]);
}

static void on_prepare(uv_prepare_t *prepare)
{
    http *server = prepare->data;
    uint64_t soonest = UINT64_MAX;
    for (int i = 0; i < server->listeners; i++) {
        listener *l = &server->listener[i];
        MHD_UNSIGNED_LONG_LONG timeout;
        if (l->due) {
            begin_turn(server);
            l->due = false;
            do {
                l->runs++;
                MHD_run(l->daemon);
                gate_flush();
            } while (MHD_get_timeout(l->daemon, &timeout) == MHD_YES && timeout == 0 &&
                     uv_hrtime() - server->turn < RUNS);
        }
        if (l->due) /* again: soon, but not at once, so that the loop handles other events first */
            soonest = 0;
        if (MHD_get_timeout(l->daemon, &timeout) == MHD_YES && timeout < soonest)
            soonest = timeout;
    }
    server->idle = soonest == 0 ? server->idle + 1 : 0;
    if (server->idle % IDLE_TURNS == IDLE_TURNS - 1)
        end_stuck(server);
    if (soonest == UINT64_MAX)
        uv_timer_stop(&server->timer);
    else
        uv_timer_start(&server->timer, on_timer, soonest, 0);
    if (server->turn != 0) {
        const uint64_t held = uv_hrtime() - server->turn;
        metrics_observe(&metrics_mine()->loop_turn_seconds, (double)held * 1e-9);
        /* A loop that moves large bodies may run for as long as there are some. A client that was
         * woken up on this processor, and a worker, would wait for the kernel's next tick. */
        if (held > RUNS)
            sched_yield();
    }
    server->turn = 0;
}

/* Beginning and end. */

static bool start_listener(listener *l, const endpoint *at, const flags *f)
{
    const bool secure = at->inet && tls_wanted();
    const unsigned how = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                         (at->inet ? 0 : MHD_ALLOW_UPGRADE);
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
    /* No timeouts by libmicrohttpd: they restart at every byte, ours are absolute deadlines. */
    l->daemon = MHD_start_daemon(
        how | (secure ? MHD_USE_TLS : 0), 0, NULL, NULL, receive_request, l->server,
        MHD_OPTION_EXTERNAL_LOGGER, on_message, NULL, MHD_OPTION_LISTEN_SOCKET, l->at.fd,
        MHD_OPTION_NOTIFY_COMPLETED, receive_end, l->server, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, l, MHD_OPTION_URI_LOG_CALLBACK, receive_line, l,
        MHD_OPTION_UNESCAPE_CALLBACK, no_unescape, NULL, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)((f->max_connections + f->loops - 1) / f->loops), MHD_OPTION_ARRAY,
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

/* Open address i. Inherited sockets come first, and replace the default address. `other` has opened
 * it already. */
static bool open_endpoint(const flags *f, int i, const http *other, endpoint *at)
{
    int first;
    const int inherited = systemd_sockets(&first);
    return other           ? listen_again(&other->listener[i].at, at)
           : i < inherited ? listen_inherited(first + i, at)
                           : listen_at(f->listen[i - inherited], f->loops > 1, at);
}

static bool start_listeners(http *server, const flags *f, const http *other)
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
        if (!open_endpoint(f, i, other, &at))
            return false;
        if (!start_listener(l, &at, f)) {
            close(at.fd);
            return false;
        }
        server->listeners++;
    }
    return true;
}

http *http_start(uv_loop_t *loop, const flags *f, const handler *h, const http *other)
{
    http *server = calloc(1, sizeof *server);
    if (!server)
        return NULL;
    server->loop = loop;
    server->handler = h;
    server->drain_max = (size_t)f->drain_max;
    pages_setup((size_t)(f->memory_budget / f->loops / 8));
    uv_prepare_init(loop, &server->prepare);
    server->prepare.data = server;
    uv_timer_init(loop, &server->timer);
    server->timer.data = server;
    uv_timer_init(loop, &server->sweep);
    server->sweep.data = server;
    peers_setup(&server->peers, f);
    server->exhausted = reply_exhausted();
    server->nothing = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (!server->exhausted || !server->nothing || !start_listeners(server, f, other)) {
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

bool http_url_is_local(const http *server, int i)
{
    return server->listener[i].at.local;
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
        listen_remove(&l->at);
        int fd = MHD_quiesce_daemon(l->daemon);
        if (fd >= 0)
            close(fd);
        l->at.fd = -1;
        l->due = true;
    }
}

/* libuv closes handles asynchronously, in any order. */
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
    handover_stop(server);
    for (int i = 0; i < server->listeners; i++) {
        listener *l = &server->listener[i];
        uv_poll_stop(&l->poll);
        close_handle(server, (uv_handle_t *)&l->poll);
        MHD_stop_daemon(l->daemon);
    }
    pages_age(0);
    gate_end();
    server->handler->rest();
    log_flush();
    if (server->exhausted)
        MHD_destroy_response(server->exhausted);
    if (server->nothing)
        MHD_destroy_response(server->nothing);
    close_handle(server, (uv_handle_t *)&server->prepare);
    close_handle(server, (uv_handle_t *)&server->timer);
    close_handle(server, (uv_handle_t *)&server->sweep);
}
