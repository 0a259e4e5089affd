/* SPDX-License-Identifier: MIT
 *
 * Open connections and how long each may take for what it is at. The deadlines are absolute: a byte
 * now and then does not put them off. Loop thread only.
 */
#ifndef LOSSD_PEER_H
#define LOSSD_PEER_H

#include "flags.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a connection is at. */
typedef enum phase {
    PEER_IDLE,  /* nothing of a request has come: a new one gets --header-timeout for the whole
                   head, an old one --idle-timeout for its first line */
    PEER_HEAD,  /* the first line has come: --header-timeout */
    PEER_BODY,  /* --body-timeout, and a second for each --body-rate bytes that have come */
    PEER_WORK,  /* the request is whole, there is no reply: it is not the client who takes time */
    PEER_REPLY, /* --body-timeout, and a second for each --body-rate bytes of the reply */
} phase;

typedef struct peer {
    struct peer *next, **back;
    int fd;
    char address[64]; /* of the client, for the log */
    bool plain;       /* no TLS: what is written to fd is what the client reads */
    bool used;        /* it has sent a request before */
    phase phase;
    uint64_t deadline; /* uv_hrtime(); 0: none */
    int unread;        /* bytes that had come and were not read when that was last looked at, */
    uint64_t since;    /* and the run of its server in which they were first as many; 0: none */
    void *exchange;    /* the request in it; NULL between requests */
    void *tls;         /* what tls_attach gave */
} peer;

typedef struct peers {
    peer *first;
    uint64_t header, body, idle, request; /* ns */
    uint64_t rate;                        /* bytes a second */
} peers;

void peers_setup(peers *all, const flags *f);

/* NULL without memory. */
peer *peer_add(peers *all, int fd);
void peer_remove(peer *p);

/* It is at something else now. `bytes` is how long a reply is. */
void peer_enter(const peers *all, peer *p, phase next, uint64_t now, size_t bytes);

/* Some of a body has come: it may take so much longer, but not longer than its request may. */
void peer_moved(const peers *all, peer *p, uint64_t start, size_t bytes);

/* Some of a request waits to be read, and several runs of its server have read none of it: nor will
 * the next. Asked now and then; `run` is the number of the last. `idle` is how many there were in a
 * row without a reason: so many that it is told by them alone if its server is busy with nothing.
 */
bool peer_is_stuck(peer *p, uint64_t run, uint64_t idle);

/* Its client has closed its side, or is gone. */
bool peer_has_left(const peer *p);

/* It has, and everything that it sent before has been read. */
bool peer_is_over(const peer *p);

#endif
