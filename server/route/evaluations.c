/* SPDX-License-Identifier: MIT
 *
 * From the head of an evaluation to a request, or to lines of them.
 */
#include "route/answers.h"

#include "lines.h"
#include "oip.h"
#include "request.h"
#include "wire/wires.h"

#include <stdlib.h>
#include <string.h>

/* A decimal number of at most 18 digits in a header. True with `fallback` if there is no such
 * header. */
static bool read_number(const exchange *x, header_id which, const char *name, uint64_t fallback,
                        uint64_t *value, problem *p)
{
    const char *text = http_header(x, which);
    *value = fallback;
    if (!text)
        return true;
    if (http_header_times(x, which) > 1)
        return problem_set(p, 400, "malformed_request", "%s comes more than once", name);
    const size_t size = strlen(text);
    if (size == 0 || size > 18 || strspn(text, "0123456789") != size)
        return problem_set(p, 400, "malformed_request",
                           "%s is \"%.40s\"; it must be a decimal number", name, text);
    *value = strtoull(text, NULL, 10);
    return true;
}

/* Read what the heads of all evaluations have in common. */
static bool read_head(exchange *x, ask *a, problem *p)
{
    char bodies[HTTP_LIST], replies[HTTP_LIST];
    const char *encoding = http_header_joined(x, HEADER_CONTENT_ENCODING, bodies);
    uint64_t ms;
    if (!coding_of_content(encoding, &a->body))
        return problem_set(p, 415, "unsupported_media_type",
                           "Content-Encoding is \"%.80s\"; it must be gzip, deflate or identity",
                           encoding);
    if (!read_number(x, HEADER_REQUEST_TIMEOUT, "X-Request-Timeout", 0, &ms, p))
        return false;
    a->asker = asker_of(x);
    a->timeout = ms < UINT64_MAX / 1000 ? ms * 1000 : 0;
    a->reply = coding_of_accept(http_header_joined(x, HEADER_ACCEPT_ENCODING, replies));
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
    char room[HTTP_LIST];
    const char *accept = http_header_joined(x, HEADER_ACCEPT, room);
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
                           http_header(x, HEADER_CONTENT_ENCODING));
    a->reply = CODING_NONE;
    return lines_begin(x, a, p);
}

bool begin_evaluate(exchange *x, problem *p)
{
    char room[HTTP_LIST];
    const char *content = http_header(x, HEADER_CONTENT_TYPE);
    const char *accept = http_header_joined(x, HEADER_ACCEPT, room);
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

void run_evaluate(exchange *x)
{
    if (x->lines)
        lines_run(x);
    else
        request_start(x->request);
}

const lk_loss *model_of(const exchange *x, problem *p)
{
    const lk_loss *loss = evaluation_loss(x->target.segment[2], p);
    if (loss && x->target.segments > 4 && strcmp(x->target.segment[4], OIP_VERSION) != 0) {
        problem_set(p, 404, "unknown_loss", "%s has no version \"%.40s\"; it has " OIP_VERSION,
                    x->target.segment[2], x->target.segment[4]);
        return NULL;
    }
    return loss;
}

/* Content-Type and Accept are ignored: clients of the protocol send arbitrary values. */
bool begin_infer(exchange *x, problem *p)
{
    ask a = {.query = "", .in = &wire_oip, .out = &wire_oip};
    a.loss = model_of(x, p);
    return a.loss &&
           read_number(x, HEADER_INFERENCE_LENGTH, "Inference-Header-Content-Length", OIP_ALL,
                       &a.head, p) &&
           admit(x, &a, p);
}
