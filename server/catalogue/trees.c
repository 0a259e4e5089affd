/* SPDX-License-Identifier: MIT */
#include "catalogue/trees.h"

#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>

/* The largest document needs a quarter of it (test_trees). Memory that is never written costs
 * nothing. */
enum { PIECE = 32 * 1024 * 1024, ALIGN = 16 };

static _Thread_local struct {
    char *base; /* NULL: trees are allocated by malloc */
    size_t used;
    bool full;
} piece;
static _Thread_local bool starved;

static void *take(size_t size)
{
    if (!piece.base) {
        void *p = malloc(size);
        starved = starved || !p;
        return p;
    }
    piece.full = piece.full || size > PIECE - piece.used - ALIGN;
    if (piece.full)
        return NULL;
    char *p = piece.base + piece.used;
    piece.used += (size + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

static void give(void *p)
{
    if (!piece.base || (uintptr_t)p - (uintptr_t)piece.base >= PIECE)
        free(p);
}

void trees_setup(void)
{
    json_set_alloc_funcs(take, give);
}

bool trees_starved(void)
{
    const bool was = starved;
    starved = false;
    return was;
}

bool trees_begin(void)
{
    piece.used = 0;
    piece.full = false;
    piece.base = malloc(PIECE);
    return piece.base != NULL;
}

bool trees_end(void)
{
    free(piece.base);
    piece.base = NULL;
    return !piece.full;
}

static int append(const char *data, size_t size, void *to)
{
    buffer_append(to, data, size);
    return 0;
}

void trees_write(json_t *tree, bool indented, buffer *to)
{
    json_dump_callback(tree, append, to,
                       indented ? JSON_INDENT(2) | JSON_REAL_PRECISION(15) : JSON_COMPACT);
    buffer_text(to, "\n");
    json_decref(tree);
}
