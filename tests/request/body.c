/* SPDX-License-Identifier: MIT
 *
 * Encodes a request as a body and a query string, in each body format. Where a format has several
 * ways to write the same, one is chosen at random.
 */
#include "tests/request/request.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIRE(name) &wire_##name,
const wire *const every_wire[WIRES] = {
#include "wire/formats.def"
};
#undef WIRE

static void say_number(bytes *b, const lk_tensor *t, int64_t i)
{
    if (!is_float(t->dtype)) {
        int64_t x = load_int(t->data, t->dtype, i);
        if (t->dtype == LK_BOOL && chance(0.5))
            say(b, "%s", x ? "true" : "false");
        else
            say(b, "%" PRId64, x);
        return;
    }
    double x = load(t->data, t->dtype, i);
    if (isnan(x))
        say(b, "NaN");
    else if (isinf(x))
        say(b, x < 0 ? "-Infinity" : "Infinity");
    else
        say(b, "%.17g", x);
}

static void say_nested(bytes *b, const lk_tensor *t, int axis, int64_t *i)
{
    if (axis == t->rank) {
        say_number(b, t, (*i)++);
        return;
    }
    say(b, "[");
    for (int64_t k = 0; k < t->shape[axis]; k++) {
        say(b, "%s", k == 0 ? "" : chance(0.1) ? " ,\n" : ",");
        say_nested(b, t, axis + 1, i);
    }
    say(b, "]");
}

static void say_base64(bytes *b, const unsigned char *data, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        unsigned group = (unsigned)data[i] << 16 | (i + 1 < n ? (unsigned)data[i + 1] << 8 : 0) |
                         (i + 2 < n ? data[i + 2] : 0u);
        char out[4];
        for (int k = 0; k < 4; k++)
            out[k] = digits[group >> (18 - 6 * k) & 63];
        if (i + 1 >= n)
            out[2] = '=';
        if (i + 2 >= n)
            out[3] = '=';
        put(b, out, 4);
    }
}

/* Whether nested arrays can represent this tensor: they have no types, and no sizes after a size of
 * 0. */
static bool is_bare(const sample *s, const lk_tensor *t)
{
    bool types =
        s->element == LK_F32 && (t->dtype == LK_F32 || t->dtype == LK_I64 || t->dtype == LK_BOOL);
    for (int i = 0; i + 1 < t->rank; i++)
        types = types && t->shape[i] > 0;
    return types;
}

static void say_tensor(bytes *b, const sample *s, const lk_tensor *t)
{
    int64_t i = 0;
    if (is_bare(s, t) && chance(0.6)) {
        say_nested(b, t, 0, &i);
        return;
    }
    say(b, "{\"dtype\":\"%s\", \"shape\":[", lk_dtype_name(t->dtype));
    for (int axis = 0; axis < t->rank; axis++)
        say(b, "%s%" PRId64, axis ? "," : "", t->shape[axis]);
    if (chance(0.5)) {
        say(b, "],\"base64\":\"");
        say_base64(b, t->data, bytes_of(t));
        say(b, "\"}");
        return;
    }
    say(b, "],\"data\":");
    lk_tensor flat = {t->data, t->dtype, 1, {lk_tensor_count(t)}};
    say_nested(b, &flat, 0, &i);
    say(b, "}");
}

static void say_json(bytes *b, const sample *s, int where)
{
    say(b, "{\"inputs\":{");
    for (int i = 0; i < s->inputs; i++) {
        say(b, "%s\"%s\":", i ? ", " : "", s->input[i].name);
        say_tensor(b, s, &s->input[i].tensor);
    }
    say(b, "}");
    for (int i = 0; where == IN_BODY && i < s->options; i++) {
        const char *text = s->option[i].text;
        bool natural = chance(0.5) && strcmp(text, "off") != 0 &&
                       (strchr("-0123456789", text[0]) || strcmp(text, "true") == 0 ||
                        strcmp(text, "false") == 0);
        const bool list = strchr(text, ',');
        say(b, "%s\"%s\":%s%s%s", i ? "," : ",\"options\":{", s->option[i].name,
            !natural ? "\""
            : list   ? "["
                     : "",
            text,
            !natural ? "\""
            : list   ? "]"
                     : "");
    }
    say(b, "%s", where == IN_BODY && s->options ? "}" : "");
    for (int i = 0; where == IN_BODY && i < s->outputs; i++)
        say(b, "%s\"%s\"", i ? "," : ",\"outputs\":[", s->output[i]);
    say(b, "%s}", where == IN_BODY && s->outputs ? "]" : "");
}

const char *spelt(lk_dtype dtype)
{
    static const char *const words[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"};
    return words[dtype];
}

void say_safetensors(bytes *b, const sample *s, int where)
{
    bytes h = {0};
    size_t at = 0;
    const char *separator = "";
    say(&h, "{");
    if (where == IN_BODY && (s->options || s->outputs || chance(0.5))) {
        say(&h, "\"__metadata__\":{\"format\":\"pt\"");
        for (int i = 0; i < s->options; i++)
            say(&h, ",\"%s\":\"%s\"", s->option[i].name, s->option[i].text);
        for (int i = 0; i < s->outputs; i++)
            say(&h, "%s%s", i ? "," : ",\"outputs\":\"", s->output[i]);
        say(&h, "%s}", s->outputs ? "\"" : "");
        separator = ",";
    }
    for (int i = 0; i < s->inputs; i++) {
        const lk_tensor *t = &s->input[i].tensor;
        say(&h, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", separator, s->input[i].name,
            spelt(t->dtype));
        for (int axis = 0; axis < t->rank; axis++)
            say(&h, "%s%" PRId64, axis ? "," : "", t->shape[axis]);
        say(&h, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes_of(t));
        at += bytes_of(t);
        separator = ",";
    }
    say(&h, "}");
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)h.size >> (8 * i) & 0xff);
    put(b, length, 8);
    put(b, h.data, h.size);
    for (int i = 0; i < s->inputs; i++)
        put(b, s->input[i].tensor.data, bytes_of(&s->input[i].tensor));
    free(h.data);
}

uint64_t said_head;

const char *oip_spelt(lk_dtype dtype)
{
    static const char *const words[] = {"FP64",  "FP32",  "FP16",  "BF16",
                                        "INT64", "INT32", "UINT8", "BOOL"};
    return words[dtype];
}

static bool is_half(lk_dtype dtype)
{
    return dtype == LK_F16 || dtype == LK_BF16;
}

/* Tensors at random in the JSON or as raw data after it; types that JSON cannot represent always
 * raw. */
static void say_oip(bytes *b, const sample *s, int where)
{
    bytes raw = {0};
    const bool all = is_half(s->element) || chance(0.5);
    put(&raw, "", 0);
    say(b, "{\"id\":\"%d\",\"parameters\":{\"binary_data_output\":%s", s->inputs,
        all ? "true" : "false");
    for (int i = 0; where == IN_BODY && i < s->options; i++)
        say(b, ",\"%s\":\"%s\"", s->option[i].name, s->option[i].text);
    say(b, "},\"inputs\":[");
    for (int i = 0; i < s->inputs; i++) {
        const lk_tensor *t = &s->input[i].tensor;
        lk_tensor flat = {t->data, t->dtype, 1, {lk_tensor_count(t)}};
        bool nested = chance(0.3);
        int64_t k = 0;
        for (int axis = 0; axis < t->rank; axis++)
            nested = nested && t->shape[axis] > 0;
        say(b, "%s{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":[", i ? "," : "", s->input[i].name,
            oip_spelt(t->dtype));
        for (int axis = 0; axis < t->rank; axis++)
            say(b, "%s%" PRId64, axis ? "," : "", t->shape[axis]);
        if (is_half(t->dtype) || chance(0.5)) {
            say(b, "],\"parameters\":{\"binary_data_size\":%zu}}", bytes_of(t));
            put(&raw, t->data, bytes_of(t));
            continue;
        }
        say(b, "],\"data\":");
        say_nested(b, nested && t->rank > 0 ? t : &flat, 0, &k);
        say(b, "}");
    }
    say(b, "]");
    for (int i = 0; where == IN_BODY && i < s->outputs; i++) {
        say(b, "%s{\"name\":\"%s\"", i ? "," : ",\"outputs\":[", s->output[i]);
        if (!all || chance(0.5))
            say(b, ",\"parameters\":{\"binary_data\":%s}",
                is_half(s->element) || chance(0.5) ? "true" : "false");
        say(b, "}");
    }
    say(b, "%s}", where == IN_BODY && s->outputs ? "]" : "");
    said_head = b->size;
    put(b, raw.data, raw.size);
    free(raw.data);
}

void say_body(bytes *b, const sample *s, const wire *w, int where)
{
    if (w == &wire_json)
        say_json(b, s, where);
    else if (w == &wire_oip)
        say_oip(b, s, where);
    else if (w == &wire_safetensors)
        say_safetensors(b, s, where);
    else
        fail_msg("say_body writes no body of %s yet", w->name);
}

void say_query(bytes *b, const sample *s)
{
    put(b, "", 0);
    for (int i = 0; i < s->options; i++) {
        say(b, "%s%s=", b->size ? "&" : "", s->option[i].name);
        for (const char *c = s->option[i].text; *c; c++)
            say(b, chance(0.3) || *c == '+' ? "%%%02x" : "%c", (unsigned char)*c);
    }
    for (int i = 0; i < s->outputs; i++)
        say(b, "%s%s", i ? "," : b->size ? "&outputs=" : "outputs=", s->output[i]);
}
