/* SPDX-License-Identifier: MIT */
#include "lines.h"

#include "http/reply.h"
#include "http/stream.h"
#include "tell/metrics.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 64 * 1024 };

/* A line that has begun and is not answered, or whose answer is not written. */
typedef struct line {
    struct line *next;
    lines *of;
    int64_t number;
    exchange x; /* the line as a request: its body, its reply */
    bool done;  /* the reply is there */
    size_t written;
} line;

struct lines {
    exchange *x; /* NULL once it has ended, and lines are still being evaluated */
    ask ask;
    char *text;         /* what ask.query and the paths of lines point into, once x has ended */
    line *first, *last; /* in order */
    line *current;      /* the last one, if it is not being evaluated yet */
    bool whole;         /* all of it has come: it only waits */
    int count;          /* of lines in the list */
    int64_t number;     /* of line ends that have come */
    int64_t answers, errors;
    bool skipping; /* the rest of a line that was refused */
    bool starved;  /* there was no memory to go on while other lines have some: wait for those */
    bool alone;    /* the last line may need all memory that is left: wait for it */
    bool ended;    /* no other line begins */
};

bool lines_begin(exchange *x, const ask *a, problem *p)
{
    lines *l = calloc(1, sizeof *l);
    if (l && stream_open(x, LINES_MEDIA)) {
        l->x = x;
        l->ask = *a;
        x->lines = l;
        return true;
    }
    free(l);
    return problem_set(p, 503, "no_memory", "no memory for a request; try again later");
}

/* No other line begins. The reply was a success, unless a problem ends it. */
static void end_lines(lines *l)
{
    l->ended = true;
    if (l->x->reply.status == 0)
        l->x->reply.status = 200;
}

/* The list. */

static void free_line(line *n)
{
    request_end(n->x.request);
    pages_free(&n->x.room);
    buffer_free(&n->x.reply.text);
    free(n);
}

static line *take_first(lines *l)
{
    line *n = l->first;
    l->first = n->next;
    if (!l->first)
        l->last = NULL;
    l->count--;
    return n;
}

/* Replies. */

/* A problem as an answer says first which line it is about. */
static void number_problem(line *n)
{
    reply *r = &n->x.reply;
    buffer text = buffer_new(TEXT_MAX);
    problem_at_line((span){r->text.data, r->text.size}, n->number, &text);
    buffer_free(&r->text);
    http_reply_text(&n->x, r->status, r->media, &text);
}

static void note_reply(line *n)
{
    n->done = true;
    n->of->answers++;
    if (n->x.reply.status == 200)
        return;
    n->of->errors++;
    metrics_refused(n->x.reply.code);
    number_problem(n);
}

/* True: all of it. */
static bool write_reply(lines *l, line *n)
{
    size_t at = n->written;
    for (int i = 0; i < n->x.reply.pieces; i++) {
        const span all = n->x.reply.piece[i];
        if (at < all.size) {
            const size_t size = all.size - at, took = stream_write(l->x, all.data + at, size);
            n->written += took;
            if (took < size)
                return false;
        }
        at -= at < all.size ? at : all.size;
    }
    return true;
}

/* Write the answers that are next. */
static void write_replies(lines *l)
{
    while (l->first && l->first->done && write_reply(l, l->first)) {
        free_line(take_first(l));
        l->starved = false;
        l->alone = l->alone && l->count > 0;
    }
}

/* Lines. */

static void on_answered(exchange *x);

static line *add_line(lines *l, int64_t length)
{
    line *n = calloc(1, sizeof *n);
    if (!n)
        return NULL;
    n->of = l;
    n->number = l->number + 1;
    n->x = (exchange){.server = l->x->server,
                      .start = uv_hrtime(),
                      .line = l->x->line,
                      .target = l->x->target,
                      .length = length,
                      .body_max = l->x->body_max,
                      .answered = on_answered};
    if (l->last)
        l->last->next = n;
    else
        l->first = n;
    l->last = n;
    l->count++;
    return n;
}

/* The current line is not evaluated. */
static void refuse_line(lines *l, const problem *p)
{
    line *n = l->current;
    l->current = NULL;
    http_reply_problem(&n->x, p);
    note_reply(n);
    if (n->x.request)
        request_refuse(n->x.request);
    pages_free(&n->x.room);
}

static void too_large(lines *l)
{
    problem p;
    problem_set(&p, 413, "too_large", "the line is longer than %zu bytes (--max-body)",
                l->x->body_max);
    refuse_line(l, &p);
}

/* There is no memory for more of the current line: if other lines have some, wait for them. */
static bool starve(lines *l, const problem *p)
{
    l->starved = p->status == 503 && l->count > 1;
    if (!l->starved)
        refuse_line(l, p);
    return false;
}

/* Admit the current line, and make room for `more` bytes of it. False: it is refused, or must
 * wait. */
static bool make_room(lines *l, size_t more)
{
    exchange *x = &l->current->x;
    const size_t need = x->body_size + more;
    problem p;
    if (need > x->body_max) {
        too_large(l);
        return false;
    }
    if (!x->request)
        x->request = request_admit(x, &l->ask, x->length, &p);
    if (!x->request)
        return starve(l, &p);
    if (need <= x->body_capacity)
        return true;
    size_t capacity = x->length > 0 ? need : need + need / 2;
    if (capacity > x->body_max)
        capacity = x->body_max;
    if (x->length < 0 && !request_grow(x->request, capacity - x->body_capacity, &p))
        return starve(l, &p);
    if (!pages_grow(&x->room, capacity)) {
        problem_set(&p, 503, "no_memory", "no memory for a line of %zu bytes", capacity);
        return starve(l, &p);
    }
    x->body = x->room.at;
    x->body_capacity = capacity;
    return true;
}

/* Evaluate the current line, all of which is there. Several lines are evaluated at the same time as
 * long as each surely has the memory that it will need; a line that may need more is alone. */
static void start_line(lines *l)
{
    line *n = l->current;
    l->whole = true;
    const bool sure = request_ahead(n->x.request);
    l->starved = !sure && l->count > 1;
    l->alone = !sure && !l->starved;
    if (l->starved)
        return;
    l->current = NULL;
    l->whole = false;
    request_start(n->x.request);
    if (n->x.reply.status != 0)
        note_reply(n);
}

/* Take what there is of a line, or what is between two of them. Returns the number of bytes. */
static size_t take_some(lines *l, const char *data, size_t size)
{
    const char *end = memchr(data, '\n', size);
    const size_t here = end ? (size_t)(end - data) : size, all = here + (end != NULL);
    if (l->skipping) {
        l->skipping = !end;
        l->number += end != NULL;
        return all;
    }
    if (!l->current) {
        size_t blank = 0;
        while (blank < here && strchr(" \t\r", data[blank]) && data[blank] != '\0')
            blank++;
        if (blank == here) {
            l->number += end != NULL;
            return all;
        }
        l->current = add_line(l, end ? (int64_t)here : -1);
        if (!l->current) /* without memory for that there is none for an answer either */
            end_lines(l);
    }
    if (l->ended)
        return size;
    if (!make_room(l, here)) {
        l->skipping = !l->current;
        return 0;
    }
    exchange *x = &l->current->x;
    memcpy(x->body + x->body_size, data, here);
    x->body_size += here;
    l->number += end != NULL;
    if (end)
        start_line(l);
    return all;
}

/* How many lines are evaluated at the same time, or are answered but not written. */
static int most_lines(void)
{
    return 4 * (int)atomic_load(&metric.workers);
}

static bool may_take(const lines *l)
{
    return !l->starved && !l->alone && !l->whole && (l->current || l->count < most_lines());
}

static void write_and_start(lines *l)
{
    write_replies(l);
    if (l->current && l->whole && !l->starved) {
        start_line(l);
        write_replies(l);
    }
}

/* The last answer: why nothing else is evaluated. */
static void refuse_rest(lines *l, const problem *p)
{
    l->current = add_line(l, 0);
    end_lines(l);
    if (l->current)
        refuse_line(l, p);
}

static bool is_working(const lines *l)
{
    bool working = false;
    for (const line *n = l->first; n; n = n->next)
        working = working || (!n->done && n != l->current);
    return working;
}

static void go_on(lines *l)
{
    exchange *x = l->x;
    problem p;
    write_and_start(l);
    if (!l->ended && !l->current && stream_closing(x)) {
        problem_set(&p, 503, "draining",
                    "lossd stops: this line and those after it are not evaluated");
        refuse_rest(l, &p);
        write_replies(l);
    }
    stream_works(x, is_working(l));
    stream_flush(x);
    if (l->ended && !l->first)
        stream_end(x);
    else if (!l->ended && may_take(l))
        stream_more(x);
}

size_t lines_take(exchange *x, const char *data, size_t size)
{
    lines *l = x->lines;
    size_t taken = 0;
    while (taken < size && !l->ended && (l->current || !stream_closing(x))) {
        if (!may_take(l))
            write_and_start(l);
        if (!may_take(l) || !request_has_time(x))
            break;
        taken += take_some(l, data + taken, size - taken);
    }
    stream_since(x, l->current && !l->whole ? l->current->x.start : 0);
    if (l->ended)
        taken = size;
    if (taken < size)
        stream_hold(x);
    go_on(l);
    return taken;
}

void lines_room(exchange *x)
{
    go_on(x->lines);
}

/* The problem that ends the exchange is that of the line that had begun, or of the next one. */
static void end_by_problem(lines *l, reply *from)
{
    line *n = l->current && !l->whole ? l->current : add_line(l, 0);
    if (!n)
        return;
    if (n == l->current)
        l->current = NULL;
    n->x.reply = (reply){.status = from->status, .code = from->code, .text = from->text};
    from->text = buffer_new(0);
    from->pieces = 0;
    note_reply(n);
}

void lines_run(exchange *x)
{
    lines *l = x->lines;
    if (l->ended)
        return;
    const bool failed = x->reply.status != 0;
    end_lines(l);
    if (failed)
        end_by_problem(l, &x->reply);
    else if (l->current && !l->whole)
        start_line(l);
    go_on(l);
}

void lines_leave(exchange *x)
{
    const lines *l = x->lines;
    for (const line *n = l->first; n; n = n->next)
        if (!n->done && n->x.request)
            request_leave(n->x.request);
}

/* Free those that are answered, after the client has left. */
static void free_answered(lines *l, struct http *server)
{
    while (l->first && l->first->done)
        free_line(take_first(l));
    if (l->first)
        return;
    free(l->text);
    free(l);
    http_unpin(server);
}

static void on_answered(exchange *x)
{
    line *n = (line *)((char *)x - offsetof(line, x));
    note_reply(n);
    if (n->of->x)
        go_on(n->of);
    else
        free_answered(n->of, x->server);
}

void lines_end(exchange *x)
{
    lines *l = x->lines;
    if (!l)
        return;
    if (l->current)
        l->current->done = true; /* nobody waits for it */
    lines_leave(x);
    x->lines = l->x = NULL;
    l->text = x->line;
    x->line = NULL;
    http_pin(x->server);
    free_answered(l, x->server);
}

void lines_log(const exchange *x, log_entry *entry)
{
    const lines *l = x->lines;
    log_text(entry, "loss", lk_loss_describe(l->ask.loss)->name);
    log_text(entry, "in", "lines");
    log_number(entry, "answers", (double)l->answers, 0);
    log_number(entry, "errors", (double)l->errors, 0);
}
