/* SPDX-License-Identifier: MIT
 *
 * Routes: which function answers a request.
 */
#ifndef LOSSD_ROUTE_H
#define LOSSD_ROUTE_H

#include "http/exchange.h"

/* Finds the route of a request and lets it answer. */
extern const handler route_handler;

/* From now on the service is draining, and /readyz answers 503. */
void route_drain(void);

#endif
