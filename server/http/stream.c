/* SPDX-License-Identifier: MIT */
#include "http/stream.h"

#include "http/reply.h"
#include "http/server.h"
#include "http/tls.h"
#include "tell/metrics.h"

#include <errno.h>
#include <linux/sockios.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum {
    ROOM = 64 * 1024,
    FRONT = sizeof "10000\r\n" - 1, /* before the data of a chunk: its size */
    BACK = sizeof "\r\n0\r\n\r\n" - 1,
    /* How much is sent in one iteration of the loop, so that a client who reads as fast as that
     * does not keep it busy. */
    TURN = 512 * 1024,
};

struct stream {
    exchange *x;
    uv_poll_t poll;
    bool polls;   /* poll is open */
    bool waiting; /* for the client to take what is there */
    bool whole;   /* all of the body has come */
    bool ended;   /* nothing more will be written */
    bool closed;  /* the end has been framed */
    bool left;    /* the client has */
    bool held;
    bool works; /* what has come is being worked on */
    uint64_t since;
    uint64_t owed; /* since when, while it is held, the client is to take what is there; 0: not */
    uint64_t late; /* how much longer it has taken in all than the bytes may take, in ns */
    void *session; /* of TLS; NULL: none */
    uint64_t turn; /* the iteration in which `burst` bytes were sent */
    size_t burst;
    size_t at, end; /* what of `out` is being sent; end is 0 while it is filled */
    size_t size;    /* bytes that were filled in */
    char out[FRONT + ROOM + BACK];
};

/* The head of the reply is the first to be sent. */
static bool write_head(stream *s, const char *media)
{
    buffer head = buffer_new(ROOM);
    reply_head(s->x, media, &head);
    if (!head.failed)
        memcpy(s->out, head.data, head.size);
    s->end = head.size;
    buffer_free(&head);
    return s->end > 0;
}

bool stream_open(exchange *x, const char *media)
{
    const int one = 1;
    stream *s = malloc(sizeof *s);
    if (!s)
        return false;
    memset(s, 0, offsetof(stream, out));
    s->x = x;
    if (!write_head(s, media)) {
        free(s);
        return false;
    }
    if (!x->peer->plain)
        s->session =
            MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION)->tls_session;
    (void)setsockopt(x->peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    x->stream = s;
    return true;
}

/* How many bytes the client has still to take: also those that the kernel keeps for it, of which it
 * asks for more only when many have gone. */
static size_t bytes_owed(const stream *s)
{
    int kept = 0;
    (void)ioctl(s->x->peer->fd, SIOCOUTQ, &kept);
    return s->end - s->at + (kept > 0 ? (size_t)kept : 0);
}

/* The phase that the connection is in: by whom is waited for. A client that reads too slowly is no
 * longer waited for in all than one that reads nothing of what it is owed. */
static void enter(stream *s)
{
    exchange *x = s->x;
    const peers *all = &x->server->peers;
    const uint64_t now = uv_hrtime();
    s->late += s->owed ? now - s->owed : 0;
    s->owed = s->held && s->waiting ? now : 0;
    if (s->owed)
        peer_enter(all, x->peer, PEER_REPLY, now - s->late, bytes_owed(s));
    else if (s->held)
        peer_enter(all, x->peer, PEER_WORK, now, 0);
    else if (s->ended)
        peer_enter(all, x->peer, PEER_BODY, now, 0);
    else
        peer_enter(all, x->peer,
                   s->since > 0 ? PEER_BODY
                   : s->works   ? PEER_WORK
                                : PEER_IDLE,
                   now, 0);
}

void stream_since(exchange *x, uint64_t since)
{
    const bool same = since == x->stream->since;
    x->stream->since = since;
    if (since == 0 || !same)
        enter(x->stream);
}

void stream_works(exchange *x, bool works)
{
    stream *s = x->stream;
    const bool same = works == s->works;
    s->works = works;
    if (!same && !s->held && !s->ended && s->since == 0)
        enter(s);
}

void stream_received(exchange *x, size_t size)
{
    x->passed += size;
    metrics_count(received_bytes_total, size);
    if (x->peer->phase == PEER_BODY && !x->stream->ended)
        peer_moved(&x->server->peers, x->peer, x->stream->since, size);
}

bool stream_closing(const exchange *x)
{
    return x->server->closing;
}

void stream_hold(exchange *x)
{
    stream *s = x->stream;
    if (s->held)
        return;
    s->held = true;
    MHD_suspend_connection(x->connection);
    enter(s);
}

void stream_more(exchange *x)
{
    stream *s = x->stream;
    if (!s->held)
        return;
    s->held = false;
    MHD_resume_connection(x->connection);
    listener_is_due(x->listener);
    enter(s);
}

/* Sending. */

static void lose(stream *s)
{
    s->left = true;
    s->at = s->end = s->size = 0;
    shutdown(s->x->peer->fd, SHUT_RDWR); /* an event for libmicrohttpd, which then closes it */
    stream_more(s->x);
}

static void on_writable(uv_poll_t *poll, int status, int events);

static void wait_for_room(stream *s)
{
    if (!s->polls && uv_poll_init(s->x->server->loop, &s->poll, s->x->peer->fd) != 0) {
        lose(s);
        return;
    }
    s->polls = s->waiting = true;
    s->poll.data = s;
    uv_poll_start(&s->poll, UV_WRITABLE, on_writable);
    if (s->held)
        enter(s);
}

static ssize_t send_bytes(const stream *s, const char *data, size_t size)
{
    return s->session ? tls_send(s->session, data, size)
                      : send(s->x->peer->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void count_sent(stream *s, size_t size)
{
    const uint64_t may_take = peer_time(&s->x->server->peers, size);
    s->late -= s->late < may_take ? s->late : may_take;
    s->at += size;
    s->burst += size;
}

/* Has this iteration of the loop sent enough? */
static bool is_enough(stream *s)
{
    if (s->turn != s->x->server->turn) {
        s->turn = s->x->server->turn;
        s->burst = 0;
    }
    return s->burst >= TURN;
}

/* Send what is complete. True: all of it, and `out` is free. */
static bool send_some(stream *s)
{
    while (s->at < s->end && !s->waiting) {
        const ssize_t sent = is_enough(s) ? 0 : send_bytes(s, s->out + s->at, s->end - s->at);
        if (sent > 0) {
            count_sent(s, (size_t)sent);
        } else if (sent == 0 || errno == EAGAIN || errno == EWOULDBLOCK) {
            wait_for_room(s);
        } else if (errno != EINTR) {
            lose(s);
        }
    }
    if (s->at < s->end)
        return false;
    s->at = s->end = 0;
    return true;
}

static void put(stream *s, const char *text, size_t size)
{
    memcpy(s->out + s->end, text, size);
    s->end += size;
}

/* Complete what was filled in: as a chunk; or, for HTTP/1.0, as it is, where the end of the
 * connection is that of the reply. */
static void frame(stream *s)
{
    char size[FRONT + 1];
    const bool chunks = !s->x->old;
    s->at = FRONT;
    s->end = FRONT + s->size;
    if (chunks && s->size > 0) {
        s->at = 0;
        snprintf(size, sizeof size, "%05x\r\n", (unsigned)s->size & 0xfffff);
        memcpy(s->out, size, FRONT);
        put(s, "\r\n", 2);
    }
    if (chunks && s->ended)
        put(s, "0\r\n\r\n", 5);
    metrics_count(sent_bytes_total, s->size);
    s->x->reply.size += s->size;
    s->closed = s->ended;
    s->size = 0;
}

void stream_flush(exchange *x)
{
    stream *s = x->stream;
    if (!send_some(s) || (s->size == 0 && (!s->ended || s->closed)))
        return;
    frame(s);
    (void)send_some(s);
}

size_t stream_write(exchange *x, const char *data, size_t size)
{
    stream *s = x->stream;
    size_t done = 0;
    while (done < size && !s->left && send_some(s)) {
        const size_t room = ROOM - s->size, some = size - done < room ? size - done : room;
        memcpy(s->out + FRONT + s->size, data + done, some);
        s->size += some;
        done += some;
        if (s->size == ROOM)
            stream_flush(x);
    }
    return s->left ? size : done;
}

bool stream_has_left(const exchange *x)
{
    return x->stream->left;
}

bool stream_has_ended(const exchange *x)
{
    return x->stream->ended;
}

bool stream_is_over(const exchange *x)
{
    const stream *s = x->stream;
    return s->left || (s->closed && s->end == 0);
}

void stream_whole(exchange *x)
{
    x->stream->whole = true;
}

bool stream_keeps(const exchange *x)
{
    const stream *s = x->stream;
    return s->whole && !s->left && !x->close;
}

/* All was sent. If the connection is not kept, a client that still sends would see a reset instead
 * of the reply, if it were closed at once: so it sees that no more is coming, and may end. */
static void finish(stream *s)
{
    if (!stream_is_over(s->x))
        return;
    if (!s->left && !stream_keeps(s->x))
        shutdown(s->x->peer->fd, SHUT_WR);
    stream_more(s->x);
}

void stream_end(exchange *x)
{
    stream *s = x->stream;
    if (s->ended)
        return;
    s->ended = true;
    x->refused = true;
    if (!s->held)
        enter(s); /* what the client has to do yet has a deadline */
    stream_flush(x);
    finish(s);
}

static void on_writable(uv_poll_t *poll, int status, int events)
{
    stream *s = poll->data;
    exchange *x = s->x;
    (void)status;
    (void)events;
    begin_turn(x->server);
    uv_poll_stop(&s->poll);
    s->waiting = false;
    if (s->held)
        enter(s);
    stream_flush(x);
    if (s->ended)
        finish(s);
    else if (!s->waiting)
        x->server->handler->room(x);
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void stream_free(exchange *x)
{
    stream *s = x->stream;
    x->stream = NULL;
    if (!s || !s->polls) {
        free(s);
        return;
    }
    uv_poll_stop(&s->poll);
    uv_close((uv_handle_t *)&s->poll, on_closed);
}
