/* SPDX-License-Identifier: MIT
 *
 * Connections after a 101: on a Unix socket, a client sends messages of HTTP_MESSAGE bytes, each
 * with one descriptor, and gets a line for each. Anything else ends the connection. Loop thread
 * only.
 */
#ifndef LOSSD_HANDOVER_H
#define LOSSD_HANDOVER_H

#include "http/exchange.h"

struct MHD_Response;

/* The reply that hands the connection over. NULL without memory. */
struct MHD_Response *handover_response(exchange *x);

/* End all such connections of a server. */
void handover_stop(struct http *server);

#endif
