/* SPDX-License-Identifier: MIT
 *
 * safetensors bodies: 8 bytes of header length, a JSON header that says of each tensor dtype, shape
 * and place, then the tensors. Inputs are views of the body; gradients may be written over them.
 */
#include "tensor_text.h"
#include "wire.h"

#include <jansson.h>
#include <stdlib.h>

enum {
    HEADER_MAX = 64 * 1024,
    REPLY_TENSOR = 256, /* header bytes of one output, at most */
};

static bool malformed(problem *p, const char *what)
{
    return problem_set(p, 400, "malformed_body", "safetensors: %s", what);
}

/* How the format spells element types. */
static const struct {
    const char *word;
    lk_dtype dtype;
} spellings[] = {
    {"F64", LK_F64}, {"F32", LK_F32}, {"F16", LK_F16}, {"BF16", LK_BF16},
    {"I64", LK_I64}, {"I32", LK_I32}, {"U8", LK_U8},   {"BOOL", LK_BOOL},
};
enum { SPELLINGS = sizeof spellings / sizeof *spellings };

/* A tensor as the header has it. */
typedef struct entry {
    const char *name; /* of the header's tree */
    lk_tensor shape;
    uint64_t begin, end;
} entry;

static bool entry_problem(problem *p, const char *name, const char *what)
{
    return problem_input(p, 400, "malformed_body", name, "safetensors: tensor \"%.60s\" %s", name,
                         what);
}

static bool read_size(const json_t *value, uint64_t *size)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *size = (uint64_t)json_integer_value(value);
    return true;
}

static bool read_dtype(const char *name, const json_t *word, lk_tensor *t, problem *p)
{
    if (!json_is_string(word))
        return entry_problem(p, name, "needs a dtype");
    for (int i = 0; i < SPELLINGS; i++) {
        if (strcmp(spellings[i].word, json_string_value(word)) == 0) {
            t->dtype = spellings[i].dtype;
            return true;
        }
    }
    return problem_input(p, 422, "dtype_unsupported", name,
                         "%.60s is %.20s; it must be F64, F32, F16, BF16, I64, I32, U8 or BOOL",
                         name, json_string_value(word));
}

static bool read_entry(const char *name, const json_t *value, entry *e, problem *p)
{
    const json_t *shape = json_object_get(value, "shape");
    const json_t *offsets = json_object_get(value, "data_offsets");
    uint64_t bytes, size;
    *e = (entry){.name = name};
    if (!json_is_object(value) || json_object_size(value) != 3 || !json_is_array(shape) ||
        !json_is_array(offsets) || json_array_size(offsets) != 2)
        return entry_problem(p, name, "must have exactly dtype, shape and data_offsets");
    if (!read_dtype(name, json_object_get(value, "dtype"), &e->shape, p))
        return false;
    if (json_array_size(shape) > LK_MAX_RANK)
        return problem_input(p, 413, "too_large", name,
                             "%.60s has %zu axes; tensors have at most %d", name,
                             json_array_size(shape), LK_MAX_RANK);
    e->shape.rank = (int)json_array_size(shape);
    for (int axis = 0; axis < e->shape.rank; axis++) {
        if (!read_size(json_array_get(shape, (size_t)axis), &size))
            return entry_problem(p, name, "has a size that is not an integer >= 0");
        e->shape.shape[axis] = (int64_t)size;
    }
    if (!read_size(json_array_get(offsets, 0), &e->begin) ||
        !read_size(json_array_get(offsets, 1), &e->end) || e->begin > e->end)
        return entry_problem(p, name, "has data_offsets that are no range of bytes");
    int64_t count = lk_tensor_count(&e->shape);
    if (count < 0)
        return entry_problem(p, name, "has a shape whose size overflows");
    bytes = (uint64_t)count * lk_dtype_size(e->shape.dtype);
    if (e->end - e->begin != bytes)
        return problem_input(p, 400, "malformed_body", name,
                             "safetensors: tensor \"%.60s\" has %llu bytes of data; its dtype and "
                             "shape need %llu",
                             name, (unsigned long long)(e->end - e->begin),
                             (unsigned long long)bytes);
    return true;
}

static int by_place(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Contiguous from 0, and the file ends with the last. */
static bool check_places(entry *entries, int count, size_t data, problem *p)
{
    uint64_t at = 0;
    qsort(entries, (size_t)count, sizeof *entries, by_place);
    for (int i = 0; i < count; i++) {
        if (entries[i].begin < at)
            return entry_problem(p, entries[i].name, "overlaps the one before it");
        if (entries[i].begin > at)
            return entry_problem(p, entries[i].name, "leaves a hole before it");
        at = entries[i].end;
    }
    if (at != data)
        return problem_set(p, 400, "malformed_body",
                           "safetensors: the tensors take %llu bytes, the body has %zu",
                           (unsigned long long)at, data);
    return true;
}

static bool read_metadata(evaluation *e, const json_t *metadata, problem *p)
{
    const char *name;
    json_t *value;
    if (!json_is_object(metadata))
        return malformed(p, "__metadata__ must be an object of strings");
    json_object_foreach((json_t *)(uintptr_t)metadata, name, value)
    {
        if (!json_is_string(value))
            return problem_set(p, 400, "malformed_body",
                               "safetensors: __metadata__.%.60s must be a string", name);
        const char *text = json_string_value(value);
        if (strcmp(name, "format") == 0)
            continue;
        if (strcmp(name, "outputs") == 0) {
            if (!wire_outputs(e, text, p))
                return false;
        } else if (!wire_option(e, name, text, p)) {
            return false;
        }
    }
    return true;
}

static bool read_header(evaluation *e, json_t *header, span data, problem *p)
{
    entry entries[WIRE_TENSORS];
    int count = 0;
    const char *name;
    json_t *value;
    if (!json_is_object(header))
        return malformed(p, "the header is not a JSON object");
    json_object_foreach(header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if (count == WIRE_TENSORS)
            return problem_set(p, 413, "too_large", "more than %d tensors", WIRE_TENSORS);
        if (!read_entry(name, value, &entries[count++], p))
            return false;
    }
    if (!check_places(entries, count, data.size, p))
        return false;
    for (int i = 0; i < count; i++) {
        entries[i].shape.data = NULL;
        span place = {data.data + entries[i].begin, (size_t)(entries[i].end - entries[i].begin)};
        if (!wire_view(e, entries[i].name, &entries[i].shape, place, p))
            return false;
    }
    value = json_object_get(header, "__metadata__");
    return !value || read_metadata(e, value, p);
}

static bool safetensors_open(evaluation *e, problem *p)
{
    json_error_t error = {0};
    cursor c = cursor_new(e->body);
    uint64_t length = cursor_u64(&c);
    if (c.failed)
        return malformed(p, "the body is shorter than the 8 bytes of the header's length");
    if (length > cursor_left(&c))
        return problem_set(p, 400, "malformed_body",
                           "safetensors: the header's length is %llu, but only %zu bytes follow",
                           (unsigned long long)length, cursor_left(&c));
    if (length > HEADER_MAX)
        return problem_set(p, 400, "malformed_body",
                           "safetensors: the header's length is %llu; at most %d is taken",
                           (unsigned long long)length, HEADER_MAX);
    span text = cursor_take(&c, (size_t)length), data = cursor_take(&c, cursor_left(&c));
    json_t *header = json_loadb(text.data, text.size, JSON_REJECT_DUPLICATES, &error);
    if (!header && json_error_code(&error) == json_error_duplicate_key)
        return problem_set(p, 400, "duplicate_name", "safetensors header: %s", error.text);
    if (!header && error.text[0] == '\0') /* jansson is silent where memory ran out */
        return problem_set(p, 503, "no_memory", "no memory for the header; try again later");
    if (!header)
        return problem_set(p, 400, "malformed_body", "safetensors header, at byte %d: %s",
                           error.position, error.text);
    bool ok = read_header(e, header, data, p);
    json_decref(header);
    return ok;
}

static size_t safetensors_bound(const evaluation *e)
{
    return 128 + REPLY_TENSOR * (size_t)lk_call_outputs(e->call);
}

static const char *spelling(lk_dtype dtype)
{
    for (int i = 0; i < SPELLINGS; i++)
        if (spellings[i].dtype == dtype)
            return spellings[i].word;
    return "";
}

static bool safetensors_encode(evaluation *e, problem *p)
{
    buffer *b = &e->text;
    size_t at = 0;
    (void)p;
    buffer_append(b, "\0\0\0\0\0\0\0", 8);
    buffer_printf(b, "{\"__metadata__\":{\"loss\":\"%s\"}", lk_loss_describe(e->loss)->name);
    e->pieces = 1;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        const char *name = lk_call_output(e->call, i, &t);
        size_t bytes = (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype);
        buffer_printf(b, ",\"%s\":{\"dtype\":\"%s\",\"shape\":", name, spelling(t.dtype));
        tensor_text_write_sizes(b, &t);
        buffer_printf(b, ",\"data_offsets\":[%zu,%zu]}", at, at + bytes);
        at += bytes;
        if (bytes > 0)
            e->piece[e->pieces++] = (span){t.data, bytes};
    }
    buffer_text(b, "}");
    /* Tensors begin at a multiple of 8, as writers of the format do it. */
    while (b->size % 8 != 0 && !b->failed)
        buffer_text(b, " ");
    for (int i = 0; i < 8 && !b->failed; i++)
        b->data[i] = (char)((b->size - 8) >> (8 * i) & 0xff);
    e->piece[0] = (span){b->data, b->size};
    return true;
}

static const char *const media[] = {"application/x-safetensors", "application/octet-stream", NULL};

const wire wire_safetensors = {
    .name = "safetensors",
    .media = media,
    .open = safetensors_open,
    .bound = safetensors_bound,
    .encode = safetensors_encode,
};
