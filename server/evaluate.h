/* SPDX-License-Identifier: MIT
 *
 * One evaluation, from the bytes of a request body to the pieces of a reply. It knows nothing of
 * HTTP and nothing of threads: request.c decides where each step runs, `lossd eval` runs them in a
 * row.
 *
 *   open   names, types, shapes, options; how much memory the rest will need
 *   fill   numbers, plan
 *   run    shards of the blocks, each on any thread; then the next pass, if there is one
 *   close  reduce and encode
 *
 * An evaluation is used by one thread at a time, but for evaluation_run and evaluation_run_some.
 */
#ifndef LOSSD_EVALUATE_H
#define LOSSD_EVALUATE_H

#include "buffer.h"
#include "cursor.h"
#include "tell/problem.h"

#include <losskit.h>

typedef struct wire wire;

enum {
    EVALUATION_INPUTS = 64, /* no loss has more inputs than this */
    EVALUATION_PIECES = 64,
};

/* Where an input's numbers are in the body. */
typedef struct source {
    char name[32];
    span text;
    bool raw;    /* the tensor itself, not its text */
    bool base64; /* JSON only */
} source;

/* What a request of the Open Inference Protocol says beside tensors and options. */
#define OIP_ALL UINT64_MAX
enum { OIP_AS_DEFAULT, OIP_JSON, OIP_RAW };
typedef struct oip {
    uint64_t head;                /* bytes of the body that are JSON; OIP_ALL: all of them */
    uint64_t reply_head;          /* the same of the reply; 0: it is JSON alone */
    span id;                      /* as it stands in the body, quotes included; empty: none */
    bool raw_default;             /* outputs are binary data unless said otherwise */
    char said[EVALUATION_PIECES]; /* of the outputs that are named */
} oip;

typedef struct evaluation {
    const wire *in, *out;
    const lk_loss *loss;
    lk_call *call;
    span body;          /* the caller's; may be overwritten by gradients */
    bool outputs_named; /* body or query has an `outputs` */
    bool has_parts;     /* or an option of that type */
    bool strict_json;
    uint64_t timeout; /* microseconds that the client gives it, by the body; 0: not said */
    oip oip;

    int sources;
    source source[EVALUATION_INPUTS];

    size_t need;      /* after open: bytes that the other steps will allocate */
    int64_t elements; /* of the largest input */
    char *arena;      /* decoded inputs, outputs that are not written in place, scratch */
    size_t arena_size, arena_used;
    int shards;
    char *scratch; /* of all shards */
    size_t scratch_each;

    const char *media; /* after close: of the reply */
    buffer text;       /* the reply, or its framing */
    int pieces;
    span piece[EVALUATION_PIECES];
} evaluation;

/* The loss of that name, or NULL with a problem that names close matches. */
const lk_loss *evaluation_loss(const char *name, problem *p);

/* The same, if it is at /v1/<kind>/<name>. */
const lk_loss *evaluation_at(const char *kind, const char *name, problem *p);

/* `body` must live as long as the evaluation. NULL without memory. */
evaluation *evaluation_new(const lk_loss *loss, const wire *in, const wire *out, span body);
void evaluation_free(evaluation *e);

/* `query` is the raw query string, "" for none. `shards` is into how many parts run will be cut at
 * most; after open, e->shards is how many there are. Each step returns false with a problem. */
bool evaluation_open(evaluation *e, const char *query, int shards, problem *p);
bool evaluation_fill(evaluation *e, problem *p);
void evaluation_run(evaluation *e, int shard);
bool evaluation_next(evaluation *e); /* when all shards have run: must they run again? */
bool evaluation_close(evaluation *e, problem *p);

/* evaluation_run by and by: at most so many blocks of the shard, behind the *done that are. True
 * while there are more. Each call has a price of its own, like a block's. */
bool evaluation_run_some(evaluation *e, int shard, int64_t most, int64_t *done);

#endif
