/* SPDX-License-Identifier: MIT
 *
 * Evaluates a trial in guarded memory: every tensor and scratch buffer lies between guard bytes or
 * next to a page that must not be accessed.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "tests/trial/trial.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void answer_free(answer *a)
{
    for (int i = 0; i < a->count; i++)
        free(a->out[i].tensor.data);
    a->count = 0;
}

const lk_tensor *answer_find(const answer *a, const char *name)
{
    for (int i = 0; i < a->count; i++)
        if (strcmp(a->out[i].name, name) == 0)
            return &a->out[i].tensor;
    return NULL;
}

double answer_value(const answer *a, const char *name, int64_t i)
{
    const lk_tensor *t = answer_find(a, name);
    return t ? load(t->data, t->dtype, i) : (double)NAN;
}

/* Memory of exactly `size` bytes, between guard bytes or next to a guard page. */
typedef struct plot {
    char *base;
    size_t whole; /* bytes mapped or allocated */
    char *data;
    size_t bytes;
    place place;
} plot;

enum { FENCE = 64 };
static const unsigned char fence_byte = 0xd7;

static plot plot_new(size_t size, place where, int offset)
{
    plot p = {.bytes = size, .place = where};
    if (where == HEAP) {
        p.whole = (size + 4 * FENCE) / 64 * 64;
        p.base = must(aligned_alloc(64, p.whole));
        memset(p.base, fence_byte, p.whole);
        p.data = p.base + FENCE + offset % 64;
        return p;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (size + page - 1) / page * page;
    p.whole = room + page;
    p.base = mmap(NULL, p.whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p.base == MAP_FAILED)
        must(NULL);
    char *forbidden = where == PAGE_BEHIND ? p.base + room : p.base;
    if (mprotect(forbidden, page, PROT_NONE) != 0)
        must(NULL);
    p.data = where == PAGE_BEHIND ? p.base + room - size : p.base + page;
    return p;
}

/* Whether the guard bytes are unchanged. */
static bool plot_intact(const plot *p)
{
    if (p->place != HEAP)
        return true; /* the guard page traps */
    for (const char *c = p->base; c < p->base + p->whole; c++)
        if ((c < p->data || c >= p->data + p->bytes) && (unsigned char)*c != fence_byte)
            return false;
    return true;
}

static void plot_free(plot *p)
{
    if (p->place == HEAP)
        free(p->base);
    else
        munmap(p->base, p->whole);
}

typedef struct share {
    lk_call *call;
    int64_t first, step, blocks;
    void *scratch;
} share;

static void *run_share(void *argument)
{
    const share *s = argument;
    for (int64_t b = s->first; b < s->blocks; b += s->step)
        lk_call_run(s->call, b, 1, s->scratch);
    return NULL;
}

enum { WORKERS = 4 };

/* The blocks of one pass. */
static void run_blocks(lk_call *call, const how *h, answer *a)
{
    int64_t blocks = lk_call_blocks(call);
    size_t need = (lk_call_scratch(call) + 63) / 64 * 64;
    plot scratch[WORKERS];
    int workers = h->order == THREADS ? WORKERS : 1;
    for (int i = 0; i < workers; i++) {
        scratch[i] = plot_new(need, h->place, 0);
        memset(scratch[i].data, h->poison, need);
    }
#define SCRATCH(i) (need ? scratch[i].data : NULL)
    if (h->order == AT_ONCE) {
        lk_call_run(call, 0, blocks, SCRATCH(0));
    } else if (h->order == SHUFFLED) {
        int64_t *ticket = must(calloc((size_t)blocks + 1, sizeof *ticket));
        for (int64_t b = 0; b < blocks; b++) {
            int64_t k = random_int(0, b);
            ticket[b] = ticket[k];
            ticket[k] = b;
        }
        for (int64_t b = 0; b < blocks; b++)
            lk_call_run(call, ticket[b], 1, SCRATCH(0));
        free(ticket);
    } else {
        pthread_t thread[WORKERS];
        share shares[WORKERS];
        for (int i = 0; i < WORKERS; i++) {
            shares[i] = (share){call, i, WORKERS, blocks, SCRATCH(i)};
            if (pthread_create(&thread[i], NULL, run_share, &shares[i]) != 0)
                must(NULL);
        }
        for (int i = 0; i < WORKERS; i++)
            pthread_join(thread[i], NULL);
    }
#undef SCRATCH
    for (int i = 0; i < workers; i++) {
        if (!plot_intact(&scratch[i]))
            a->broken = "wrote outside its scratch";
        plot_free(&scratch[i]);
    }
}

static bool is_upstream(const trial_input *in)
{
    return strcmp(in->is->name, "grad_output") == 0 || (in->is->flags & LK_COTANGENT);
}

/* All passes, and finish. */
static lk_status run_passes(lk_call *call, const how *h, answer *a)
{
    do
        run_blocks(call, h, a);
    while (lk_call_next(call));
    return lk_call_finish(call, &a->error);
}

/* Hide the upstream gradients, compute the values; show them again, compute the gradients. */
static lk_status run_deferred(lk_call *call, const trial *t, const how *h, const plot *in,
                              void *const *image, answer *a)
{
    for (int i = 0; i < t->inputs; i++)
        if (t->in[i].given && is_upstream(&t->in[i]))
            memset(in[i].data, 0, in[i].bytes);
    lk_status status = lk_call_plan(call, &a->error);
    if (status == LK_OK)
        status = run_passes(call, h, a);
    for (int i = 0; i < t->inputs; i++)
        if (t->in[i].given && is_upstream(&t->in[i]))
            memcpy(in[i].data, image[i], in[i].bytes);
    if (status == LK_OK)
        status = lk_call_backward(call, &a->error);
    return status == LK_OK ? run_passes(call, h, a) : status;
}

answer evaluate(const trial *t, const how *h)
{
    answer a = {0};
    plot in[TRIAL_INPUTS], out[TRIAL_OUTPUTS];
    void *image[TRIAL_INPUTS];
    bool over[TRIAL_INPUTS] = {false};
    int at = h->offset;
    if (h->isa)
        lk_isa_use(h->isa);
    lk_call *call = must(lk_call_new(t->loss));
    for (int i = 0; i < t->inputs; i++) {
        const trial_input *from = &t->in[i];
        if (!from->given)
            continue;
        in[i] = plot_new((size_t)from->at.count * lk_dtype_size(from->type), h->place, at);
        at += 7;
        for (int64_t j = 0; j < from->at.count; j++)
            store(in[i].data, from->type, j, from->x[j]);
        image[i] = must(malloc(in[i].bytes + 1));
        memcpy(image[i], in[i].data, in[i].bytes);
        lk_tensor tensor = {in[i].data, from->type, from->at.rank, {0}};
        memcpy(tensor.shape, from->at.shape, sizeof tensor.shape);
        if (a.status == LK_OK)
            a.status = lk_call_input(call, from->is->name, &tensor, &a.error);
    }
    for (int i = 0; i < t->settings && a.status == LK_OK; i++)
        a.status = lk_call_option(call, t->set[i].field->name, t->set[i].text, &a.error);
    for (int i = 0; i < t->wants && a.status == LK_OK; i++)
        a.status = lk_call_want(call, t->want[i], &a.error);
    if (a.status == LK_OK && h->deferred)
        a.status = lk_call_defer(call, &a.error);
    if (a.status == LK_OK)
        a.status = lk_call_check(call, &a.error);
    for (; a.status == LK_OK && a.count < lk_call_outputs(call); a.count++) {
        lk_tensor *tensor = &a.out[a.count].tensor;
        snprintf(a.out[a.count].name, TRIAL_NAME, "%s", lk_call_output(call, a.count, tensor));
        const lk_tensor *under = h->in_place ? lk_call_in_place(call, a.count) : NULL;
        size_t size = bytes_of(tensor);
        out[a.count] = plot_new(size, h->place, at);
        at += 7;
        memset(out[a.count].data, h->poison, size);
        tensor->data = must(malloc(size + 1));
        for (int i = 0; under && i < t->inputs; i++)
            if (t->in[i].given && in[i].data == (char *)under->data)
                over[i] = true;
        lk_call_bind(call, a.count, under ? under->data : out[a.count].data);
    }
    if (a.status == LK_OK && h->deferred)
        a.status = run_deferred(call, t, h, in, image, &a);
    else if (a.status == LK_OK && (a.status = lk_call_plan(call, &a.error)) == LK_OK)
        a.status = run_passes(call, h, &a);
    for (int i = 0; i < a.count; i++) {
        lk_tensor now;
        lk_call_output(call, i, &now);
        if (a.status == LK_OK && now.data)
            memcpy(a.out[i].tensor.data, now.data, out[i].bytes);
        if (!plot_intact(&out[i]))
            a.broken = "wrote outside an output";
        plot_free(&out[i]);
    }
    for (int i = 0; i < t->inputs; i++) {
        if (!t->in[i].given)
            continue;
        if (!over[i] && memcmp(image[i], in[i].data, in[i].bytes) != 0)
            a.broken = "wrote to an input";
        free(image[i]);
        if (!plot_intact(&in[i]))
            a.broken = "wrote outside an input";
        plot_free(&in[i]);
    }
    lk_call_free(call);
    if (h->isa)
        lk_isa_use("auto");
    return a;
}
