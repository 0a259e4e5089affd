/* SPDX-License-Identifier: MIT
 *
 * Which wires there are, and what they share.
 */
#include "wire/wire.h"

#include "wire/tensor_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

const wire *const wires[] = {&wire_json, &wire_safetensors, &wire_oip, NULL};

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

/* q of one element of an Accept header, which ends at `end`: a number as RFC 9110 has it, anything
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

/* How much an element of an Accept header says about a wire: 0 nothing, 1 and 2 by a wildcard, 3 by
 * name. */
static int says(span type, const wire *w)
{
    return w->routed                        ? 0
           : has_media(w, type)             ? 3
           : span_is(type, "application/*") ? 2
           : span_is(type, "*/*")           ? 1
                                            : 0;
}

const wire *wire_of_accept(const char *accept, const wire *same)
{
    const wire *best = NULL;
    double best_q = 0;
    int best_says = 0;
    if (!accept || accept[strspn(accept, " \t,")] == '\0')
        return same;
    for (const wire *const *w = wires; *w; w++) {
        /* The element that says most decides, the highest of several. */
        double q = 0;
        int most = 0;
        for (const char *p = accept; *p != '\0';) {
            const char *end = p + strcspn(p, ",");
            int here = says(media_type(p), *w);
            double its = here > 0 ? quality(p, end) : 0;
            if (here > most || (here == most && its > q)) {
                most = here;
                q = its;
            }
            p = *end == ',' ? end + 1 : end;
        }
        /* At the same quality a name counts more than a wildcard, then the request's own wire. */
        bool named = most == 3, better = named != (best_says == 3) ? named : *w == same;
        if (q > best_q || (q == best_q && q > 0 && better)) {
            best = *w;
            best_q = q;
            best_says = most;
        }
    }
    return best;
}

const wire *wire_of_bytes(span body)
{
    cursor c = cursor_new(body);
    uint64_t header = cursor_u64(&c);
    cursor_space(&c);
    bool binary = !c.failed && header <= body.size - 8 && cursor_peek(&c) == '{';
    return binary ? &wire_safetensors : &wire_json;
}

bool wire_input(evaluation *e, const char *name, const lk_tensor *tensor, span text, problem *p)
{
    lk_error error;
    for (int i = 0; i < e->sources; i++)
        if (strcmp(e->source[i].name, name) == 0)
            return problem_input(p, 400, "duplicate_name", name, "input %s comes twice", name);
    if (lk_call_input(e->call, name, tensor, &error) != LK_OK)
        return problem_from(p, &error);
    source *s = &e->source[e->sources++];
    *s = (source){.text = text};
    snprintf(s->name, sizeof s->name, "%s", name);
    return true;
}

bool wire_view(evaluation *e, const char *name, const lk_tensor *tensor, span bytes, problem *p)
{
    if (!wire_input(e, name, tensor, bytes, p))
        return false;
    e->source[e->sources - 1].raw = true;
    return true;
}

/* Does an input take masks too? Then true and false are integers. */
static bool takes_masks(const evaluation *e, const char *name)
{
    unsigned dtypes = 0;
    for (const lk_input *in = lk_loss_describe(e->loss)->inputs; in->name; in++)
        for (int f = 0; f < 3 && strcmp(in->name, name) == 0; f++)
            dtypes |= in->forms[f].dtypes;
    return (dtypes & LK_MASKS) != 0;
}

bool wire_read_text(const evaluation *e, const source *s, const lk_tensor *t, problem *p)
{
    return tensor_text_read(s->text, s->name, t, takes_masks(e, s->name), p);
}

bool wire_outputs(evaluation *e, const char *list, problem *p)
{
    lk_error error;
    char name[64];
    if (e->outputs_named)
        return problem_set(p, 422, "duplicate_option", "outputs is given twice");
    e->outputs_named = true;
    while (true) {
        list += strspn(list, " ");
        size_t length = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), list);
        if (lk_call_want(e->call, name, &error) != LK_OK)
            return problem_from(p, &error);
        if (list[length] == '\0')
            return true;
        list += length + 1;
    }
}

/* The bits of x in a format of 16 bits with `fraction` of them for the fraction: rounded once, from
 * the double. Scaled so that the last place kept is 1, rint() rounds to nearest even. */
static uint16_t narrow(double x, int fraction)
{
    int top = 0x7fff >> fraction, bias = top >> 1, exponent;
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x))
        return (uint16_t)(0x7fff & ~((1 << (fraction - 1)) - 1));
    x = fabs(x);
    if (isinf(x))
        return (uint16_t)(sign | top << fraction);
    frexp(x, &exponent);
    exponent = exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
    if (exponent > bias)
        return (uint16_t)(sign | top << fraction);
    /* The fraction with its leading bit; a carry goes into the exponent by itself. */
    int whole = (int)rint(ldexp(x, fraction - exponent));
    int bits = whole < 1 << fraction ? whole : whole + ((exponent + bias - 1) << fraction);
    return (uint16_t)(sign | bits);
}

void wire_put_real(lk_dtype dtype, void *data, int64_t i, double x)
{
    char *to = (char *)data + i * (int64_t)lk_dtype_size(dtype);
    float single = (float)x;
    uint16_t half;
    switch (dtype) {
    case LK_F64:
        memcpy(to, &x, sizeof x);
        break;
    case LK_F32:
        memcpy(to, &single, sizeof single);
        break;
    default:
        half = narrow(x, dtype == LK_F16 ? 10 : 7);
        memcpy(to, &half, sizeof half);
        break;
    }
}
