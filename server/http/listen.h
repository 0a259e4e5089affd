/* SPDX-License-Identifier: MIT
 *
 * Listening sockets from addresses as text, and back.
 */
#ifndef LOSSD_LISTEN_H
#define LOSSD_LISTEN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct endpoint {
    int fd;
    bool local;  /* a loopback address or a Unix socket */
    bool inet;   /* TCP: may speak TLS */
    bool spread; /* others may be bound to the same address, and get some of the connections */
    char url[160];
    char path[108];        /* path of a Unix socket that this process created, else "" */
    uint64_t device, file; /* which it is there */
} endpoint;

/* host:port, [host]:port or unix:/path; `shared`: listen_again may follow. False with a line on
 * stderr. */
bool listen_at(const char *address, bool shared, endpoint *e);

/* Use a listening socket that was inherited from a service manager. */
bool listen_inherited(int fd, endpoint *e);

/* Another socket for the same endpoint, for another loop: of TCP one that gets a part of the
 * connections, else the same one by another descriptor. */
bool listen_again(const endpoint *first, endpoint *e);

/* Remove the file of a Unix socket that this process created, unless somebody else's has taken its
 * place. While it still listens: then nobody else can have made one in between. */
void listen_remove(const endpoint *e);

/* Set the send buffer of an accepted connection: the kernel may hold 1 MiB of a reply that the
 * client has not read yet, but not more, as the memory budget does not count it. */
void listen_accepted(const endpoint *e, int fd);

#endif
