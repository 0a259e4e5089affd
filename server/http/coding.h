/* SPDX-License-Identifier: MIT
 *
 * Content codings of bodies: gzip, of one member or several, and deflate as HTTP means it, wrapped
 * by zlib.
 */
#ifndef LOSSD_CODING_H
#define LOSSD_CODING_H

#include "buffer.h"
#include "cursor.h"
#include "tell/problem.h"

typedef enum coding { CODING_NONE, CODING_GZIP, CODING_DEFLATE } coding;

enum { CODING_MEMORY = 320 * 1024 }; /* what zlib takes while it works, at most */

/* "gzip"; NULL for none. */
const char *coding_name(coding c);

/* Of a Content-Encoding header, NULL for none there. False if it is none of these. */
bool coding_of_content(const char *header, coding *c);

/* What an Accept-Encoding header likes best; none where it does not ask for one of these. */
coding coding_of_accept(const char *header);

/* How many bytes a body becomes, found without memory for them. A problem if it is malformed, cut
 * off or followed by more, or if they are more than `max` (told as --max-body). */
bool coding_measure(coding c, span body, size_t max, size_t *size, problem *p);

/* Inflate a body that coding_measure has found to become `size` bytes. */
bool coding_inflate(coding c, span body, char *to, size_t size, problem *p);

/* Append `from` deflated. False if it does not fit, or without memory. */
bool coding_deflate(coding c, span from, buffer *to);

#endif
