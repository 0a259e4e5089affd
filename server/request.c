/* SPDX-License-Identifier: MIT */
#include "request.h"

#include "http/reply.h"
#include "kept.h"
#include "request/budget.h"
#include "request/steps.h"
#include "slice.h"
#include "spare.h"
#include "tell/metrics.h"
#include "wire/number.h"
#include "wire/place.h"
#include "wire/wires.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* What is reserved for a request at admission, besides its body, so that small requests need no
     * second reservation by the loop: enough for JSON of up to 64 KiB, where a number may take two
     * bytes and its gradient eighteen. */
    SMALL_BODY = 64 * 1024,
    SMALL_FACTOR = 16,
    SMALL_EXTRA = 64 * 1024,
    CHUNKED_FIRST = 64 * 1024,
    /* How much of SMALL_WORK the loop does in one iteration, so that everything else waits for no
     * more, however many requests come at once: in ns, of which each request has some besides its
     * work. Estimates are summed, not time, which also passes while another process has the CPU. */
    TURN = 1000 * 1000,
    OVERHEAD = 10 * 1000,
};

/* Set once: the largest body, and the largest that a loop evaluates itself (0: none). */
static size_t max_body, small_body;

/* Of this thread. */
static _Thread_local void *unused;

/* What this thread's loop has evaluated itself in one iteration, in ns. */
static _Thread_local struct {
    uint64_t turn; /* http_turn() */
    int64_t ns;
} spent;

static void nothing(uv_work_t *work)
{
    (void)work;
}

/* Otherwise the loop of the first request would start them, as threads of its own kind: serve.c. */
static void start_workers(void *arg)
{
    uv_loop_t loop;
    uv_work_t work;
    (void)arg;
    if (uv_loop_init(&loop) != 0)
        return;
    slice_batch(); /* they compute: what answers or asks comes first */
    (void)uv_queue_work(&loop, &work, nothing, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
}

void request_setup(const flags *f)
{
    budget_setup(f);
    life_setup(f);
    steps_setup(f);
    max_body = (size_t)f->max_body;
    small_body = (size_t)f->inline_limit;
    atomic_store(&metric.workers, f->workers);
    uv_thread_t starter;
    if (uv_thread_create(&starter, start_workers, NULL) == 0)
        uv_thread_join(&starter);
}

void request_rest(void)
{
    kept_clear();
    spare_free(&unused);
}

size_t request_max_body(void)
{
    return max_body;
}

/* Admit. */

request *request_admit(exchange *x, const ask *a, int64_t length, problem *p)
{
    size_t body = length < 0 ? CHUNKED_FIRST : (size_t)length;
    size_t spare = (body < SMALL_BODY ? body : SMALL_BODY) * SMALL_FACTOR + SMALL_EXTRA;
    if (!budget_enter(p))
        return NULL;
    request *r = spare_take(&unused, sizeof *r);
    if (r) {
        *r = (request){.x = x, .ask = *a};
        life_limit(r, a->timeout);
    } else {
        problem_set(p, 503, "no_memory", "no memory for a request; try again later");
    }
    if (r && budget_reserve(&r->reserved, body + spare, p))
        return r;
    spare_give(&unused, r);
    budget_leave();
    return NULL;
}

bool request_grow(request *r, size_t more, problem *p)
{
    return budget_reserve(&r->reserved, more, p);
}

bool request_ahead(request *r)
{
    const exchange *x = r->x;
    const size_t need = x->body_capacity + x->body_size * SMALL_FACTOR + SMALL_EXTRA;
    problem p;
    return need <= r->reserved || budget_reserve(&r->reserved, need - r->reserved, &p);
}

void request_refuse(request *r)
{
    budget_release(&r->reserved);
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
    const uint64_t us = (uint64_t)(seconds * 1e6 + 0.5), part = us % 1000;
    out = stpcpy(out, name);
    out = stpcpy(out, ";dur=");
    out = number_write_i64(out, (int64_t)(us / 1000));
    if (part == 0)
        return out;
    const char digits[] = {'.', (char)('0' + part / 100), (char)('0' + part / 10 % 10),
                           (char)('0' + part % 10)};
    memcpy(out, digits, sizeof digits);
    return out + (part % 100 == 0 ? 2 : part % 10 == 0 ? 3 : 4);
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
    if (r->problem.status != 0 || (!r->small && !life_wanted(r, uv_hrtime()))) {
        http_reply_problem(x, &r->problem);
    } else {
        x->reply.status = 200;
        x->reply.media = r->e->media;
        x->reply.head = r->e->oip.reply_head;
        x->reply.encoding = r->packed.size > 0 ? coding_name(r->ask.reply) : NULL;
        _Static_assert((int)EVALUATION_PIECES <= (int)HTTP_PIECES, "all pieces have room");
        x->reply.pieces = r->e->pieces;
        x->reply.piece = r->e->piece;
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
        hand_over(r, &s->work, steps_work_shard, after_shard);
        return;
    }
    if (--r->away > 0)
        return;
    if (r->step == STEP_CLOSE || !life_wanted(r, uv_hrtime()))
        answer(r);
    else
        run_shards(r); /* the next pass */
}

static void run_shards(request *r)
{
    int count = r->e->shards;
    if (count == 1) { /* it gave way to other work: queue it again */
        r->away = 1;
        hand_over(r, &r->all.work, steps_work_shard, after_shard);
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
        hand_over(r, &r->shards[i].work, steps_work_shard, after_shard);
    }
}

static void after_step(uv_work_t *work, int status)
{
    request *r = work->data;
    if (status == UV_ECANCELED) {
        atomic_fetch_sub(&metric.queue_jobs, 1);
        (void)life_say_over(r);
    }
    if (r->problem.status != 0 || r->step == STEP_CLOSE) {
        answer(r);
    } else if (r->step == STEP_RUN) {
        run_shards(r);
    } else if (budget_reserve(&r->reserved, r->need - r->reserved, &r->problem)) {
        const bool open = r->ask.body == CODING_NONE || r->plain;
        r->queued = uv_hrtime();
        hand_over(r, &r->work, open ? steps_work_fill : steps_work_open, after_step);
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
    return r->x->body_size <= small_body && r->ask.body == CODING_NONE && request_has_time(r->x);
}

/* May the reply be compressed, which takes longer than the rest? The bound is about twice its
 * length. */
static bool may_pack(const request *r)
{
    return r->ask.reply != CODING_NONE && !r->ask.out->binary && r->e->bound > 2 * PACKED_MIN;
}

/* Evaluate as much of the request as is small. True: all of it; the rest is for the pool. */
static bool run_here(request *r)
{
    const uint64_t start = uv_hrtime();
    const int64_t reading = evaluation_reading(r->e);
    if (reading > SMALL_WORK)
        return false;
    spent.ns += OVERHEAD + reading;
    r->here = true;
    if (!steps_open(r) && (r->problem.status != 0 ||
                           !budget_reserve(&r->reserved, r->need - r->reserved, &r->problem)))
        return true;
    r->here = reading + r->e->work <= SMALL_WORK && r->e->shards == 1 && !may_pack(r) &&
              !place_shared(r->e); /* pages of memory that is shared may have to be had first */
    if (!r->here)
        return false;
    spent.ns += r->e->work;
    steps_fill(r);
    steps_run(r, start);
    r->here = false;
    r->small = r->step == STEP_CLOSE;
    metrics_count(inline_total, r->small);
    return r->step != STEP_RUN;
}

void request_start(request *r)
{
    steps_arrived(r);
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
        hand_over(r, &r->work, r->step == STEP_RESERVE ? steps_work_fill : steps_work_open,
                  after_step);
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
    budget_release(&r->reserved);
    budget_leave();
    free(r->shards);
    spare_give(&unused, r);
}
