/* SPDX-License-Identifier: MIT
 *
 * Reading untrusted bytes. A cursor never leaves [p, end]; after the first failure every read fails
 * and returns zero, so that a reader may check once, at the end.
 */
#ifndef LOSSD_CURSOR_H
#define LOSSD_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct cursor {
    const char *p, *end;
    bool failed;
} cursor;

/* A part of a body. */
typedef struct span {
    const char *data;
    size_t size;
} span;

static inline cursor cursor_new(span s)
{
    return (cursor){.p = s.data, .end = s.size > 0 ? s.data + s.size : s.data};
}

static inline size_t cursor_left(const cursor *c)
{
    return c->failed || c->p >= c->end ? 0 : (size_t)(c->end - c->p);
}

/* The next byte, without consuming it; '\0' at the end. */
static inline char cursor_peek(const cursor *c)
{
    return cursor_left(c) ? *c->p : '\0';
}

/* The next `size` bytes. */
static inline span cursor_take(cursor *c, size_t size)
{
    if (cursor_left(c) < size)
        c->failed = true;
    if (c->failed)
        return (span){"", 0};
    c->p += size;
    return (span){c->p - size, size};
}

static inline uint64_t cursor_u64(cursor *c)
{
    span s = cursor_take(c, 8);
    uint64_t x = 0;
    for (size_t i = s.size; i-- > 0;)
        x = x << 8 | (unsigned char)s.data[i];
    return x;
}

/* A number of `digits` hexadecimal digits; -1 if they are not hexadecimal. */
static inline int32_t cursor_hex(cursor *c, size_t digits)
{
    const span s = cursor_take(c, digits);
    int32_t number = 0;
    for (size_t i = 0; i < s.size; i++) {
        const char digit = s.data[i], letter = (char)(digit | 0x20);
        if (digit >= '0' && digit <= '9')
            number = number << 4 | (digit - '0');
        else if (letter >= 'a' && letter <= 'f')
            number = number << 4 | (letter - 'a' + 10);
        else
            c->failed = true;
    }
    return c->failed ? -1 : number;
}

static inline void cursor_space(cursor *c)
{
    while (cursor_left(c) && (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t'))
        c->p++;
}

/* Skip white space, then consume the byte if it is the next one. */
static inline bool cursor_accept(cursor *c, char byte)
{
    cursor_space(c);
    if (!cursor_left(c) || *c->p != byte)
        return false;
    c->p++;
    return true;
}

static inline bool span_is(span s, const char *text)
{
    return s.size == strlen(text) && memcmp(s.data, text, s.size) == 0;
}

#endif
