/* SPDX-License-Identifier: MIT
 *
 * Evaluates a body by the server's steps, one after another on this thread.
 */
#include "tests/request/request.h"

#include <stdlib.h>

void outcome_free(outcome *o)
{
    free(o->reply.data);
    o->reply = (bytes){0};
}

/* Set what the server takes from the request's head. */
void tell_head(evaluation *e)
{
    if (e->in == &wire_oip)
        e->oip.head = said_head;
    else
        e->oip.raw_default = true;
}

/* `query` may be NULL. The body is copied to memory of exactly its size. Returns false with a
 * problem. */
bool serve(const lk_loss *loss, const wire *in, const wire *out, const void *body, size_t size,
           const char *query, int shards, outcome *o)
{
    char *copy = exactly(body, size);
    *o = (outcome){.shards = 0};
    evaluation *e = evaluation_new(loss, in, out, (span){copy, size});
    if (!e)
        problem_set(&o->problem, 503, "no_memory", "no memory");
    else
        tell_head(e);
    bool ok = e && evaluation_open(e, query ? query : "", shards, &o->problem) &&
              evaluation_fill(e, &o->problem);
    if (ok) {
        do
            for (int i = e->shards; i-- > 0;)
                evaluation_run(e, i);
        while (evaluation_next(e));
        ok = evaluation_close(e, &o->problem);
    }
    if (e) {
        o->shards = e->shards;
        o->head = e->oip.reply_head;
        o->need = e->need;
        o->taken = e->arena_size + e->text.capacity + lk_call_memory(e->call);
        if (e->arena_used > e->arena_size)
            fail_msg("%zu bytes used of an arena of %zu", e->arena_used, e->arena_size);
    }
    for (int i = 0; ok && i < e->pieces; i++)
        put(&o->reply, e->piece[i].data, e->piece[i].size);
    evaluation_free(e);
    free(copy);
    return ok;
}
