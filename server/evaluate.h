/* SPDX-License-Identifier: MIT
 *
 * One evaluation, from the bytes of a request body to the pieces of a reply. It knows nothing of
 * HTTP and nothing of threads: request.c decides where each step runs, `lossd eval` runs them in a
 * row.
 *
 *   open   names, types, shapes, options; how much memory the rest will need
 *   fill   numbers, plan
 *   run    shards of the blocks, each on any thread; then the next pass, if there is one
 *   close  reduce and encode
 *
 * An evaluation is used by one thread at a time, but for evaluation_run and evaluation_run_some.
 */
#ifndef LOSSD_EVALUATE_H
#define LOSSD_EVALUATE_H

#include "tell/problem.h"
#include "wire/evaluation.h"

/* The loss of that name, or NULL with a problem that names close matches. */
const lk_loss *evaluation_loss(const char *name, problem *p);

/* The same, if it is at /v1/<kind>/<name>. */
const lk_loss *evaluation_at(const char *kind, const char *name, problem *p);

/* `body` must live as long as the evaluation. NULL without memory. */
evaluation *evaluation_new(const lk_loss *loss, const wire *in, const wire *out, span body);
void evaluation_free(evaluation *e);

/* `query` is the raw query string, "" for none. `shards` is into how many parts run will be cut at
 * most; after open, e->shards is how many there are. Each step returns false with a problem. */
bool evaluation_open(evaluation *e, const char *query, int shards, problem *p);
bool evaluation_fill(evaluation *e, problem *p);
void evaluation_run(evaluation *e, int shard);
bool evaluation_next(evaluation *e); /* when all shards have run: must they run again? */
bool evaluation_close(evaluation *e, problem *p);

/* evaluation_run by and by: at most so many blocks of the shard, behind the *done that are. True
 * while there are more. Each call has a price of its own, like a block's. */
bool evaluation_run_some(evaluation *e, int shard, int64_t most, int64_t *done);

#endif
