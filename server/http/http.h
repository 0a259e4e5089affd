/* SPDX-License-Identifier: MIT
 *
 * The HTTP server: libmicrohttpd, driven by a libuv loop. Everything here runs on the thread of
 * that loop, except for http_start, which may run before it.
 */
#ifndef LOSSD_HTTP_H
#define LOSSD_HTTP_H

#include "flags.h"
#include "http/exchange.h"

#include <uv.h>

typedef struct http http;

/* Listen on all addresses. `h` answers the requests, and must live as long as the server. `other`
 * is NULL or a server of another loop that listens on the same ones. NULL with a line on stderr on
 * failure. */
http *http_start(uv_loop_t *loop, const flags *f, const handler *h, const http *other);

/* Stop accepting; connections close after their current reply. */
void http_quiesce(http *server);

/* The number of exchanges whose reply is not sent yet (in-flight requests). */
int http_exchanges(const http *server);

/* Close everything and free. Suspended exchanges must be resumed first. */
void http_stop(http *server);

/* Address i as a URL, for the log; NULL beyond the last. Valid as long as the server. */
const char *http_url(const http *server, int i);

/* Is address i a loopback address or a Unix socket? */
bool http_url_is_local(const http *server, int i);

#endif
