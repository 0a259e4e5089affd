/* SPDX-License-Identifier: MIT
 *
 * Memory for tests: buffers of an exact size, and buffers that grow. A test that runs out of memory
 * aborts.
 */
#ifndef TESTS_BYTES_H
#define TESTS_BYTES_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNUSED __attribute__((unused))

/* What an allocation gave, which must not be NULL. */
static UNUSED void *must(void *memory)
{
    if (!memory) {
        fprintf(stderr, "no memory\n");
        abort();
    }
    return memory;
}

/* A copy of n bytes of which the address sanitizer knows the end. */
static UNUSED void *exactly(const void *data, size_t n)
{
    char *copy = must(malloc(n ? n : 1));
    if (n)
        memcpy(copy, data, n);
    return copy;
}

/* Bytes that grow. */
typedef struct bytes {
    char *data;
    size_t size, room;
} bytes;

static UNUSED void put(bytes *b, const void *data, size_t n)
{
    if (b->size + n + 1 > b->room) {
        b->room = (b->size + n + 1) * 2;
        b->data = must(realloc(b->data, b->room));
    }
    if (n)
        memcpy(b->data + b->size, data, n);
    b->size += n;
    b->data[b->size] = '\0';
}

static UNUSED __attribute__((format(printf, 2, 3))) void say(bytes *b, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof text)
        abort();
    put(b, text, (size_t)n);
}

#endif
