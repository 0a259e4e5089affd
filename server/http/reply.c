/* SPDX-License-Identifier: MIT */
#include "http/reply.h"

#include "http/gate.h"
#include "http/handover.h"
#include "http/server.h"
#include "tell/metrics.h"

#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

void http_reply_kept(exchange *x, int status, const char *media, span text)
{
    reply *r = &x->reply;
    r->status = status;
    r->media = media;
    r->pieces = 1;
    r->whole = text;
    r->piece = &r->whole;
}

void http_reply_text(exchange *x, int status, const char *media, buffer *text)
{
    reply *r = &x->reply;
    r->text = *text;
    *text = buffer_new(text->max);
    http_reply_kept(x, status, media, (span){r->text.data, r->text.size});
}

/* Is it a route of the Open Inference Protocol, whose errors have another form? Also decided when
 * the path was not split, because an earlier check failed. */
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

/* Where the headers of a reply go: to libmicrohttpd, or, if that is NULL, to lines of text. */
typedef struct headers {
    struct MHD_Response *response;
    buffer lines;
} headers;

static void header(headers *to, const char *name, const char *value)
{
    if (!value || *value == '\0')
        return;
    /* Without memory for a header the reply goes out without it. */
    if (to->response)
        (void)MHD_add_response_header(to->response, name, value);
    else
        buffer_texts(&to->lines, name, ": ", value, "\r\n", NULL);
}

static const char exposed[] =
    "X-Request-Id, Server-Timing, Retry-After, Inference-Header-Content-Length";

/* The CORS headers, with which a web page of another origin can read the reply. */
static void share(const exchange *x, headers *to)
{
    header(to, "Access-Control-Allow-Origin", http_header(x, HEADER_ORIGIN));
    header(to, "Vary", "Origin");
    if (!x->reply.preflight) {
        header(to, "Access-Control-Expose-Headers", exposed);
        return;
    }
    header(to, "Access-Control-Allow-Methods", x->reply.allow);
    header(to, "Access-Control-Allow-Headers",
           "Authorization, Content-Type, Content-Encoding, Inference-Header-Content-Length, "
           "X-Request-Id, X-Request-Timeout, traceparent");
    header(to, "Access-Control-Max-Age", "600");
}

/* The date where the head is text; libmicrohttpd adds it to others. */
static void date_text(buffer *to)
{
    char text[64];
    struct tm utc;
    const time_t now = time(NULL);
    if (gmtime_r(&now, &utc) && strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc) > 0)
        buffer_texts(to, "Date: ", text, "\r\n", NULL);
}

/* The CORS headers where the head is text. */
static void share_text(const exchange *x, buffer *to)
{
    const char *origin = x->shared ? http_header(x, HEADER_ORIGIN) : NULL;
    if (origin)
        buffer_texts(to, "Access-Control-Allow-Origin: ", origin, "\r\nVary: Origin\r\n",
                     "Access-Control-Expose-Headers: ", exposed, "\r\n", NULL);
}

void reply_head(exchange *x, const char *media, buffer *to)
{
    x->close = x->old || x->server->closing;
    buffer_printf(to, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nX-Request-Id: %s\r\n", media, x->id);
    date_text(to);
    if (x->close || http_header_lists(x, HEADER_CONNECTION, "close"))
        buffer_text(to, "Connection: close\r\n");
    if (!x->old)
        buffer_text(to, "Transfer-Encoding: chunked\r\n");
    share_text(x, to);
    buffer_text(to, "\r\n");
}

bool reply_nothing(const exchange *x)
{
    gate_mute(x->peer->fd);
    return MHD_queue_response(x->connection, 200, x->server->nothing) == MHD_YES;
}

bool reply_was_nothing(const exchange *x)
{
    return gate_unmute(x->peer->fd);
}

static const char challenge[] = "Bearer realm=\"lossd\"";

static const char exhausted_text[] =
    "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,"
    "\"code\":\"no_memory\",\"detail\":\"no memory for a reply\"}\n";

struct MHD_Response *reply_exhausted(void)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        sizeof exhausted_text - 1, (void *)exhausted_text, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return NULL;
    headers to = {.response = response};
    header(&to, "Content-Type", "application/problem+json");
    header(&to, "Retry-After", "1");
    header(&to, "Connection", "close");
    return response;
}

/* Replies of at least this size are sent in parts: otherwise, with a client that reads as fast as
 * data arrives, one call would send all of it and block the loop for other clients. Each part is
 * copied, which costs little. */
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
    if (r->text.failed)
        return NULL;
    if (r->pieces == 1 && r->size < LONG_REPLY)
        return MHD_create_response_from_buffer(r->size, (void *)(uintptr_t)r->piece[0].data,
                                               MHD_RESPMEM_PERSISTENT);
    if (r->size >= LONG_REPLY)
        return MHD_create_response_from_callback(r->size, REPLY_PART, copy_part, r, NULL);
    for (int i = 0; i < r->pieces; i++)
        iov[i] = (struct MHD_IoVec){r->piece[i].data, r->piece[i].size};
    return MHD_create_response_from_iovec(iov, (unsigned)r->pieces, NULL, NULL);
}

/* All but those that libmicrohttpd acts upon. */
static void add_headers(const exchange *x, headers *to)
{
    const reply *r = &x->reply;
    header(to, "Content-Type", r->media);
    if (r->head > 0) {
        char length[24];
        snprintf(length, sizeof length, "%llu", (unsigned long long)r->head);
        header(to, "Inference-Header-Content-Length", length);
    }
    header(to, "Content-Encoding", r->encoding);
    header(to, "Vary", r->encoding ? "Accept-Encoding" : NULL);
    header(to, "X-Request-Id", x->id);
    header(to, "Server-Timing", r->timing);
    header(to, "Allow", r->allow);
    header(to, "Upgrade", r->upgrade);
    header(to, "Location", r->location);
    header(to, "Retry-After", r->retry ? "1" : NULL);
    header(to, "WWW-Authenticate", r->authenticate ? challenge : NULL);
    if (x->shared)
        share(x, to);
}

/* May the reply be held, with these headers? */
static bool hold(const exchange *x)
{
    char room[GATE_LINES];
    headers to = {.lines = {.data = room, .capacity = sizeof room, .max = sizeof room}};
    if (!x->peer->plain || x->reply.status == 101)
        return false;
    add_headers(x, &to);
    return !to.lines.failed &&
           gate_hold(x->peer->fd, x->reply.size, (span){to.lines.data, to.lines.size});
}

bool reply_send(exchange *x)
{
    reply *r = &x->reply;
    for (int i = 0; i < r->pieces; i++)
        r->size += r->piece[i].size;
    struct MHD_Response *response = r->status == 101 ? handover_response(x) : make_response(r);
    if (!response) {
        r->status = 503;
        r->code = "no_memory";
        r->size = sizeof exhausted_text - 1;
    }
    metrics_count(sent_bytes_total, r->size);
    metrics_refused(r->code);
    peer_enter(&x->server->peers, x->peer, PEER_REPLY, x->server->turn, r->size);
    if (!response)
        return MHD_queue_response(x->connection, 503, x->server->exhausted) == MHD_YES;
    headers to = {.response = response};
    if (!hold(x))
        add_headers(x, &to);
    header(&to, "Connection", r->status == 426 ? "Upgrade" : NULL);
    header(&to, "Connection", x->close || x->server->closing ? "close" : NULL);
    enum MHD_Result result = MHD_queue_response(x->connection, (unsigned)r->status, response);
    MHD_destroy_response(response);
    return result == MHD_YES;
}

/* libmicrohttpd cannot reply before a request is complete. Nothing of a reply has been sent, so it
 * can be written to the socket directly, before the connection is closed. */
void reply_early(exchange *x)
{
    reply *r = &x->reply;
    problem p;
    if (x->id[0] == '\0')
        exchange_identify(x, NULL);
    if (r->status == 0 || !r->media) { /* not yet, or not of what was not read to its end */
        problem_set(&p, 408, "client_too_slow",
                    "the request did not come in time (--header-timeout, --body-timeout, "
                    "--request-timeout)");
        http_reply_problem(x, &p);
    }
    if (x->stream) {
        x->server->handler->run(x); /* the reply has begun: the problem ends it */
        return;
    }
    metrics_refused(r->code);
    if (!x->peer->plain)
        return;
    buffer text = buffer_new(8192);
    buffer_printf(&text,
                  "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                  "X-Request-Id: %s\r\nConnection: close\r\n",
                  r->status, problem_title(r->status), r->media, r->text.size, x->id);
    buffer_texts(&text, r->allow ? "Allow: " : "", r->allow ? r->allow : "", r->allow ? "\r\n" : "",
                 r->retry ? "Retry-After: 1\r\n" : "", r->authenticate ? "WWW-Authenticate: " : "",
                 r->authenticate ? challenge : "", r->authenticate ? "\r\n" : "", NULL);
    date_text(&text);
    share_text(x, &text);
    buffer_text(&text, "\r\n");
    buffer_append(&text, r->text.data, r->text.size);
    if (!text.failed) /* one attempt: if it does not fit now, a slow client would hardly read it */
        (void)!send(x->peer->fd, text.data, text.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    buffer_free(&text);
}
