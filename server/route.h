/* SPDX-License-Identifier: MIT
 *
 * Which request goes where.
 */
#ifndef LOSSD_ROUTE_H
#define LOSSD_ROUTE_H

#include "http/exchange.h"

/* Finds the route of a request and does what it says. */
extern const handler route_handler;

/* While draining /readyz says 503. */
void route_drain(void);

#endif
