/* SPDX-License-Identifier: MIT
 *
 * What a request says of tensors that it does not carry: where an input lies in a region, and where
 * an output shall lie, or in which narrower type it shall come. In every body format, and in the
 * query string.
 */
#ifndef LOSSD_PLACE_H
#define LOSSD_PLACE_H

#include "region.h"
#include "wire/evaluation.h"

struct json_t;

/* Before the name of a tensor, in metadata and in the query string. */
#define PLACE_PREFIX "region."

typedef enum place_side { PLACE_ANY, PLACE_INPUT, PLACE_OUTPUT } place_side;

typedef struct place {
    char name[64]; /* of the tensor */
    place_side side;
    char region[REGION_NAME]; /* "": none, only a type */
    uint64_t offset;
    uint64_t size; /* bytes that are set aside for it; UINT64_MAX: not said */
    lk_tensor is;  /* type and shape; LK_ANY and rank -1 where not said */
    region_view view;
    char *at; /* once it is known that the tensor fits there */
} place;

/* One that says nothing yet. */
place place_new(const char *name, place_side side);

/* Read {"region": ..., "offset": ..., "dtype": ..., "shape": ...}; of an output, `name` too. `what`
 * is what problems call it. */
bool place_read(const struct json_t *object, const char *what, place *to, problem *p);

/* Set the type. False with a problem if there is none of that name. */
bool place_type(place *to, const char *what, const char *dtype, problem *p);

/* Add an input, or what is said of an output. */
bool place_input(evaluation *e, const place *said, problem *p);
bool place_output(evaluation *e, const place *said, problem *p);

/* The same from text, before it is known whether the name is an input's or an output's. */
bool place_text(evaluation *e, const char *name, const char *text, problem *p);

/* All options are known: which of those are inputs? Then, after lk_call_check: do the outputs
 * fit? */
bool place_inputs(evaluation *e, problem *p);
bool place_outputs(evaluation *e, problem *p);

/* Does the evaluation read or write memory of a region? After place_outputs. */
bool place_shared(const evaluation *e);

/* Has memory of a region that the evaluation uses gone away? Then false with a problem. */
bool place_whole(const evaluation *e, problem *p);

/* Output i, as the reply has it: its name, its type and shape, and where it lies. */
const char *place_result(const evaluation *e, int i, lk_tensor *to);

/* The region for output i, or NULL. */
const place *place_region(const evaluation *e, int i);

void place_free(evaluation *e);

#endif
