/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* F_DUPFD_CLOEXEC */
#include "http/linger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LONGEST_MS = 2000, MOST = 64, PART = 16 * 1024 };

typedef struct linger_one {
    uv_poll_t poll;
    uv_timer_t timer;
    int fd;      /* a duplicate of its owner's */
    int handles; /* that are not closed yet */
} linger_one;

static _Thread_local int lingering;

/* libuv closes handles asynchronously, in any order. */
static void on_closed(uv_handle_t *handle)
{
    linger_one *l = handle->data;
    if (--l->handles > 0)
        return;
    close(l->fd);
    free(l);
    lingering--;
}

static void end(linger_one *l)
{
    if (uv_is_closing((uv_handle_t *)&l->poll))
        return;
    uv_close((uv_handle_t *)&l->poll, on_closed);
    uv_close((uv_handle_t *)&l->timer, on_closed);
}

static void on_time(uv_timer_t *timer)
{
    end(timer->data);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    linger_one *l = poll->data;
    char dropped[PART];
    ssize_t got = status < 0 ? 0 : 1; /* reset: libuv looks no more whether something comes */
    (void)events;
    for (int i = 0; i < LINGER_TURN / PART && got > 0; i++)
        got = recv(l->fd, dropped, sizeof dropped, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        end(l);
}

void linger_begin(uv_loop_t *loop, int fd)
{
    linger_one *l = lingering < MOST ? calloc(1, sizeof *l) : NULL;
    const int own = l ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (own < 0 || uv_poll_init(loop, &l->poll, own) != 0) {
        if (own >= 0)
            close(own);
        free(l);
        return;
    }
    uv_timer_init(loop, &l->timer);
    l->poll.data = l->timer.data = l;
    l->fd = own;
    l->handles = 2;
    lingering++;
    uv_poll_start(&l->poll, UV_READABLE, on_readable);
    uv_timer_start(&l->timer, on_time, LONGEST_MS, 0);
}
