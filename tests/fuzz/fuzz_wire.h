/* SPDX-License-Identifier: MIT
 *
 * Whole evaluations of bodies of one format: NAME newline [LENGTH newline] body. LENGTH exists only
 * with the Open Inference Protocol, where it may be empty. The result must be a reply or a problem
 * that blames the client; the reply must have the same bytes however the work is divided, and the
 * memory used must not exceed the amount promised. FUZZ_REFERENCE may define a further check of
 * each body that was accepted.
 */
#include "fuzz.h"

#include "server/evaluate.h"
#include "server/wire/wire.h"

#ifndef FUZZ_REFERENCE
#define FUZZ_REFERENCE(body) true
#endif

/* One line of the head, truncated to fit. False if there is none. */
static bool take_line(const uint8_t **data, size_t *size, char *to, size_t room)
{
    const uint8_t *end = memchr(*data, '\n', *size);
    if (!end)
        return false;
    const size_t length = (size_t)(end - *data);
    snprintf(to, room, "%.*s", (int)(length < room ? length : room - 1), (const char *)*data);
    *data += length + 1;
    *size -= length + 1;
    return true;
}

/* The reply's bytes, or NULL with a problem. */
static char *answer_of(const lk_loss *loss, uint64_t head, const uint8_t *data, size_t size,
                       int shards, size_t *length, problem *p)
{
    enum { MEMORY = 1 << 26 };
    char *body = malloc(size ? size : 1), *reply = NULL;
    REQUIRE(body);
    memcpy(body, data, size);
    evaluation *e = evaluation_new(loss, &FUZZ_WIRE, &FUZZ_WIRE, (span){body, size});
    REQUIRE(e);
    e->oip.head = head;
    bool ok = evaluation_open(e, "", shards, p);
    if (ok && e->need > MEMORY)
        ok = problem_set(p, 413, "too_large", "for a fuzzer");
    ok = ok && evaluation_fill(e, p);
    if (ok) {
        do
            for (int i = e->shards; i-- > 0;)
                evaluation_run(e, i);
        while (evaluation_next(e));
        ok = evaluation_close(e, p);
    }
    if (ok) {
        REQUIRE(e->arena_used <= e->arena_size);
        REQUIRE(e->need >= e->arena_used + e->text.size);
        *length = 0;
        for (int i = 0; i < e->pieces; i++)
            *length += e->piece[i].size;
        reply = malloc(*length ? *length : 1);
        REQUIRE(reply);
        for (int i = 0, at = 0; i < e->pieces; at += (int)e->piece[i].size, i++)
            memcpy(reply + at, e->piece[i].data, e->piece[i].size);
    } else {
        REQUIRE(p->status == 400 || p->status == 413 || p->status == 422);
        REQUIRE(p->code && p->detail[0] != '\0');
    }
    evaluation_free(e);
    free(body);
    return reply;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[64], length[32] = "";
    if (!take_line(&data, &size, name, sizeof name))
        return -1;
    if (FUZZ_WIRE.routed && !take_line(&data, &size, length, sizeof length))
        return -1;
    const lk_loss *loss = lk_loss_find(name);
    if (!loss)
        return -1;
    const uint64_t head = length[0] != '\0' ? strtoull(length, NULL, 10) : OIP_ALL;
    size_t whole = 0, cut = 0;
    problem p = {0}, q = {0};
    char *a = answer_of(loss, head, data, size, 1, &whole, &p);
    char *b = answer_of(loss, head, data, size, 3, &cut, &q);
    REQUIRE(!a == !b && p.status == q.status && strcmp(p.detail, q.detail) == 0);
    REQUIRE(!a || (whole == cut && memcmp(a, b, whole) == 0));
    REQUIRE(!a || FUZZ_REFERENCE(((span){(const char *)data, size})));
    free(a);
    free(b);
    return 0;
}
