/* SPDX-License-Identifier: MIT
 *
 * JSON values that are ignored, but must be valid.
 */
#ifndef LOSSD_SKIP_H
#define LOSSD_SKIP_H

#include "cursor.h"

/* Is it one valid JSON value by RFC 8259, of any size and any nesting depth? The stack of open
 * brackets is stored in the text itself, which is overwritten. */
bool skip_value(span text);

#endif
