/* SPDX-License-Identifier: MIT
 *
 * The text of a request's head: tokens, hosts, targets, trace ids. Pure functions.
 */
#ifndef LOSSD_HEAD_H
#define LOSSD_HEAD_H

#include "cursor.h"
#include "tell/problem.h"

#include <stdbool.h>
#include <stdint.h>

/* Is it a character of a token of RFC 9110: a letter, a digit or one of !#$%&'*+-.^_`|~? */
static inline bool head_is_tchar(char c)
{
    static const uint64_t tchars[] = {0x03ff6cfa00000000, 0x57ffffffc7fffffe};
    const unsigned char u = (unsigned char)c;
    return u < 128 && (tchars[u / 64] >> u % 64 & 1) != 0;
}

/* Is it a token, as a header name must be? */
bool head_is_token(span text);

/* Is it a character of a host and optional port, by RFC 3986? */
bool head_is_host(char c);

/* Is the word one of a list with commas, in letters of either case? */
bool head_lists(span list, const char *word);

/* A header's value without trailing white space, which is not part of it. */
span head_trimmed(span value);

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
