/* SPDX-License-Identifier: MIT
 *
 * Which request goes where.
 */
#ifndef LOSSD_ROUTE_H
#define LOSSD_ROUTE_H

#include "http/http.h"

/* From the head of a request: find its route and let it decide whether the body is wanted, how much
 * of it, and whether there is room. On false the reply is filled in. */
bool route_begin(exchange *x);

/* More of a body of unknown length will be stored: is there room for `more` bytes? On false the
 * reply is filled in. */
bool route_grow(exchange *x, size_t more);

/* The reply is filled in before the body is there: give up what was reserved for it. */
void route_refuse(exchange *x);

/* The body is there. Either fills in the reply or suspends the exchange. */
void route_run(exchange *x);

/* The client of a suspended exchange has left: what has not begun need not be done. */
void route_leave(exchange *x);

/* The reply was sent, or the client is gone. Frees x->request. */
void route_end(exchange *x);

/* While draining /readyz says 503. */
void route_drain(void);

#endif
