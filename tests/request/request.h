/* SPDX-License-Identifier: MIT
 *
 * Random requests, drawn from a loss's description. Each is evaluated by the library alone, and
 * encoded as a body and evaluated by the server's steps; tests compare the two.
 */
#ifndef TESTS_REQUEST_H
#define TESTS_REQUEST_H

#include "evaluate.h"
#include "tests/element.h"
#include "tests/help.h"
#include "wire/wire.h"

/* The losses for which requests can be drawn: not composites, whose tensors depend on their parts.
 */
#define FOR_EACH_DRAWN(l)                                                                          \
    for (int l = 0; l < lk_loss_count(); l++)                                                      \
        if (!(lk_loss_describe(lk_loss_at(l))->traits & LK_DYNAMIC))

/* A request. Its tensors own their data. */

enum { REQUEST_INPUTS = 20, REQUEST_OPTIONS = 64, REQUEST_OUTPUTS = 48 };

typedef struct request_input {
    const char *name;
    lk_tensor tensor;
} request_input;

typedef struct sample {
    const lk_loss *loss;
    lk_dtype element;
    int inputs, options, outputs;
    request_input input[REQUEST_INPUTS];
    struct {
        const char *name;
        char text[40];
    } option[REQUEST_OPTIONS];
    char output[REQUEST_OUTPUTS][48]; /* none: the defaults */
} sample;

/* Drawing: draw.c. */

enum {
    SAMPLE_OPTIONS = 1,
    SAMPLE_OUTPUTS = 2,
    SAMPLE_PLAIN = 4,
    SAMPLE_EMPTY = 8,
    SAMPLE_NEEDY = 16, /* give options that can be left out: the loss has said that it needs one */
    SAMPLE_ONE = 32,   /* one leading size, of 1: others have to do with it */
};

sample sample_new(const lk_loss *loss, lk_dtype element, int most, unsigned flags);
void sample_free(sample *s);

/* The library alone: library.c. */

typedef struct expected {
    lk_status status;
    lk_error error;
    int64_t cost; /* lk_call_cost */
    int outputs;
    struct {
        char name[48];
        lk_tensor tensor; /* owns its data */
    } output[REQUEST_OUTPUTS];
} expected;

/* Set inputs, options and outputs of a call, and check it. */
lk_status give(lk_call *call, const sample *s, lk_error *error);
/* Evaluate a request. */
lk_status ask(const sample *s, expected *a);
void expected_free(expected *a);

/* Bodies: body.c. */

/* All of formats.def. */
#define WIRE(name) PLACE_OF_##name,
enum {
#include "wire/formats.def"
    WIRES
};
#undef WIRE
extern const wire *const every_wire[WIRES];

/* Where options and outputs go. */
enum { IN_BODY, IN_QUERY };

/* The JSON length of the last body of the Open Inference Protocol, which is sent in a header. */
extern uint64_t said_head;

void say_body(bytes *b, const sample *s, const wire *w, int where);
void say_safetensors(bytes *b, const sample *s, int where);
void say_query(bytes *b, const sample *s);
/* The names of an element type in safetensors and in the Open Inference Protocol. */
const char *spelt(lk_dtype dtype);
const char *oip_spelt(lk_dtype dtype);

/* The server's steps: server.c. */

typedef struct outcome {
    problem problem;
    int shards;
    bytes reply;
    uint64_t head;      /* JSON length of a reply of the Open Inference Protocol; 0: all of it */
    size_t need, taken; /* memory as promised after open, and as used at the end */
} outcome;

void tell_head(evaluation *e);
bool serve_body(const lk_loss *loss, const wire *in, const wire *out, const void *body, size_t size,
                const char *query, int shards, outcome *o);
void outcome_free(outcome *o);

#endif
