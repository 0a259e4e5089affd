/* SPDX-License-Identifier: MIT */
#include "http/coding.h"

#include <stdlib.h>
#include <strings.h>
#include <zlib.h>

enum {
    WINDOW = 15, /* bits; 16 more mean gzip */
    STRIDE = 64 * 1024,
    MOST = 1 << 30, /* zlib counts in 32 bits */
};

static const char *const names[] = {NULL, "gzip", "deflate"};

const char *coding_name(coding c)
{
    return names[c];
}

static int window(coding c)
{
    return c == CODING_GZIP ? WINDOW + 16 : WINDOW;
}

/* x-gzip is an old name of gzip that must still be accepted. */
static coding coding_of(const char *name, size_t size)
{
    if ((size == 4 && strncasecmp(name, "gzip", 4) == 0) ||
        (size == 6 && strncasecmp(name, "x-gzip", 6) == 0))
        return CODING_GZIP;
    return size == 7 && strncasecmp(name, "deflate", 7) == 0 ? CODING_DEFLATE : CODING_NONE;
}

bool coding_of_content(const char *header, coding *c)
{
    *c = CODING_NONE;
    if (!header || strcasecmp(header, "identity") == 0 || *header == '\0')
        return true;
    *c = coding_of(header, strlen(header));
    return *c != CODING_NONE;
}

/* The q of a coding in a list like "gzip;q=0.5, *": by name before by star; -1 if it is not
 * listed. */
static double wish(const char *header, coding c)
{
    double named = -1, star = -1;
    for (const char *p = header; *p != '\0';) {
        p += strspn(p, " \t,");
        const size_t name = strcspn(p, " \t,;"), item = strcspn(p, ",");
        const char *q = memchr(p, ';', item);
        double value = 1;
        if (q) {
            q += 1 + strspn(q + 1, " \t");
            if ((*q | 0x20) == 'q' && q[1] == '=')
                value = strtod(q + 2, NULL);
        }
        if (name == 1 && *p == '*')
            star = value;
        else if (coding_of(p, name) == c)
            named = value;
        p += item;
    }
    return named >= 0 ? named : star;
}

coding coding_of_accept(const char *header)
{
    if (!header)
        return CODING_NONE;
    const double gzip = wish(header, CODING_GZIP), deflate = wish(header, CODING_DEFLATE);
    if (gzip > 0 && gzip >= deflate)
        return CODING_GZIP;
    return deflate > 0 ? CODING_DEFLATE : CODING_NONE;
}

enum { WRONG = -1, NO_MEMORY = -2 };

/* Inflate a body (gzip: of one or more members) to at most `size` bytes; if `to` is NULL the bytes
 * are only counted. Returns their number, or more than `size` if there are more. */
static int64_t run(coding c, span body, char *to, size_t size)
{
    char stride[STRIDE];
    z_stream z = {0};
    size_t in = 0, done = 0;
    int status = Z_OK;
    bool more = true;
    if (inflateInit2(&z, window(c)) != Z_OK)
        return NO_MEMORY;
    while (status == Z_OK && done <= size) {
        if (z.avail_in == 0) {
            const size_t left = body.size - in;
            z.next_in = (Bytef *)(uintptr_t)(body.data + in);
            z.avail_in = (uInt)(left < MOST ? left : MOST);
            in += z.avail_in;
        }
        const size_t room = size - done;
        const uInt take = !to || room == 0 ? STRIDE : (uInt)(room < MOST ? room : MOST);
        z.next_out = (Bytef *)(to && room > 0 ? to + done : stride);
        z.avail_out = take;
        status = inflate(&z, Z_NO_FLUSH);
        done += take - z.avail_out;
        more = z.avail_in > 0 || in < body.size;
        if (status == Z_STREAM_END && more && c == CODING_GZIP) /* another member follows */
            status = inflateReset(&z);
    }
    const bool whole = status == Z_STREAM_END && !more;
    inflateEnd(&z);
    if (status == Z_MEM_ERROR)
        return NO_MEMORY;
    return whole || done > size ? (int64_t)done : WRONG;
}

static bool complain(coding c, int64_t result, problem *p)
{
    if (result == NO_MEMORY)
        return problem_set(p, 503, "no_memory", "no memory to inflate the body; try again later");
    return problem_set(p, 400, "malformed_body",
                       "the body is not %s: malformed, cut off, or followed by other bytes",
                       names[c]);
}

bool coding_measure(coding c, span body, size_t max, size_t *size, problem *p)
{
    const int64_t result = run(c, body, NULL, max);
    if (result < 0)
        return complain(c, result, p);
    if ((uint64_t)result > max)
        return problem_set(p, 413, "too_large",
                           "the body inflates to more than %zu bytes (--max-body)", max);
    *size = (size_t)result;
    return true;
}

bool coding_inflate(coding c, span body, char *to, size_t size, problem *p)
{
    const int64_t result = run(c, body, to, size);
    return result == (int64_t)size || complain(c, result < 0 ? result : WRONG, p);
}

bool coding_deflate(coding c, span from, buffer *to)
{
    z_stream z = {0};
    size_t in = 0;
    int status = Z_OK;
    if (deflateInit2(&z, Z_BEST_SPEED, Z_DEFLATED, window(c), 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    while (status == Z_OK && to->size < to->max) {
        const size_t space = to->max - to->size;
        if (!buffer_reserve(to, STRIDE < space ? STRIDE : space))
            break;
        if (z.avail_in == 0) {
            const size_t left = from.size - in;
            z.next_in = (Bytef *)(uintptr_t)(from.data + in);
            z.avail_in = (uInt)(left < MOST ? left : MOST);
            in += z.avail_in;
        }
        const size_t room = to->capacity - to->size;
        z.next_out = (Bytef *)(to->data + to->size);
        z.avail_out = (uInt)(room < MOST ? room : MOST);
        const uInt before = z.avail_out;
        status = deflate(&z, in == from.size ? Z_FINISH : Z_NO_FLUSH);
        to->size += before - z.avail_out;
    }
    deflateEnd(&z);
    return status == Z_STREAM_END;
}
