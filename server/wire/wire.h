/* SPDX-License-Identifier: MIT
 *
 * Body formats. A wire reads a request body into a call and writes a call's outputs as a reply; the
 * two directions may be different wires. One file a wire, one row in wire.c.
 */
#ifndef LOSSD_WIRE_H
#define LOSSD_WIRE_H

#include "evaluate.h"

struct wire {
    const char *name; /* for metrics and logs */
    const char *const
        *media; /* media types it is asked for by, ends with NULL; replies carry the first */

    bool routed; /* never chosen by media type */

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

extern const wire wire_json, wire_safetensors, wire_oip;

/* All wires, ends with NULL. */
extern const wire *const wires[];

/* The wire of a Content-Type (parameters ignored; NULL or "": JSON), or NULL. */
const wire *wire_of_content(const char *content_type);

/* The wire of an Accept header: the one it likes best, `same` where it does not care; NULL if it
 * accepts none. */
const wire *wire_of_accept(const char *accept, const wire *same);

/* Does a body look like safetensors rather than JSON? For files, which have no Content-Type. */
const wire *wire_of_bytes(span body);

/* Add an input that the body names. `text` is where its numbers are. False with a problem if the
 * name is unknown or comes twice, or there are too many. */
bool wire_input(evaluation *e, const char *name, const lk_tensor *tensor, span text, problem *p);

/* The same where the body holds the tensor itself. The body belongs to the request and nobody else
 * reads it, so kernels may write gradients over it. */
bool wire_view(evaluation *e, const char *name, const lk_tensor *tensor, span bytes, problem *p);

/* Read a source that is a JSON array of numbers. */
bool wire_read_text(const evaluation *e, const source *s, const lk_tensor *t, problem *p);

struct json_t;

/* Set an option: from its text form, or from a JSON value. */
bool wire_option(evaluation *e, const char *name, const char *text, problem *p);
bool wire_option_json(evaluation *e, const char *name, const struct json_t *value, problem *p);

/* Add outputs from a comma-separated list. */
bool wire_outputs(evaluation *e, const char *list, problem *p);

/* The most tensors in a body. */
enum { WIRE_TENSORS = 64 };

/* How the Open Inference Protocol spells an element type: "FP32". */
const char *oip_spelling(lk_dtype dtype);

/* The only version that a model has. */
#define OIP_VERSION "1"

/* x rounded to nearest even as element i of a float tensor. */
void wire_put_real(lk_dtype dtype, void *data, int64_t i, double x);

#endif
