/* SPDX-License-Identifier: MIT
 *
 * Evaluates a body by the server's steps, one after another on this thread.
 */
#include "kept.h"
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

static bool run_and_close(evaluation *e, problem *p)
{
    if (!evaluation_fill(e, p))
        return false;
    do
        for (int i = e->shards; i-- > 0;)
            evaluation_run(e, i);
    while (evaluation_next(e));
    return evaluation_close(e, p);
}

static void put_pieces(const evaluation *e, bytes *to)
{
    for (int i = 0; i < e->pieces; i++)
        put(to, e->piece[i].data, e->piece[i].size);
}

/* Give the evaluation away, to be kept, and evaluate the same body with it: the reply must be the
 * same. */
static void serve_again(evaluation *e, const char *query, const char *body, const bytes *reply)
{
    const size_t size = e->body.size;
    char *copy = exactly(body, size);
    const kept_key key = {e->loss, e->in, e->out, query, e->oip.head};
    problem p;
    kept_give(&key, e, true);
    e = kept_take(&key, (span){copy, size});
    if (e) {
        bytes second = {0};
        if (!run_and_close(e, &p))
            fail_msg("the second time: %s", p.detail);
        put_pieces(e, &second);
        if (second.size != reply->size || memcmp(second.data, reply->data, reply->size) != 0)
            fail_msg("the second reply of %s is another", lk_loss_describe(e->loss)->name);
        free(second.data);
        kept_give(&key, e, true);
    }
    free(copy);
    kept_clear();
}

/* `query` may be NULL. The body is copied to memory of exactly its size. Returns false with a
 * problem. */
bool serve_body(const lk_loss *loss, const wire *in, const wire *out, const void *body, size_t size,
                const char *query, int shards, outcome *o)
{
    char *copy = exactly(body, size);
    *o = (outcome){.shards = 0};
    evaluation *e = evaluation_new(loss, in, out, (span){copy, size});
    if (!e)
        problem_set(&o->problem, 503, "no_memory", "no memory");
    else
        tell_head(e);
    query = query ? query : "";
    const bool ok =
        e && evaluation_open(e, query, shards, &o->problem) && run_and_close(e, &o->problem);
    if (e) {
        o->shards = e->shards;
        o->head = e->oip.reply_head;
        o->need = e->need;
        o->taken = e->arena_size + e->text.capacity + lk_call_memory(e->call);
        if (e->arena_used > e->arena_size)
            fail_msg("%zu bytes used of an arena of %zu", e->arena_used, e->arena_size);
    }
    if (ok) {
        put_pieces(e, &o->reply);
        serve_again(e, query, body, &o->reply);
    } else {
        evaluation_free(e);
    }
    free(copy);
    return ok;
}
