/* SPDX-License-Identifier: MIT
 *
 * One object that a thread keeps for the next of its kind, when there is one after the other:
 * malloc searches for what is larger than about 1 KiB.
 */
#ifndef LOSSD_SPARE_H
#define LOSSD_SPARE_H

#include <stdlib.h>

/* Its contents are undefined; NULL without memory. */
static inline void *spare_take(void **kept, size_t size)
{
    void *one = *kept;
    *kept = NULL;
    return one ? one : malloc(size);
}

static inline void spare_give(void **kept, void *one)
{
    if (*kept)
        free(one);
    else
        *kept = one;
}

static inline void spare_free(void **kept)
{
    free(*kept);
    *kept = NULL;
}

#endif
