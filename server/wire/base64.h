/* SPDX-License-Identifier: MIT
 *
 * Tensors as base64 (RFC 4648) in a JSON string: their bytes in little-endian order. White space is
 * not allowed, padding may be left out, and any character may be escaped as JSON has it.
 */
#ifndef LOSSD_BASE64_H
#define LOSSD_BASE64_H

#include "cursor.h"
#include "tell/problem.h"

/* Is there as much of it as the shape needs? Asked before any memory is, since the shape is the
 * client's word. Without a dtype the widest that fits is assumed to come later and is checked
 * again. `text` is the string with its quotes. */
bool base64_fits(span text, const char *input, const lk_tensor *t, problem *p);

/* The tensor's bytes, into its memory. */
bool base64_read(span text, const char *input, const lk_tensor *t, problem *p);

#endif
