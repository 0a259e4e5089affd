/* SPDX-License-Identifier: MIT
 *
 * A growing run of bytes with a maximum from birth. After the first failure (no memory, or past the
 * maximum) it stays failed and appending does nothing: check once, at the end.
 */
#ifndef LOSSD_BUFFER_H
#define LOSSD_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct buffer {
    char *data; /* owned; NULL while empty */
    size_t size, capacity, max;
    bool failed;
} buffer;

/* Empty, to hold at most `max` bytes. */
buffer buffer_new(size_t max);

/* Frees the data; the buffer is empty again. */
void buffer_free(buffer *b);

/* Make room for `more` bytes beyond size, exactly if it must grow far. False on failure. */
bool buffer_reserve(buffer *b, size_t more);

void buffer_append(buffer *b, const void *data, size_t size);
void buffer_text(buffer *b, const char *text);
void buffer_printf(buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `text` as a JSON string, quotes included, on one line: controls and what else ends a line are
 * escaped, those beyond ASCII too. Invalid UTF-8 becomes U+FFFD. */
void buffer_json_string(buffer *b, const char *text);

#endif
