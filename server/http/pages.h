/* SPDX-License-Identifier: MIT
 *
 * Memory of bodies. The kernel clears what it gives, page by page as they are first written to,
 * which for a large body takes longer than to receive it. So large ones lie in huge pages, where
 * the system has them, and stay for a while to be used again.
 *
 * For one thread, the loop's.
 */
#ifndef LOSSD_PAGES_H
#define LOSSD_PAGES_H

#include <stdbool.h>
#include <stddef.h>

/* All zero: none. */
typedef struct pages {
    char *at;
    size_t size; /* what is there, at least what was asked for */
} pages;

/* At most so many bytes are kept for later. */
void pages_setup(size_t most);

/* Make them `size` bytes at least; what they hold stays, wherever they move. False without memory:
 * then nothing has changed. */
bool pages_grow(pages *p, size_t size);

void pages_free(pages *p);

/* Time goes by: give back to the system what was kept for as many calls of this. All: 0. */
void pages_age(int most);

#endif
