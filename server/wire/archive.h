/* SPDX-License-Identifier: MIT
 *
 * The safetensors format: 8 bytes of header length, a JSON header with the dtype, shape and offsets
 * of each tensor, then the tensors. Read without copying a tensor.
 */
#ifndef LOSSD_ARCHIVE_H
#define LOSSD_ARCHIVE_H

#include "wire/inputs.h"
#include "wire/walk.h"

/* A tensor as the header describes it: its bytes are [begin, end) of the data. */
typedef struct archive_entry {
    char name[WALK_NAME];
    span text;
    lk_tensor shape;
    uint64_t begin, end;
} archive_entry;

typedef struct archive {
    span metadata; /* the text of __metadata__; empty: none, or null */
    span data;
    int count;
    archive_entry entry[WIRE_TENSORS];
} archive;

/* Divide a body into its parts: of the tensors, the names. */
bool archive_open(span body, archive *to, problem *p);

/* Read the types, shapes and places of the tensors, and sort them by place. They are to be inputs
 * of `call`; NULL: of any. */
bool archive_tensors(archive *a, const lk_call *call, problem *p);

/* The format's name of an element type. */
const char *archive_spelling(lk_dtype dtype);

#endif
