/* SPDX-License-Identifier: MIT
 *
 * Checks of the head of a request: refuses what libmicrohttpd accepts but a proxy in front may
 * parse differently (request smuggling). Pure functions of the text.
 */
#ifndef LOSSD_HEAD_H
#define LOSSD_HEAD_H

#include "cursor.h"
#include "tell/problem.h"

#include <stdbool.h>
#include <stdint.h>

/* Is it a token of RFC 9110, as a header name must be? */
bool head_is_token(span text);

/* The state of the checks: begin with {0}, pass every header to guard_header, then call
 * guard_passes. guard_header returns the value without trailing white space, which is not part of
 * it. libmicrohttpd has determined the length of the body from the untrimmed value, and so does the
 * guard. */
typedef struct guard {
    int lengths, encodings, hosts;
    int64_t length;  /* length of the body: 0 without one, -1 if it is chunked */
    const char *bad; /* reason to refuse the request; NULL: none yet */
} guard;

span guard_header(guard *g, span name, span value);
bool guard_passes(const guard *g, const char *version, problem *p);

/* A request target. It is split before it is decoded, so that an encoded slash does not separate
 * segments. target_split cuts and decodes `text` in place. The query is "" if there is none. */
enum { TARGET_SEGMENTS = 8 };
typedef struct target {
    int segments;
    char *segment[TARGET_SEGMENTS];
    char *query;
} target;

bool target_split(char *text, target *t, problem *p);

/* Is it a W3C traceparent, of version 00, or of a later version, which may have more fields? */
bool head_is_traceparent(const char *text);

#endif
