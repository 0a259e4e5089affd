/* SPDX-License-Identifier: MIT
 *
 * Tensors as JSON text: nested or flat arrays of numbers, read directly into a tensor's memory and
 * written directly from it. A text is parsed twice: first for the shape, so that everything can be
 * checked and memory reserved, then for the numbers. `input` is the tensor's name, for problems.
 */
#ifndef LOSSD_TENSOR_TEXT_H
#define LOSSD_TENSOR_TEXT_H

#include "cursor.h"
#include "tell/problem.h"

/* Read the shape of nested arrays, or of a number: sets t's rank and sizes, and if t has no type
 * yet and elements are true or false, the type bool. */
bool tensor_text_shape(span text, const char *input, lk_tensor *t, problem *p);

/* The same of the value at the cursor, which moves behind it. */
bool tensor_text_walk(cursor *c, const char *input, lk_tensor *t, problem *p);

/* Read an array of sizes as the shape of t. */
bool tensor_text_sizes(span text, const char *input, lk_tensor *t, problem *p);

/* The hint for an object in place of an array, for problems. */
#define TENSOR_TEXT_TYPED_ARRAY "JavaScript writes a typed array so: send Array.from of it"

/* Check that the text has as many numbers as the shape of t needs, in a flat array or nested like
 * the shape. Types as above. */
bool tensor_text_fits(span text, const char *input, lk_tensor *t, problem *p);

/* Read the numbers of a text into t's memory. tensor_text_shape has checked its brackets before. */
bool tensor_text_read(span text, const char *input, const lk_tensor *t, problem *p);

/* An upper bound of the length of t's text in bytes. It saturates instead of overflowing. */
size_t tensor_text_bound(const lk_tensor *t);

/* Write t as nested arrays, or as a flat array. Returns the end of the text. `strict`: null for
 * values that are not finite. */
char *tensor_text_nested(char *to, const lk_tensor *t, bool strict);
char *tensor_text_flat(char *to, const lk_tensor *t, bool strict);

/* Write the sizes of t as an array. */
void tensor_text_write_sizes(buffer *to, const lk_tensor *t);

#endif
