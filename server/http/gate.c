/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memmem, syscall */
#include "http/gate.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    PART = 256 * 1024, /* how much of a body is read at a time: tens of microseconds */
    HELD = 16,         /* replies at a time */
    HELD_MOST = 32 * 1024,
    HEAD_MOST = 1024, /* what libmicrohttpd writes of a head without lines of ours, and more */
    ROOM_MOST = 1024 * 1024, /* less than twice what may be unsent on TCP: listen.c */
};

/* The connections of this thread, by descriptor. */
static _Thread_local struct {
    framing *framing;  /* NULL: not a connection */
    char *place;       /* where the rest of the body goes; NULL: to libmicrohttpd */
    size_t ahead;      /* bytes there that libmicrohttpd has not counted */
    size_t room;       /* what its socket takes, as the kernel counts */
    size_t owed;       /* at most so much of that is taken */
    unsigned answered; /* requests */
    bool tls, mute, dropped;
    bool held;    /* a reply is held */
    bool ended;   /* the client sends no more */
    bool hold;    /* the next reply may be held: its socket takes it, */
    size_t added; /* with so many bytes of these at the end of its head */
    char lines[GATE_LINES];
} * connection;
static _Thread_local int connections;

/* The replies that are held, one behind the other. */
static _Thread_local struct {
    int count;
    struct {
        int fd;
        size_t size;
    } each[HELD];
    size_t size;
    char *bytes;
} held;

static framing *framing_of(int fd)
{
    return fd >= 0 && fd < connections ? connection[fd].framing : NULL;
}

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
    int size = 0;
    socklen_t length = sizeof size;
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length) == 0 && size > 0)
        connection[fd].room = (size_t)(size < ROOM_MOST ? size : ROOM_MOST);
    return true;
}

void gate_end(void)
{
    gate_flush();
    free(held.bytes);
    held.bytes = NULL;
    free(connection);
    connection = NULL;
    connections = 0;
}

bool gate_unsent(int fd)
{
    int left = 0;
    return ioctl(fd, SIOCOUTQNSD, &left) == 0 && ioctl(fd, SIOCOUTQ, &left) == 0 && left > 0;
}

/* Is a whole request still to be answered? */
static bool owes(int fd)
{
    const framing *f = connection[fd].framing;
    return framing_whole(f) && f->requests > connection[fd].answered;
}

static ssize_t read_socket(void *from, void *to, size_t size)
{
    /* What recv() does; that name is taken. */
    const int fd = *(const int *)from;
    const ssize_t got = recvfrom(fd, to, size, 0, NULL, NULL);
    if (got != 0 || !framing_of(fd))
        return got;
    /* A client that sends no more may still read. At the end libmicrohttpd closes a connection,
     * though it has the reply: that has to wait until the reply is sent. */
    connection[fd].ended = true;
    if (!owes(fd))
        return 0;
    errno = EAGAIN;
    return -1;
}

void gate_answered(int fd)
{
    if (!framing_of(fd))
        return;
    connection[fd].answered++;
    if (connection[fd].ended && !owes(fd)) {
        gate_flush();
        shutdown(fd, SHUT_WR); /* so that libmicrohttpd looks again */
    }
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
    if (connection[fd].held)
        gate_flush();
    ssize_t got = read_socket(&fd, unread, sizeof unread);
    const bool sending = got > 0 || !framing_whole(f) || (!connection[fd].ended && gate_unsent(fd));
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
    gate_flush(); /* it takes long */
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

/* Replies that are held. */

/* At most what the kernel counts for bytes sent together: memory in powers of two, and what it
 * knows of them. */
static size_t cost(size_t size)
{
    return 2 * size + 2048;
}

/* It was empty when the reply was held, or nearly so: unless there is no memory the kernel takes
 * all of it. If it does not, the connection ends as if the network had failed. */
static void send_held(int fd, const char *from, size_t size)
{
    ssize_t sent;
    do
        sent = sendto(fd, from, size, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
    while (sent < 0 && errno == EINTR);
    connection[fd].held = false;
    connection[fd].owed += cost(size);
    if (sent != (ssize_t)size)
        (void)shutdown(fd, SHUT_RDWR);
}

void gate_flush(void)
{
    const char *from = held.bytes;
    for (int i = 0; i < held.count; i++) {
        send_held(held.each[i].fd, from, held.each[i].size);
        from += held.each[i].size;
    }
    held.count = 0;
    held.size = 0;
}

/* Does the socket surely take so many bytes? The kernel is asked whether it is empty when what was
 * sent since it was could fill it. */
static bool has_room(int fd, size_t size)
{
    int kept = 0;
    if (connection[fd].owed + cost(size) <= connection[fd].room)
        return true;
    if (ioctl(fd, SIOCOUTQ, &kept) != 0 || kept != 0)
        return false;
    connection[fd].owed = 0;
    return cost(size) <= connection[fd].room;
}

/* Is it a whole reply, after which the connection stays? libmicrohttpd closes one as soon as it
 * has, as it takes it, sent the reply, and says so in its head. */
static bool stays(const struct msghdr *message)
{
    static const char begins[] = "HTTP/1.1 ", closes[] = "\r\nConnection: ";
    const struct iovec *head = message->msg_iov;
    return message->msg_iovlen == 2 && head->iov_len > sizeof begins &&
           memcmp(head->iov_base, begins, sizeof begins - 1) == 0 &&
           !memmem(head->iov_base, head->iov_len, closes, sizeof closes - 1);
}

bool gate_hold(int fd, size_t size, span lines)
{
    const size_t most = HEAD_MOST + lines.size + size;
    if (!framing_of(fd) || connection[fd].mute || most > HELD_MOST || lines.size > GATE_LINES)
        return false;
    if (connection[fd].held)
        gate_flush();
    if (!has_room(fd, most))
        return false;
    if (!held.bytes)
        held.bytes = malloc(HELD * HELD_MOST);
    if (!held.bytes)
        return false;
    memcpy(connection[fd].lines, lines.data, lines.size);
    connection[fd].added = lines.size;
    connection[fd].hold = true;
    return true;
}

static void put(const void *from, size_t size)
{
    memcpy(held.bytes + held.size, from, size);
    held.size += size;
}

/* Take a reply, or its head, that may be held. Returns how much libmicrohttpd has sent of it. */
static ssize_t hold(int fd, const struct msghdr *message)
{
    enum { END = 2 }; /* of a head: its empty line */
    const struct iovec *part = message->msg_iov;
    const bool later = stays(message) && !connection[fd].ended;
    size_t size = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++)
        size += part[i].iov_len;
    if (held.size + size + GATE_LINES > HELD * HELD_MOST)
        gate_flush();
    held.each[held.count].fd = fd;
    held.each[held.count++].size = size + connection[fd].added;
    put(part->iov_base, part->iov_len - END);
    put(connection[fd].lines, connection[fd].added);
    put((const char *)part->iov_base + part->iov_len - END, END);
    for (size_t i = 1; i < message->msg_iovlen; i++)
        put(part[i].iov_base, part[i].iov_len);
    connection[fd].held = true;
    connection[fd].hold = false;
    if (!later || held.count == HELD)
        gate_flush();
    return (ssize_t)size;
}

/* These are recv(), send() and sendmsg() for the linker. In C they have other names, since the C
 * library's header may have inline functions of those. */
ssize_t gate_recv(int fd, void *to, size_t size, int how) __asm__("recv");

ssize_t gate_recv(int fd, void *to, size_t size, int how)
{
    const bool tls = framing_of(fd) && connection[fd].tls;
    if (framing_of(fd) && connection[fd].held)
        gate_flush();
    return how != 0 || tls ? recvfrom(fd, to, size, how, NULL, NULL)
                           : gate_read(fd, to, size, read_socket, &fd);
}

/* What is sent at once comes after what is held, which waits no longer than that takes. */
static void before_sending(int fd)
{
    if (framing_of(fd))
        gate_flush();
}

static ssize_t count_sent(int fd, ssize_t sent)
{
    if (sent > 0 && framing_of(fd))
        connection[fd].owed += cost((size_t)sent);
    return sent;
}

ssize_t gate_send(int fd, const void *from, size_t size, int how) __asm__("send");

ssize_t gate_send(int fd, const void *from, size_t size, int how)
{
    const bool tls = framing_of(fd) && connection[fd].tls; /* then it is a record, or part of one */
    if (!tls && gate_drops(fd))
        return (ssize_t)size;
    if (framing_of(fd) && connection[fd].hold) {
        struct iovec head = {(void *)(uintptr_t)from, size};
        return hold(fd, &(struct msghdr){.msg_iov = &head, .msg_iovlen = 1});
    }
    before_sending(fd);
    return count_sent(fd, sendto(fd, from, size, how, NULL, 0));
}

ssize_t gate_sendmsg(int fd, const struct msghdr *message, int how) __asm__("sendmsg");

ssize_t gate_sendmsg(int fd, const struct msghdr *message, int how)
{
    if (framing_of(fd) && connection[fd].hold)
        return hold(fd, message);
    before_sending(fd);
    return count_sent(fd, syscall(SYS_sendmsg, fd, message, how));
}
