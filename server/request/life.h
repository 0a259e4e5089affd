/* SPDX-License-Identifier: MIT
 *
 * A request as request.c, on the loop, and steps.c, mostly on the pool, know it; and how long it
 * may last.
 */
#ifndef LOSSD_REQUEST_LIFE_H
#define LOSSD_REQUEST_LIFE_H

#include "request/ask.h"

#include <stdatomic.h>
#include <uv.h>

#define STEP_ENUM(step, thread, what) STEP_##step,
typedef enum step { REQUEST_STEPS(STEP_ENUM) STEPS } step;
#undef STEP_ENUM

enum {
    /* What the loop computes itself: texts and blocks that take less than this, in ns, as
     * evaluation_reading and evaluation.work estimate it; it stops at the first block that ends
     * later. */
    SMALL_WORK = 30 * 1000,
    PACKED_MIN = 1024, /* shorter replies are not compressed */
};

/* A shard of the blocks of a pass. It goes through the pool once or more often. */
typedef struct shard {
    uv_work_t work;
    request *r;
    int i;
    int64_t done;    /* blocks computed */
    int64_t most;    /* blocks to run until the next check */
    bool unfinished; /* it gave way to other work, and must be queued */
} shard;

struct request {
    exchange *x;
    ask ask;
    evaluation *e; /* NULL until the body is complete */
    step step;
    problem problem;
    size_t reserved, need; /* bytes reserved so far, and the total that the next step needs */
    uint64_t deadline;     /* uv_hrtime() */

    size_t plain_size; /* inflated size of a compressed body, once measured */
    char *plain;       /* the inflated body */
    buffer packed;     /* a compressed reply */

    uv_work_t work;       /* for the steps up to FILL */
    shard all;            /* the shard if there is only one: it runs directly after these steps */
    shard *shards;        /* the shards if there are several */
    atomic_int computing; /* shards not yet computed: the one that makes it 0 closes */
    atomic_bool skipped;  /* a shard was not fully computed, because the request was cancelled */
    atomic_bool left;     /* the client has left */
    int away;             /* shards that have not returned to the loop */
    bool here;            /* the loop computes it, not a worker */
    bool small;           /* the loop has evaluated it: it may be kept */

    uint64_t queued;              /* uv_hrtime() when it was last queued */
    double queue, decode, encode; /* seconds */
    atomic_ullong compute;        /* ns */
};

/* From one uv_hrtime() to another. */
static inline double seconds(uint64_t from, uint64_t to)
{
    return (double)(to - from) * 1e-9;
}

/* Call once, before the other functions. */
void life_setup(const flags *f);

/* End the request after so many microseconds from its start; 0: after the server's own limit. A
 * client may set a shorter one than the server's, not a longer one. */
void life_limit(request *r, uint64_t microseconds);

/* At `now`: has the client left, or the deadline passed? */
bool life_over(request *r, uint64_t now);

/* False, with the problem that it is over. */
bool life_say_over(request *r);

/* False, with that problem, if it is over. */
bool life_wanted(request *r, uint64_t now);

#endif
