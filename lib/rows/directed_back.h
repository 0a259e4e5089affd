/* SPDX-License-Identifier: MIT
 *
 * The gradients of InfoNCE in several directions (rows/directed.h), when all rows have been
 * visited: G, the derivatives by the entries' scores, are made of the tables again, some rows or
 * columns at a time.
 */
#ifndef LK_DIRECTED_BACK_H
#define LK_DIRECTED_BACK_H

#include "rows/directed.h"

#define directed_scratch    LK_PASTE(DIRECTED_VARIANT, directed_scratch)
#define directed_anchors    LK_PASTE(DIRECTED_VARIANT, directed_anchors)
#define directed_candidates LK_PASTE(DIRECTED_VARIANT, directed_candidates)

/* Bytes of scratch, of a visit of rows as well. */
LK_DRIVER size_t directed_scratch(const directed *p);

/* The gradients by h of `count` <= DIRECTED_ROWS anchors or candidates, divided by the scale
 * lack_a lack_c / temperature; in scratch, a stride of the units apart. */
LK_DRIVER const real *directed_anchors(const lk_job *job, const directed *p, int64_t first,
                                       int64_t count, void *scratch);
LK_DRIVER const real *directed_candidates(const lk_job *job, const directed *p, int64_t first,
                                          int64_t count, void *scratch);

#endif
