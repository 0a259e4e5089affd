/* SPDX-License-Identifier: MIT
 *
 * JSON values that are ignored, but must be valid.
 */
#ifndef LOSSD_SKIP_H
#define LOSSD_SKIP_H

#include "cursor.h"

/* Is it one valid JSON value by RFC 8259, of any size and any nesting depth? False
 * without memory for what is nested thousands of levels deep. */
bool skip_value(span text);

#endif
