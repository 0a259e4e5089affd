/* SPDX-License-Identifier: MIT
 *
 * Regions: tensors that stay, memory that is handed over, and Triton's.
 */
#include "route/answers.h"

#include "http/reply.h"
#include "request.h"
#include "resident.h"
#include "wire/shm.h"

#include <string.h>

#define HANDOVER "losskit-region/1"

static void reply_json(exchange *x, int status, buffer *text)
{
    http_reply_text(x, status, "application/json", text);
}

/* Does the client go on with the other protocol? HTTP/1.0 has no upgrades, the reply to HEAD is
 * that to GET, and a connection that is to be closed after the reply carries no other protocol. */
static bool asks_handover(const exchange *x)
{
    return !x->old && strcmp(x->method, "GET") == 0 &&
           http_header_lists(x, HEADER_UPGRADE, HANDOVER) &&
           http_header_lists(x, HEADER_CONNECTION, "upgrade") &&
           !http_header_lists(x, HEADER_CONNECTION, "close");
}

static bool begin_handover(exchange *x, problem *p)
{
    if (!http_is_unix(x)) {
        x->reply.upgrade = HANDOVER;
        return problem_set(p, 426, "upgrade_required",
                           "memory is handed over on a Unix socket; this connection is TCP, which "
                           "carries no descriptors");
    }
    if (documents_say_draining())
        return problem_set(p, 503, "draining", "lossd stops: it takes no memory over");
    x->reply.upgrade = HANDOVER;
    x->reply.status = 101;
    return true;
}

void run_regions(exchange *x)
{
    const asker who = asker_of(x);
    buffer text = buffer_new(TEXT_MAX);
    problem p;
    if (asks_handover(x)) {
        if (!begin_handover(x, &p))
            http_reply_problem(x, &p);
        return;
    }
    region_list(&who, &text);
    reply_json(x, 200, &text);
}

void run_region(exchange *x)
{
    const asker who = asker_of(x);
    buffer text = buffer_new(TEXT_MAX);
    problem p;
    if (region_tell(x->target.segment[2], &who, &text, &p))
        reply_json(x, 200, &text);
    else
        http_reply_problem(x, &p);
    buffer_free(&text);
}

bool begin_put(exchange *x, problem *p)
{
    char room[HTTP_LIST];
    const char *encoding = http_header_joined(x, HEADER_CONTENT_ENCODING, room);
    coding body;
    x->body_max = request_max_body();
    if (!coding_of_content(encoding, &body) || body != CODING_NONE)
        return problem_set(p, 415, "unsupported_media_type",
                           "a region is not compressed; Content-Encoding is \"%.40s\"", encoding);
    if (x->length > 0 && (uint64_t)x->length > x->body_max)
        return true; /* refused for its length */
    const size_t size = x->length < 0 ? x->body_max : (size_t)x->length;
    if (!region_reserve(size, p))
        return false;
    x->reserved = size;
    return true;
}

void regions_unreserve(exchange *x)
{
    region_unreserve(x->reserved);
    x->reserved = 0;
}

static bool wants_replace(const exchange *x, bool *replace, problem *p)
{
    const char *query = x->target.query;
    *replace = strcmp(query, "replace=true") == 0;
    return *replace || *query == '\0' || strcmp(query, "replace=false") == 0 ||
           problem_set(p, 422, "option_invalid",
                       "the query is \"%.40s\"; it may be replace=true or replace=false", query);
}

/* The body's memory becomes the region's, and what was reserved for it too. */
static bool put_body(exchange *x, problem *p)
{
    const asker who = asker_of(x);
    bool replace;
    if (!wants_replace(x, &replace, p))
        return false;
    if (x->body_size > 0)
        pages_fit(&x->room, x->body_size);
    x->body = x->room.at;
    const region_memory memory = {x->body, x->body_size, x->room.size, pages_drop};
    if (!resident_put(x->target.segment[2], &who, &memory, replace, p))
        return false;
    x->reserved -= x->body_size; /* the rest, of a body whose length was not announced */
    regions_unreserve(x);
    x->room = (pages){0};
    return true;
}

void run_put(exchange *x)
{
    problem p;
    if (put_body(x, &p)) {
        run_region(x);
        return;
    }
    regions_unreserve(x); /* before the client hears of it, and tries again */
    http_reply_problem(x, &p);
}

void run_delete(exchange *x)
{
    const asker who = asker_of(x);
    problem p;
    if (region_delete(x->target.segment[2], &who, &p))
        x->reply.status = 204;
    else
        http_reply_problem(x, &p);
}

bool regions_handed(region_group *group, const char message[HTTP_MESSAGE], int fd, buffer *line)
{
    cursor c = cursor_new((span){message, HTTP_MESSAGE});
    const uint64_t size = cursor_u64(&c), reserved = cursor_u64(&c);
    problem p;
    if (region_receive(group, size, reserved, fd, line, &p))
        return true;
    problem_write(&p, line);
    return false;
}

/* Triton's system shared memory. */

static bool shm_offered(exchange *x, problem *p)
{
    (void)x;
    return region_shm_offered() ||
           problem_set(p, 404, "not_found", "system shared memory is not offered (--client-shm)");
}

/* The region that the path names; NULL: all. */
static const char *shm_name(const exchange *x)
{
    return x->target.segments == 5 ? x->target.segment[3] : NULL;
}

void run_shm_status(exchange *x)
{
    const asker who = asker_of(x);
    buffer text = buffer_new(TEXT_MAX);
    problem p;
    if (shm_offered(x, &p) && region_shm_status(shm_name(x), &who, &text, &p))
        reply_json(x, 200, &text);
    else
        http_reply_problem(x, &p);
    buffer_free(&text);
}

bool begin_shm_register(exchange *x, problem *p)
{
    x->body_max = 64 * 1024;
    return shm_offered(x, p);
}

void run_shm_register(exchange *x)
{
    const asker who = asker_of(x);
    shm_object object;
    buffer text = buffer_new(TEXT_MAX);
    problem p;
    if (shm_read((span){x->body, x->body_size}, &object, &p) &&
        region_register(shm_name(x), object.key, object.offset, object.size, &who, &p))
        reply_json(x, 200, &text);
    else
        http_reply_problem(x, &p);
}

void run_shm_unregister(exchange *x)
{
    const asker who = asker_of(x);
    buffer text = buffer_new(TEXT_MAX);
    problem p;
    if (!shm_offered(x, &p)) {
        http_reply_problem(x, &p);
        return;
    }
    region_unregister(shm_name(x), &who);
    reply_json(x, 200, &text);
}
