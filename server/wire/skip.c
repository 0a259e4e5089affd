/* SPDX-License-Identifier: MIT */
#include "wire/skip.h"

#include "wire/walk.h"

/* The brackets that are open: a bit for each, which is set for a brace. */
enum { WORD = 64, FEW = 64 /* words; what is nested deeper is rare */ };
typedef struct nesting {
    size_t depth, room; /* levels */
    uint64_t *word;
    uint64_t few[FEW];
} nesting;

static void free_nesting(const nesting *n)
{
    if (n->word != n->few)
        walk_give(n->word);
}

static bool grow(nesting *n)
{
    uint64_t *more = walk_take(n->room / WORD * 2 * sizeof *more);
    if (!more)
        return false;
    memcpy(more, n->word, n->room / WORD * sizeof *more);
    free_nesting(n);
    n->word = more;
    n->room *= 2;
    return true;
}

static bool open_bracket(nesting *n, bool brace)
{
    if (n->depth == n->room && !grow(n))
        return false;
    const uint64_t bit = UINT64_C(1) << n->depth % WORD;
    uint64_t *word = &n->word[n->depth++ / WORD];
    *word = (*word & ~bit) | (brace ? bit : 0);
    return true;
}

/* Is the innermost one a brace? */
static bool in_braces(const nesting *n)
{
    return n->depth > 0 && n->word[(n->depth - 1) / WORD] >> (n->depth - 1) % WORD & 1;
}

static char closing(const nesting *n)
{
    return in_braces(n) ? '}' : ']';
}

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

/* True: it is JSON up to its end, which the cursor is at. */
static bool skip_nested(cursor *c, nesting *open)
{
    do {
        if (in_braces(open) && !skip_name(c))
            return false;
        cursor_space(c);
        const char first = cursor_peek(c);
        if (first == '[' || first == '{') {
            c->p++;
            if (!open_bracket(open, first == '{'))
                return false;
            if (!cursor_accept(c, closing(open)))
                continue;
            open->depth--;
        } else if (!skip_plain(c)) {
            return false;
        }
        while (open->depth > 0 && cursor_accept(c, closing(open)))
            open->depth--;
        if (open->depth > 0 && !cursor_accept(c, ','))
            return false;
    } while (open->depth > 0);
    cursor_space(c);
    return !cursor_left(c);
}

bool skip_value(span text)
{
    cursor c = cursor_new(text);
    nesting open = {.word = open.few, .room = FEW * WORD};
    const bool whole = skip_nested(&c, &open);
    free_nesting(&open);
    return whole;
}
