/* SPDX-License-Identifier: MIT */
#include "http/head.h"

#include "percent.h"

#include <string.h>
#include <strings.h>

#define HEAD_NAME(header, name) name,
const char *const head_names[HEADERS] = {HEAD_HEADERS(HEAD_NAME)};
#undef HEAD_NAME

int head_next_of(int is, size_t size, char c)
{
    const char *begin = head_names[is];
    while (is < HEADERS && head_names[is][size] != c) {
        is++;
        if (is < HEADERS && size > 0 && strncmp(head_names[is], begin, size) != 0)
            return HEADERS;
    }
    return is;
}

int head_find(span name)
{
    int is = 0;
    for (size_t i = 0; i < name.size && is < HEADERS; i++)
        is = head_next(is, i, head_lower(name.data[i]));
    return is < HEADERS && head_names[is][name.size] == '\0' ? is : HEADERS;
}

bool head_is_token(span text)
{
    size_t size = 0;
    while (size < text.size && head_is_tchar(text.data[size]))
        size++;
    return size > 0 && size == text.size;
}

bool head_lists(span list, const char *word)
{
    const size_t size = strlen(word);
    for (const char *at = list.data, *end = at + list.size, *comma; at < end; at = comma + 1) {
        comma = memchr(at, ',', (size_t)(end - at));
        comma = comma ? comma : end;
        while (at < comma && (*at == ' ' || *at == '\t'))
            at++;
        const span one = head_trimmed((span){at, (size_t)(comma - at)});
        if (one.size == size && strncasecmp(one.data, word, size) == 0)
            return true;
    }
    return false;
}

span head_trimmed(span value)
{
    while (value.size > 0 &&
           (value.data[value.size - 1] == ' ' || value.data[value.size - 1] == '\t'))
        value.size--;
    return value;
}

/* Decode one path segment in place; decoding only makes it shorter. */
static bool decode_segment(char *s)
{
    size_t size = strlen(s);
    if (!percent_decode((span){s, size}, false, s, size + 1))
        return false;
    for (const char *c = s; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f || *c == '/')
            return false;
    return strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
}

bool target_split(char *text, target *t, problem *p)
{
    char *path = text, *query = strchr(path, '?');
    *t = (target){.query = path + strlen(path)};
    if (query) {
        *query = '\0';
        t->query = query + 1;
    }
    /* The absolute form, which a server must accept although clients send it only to proxies. */
    if (strncasecmp(path, "http://", 7) == 0 || strncasecmp(path, "https://", 8) == 0) {
        path = strstr(path, "//") + 2;
        path += strcspn(path, "/");
        if (*path == '\0') { /* the path may be missing, and is then "/" */
            t->segment[t->segments++] = path;
            return true;
        }
    }
    if (strcmp(path, "*") == 0) /* the service as a whole, for OPTIONS */
        return true;
    if (path[0] != '/')
        return problem_set(p, 400, "malformed_request", "the path must begin with /");
    for (bool more = true; more;) {
        char *segment = path + 1;
        path = segment + strcspn(segment, "/");
        more = *path == '/';
        *path = '\0';
        if (t->segments == TARGET_SEGMENTS)
            return problem_set(p, 404, "not_found", "there is nothing at so long a path");
        if (!decode_segment(segment))
            return problem_set(p, 400, "malformed_request",
                               "a path segment is not well encoded, or is . or ..");
        t->segment[t->segments++] = segment;
    }
    return true;
}

/* Is it `size` lower-case hexadecimal digits, not all of them 0 unless `may_be_zero`? */
static bool is_hex(const char *text, size_t size, bool may_be_zero)
{
    bool zero = true;
    for (size_t i = 0; i < size; i++) {
        if (!strchr("0123456789abcdef", text[i]) || text[i] == '\0')
            return false;
        zero = zero && text[i] == '0';
    }
    return may_be_zero || !zero;
}

bool head_is_traceparent(const char *text)
{
    /* version-trace-parent-flags: 2, 32, 16 and 2 digits */
    return strnlen(text, 56) >= 55 && is_hex(text, 2, true) && strncmp(text, "ff", 2) != 0 &&
           text[2] == '-' && is_hex(text + 3, 32, false) && text[35] == '-' &&
           is_hex(text + 36, 16, false) && text[52] == '-' && is_hex(text + 53, 2, true) &&
           (text[55] == '\0' || (text[55] == '-' && strncmp(text, "00", 2) != 0));
}
