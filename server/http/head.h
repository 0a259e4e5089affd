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

/* X(header, name): what is read of the headers of requests, in the order of their names. Any other
 * is dropped before libmicrohttpd stores it (framing.h). */
#define HEAD_HEADERS(X)                                                                            \
    X(ACCEPT, "accept")                                                                            \
    X(ACCEPT_ENCODING, "accept-encoding")                                                          \
    X(REQUEST_METHOD, "access-control-request-method")                                             \
    X(AUTHORIZATION, "authorization")                                                              \
    X(CONNECTION, "connection")                                                                    \
    X(CONTENT_ENCODING, "content-encoding")                                                        \
    X(CONTENT_LENGTH, "content-length")                                                            \
    X(CONTENT_TYPE, "content-type")                                                                \
    X(EXPECT, "expect")                                                                            \
    X(HOST, "host")                                                                                \
    X(INFERENCE_LENGTH, "inference-header-content-length")                                         \
    X(ORIGIN, "origin")                                                                            \
    X(TRACEPARENT, "traceparent")                                                                  \
    X(TRANSFER_ENCODING, "transfer-encoding")                                                      \
    X(UPGRADE, "upgrade")                                                                          \
    X(REQUEST_ID, "x-request-id")                                                                  \
    X(REQUEST_TIMEOUT, "x-request-timeout")

#define HEAD_ENUM(header, name) HEADER_##header,
typedef enum header_id { HEAD_HEADERS(HEAD_ENUM) HEADERS } header_id;
#undef HEAD_ENUM

extern const char *const head_names[HEADERS];

/* A letter in lower case. */
static inline char head_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* The first header whose name begins with the first `size` characters of that of `is`, and then
 * with `c`; HEADERS if there is none. Begin with 0 and 0. */
int head_next_of(int is, size_t size, char c);

static inline int head_next(int is, size_t size, char c)
{
    return head_names[is][size] == c ? is : head_next_of(is, size, c);
}

/* Which header is it? HEADERS if none of these. */
int head_find(span name);

/* Is it a token, as a header name must be? */
bool head_is_token(span text);

/* Is it a character of a host and optional port, by RFC 3986? One of a token, but none of #^`|, or
 * one of (),:;=[] */
static inline bool head_is_host(char c)
{
    static const uint64_t hosts[] = {0x2fff7ff200000000, 0x47fffffeaffffffe};
    const unsigned char u = (unsigned char)c;
    return u < 128 && (hosts[u / 64] >> u % 64 & 1) != 0;
}

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
