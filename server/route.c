/* SPDX-License-Identifier: MIT */
#include "route.h"

#include "http/reply.h"
#include "lines.h"
#include "request.h"
#include "route/answers.h"
#include "tell/log.h"

#include <string.h>

typedef struct route {
    const char *method;
    const char *path;
    access_class access;
    bool (*begin)(exchange *x, problem *p);
    void (*run)(exchange *x);
} route;

void route_drain(void)
{
    documents_drain();
}

#define ROUTE(method, path, access, begin, run, others, sentence)                                  \
    {method, path, access, begin, run},
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
    x->reply.preflight = http_header(x, HEADER_REQUEST_METHOD) != NULL;
}

static bool find_and_begin(exchange *x, problem *p)
{
    const bool options = strcmp(x->method, "OPTIONS") == 0;
    const route *found = find_route(x);
    site here = found ? (site){0} : find_site(x);
    if (!access_by_origin(http_header(x, HEADER_ORIGIN), http_header(x, HEADER_HOST),
                          http_is_local(x), &x->shared, p))
        return false;
    if (options && x->target.segments == 0) /* OPTIONS *: the service as a whole */
        here.get = here.post = true;
    if (options && (here.get || here.post)) {
        reply_options(x, &here);
        return true;
    }
    if (!access_by_key(found ? found->access : ACCESS_KEYED, http_header(x, HEADER_AUTHORIZATION),
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
    regions_unreserve(x);
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
    const char *trace = x->connection ? http_header(x, HEADER_TRACEPARENT) : NULL;
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
    regions_unreserve(x);
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
    .handed = regions_handed,
    .gone = region_forget,
};
