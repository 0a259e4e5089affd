/* SPDX-License-Identifier: MIT
 *
 * A request for an evaluation, from admission to its end. It is owned by one side at a time, the
 * loop thread or the worker pool; it changes hands only by uv_queue_work and its after-callback,
 * and only request.c queues work.
 */
#ifndef LOSSD_REQUEST_H
#define LOSSD_REQUEST_H

#include "request/ask.h"
#include "tell/log.h"

#include <uv.h>

/* Call once, before the other functions. Starts the workers. */
void request_setup(const flags *f);

/* Admit a request: reserve memory for its body and a place in the queue. NULL with a problem.
 * `length` is the body's, or -1 if it is not known yet. */
request *request_admit(exchange *x, const ask *a, int64_t length, problem *p);

/* Reserve more for a body of unknown length. */
bool request_grow(request *r, size_t more, problem *p);

/* Reserve what the evaluation of the whole body will most likely need in all, which otherwise is
 * reserved when it is known. False: there is not so much now, and nothing has changed. */
bool request_ahead(request *r);

/* Has this iteration of the loop time left for a small request? */
bool request_has_time(const exchange *x);

/* The request was refused while its body is still being received: release what was reserved for
 * it. */
void request_refuse(request *r);

/* The body is complete: suspends the exchange, evaluates, and resumes it with a reply. */
void request_start(request *r);

/* The client has disconnected: cancel work that has not begun. */
void request_leave(request *r);

/* Add what the log says about an evaluation, which is never the contents of a tensor. */
void request_log(const request *r, log_entry *entry);

/* Free the request; NULL is allowed. */
void request_end(request *r);

/* Nothing has been asked for a while, or the thread ends: free what this thread keeps for later. */
void request_rest(void);

/* The largest body allowed. */
size_t request_max_body(void);

#endif
