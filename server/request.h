/* SPDX-License-Identifier: MIT
 *
 * The life of an evaluation on the server. It is owned by one side at a time, the loop or the pool;
 * the two handovers are uv_queue_work and its after-callback, and nobody else queues work.
 */
#ifndef LOSSD_REQUEST_H
#define LOSSD_REQUEST_H

#include "evaluate.h"
#include "http/coding.h"
#include "http/exchange.h"
#include "tell/log.h"

#include <uv.h>

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

/* What a route has read in the head of an evaluation. */
typedef struct ask {
    const lk_loss *loss;
    const wire *in, *out;
    const char *query; /* raw; options and outputs in it count. Lives as long as the exchange */
    uint64_t head;     /* of a body of the Open Inference Protocol: OIP_ALL, or its header's word */
    coding body, reply; /* the body's, and what the reply's may be */
    uint64_t timeout;   /* microseconds that the client gives it; 0: not said */
} ask;

/* Once, before anything else. */
void request_setup(uv_loop_t *loop, const flags *f);

/* Admit: false with a problem. `length` is the body's, -1 where it is not known yet. */
request *request_admit(exchange *x, const ask *a, int64_t length, problem *p);

/* Reserve more for a body of unknown length. */
bool request_grow(request *r, size_t more, problem *p);

/* It is refused while its body is still coming: nothing is reserved for it any more. */
void request_refuse(request *r);

/* The body is there: suspends the exchange and resumes it with a reply. */
void request_start(request *r);

/* The client has left: what has not begun is not done. */
void request_leave(request *r);

/* What the log says of an evaluation: never what its tensors hold. */
void request_log(const request *r, log_entry *entry);

/* Takes NULL. */
void request_end(request *r);

/* The largest body. */
size_t request_max_body(void);

#endif
