/* SPDX-License-Identifier: MIT
 *
 * Tensors as base64 (RFC 4648) in a JSON string: their bytes in little-endian order. White space is
 * not allowed, padding may be left out, and any character may be written as a JSON escape.
 */
#ifndef LOSSD_BASE64_H
#define LOSSD_BASE64_H

#include "cursor.h"
#include "tell/problem.h"

/* Does the text have the length that the shape needs? This is checked before memory is allocated,
 * since the shape comes from the client. Without a dtype, any size that one could have is accepted;
 * it is checked again when the dtype is known. `text` includes the quotes. */
bool base64_fits(span text, const char *input, const lk_tensor *t, problem *p);

/* Decode the tensor's bytes into its memory. */
bool base64_read(span text, const char *input, const lk_tensor *t, problem *p);

#endif
