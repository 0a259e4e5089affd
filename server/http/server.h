/* SPDX-License-Identifier: MIT
 *
 * The server and its listeners, which the files of this folder share.
 */
#ifndef LOSSD_SERVER_H
#define LOSSD_SERVER_H

#include "http/listen.h"
#include "http/peer.h"

#include <uv.h>

struct handler;
struct MHD_Daemon;
struct MHD_Response;

typedef struct listener {
    struct http *server;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    endpoint at;
    uint64_t runs; /* of the daemon */
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
    int handles; /* still being closed */
    bool closing;
    int quiet;     /* sweeps in a row without an exchange */
    uint64_t idle; /* turns of the loop in a row that were wanted at once and for no event */
    size_t drain_max;
    struct MHD_Response *exhausted; /* for when there is no memory for another */
} http;

#endif
