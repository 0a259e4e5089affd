/* SPDX-License-Identifier: MIT */
#include "request/steps.h"

#include "tell/metrics.h"
#include "wire/wires.h"

#include <sched.h>
#include <stdlib.h>

enum {
    /* How long a shard runs, in ns, between checks whether the request was cancelled. */
    PART = 250 * 1000,
    /* How long it runs before it gives way to queued work: it then goes to the end of the queue. */
    SLICE = 1000 * 1000,
    /* If another request arrived within this time, in ns, more are expected soon. */
    RECENT = 100 * 1000 * 1000,
};

static struct {
    int shards;
    size_t body;
} bounds; /* set once */

/* uv_hrtime() when the request began that began last: written by the loops, read by workers. A
 * large one begins long before its body is complete, and others meanwhile. */
static atomic_ullong latest;

void steps_setup(const flags *f)
{
    bounds.shards = (int)f->workers;
    bounds.body = (size_t)f->max_body;
}

void steps_arrived(const request *r)
{
    unsigned long long known = atomic_load(&latest);
    while (r->x->start > known && !atomic_compare_exchange_weak(&latest, &known, r->x->start))
        ; /* another loop's began in between */
}

/* A worker begins a job. The waiting time counts only for the first job each time the request is
 * queued. */
static uint64_t begin_work(request *r, bool first)
{
    uint64_t now = uv_hrtime();
    atomic_fetch_sub(&metric.queue_jobs, 1);
    atomic_fetch_add(&metric.workers_busy, 1);
    if (first)
        r->queue += seconds(r->queued, now);
    return now;
}

static void end_work(void)
{
    atomic_fetch_sub(&metric.workers_busy, 1);
}

/* Should the reply be compressed? Short and binary ones are not worth it. */
static bool is_packable(const request *r)
{
    return r->ask.reply != CODING_NONE && r->e->pieces == 1 && r->e->oip.reply_head == 0 &&
           r->e->piece[0].size >= PACKED_MIN && !r->ask.out->binary;
}

static void close_evaluation(request *r, uint64_t start)
{
    r->step = STEP_CLOSE;
    if (atomic_load(&r->skipped)) {
        (void)life_say_over(r);
        return;
    }
    if (evaluation_close(r->e, &r->problem) && is_packable(r)) {
        r->packed = buffer_new(r->e->piece[0].size);
        if (coding_deflate(r->ask.reply, r->e->piece[0], &r->packed))
            r->e->piece[0] = (span){r->packed.data, r->packed.size};
        else
            buffer_free(&r->packed);
    }
    r->encode = seconds(start, uv_hrtime());
}

/* Yield the CPU to the loop thread. A thread that wakes up may wait for milliseconds until the
 * kernel preempts a computing thread; if it is the loop, requests wait in their sockets meanwhile.
 * Only while other requests arrive, since any other process could get the CPU instead. */
static void yield_cpu(const request *r)
{
    const uint64_t last = atomic_load(&latest);
    if (last != r->x->start && uv_hrtime() - last < RECENT)
        sched_yield();
}

/* Run blocks of a shard, from *now on, until all are done or the request is cancelled (true), or
 * until the worker or the loop should take other work first (false). */
static bool run_blocks(shard *s, uint64_t *now)
{
    const uint64_t start = *now;
    for (bool more = true; more;) {
        const uint64_t before = *now;
        if (life_over(s->r, before)) {
            atomic_store(&s->r->skipped, true);
            return true;
        }
        more = evaluation_run_some(s->r->e, s->i, s->most, &s->done);
        *now = uv_hrtime();
        if (*now - before < PART / 2)
            s->most *= 2;
        else if (*now - before > PART && s->most > 1)
            s->most /= 2;
        if (more && (s->r->here ? *now - start > SMALL_WORK
                                : *now - start > SLICE && atomic_load(&metric.queue_jobs) > 0))
            return false;
        if (more && !s->r->here)
            yield_cpu(s->r);
    }
    return true;
}

/* Run a shard, from `now` on. The last one of a pass continues: with the next pass, for which the
 * loop queues all shards again (a single shard runs it at once), or by closing the evaluation. */
static void run_shard(shard *s, uint64_t now)
{
    request *r = s->r;
    const bool alone = r->e->shards == 1;
    const uint64_t start = now;
    bool last, again;
    do {
        s->unfinished = !run_blocks(s, &now);
        if (s->unfinished) {
            atomic_fetch_add(&r->compute, now - start);
            return;
        }
        s->done = 0; /* start again with the blocks of the next pass */
        s->most = 1;
        last = atomic_fetch_sub(&r->computing, 1) == 1;
        again = last && !atomic_load(&r->skipped) && evaluation_next(r->e);
        if (again)
            atomic_store(&r->computing, r->e->shards);
    } while (again && alone);
    atomic_fetch_add(&r->compute, now - start);
    if (last && !again)
        close_evaluation(r, now);
}

static void run_alone(request *r, uint64_t now)
{
    r->all = (shard){.r = r, .most = 1};
    r->all.work.data = &r->all;
    run_shard(&r->all, now);
}

/* A compressed body is inflated twice: first only to find its size, so that memory is reserved
 * before it is allocated, and a body that would become too large is refused without allocating
 * any. */
static bool inflate_body(request *r)
{
    const span body = {r->x->body, r->x->body_size};
    const bool again = r->step == STEP_RESERVE;
    r->step = STEP_INFLATE;
    if (!again && !coding_measure(r->ask.body, body, bounds.body, &r->plain_size, &r->problem))
        return false;
    r->need = r->x->body_capacity + r->plain_size + CODING_MEMORY;
    if (r->need > r->reserved) {
        r->step = STEP_RESERVE;
        return false;
    }
    r->plain = malloc(r->plain_size + 1);
    if (!r->plain)
        return problem_set(&r->problem, 503, "no_memory", "no memory for a body of %zu bytes",
                           r->plain_size);
    r->e->body = (span){r->plain, r->plain_size};
    return coding_inflate(r->ask.body, body, r->plain, r->plain_size, &r->problem);
}

bool steps_open(request *r)
{
    r->step = STEP_OPEN;
    if (!r->e->kept && !evaluation_open(r->e, r->ask.query, bounds.shards, &r->problem))
        return false;
    r->need = r->x->body_capacity + r->plain_size + r->e->need;
    if (r->ask.body != CODING_NONE || r->ask.reply != CODING_NONE)
        r->need += CODING_MEMORY;
    if (r->ask.reply != CODING_NONE)
        r->need += r->e->bound;
    if (r->e->timeout > 0)
        life_limit(r, r->e->timeout);
    r->step = STEP_RESERVE;
    return (r->here || life_wanted(r, uv_hrtime())) && r->need <= r->reserved;
}

void steps_fill(request *r)
{
    r->step = STEP_FILL;
    if (!evaluation_fill(r->e, &r->problem))
        return;
    r->step = STEP_RUN;
    atomic_store(&r->computing, r->e->shards);
}

/* What was decoded from `start` on runs at once if there is one shard. */
void steps_run(request *r, uint64_t start)
{
    const uint64_t now = uv_hrtime();
    r->decode += seconds(start, now);
    if (r->step == STEP_RUN && r->e->shards == 1)
        run_alone(r, now);
}

void steps_work_open(uv_work_t *work)
{
    request *r = work->data;
    const uint64_t start = begin_work(r, true);
    if (life_wanted(r, start) && (r->ask.body == CODING_NONE || inflate_body(r)) && steps_open(r))
        steps_fill(r);
    steps_run(r, start);
    end_work();
}

void steps_work_fill(uv_work_t *work)
{
    request *r = work->data;
    const uint64_t start = begin_work(r, true);
    if (life_wanted(r, start))
        steps_fill(r);
    steps_run(r, start);
    end_work();
}

void steps_work_shard(uv_work_t *work)
{
    shard *s = work->data;
    const uint64_t start = begin_work(s->r, s->i == 0 && s->done == 0);
    run_shard(s, start);
    end_work();
}
