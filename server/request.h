/* SPDX-License-Identifier: MIT
 *
 * The life of an evaluation on the server. It is owned by one side at a time, the loop or the pool;
 * the two handovers are uv_queue_work and its after-callback, and nobody else queues work.
 */
#ifndef LOSSD_REQUEST_H
#define LOSSD_REQUEST_H

#include "evaluate.h"
#include "http.h"

/* X(step, thread, what happens) */
#define REQUEST_STEPS(X)                                                                           \
    X(ADMIT, loop, "from the head: reserve the body's bytes and a place, or refuse")               \
    X(OPEN, pool, "names, types, shapes and options; what the rest will need")                     \
    X(RESERVE, loop, "reserve that, or refuse; skipped where the first reservation suffices")      \
    X(FILL, pool, "numbers and plan")                                                              \
    X(RUN, pool, "blocks; large requests as shards on all workers")                                \
    X(CLOSE, pool, "reduce and encode; the last shard does it")                                    \
    X(REPLY, loop, "hand the pieces to HTTP")                                                      \
    X(END, loop, "sent: log, count, free")

typedef struct request request;

/* Once, before anything else. */
void request_setup(uv_loop_t *loop, const flags *f);

/* Admit: false with a problem. `length` is the body's, -1 where it is not known yet. */
request *request_admit(exchange *x, const lk_loss *loss, const wire *in, const wire *out,
                       int64_t length, problem *p);

/* Reserve more for a body of unknown length. */
bool request_grow(request *r, size_t more, problem *p);

/* The body is there: suspends the exchange and resumes it with a reply. */
void request_start(request *r);

/* Takes NULL. */
void request_end(request *r);

/* The largest body. */
size_t request_max_body(void);

#endif
