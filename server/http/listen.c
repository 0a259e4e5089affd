/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* SO_REUSEPORT is not in POSIX */
#include "http/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024, UNSENT = 1024 * 1024 };

static int close_for(int fd)
{
    const int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    /* A socket that nothing listens on was left behind by a process that has ended: remove it. */
    if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        int probe = socket(AF_UNIX, SOCK_STREAM, 0);
        if (probe >= 0 && connect(probe, (struct sockaddr *)&address, sizeof address) != 0 &&
            errno == ECONNREFUSED)
            unlink(path);
        if (probe >= 0)
            close(probe);
    }
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, BACKLOG) != 0)
        return close_for(fd);
    return fd;
}

/* A socket bound to that address. Of those that share it the first one is bound alone, so that an
 * address which another process has is an error; the kernel then spreads connections over all. */
static int bind_tcp(const struct sockaddr *address, socklen_t size, bool shared, bool first)
{
    const int one = 1, fd = socket(address->sa_family, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!first)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(fd, address, size) != 0)
        return close_for(fd);
    if (shared && first)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    return listen(fd, BACKLOG) != 0 ? close_for(fd) : fd;
}

static int listen_tcp(const char *text, bool shared, const char **why)
{
    char host[256], *end;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    snprintf(host, sizeof host, "%s", text[0] == '[' ? text + 1 : text);
    end = strrchr(host, ':');
    const char *port = end + 1;
    *(text[0] == '[' ? end - 1 : end) = '\0';
    int code = getaddrinfo(host, port, &hints, &found);
    if (code != 0) {
        *why = gai_strerror(code);
        return -1;
    }
    const int fd = bind_tcp(found->ai_addr, found->ai_addrlen, shared, true);
    freeaddrinfo(found);
    return fd;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)address;
        return ntohl(four->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)address;
    return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

/* Fill in the endpoint from the socket itself: for port 0, only the socket knows the actual
 * port. */
static bool look_at(endpoint *e)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    char host[80], port[16];
    const struct sockaddr *any = (const struct sockaddr *)&address;
    if (getsockname(e->fd, (struct sockaddr *)&address, &size) != 0)
        return false;
    if (any->sa_family == AF_UNIX) {
        const struct sockaddr_un *name = (const struct sockaddr_un *)(const void *)&address;
        e->local = true;
        snprintf(e->url, sizeof e->url, "unix:%.107s", name->sun_path);
        return true;
    }
    if ((any->sa_family != AF_INET && any->sa_family != AF_INET6) ||
        getnameinfo(any, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return false;
    const bool six = any->sa_family == AF_INET6;
    e->inet = true;
    e->local = is_loopback(any);
    snprintf(e->url, sizeof e->url, "http://%s%s%s:%s", six ? "[" : "", host, six ? "]" : "", port);
    return true;
}

/* TCP: this does not limit the data in flight to a fast client. Unix sockets have 208 KiB by
 * default: with that, client and server would wait for each other a hundred times in a large reply,
 * which doubles its time. The kernel doubles the value, for its own bookkeeping. */
void listen_accepted(const endpoint *e, int fd)
{
    const int most = UNSENT, half = UNSENT / 2;
    if (e->inet)
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &most, sizeof most);
    else
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &half, sizeof half);
}

/* Several loops that accept from one socket are all woken by a connection, which one of them gets.
 */
static void never_wait(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* Note which file the socket is. */
static void note_path(endpoint *e, const char *path)
{
    struct stat is;
    snprintf(e->path, sizeof e->path, "%s", path);
    if (stat(path, &is) == 0) {
        e->device = (uint64_t)is.st_dev;
        e->file = (uint64_t)is.st_ino;
    }
}

void listen_remove(const endpoint *e)
{
    struct stat is;
    if (e->path[0] != '\0' && stat(e->path, &is) == 0 && (uint64_t)is.st_dev == e->device &&
        (uint64_t)is.st_ino == e->file)
        unlink(e->path);
}

bool listen_at(const char *address, bool shared, endpoint *e)
{
    const char *why = NULL, *path = strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
    *e = (endpoint){.fd = path ? listen_unix(path) : listen_tcp(address, shared, &why)};
    if (e->fd >= 0 && look_at(e)) {
        if (path)
            note_path(e, path);
        e->spread = shared && !path;
        never_wait(e->fd);
        return true;
    }
    fprintf(stderr, "lossd: cannot listen on %s: %s\n", address, why ? why : strerror(errno));
    if (e->fd >= 0)
        close(e->fd);
    return false;
}

bool listen_inherited(int fd, endpoint *e)
{
    int listens = 0;
    socklen_t size = sizeof listens;
    *e = (endpoint){.fd = fd};
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || !listens ||
        !look_at(e)) {
        fprintf(stderr, "lossd: descriptor %d, handed over to listen on, is no listening socket\n",
                fd);
        return false;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    never_wait(fd);
    return true;
}

bool listen_again(const endpoint *first, endpoint *e)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    *e = *first;
    e->path[0] = '\0';
    if (!first->spread)
        e->fd = dup(first->fd);
    else if (getsockname(first->fd, (struct sockaddr *)&address, &size) == 0)
        e->fd = bind_tcp((struct sockaddr *)&address, size, true, false);
    else
        e->fd = -1;
    if (e->fd < 0)
        fprintf(stderr, "lossd: cannot listen once more on %s: %s\n", first->url, strerror(errno));
    return e->fd >= 0;
}
