/* SPDX-License-Identifier: MIT
 *
 * HTTP: libmicrohttpd driven by the libuv loop. Everything here runs on the loop thread.
 */
#ifndef LOSSD_HTTP_H
#define LOSSD_HTTP_H

#include "flags.h"
#include "http/exchange.h"

#include <uv.h>

typedef struct http http;

/* Listen on all addresses; `h` answers, and must live as long as the server. NULL with a line on
 * stderr if that fails. */
http *http_start(uv_loop_t *loop, const flags *f, const handler *h);

/* Stop accepting; connections close after their current reply. */
void http_quiesce(http *server);

/* Exchanges whose reply is not yet sent. */
int http_exchanges(const http *server);

/* Close everything and free. Suspended exchanges must be resumed before. */
void http_stop(http *server);

/* The first address as a URL, for the log. Valid as long as the server. */
const char *http_url(const http *server, int i);

#endif
