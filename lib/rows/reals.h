/* SPDX-License-Identifier: MIT
 *
 * Tensors of any floating-point type, computed with reals: for drivers whose inputs have types of
 * their own, and which have no variants of 16 bits (REALS in losses.def). Such elements are read,
 * written and multiplied by the functions of their own variants, which compute with the same reals.
 */
#ifndef LK_REALS_H
#define LK_REALS_H

#include "rows/product.h"

/* Each variant has its own copy, under its own names; defined in rows/reals.c. */
#define reals_read    LK_PASTE(LK_VARIANT, reals_read)
#define reals_write   LK_PASTE(LK_VARIANT, reals_write)
#define reals_clear   LK_PASTE(LK_VARIANT, reals_clear)
#define reals_product LK_PASTE(LK_VARIANT, reals_product)

/* n elements of a tensor, from element `at` on. */
LK_DRIVER void reals_read(const lk_tensor *t, int64_t at, int64_t n, real *to);

/* n reals, which are multiplied by 2^power, become such elements. */
LK_DRIVER void reals_write(const lk_tensor *t, int64_t at, int64_t n, int power, real *x);

/* They become 0. */
LK_DRIVER void reals_clear(const lk_tensor *t, int64_t at, int64_t n);

/* A product (rows/product.h) whose columns, if they are elements, are of that type. */
LK_DRIVER void reals_product(const product_side *rows, const product_side *columns, lk_dtype dtype,
                             int64_t depth, bool onto, real *out, int64_t stride, void *scratch);

#endif
