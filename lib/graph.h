/* SPDX-License-Identifier: MIT
 *
 * A graph: a call that is made of calls, its parts. What filling it (graph_parts.c), checking it
 * (graph_check.c) and running it (graph_run.c) share. Parts are used by the public functions of
 * calls alone.
 *
 * Each part is a call of its own on the tensors that it names, and its upstream gradient is its
 * weight. Gradients with respect to the same tensor are added up in the order of the parts. Tensors
 * of 16 bits are widened once and for all, so that a sum of gradients is rounded once.
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
    int gradient;    /* its place among the wanted outputs, or -1 */
    bool has_sum;    /* when planning: a part has written its gradient already */
    void *wide, *to; /* widened numbers; where gradients are summed: the output, or wide too */
} named;

typedef struct part {
    const lk_loss *loss;
    const lk_description *is;
    double weight;
    char *options; /* as they were set: name, text, name, text, each with its end; NULL: none */
    size_t options_size;
    char source[LK_MAX_INPUTS][NAME_SIZE]; /* "": the tensor of the same name */
    bool none[LK_MAX_INPUTS];
    int tensor[LK_MAX_INPUTS]; /* -1: none */
    lk_call *call;             /* with the options set; inputs and outputs come with the check */
    bool checked;              /* the call, or it was tried: another check needs a new one */
    bool finished;
    double upstream; /* its grad_output */
    char value[sizeof(double)];
} part;

/* What a pass of the graph is: a pass of a part, the addition of a gradient that was written beside
 * the sum, or the rounding of a sum to 16 bits. */
typedef enum step_kind { RUN, ADD, ROUND } step_kind;
typedef struct step {
    step_kind kind;
    int part;
    named *tensor;
    const void *from; /* ADD */
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
    lk_error bad; /* of the first part that could not be finished */
} graph;

static inline graph *graph_of(const lk_call *call)
{
    return (graph *)(uintptr_t)call;
}

static inline bool is_half(lk_dtype dtype)
{
    return dtype == LK_F16 || dtype == LK_BF16;
}

/* graph_parts.c: functions of the kind, */

void lk_graph_free(lk_call *call);
lk_status lk_graph_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error);
lk_status lk_graph_want(const lk_call *call, const char *output, lk_wanted *wanted,
                        lk_error *error);
const lk_tensor *lk_graph_tensor(const lk_call *call, const char *name);
lk_status lk_graph_part(lk_call *call, const char *loss, double weight, lk_error *error);
lk_status lk_graph_part_option(lk_call *call, const char *name, const char *text, lk_error *error);
lk_status lk_graph_part_input(lk_call *call, const char *input, const char *tensor,
                              lk_error *error);

/* and the tensor of that name, or NULL; */
named *lk_graph_find(const graph *g, const char *name);

/* whether that is the name of an input that the graph itself has; */
bool lk_graph_reserves(const graph *g, const char *name);

/* a new call of part k with its options, where the one it has was used; */
lk_status lk_graph_renew(graph *g, int k, lk_error *error);

/* an error of part k as one of the graph's, which says where: returns its status; */
lk_status lk_graph_part_error(const graph *g, int k, lk_error *error);

/* the tensor whose gradient an output of part k is, or NULL. */
named *lk_graph_gradient_of(const graph *g, int k, const char *output);

/* graph_check.c */

lk_status lk_graph_check(lk_call *call, lk_error *error);

/* The checks of all parts, each with a new call where the one it has was used. */
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
