/* SPDX-License-Identifier: MIT */
#include "buffer.h"

#include "utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

buffer buffer_new(size_t max)
{
    return (buffer){.max = max};
}

void buffer_free(buffer *b)
{
    free(b->data);
    *b = (buffer){.max = b->max};
}

bool buffer_reserve(buffer *b, size_t more)
{
    if (b->failed || more > b->max - b->size) {
        b->failed = true;
        return false;
    }
    size_t need = b->size + more, grown = b->capacity + b->capacity / 2 + 256;
    if (need <= b->capacity)
        return true;
    if (grown > b->max)
        grown = b->max;
    size_t capacity = need > grown ? need : grown;
    char *data = realloc(b->data, capacity);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

void buffer_append(buffer *b, const void *data, size_t size)
{
    if (size == 0 || !buffer_reserve(b, size))
        return;
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

void buffer_text(buffer *b, const char *text)
{
    buffer_append(b, text, strlen(text));
}

void buffer_texts(buffer *b, ...)
{
    va_list args;
    va_start(args, b);
    for (const char *text; (text = va_arg(args, const char *));)
        buffer_text(b, text);
    va_end(args);
}

void buffer_integer(buffer *b, int64_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do
        digits[--at] = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (value < 0)
        digits[--at] = '-';
    buffer_append(b, digits + at, sizeof digits - at);
}

void buffer_printf(buffer *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    /* It usually fits. vsnprintf also writes a NUL, which size does not count. */
    const size_t room = b->capacity - b->size;
    const int size = vsnprintf(room > 0 ? b->data + b->size : NULL, room, format, args);
    va_end(args);
    if (size >= 0 && buffer_reserve(b, (size_t)size + 1)) {
        if ((size_t)size >= room)
            vsnprintf(b->data + b->size, (size_t)size + 1, format, again);
        b->size += (size_t)size;
    }
    va_end(again);
}

void buffer_json_string(buffer *b, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    buffer_append(b, "\"", 1);
    while (*p != '\0') {
        size_t n = utf8_length((const char *)p, 4);
        if (*p == '"' || *p == '\\')
            buffer_printf(b, "\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f)
            buffer_printf(b, "\\u%04x", *p);
        else if (n == 0)
            buffer_text(b, "\xef\xbf\xbd");
        else if (*p == 0xc2 && p[1] < 0xa0)
            buffer_printf(b, "\\u00%02x", p[1]);
        else if (n == 3 && (memcmp(p, "\xe2\x80\xa8", 3) == 0 || memcmp(p, "\xe2\x80\xa9", 3) == 0))
            buffer_printf(b, "\\u20%02x", p[2] - 0x80u);
        else
            buffer_append(b, p, n);
        p += n ? n : 1;
    }
    buffer_append(b, "\"", 1);
}
