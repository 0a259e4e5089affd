/* SPDX-License-Identifier: MIT */
#include "wire/walk.h"

#include "block.h"
#include "utf8.h"
#include "wire/number.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Large bodies are mostly bytes without structure. */
static void skip_in_string(cursor *c)
{
    block bytes;
    while (block_next(c->p, cursor_left(c), &bytes) &&
           block_none((block)(bytes == '"') | (block)(bytes == '\\')))
        c->p += sizeof bytes;
}

/* Skip to the next quote, bracket or brace. A bracket and a brace differ in one bit. */
static void skip_plain(cursor *c)
{
    block bytes;
    while (block_next(c->p, cursor_left(c), &bytes) &&
           block_none((block)(bytes == '"') | (block)((bytes | 0x20) == '{') |
                      (block)((bytes | 0x20) == '}')))
        c->p += sizeof bytes;
}

span walk_body(span body)
{
    static const char mark[] = "\xef\xbb\xbf";
    const size_t size = sizeof mark - 1;
    if (body.size < size || memcmp(body.data, mark, size) != 0)
        return body;
    return (span){body.data + size, body.size - size};
}

bool walk_string(cursor *c, span *s)
{
    cursor_space(c);
    const char *start = c->p;
    if (cursor_peek(c) != '"')
        return false;
    for (c->p++, skip_in_string(c); c->p < c->end && *c->p != '"'; c->p++, skip_in_string(c))
        if (*c->p == '\\' && c->p + 1 < c->end)
            c->p++;
    if (c->p >= c->end)
        return false;
    c->p++;
    *s = (span){start, (size_t)(c->p - start)};
    return true;
}

bool walk_value(cursor *c, span *s)
{
    size_t depth = 0;
    cursor_space(c);
    const char *start = c->p;
    while (c->p < c->end) {
        span string;
        if (depth > 0)
            skip_plain(c);
        if (c->p == c->end)
            break;
        char byte = *c->p;
        if (byte == '"') {
            if (!walk_string(c, &string))
                return false;
            if (depth == 0)
                break;
            continue;
        }
        if (byte == '[' || byte == '{') {
            depth++;
        } else if (byte == ']' || byte == '}') {
            if (depth == 0)
                break;
            if (--depth == 0) {
                c->p++;
                break;
            }
        } else if (depth == 0 && (byte == ',' || is_space(byte))) {
            break;
        }
        c->p++;
    }
    *s = (span){start, (size_t)(c->p - start)};
    return depth == 0 && s->size > 0;
}

json_t *walk_tree(span s, json_error_t *error)
{
    if (s.size > WALK_TREE)
        return NULL;
    return json_loadb(s.data, s.size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, error);
}

void *walk_take(size_t size)
{
    json_malloc_t take;
    json_get_alloc_funcs(&take, NULL);
    return take(size);
}

void walk_give(void *memory)
{
    json_free_t give;
    json_get_alloc_funcs(NULL, &give);
    give(memory);
}

/* Decode what follows a backslash. */
static size_t read_escape(cursor *c, char to[4])
{
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char letter = *cursor_take(c, 1).data;
    const char *known = letter != '\0' ? strchr(letters, letter) : NULL;
    if (known) {
        to[0] = meant[known - letters];
        return 1;
    }
    int32_t code = letter == 'u' ? cursor_hex(c, 4) : -1;
    if (code < 0)
        return 0;
    cursor ahead = *c;
    if (code >> 10 == 0xd800 >> 10 && span_is(cursor_take(&ahead, 2), "\\u")) {
        const int32_t second = cursor_hex(&ahead, 4);
        if (second >> 10 == 0xdc00 >> 10) {
            code = 0x10000 + ((code & 0x3ff) << 10 | (second & 0x3ff));
            *c = ahead;
        }
    }
    const bool other = code == 0 || code >> 11 == 0xd800 >> 11;
    return utf8_write(other ? 0xfffd : code, to);
}

size_t walk_character(cursor *c, char to[4])
{
    const unsigned char first = (unsigned char)cursor_peek(c);
    if (first < 0x20 || first == '"')
        return 0;
    if (first == '\\') {
        c->p++;
        return read_escape(c, to);
    }
    const size_t size = utf8_length(c->p, cursor_left(c));
    memcpy(to, cursor_take(c, size).data, size);
    return size;
}

bool walk_text(span s, char to[WALK_NAME])
{
    if (s.size < 2 || s.data[0] != '"' || s.data[s.size - 1] != '"')
        return false;
    cursor c = cursor_new((span){s.data + 1, s.size - 2});
    size_t used = 0;
    bool cut = false;
    while (cursor_left(&c)) {
        char bytes[4];
        const size_t size = walk_character(&c, bytes);
        if (size == 0)
            return false;
        cut = cut || used + size >= WALK_NAME;
        if (cut)
            continue;
        memcpy(to + used, bytes, size);
        used += size;
    }
    to[used] = '\0';
    return true;
}

int walk_member(cursor *c, bool first, char name[WALK_NAME], span *value)
{
    span key;
    if (cursor_accept(c, '}'))
        return first ? 0 : -1;
    bool ok = walk_string(c, &key) && walk_text(key, name) && cursor_accept(c, ':') &&
              walk_value(c, value);
    return ok ? 1 : -1;
}

int walk_item(cursor *c, bool first, span *value)
{
    if (cursor_accept(c, ']'))
        return first ? 0 : -1;
    return walk_value(c, value) ? 1 : -1;
}

int walk_after(cursor *c, char close)
{
    if (cursor_accept(c, ','))
        return 1;
    return cursor_accept(c, close) ? 0 : -1;
}

bool walk_problem(const json_error_t *error, span text, const char *body, const char *what,
                  problem *p)
{
    if (text.size > WALK_TREE)
        return problem_set(p, 413, "too_large", "%s takes more than %d bytes", what, WALK_TREE);
    if (json_error_code(error) == json_error_duplicate_key)
        return problem_set(p, 422, "duplicate_option", "%s: %s", what, error->text);
    if (error->text[0] == '\0') /* jansson gives no message when out of memory */
        return problem_set(p, 503, "no_memory", "no memory for %s; try again later", what);
    return problem_set(p, 400, "malformed_body", "%s, at byte %zu: %s", what,
                       (size_t)(text.data - body) +
                           (size_t)(error->position > 0 ? error->position : 0),
                       error->text);
}

bool walk_integer(span text, int64_t *to)
{
    const char *end = text.data + text.size;
    bool fits = false;
    return number_read_integer(text.data, end, to, &fits) == end && fits;
}

int walk_integers(span text, int64_t *to, int most)
{
    cursor c = cursor_new(text);
    int count = 0;
    if (!cursor_accept(&c, '['))
        return -1;
    while (!cursor_accept(&c, ']')) {
        int64_t value;
        bool fits = false;
        if (count > 0 && !cursor_accept(&c, ','))
            return -1;
        cursor_space(&c);
        const char *end = number_read_integer(c.p, c.end, &value, &fits);
        if (!end || !fits || count == INT_MAX)
            return -1;
        c.p = end;
        if (count < most)
            to[count] = value;
        count++;
    }
    return cursor_left(&c) ? -1 : count;
}
