/* SPDX-License-Identifier: MIT
 *
 * The server and its listeners, shared by the files of this folder.
 */
#ifndef LOSSD_SERVER_H
#define LOSSD_SERVER_H

#include "http/listen.h"
#include "http/peer.h"

#include <uv.h>

typedef struct handover handover;
struct handler;
struct MHD_Daemon;
struct MHD_Response;

typedef struct listener {
    struct http *server;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    endpoint at;
    uint64_t runs; /* runs of the daemon */
    bool due, tls;
} listener;

typedef struct http {
    uv_loop_t *loop;
    const struct handler *handler;
    uv_prepare_t prepare;
    uv_timer_t timer;
    uv_timer_t sweep;
    peers peers;
    int listeners;
    listener listener[LISTEN_MAX];
    int exchanges;
    handover *handovers; /* connections after a 101 */
    int handles;         /* handles that are not closed yet */
    bool closing;
    int quiet; /* sweeps in a row without an exchange */
    uint64_t
        turn; /* uv_hrtime() when this iteration of the loop had its first event; 0: none yet */
    uint64_t idle; /* iterations of the loop in a row that ran at once, without any event */
    size_t drain_max;
    struct MHD_Response *exhausted; /* the reply for when there is no memory to make one */
    struct MHD_Response *nothing;   /* what follows a streamed reply, and is not sent */
} http;

static inline void begin_turn(http *server)
{
    if (server->turn == 0)
        server->turn = uv_hrtime();
}

/* A daemon has something to do in this iteration of the loop. */
static inline void listener_is_due(listener *l)
{
    begin_turn(l->server);
    l->due = true;
}

#endif
