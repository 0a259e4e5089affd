/* SPDX-License-Identifier: MIT
 *
 * Open connections and their deadlines, which depend on the phase that a connection is in.
 * Deadlines are absolute: an occasional byte does not extend them. Loop thread only.
 */
#ifndef LOSSD_PEER_H
#define LOSSD_PEER_H

#include "flags.h"
#include "http/framing.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The phase of a connection. */
typedef enum phase {
    PEER_IDLE,  /* between requests: a new connection has --header-timeout for a whole head, a used
                   one has --idle-timeout for the next request line */
    PEER_HEAD,  /* the request line was received: --header-timeout */
    PEER_BODY,  /* --body-timeout, and a second for each --body-rate bytes received */
    PEER_WORK,  /* the request is complete and being answered: no deadline for the client */
    PEER_REPLY, /* --body-timeout, and a second for each --body-rate bytes of the reply */
    PEER_OTHER, /* no longer HTTP: no deadline */
} phase;

typedef struct peer {
    struct peer *next, **back;
    int fd;
    char address[64]; /* of the client, for the log */
    bool plain;       /* no TLS: what is written to fd is what the client reads */
    bool named;       /* a Unix socket */
    bool used;        /* a request was received on it before */
    bool asked;       /* whether it still reads, since its request was whole */
    phase phase;
    uint64_t deadline; /* uv_hrtime(); 0: none */
    int unread;        /* unread bytes in the socket at the last call of peer_is_stuck */
    uint64_t since;    /* the run of its daemon when `unread` last changed; 0: not checked yet */
    void *exchange;    /* the current request; NULL between requests */
    unsigned requests; /* that libmicrohttpd has begun */
    framing framing;   /* of what comes in */
    void *tls;         /* the result of tls_attach */
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

/* How long a transfer of that many bytes may take, in ns. */
uint64_t peer_time(const peers *all, size_t bytes);

/* Enter another phase and set its deadline, from `now` on, which may be when the present iteration
 * of the loop began. `bytes` is the length of a reply. */
void peer_enter(const peers *all, peer *p, phase next, uint64_t now, size_t bytes);

/* Bytes of a body were received: extend its deadline by the time that they may take, but not beyond
 * that of the request. */
void peer_moved(const peers *all, peer *p, uint64_t start, size_t bytes);

/* Is libmicrohttpd stuck on this connection: bytes of a request are unread, and several runs of its
 * daemon have not read any? Called periodically. `run` is the number of the daemon's last run.
 * `idle` is how many iterations of the loop in a row ran at once without any event: if there are
 * very many, the daemon is spinning, and the connection is stuck even if no bytes are unread. */
bool peer_is_stuck(peer *p, uint64_t run, uint64_t idle);

/* Has the client closed the connection? Over TCP it may have closed its side alone, and still read:
 * nothing shows that before it is asked. */
bool peer_has_left(const peer *p);

/* Ask such a client, where HTTP allows it, whether it still reads. What it is sent means nothing,
 * but is refused by a system on which nobody reads it: then it has left, and soon that shows.
 * False: it was asked before, or cannot be. Only while its request is worked on. */
bool peer_ask(peer *p, bool old);

/* Has it closed its side, and everything that it sent before has been read, but no whole request,
 * which is still to be answered: its end may have been read and not been counted (gate_place). */
bool peer_is_over(const peer *p);

/* Has nothing come that was not read? */
bool peer_is_quiet(const peer *p);

#endif
