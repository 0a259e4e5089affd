/* SPDX-License-Identifier: MIT
 *
 * Receiving requests: the callbacks of a libmicrohttpd daemon. The request line creates an
 * exchange; then come the head, the body in parts, and the end.
 */
#ifndef LOSSD_RECEIVE_H
#define LOSSD_RECEIVE_H

#include <microhttpd.h>

/* `cls` is the listener. */
void *receive_line(void *cls, const char *uri, struct MHD_Connection *connection);

/* `cls` is the server in both, `state` the exchange. */
enum MHD_Result receive_request(void *cls, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *data,
                                size_t *size, void **state);
void receive_end(void *cls, struct MHD_Connection *connection, void **state,
                 enum MHD_RequestTerminationCode code);

#endif
