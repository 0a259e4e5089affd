/* SPDX-License-Identifier: MIT */
#include "request.h"

#include "http/reply.h"
#include "kept.h"
#include "tell/metrics.h"
#include "wire/number.h"
#include "wire/place.h"
#include "wire/wires.h"

#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define STEP_ENUM(step, thread, what) STEP_##step,
typedef enum step { REQUEST_STEPS(STEP_ENUM) STEPS } step;
#undef STEP_ENUM

enum {
    /* What is reserved for a request at admission, besides its body, so that small requests need no
     * second reservation by the loop: enough for JSON of up to 64 KiB, where a number may take two
     * bytes and its gradient eighteen. */
    SMALL_BODY = 64 * 1024,
    SMALL_FACTOR = 16,
    SMALL_EXTRA = 64 * 1024,
    CHUNKED_FIRST = 64 * 1024,
    PACKED_MIN = 1024, /* shorter replies are not compressed */
    /* How long a shard runs, in ns, between checks whether the request was cancelled. */
    PART = 250 * 1000,
    /* How long it runs before it gives way to queued work: it then goes to the end of the queue. */
    SLICE = 1000 * 1000,
    /* What the loop computes itself: texts and blocks that take less than this, in ns, as
     * evaluation_reading and evaluation.work estimate it; it stops at the first block that ends
     * later. */
    SMALL_WORK = 30 * 1000,
    /* How much of that it does in one iteration, so that everything else waits for no more, however
     * many requests come at once: in ns, of which each request has some besides its work. Estimates
     * are summed, not time, which also passes while another process has the CPU. */
    TURN = 1000 * 1000,
    OVERHEAD = 10 * 1000,
    /* If another request arrived within this time, in ns, more are expected soon. */
    RECENT = 100 * 1000 * 1000,
};

/* A shard of the blocks of a pass. It goes through the pool once or more often. */
typedef struct shard {
    uv_work_t work;
    request *r;
    int i;
    int64_t done;    /* blocks computed */
    int64_t most;    /* blocks to run until the next check */
    bool unfinished; /* it gave way to other work, and must be queued */
} shard;

struct request {
    exchange *x;
    ask ask;
    evaluation *e; /* NULL until the body is complete */
    step step;
    problem problem;
    size_t reserved, need; /* bytes reserved so far, and the total that the next step needs */
    uint64_t deadline;     /* uv_hrtime() */

    size_t plain_size; /* inflated size of a compressed body, once measured */
    char *plain;       /* the inflated body */
    buffer packed;     /* a compressed reply */

    uv_work_t work;       /* for the steps up to FILL */
    shard all;            /* the shard if there is only one: it runs directly after these steps */
    shard *shards;        /* the shards if there are several */
    atomic_int computing; /* shards not yet computed: the one that makes it 0 closes */
    atomic_bool skipped;  /* a shard was not fully computed, because the request was cancelled */
    atomic_bool left;     /* the client has left */
    int away;             /* shards that have not returned to the loop */
    bool here;            /* the loop computes it, not a worker */
    bool small;           /* the loop has evaluated it: it may be kept */

    uint64_t queued;              /* uv_hrtime() when it was last queued */
    double queue, decode, encode; /* seconds */
    atomic_ullong compute;        /* ns */
};

/* Shared by all requests, whichever loop they came to. What is in use of the budget and the queue
 * limit are metric.queue_bytes and metric.in_flight_requests. */
static struct {
    int workers;
    long long budget, limit;
    size_t max_body;
    size_t small;     /* the largest body that a loop evaluates itself; 0: none */
    uint64_t timeout; /* ns */
} shared;

/* What this thread's loop has evaluated itself in one iteration, in ns. */
static _Thread_local struct {
    uint64_t turn; /* http_turn() */
    int64_t ns;
} spent;

/* uv_hrtime() at the start of the last request: written by the loops, read by workers. */
static atomic_ullong latest;

void request_setup(const flags *f)
{
    shared.workers = (int)f->workers;
    shared.max_body = (size_t)f->max_body;
    shared.budget = f->memory_budget;
    atomic_store(&metric.workers, f->workers);
    atomic_store(&metric.queue_limit_jobs, f->queue_limit);
    atomic_store(&metric.memory_budget_bytes, f->memory_budget);
    shared.limit = f->queue_limit;
    shared.small = (size_t)f->inline_limit;
    shared.timeout = (uint64_t)f->request_timeout * 1000000;
}

void request_rest(void)
{
    kept_clear();
}

size_t request_max_body(void)
{
    return shared.max_body;
}

/* Budget. */

static bool reserve(request *r, size_t bytes, problem *p)
{
    const size_t all = (size_t)shared.budget;
    if (bytes > all || r->reserved + bytes > all)
        return problem_set(p, 413, "too_large",
                           "the request needs %zu bytes; the memory budget for all is %zu "
                           "(--memory-budget)",
                           r->reserved + bytes, all);
    long long used = atomic_load(&metric.queue_bytes);
    do
        if ((long long)bytes > shared.budget - used)
            return problem_set(
                p, 503, "over_budget",
                "%zu more bytes do not fit in the memory budget now (%lld of %zu in use); "
                "try again later",
                bytes, used, all);
    while (!atomic_compare_exchange_weak(&metric.queue_bytes, &used, used + (long long)bytes));
    r->reserved += bytes;
    return true;
}

static void release(request *r)
{
    atomic_fetch_sub(&metric.queue_bytes, (long long)r->reserved);
    r->reserved = 0;
}

/* Admit. */

/* The client may set a shorter time limit than the server's, not a longer one. */
static void set_deadline(request *r, uint64_t microseconds)
{
    const uint64_t most = shared.timeout / 1000;
    const uint64_t given = microseconds == 0 || microseconds > most ? most : microseconds;
    const uint64_t deadline = r->x->start + given * 1000;
    if (r->deadline == 0 || deadline < r->deadline)
        r->deadline = deadline;
}

/* Is the request cancelled: has the client left, or its deadline passed? */
static bool is_over(request *r, uint64_t now)
{
    return atomic_load(&r->left) || now > r->deadline;
}

static bool say_over(request *r)
{
    if (atomic_load(&r->left))
        return problem_set(&r->problem, 408, "client_left",
                           "the connection was closed before the evaluation was done");
    return problem_set(&r->problem, 504, "deadline_exceeded",
                       "the request was not done in the %.4g ms that it had",
                       (double)(r->deadline - r->x->start) * 1e-6);
}

static bool is_wanted(request *r, uint64_t now)
{
    return !is_over(r, now) || say_over(r);
}

static void leave_place(void)
{
    atomic_fetch_sub(&metric.in_flight_requests, 1);
}

static bool take_place(problem *p)
{
    const long long before = atomic_fetch_add(&metric.in_flight_requests, 1);
    if (before < shared.limit)
        return true;
    leave_place();
    return problem_set(p, 503, "queue_full",
                       "%lld evaluations are under way already; try again later", before);
}

request *request_admit(exchange *x, const ask *a, int64_t length, problem *p)
{
    size_t body = length < 0 ? CHUNKED_FIRST : (size_t)length;
    size_t spare = (body < SMALL_BODY ? body : SMALL_BODY) * SMALL_FACTOR + SMALL_EXTRA;
    if (!take_place(p))
        return NULL;
    request *r = calloc(1, sizeof *r);
    if (r) {
        *r = (request){.x = x, .ask = *a};
        set_deadline(r, a->timeout);
    } else {
        problem_set(p, 503, "no_memory", "no memory for a request; try again later");
    }
    if (r && reserve(r, body + spare, p))
        return r;
    free(r);
    leave_place();
    return NULL;
}

bool request_grow(request *r, size_t more, problem *p)
{
    return reserve(r, more, p);
}

bool request_ahead(request *r)
{
    const exchange *x = r->x;
    const size_t need = x->body_capacity + x->body_size * SMALL_FACTOR + SMALL_EXTRA;
    problem p;
    return need <= r->reserved || reserve(r, need - r->reserved, &p);
}

void request_refuse(request *r)
{
    release(r);
}

/* On the pool. */

static double seconds(uint64_t from, uint64_t to)
{
    return (double)(to - from) * 1e-9;
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
        (void)say_over(r);
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
        if (is_over(s->r, before)) {
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
    if (!again && !coding_measure(r->ask.body, body, shared.max_body, &r->plain_size, &r->problem))
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

static bool open_body(request *r)
{
    r->step = STEP_OPEN;
    if (!r->e->kept && !evaluation_open(r->e, r->ask.query, shared.workers, &r->problem))
        return false;
    r->need = r->x->body_capacity + r->plain_size + r->e->need;
    if (r->ask.body != CODING_NONE || r->ask.reply != CODING_NONE)
        r->need += CODING_MEMORY;
    if (r->ask.reply != CODING_NONE)
        r->need += r->ask.out->bound(r->e);
    if (r->e->timeout > 0)
        set_deadline(r, r->e->timeout);
    r->step = STEP_RESERVE;
    return is_wanted(r, uv_hrtime()) && r->need <= r->reserved;
}

static void fill(request *r)
{
    r->step = STEP_FILL;
    if (!evaluation_fill(r->e, &r->problem))
        return;
    r->step = STEP_RUN;
    atomic_store(&r->computing, r->e->shards);
}

/* What was decoded from `start` on runs at once if there is one shard. */
static void run_after_fill(request *r, uint64_t start)
{
    const uint64_t now = uv_hrtime();
    r->decode += seconds(start, now);
    if (r->step == STEP_RUN && r->e->shards == 1)
        run_alone(r, now);
}

static void work_open(uv_work_t *work)
{
    request *r = work->data;
    const uint64_t start = begin_work(r, true);
    if (is_wanted(r, start) && (r->ask.body == CODING_NONE || inflate_body(r)) && open_body(r))
        fill(r);
    run_after_fill(r, start);
    end_work();
}

static void work_fill(uv_work_t *work)
{
    request *r = work->data;
    const uint64_t start = begin_work(r, true);
    if (is_wanted(r, start))
        fill(r);
    run_after_fill(r, start);
    end_work();
}

static void work_shard(uv_work_t *work)
{
    shard *s = work->data;
    const uint64_t start = begin_work(s->r, s->i == 0 && s->done == 0);
    run_shard(s, start);
    end_work();
}

/* On the loop. */

static void hand_over(const request *r, uv_work_t *work, uv_work_cb on_pool,
                      uv_after_work_cb on_loop)
{
    atomic_fetch_add(&metric.queue_jobs, 1);
    (void)uv_queue_work(http_loop(r->x), work, on_pool, on_loop); /* fails only without on_pool */
}

/* A step of Server-Timing, in ms to the microsecond. */
static char *write_step(char *out, const char *name, double seconds)
{
    out = stpcpy(out, name);
    out = stpcpy(out, ";dur=");
    return number_write_f64(out, round(seconds * 1e6) / 1e3);
}

static void write_timing(const request *r, char *out)
{
    out = write_step(out, "queue", r->queue);
    out = write_step(out, ", decode", r->decode);
    out = write_step(out, ", compute", (double)atomic_load(&r->compute) * 1e-9);
    *write_step(out, ", encode", r->encode) = '\0';
}

static void fill_reply(request *r)
{
    exchange *x = r->x;
    r->step = STEP_REPLY;
    if (r->problem.status != 0 || !is_wanted(r, uv_hrtime())) {
        http_reply_problem(x, &r->problem);
    } else {
        x->reply.status = 200;
        x->reply.media = r->e->media;
        x->reply.head = r->e->oip.reply_head;
        x->reply.encoding = r->packed.size > 0 ? coding_name(r->ask.reply) : NULL;
        x->reply.pieces = r->e->pieces;
        _Static_assert((int)EVALUATION_PIECES <= (int)HTTP_PIECES, "all pieces have room");
        memcpy(x->reply.piece, r->e->piece, sizeof r->e->piece);
    }
    write_timing(r, x->reply.timing);
}

static void answer(request *r)
{
    fill_reply(r);
    http_resume(r->x);
}

static void run_shards(request *r);

static void after_shard(uv_work_t *work, int status)
{
    shard *s = work->data;
    request *r = s->r;
    (void)status;
    if (s->unfinished) {
        hand_over(r, &s->work, work_shard, after_shard);
        return;
    }
    if (--r->away > 0)
        return;
    if (r->step == STEP_CLOSE || !is_wanted(r, uv_hrtime()))
        answer(r);
    else
        run_shards(r); /* the next pass */
}

static void run_shards(request *r)
{
    int count = r->e->shards;
    if (count == 1) { /* it gave way to other work: queue it again */
        r->away = 1;
        hand_over(r, &r->all.work, work_shard, after_shard);
        return;
    }
    if (!r->shards)
        r->shards = calloc((size_t)count, sizeof *r->shards);
    if (!r->shards) {
        problem_set(&r->problem, 503, "no_memory", "no memory for %d shards; try again later",
                    count);
        answer(r);
        return;
    }
    r->away = count;
    r->queued = uv_hrtime(); /* before the first one is queued */
    for (int i = 0; i < count; i++) {
        r->shards[i] = (shard){.r = r, .i = i, .most = 1};
        r->shards[i].work.data = &r->shards[i];
        hand_over(r, &r->shards[i].work, work_shard, after_shard);
    }
}

static void after_step(uv_work_t *work, int status)
{
    request *r = work->data;
    if (status == UV_ECANCELED) {
        atomic_fetch_sub(&metric.queue_jobs, 1);
        (void)say_over(r);
    }
    if (r->problem.status != 0 || r->step == STEP_CLOSE) {
        answer(r);
    } else if (r->step == STEP_RUN) {
        run_shards(r);
    } else if (reserve(r, r->need - r->reserved, &r->problem)) {
        const bool open = r->ask.body == CODING_NONE || r->plain;
        r->queued = uv_hrtime();
        hand_over(r, &r->work, open ? work_fill : work_open, after_step);
    } else {
        answer(r);
    }
}

static kept_key key_of(const request *r)
{
    return (kept_key){r->ask.loss, r->ask.in, r->ask.out, r->ask.query, r->ask.head};
}

/* Small requests, on the loop: a trip through the pool would take longer than their arithmetic. */

bool request_has_time(const exchange *x)
{
    if (spent.turn != http_turn(x)) {
        spent.turn = http_turn(x);
        spent.ns = 0;
    }
    return spent.ns < TURN;
}

/* May the loop read the request, by its length and its head? */
static bool is_small(const request *r)
{
    return r->x->body_size <= shared.small && r->ask.body == CODING_NONE && request_has_time(r->x);
}

/* May the reply be compressed, which takes longer than the rest? The bound is about twice its
 * length. */
static bool may_pack(const request *r)
{
    return r->ask.reply != CODING_NONE && !r->ask.out->binary &&
           r->ask.out->bound(r->e) > 2 * PACKED_MIN;
}

/* Evaluate as much of the request as is small. True: all of it; the rest is for the pool. */
static bool run_here(request *r)
{
    const uint64_t start = uv_hrtime();
    const int64_t reading = evaluation_reading(r->e);
    if (reading > SMALL_WORK)
        return false;
    spent.ns += OVERHEAD + reading;
    if (!open_body(r) &&
        (r->problem.status != 0 || !reserve(r, r->need - r->reserved, &r->problem)))
        return true;
    if (reading + r->e->work > SMALL_WORK || r->e->shards > 1 || may_pack(r) || place_shared(r->e))
        return false; /* pages of memory that is shared may have to be had first */
    spent.ns += r->e->work;
    r->here = true;
    fill(r);
    run_after_fill(r, start);
    r->here = false;
    r->small = r->step == STEP_CLOSE;
    metrics_count(inline_total, r->small);
    return r->step != STEP_RUN;
}

void request_start(request *r)
{
    atomic_store(&latest, r->x->start);
    exchange *x = r->x;
    const span body = {x->body, x->body_size};
    const kept_key key = key_of(r);
    const bool small = is_small(r);
    if (small)
        r->e = kept_take(&key, body);
    if (!r->e)
        r->e = evaluation_new(r->ask.loss, r->ask.in, r->ask.out, body);
    if (!r->e) {
        problem p;
        problem_set(&p, 503, "no_memory", "no memory for an evaluation; try again later");
        http_reply_problem(x, &p);
        return;
    }
    r->e->oip.head = r->ask.head;
    r->e->asker = r->ask.asker;
    r->work.data = r;
    if (small && run_here(r)) {
        fill_reply(r);
        return;
    }
    http_suspend(x);
    r->queued = uv_hrtime();
    if (r->step == STEP_RUN)
        run_shards(r);
    else
        hand_over(r, &r->work, r->step == STEP_RESERVE ? work_fill : work_open, after_step);
}

void request_leave(request *r)
{
    if (!r->e)
        return; /* evaluation has not begun */
    /* Once: work that was cancelled and has returned looks to libuv as if it were queued. */
    if (atomic_exchange(&r->left, true))
        return;
    metrics_count(cancelled_total, 1);
    (void)uv_cancel((uv_req_t *)&r->work); /* fails if a worker has begun; it sees r->left */
}

/* End. */

static void log_shapes(const evaluation *e, log_entry *entry)
{
    char room[1024];
    buffer text = {.data = room, .capacity = sizeof room, .max = sizeof room};
    for (int i = 0; i < e->sources; i++) {
        const lk_tensor *t = lk_call_tensor(e->call, e->source[i].name);
        if (!t)
            continue;
        buffer_texts(&text, text.size ? " " : "", e->source[i].name, ":", lk_dtype_name(t->dtype),
                     "[", NULL);
        for (int k = 0; k < t->rank; k++) {
            buffer_text(&text, k ? "," : "");
            buffer_integer(&text, t->shape[k]);
        }
        buffer_text(&text, "]");
    }
    buffer_append(&text, "", 1);
    if (!text.failed && text.size > 1)
        log_text(entry, "shapes", text.data);
}

void request_log(const request *r, log_entry *entry)
{
    log_text(entry, "loss", lk_loss_describe(r->ask.loss)->name);
    log_text(entry, "in", r->ask.in->name);
    log_text(entry, "out", r->ask.out->name);
    if (!r->e)
        return;
    log_shapes(r->e, entry);
    log_number(entry, "queue_ms", r->queue * 1e3, 3);
    log_number(entry, "decode_ms", r->decode * 1e3, 3);
    log_number(entry, "compute_ms", (double)atomic_load(&r->compute) * 1e-6, 3);
    log_number(entry, "encode_ms", r->encode * 1e3, 3);
}

static int place_of_loss(const lk_loss *loss)
{
    int i = 0;
    while (i < lk_loss_count() && lk_loss_at(i) != loss)
        i++;
    return i;
}

void request_end(request *r)
{
    if (!r)
        return;
    exchange *x = r->x;
    int loss = place_of_loss(r->ask.loss);
    if (x->reply.status != 0) /* otherwise the client left before there was a reply */
        metrics_request(loss, wire_place(r->ask.in), x->reply.status);
    const timing t = {.total = seconds(x->start, uv_hrtime()),
                      .queue = r->queue,
                      .decode = r->decode,
                      .compute = (double)atomic_load(&r->compute) * 1e-9,
                      .encode = r->encode};
    metrics_timing(loss, x->reply.status == 200, &t);
    if (x->reply.status == 200)
        metrics_elements(loss, r->e->elements);
    const kept_key key = key_of(r);
    kept_give(&key, r->e, r->small && r->problem.status == 0);
    free(r->plain);
    buffer_free(&r->packed);
    release(r);
    leave_place();
    free(r->shards);
    free(r);
}
