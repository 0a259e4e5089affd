/* SPDX-License-Identifier: MIT
 *
 * Tensors as JSON text: nested or flat arrays of numbers, read straight into memory and written
 * straight from it. A tensor is walked twice: once for its shape, so that everything can be checked
 * and its memory asked for, then for its numbers.
 *
 * `input` is the tensor's name, for problems.
 */
#ifndef LOSSD_TENSOR_TEXT_H
#define LOSSD_TENSOR_TEXT_H

#include "cursor.h"
#include "tell/problem.h"

/* The shape of nested arrays, or of a number: sets t's rank and sizes, and where true and false are
 * among its elements and it has no type, bool. */
bool tensor_text_shape(span text, const char *input, lk_tensor *t, problem *p);

/* An array of sizes as the shape of t. */
bool tensor_text_sizes(span text, const char *input, lk_tensor *t, problem *p);

/* Why an object stands where an array must, for problems. */
#define TENSOR_TEXT_TYPED_ARRAY "JavaScript writes a typed array so: send Array.from of it"

/* Is it as many numbers as the shape of t needs, in one array or nested as the shape says? Types as
 * above. */
bool tensor_text_fits(span text, const char *input, lk_tensor *t, problem *p);

/* The numbers of a text whose brackets tensor_text_shape has seen to be in order, into t's memory.
 */
bool tensor_text_read(span text, const char *input, const lk_tensor *t, problem *p);

/* At most so many bytes of text for t. A size that is absurd stays absurd instead of wrapping. */
size_t tensor_text_bound(const lk_tensor *t);

/* Write t as nested arrays, or as one array; the end of what was written. `strict`: null for what
 * is not finite. */
char *tensor_text_nested(char *to, const lk_tensor *t, bool strict);
char *tensor_text_flat(char *to, const lk_tensor *t, bool strict);

/* The sizes of t as an array. */
void tensor_text_write_sizes(buffer *to, const lk_tensor *t);

#endif
