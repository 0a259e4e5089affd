/* SPDX-License-Identifier: MIT
 *
 * safetensors bodies: 8 bytes of header length, a JSON header with the dtype, shape and offsets of
 * each tensor, then the tensors. Inputs are views of the body; gradients may be written in place.
 */
#include "wire/inputs.h"
#include "wire/options.h"
#include "wire/skip.h"
#include "wire/tensor_text.h"
#include "wire/walk.h"
#include "wire/wire.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    HEADER_MAX = 64 * 1024,
    REPLY_TENSOR = 256, /* header bytes of one output, at most */
};

static bool malformed(problem *p, const char *what)
{
    return problem_set(p, 400, "malformed_body", "safetensors: %s", what);
}

/* The format's name of an element type. */
static const char *spelling(lk_dtype dtype)
{
    static const char *const words[] = {
        [LK_F64] = "F64", [LK_F32] = "F32", [LK_F16] = "F16", [LK_BF16] = "BF16",
        [LK_I64] = "I64", [LK_I32] = "I32", [LK_U8] = "U8",   [LK_BOOL] = "BOOL",
    };
    return words[dtype];
}
static const dialect types = {"", "dtype", spelling, 422};

/* A tensor as the header describes it. */
typedef struct entry {
    char name[WALK_NAME];
    span text;
    lk_tensor shape;
    uint64_t begin, end;
} entry;

static bool entry_problem(problem *p, const char *name, const char *what)
{
    return problem_input(p, 400, "malformed_body", name, "safetensors: tensor \"%.60s\" %s", name,
                         what);
}

/* An array of integers >= 0, as walk_integers. */
static int read_sizes(span text, int64_t *sizes, int most)
{
    const int count = walk_integers(text, sizes, most);
    for (int i = 0; i < count && i < most; i++)
        if (sizes[i] < 0)
            return -1;
    return count;
}

/* Read dtype, shape and data_offsets, in any order. Other members are ignored, as in the reference
 * implementation. */
static bool read_members(const char *name, span text, span members[3], problem *p)
{
    static const char *const names[] = {"dtype", "shape", "data_offsets"};
    cursor c = cursor_new(text);
    char member[WALK_NAME];
    span value;
    int more = cursor_accept(&c, '{') ? 1 : -1;
    for (bool first = true; more == 1; first = false) {
        more = walk_member(&c, first, member, &value);
        int k = 0;
        while (more == 1 && k < 3 && strcmp(names[k], member) != 0)
            k++;
        if (more == 1 && k < 3 && members[k].size > 0)
            return problem_input(p, 400, "duplicate_name", name,
                                 "safetensors: tensor \"%.60s\" has %s twice", name, member);
        if (more != 1)
            break;
        if (k < 3)
            members[k] = value;
        else if (!skip_value(value))
            return problem_input(p, 400, "malformed_body", name,
                                 "safetensors: tensor \"%.60s\" has a member %s that is not JSON",
                                 name, member);
        more = walk_after(&c, '}');
    }
    if (more != 0 || cursor_left(&c) || members[0].size == 0 || members[1].size == 0 ||
        members[2].size == 0)
        return entry_problem(p, name, "must have dtype, shape and data_offsets");
    return true;
}

static bool read_entry(const evaluation *e, entry *to, problem *p)
{
    const char *name = to->name;
    span members[3] = {{0}};
    int64_t offsets[2];
    if (!read_members(name, to->text, members, p) ||
        !wire_dtype(e, name, members[0], &types, &to->shape, p))
        return false;
    const int rank = read_sizes(members[1], to->shape.shape, LK_MAX_RANK);
    if (rank < 0)
        return entry_problem(p, name, "has a shape that is not an array of integers >= 0");
    if (rank > LK_MAX_RANK)
        return problem_input(p, 413, "too_large", name,
                             "%.60s has %d axes; tensors have at most %d", name, rank, LK_MAX_RANK);
    to->shape.rank = rank;
    if (read_sizes(members[2], offsets, 2) != 2 || offsets[0] > offsets[1])
        return entry_problem(p, name, "has data_offsets that are no range of bytes");
    to->begin = (uint64_t)offsets[0];
    to->end = (uint64_t)offsets[1];
    int64_t count = lk_tensor_count(&to->shape);
    if (count < 0)
        return entry_problem(p, name, "has a shape whose size overflows");
    const uint64_t bytes = (uint64_t)count * lk_dtype_size(to->shape.dtype);
    if (to->end - to->begin != bytes)
        return problem_input(p, 400, "malformed_body", name,
                             "safetensors: tensor \"%.60s\" has %llu bytes of data; its dtype and "
                             "shape need %llu",
                             name, (unsigned long long)(to->end - to->begin),
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

/* Check that the tensors are contiguous from offset 0 up to the end of the file. */
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
        else
            ok = wire_option(e, name, words, p);
    }
    json_decref(metadata);
    return ok;
}

/* The header is walked rather than parsed to a tree, which would take longer than a small
 * evaluation. */
static bool read_header(evaluation *e, span text, span data, problem *p)
{
    entry entries[WIRE_TENSORS];
    int count = 0;
    char name[WALK_NAME];
    cursor c = cursor_new(text);
    span value, metadata = {0};
    int more = cursor_accept(&c, '{') ? 1 : -1;
    if (more < 0)
        return malformed(p, "the header is not a JSON object");
    for (bool first = true; more == 1; first = false) {
        more = walk_member(&c, first, name, &value);
        if (more != 1)
            break;
        const bool is_metadata = strcmp(name, "__metadata__") == 0;
        bool twice = is_metadata && metadata.size > 0;
        for (int i = 0; i < count; i++)
            twice = twice || strcmp(entries[i].name, name) == 0;
        if (twice)
            return problem_set(p, 400, "duplicate_name", "safetensors: %s comes twice", name);
        if (!is_metadata && count == WIRE_TENSORS)
            return problem_set(p, 413, "too_large", "more than %d tensors", WIRE_TENSORS);
        if (is_metadata) {
            metadata = value;
        } else {
            entry *to = &entries[count++];
            *to = (entry){.text = value};
            snprintf(to->name, sizeof to->name, "%s", name);
        }
        more = walk_after(&c, '}');
    }
    cursor_space(&c);
    if (more < 0 || cursor_left(&c))
        return problem_set(p, 400, "malformed_body",
                           "safetensors: the header is not a JSON object, at byte %zu of it",
                           (size_t)(c.p - text.data));
    if (metadata.size > 0 && !span_is(metadata, "null") && !read_metadata(e, metadata, p))
        return false;
    for (int i = 0; i < count; i++)
        if (!read_entry(e, &entries[i], p))
            return false;
    if (!check_places(entries, count, data.size, p))
        return false;
    for (int i = 0; i < count; i++) {
        span place = {data.data + entries[i].begin, (size_t)(entries[i].end - entries[i].begin)};
        if (!wire_view(e, entries[i].name, &entries[i].shape, place, p))
            return false;
    }
    return true;
}

static bool safetensors_open(evaluation *e, problem *p)
{
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
    return read_header(e, text, data, p);
}

static size_t safetensors_text(const evaluation *e)
{
    cursor c = cursor_new(e->body);
    const uint64_t length = cursor_u64(&c);
    return length < cursor_left(&c) ? 8 + (size_t)length : e->body.size;
}

static size_t safetensors_bound(const evaluation *e)
{
    return 128 + REPLY_TENSOR * (size_t)lk_call_outputs(e->call);
}

static bool safetensors_encode(evaluation *e, problem *p)
{
    buffer *b = &e->text;
    size_t at = 0;
    (void)p;
    buffer_append(b, "\0\0\0\0\0\0\0", 8);
    buffer_texts(b, "{\"__metadata__\":{\"loss\":\"", lk_loss_describe(e->loss)->name, "\"}", NULL);
    e->pieces = 1;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        const char *name = lk_call_output(e->call, i, &t);
        size_t bytes = (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype);
        buffer_texts(b, ",\"", name, "\":{\"dtype\":\"", spelling(t.dtype), "\",\"shape\":", NULL);
        tensor_text_write_sizes(b, &t);
        buffer_text(b, ",\"data_offsets\":[");
        buffer_integer(b, (int64_t)at);
        at += bytes;
        buffer_text(b, ",");
        buffer_integer(b, (int64_t)at);
        buffer_text(b, "]}");
        if (bytes > 0)
            e->piece[e->pieces++] = (span){t.data, bytes};
    }
    buffer_text(b, "}");
    /* Tensors begin at a multiple of 8, as other writers of the format do. */
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
    .binary = true,
    .text = safetensors_text,
    .open = safetensors_open,
    .bound = safetensors_bound,
    .encode = safetensors_encode,
};
