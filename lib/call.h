/* SPDX-License-Identifier: MIT
 *
 * A call as the public functions see it: its loss, options, outputs and stage. The implementation
 * is behind a table of functions, an lk_kind. There are two: a single evaluation (single.c), and a
 * graph of calls (graph.c). The public functions (call.c) never ask which it is.
 */
#ifndef LK_CALL_H
#define LK_CALL_H

#include "internal.h"

#include <stdio.h>

typedef enum lk_stage { FILLING, CHECKED, PLANNED, FINISHED } lk_stage;

/* What the present passes compute: everything; or, where the gradients are deferred, everything
 * else, then the gradients. */
typedef enum lk_phase { TOGETHER, VALUES, GRADIENTS } lk_phase;

enum { SINGLE_OUTPUTS = 1 + LK_MAX_INPUTS + LK_MAX_OUTPUTS }; /* of a call without parts */

/* Which output: `loss`, the gradient of an input, or a diagnostic. */
typedef enum lk_role { VALUE, GRADIENT, DIAGNOSTIC } lk_role;

/* A requested output. `role` and `i` belong to the kind. */
typedef struct lk_wanted {
    char name[64];
    lk_tensor tensor;      /* type and shape, known after check; data: the caller's buffer */
    const lk_tensor *over; /* the input that it may overwrite (in place), or NULL */
    lk_role role;
    int i; /* index of the input or the diagnostic */
} lk_wanted;

/* The first member of every kind's call. */
struct lk_call {
    const lk_loss *loss; /* the handle the caller gave */
    const struct lk_kind *kind;
    lk_stage stage;
    lk_phase phase;
    void *options;          /* the loss's option struct */
    uint64_t options_given; /* a bit for each field of the table; see lk_given */
    int wanted_count;
    lk_wanted *wanted; /* room for as many as the kind allows */
};

/* The implementation of the lk_call_ functions for one kind of call. call.c checks the stage
 * before, and sets it after. */
typedef struct lk_kind {
    size_t size; /* of its call's struct */
    int outputs; /* how many may be requested: at most LK_OUTPUTS_MAX */

    /* May be NULL. The struct is zero, the options have their defaults. */
    void (*start)(lk_call *call);
    void (*free)(lk_call *call); /* frees what the call owns, not the call */

    lk_status (*input)(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error);

    /* Find an output by name, as far as it is known at this stage. Fills in `role` and `i`. */
    lk_status (*want)(const lk_call *call, const char *output, lk_wanted *wanted, lk_error *error);

    /* Only for calls that have parts, else NULL. `weight` NULL: none was given. */
    lk_status (*part)(lk_call *call, const char *loss, const double *weight, lk_error *error);
    lk_status (*part_name)(lk_call *call, const char *name, lk_error *error);
    lk_status (*part_option)(lk_call *call, const char *name, const char *text, lk_error *error);
    lk_status (*part_input)(lk_call *call, const char *input, const char *tensor, lk_error *error);

    /* The element types that an input of that name may have; 0: there is no such input. */
    unsigned (*dtypes)(const lk_call *call, const char *name);

    /* The input of that name, or NULL if it was not given. */
    const lk_tensor *(*tensor)(const lk_call *call, const char *name);

    /* check and plan may be called again after they have failed. If no output was requested, check
     * adds the default ones. */
    lk_status (*check)(lk_call *call, lk_error *error);
    lk_status (*plan)(lk_call *call, lk_error *error);

    size_t (*scratch)(const lk_call *call); /* after check, like memory */
    size_t (*memory)(const lk_call *call);
    int64_t (*cost)(const lk_call *call);
    int64_t (*blocks)(const lk_call *call); /* after plan, like the functions below */
    void (*run)(lk_call *call, int64_t first, int64_t count, void *scratch);
    bool (*next)(lk_call *call);
    lk_status (*finish)(lk_call *call, lk_error *error);

    /* Forget the plan, so that check's results can be planned again. NULL: they cannot. */
    void (*again)(lk_call *call);

    /* Start the passes of deferred gradients. NULL: gradients cannot be deferred. */
    lk_status (*backward)(lk_call *call, lk_error *error);
} lk_kind;

extern const lk_kind lk_single; /* for losses whose description has no kind */

/* A sum of costs (lk_call_cost), which may be larger than any call that could be run. */
static inline int64_t lk_cost(double sum)
{
    return sum < 0x1p60 ? (int64_t)sum : (int64_t)1 << 60;
}

/* Append an output. NULL if there are too many. */
static inline lk_wanted *lk_wanted_add(lk_call *call, const char *name, lk_role role, int i)
{
    if (call->wanted_count == call->kind->outputs)
        return NULL;
    lk_wanted *w = &call->wanted[call->wanted_count++];
    *w = (lk_wanted){.role = role, .i = i};
    snprintf(w->name, sizeof w->name, "%s", name);
    return w;
}

#endif
