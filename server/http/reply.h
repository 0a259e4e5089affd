/* SPDX-License-Identifier: MIT
 *
 * Replies: filled in by whoever answers, sent through libmicrohttpd or, where it cannot, past it.
 */
#ifndef LOSSD_REPLY_H
#define LOSSD_REPLY_H

#include "http/exchange.h"
#include "tell/problem.h"

struct MHD_Response;

/* Fill in the reply: a problem; text that lives on, until the last exchange has ended; or text that
 * `text` holds and that is taken over. A text that failed becomes 503. */
void http_reply_problem(exchange *x, const problem *p);
void http_reply_kept(exchange *x, int status, const char *media, span text);
void http_reply_text(exchange *x, int status, const char *media, buffer *text);

/* Send what is filled in. False: the connection must end. */
bool reply_send(exchange *x);

/* The request will not become whole: send what is filled in, or 408, before the connection ends. */
void reply_early(exchange *x);

/* What goes out where there is no memory for a reply; made while there is. NULL without memory. */
struct MHD_Response *reply_exhausted(void);

#endif
