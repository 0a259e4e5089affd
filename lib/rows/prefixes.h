/* SPDX-License-Identifier: MIT
 *
 * The options `dims` and `dim_weights` of losses of embeddings that may be cut (Matryoshka). A loss
 * has a member `prefixes` among its options, LK_PREFIX_FIELDS in its table, and `.kind =
 * &lk_prefixed`. Its embeddings are the inputs whose last axis is D. lib/prefixed.c does the rest:
 * the loss itself never sees these options.
 */
#ifndef LK_PREFIXES_H
#define LK_PREFIXES_H

#include "loss.h"

typedef struct lk_prefixes {
    lk_list dims;
    lk_reals dim_weights;
} lk_prefixes;

#define LK_PREFIX_FIELDS(st)                                                                       \
    {.name = "dims",                                                                               \
     .type = LK_LIST,                                                                              \
     .offset = offsetof(st, prefixes.dims),                                                        \
     .fallback = "",                                                                               \
     .help = "the sum of the losses on the first d components of every embedding, for each d of "  \
             "this list, which ascends (Matryoshka); default: all components, once"},              \
    {                                                                                              \
        .name = "dim_weights", .type = LK_REALS, .offset = offsetof(st, prefixes.dim_weights),     \
        .fallback = "", .help = "a factor for each of dims; default ones"                          \
    }

extern const struct lk_kind lk_prefixed;

#endif
