/* SPDX-License-Identifier: MIT
 *
 * Replies that are written while the body is still coming. libmicrohttpd replies only when a
 * request is complete; so these are written to the connection beside it; to libmicrohttpd it is
 * then an empty reply, which is dropped (gate.h). The body is received as usual, but by the
 * handler's `take`.
 */
#ifndef LOSSD_STREAM_H
#define LOSSD_STREAM_H

#include "http/exchange.h"

/* From the handler's `begin`: the body goes to `take`, and the reply, of status 200, comes by
 * stream_write. False without memory. */
bool stream_open(exchange *x, const char *media);

/* Append to the reply. Returns how many bytes were taken: if fewer than `size`, call it again with
 * the others from the handler's `room`. All of them if the client has left. */
size_t stream_write(exchange *x, const char *data, size_t size);

/* Send what was written, as far as the client takes it. */
void stream_flush(exchange *x);

/* The reply is complete. What is still to come of the body is dropped. */
void stream_end(exchange *x);

/* Receive no more of the body until stream_more; of what `take` was called with, the bytes that it
 * has not taken are the first to come then. stream_more does nothing if it is not held. */
void stream_hold(exchange *x);
void stream_more(exchange *x);

/* The bytes taken last belong to a unit of the body that began at `since` (uv_hrtime), for which
 * the client has as much time as for the body of a request. 0: no unit has begun, and it has as
 * much time as between requests. */
void stream_since(exchange *x, uint64_t since);

/* Is any of what was taken being worked on? Meanwhile, the client need not send: the time that it
 * has between two units begins when it ends. */
void stream_works(exchange *x, bool works);

/* Does the server stop, so that no other unit should begin? */
bool stream_closing(const exchange *x);

/* For the files of this folder. */

/* Bytes of the body have come. */
void stream_received(exchange *x, size_t size);

/* All of the body has come, so that the connection may be kept. */
void stream_whole(exchange *x);
bool stream_keeps(const exchange *x);

/* Has the client left, as far as was seen? Is the reply complete? Has all of it been sent, or the
 * client left? */
bool stream_has_left(const exchange *x);
bool stream_has_ended(const exchange *x);
bool stream_is_over(const exchange *x);

/* The exchange is over. */
void stream_free(exchange *x);

#endif
