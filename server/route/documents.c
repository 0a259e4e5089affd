/* SPDX-License-Identifier: MIT
 *
 * What there is to read: health and metrics, the descriptions, alone and as models, and the pages.
 */
#include "route/answers.h"

#include "catalogue/describe.h"
#include "catalogue/docs.h"
#include "catalogue/models.h"
#include "catalogue/openapi.h"
#include "catalogue/trees.h"
#include "evaluate.h"
#include "http/reply.h"
#include "oip.h"
#include "tell/metrics.h"
#include "wire/wires.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_bool is_draining;

void documents_drain(void)
{
    is_draining = true;
}

bool documents_say_draining(void)
{
    return is_draining;
}

/* A state as text. If it does not hold now: 503, and when to ask again. */
static void reply_state(exchange *x, const char *media, bool holds, const char *state)
{
    buffer text = buffer_new(TEXT_MAX);
    buffer_text(&text, state);
    http_reply_text(x, holds ? 200 : 503, media, &text);
    x->reply.retry = !holds;
}

void run_healthz(exchange *x)
{
    reply_state(x, "text/plain", true, "ok\n");
}

void run_readyz(exchange *x)
{
    const bool ready = !is_draining;
    reply_state(x, "text/plain", ready, ready ? "ready\n" : "draining\n");
}

void run_metrics(exchange *x)
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

void run_openapi(exchange *x)
{
    static _Atomic(const buffer *) kept;
    reply_kept(x, &kept, openapi_write);
}

void run_docs(exchange *x)
{
    http_reply_kept(x, 200, "text/html; charset=utf-8", docs_page());
}

void run_status(exchange *x)
{
    http_reply_kept(x, 200, "text/html; charset=utf-8", docs_status());
}

/* Relative, since a server in front may serve all of it under a path of its own. */
void run_root(exchange *x)
{
    static const char where[] = "docs";
    static const char text[] = "/docs describes the service, /v1/losses does for programs\n";
    x->reply.location = where;
    http_reply_kept(x, 302, "text/plain", (span){text, sizeof text - 1});
}

void run_losses(exchange *x)
{
    static _Atomic(const buffer *) kept;
    reply_kept(x, &kept, describe_json);
}

void run_describe(exchange *x)
{
    problem p;
    const lk_loss *loss = evaluation_at(x->target.segment[1], x->target.segment[2], &p);
    if (loss)
        reply_document(x, loss, describe_json);
    else
        http_reply_problem(x, &p);
}

/* The Open Inference Protocol. */

static void reply_model(exchange *x, void (*write)(const lk_loss *, buffer *))
{
    problem p;
    const lk_loss *loss = model_of(x, &p);
    if (loss)
        reply_document(x, loss, write);
    else
        http_reply_problem(x, &p);
}

void run_server(exchange *x)
{
    reply_document(x, NULL, models_server);
}

void run_live(exchange *x)
{
    reply_state(x, "application/json", true, "{\"live\":true}\n");
}

void run_ready(exchange *x)
{
    const bool ready = !is_draining;
    reply_state(x, "application/json", ready, ready ? "{\"ready\":true}\n" : "{\"ready\":false}\n");
}

void run_models(exchange *x)
{
    reply_document(x, NULL, models_list);
}

void run_index(exchange *x)
{
    reply_document(x, NULL, models_index);
}

void run_model(exchange *x)
{
    reply_model(x, models_metadata);
}

void run_model_ready(exchange *x)
{
    reply_model(x, models_ready);
}

void run_config(exchange *x)
{
    reply_model(x, models_config);
}

void run_stats(exchange *x)
{
    if (x->target.segments == 3) /* v2, models, stats */
        reply_document(x, NULL, models_stats);
    else
        reply_model(x, models_stats);
}
