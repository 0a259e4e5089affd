/* SPDX-License-Identifier: MIT
 *
 * Matrix products. out_ij is the sum over k of a_ik b_jk, in an order that nothing but `depth`
 * decides: PRODUCT_TERMS products at a time are added up one after another, each by a multiply-add
 * that begins at 0, and then these sums, in order. So the bits of an element depend on nothing but
 * the two vectors it is the product of: not on what else is multiplied with them, nor on blocks,
 * threads or instruction sets.
 */
#ifndef LK_PRODUCT_H
#define LK_PRODUCT_H

#include "loss.h"
#include "vector/element.h"

/* Each variant has its own copy, under its own names; defined in rows/product.c. */
#define product         LK_PASTE(LK_VARIANT, product)
#define product_scratch LK_PASTE(LK_VARIANT, product_scratch)

/* Long sums lose digits, and these here are long enough to be fast. */
enum { PRODUCT_TERMS = 128 };

/* One side of a product: `count` vectors. Component k of vector i is at[i * apart + k * step],
 * where apart or step is 1. */
typedef struct product_side {
    const void *at;
    bool elements; /* elements, which are widened on the way; else reals */
    int64_t count, apart, step;
} product_side;

/* `count` vectors of reals, one after another, each `stride` long. */
LK_INLINE product_side product_vectors(const real *at, int64_t count, int64_t stride)
{
    return (product_side){.at = at, .count = count, .apart = stride, .step = 1};
}

/* Write out_ij to out[i * stride + j] for all rows i and columns j; with `onto`, the sums are added
 * to what is there. A product whose depth is cut at multiples of PRODUCT_TERMS, each part added
 * onto those before, has the same bits. */
LK_DRIVER void product(const product_side *rows, const product_side *columns, int64_t depth,
                       bool onto, real *out, int64_t stride, void *scratch);

/* Bytes of scratch, aligned to a cache line, that a product of at most so many rows and components
 * needs: whole lines. */
LK_DRIVER size_t product_scratch(int64_t rows, int64_t depth);

#endif
