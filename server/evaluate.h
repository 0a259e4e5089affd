/* SPDX-License-Identifier: MIT
 *
 * One evaluation, from the bytes of a request body to the pieces of a reply. It knows nothing of
 * HTTP and nothing of threads: request.c decides where each step runs, `lossd eval` runs them in a
 * row.
 *
 *   open   read names, types, shapes, options; compute how much memory the rest needs
 *   fill   read the numbers, plan
 *   run    compute the blocks, in shards, each on any thread; then the next pass, if there is one
 *   close  reduce and encode
 *
 * An evaluation is used by one thread at a time, except for evaluation_run and evaluation_run_some,
 * which run different shards at the same time.
 */
#ifndef LOSSD_EVALUATE_H
#define LOSSD_EVALUATE_H

#include "tell/problem.h"
#include "wire/evaluation.h"

/* The loss of that name, or NULL with a problem that names close matches. */
const lk_loss *evaluation_loss(const char *name, problem *p);

/* The same, for the route /v1/<kind>/<name>: the loss must be of that kind. */
const lk_loss *evaluation_at(const char *kind, const char *name, problem *p);

/* `body` must live as long as the evaluation. NULL without memory. */
evaluation *evaluation_new(const lk_loss *loss, const wire *in, const wire *out, span body);
void evaluation_free(evaluation *e);

/* How many bytes at the beginning of the body are text; the rest is tensors. And roughly how long
 * open takes for that, in ns. */
size_t evaluation_text(const evaluation *e);
int64_t evaluation_reading(const evaluation *e);

/* `query` is the raw query string, "" for none. `shards` is the maximum number of shards; after
 * open, e->shards is the actual number. Each step returns false with a problem. */
bool evaluation_open(evaluation *e, const char *query, int shards, problem *p);
bool evaluation_fill(evaluation *e, problem *p);
void evaluation_run(evaluation *e, int shard);
bool evaluation_next(evaluation *e); /* after all shards have run: is there another pass to run? */
bool evaluation_close(evaluation *e, problem *p);

/* evaluation_run in slices: runs at most `most` blocks of the shard after the first *done, and
 * advances *done. True while blocks are left. Each call has an overhead comparable to a block. */
bool evaluation_run_some(evaluation *e, int shard, int64_t most, int64_t *done);

/* After close: prepare the evaluation for another body, of which only the tensors differ. False: it
 * must be freed. Then, as if it had been opened with it: evaluation_renew, where `tensors` are
 * those of the wire's outline, or NULL if it has no such function. */
bool evaluation_renewable(evaluation *e);
void evaluation_renew(evaluation *e, span body, const span *tensors);

#endif
