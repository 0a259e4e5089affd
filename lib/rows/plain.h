/* SPDX-License-Identifier: MIT
 *
 * The fast path for rows of class scores ("plain" rows): the target is one class, and no option
 * needs more of a row than its exponentials. That is the cross entropy that models are trained
 * with; it should cost no more than moving its bytes. The results are those of rows/class_row.h;
 * three optimisations are added:
 *
 * - Most scores are small, and e^z of a small z does not overflow, so the maximum need not be
 *   subtracted first. A chunk is first computed in one pass without a maximum; if a score turns out
 *   to be too large (see CALM), the chunk is computed again as in rows/class_row.h.
 * - Loads and stores are interleaved: while the scores of one row are read, the gradient of the
 *   previous row is written, a few vectors of each in turn.
 * - Vectors are processed in pairs, in the element order in which 16-bit types are cheapest to
 *   convert (v_load_pair).
 *
 * Which path a row takes does not depend on its alignment, on its neighbours, on the factor of its
 * gradient, or on the other outputs requested.
 */
#ifndef LK_PLAIN_H
#define LK_PLAIN_H

#include "rows/class_row.h"

/* Each variant has its own copy, under its own names; defined in rows/plain.c. */
#define plain_settle  LK_PASTE(LK_VARIANT, plain_settle)
#define plain_compute LK_PASTE(LK_VARIANT, plain_compute)

/* A row whose gradient is pending: not yet written. The row must stay in memory until it is. */
typedef struct plain_gradient {
    const class_row *row; /* NULL: nothing is pending */
    double a;             /* coefficient of e^(z-top) */
    real at;              /* gradient of the target class */
    real top;             /* the shift that a refers to */
    int64_t ahead;        /* classes before the first whole cache line of the gradient row */
} plain_gradient;

/* Do the options allow the fast path? */
LK_INLINE bool plain_plan(const class_plan *p, bool index)
{
    return index && !(p->cap > 0) && p->off == 0;
}

/* Write the pending gradient, if there is one, and fence the streaming stores, so that other
 * threads see the gradients of all rows written so far. */
LK_DRIVER void plain_settle(const class_plan *p, plain_gradient *g);

/* As class_compute, except that the gradient of the last row may be left pending in *g. */
LK_DRIVER void plain_compute(const class_plan *p, class_row *const *rows, int count,
                             plain_gradient *g);

#endif
