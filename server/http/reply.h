/* SPDX-License-Identifier: MIT
 *
 * Replies: filled in by the handler, and sent through libmicrohttpd or, where it cannot, written to
 * the socket directly.
 */
#ifndef LOSSD_REPLY_H
#define LOSSD_REPLY_H

#include "http/exchange.h"
#include "tell/problem.h"

struct MHD_Response;

/* Fill in the reply: with a problem; with text that stays valid until the last exchange has ended;
 * or with the contents of a buffer, which the reply takes over. A buffer that failed becomes
 * 503. */
void http_reply_problem(exchange *x, const problem *p);
void http_reply_kept(exchange *x, int status, const char *media, span text);
void http_reply_text(exchange *x, int status, const char *media, buffer *text);

/* Send the reply. False: the connection must be closed. */
bool reply_send(exchange *x);

/* Write the head of a reply of status 200 that is streamed. When all of it was sent, libmicrohttpd
 * is given an empty one that is dropped; reply_was_nothing, at the end of every such exchange, is
 * false if it was sent all the same. */
void reply_head(exchange *x, const char *media, buffer *to);
bool reply_nothing(const exchange *x);
bool reply_was_nothing(const exchange *x);

/* The rest of the request will never come, or is not read: send the reply, or 408 if there is none,
 * before the connection is closed. */
void reply_early(exchange *x);

/* The reply for when there is no memory to make one; it is made at the start. NULL without
 * memory. */
struct MHD_Response *reply_exhausted(void);

#endif
