/* SPDX-License-Identifier: MIT
 *
 * A graph: a call that is made of other calls, its parts. Shared by graph_parts.c (filling it),
 * graph_check.c (checks) and graph_run.c (running it). A graph uses its parts only through the
 * public lk_call_ functions.
 *
 * Each part is evaluated on the tensors that it names, with its weight as the upstream gradient.
 * Gradients with respect to the same tensor are summed in the order of the parts. 16-bit tensors
 * are widened once, before any part reads them, and sums of gradients are rounded once, at the end.
 */
#ifndef LK_GRAPH_H
#define LK_GRAPH_H

#include "call.h"

enum { PARTS_MAX = 16, TENSORS_MAX = 64, NAME_SIZE = 32 };
enum { WEIGHTED_SUM, UNCERTAINTY };             /* combine */
enum { WEIGHTS, LOG_VARS, UPSTREAM, RESERVED }; /* the graph's own inputs */

typedef struct graph_options {
    int combine;
    lk_reals scales;
} graph_options;

/* A tensor of the request. */
typedef struct named {
    char name[NAME_SIZE];
    lk_tensor is;
    bool used;       /* by a part, or by the graph itself */
    int gradient;    /* index of its gradient among the requested outputs, or -1 */
    bool has_sum;    /* while planning: an earlier part writes its gradient */
    void *wide, *to; /* the widened elements; the sum of gradients: the output, or wide too */
} named;

typedef struct part {
    const lk_loss *loss;
    const lk_description *is;
    double weight;
    char *options; /* NUL-terminated strings as they were set: name, text, name, text; NULL: none */
    size_t options_size;
    char source[LK_MAX_INPUTS][NAME_SIZE]; /* tensor of each input; "": the one of its name */
    bool none[LK_MAX_INPUTS];
    int tensor[LK_MAX_INPUTS]; /* index of that tensor; -1: none */
    lk_call *call;             /* with the options set; check adds inputs and outputs */
    bool checked;              /* check was called on it, so the next check needs a new call */
    bool finished;
    double upstream; /* its grad_output, without 2^power */
    int power;       /* 0, unless it would be beyond the computing type */
    char value[sizeof(double)];
} part;

/* A pass of the graph: a pass of a part, the multiplication of a gradient by 2^power, its addition
 * to the sum, or the rounding of a sum to 16 bits. */
typedef enum step_kind { RUN, SCALE, ADD, ROUND } step_kind;
typedef struct step {
    step_kind kind;
    int part;
    named *tensor;
    void *of; /* SCALE, ADD: the gradient, in the computing type */
    int power;
} step;

typedef struct graph {
    lk_call call;
    int tensors, parts;
    lk_dtype primary, real;
    named tensor[TENSORS_MAX];
    part part[PARTS_MAX];
    char *arena;
    size_t arena_used;
    int steps, at;
    step *step;
    lk_error bad; /* error of the first part whose finish failed */
} graph;

static inline graph *graph_of(const lk_call *call)
{
    return (graph *)(uintptr_t)call;
}

static inline bool is_half(lk_dtype dtype)
{
    return dtype == LK_F16 || dtype == LK_BF16;
}

/* graph_parts.c */

void lk_graph_free(lk_call *call);
lk_status lk_graph_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error);
lk_status lk_graph_want(const lk_call *call, const char *output, lk_wanted *wanted,
                        lk_error *error);
unsigned lk_graph_dtypes(const lk_call *call, const char *name);
const lk_tensor *lk_graph_tensor(const lk_call *call, const char *name);
lk_status lk_graph_part(lk_call *call, const char *loss, double weight, lk_error *error);
lk_status lk_graph_part_option(lk_call *call, const char *name, const char *text, lk_error *error);
lk_status lk_graph_part_input(lk_call *call, const char *input, const char *tensor,
                              lk_error *error);

/* The tensor of that name, or NULL. */
named *lk_graph_find(const graph *g, const char *name);

/* Is that the name of one of the graph's own inputs? */
bool lk_graph_reserves(const graph *g, const char *name);

/* The name of the tensor that input i of a part reads; NULL: none. */
const char *lk_graph_source(const graph *g, const part *p, int i);

/* Replace the call of part k by a new one with the same options, if it was checked. */
lk_status lk_graph_renew(graph *g, int k, lk_error *error);

/* Part k has failed with that status: turn its error, if there is one, into one of the graph that
 * names the part. Returns the status. */
lk_status lk_graph_part_error(const graph *g, int k, lk_status status, lk_error *error);

/* The tensor whose gradient that output of part k is; NULL for other outputs. */
named *lk_graph_gradient_of(const graph *g, int k, const char *output);

/* graph_check.c */

lk_status lk_graph_check(lk_call *call, lk_error *error);

/* Check all parts, each with a new call if the present one was checked already. */
lk_status lk_graph_check_parts(graph *g, lk_error *error);

/* graph_run.c */

lk_status lk_graph_plan(lk_call *call, lk_error *error);
size_t lk_graph_scratch(const lk_call *call);
size_t lk_graph_memory(const lk_call *call);
int64_t lk_graph_blocks(const lk_call *call);
void lk_graph_run(lk_call *call, int64_t first, int64_t count, void *scratch);
bool lk_graph_next(lk_call *call);
lk_status lk_graph_finish(lk_call *call, lk_error *error);

#endif
