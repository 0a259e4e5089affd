/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* POLLRDHUP */
#include "http/peer.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static const uint64_t MS = 1000000, SECOND = 1000000000;

void peers_setup(peers *all, const flags *f)
{
    *all = (peers){
        .header = (uint64_t)f->header_timeout * MS,
        .body = (uint64_t)f->body_timeout * MS,
        .idle = (uint64_t)f->idle_timeout * MS,
        .request = (uint64_t)f->request_timeout * MS,
        .rate = (uint64_t)f->body_rate,
    };
}

peer *peer_add(peers *all, int fd)
{
    peer *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->fd = fd;
    p->next = all->first;
    p->back = &all->first;
    if (p->next)
        p->next->back = &p->next;
    all->first = p;
    return p;
}

void peer_remove(peer *p)
{
    *p->back = p->next;
    if (p->next)
        p->next->back = p->back;
    free(p);
}

uint64_t peer_time(const peers *all, size_t bytes)
{
    return (uint64_t)((double)bytes / (double)all->rate * (double)SECOND);
}

void peer_enter(const peers *all, peer *p, phase next, uint64_t now, size_t bytes)
{
    p->phase = next;
    p->since = 0;
    switch (next) {
    case PEER_IDLE:
        p->deadline = now + (p->used ? all->idle : all->header);
        break;
    case PEER_HEAD:
        if (p->used) /* otherwise the deadline of a new connection stays */
            p->deadline = now + all->header;
        p->used = true;
        break;
    case PEER_BODY:
        p->deadline = now + all->body;
        break;
    case PEER_WORK:
        p->asked = false;
        p->deadline = 0;
        break;
    case PEER_OTHER:
        p->deadline = 0;
        break;
    case PEER_REPLY:
        p->deadline = now + all->body + peer_time(all, bytes);
        break;
    }
}

void peer_moved(const peers *all, peer *p, uint64_t start, size_t bytes)
{
    p->since = 0;
    p->deadline += peer_time(all, bytes);
    if (p->deadline > start + all->request)
        p->deadline = start + all->request;
}

bool peer_is_stuck(peer *p, uint64_t run, uint64_t idle)
{
    /* Numbers of runs after which a connection is stuck. One run normally reads all unread bytes,
     * or as many as the buffer has room for. */
    enum { ENOUGH = 8, ENOUGH_IDLE = 4096 };
    int unread = 0;
    if ((p->phase != PEER_HEAD && p->phase != PEER_BODY) || ioctl(p->fd, FIONREAD, &unread) != 0 ||
        unread != p->unread || p->since == 0) {
        p->unread = unread;
        p->since = run;
        return false;
    }
    const uint64_t runs = run - p->since;
    return unread > 0 ? runs >= ENOUGH : runs >= ENOUGH_IDLE && idle >= ENOUGH_IDLE;
}

bool peer_has_left(const peer *p)
{
    struct pollfd one = {.fd = p->fd, .events = p->named || p->asked ? 0 : POLLRDHUP};
    return poll(&one, 1, 0) == 1; /* POLLHUP and POLLERR need not be asked for */
}

bool peer_ask(peer *p, bool old)
{
    /* Interim replies may come at any time before a reply, but not to HTTP/1.0. Of all of them,
     * this is the one that every client passes over. */
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (p->named || p->asked || !p->plain || old)
        return false;
    const ssize_t sent = send(p->fd, text, sizeof text - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0 && sent < (ssize_t)sizeof text - 1)
        shutdown(p->fd, SHUT_RDWR); /* what follows would be misread */
    p->asked = sent > 0;
    return p->asked;
}

static ssize_t peek(const peer *p)
{
    char byte;
    return recv(p->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

bool peer_is_over(const peer *p)
{
    const bool whole = p->phase != PEER_IDLE && framing_whole(&p->framing);
    return !whole && peek(p) == 0;
}

bool peer_is_quiet(const peer *p)
{
    return peek(p) <= 0;
}
