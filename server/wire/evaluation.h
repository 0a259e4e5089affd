/* SPDX-License-Identifier: MIT
 *
 * One evaluation: what wires fill in and read, and where its memory is. Its steps are in
 * evaluate.h.
 */
#ifndef LOSSD_EVALUATION_H
#define LOSSD_EVALUATION_H

#include "buffer.h"
#include "cursor.h"
#include "region.h"

#include <losskit.h>

struct kept;
struct place;
typedef struct wire wire;

enum {
    EVALUATION_INPUTS = 64,                 /* no loss has more inputs than this */
    EVALUATION_PIECES = 1 + LK_OUTPUTS_MAX, /* the framing, and each output */
};

/* Where the data of an input is: in the body, or in a region. */
typedef struct source {
    char name[32];
    span text;
    bool raw;                  /* binary data, not text */
    bool base64;               /* JSON only */
    const struct place *place; /* in a region; NULL: in the body */
} source;

/* What a request of the Open Inference Protocol has besides tensors and options. */
#define OIP_ALL UINT64_MAX
enum { OIP_AS_DEFAULT, OIP_JSON, OIP_RAW };
typedef struct oip {
    uint64_t head;                /* bytes of the body that are JSON; OIP_ALL: all of them */
    uint64_t reply_head;          /* the same of the reply; 0: it is JSON alone */
    span id;                      /* as in the body, with quotes; empty: none */
    bool raw_default;             /* outputs are binary data unless said otherwise */
    char said[EVALUATION_PIECES]; /* by named output */
} oip;

typedef struct evaluation {
    const wire *in, *out;
    const lk_loss *loss;
    lk_call *call;
    span body;          /* owned by the caller; gradients may be written in place */
    asker asker;        /* decides which regions there are */
    struct kept *kept;  /* as what it was kept from an earlier request; NULL: it was not */
    bool outputs_named; /* body or query has an `outputs` */
    bool has_parts;     /* or an option of that type */
    bool strict_json;
    uint64_t timeout; /* the client's time limit by the body, in microseconds; 0: none */
    oip oip;

    int sources;
    source source[EVALUATION_INPUTS];

    int places;
    struct place *place; /* tensors that are not carried, and narrower outputs; owned */

    size_t need;      /* after open: bytes that the other steps will allocate */
    int64_t elements; /* of the largest input */
    int64_t work; /* roughly how long all steps take besides reading text, in ns on one thread */
    char *arena;  /* decoded inputs, outputs that are not written in place, scratch */
    size_t arena_size, arena_used;
    int shards;
    char *scratch; /* of all shards */
    size_t scratch_each;

    size_t bound; /* after open: of the reply's text or framing, besides binary tensors */
    size_t room;  /* for it, with them if they are joined to it */
    bool joined;

    const char *media; /* after close: of the reply */
    buffer text;       /* the reply, or its framing */
    size_t framing;    /* how much of it the reply to an equal request begins with, too */
    int pieces;
    span piece[EVALUATION_PIECES];
} evaluation;

#endif
