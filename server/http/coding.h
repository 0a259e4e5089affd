/* SPDX-License-Identifier: MIT
 *
 * Content codings of bodies: gzip, with one or more members, and deflate as HTTP defines it, in the
 * zlib format.
 */
#ifndef LOSSD_CODING_H
#define LOSSD_CODING_H

#include "buffer.h"
#include "cursor.h"
#include "tell/problem.h"

typedef enum coding { CODING_NONE, CODING_GZIP, CODING_DEFLATE } coding;

enum { CODING_MEMORY = 320 * 1024 }; /* the most memory that zlib needs */

/* "gzip"; NULL for none. */
const char *coding_name(coding c);

/* The coding of a Content-Encoding header (NULL: no header). False if it is not supported. */
bool coding_of_content(const char *header, coding *c);

/* The preferred coding of an Accept-Encoding header; none if it asks for no supported one. */
coding coding_of_accept(const char *header);

/* The inflated size of a body, computed without storing the result. False with a problem if the
 * body is malformed, truncated or followed by other bytes, or if its size exceeds `max`
 * (--max-body). */
bool coding_measure(coding c, span body, size_t max, size_t *size, problem *p);

/* Inflate a body of which coding_measure has found the size. */
bool coding_inflate(coding c, span body, char *to, size_t size, problem *p);

/* Compress `from` and append it. False if it does not fit, or without memory. */
bool coding_deflate(coding c, span from, buffer *to);

#endif
