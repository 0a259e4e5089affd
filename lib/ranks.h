/* SPDX-License-Identifier: MIT
 *
 * Numbers in the order of their size. Compiled once, for losses whose kernels sort.
 */
#ifndef LK_RANKS_H
#define LK_RANKS_H

#include <stdint.h>

/* A number, as a key that is less the greater the number is, and its index. */
typedef struct lk_rank {
    uint64_t key;
    int64_t at;
} lk_rank;

/* The key of x. 0 and -0 have the same; so has all that is NaN, the last. */
uint64_t lk_rank_key(double x);

/* Sort n numbers, the greatest first, and equal ones by index if they are given in that order.
 * `room` has as many; the result is in either, whose address is returned. */
lk_rank *lk_ranks_sort(lk_rank *ranks, lk_rank *room, int64_t n);

#endif
