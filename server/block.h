/* SPDX-License-Identifier: MIT
 *
 * Text sixteen characters at a time.
 */
#ifndef LOSSD_BLOCK_H
#define LOSSD_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef unsigned char block __attribute__((vector_size(16)));

/* The next sixteen of `left` characters; false if there are fewer. */
static inline bool block_next(const char *from, size_t left, block *bytes)
{
    if (left < sizeof *bytes)
        return false;
    memcpy(bytes, from, sizeof *bytes);
    return true;
}

/* Of the result of a comparison: is it true of no character? */
static inline bool block_none(block found)
{
    uint64_t half[2];
    memcpy(half, &found, sizeof half);
    return (half[0] | half[1]) == 0;
}

#endif
