/* SPDX-License-Identifier: MIT
 *
 * safetensors bodies. Inputs are views of the body; gradients may be written in place.
 */
#include "wire/archive.h"
#include "wire/options.h"
#include "wire/place.h"
#include "wire/tensor_text.h"
#include "wire/wire.h"

#include <jansson.h>

enum { REPLY_TENSOR = 256 }; /* header bytes of one output, at most */

static bool malformed(problem *p, const char *what)
{
    return problem_set(p, 400, "malformed_body", "safetensors: %s", what);
}

static bool read_metadata(evaluation *e, span text, problem *p)
{
    json_error_t error = {0};
    json_t *metadata = walk_tree(text, &error), *value;
    const char *name;
    if (!metadata && json_error_code(&error) == json_error_duplicate_key)
        return problem_set(p, 400, "duplicate_name", "safetensors: __metadata__: %s", error.text);
    if (!metadata)
        return walk_problem(&error, text, e->body.data, "safetensors: __metadata__", p);
    bool ok = json_is_object(metadata) || malformed(p, "__metadata__ must be an object of strings");
    json_object_foreach(metadata, name, value)
    {
        const char *words = json_string_value(value);
        if (!ok || strcmp(name, "format") == 0)
            continue;
        if (!words)
            ok = problem_set(p, 400, "malformed_body",
                             "safetensors: __metadata__.%.60s must be a string", name);
        else if (strcmp(name, "outputs") == 0)
            ok = wire_outputs(e, words, p);
        else if (strncmp(name, PLACE_PREFIX, strlen(PLACE_PREFIX)) == 0)
            ok = place_text(e, name + strlen(PLACE_PREFIX), words, p);
        else
            ok = wire_option(e, name, words, p);
    }
    json_decref(metadata);
    return ok;
}

static bool safetensors_open(evaluation *e, problem *p)
{
    archive a;
    if (!archive_open(e->body, &a, p) ||
        (a.metadata.size > 0 && !read_metadata(e, a.metadata, p)) ||
        !archive_tensors(&a, e->call, p))
        return false;
    for (int i = 0; i < a.count; i++) {
        const archive_entry *t = &a.entry[i];
        const span bytes = {a.data.data + t->begin, (size_t)(t->end - t->begin)};
        if (!wire_view(e, t->name, &t->shape, bytes, p))
            return false;
    }
    return true;
}

static size_t safetensors_text(const evaluation *e)
{
    cursor c = cursor_new(e->body);
    const uint64_t length = cursor_u64(&c);
    return length < cursor_left(&c) ? 8 + (size_t)length : e->body.size;
}

static size_t safetensors_bound(const evaluation *e)
{
    return 128 + (REPLY_TENSOR + 2 * REGION_LINE) * (size_t)lk_call_outputs(e->call);
}

/* An output that lies in a region: an entry of the metadata, whose text is what JSON replies have.
 */
static void write_place(buffer *b, const char *name, const place *at, const lk_tensor *t)
{
    buffer text = buffer_new(REGION_LINE);
    region_place_text(&text, at->region, at->offset, t);
    buffer_append(&text, "", 1);
    b->failed = b->failed || text.failed;
    buffer_texts(b, ",\"" PLACE_PREFIX, name, "\":", NULL);
    buffer_json_string(b, text.failed ? "" : text.data);
    buffer_free(&text);
}

static void write_metadata(const evaluation *e, buffer *b)
{
    buffer_texts(b, "{\"__metadata__\":{\"loss\":\"", lk_loss_describe(e->loss)->name, "\"", NULL);
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        const char *name = place_result(e, i, &t);
        const place *at = place_region(e, i);
        if (at)
            write_place(b, name, at, &t);
    }
    buffer_text(b, "}");
}

static void write_tensor(buffer *b, const char *name, const lk_tensor *t, size_t begin, size_t end)
{
    buffer_texts(b, ",\"", name, "\":{\"dtype\":\"", archive_spelling(t->dtype),
                 "\",\"shape\":", NULL);
    tensor_text_write_sizes(b, t);
    buffer_text(b, ",\"data_offsets\":[");
    buffer_integer(b, (int64_t)begin);
    buffer_text(b, ",");
    buffer_integer(b, (int64_t)end);
    buffer_text(b, "]}");
}

static void write_header(const evaluation *e, buffer *b)
{
    size_t at = 0;
    buffer_append(b, "\0\0\0\0\0\0\0", 8);
    write_metadata(e, b);
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        const char *name = place_result(e, i, &t);
        const size_t bytes = (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype);
        if (place_region(e, i))
            continue;
        write_tensor(b, name, &t, at, at + bytes);
        at += bytes;
    }
    buffer_text(b, "}");
    /* Tensors begin at a multiple of 8, as other writers of the format do. */
    while (b->size % 8 != 0 && !b->failed)
        buffer_text(b, " ");
    for (int i = 0; i < 8 && !b->failed; i++)
        b->data[i] = (char)((b->size - 8) >> (8 * i) & 0xff);
}

/* The header says nothing of numbers: that of an equal request is this one's too. */
static bool safetensors_encode(evaluation *e, problem *p)
{
    buffer *b = &e->text;
    (void)p;
    if (e->framing == 0)
        write_header(e, b);
    e->framing = b->size;
    e->piece[0] = (span){b->data, b->size};
    e->pieces = 1;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        (void)place_result(e, i, &t);
        const size_t bytes = (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype);
        if (!place_region(e, i) && bytes > 0)
            e->piece[e->pieces++] = (span){t.data, bytes};
    }
    return true;
}

static const char *const media[] = {"application/x-safetensors", "application/octet-stream", NULL};

const wire wire_safetensors = {
    .name = "safetensors",
    .media = media,
    .binary = true,
    .text = safetensors_text,
    .open = safetensors_open,
    .bound = safetensors_bound,
    .encode = safetensors_encode,
};
