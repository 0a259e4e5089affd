/* SPDX-License-Identifier: MIT */
#include "wire/wires.h"

#include <stdlib.h>
#include <strings.h>

#define WIRE(name) &wire_##name,
const wire *const wires[] = {
#include "wire/formats.def"
    NULL};
#undef WIRE

int wire_place(const wire *w)
{
    int i = 0;
    while (wires[i] && wires[i] != w)
        i++;
    return i;
}

const char *wire_name(int which)
{
    int i = 0;
    while (wires[i] && i != which)
        i++;
    return wires[i] ? wires[i]->name : "none";
}

/* A media type ends at white space, a parameter or the next one in a list. */
static span media_type(const char *text)
{
    text += strspn(text, " \t");
    return (span){text, strcspn(text, " \t;,")};
}

static bool has_media(const wire *w, span type)
{
    for (const char *const *m = w->media; *m && !w->routed; m++)
        if (strlen(*m) == type.size && strncasecmp(*m, type.data, type.size) == 0)
            return true;
    return false;
}

/* Not a wire of its own: each line is JSON. */
static const char *const media_of_lines[] = {"application/x-ndjson", "application/jsonl", NULL};
static const wire lines = {.name = "lines", .media = media_of_lines};

bool wire_is_lines(const char *content_type)
{
    return has_media(&lines, media_type(content_type ? content_type : ""));
}

const wire *wire_of_content(const char *content_type)
{
    span type = media_type(content_type ? content_type : "");
    if (type.size == 0)
        return &wire_json;
    for (const wire *const *w = wires; *w; w++)
        if (has_media(*w, type))
            return *w;
    return NULL;
}

/* The q of one element of an Accept header, which ends at `end`: a number as in RFC 9110; anything
 * else counts as 1. */
static double quality(const char *p, const char *end)
{
    while (p < end && (p = memchr(p, ';', (size_t)(end - p)))) {
        p++;
        p += strspn(p, " \t");
        if ((*p | 0x20) == 'q' && p[1] == '=') {
            p += 2;
            size_t length = strspn(p, "0123456789.");
            double q = *p == '0' || *p == '1' ? strtod(p, NULL) : 1;
            return length > 0 && q <= 1 ? q : 1;
        }
    }
    return 1;
}

/* How specifically an element of an Accept header matches a wire: 0 not at all, 1 and 2 by a
 * wildcard, 3 by name. */
static int says(span type, const wire *w)
{
    return w->routed                        ? 0
           : has_media(w, type)             ? 3
           : span_is(type, "application/*") ? 2
           : span_is(type, "*/*")           ? 1
                                            : 0;
}

/* Does an Accept header say anything? */
static bool is_choosy(const char *accept)
{
    return accept && accept[strspn(accept, " \t,")] != '\0';
}

/* How well a wire is accepted: its q, by the most specific element that matches it, and how
 * specific that is. Of several such elements the one with the highest q counts. */
typedef struct welcome {
    int says;
    double q;
} welcome;

static welcome welcome_of(const char *accept, const wire *w)
{
    welcome is = {0};
    for (const char *p = accept; *p != '\0';) {
        const char *end = p + strcspn(p, ",");
        int here = says(media_type(p), w);
        double q = here > 0 ? quality(p, end) : 0;
        if (here > is.says || (here == is.says && q > is.q))
            is = (welcome){here, q};
        p = *end == ',' ? end + 1 : end;
    }
    return is;
}

const wire *wire_of_accept(const char *accept, const wire *same)
{
    const wire *best = NULL;
    welcome best_is = {0};
    if (!is_choosy(accept))
        return same;
    for (const wire *const *w = wires; *w; w++) {
        const welcome is = welcome_of(accept, *w);
        /* At the same quality a name counts more than a wildcard, then the request's own wire. */
        bool named = is.says == 3, better = named != (best_is.says == 3) ? named : *w == same;
        if (is.q > best_is.q || (is.q == best_is.q && is.q > 0 && better)) {
            best = *w;
            best_is = is;
        }
    }
    return best;
}

bool wire_accepts_lines(const char *accept)
{
    return !is_choosy(accept) || welcome_of(accept, &lines).q > 0;
}

const wire *wire_of_bytes(span body)
{
    cursor c = cursor_new(body);
    uint64_t header = cursor_u64(&c);
    cursor_space(&c);
    bool binary = !c.failed && header <= body.size - 8 && cursor_peek(&c) == '{';
    return binary ? &wire_safetensors : &wire_json;
}
