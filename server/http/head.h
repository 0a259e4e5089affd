/* SPDX-License-Identifier: MIT
 *
 * The head of a request, before anything trusts it: what libmicrohttpd lets through and a proxy in
 * front may read otherwise. Pure functions of the text.
 */
#ifndef LOSSD_HEAD_H
#define LOSSD_HEAD_H

#include "cursor.h"
#include "tell/problem.h"

#include <stdbool.h>
#include <stdint.h>

/* A token of RFC 9110: what a header name is made of. */
bool head_is_token(span text);

/* Begin with {0}, show it every header in turn, then ask for the verdict. Each gives back the value
 * without the white space at its end, which is not part of it. How long the body is was decided
 * before, by the value as it stands: so is it here. */
typedef struct guard {
    int lengths, encodings, hosts;
    int64_t length;  /* of the body: 0 without one, -1 if it is chunked */
    const char *bad; /* NULL: nothing yet */
} guard;

span guard_header(guard *g, span name, span value);
bool guard_passes(const guard *g, const char *version, problem *p);

/* A request target, split before it is decoded, so that an encoded slash is not one. `text` is cut
 * and decoded where it stands. The query is "" for none. */
enum { TARGET_SEGMENTS = 8 };
typedef struct target {
    int segments;
    char *segment[TARGET_SEGMENTS];
    char *query;
} target;

bool target_split(char *text, target *t, problem *p);

/* A W3C traceparent of version 00 or later, of which something may follow. */
bool head_is_traceparent(const char *text);

#endif
