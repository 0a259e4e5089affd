/* SPDX-License-Identifier: MIT
 *
 * Memory of which arrays are taken one after another: job->state, or scratch.
 */
#ifndef LK_ROOM_H
#define LK_ROOM_H

#include "vector/element.h"

LK_INLINE int64_t at_most(int64_t n, int64_t most)
{
    return n < most ? n : most;
}

LK_INLINE size_t whole_lines(size_t bytes)
{
    return (bytes + LK_LINE - 1) / LK_LINE * LK_LINE;
}

/* The next `count` things of `each` bytes, and whole lines: the next array begins with one. While
 * only the size is being added up, memory is NULL and the result must not be used; the address is
 * computed as an integer because arithmetic on NULL is undefined. */
LK_INLINE void *take(void *memory, size_t *used, int64_t count, size_t each)
{
    const uintptr_t place = (uintptr_t)memory + *used;
    *used += whole_lines((size_t)count * each);
    return (void *)place;
}

#endif
