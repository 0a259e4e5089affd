/* SPDX-License-Identifier: MIT
 *
 * A body of lines, each of which is a JSON request of its own, and is answered by a line, in the
 * same order: while the body comes, so that it may be of any length. What is bounded for a request
 * is bounded for a line.
 */
#ifndef LOSSD_LINES_H
#define LOSSD_LINES_H

#include "request.h"

typedef struct lines lines;

#define LINES_MEDIA "application/x-ndjson"

/* From the handler's `begin`. `a` is what all lines have in common. Sets x->lines, and has the
 * reply streamed; false with a problem. */
bool lines_begin(exchange *x, const ask *a, problem *p);

/* The handler's functions of the same names, for such an exchange. */
size_t lines_take(exchange *x, const char *data, size_t size);
void lines_room(exchange *x);
void lines_run(exchange *x);
void lines_leave(exchange *x);
void lines_end(exchange *x);

/* Add what the log says about them. */
void lines_log(const exchange *x, log_entry *entry);

#endif
