/* SPDX-License-Identifier: MIT */
#include "route.h"

#include "catalogue/describe.h"
#include "catalogue/docs.h"
#include "catalogue/models.h"
#include "catalogue/openapi.h"
#include "catalogue/trees.h"
#include "http/reply.h"
#include "lines.h"
#include "oip.h"
#include "request.h"
#include "resident.h"
#include "tell/log.h"
#include "tell/metrics.h"
#include "wire/shm.h"
#include "wire/wires.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 8 * 1024 * 1024 };

typedef struct route {
    const char *method;
    const char *path;
    access_class access;
    bool (*begin)(exchange *x, problem *p);
    void (*run)(exchange *x);
} route;

static atomic_bool draining;

void route_drain(void)
{
    draining = true;
}

/* The routes. */

static void run_healthz(exchange *x)
{
    buffer text = buffer_new(TEXT_MAX);
    buffer_text(&text, "ok\n");
    http_reply_text(x, 200, "text/plain", &text);
}

static void run_readyz(exchange *x)
{
    buffer text = buffer_new(TEXT_MAX);
    buffer_text(&text, draining ? "draining\n" : "ready\n");
    http_reply_text(x, draining ? 503 : 200, "text/plain", &text);
    x->reply.retry = draining;
}

static void run_metrics(exchange *x)
{
    buffer text = buffer_new(TEXT_MAX);
    metrics_write(&text, wire_name);
    http_reply_text(x, 200, "text/plain; version=0.0.4", &text);
}

/* A JSON document about one loss or (NULL) all. The buffer has failed if there is no memory. */
static buffer document(const lk_loss *loss, void (*write)(const lk_loss *, buffer *))
{
    buffer text = buffer_new(TEXT_MAX);
    const bool begun = trees_begin();
    if (begun)
        write(loss, &text);
    text.failed = !begun || !trees_end() || text.failed;
    return text;
}

static void reply_document(exchange *x, const lk_loss *loss,
                           void (*write)(const lk_loss *, buffer *))
{
    buffer text = document(loss, write);
    http_reply_text(x, 200, "application/json", &text);
}

/* A long document that never changes is written once, at the first request, so that a client that
 * requests it repeatedly cannot keep a loop busy. */
static void reply_kept(exchange *x, _Atomic(const buffer *) *kept,
                       void (*write)(const lk_loss *, buffer *))
{
    const buffer *text = atomic_load(kept);
    if (!text) {
        buffer *made = malloc(sizeof *made), none = {.failed = true};
        if (made)
            *made = document(NULL, write);
        if (!made || made->failed) { /* do not keep it */
            http_reply_text(x, 200, "application/json", made ? made : &none);
            free(made);
            return;
        }
        if (atomic_compare_exchange_strong(kept, &text, made)) {
            text = made;
        } else { /* another loop was faster */
            buffer_free(made);
            free(made);
        }
    }
    http_reply_kept(x, 200, "application/json", (span){text->data, text->size});
}

static void run_openapi(exchange *x)
{
    static _Atomic(const buffer *) kept;
    reply_kept(x, &kept, openapi_write);
}

static void run_docs(exchange *x)
{
    http_reply_kept(x, 200, "text/html; charset=utf-8", docs_page());
}

static void run_status(exchange *x)
{
    http_reply_kept(x, 200, "text/html; charset=utf-8", docs_status());
}

/* Relative, since a server in front may serve all of it under a path of its own. */
static void run_root(exchange *x)
{
    static const char where[] = "docs";
    static const char text[] = "/docs describes the service, /v1/losses does for programs\n";
    x->reply.location = where;
    http_reply_kept(x, 302, "text/plain", (span){text, sizeof text - 1});
}

static void run_losses(exchange *x)
{
    static _Atomic(const buffer *) kept;
    reply_kept(x, &kept, describe_json);
}

static void run_describe(exchange *x)
{
    problem p;
    const lk_loss *loss = evaluation_at(x->target.segment[1], x->target.segment[2], &p);
    if (loss)
        reply_document(x, loss, describe_json);
    else
        http_reply_problem(x, &p);
}

/* A decimal number of at most 18 digits in a header. True with `fallback` if there is no such
 * header. */
static bool read_number(const exchange *x, const char *name, uint64_t fallback, uint64_t *value,
                        problem *p)
{
    const char *text = http_header(x, name);
    *value = fallback;
    if (!text)
        return true;
    if (http_header_times(x, name) > 1)
        return problem_set(p, 400, "malformed_request", "%s comes more than once", name);
    const size_t size = strlen(text);
    if (size == 0 || size > 18 || strspn(text, "0123456789") != size)
        return problem_set(p, 400, "malformed_request",
                           "%s is \"%.40s\"; it must be a decimal number", name, text);
    *value = strtoull(text, NULL, 10);
    return true;
}

static asker asker_of(const exchange *x)
{
    return (asker){.key = x->key_id, .listener = http_listener(x)};
}

/* Read what the heads of all evaluations have in common. */
static bool read_head(exchange *x, ask *a, problem *p)
{
    const char *encoding = http_header(x, "Content-Encoding");
    uint64_t ms;
    if (!coding_of_content(encoding, &a->body))
        return problem_set(p, 415, "unsupported_media_type",
                           "Content-Encoding is \"%.80s\"; it must be gzip, deflate or identity",
                           encoding);
    if (!read_number(x, "X-Request-Timeout", 0, &ms, p))
        return false;
    a->asker = asker_of(x);
    a->timeout = ms < UINT64_MAX / 1000 ? ms * 1000 : 0;
    a->reply = coding_of_accept(http_header(x, "Accept-Encoding"));
    x->body_max = request_max_body();
    return true;
}

static bool admit(exchange *x, ask *a, problem *p)
{
    if (!read_head(x, a, p))
        return false;
    if (x->length > 0 && (uint64_t)x->length > x->body_max)
        return true; /* refused for its length: nothing to admit */
    x->request = request_admit(x, a, x->length, p);
    return x->request != NULL;
}

/* Many requests in one body. */
static bool begin_lines(exchange *x, ask *a, problem *p)
{
    const char *accept = http_header(x, "Accept");
    a->in = a->out = &wire_json;
    if (!wire_accepts_lines(accept))
        return problem_set(p, 406, "not_acceptable",
                           "Accept is \"%.80s\"; lines are answered as application/x-ndjson",
                           accept);
    if (!read_head(x, a, p))
        return false;
    if (a->body != CODING_NONE)
        return problem_set(p, 415, "unsupported_media_type",
                           "lines are not compressed; Content-Encoding is \"%.40s\"",
                           http_header(x, "Content-Encoding"));
    a->reply = CODING_NONE;
    return lines_begin(x, a, p);
}

static bool begin_evaluate(exchange *x, problem *p)
{
    const char *content = http_header(x, "Content-Type"), *accept = http_header(x, "Accept");
    ask a = {.query = x->target.query, .head = OIP_ALL};
    a.loss = evaluation_at(x->target.segment[1], x->target.segment[2], p);
    if (!a.loss)
        return false;
    if (wire_is_lines(content))
        return begin_lines(x, &a, p);
    a.in = wire_of_content(content);
    if (!a.in)
        return problem_set(p, 415, "unsupported_media_type",
                           "Content-Type is \"%.80s\"; it must be application/json, "
                           "application/x-safetensors or, for a request a line, "
                           "application/x-ndjson",
                           content);
    a.out = wire_of_accept(accept, a.in);
    if (!a.out)
        return problem_set(p, 406, "not_acceptable",
                           "Accept is \"%.80s\"; replies are application/json or "
                           "application/x-safetensors",
                           accept);
    return admit(x, &a, p);
}

static void run_evaluate(exchange *x)
{
    if (x->lines)
        lines_run(x);
    else
        request_start(x->request);
}

/* The Open Inference Protocol. */

/* The model of /v2/models/{name}, with /versions/{version} or without. */
static const lk_loss *model_of(const exchange *x, problem *p)
{
    const lk_loss *loss = evaluation_loss(x->target.segment[2], p);
    if (loss && x->target.segments > 4 && strcmp(x->target.segment[4], OIP_VERSION) != 0) {
        problem_set(p, 404, "unknown_loss", "%s has no version \"%.40s\"; it has " OIP_VERSION,
                    x->target.segment[2], x->target.segment[4]);
        return NULL;
    }
    return loss;
}

static void reply_model(exchange *x, void (*write)(const lk_loss *, buffer *))
{
    problem p;
    const lk_loss *loss = model_of(x, &p);
    if (loss)
        reply_document(x, loss, write);
    else
        http_reply_problem(x, &p);
}

static void run_server(exchange *x)
{
    reply_document(x, NULL, models_server);
}

static void run_live(exchange *x)
{
    buffer text = buffer_new(TEXT_MAX);
    buffer_text(&text, "{\"live\":true}\n");
    http_reply_text(x, 200, "application/json", &text);
}

static void run_ready(exchange *x)
{
    buffer text = buffer_new(TEXT_MAX);
    buffer_text(&text, draining ? "{\"ready\":false}\n" : "{\"ready\":true}\n");
    http_reply_text(x, draining ? 503 : 200, "application/json", &text);
    x->reply.retry = draining;
}

static void run_models(exchange *x)
{
    reply_document(x, NULL, models_list);
}

static void run_index(exchange *x)
{
    reply_document(x, NULL, models_index);
}

static void run_model(exchange *x)
{
    reply_model(x, models_metadata);
}

static void run_model_ready(exchange *x)
{
    reply_model(x, models_ready);
}

static void run_config(exchange *x)
{
    reply_model(x, models_config);
}

static void run_stats(exchange *x)
{
    if (strcmp(x->target.segment[x->target.segments - 2], "models") != 0)
        reply_model(x, models_stats);
    else
        reply_document(x, NULL, models_stats);
}

/* Content-Type and Accept are ignored: clients of the protocol send arbitrary values. */
static bool begin_infer(exchange *x, problem *p)
{
    ask a = {.query = "", .in = &wire_oip, .out = &wire_oip};
    a.loss = model_of(x, p);
    return a.loss && read_number(x, "Inference-Header-Content-Length", OIP_ALL, &a.head, p) &&
           admit(x, &a, p);
}

/* Regions. */

#define HANDOVER "losskit-region/1"

static void reply_json(exchange *x, int status, buffer *text)
{
    http_reply_text(x, status, "application/json", text);
}

/* Does the client go on with the other protocol? HTTP/1.0 has no upgrades, the reply to HEAD is
 * that to GET, and a connection that is to be closed after the reply carries no other protocol. */
static bool asks_handover(const exchange *x)
{
    return !x->old && strcmp(x->method, "GET") == 0 && http_header_lists(x, "Upgrade", HANDOVER) &&
           http_header_lists(x, "Connection", "upgrade") &&
           !http_header_lists(x, "Connection", "close");
}

static bool begin_handover(exchange *x, problem *p)
{
    if (!http_is_unix(x)) {
        x->reply.upgrade = HANDOVER;
        return problem_set(p, 426, "upgrade_required",
                           "memory is handed over on a Unix socket; this connection is TCP, which "
                           "carries no descriptors");
    }
    if (draining)
        return problem_set(p, 503, "draining", "lossd stops: it takes no memory over");
    x->reply.upgrade = HANDOVER;
    x->reply.status = 101;
    return true;
}

static void run_regions(exchange *x)
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

static void run_region(exchange *x)
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

static bool begin_put(exchange *x, problem *p)
{
    const char *encoding = http_header(x, "Content-Encoding");
    x->body_max = request_max_body();
    if (encoding)
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

static void release_reserved(exchange *x)
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
    release_reserved(x);
    x->room = (pages){0};
    return true;
}

static void run_put(exchange *x)
{
    problem p;
    if (put_body(x, &p)) {
        run_region(x);
        return;
    }
    release_reserved(x); /* before the client hears of it, and tries again */
    http_reply_problem(x, &p);
}

static void run_delete(exchange *x)
{
    const asker who = asker_of(x);
    problem p;
    if (region_delete(x->target.segment[2], &who, &p))
        x->reply.status = 204;
    else
        http_reply_problem(x, &p);
}

/* Memory that a client hands over, on a worker thread. */
static bool handle_handed(region_group *group, const char message[HTTP_MESSAGE], int fd,
                          buffer *line)
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

static void run_shm_status(exchange *x)
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

static bool begin_shm_register(exchange *x, problem *p)
{
    x->body_max = 64 * 1024;
    return shm_offered(x, p);
}

static void run_shm_register(exchange *x)
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

static void run_shm_unregister(exchange *x)
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

#define ROUTE(method, path, access, begin, run, sentence) {method, path, access, begin, run},
static const route routes[] = {
#include "routes.def"
};
#undef ROUTE
enum { ROUTES = sizeof routes / sizeof *routes };

/* Finding one. */

static bool matches(const route *r, const exchange *x)
{
    const char *path = r->path;
    for (int i = 0; i < x->target.segments; i++) {
        const char *segment = x->target.segment[i];
        if (*path != '/')
            return false;
        path++;
        if (*path == '{' && *segment != '\0') {
            while (*path != '}')
                path++;
            path++;
            continue;
        }
        while (*path == *segment && *segment != '\0') {
            path++;
            segment++;
        }
        if (*segment != '\0' || (*path != '/' && *path != '\0'))
            return false;
    }
    return *path == '\0';
}

static bool same_method(const route *r, const exchange *x)
{
    return strcmp(r->method, x->method) == 0 ||
           (strcmp(x->method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

static const route *find_route(const exchange *x)
{
    for (int i = 0; i < ROUTES; i++)
        if (same_method(&routes[i], x) && matches(&routes[i], x))
            return &routes[i];
    return NULL;
}

/* The methods of a path. */
typedef struct site {
    bool get, post, put;
} site;

static site find_site(const exchange *x)
{
    site here = {0};
    for (int i = 0; i < ROUTES; i++) {
        if (!matches(&routes[i], x))
            continue;
        here.get = here.get || strcmp(routes[i].method, "GET") == 0;
        here.post = here.post || strcmp(routes[i].method, "POST") == 0;
        here.put = here.put || strcmp(routes[i].method, "PUT") == 0;
    }
    return here;
}

static const char *allowed(const site *here)
{
    return here->put                 ? "GET, HEAD, PUT, DELETE, OPTIONS"
           : here->get && here->post ? "GET, HEAD, POST, OPTIONS"
           : here->get               ? "GET, HEAD, OPTIONS"
                                     : "POST, OPTIONS";
}

/* Reply to OPTIONS. Browsers send it as a preflight before a page of another origin may make a
 * request; it carries no key, so none is required. */
static void reply_options(exchange *x, const site *here)
{
    x->unwanted = true;
    x->reply.status = 204;
    x->reply.allow = allowed(here);
    x->reply.preflight = http_header(x, "Access-Control-Request-Method") != NULL;
}

static bool find_and_begin(exchange *x, problem *p)
{
    const bool options = strcmp(x->method, "OPTIONS") == 0;
    const route *found = find_route(x);
    site here = found ? (site){0} : find_site(x);
    if (!access_by_origin(http_header(x, "Origin"), http_header(x, "Host"), http_is_local(x),
                          &x->shared, p))
        return false;
    if (options && x->target.segments == 0) /* OPTIONS *: the service as a whole */
        here.get = here.post = true;
    if (options && (here.get || here.post)) {
        reply_options(x, &here);
        return true;
    }
    if (!access_by_key(found ? found->access : ACCESS_KEYED, http_header(x, "Authorization"),
                       x->key, &x->key_id, p))
        return false;
    if (found) {
        x->route = found;
        x->unwanted = !found->begin;
        return !found->begin || found->begin(x, p);
    }
    if (here.get || here.post) {
        x->reply.allow = allowed(&here);
        return problem_set(p, 405, "method_not_allowed", "%.20s is not allowed here; use %s",
                           x->method, allowed(&here));
    }
    return problem_set(
        p, 404, "not_found",
        "there is nothing at this path; POST /v1/losses/{name} evaluates, GET /v1/losses "
        "lists the losses");
}

static bool handle_begin(exchange *x)
{
    problem p = {0};
    if (find_and_begin(x, &p))
        return true;
    http_reply_problem(x, &p);
    return false;
}

static void handle_leave(exchange *x)
{
    if (x->lines)
        lines_leave(x);
    if (x->request)
        request_leave(x->request);
}

static bool handle_grow(exchange *x, size_t more)
{
    problem p;
    if (!x->request || request_grow(x->request, more, &p))
        return true;
    http_reply_problem(x, &p);
    return false;
}

static void handle_refuse(exchange *x)
{
    if (x->request)
        request_refuse(x->request);
    release_reserved(x);
}

static void handle_run(exchange *x)
{
    const route *r = x->route;
    r->run(x);
}

static void log_request(const exchange *x)
{
    log_entry entry = log_begin(LOG_INFO, "request");
    const route *r = x->route;
    const char *trace = x->connection ? http_header(x, "traceparent") : NULL;
    log_text(&entry, "id", x->id);
    log_text(&entry, "method", x->method);
    log_text(&entry, "path", r ? r->path : "-");
    log_number(&entry, "status", x->reply.status, 0);
    log_text(&entry, "code", x->reply.code);
    if (x->request)
        request_log(x->request, &entry);
    else if (x->lines)
        lines_log(x, &entry);
    else if (r && !strstr(r->path, "region"))
        log_text(&entry, "name", x->target.segments > 2 ? x->target.segment[2] : NULL);
    log_number(&entry, "received", (double)(x->body_size + x->passed + x->discarded), 0);
    log_number(&entry, "sent", (double)x->reply.size, 0);
    log_number(&entry, "ms", (double)(uv_hrtime() - x->start) * 1e-6, 3);
    log_text(&entry, "client", http_client(x));
    log_text(&entry, "key", x->key[0] != '\0' ? x->key : NULL);
    log_text(&entry, "traceparent", trace && head_is_traceparent(trace) ? trace : NULL);
    log_end(&entry);
}

static void handle_end(exchange *x)
{
    if (log_wants(LOG_INFO))
        log_request(x);
    request_end(x->request);
    lines_end(x);
    release_reserved(x);
}

const handler route_handler = {
    .begin = handle_begin,
    .grow = handle_grow,
    .refuse = handle_refuse,
    .run = handle_run,
    .take = lines_take,
    .room = lines_room,
    .leave = handle_leave,
    .end = handle_end,
    .rest = request_rest,
    .handed = handle_handed,
    .gone = region_forget,
};
