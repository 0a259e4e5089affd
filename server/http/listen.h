/* SPDX-License-Identifier: MIT
 *
 * Addresses as text to sockets that listen, and back.
 */
#ifndef LOSSD_LISTEN_H
#define LOSSD_LISTEN_H

#include <stdbool.h>

typedef struct endpoint {
    int fd;
    bool local; /* a loopback address or a Unix socket */
    bool inet;  /* TCP: may speak TLS */
    char url[160];
    char path[108]; /* of a Unix socket that we made, "" otherwise */
} endpoint;

/* host:port, [host]:port or unix:/path. False with a line on stderr. */
bool listen_at(const char *address, endpoint *e);

/* A socket that was handed over and listens already. */
bool listen_inherited(int fd, endpoint *e);

/* A connection has come: let the kernel hold a MiB of a reply that its client does not take, no
 * more, as no budget counts that. */
void listen_accepted(const endpoint *e, int fd);

#endif
