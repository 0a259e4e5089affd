/* SPDX-License-Identifier: MIT
 *
 * A request as libmicrohttpd hands it over: its line makes an exchange, then come its head, its
 * body part by part, and its end. These are callbacks of a daemon.
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
