/* SPDX-License-Identifier: MIT
 *
 * Percent-encoding of paths and queries.
 */
#ifndef LOSSD_PERCENT_H
#define LOSSD_PERCENT_H

#include "cursor.h"

/* Decode into `to` as a string of at most size - 1 bytes; `to` may be where `from` begins. `plus`:
 * a '+' is a space. False if the result is too long, the encoding is invalid, or a NUL is
 * encoded. */
bool percent_decode(span from, bool plus, char *to, size_t size);

#endif
