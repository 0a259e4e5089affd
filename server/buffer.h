/* SPDX-License-Identifier: MIT
 *
 * A growable byte buffer with a maximum size, set when it is made. After the first failure (out of
 * memory, or beyond the maximum) `failed` stays set and appending does nothing: check once, at the
 * end.
 */
#ifndef LOSSD_BUFFER_H
#define LOSSD_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct buffer {
    char *data; /* owned; NULL while empty */
    size_t size, capacity, max;
    bool failed;
} buffer;

/* An empty buffer that holds at most `max` bytes. */
buffer buffer_new(size_t max);

/* Frees the data; the buffer is empty again. */
void buffer_free(buffer *b);

/* Make room for `more` bytes beyond size; the capacity grows by half, or to exactly what is needed
 * if that is more. False on failure. */
bool buffer_reserve(buffer *b, size_t more);

void buffer_append(buffer *b, const void *data, size_t size);
void buffer_text(buffer *b, const char *text);

/* Append texts, the last one followed by NULL; and an integer in decimal. Both are much faster than
 * buffer_printf. */
void buffer_texts(buffer *b, ...) __attribute__((sentinel));
void buffer_integer(buffer *b, int64_t value);
void buffer_printf(buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `text` as a JSON string, quotes included, on one line: control characters and line separators are
 * escaped, including those beyond ASCII. Invalid UTF-8 becomes U+FFFD. */
void buffer_json_string(buffer *b, const char *text);

#endif
