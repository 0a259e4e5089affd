/* SPDX-License-Identifier: MIT
 *
 * What nobody asked for: it may be any JSON, and must be JSON.
 */
#ifndef LOSSD_SKIP_H
#define LOSSD_SKIP_H

#include "cursor.h"

/* Is it one JSON value, by RFC 8259, of any size and nested as deep as it likes? Its own bytes are
 * where the nesting is kept: they are of no use afterwards. */
bool skip_value(span text);

#endif
