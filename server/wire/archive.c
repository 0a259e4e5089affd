/* SPDX-License-Identifier: MIT */
#include "wire/archive.h"

#include "wire/skip.h"

#include <stdio.h>
#include <stdlib.h>

enum { HEADER_MAX = 64 * 1024 };

static bool malformed(problem *p, const char *what)
{
    return problem_set(p, 400, "malformed_body", "safetensors: %s", what);
}

const char *archive_spelling(lk_dtype dtype)
{
    static const char *const words[] = {
        [LK_F64] = "F64", [LK_F32] = "F32", [LK_F16] = "F16", [LK_BF16] = "BF16",
        [LK_I64] = "I64", [LK_I32] = "I32", [LK_U8] = "U8",   [LK_BOOL] = "BOOL",
    };
    return words[dtype];
}
static const dialect types = {"", "dtype", archive_spelling, 422};

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

static bool read_entry(archive_entry *to, unsigned takes, problem *p)
{
    const char *name = to->name;
    span members[3] = {{0}};
    int64_t offsets[2];
    if (!read_members(name, to->text, members, p) ||
        !wire_dtype(takes, name, members[0], &types, &to->shape, p))
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
    const archive_entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Check that the tensors are contiguous from offset 0 up to the end of the file. */
static bool check_places(archive_entry *entries, int count, size_t data, problem *p)
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

/* The header is walked rather than parsed to a tree, which would take longer than a small
 * evaluation. */
static bool read_header(span text, archive *to, problem *p)
{
    char name[WALK_NAME];
    cursor c = cursor_new(text);
    span value;
    int more = cursor_accept(&c, '{') ? 1 : -1;
    if (more < 0)
        return malformed(p, "the header is not a JSON object");
    for (bool first = true; more == 1; first = false) {
        more = walk_member(&c, first, name, &value);
        if (more != 1)
            break;
        const bool is_metadata = strcmp(name, "__metadata__") == 0;
        bool twice = is_metadata && to->metadata.size > 0;
        for (int i = 0; i < to->count; i++)
            twice = twice || strcmp(to->entry[i].name, name) == 0;
        if (twice)
            return problem_set(p, 400, "duplicate_name", "safetensors: %s comes twice", name);
        if (!is_metadata && to->count == WIRE_TENSORS)
            return problem_set(p, 413, "too_large", "more than %d tensors", WIRE_TENSORS);
        if (is_metadata) {
            to->metadata = value;
        } else {
            archive_entry *entry = &to->entry[to->count++];
            *entry = (archive_entry){.text = value};
            snprintf(entry->name, sizeof entry->name, "%s", name);
        }
        more = walk_after(&c, '}');
    }
    cursor_space(&c);
    if (more < 0 || cursor_left(&c))
        return problem_set(p, 400, "malformed_body",
                           "safetensors: the header is not a JSON object, at byte %zu of it",
                           (size_t)(c.p - text.data));
    if (span_is(to->metadata, "null"))
        to->metadata = (span){0};
    return true;
}

bool archive_open(span body, archive *to, problem *p)
{
    cursor c = cursor_new(body);
    uint64_t length = cursor_u64(&c);
    to->count = 0;
    to->metadata = (span){0};
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
    span text = cursor_take(&c, (size_t)length);
    to->data = cursor_take(&c, cursor_left(&c));
    return read_header(text, to, p);
}

bool archive_tensors(archive *a, const lk_call *call, problem *p)
{
    for (int i = 0; i < a->count; i++)
        if (!read_entry(&a->entry[i], call ? lk_call_dtypes(call, a->entry[i].name) : 0, p))
            return false;
    return check_places(a->entry, a->count, a->data.size, p);
}
