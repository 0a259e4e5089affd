/* SPDX-License-Identifier: MIT
 *
 * The OpenAPI 3.1 document, from the descriptions of the losses and the table of routes.
 */
#ifndef LOSSD_OPENAPI_H
#define LOSSD_OPENAPI_H

#include "buffer.h"

#include <losskit.h>

/* Of all losses: none is asked for. */
void openapi_write(const lk_loss *all, buffer *to);

#endif
