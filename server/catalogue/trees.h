/* SPDX-License-Identifier: MIT
 *
 * jansson's trees: their memory, and their text. Building a document as a tree takes hundreds of
 * allocations, and jansson silently omits members whose allocation fails: so one block is allocated
 * beforehand, and all of a tree is placed in it.
 */
#ifndef LOSSD_TREES_H
#define LOSSD_TREES_H

#include "buffer.h"

#include <stdbool.h>

struct json_t;

/* Call once, before jansson is used. */
void trees_setup(void);

/* Until trees_end, the trees of this thread are allocated from one block of memory, which no tree
 * may outlive. False without memory. trees_end returns false if the block was too small, so that
 * something is missing. */
bool trees_begin(void);
bool trees_end(void);

/* Has an allocation for a tree of this thread failed since the last call? jansson often reports
 * that as an error in the text. */
bool trees_starved(void);

/* Write a tree, indented for people or on one line for programs, and free it. */
void trees_write(struct json_t *tree, bool indented, buffer *to);

#endif
