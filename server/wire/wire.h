/* SPDX-License-Identifier: MIT
 *
 * Body formats. A wire reads a request body into a call and writes a call's outputs as a reply; the
 * two directions may be different wires. One file a wire; wires.c has the table of them.
 */
#ifndef LOSSD_WIRE_H
#define LOSSD_WIRE_H

#include "tell/problem.h"
#include "wire/evaluation.h"

/* A body without the numbers of its tensors: bodies of the same outline are read alike. */
enum { OUTLINE_TEXT = 4096 };
typedef struct outline {
    int tensors;
    span tensor[EVALUATION_INPUTS]; /* what was left out, in the order of the body */
    size_t size;
    char text[OUTLINE_TEXT];
} outline;

struct wire {
    const char *name; /* for metrics and logs */

    /* Media types of requests, NULL-terminated; replies have the first. */
    const char *const *media;

    bool routed; /* chosen by the route, never by media type */
    bool binary; /* replies are binary tensors, which hardly compress */

    /* How many bytes at the beginning of the body are text, or say how long that is; the rest is
     * tensors. NULL: all. */
    size_t (*text)(const evaluation *e);

    /* Take the outline of a body whose tensors are text; they must be the evaluation's sources, in
     * their order. False: it has none, or a long one. NULL: what is text by the function above is
     * the outline, and the tensors of bodies of one length are at the same places. */
    bool (*outline)(span body, outline *to);

    /* Read names, types and shapes from the body: gives the call its inputs without data, its
     * options and outputs. Of the numbers, only the count is read. */
    bool (*open)(evaluation *e, problem *p);

    /* Read the numbers of a text source into t's memory. NULL if the format has no text sources. */
    bool (*read)(const evaluation *e, const source *s, const lk_tensor *t, problem *p);

    /* Can the format represent the requested outputs? NULL: always. */
    bool (*accept)(const evaluation *e, problem *p);

    /* An upper bound of the bytes of text or framing in the reply, besides binary tensors. */
    size_t (*bound)(const evaluation *e);

    /* Write the reply into e->text and e->pieces. */
    bool (*encode)(evaluation *e, problem *p);
};

#define WIRE(name) extern const wire wire_##name;
#include "wire/formats.def"
#undef WIRE

#endif
