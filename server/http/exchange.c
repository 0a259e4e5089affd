/* SPDX-License-Identifier: MIT */
#include "http/exchange.h"

#include "http/server.h"

#include <microhttpd.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

const char *http_header(const exchange *x, header_id which)
{
    return x->header[which];
}

int http_header_times(const exchange *x, header_id which)
{
    return x->times[which];
}

/* Joins the occurrences of a header. */
typedef struct join_of {
    const char *name;
    buffer to;
} join_of;

static enum MHD_Result join_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    join_of *j = cls;
    (void)kind;
    if (value && strcasecmp(j->name, name) == 0 && j->to.size + strlen(value) + 3 <= j->to.max)
        buffer_texts(&j->to, j->to.size > 0 ? ", " : "", value, NULL);
    return MHD_YES;
}

const char *http_header_joined(const exchange *x, header_id which, char room[HTTP_LIST])
{
    if (x->times[which] < 2)
        return x->header[which];
    join_of j = {head_names[which], {.data = room, .capacity = HTTP_LIST, .max = HTTP_LIST}};
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, join_header, &j);
    room[j.to.size] = '\0';
    return room;
}

/* Looks for a word in the occurrences of a header. */
typedef struct search_for {
    const char *name, *word;
    bool found;
} search_for;

static enum MHD_Result search_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                     const char *value)
{
    search_for *s = cls;
    (void)kind;
    s->found = s->found || (value && strcasecmp(s->name, name) == 0 &&
                            head_lists((span){value, strlen(value)}, s->word));
    return MHD_YES;
}

bool http_header_lists(const exchange *x, header_id which, const char *word)
{
    search_for s = {head_names[which], word, false};
    if (!x->header[which])
        return false;
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, search_header, &s);
    return s.found;
}

/* Drawn from the kernel many at a time. */
static uint64_t random_bits(uint64_t fallback)
{
    static _Thread_local struct {
        uint64_t bits[128];
        size_t left;
    } drawn;
    if (drawn.left == 0) {
        const ssize_t size = getrandom(drawn.bits, sizeof drawn.bits, GRND_NONBLOCK);
        drawn.left = size > 0 ? (size_t)size / sizeof *drawn.bits : 0;
    }
    return drawn.left > 0 ? drawn.bits[--drawn.left] : fallback;
}

void exchange_identify(exchange *x, const char *given)
{
    const size_t size = given ? strlen(given) : 0;
    if (given && size <= HTTP_ID_MAX && head_is_token((span){given, size})) {
        memcpy(x->id, given, size + 1);
        return;
    }
    char *to = x->id;
    for (uint64_t bits = random_bits(x->start), i = 0; i < 16; i++, bits <<= 4)
        *to++ = "0123456789abcdef"[bits >> 60];
    *to = '\0';
}

bool http_is_local(const exchange *x)
{
    return x->listener->at.local;
}

int http_listener(const exchange *x)
{
    return (int)(x->listener - x->server->listener);
}

bool http_is_unix(const exchange *x)
{
    return !x->listener->at.inet;
}

const char *http_client(const exchange *x)
{
    return x->peer->address;
}

void http_suspend(exchange *x)
{
    if (!x->answered)
        MHD_suspend_connection(x->connection);
}

void http_resume(exchange *x)
{
    if (x->answered) {
        begin_turn(x->server);
        x->answered(x);
        return;
    }
    MHD_resume_connection(x->connection);
    listener_is_due(x->listener);
}

void http_pin(http *server)
{
    server->exchanges++;
}

void http_unpin(http *server)
{
    server->exchanges--;
}

uv_loop_t *http_loop(const exchange *x)
{
    return x->server->loop;
}

uint64_t http_turn(const exchange *x)
{
    return x->server->turn;
}

void exchange_finish(exchange *x, phase next)
{
    http *server = x->server;
    x->peer->exchange = NULL;
    peer_enter(&server->peers, x->peer, next, server->turn, 0);
    server->exchanges--;
    server->handler->end(x);
}
