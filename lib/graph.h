/* SPDX-License-Identifier: MIT
 *
 * A graph: a call that is made of other calls, its parts. Shared by graph_parts.c (filling it),
 * graph_edges.c (which part reads which), graph_check.c (checks), graph_room.c (its memory) and
 * graph_run.c (running it). A graph uses its parts only through the public lk_call_ functions.
 *
 * Each part is evaluated on the tensors that it names, with its weight as the upstream gradient.
 * Gradients with respect to the same tensor are summed in the order of the parts. 16-bit tensors
 * are widened once, before any part reads them, and sums of gradients are rounded once, at the end;
 * except that in a graph with edges a part reads its tensors as they are, if no other part reads
 * them and no edge brings it floats of 32 bits to differentiate.
 *
 * An input may read an output of another part instead of a tensor: an edge. Parts are visited in
 * the order of the edges. A part whose gradients depend on those of a part that reads it defers
 * them: it is visited again when all of these are known, in the opposite order. Without edges every
 * part is visited once, in the order given.
 */
#ifndef LK_GRAPH_H
#define LK_GRAPH_H

#include "call.h"

enum { PARTS_MAX = 16, TENSORS_MAX = 64, NAME_SIZE = 32, SOURCE_SIZE = 64 };
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
    bool used;             /* by a part, or by the graph itself */
    bool own;              /* its type is its own to all that read it: LK_OWN_TYPE */
    bool narrow;           /* read once, by a part that computes in its type: it is not widened */
    int gradient;          /* index of its gradient among the requested outputs, or -1 */
    bool has_sum;          /* while planning: a step before writes its gradient */
    size_t wide_at, to_at; /* places in the arena of `wide` and `to`, if they are there */
    void *wide, *to;       /* the widened elements; the sum of gradients: the output, or wide too */
} named;

typedef struct part {
    const lk_loss *loss;
    const lk_description *is;
    char name[NAME_SIZE]; /* "": none */
    double weight;
    bool weighted; /* a weight was given */
    char *options; /* NUL-terminated strings as they were set: name, text, name, text; NULL: none */
    size_t options_size;
    char source[LK_MAX_INPUTS][SOURCE_SIZE]; /* what each input reads; "": the tensor of its name */
    bool none[LK_MAX_INPUTS];
    int tensor[LK_MAX_INPUTS];        /* index of that tensor; -1: none */
    int from[LK_MAX_INPUTS];          /* edge: the part whose output is read; -1: no edge */
    const char *reads[LK_MAX_INPUTS]; /* edge: that output */

    bool is_read;    /* another part reads one of its outputs */
    bool inner;      /* its value does not enter the loss */
    bool live;       /* the loss depends on it, itself or through a part that reads it */
    bool grads;      /* it computes gradients */
    bool deferred;   /* after those of the parts that read it */
    int visit, back; /* the visits that compute its values, and its gradients */
    bool flows;      /* its gradients are not known to be 0 */

    lk_call *call; /* with the options set; check adds inputs and outputs */
    bool checked;  /* check was called on it, so the next check needs a new call */
    bool planned, finished;
    double upstream;                  /* its grad_output without 2^power, or what the graph adds */
    int power;                        /* not 0 if it would be beyond the range of floats */
    lk_tensor above[LK_MAX_INPUTS];   /* deferred: the upstream gradients; rank -1: not given */
    size_t above_at[LK_MAX_INPUTS];   /* their places in the arena */
    size_t output_at[SINGLE_OUTPUTS]; /* place of each output in the arena, or ELSEWHERE */
    char value[sizeof(double)];
} part;

/* An edge: an input of part `to` reads an output of part `from`. */
typedef struct edge {
    int from, to, input;
    const char *output;
} edge;

static const size_t ELSEWHERE = SIZE_MAX; /* a place that is not in the arena */

/* A pass of the graph: the passes of a part, of its values or of deferred gradients; the
 * multiplication of a gradient by 2^power; its addition to a sum; the copy of one in its stead; a
 * gradient of 0; the rounding of a sum to 16 bits. */
typedef enum step_kind { RUN, BACK, SCALE, ADD, COPY, CLEAR, ROUND } step_kind;
typedef struct step {
    step_kind kind;
    int part;         /* RUN, BACK */
    int power;        /* SCALE */
    lk_tensor is;     /* else: where to, with its data */
    const void *from; /* ADD, COPY: the gradient; ROUND: the sum, in f32 */
} step;

typedef struct graph {
    lk_call call;
    int tensors, parts;
    int edges;
    edge edge[PARTS_MAX * LK_MAX_INPUTS]; /* by part, and by input */
    int order[PARTS_MAX];                 /* of the parts: those that others read before these */
    int visits;                           /* of all parts */
    lk_dtype primary, real;
    named tensor[TENSORS_MAX];
    part part[PARTS_MAX];
    char *arena;
    size_t arena_size;
    int steps, at;
    step *step;
    lk_error bad; /* error of the first part that failed */
} graph;

static inline graph *graph_of(const lk_call *call)
{
    return (graph *)(uintptr_t)call;
}

static inline bool is_half(lk_dtype dtype)
{
    return dtype == LK_F16 || dtype == LK_BF16;
}

/* Do the parts read the tensor in a wider type than its own? */
bool lk_graph_widens(const graph *g, const named *t);

/* graph_parts.c */

void lk_graph_free(lk_call *call);
lk_status lk_graph_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error);
lk_status lk_graph_want(const lk_call *call, const char *output, lk_wanted *wanted,
                        lk_error *error);
unsigned lk_graph_dtypes(const lk_call *call, const char *name);
const lk_tensor *lk_graph_tensor(const lk_call *call, const char *name);
lk_status lk_graph_part(lk_call *call, const char *loss, const double *weight, lk_error *error);
lk_status lk_graph_part_name(lk_call *call, const char *name, lk_error *error);
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

/* The input of the part that has that name, or -1. */
int lk_graph_part_place(const part *p, const char *input);

/* The input of the part whose gradient that output is; -1 for other outputs. */
int lk_graph_gradient_of(const part *p, const char *output);

/* The output of the part with that name, as its call lists it, with its data; rank -1: none. */
lk_tensor lk_graph_part_output(const part *p, const char *output);

/* graph_edges.c */

/* The part and the output that "part.<k>.<output>" or "part.<name>.<output>" names. False if there
 * is no such output; *k is then the part, or the number of parts if there is no such part. */
bool lk_graph_names_output(const graph *g, const char *text, int *k, const char **output);

/* Find what the edges read, and the order of the parts. */
lk_status lk_graph_connect_edges(graph *g, lk_error *error);

/* Does another part read that output of part k? */
bool lk_graph_is_read(const graph *g, int k, const char *output);

/* Does a gradient go back from input i of part k along an edge, if any is asked for? */
bool lk_graph_goes_back(const graph *g, int k, int i);

/* The input of a part that takes the upstream gradient of that output; -1: a constant. */
int lk_graph_upstream(const part *p, const char *output);

/* Must part k compute the gradient of its input i? */
bool lk_graph_wants_gradient(const graph *g, int k, int i);

/* Which parts compute gradients, and when: once the outputs are known. */
void lk_graph_set_visits(graph *g);

/* graph_check.c */

lk_status lk_graph_check(lk_call *call, lk_error *error);

/* Check all parts, each with a new call if the present one was checked already. */
lk_status lk_graph_check_parts(graph *g, lk_error *error);

/* graph_room.c */

static inline size_t lk_graph_bytes(const lk_tensor *t, lk_dtype dtype)
{
    return (size_t)lk_tensor_count(t) * lk_dtype_size(dtype);
}

/* The buffer of the graph's output that is this output of part k, or NULL. */
const lk_wanted *lk_graph_shown(const graph *g, int k, const char *output);

/* The visit after which the gradient of input i of part k is added to the sum: those before it have
 * been added by then. */
int lk_graph_added(const graph *g, int k, int i);

/* Give everything that the graph keeps in its arena a place; and set arena_size. */
void lk_graph_lay_out(graph *g);

/* graph_run.c */

lk_status lk_graph_plan(lk_call *call, lk_error *error);
size_t lk_graph_scratch(const lk_call *call);
size_t lk_graph_memory(const lk_call *call);
int64_t lk_graph_cost(const lk_call *call);
int64_t lk_graph_blocks(const lk_call *call);
void lk_graph_run(lk_call *call, int64_t first, int64_t count, void *scratch);
bool lk_graph_next(lk_call *call);
lk_status lk_graph_finish(lk_call *call, lk_error *error);

#endif
