/* SPDX-License-Identifier: MIT */
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

static int listen_tcp(const char *text, const char **why)
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
    int fd = socket(found->ai_family, SOCK_STREAM, 0), one = 1;
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0)
            fd = close_for(fd);
    }
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

bool listen_at(const char *address, endpoint *e)
{
    const char *why = NULL, *path = strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
    *e = (endpoint){.fd = path ? listen_unix(path) : listen_tcp(address, &why)};
    if (e->fd >= 0 && look_at(e)) {
        snprintf(e->path, sizeof e->path, "%s", path ? path : "");
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
    return true;
}
