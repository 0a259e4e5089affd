/* SPDX-License-Identifier: MIT
 *
 * A call as the front knows it: which loss, its options, which outputs, and how far it has come.
 * What computes it stands behind a table of functions, an lk_kind. There are two: a single
 * evaluation (single.c), and a graph of calls (graph.c). The front never asks which it has.
 */
#ifndef LK_CALL_H
#define LK_CALL_H

#include "internal.h"

#include <stdio.h>

typedef enum lk_stage { FILLING, CHECKED, PLANNED, FINISHED } lk_stage;

enum { MAX_WANTED = 1 + LK_MAX_INPUTS + LK_MAX_OUTPUTS };

/* Which output: `loss`, the gradient of an input, or a diagnostic. */
typedef enum lk_role { VALUE, GRADIENT, DIAGNOSTIC } lk_role;

/* An output that was asked for. `role` and `i` are the kind's own. */
typedef struct lk_wanted {
    char name[48];
    lk_tensor tensor;      /* type and shape, from check on; its data is what was bound */
    const lk_tensor *over; /* the input that it may be written over, or NULL */
    lk_role role;
    int i; /* of the input or the diagnostic */
} lk_wanted;

/* The first member of every kind's call. */
struct lk_call {
    const lk_loss *loss; /* the handle the caller gave */
    const struct lk_kind *kind;
    lk_stage stage;
    void *options;          /* the loss's option struct */
    uint64_t options_given; /* by the place of the field in the table; see lk_given */
    int wanted_count;
    lk_wanted wanted[MAX_WANTED];
};

/* What the functions of losskit.h on calls do for one kind of call. The front has checked the stage
 * and sets the next one. */
typedef struct lk_kind {
    size_t size; /* of its call */
    void (*start)(
        lk_call *call); /* everything is zero, the options have their defaults; may be NULL */
    void (*free)(lk_call *call); /* what it owns beside itself */

    lk_status (*input)(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error);

    /* Is there an output of that name, as far as can be said now? Fills in `role` and `i`. */
    lk_status (*want)(const lk_call *call, const char *output, lk_wanted *wanted, lk_error *error);

    /* Of calls that have parts; NULL elsewhere. */
    lk_status (*part)(lk_call *call, const char *loss, double weight, lk_error *error);
    lk_status (*part_option)(lk_call *call, const char *name, const char *text, lk_error *error);
    lk_status (*part_input)(lk_call *call, const char *input, const char *tensor, lk_error *error);

    /* The input of that name, NULL if it was not given. */
    const lk_tensor *(*tensor)(const lk_call *call, const char *name);

    /* Checks come again after one that failed, plans too. Where no output was asked for, check adds
     * the default ones. */
    lk_status (*check)(lk_call *call, lk_error *error);
    lk_status (*plan)(lk_call *call, lk_error *error);

    size_t (*scratch)(const lk_call *call); /* from CHECKED on, like memory */
    size_t (*memory)(const lk_call *call);
    int64_t (*blocks)(const lk_call *call); /* in PLANNED, like those below */
    void (*run)(lk_call *call, int64_t first, int64_t count, void *scratch);
    bool (*next)(lk_call *call);
    lk_status (*finish)(lk_call *call, lk_error *error);
} lk_kind;

extern const lk_kind lk_single; /* of losses that name no kind of their own */

/* Append an output. NULL if there are as many as can be. */
static inline lk_wanted *lk_wanted_add(lk_call *call, const char *name, lk_role role, int i)
{
    if (call->wanted_count == MAX_WANTED)
        return NULL;
    lk_wanted *w = &call->wanted[call->wanted_count++];
    *w = (lk_wanted){.role = role, .i = i};
    snprintf(w->name, sizeof w->name, "%s", name);
    return w;
}

#endif
