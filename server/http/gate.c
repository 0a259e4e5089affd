/* SPDX-License-Identifier: MIT */
#include "http/gate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { PART = 256 * 1024 /* how much of a body is read at a time: tens of microseconds */ };

/* The connections of this thread, by descriptor. */
static _Thread_local struct {
    framing *framing; /* NULL: not a connection */
    char *place;      /* where the rest of the body goes; NULL: to libmicrohttpd */
    size_t ahead;     /* bytes there that libmicrohttpd has not counted */
    bool tls, mute, dropped;
} * connection;
static _Thread_local int connections;

bool gate_open(int fd, framing *f, bool tls)
{
    if (fd >= connections) {
        const int more = fd + fd / 2 + 16;
        void *grown = realloc(connection, (size_t)more * sizeof *connection);
        if (!grown)
            return false;
        connection = grown;
        memset(connection + connections, 0, (size_t)(more - connections) * sizeof *connection);
        connections = more;
    }
    memset(&connection[fd], 0, sizeof *connection);
    connection[fd].framing = f;
    connection[fd].tls = tls;
    return true;
}

void gate_end(void)
{
    free(connection);
    connection = NULL;
    connections = 0;
}

static framing *framing_of(int fd)
{
    return fd >= 0 && fd < connections ? connection[fd].framing : NULL;
}

static ssize_t read_socket(void *from, void *to, size_t size)
{
    /* What recv() does; that name is taken. */
    return recvfrom(*(const int *)from, to, size, 0, NULL, NULL);
}

/* Drop what follows the last request: unread, it would reset the connection when that is closed,
 * maybe before the client has read the reply. Returns what the source does when there is nothing
 * left; or more than 0, for a client that sends without pause. */
static ssize_t drop(char *to, size_t size, gate_source *source, void *from)
{
    ssize_t got = 1;
    for (int i = 0; i < 16 && got > 0; i++)
        got = source(from, to, size);
    return got;
}

bool gate_close(int fd)
{
    char unread[16 * 1024];
    const framing *f = framing_of(fd);
    if (!f)
        return false;
    ssize_t got = read_socket(&fd, unread, sizeof unread);
    const bool sending = got > 0 || !framing_whole(f);
    if (got > 0)
        got = drop(unread, sizeof unread, read_socket, &fd);
    connection[fd].framing = NULL;
    return sending && (got > 0 || (got < 0 && errno == EAGAIN));
}

void gate_place(int fd, char *to)
{
    connection[fd].place = to;
}

/* Read a part of the body to where it goes: what the source returns. */
static ssize_t read_body(int fd, gate_source *source, void *from)
{
    framing *f = connection[fd].framing;
    const uint64_t left = framing_left(f);
    const ssize_t got = source(from, connection[fd].place, left < PART ? (size_t)left : PART);
    if (got <= 0)
        return got;
    framing_read(f, (size_t)got);
    connection[fd].ahead = (size_t)got;
    connection[fd].place = (uint64_t)got < left ? connection[fd].place + got : NULL;
    return got;
}

/* libmicrohttpd takes it that a socket is empty when it gets less than it has asked for, and waits
 * for more. So read until that is true. */
ssize_t gate_read(int fd, void *to, size_t size, gate_source *source, void *from)
{
    framing *f = framing_of(fd);
    char *out = to;
    size_t done = 0;
    if (!f)
        return source(from, to, size);
    while (done < size && (connection[fd].place || connection[fd].ahead > 0)) {
        size_t *ahead = &connection[fd].ahead;
        const ssize_t got = *ahead > 0 ? 0 : read_body(fd, source, from);
        if (*ahead == 0)
            return done > 0 ? (ssize_t)done : got;
        const size_t counted = *ahead < size - done ? *ahead : size - done;
        *ahead -= counted;
        done += counted;
    }
    if (done == size)
        return (ssize_t)size;
    while (f->status == 0) {
        const size_t gap = framing_gap(f), room = size - done;
        if (room <= gap) { /* a chunk's size comes next, or the last one, which zeros may precede */
            memset(out + done, '0', room);
            return (ssize_t)size;
        }
        const ssize_t got = source(from, out + done + gap, room - gap);
        if (got <= 0)
            return done > 0 ? (ssize_t)done : got;
        done += framing_pass(f, out + done + gap, (size_t)got, out + done);
        if (done == size || (done > 0 && (size_t)got < room - gap && f->status == 0))
            return (ssize_t)done;
    }
    done += framing_finish(f, out + done, size - done);
    const ssize_t got = done > 0 ? (ssize_t)done : drop(to, size, source, from);
    return done == 0 && got > 0 ? 0 : got; /* the end, for a client that sends without pause */
}

void gate_mute(int fd)
{
    connection[fd].mute = true;
    connection[fd].dropped = false;
}

bool gate_unmute(int fd)
{
    const bool nothing = connection[fd].mute && !connection[fd].dropped;
    connection[fd].mute = false;
    return !nothing;
}

bool gate_drops(int fd)
{
    if (!framing_of(fd) || !connection[fd].mute)
        return false;
    connection[fd].dropped = true;
    return true;
}

/* These are recv() and send() for the linker. In C they have other names, since the C library's
 * header may have inline functions of those. */
ssize_t gate_recv(int fd, void *to, size_t size, int how) __asm__("recv");

ssize_t gate_recv(int fd, void *to, size_t size, int how)
{
    const bool tls = framing_of(fd) && connection[fd].tls;
    return how != 0 || tls ? recvfrom(fd, to, size, how, NULL, NULL)
                           : gate_read(fd, to, size, read_socket, &fd);
}

ssize_t gate_send(int fd, const void *from, size_t size, int how) __asm__("send");

ssize_t gate_send(int fd, const void *from, size_t size, int how)
{
    const bool tls = framing_of(fd) && connection[fd].tls; /* then it is a record, or part of one */
    return !tls && gate_drops(fd) ? (ssize_t)size : sendto(fd, from, size, how, NULL, 0);
}
