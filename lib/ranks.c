/* SPDX-License-Identifier: MIT
 *
 * Numbers in the order of their size: see ranks.h.
 */
#include "ranks.h"

#include <stddef.h>
#include <string.h>

uint64_t lk_rank_key(double x)
{
    const uint64_t sign = (uint64_t)1 << 63;
    uint64_t bits;
    if (x != x)
        return UINT64_MAX;
    x += 0; /* -0 becomes 0 */
    memcpy(&bits, &x, sizeof bits);
    return bits & sign ? bits : ~(bits | sign);
}

static void insert(lk_rank *ranks, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        const lk_rank x = ranks[i];
        int64_t k = i;
        for (; k > 0 && ranks[k - 1].key > x.key; k--)
            ranks[k] = ranks[k - 1];
        ranks[k] = x;
    }
}

/* By one byte of the key after another, from the last on. A byte that all keys share, as narrow
 * types have them, is passed over. */
lk_rank *lk_ranks_sort(lk_rank *ranks, lk_rank *room, int64_t n)
{
    enum { FEW = 48, BYTES = 8, VALUES = 256 };
    int64_t begin[BYTES][VALUES] = {{0}};
    if (n <= FEW) {
        insert(ranks, n);
        return ranks;
    }
    for (int64_t i = 0; i < n; i++)
        for (int b = 0; b < BYTES; b++)
            begin[b][ranks[i].key >> 8 * b & 255]++;
    for (int b = 0; b < BYTES; b++) {
        if (begin[b][ranks[0].key >> 8 * b & 255] == n)
            continue;
        for (int64_t v = 0, at = 0; v < VALUES; v++) {
            const int64_t many = begin[b][v];
            begin[b][v] = at;
            at += many;
        }
        for (int64_t i = 0; i < n; i++)
            room[begin[b][ranks[i].key >> 8 * b & 255]++] = ranks[i];
        lk_rank *const sorted = room;
        room = ranks;
        ranks = sorted;
    }
    return ranks;
}
