/* SPDX-License-Identifier: MIT
 *
 * The OpenAPI 3.1 document, from the descriptions of the losses and the table of routes.
 */
#ifndef LOSSD_OPENAPI_H
#define LOSSD_OPENAPI_H

#include "buffer.h"

#include <losskit.h>

/* It describes all losses: the argument is not used. */
void openapi_write(const lk_loss *all, buffer *to);

#endif
