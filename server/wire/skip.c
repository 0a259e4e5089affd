/* SPDX-License-Identifier: MIT */
#include "wire/skip.h"

#include "wire/walk.h"

static bool take(cursor *c, char byte)
{
    if (cursor_peek(c) != byte)
        return false;
    c->p++;
    return true;
}

static bool skip_string(cursor *c)
{
    char character[4];
    if (!take(c, '"'))
        return false;
    while (!take(c, '"'))
        if (walk_character(c, character) == 0)
            return false;
    return true;
}

static bool skip_digits(cursor *c)
{
    const char *first = c->p;
    while (cursor_peek(c) >= '0' && cursor_peek(c) <= '9')
        c->p++;
    return c->p > first;
}

static bool skip_number(cursor *c)
{
    (void)take(c, '-');
    if (!take(c, '0') && !skip_digits(c))
        return false;
    if (take(c, '.') && !skip_digits(c))
        return false;
    if (!take(c, 'e') && !take(c, 'E'))
        return true;
    if (!take(c, '+'))
        (void)take(c, '-');
    return skip_digits(c);
}

/* Skip a value that contains no other values. */
static bool skip_plain(cursor *c)
{
    switch (cursor_peek(c)) {
    case '"':
        return skip_string(c);
    case 't':
        return span_is(cursor_take(c, 4), "true");
    case 'f':
        return span_is(cursor_take(c, 5), "false");
    case 'n':
        return span_is(cursor_take(c, 4), "null");
    default:
        return skip_number(c);
    }
}

static bool skip_name(cursor *c)
{
    cursor_space(c);
    return skip_string(c) && cursor_accept(c, ':');
}

bool skip_value(span text)
{
    cursor c = cursor_new(text);
    /* A stack of the closing brackets of all open arrays and objects. There are never more of them
     * than bytes read, so the stack fits in the text already read. */
    char *open = (char *)(uintptr_t)text.data;
    size_t depth = 0;
    do {
        if (depth > 0 && open[depth - 1] == '}' && !skip_name(&c))
            return false;
        cursor_space(&c);
        if (cursor_peek(&c) == '[' || cursor_peek(&c) == '{') {
            const char close = *c.p++ == '[' ? ']' : '}';
            open[depth++] = close;
            if (!cursor_accept(&c, close))
                continue;
            depth--;
        } else if (!skip_plain(&c)) {
            return false;
        }
        while (depth > 0 && cursor_accept(&c, open[depth - 1]))
            depth--;
        if (depth > 0 && !cursor_accept(&c, ','))
            return false;
    } while (depth > 0);
    cursor_space(&c);
    return !cursor_left(&c);
}
