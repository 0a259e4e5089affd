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

/* The first character of which it is true; how many there are if of none. */
static inline size_t block_first(block found)
{
    uint64_t half[2];
    memcpy(half, &found, sizeof half);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    half[0] = __builtin_bswap64(half[0]);
    half[1] = __builtin_bswap64(half[1]);
#endif
    return half[0] != 0   ? (size_t)__builtin_ctzll(half[0]) / 8
           : half[1] != 0 ? 8 + (size_t)__builtin_ctzll(half[1]) / 8
                          : sizeof found;
}

#endif
