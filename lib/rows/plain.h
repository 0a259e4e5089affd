/* SPDX-License-Identifier: MIT
 *
 * Plain rows of class scores: against one class, with nothing about them that needs more of the row
 * than its exponentials. That is the cross entropy that models are trained with, and it is to cost
 * no more than moving its bytes. What rows/class_row.h computes, with three things more:
 *
 * - Scores are mostly small, and e^z of a small z needs no maximum. A chunk whose scores turn out
 *   to be calm is done in one sweep that waits for nothing; others are done again as in
 *   rows/class_row.h.
 * - While the scores of a row come in, the gradient of the row before goes out, a few vectors of
 *   the one after as many of the other.
 * - Vectors are taken in pairs, in the order that costs halves least.
 *
 * None of this depends on where the row lies, on the rows beside it, on what its gradient is
 * multiplied with, or on what else is asked for.
 */
#ifndef LK_PLAIN_H
#define LK_PLAIN_H

#include "rows/class_row.h"

/* By the names of the variant; they are in rows/plain.c. */
#define plain_settle  LK_PASTE(LK_VARIANT, plain_settle)
#define plain_compute LK_PASTE(LK_VARIANT, plain_compute)

/* A row whose gradient is left to write. The row stays where it is until then. */
typedef struct plain_gradient {
    const class_row *row; /* NULL: none is left */
    double a;             /* of e^(z-top) */
    real at;              /* the target's entry */
    real top;             /* what a is relative to */
    int64_t ahead;        /* classes before the first line of the row that is all its own */
} plain_gradient;

/* Do the options leave its rows plain? */
LK_INLINE bool plain_plan(const class_plan *p, bool index)
{
    return index && !(p->cap > 0) && p->off == 0;
}

/* Write the gradient that is left, if there is one. Those of all rows, plain or not, are then there
 * for other threads. */
LK_DRIVER void plain_settle(const class_plan *p, plain_gradient *g);

/* What class_compute does, but that the last row's gradient may be left. */
LK_DRIVER void plain_compute(const class_plan *p, class_row *const *rows, int count,
                             plain_gradient *g);

#endif
