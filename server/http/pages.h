/* SPDX-License-Identifier: MIT
 *
 * Memory for bodies. The kernel zeroes new memory page by page at the first write, which for a
 * large body takes longer than receiving it. So large bodies are stored in huge pages, where
 * available, and the memory is kept for a while for the next ones of the same thread.
 */
#ifndef LOSSD_PAGES_H
#define LOSSD_PAGES_H

#include <stdbool.h>
#include <stddef.h>

/* Zero-initialised: no memory. */
typedef struct pages {
    char *at;
    size_t size; /* actual size, at least what was requested */
} pages;

/* Each thread keeps at most `most` bytes of freed memory for reuse. Call once, before the others.
 */
void pages_setup(size_t most);

/* Grow to at least `size` bytes. The contents are kept; the address may change. False without
 * memory: then nothing has changed. */
bool pages_grow(pages *p, size_t size);

/* Give back what exceeds `size`, which is not 0, where that is possible. The contents are kept; the
 * address may change. */
void pages_fit(pages *p, size_t size);

void pages_free(pages *p);

/* The same for memory that was taken over; not kept for reuse. On any thread. */
void pages_drop(char *at, size_t size);

/* Called periodically: return memory to the system that has not been reused for `most` calls. 0:
 * all of it. */
void pages_age(int most);

#endif
