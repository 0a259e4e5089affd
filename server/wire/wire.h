/* SPDX-License-Identifier: MIT
 *
 * Body formats. A wire reads a request body into a call and writes a call's outputs as a reply; the
 * two directions may be different wires. One file a wire; wires.c has the table of them.
 */
#ifndef LOSSD_WIRE_H
#define LOSSD_WIRE_H

#include "tell/problem.h"
#include "wire/evaluation.h"

struct wire {
    const char *name; /* for metrics and logs */
    const char *const
        *media; /* media types it is asked for by, ends with NULL; replies carry the first */

    bool routed; /* never chosen by media type */
    bool binary; /* replies are tensors as bytes, which compressing hardly makes smaller */

    /* From the body to names, types and shapes: gives the call its inputs without data, its options
     * and outputs. Reads no more of the numbers than their count. */
    bool (*open)(evaluation *e, problem *p);

    /* The numbers of a source that is text, into t's memory. NULL where none ever is. */
    bool (*read)(const evaluation *e, const source *s, const lk_tensor *t, problem *p);

    /* Can the outputs asked for be said? NULL: all can. */
    bool (*accept)(const evaluation *e, problem *p);

    /* At most this many bytes of text or framing for the reply, beside the tensors themselves. */
    size_t (*bound)(const evaluation *e);

    /* Write the reply into e->text and e->pieces. */
    bool (*encode)(evaluation *e, problem *p);
};

#define WIRE(name) extern const wire wire_##name;
#include "wire/formats.def"
#undef WIRE

#endif
