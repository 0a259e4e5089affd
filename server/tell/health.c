/* SPDX-License-Identifier: MIT */
#include "tell/health.h"

#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { TIMEOUT_SECONDS = 5 };

static int connect_to(const struct sockaddr *address, socklen_t size)
{
    struct timeval timeout = {.tv_sec = TIMEOUT_SECONDS};
    int fd = socket(address->sa_family, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(fd, address, size) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int connect_tcp(const char *text)
{
    char host[256];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    snprintf(host, sizeof host, "%s", text[0] == '[' ? text + 1 : text);
    host[strcspn(host, "/")] = '\0';
    char *colon = strrchr(host, ':');
    if (!colon) {
        errno = EINVAL;
        return -1;
    }
    *colon = '\0';
    host[strcspn(host, "]")] = '\0';
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    int fd = -1, why = 0;
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = connect_to(a->ai_addr, a->ai_addrlen);
        why = errno;
    }
    freeaddrinfo(found);
    errno = why;
    return fd;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return connect_to((struct sockaddr *)&address, sizeof address);
}

int health_check(const char *url)
{
    static const char ask[] =
        "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    char reply[32] = "";
    if (strncmp(url, "https://", 8) == 0) {
        fprintf(stderr, "lossd: health speaks no TLS; let lossd --listen on a unix: address, too, "
                        "and ask there\n");
        return 1;
    }
    int fd = strncmp(url, "unix:", 5) == 0     ? connect_unix(url + 5)
             : strncmp(url, "http://", 7) == 0 ? connect_tcp(url + 7)
                                               : (errno = EINVAL, -1);
    if (fd < 0) {
        fprintf(stderr, "lossd: cannot connect to %s: %s\n", url, strerror(errno));
        return 1;
    }
    size_t got = 0;
    bool sent = send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL) == (ssize_t)sizeof ask - 1;
    while (sent && got < 12) {
        ssize_t n = recv(fd, reply + got, sizeof reply - 1 - got, 0);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    close(fd);
    if (strncmp(reply, "HTTP/1.1 200", 12) == 0)
        return 0;
    fprintf(stderr, "lossd: %s is not ready: %.12s\n", url, got ? reply : "no answer");
    return 1;
}
