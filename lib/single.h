/* SPDX-License-Identifier: MIT
 *
 * One evaluation of one loss: what its checks (check.c) and its run (single.c) share.
 */
#ifndef LK_SINGLE_H
#define LK_SINGLE_H

#include "call.h"

#include <stdatomic.h>

enum { AHEAD = -1 }; /* single.pass: lk_loss.ahead */

typedef struct single {
    lk_call call;
    lk_job job;
    lk_tensor given[LK_MAX_INPUTS]; /* rank -1: not given */
    int primary;                    /* the input that chooses the element type */
    lk_sizes sizes;
    int64_t blocks; /* of the rows */
    int64_t each;   /* the cost of a row, in elements; see lk_loss.row_cost */
    int64_t most;   /* no size that the job shows is greater; see bound_claims in check.c */
    int pass;       /* AHEAD, 0: the rows, k: the loss's pass k - 1 */
    void *state;    /* what job.state lies in */
    lk_block *block;
    atomic_bool starved; /* a run, on any thread, was called without the scratch it needs */
    void *converted[LK_MAX_INPUTS];
} single;

static inline single *single_of(const lk_call *call)
{
    return (single *)(uintptr_t)call;
}

/* The computing type of a call. */
static inline lk_dtype single_real(const single *s)
{
    return s->given[s->primary].dtype == LK_F64 ? LK_F64 : LK_F32;
}

/* single.c: functions of the kind that lk_prefixed has too. */

void lk_single_start(lk_call *call);
lk_status lk_single_give(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error);
const lk_tensor *lk_single_tensor(const lk_call *call, const char *name);

/* check.c: two functions of the kind, and helpers that running needs as well. */

unsigned lk_single_dtypes(const lk_call *call, const char *name);
lk_status lk_single_want(const lk_call *call, const char *output, lk_wanted *wanted,
                         lk_error *error);
lk_status lk_single_check(lk_call *call, lk_error *error);

/* The index of an input in the loss's table, or -1. */
int lk_single_input(const lk_loss *loss, const char *name);

/* How many rows of that cost make a block of the loss (pass NULL) or of a pass: enough work to be
 * worth handing to another thread. */
int64_t lk_single_block_rows(const lk_job *job, const lk_pass *pass, int64_t cost);

/* An input as the kernels see it: as given, or with its sizes bounded (bound_claims). */
lk_tensor lk_single_shown(const single *s, int i);

/* The shape pattern of `loss` with the chosen reduction. */
const char *lk_single_loss_pattern(const single *s);

#endif
