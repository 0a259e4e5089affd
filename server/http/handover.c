/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* MSG_CMSG_CLOEXEC */
#include "http/handover.h"

#include "http/server.h"
#include "region.h"
#include "tell/log.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 4096 };

/* A connection. While a worker has its message, nothing is read. */
struct handover {
    handover *next, **back;
    listener *listener;
    const handler *handler;                       /* outlives the server */
    struct MHD_UpgradeResponseHandle *connection; /* NULL once it has ended */
    uv_poll_t poll;
    uv_work_t work;
    bool working, closed; /* `closed`: libuv has let go of poll */
    int fd;
    char message[HTTP_MESSAGE];
    size_t got;
    int descriptor; /* that came with the message; -1: none */
    bool refused;
    buffer line;
    region_group regions;
};

static void free_if_over(handover *h)
{
    if (h->working || !h->closed)
        return;
    if (h->descriptor >= 0)
        close(h->descriptor);
    h->handler->gone(&h->regions);
    free(h);
}

static void on_closed(uv_handle_t *handle)
{
    handover *h = handle->data;
    h->closed = true;
    free_if_over(h);
}

/* End the connection. What it has handed over is let go of when no worker is at it. */
static void end(handover *h)
{
    if (!h->connection)
        return;
    *h->back = h->next;
    if (h->next)
        h->next->back = h->back;
    uv_poll_stop(&h->poll);
    uv_close((uv_handle_t *)&h->poll, on_closed);
    MHD_upgrade_action(h->connection, MHD_UPGRADE_ACTION_CLOSE);
    h->connection = NULL;
    h->listener->due = true;
}

static void on_message(uv_work_t *work)
{
    handover *h = work->data;
    h->line = buffer_new(LINE_MAX_BYTES);
    h->refused = !h->handler->handed(&h->regions, h->message, h->descriptor, &h->line);
    h->descriptor = -1; /* it was taken */
}

static void on_readable(uv_poll_t *poll, int status, int events);

static void log_message(const handover *h)
{
    log_entry entry = log_begin(LOG_INFO, h->refused ? "region refused" : "region");
    cursor c = cursor_new((span){h->message, sizeof h->message});
    log_text(&entry, "kind", "client");
    log_number(&entry, "bytes", (double)cursor_u64(&c), 0);
    log_end(&entry);
}

static void after_message(uv_work_t *work, int status)
{
    handover *h = work->data;
    buffer *line = &h->line;
    (void)status;
    h->working = false;
    log_message(h);
    const bool sent =
        h->connection && !line->failed &&
        send(h->fd, line->data, line->size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)line->size;
    buffer_free(line);
    h->got = 0;
    if (sent)
        uv_poll_start(&h->poll, UV_READABLE | UV_DISCONNECT, on_readable);
    else
        end(h); /* it has left, or does not read its answers */
    if (!h->connection)
        free_if_over(h);
}

/* Keep the descriptor that came with a part of the message. False: there are more than one. */
static bool take_descriptors(handover *h, struct msghdr *parts)
{
    bool one = (parts->msg_flags & MSG_CTRUNC) == 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(parts); c; c = CMSG_NXTHDR(parts, c)) {
        const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && i < count;
             i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            one = one && h->descriptor < 0;
            if (one)
                h->descriptor = fd;
            else
                close(fd);
        }
    }
    return one;
}

/* The socket has something: read at most the rest of one message. */
static void on_readable(uv_poll_t *poll, int status, int events)
{
    handover *h = poll->data;
    union {
        char room[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec to = {h->message + h->got, sizeof h->message - h->got};
    struct msghdr parts = {.msg_iov = &to,
                           .msg_iovlen = 1,
                           .msg_control = control.room,
                           .msg_controllen = sizeof control.room};
    (void)events;
    const ssize_t got = status == 0 ? recvmsg(h->fd, &parts, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) : 0;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    const bool fits = got > 0 && take_descriptors(h, &parts);
    h->got += got > 0 ? (size_t)got : 0;
    if (!fits || (h->got == sizeof h->message && h->descriptor < 0)) {
        end(h);
    } else if (h->got == sizeof h->message) {
        uv_poll_stop(&h->poll);
        h->working = true;
        (void)uv_queue_work(h->listener->server->loop, &h->work, on_message, after_message);
    }
}

/* libmicrohttpd has sent the 101 and lets go of the socket. What it read before belongs to no
 * message: a descriptor that came with it is lost. */
static void begin(void *cls, struct MHD_Connection *connection, void *state, const char *read,
                  size_t read_size, MHD_socket fd, struct MHD_UpgradeResponseHandle *upgraded)
{
    exchange *x = state;
    handover *h = read_size == 0 ? calloc(1, sizeof *h) : NULL;
    (void)cls;
    (void)connection;
    (void)read;
    x->upgraded = true;
    exchange_finish(x, PEER_OTHER);
    if (!h || uv_poll_init(x->server->loop, &h->poll, fd) != 0) {
        free(h);
        MHD_upgrade_action(upgraded, MHD_UPGRADE_ACTION_CLOSE);
        x->listener->due = true;
        return;
    }
    h->listener = x->listener;
    h->handler = x->server->handler;
    h->connection = upgraded;
    h->fd = fd;
    h->descriptor = -1;
    h->poll.data = h->work.data = h;
    h->back = &x->server->handovers;
    h->next = *h->back;
    if (h->next)
        h->next->back = &h->next;
    *h->back = h;
    uv_poll_start(&h->poll, UV_READABLE | UV_DISCONNECT, on_readable);
}

struct MHD_Response *handover_response(exchange *x)
{
    return MHD_create_response_for_upgrade(begin, x);
}

void handover_stop(http *server)
{
    while (server->handovers)
        end(server->handovers);
}
