/* SPDX-License-Identifier: MIT */
#include "http/receive.h"

#include "http/gate.h"
#include "http/reply.h"
#include "http/server.h"
#include "http/stream.h"
#include "tell/metrics.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

static peer *peer_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

void *receive_line(void *cls, const char *uri, struct MHD_Connection *connection)
{
    listener *l = cls;
    peer *p = peer_of(connection);
    const char *query = strchr(uri, '?');
    if (p)
        p->requests++;
    exchange *x = p ? malloc(sizeof *x) : NULL; /* calloc would search for it: malloc has it */
    if (!x)
        return NULL;
    *x = (exchange){
        .number = p->requests, .server = l->server, .listener = l, .peer = p, .start = uv_hrtime()};
    x->target.query = x->line = strdup(uri);
    if (!x->line) {
        free(x);
        return NULL;
    }
    /* Cut the query in libmicrohttpd's own memory: its parts, of which there may be thousands,
     * would take memory there, and are not needed. */
    if (query)
        ((char *)(uintptr_t)query)[1] = '\0';
    p->exchange = x;
    peer_enter(&l->server->peers, p, PEER_HEAD, x->start, 0);
    l->server->exchanges++;
    l->server->quiet = 0;
    return x;
}

/* Note a header, without the white space behind its value, which is not part of it: cut in
 * libmicrohttpd's own memory, by writing a NUL. */
static enum MHD_Result note_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t name_size, const char *value, size_t value_size)
{
    exchange *x = cls;
    const span text = head_trimmed((span){value, value_size});
    const int which = head_find((span){name, name_size});
    (void)kind;
    if (text.size < value_size)
        ((char *)(uintptr_t)value)[text.size] = '\0';
    if (which < HEADERS && x->times[which]++ == 0)
        x->header[which] = value;
    return MHD_YES;
}

/* The announced length of the body, whose header framing has checked. */
static int64_t length_of(const exchange *x)
{
    const char *length = http_header(x, HEADER_CONTENT_LENGTH);
    return http_header(x, HEADER_TRANSFER_ENCODING) ? -1 : length ? strtoll(length, NULL, 10) : 0;
}

/* Was the rest of this request refused before libmicrohttpd saw it? Then that is the reply, unless
 * there is one already, and the last one on this connection. */
static bool was_refused(exchange *x)
{
    const framing *f = &x->peer->framing;
    problem p;
    if (x->number > f->requests)
        problem_set(&p, 500, "internal", "the request was not checked");
    else if (x->number == f->requests && f->status != 0)
        problem_set(&p, f->status, f->code, "%s", f->why);
    else
        return false;
    x->close = true;
    if (x->reply.status == 0)
        http_reply_problem(x, &p);
    return true;
}

/* Make room for `more` bytes of the body; of its exact length, if that is known. */
static bool grow_body(exchange *x, size_t more)
{
    size_t need = x->body_size + more;
    if (need <= x->body_capacity)
        return true;
    size_t capacity = x->length > 0 ? (size_t)x->length : need + need / 2;
    if (capacity > x->body_max)
        capacity = x->body_max;
    if (x->length < 0 && !x->server->handler->grow(x, capacity - x->body_capacity))
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

/* A body that nobody wants, and that is not read to its end. */
static void too_long(exchange *x)
{
    problem p;
    problem_set(&p, 413, "too_large",
                "a body has no meaning here, and this one is larger than %zu bytes (--drain-max)",
                x->server->drain_max);
    http_reply_problem(x, &p);
    x->refused = true;
}

static void free_body(exchange *x)
{
    if (x->placed)
        gate_place(x->peer->fd, NULL);
    x->placed = false;
    pages_free(&x->room);
    x->body = NULL;
    x->body_size = x->body_capacity = 0;
}

/* May the rest of the body be read to where it stays? So it may if all that was read of it has come
 * here, and it is worth it. */
static bool may_place(const exchange *x)
{
    enum { WORTH = 64 * 1024 };
    const framing *f = &x->peer->framing;
    const uint64_t left = framing_left(f);
    return f->requests == x->number && left >= WORTH && x->body_size + left == (uint64_t)x->length;
}

static enum MHD_Result take_body(exchange *x, const char *data, size_t size)
{
    metrics_count(received_bytes_total, size);
    if (!x->stream)
        peer_moved(&x->server->peers, x->peer, x->start, size);
    if (!x->refused && !x->unwanted && size > x->body_max - x->body_size)
        too_large(x);
    if (!x->refused && !x->unwanted && !grow_body(x, size))
        x->refused = true;
    if (x->refused || x->unwanted) {
        if (x->discarded == 0)
            x->server->handler->refuse(x);
        free_body(x);
        x->discarded += size;
        if (x->discarded <= x->server->drain_max)
            return MHD_YES;
        if (x->unwanted && !x->refused)
            too_long(x);
        reply_early(x);
        return MHD_NO;
    }
    if (!x->placed)
        memcpy(x->body + x->body_size, data, size);
    x->body_size += size;
    if (!x->placed && may_place(x)) {
        x->placed = true;
        gate_place(x->peer->fd, x->body + x->body_size);
    }
    return MHD_YES;
}

/* Some of the body of an exchange whose reply is streamed. */
static enum MHD_Result take_some(exchange *x, const char *data, size_t *size)
{
    const size_t taken = x->server->handler->take(x, data, *size);
    stream_received(x, taken);
    *size -= taken;
    return MHD_YES;
}

/* The body of such an exchange is complete; then, all of the reply has been sent. */
static enum MHD_Result end_stream(exchange *x)
{
    if (!x->refused) {
        if (!was_refused(x))
            stream_whole(x);
        x->server->handler->run(x);
    }
    if (stream_is_over(x))
        return stream_keeps(x) && reply_nothing(x) ? MHD_YES : MHD_NO;
    stream_hold(x);
    return MHD_YES;
}

/* The head is complete: refuse the request, or receive the body. */
static enum MHD_Result take_head(exchange *x)
{
    problem p;
    peer_enter(&x->server->peers, x->peer, PEER_BODY, x->server->turn, 0);
    peer_moved(&x->server->peers, x->peer, x->start, 0);
    MHD_get_connection_values_n(x->connection, MHD_HEADER_KIND, note_header, x);
    exchange_identify(x, http_header(x, HEADER_REQUEST_ID));
    if (was_refused(x))
        return reply_send(x) ? MHD_YES : MHD_NO;
    x->length = length_of(x);
    const char *expect = http_header(x, HEADER_EXPECT);
    if (expect && strcasecmp(expect, "100-continue") != 0) {
        problem_set(&p, 417, "expectation_failed",
                    "Expect is \"%.40s\"; only 100-continue is known", expect);
        http_reply_problem(x, &p);
        x->refused = true;
    } else if (!target_split(x->line, &x->target, &p)) {
        http_reply_problem(x, &p);
        x->refused = true;
    } else if (!x->server->handler->begin(x)) {
        x->refused = true;
    } else if (!x->unwanted && !x->stream && x->length > 0 && (uint64_t)x->length > x->body_max) {
        too_large(x);
    } else if (x->unwanted && x->length > (int64_t)x->server->drain_max) {
        too_long(x);
    }
    if (!x->refused || x->length == 0)
        return MHD_YES;
    /* Refused, and the client will send a body. A client that waits for 100 Continue gets the reply
     * now; any other would see a connection reset instead of a reply, so its body is read and
     * dropped first. */
    if (!expect && x->length <= (int64_t)x->server->drain_max)
        return MHD_YES;
    x->close = true;
    return reply_send(x) ? MHD_YES : MHD_NO;
}

enum MHD_Result receive_request(void *cls, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *data,
                                size_t *size, void **state)
{
    exchange *x = *state;
    (void)url;
    if (!x) /* there was no memory when the request line was received */
        return MHD_queue_response(connection, 503, ((http *)cls)->exhausted);
    if (!x->connection) {
        x->connection = connection;
        x->method = method;
        x->old = strcmp(version, "HTTP/1.0") == 0;
        return take_head(x);
    }
    /* A call without data (NULL) means that the request is complete. Data of size 0 does not: it
     * comes when the client asked for 100 Continue and there is no body. */
    if (x->stream && stream_has_left(x))
        return MHD_NO;
    if (data && x->stream && !x->refused)
        return *size > 0 ? take_some(x, data, size) : MHD_YES;
    if (data) {
        enum MHD_Result result = *size > 0 ? take_body(x, data, *size) : MHD_YES;
        *size = 0;
        return result;
    }
    if (x->stream)
        return end_stream(x);
    if (was_refused(x))
        x->server->handler->refuse(x);
    if (x->reply.status == 0) {
        peer_enter(&x->server->peers, x->peer, PEER_WORK, 0, 0);
        x->server->handler->run(x);
    }
    if (x->reply.status == 0) /* suspended */
        return MHD_YES;
    return reply_send(x) ? MHD_YES : MHD_NO;
}

void receive_end(void *cls, struct MHD_Connection *connection, void **state,
                 enum MHD_RequestTerminationCode code)
{
    exchange *x = *state;
    (void)cls;
    (void)connection;
    (void)code;
    *state = NULL;
    if (!x)
        return;
    if (x->stream && !reply_was_nothing(x))
        shutdown(x->peer->fd, SHUT_RDWR); /* something was sent: what follows would be misread */
    if (!x->upgraded) {
        exchange_finish(x, PEER_IDLE);
        gate_answered(x->peer->fd);
    }
    stream_free(x);
    free_body(x);
    buffer_free(&x->reply.text);
    free(x->line);
    free(x);
}
