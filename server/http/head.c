/* SPDX-License-Identifier: MIT */
#include "http/head.h"

#include "percent.h"

#include <string.h>
#include <strings.h>

/* Does the text consist of letters, digits and these marks? */
static bool is_made_of(span text, const char *marks)
{
    for (size_t i = 0; i < text.size; i++) {
        const char c = text.data[i], letter = (char)(c | 0x20);
        const bool word = (letter >= 'a' && letter <= 'z') || (c >= '0' && c <= '9');
        if (!word && (c == '\0' || !strchr(marks, c)))
            return false;
    }
    return true;
}

bool head_is_token(span text)
{
    return text.size > 0 && is_made_of(text, "!#$%&'*+-.^_`|~");
}

static bool is(span text, const char *word)
{
    return text.size == strlen(word) && strncasecmp(text.data, word, text.size) == 0;
}

static bool is_digits(span text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
    return text.size > 0;
}

/* Is it a host and optional port, by RFC 3986, or empty? */
static bool is_host(span text)
{
    return is_made_of(text, "-._~!$&'()*+,;=:%[]");
}

static int64_t number_of(span digits)
{
    int64_t number = 0;
    for (size_t i = 0; i < digits.size; i++)
        number = number * 10 + (digits.data[i] - '0');
    return number;
}

/* A value without trailing white space, which is not part of it. */
static span trimmed(span value)
{
    while (value.size > 0 &&
           (value.data[value.size - 1] == ' ' || value.data[value.size - 1] == '\t'))
        value.size--;
    return value;
}

span guard_header(guard *g, span name, span value)
{
    const span text = trimmed(value);
    if (!head_is_token(name))
        g->bad = "a header name is not a token";
    for (size_t i = 0; i < value.size; i++) {
        const unsigned char c = (unsigned char)value.data[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            g->bad = "a header value has a control character";
    }
    if (is(name, "Content-Length")) {
        g->lengths++;
        if (!is_digits(value) || value.size > 18)
            g->bad = "Content-Length must be at most 18 digits";
        else if (g->encodings == 0)
            g->length = number_of(value);
    } else if (is(name, "Transfer-Encoding")) {
        g->encodings++;
        if (!is(value, "chunked"))
            g->bad = "Transfer-Encoding must be chunked";
        g->length = -1;
    } else if (is(name, "Host")) {
        g->hosts++;
        if (!is_host(text))
            g->bad = "Host must be a name or an address, and perhaps a port";
    }
    return text;
}

bool guard_passes(const guard *g, const char *version, problem *p)
{
    const bool old = strcmp(version, "HTTP/1.0") == 0;
    const char *bad = g->bad;
    if (!bad && g->lengths > 1)
        bad = "Content-Length comes more than once";
    if (!bad && g->encodings > 1)
        bad = "Transfer-Encoding comes more than once";
    if (!bad && g->lengths > 0 && g->encodings > 0)
        bad = "Content-Length and Transfer-Encoding exclude each other";
    if (!bad && g->encodings > 0 && old)
        bad = "Transfer-Encoding needs HTTP/1.1";
    if (!bad && g->hosts != 1 && !(old && g->hosts == 0))
        bad = "HTTP/1.1 needs exactly one Host";
    return !bad || problem_set(p, 400, "malformed_request", "%s", bad);
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
