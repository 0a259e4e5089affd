/* SPDX-License-Identifier: MIT
 *
 * What is asked for, and the steps in which it is answered.
 */
#ifndef LOSSD_REQUEST_ASK_H
#define LOSSD_REQUEST_ASK_H

#include "evaluate.h"
#include "http/coding.h"
#include "http/exchange.h"

/* X(step, thread, what happens) */
#define REQUEST_STEPS(X)                                                                           \
    X(ADMIT, loop, "from the head: reserve the body's bytes and a place, or refuse")               \
    X(INFLATE, pool, "a compressed body: first how long it becomes, then the body")                \
    X(OPEN, pool, "names, types, shapes and options; what the rest will need")                     \
    X(RESERVE, loop, "reserve that, or refuse; skipped where the first reservation suffices")      \
    X(FILL, pool, "numbers and plan")                                                              \
    X(RUN, pool, "blocks; large requests as shards on all workers")                                \
    X(CLOSE, pool, "reduce and encode; the last shard does it")                                    \
    X(REPLY, loop, "hand the pieces to HTTP, unless the time for it is over")                      \
    X(END, loop, "sent: log, count, free")

typedef struct request request;

/* What a route has read from the head of a request for an evaluation. */
typedef struct ask {
    const lk_loss *loss;
    const wire *in, *out;
    const char *query;  /* raw, with options and outputs; lives as long as the exchange */
    uint64_t head;      /* Open Inference Protocol: length of the JSON by its header, or OIP_ALL */
    coding body, reply; /* of the body; what the client accepts for the reply */
    asker asker;        /* decides which regions there are */
    uint64_t timeout;   /* the client's time limit in microseconds; 0: none */
} ask;

#endif
