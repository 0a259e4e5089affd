/* SPDX-License-Identifier: MIT
 *
 * Evaluations that are done, kept by the thread that ran them: the next request whose body has the
 * same text around its tensors, and the same query, differs in nothing but numbers, and need not be
 * read, checked and allocated again. So are the small requests of a training loop.
 */
#ifndef LOSSD_KEPT_H
#define LOSSD_KEPT_H

#include "evaluate.h"

/* What decides how a request is read, besides the tensors. */
typedef struct kept_key {
    const lk_loss *loss;
    const wire *in, *out;
    const char *query;
    uint64_t head; /* evaluation.oip.head */
} kept_key;

/* An evaluation of such a request, as after evaluation_open with that body; NULL: none is kept. */
evaluation *kept_take(const kept_key *key, span body);

/* Keep an evaluation that has run, or free it: always where it is not `good`, that is, was not
 * closed or has a problem. Its body is still there. NULL is allowed. */
void kept_give(const kept_key *key, evaluation *e, bool good);

/* Free all that this thread keeps. */
void kept_clear(void);

#endif
