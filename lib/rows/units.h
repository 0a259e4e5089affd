/* SPDX-License-Identifier: MIT
 *
 * Sets of vectors that are compared by cosine: their normalised vectors h, kept in job->state, and
 * the gradient through the normalisation.
 */
#ifndef LK_UNITS_H
#define LK_UNITS_H

#include "rows/pair.h"
#include "rows/room.h"

/* Each variant has its own copy, under its own names; defined in rows/units.c. */
#define pair_sort           LK_PASTE(LK_VARIANT, pair_sort)
#define pair_units_take     LK_PASTE(LK_VARIANT, pair_units_take)
#define pair_unit           LK_PASTE(LK_VARIANT, pair_unit)
#define pair_unit_none      LK_PASTE(LK_VARIANT, pair_unit_none)
#define pair_unit_angle     LK_PASTE(LK_VARIANT, pair_unit_angle)
#define pair_unit_turn      LK_PASTE(LK_VARIANT, pair_unit_turn)
#define pair_unit_back      LK_PASTE(LK_VARIANT, pair_unit_back)
#define pair_fail_nonfinite LK_PASTE(LK_VARIANT, pair_fail_nonfinite)
#define pair_units_fill     LK_PASTE(LK_VARIANT, pair_units_fill)

/* A key and its original index, for sorting keys so that equal ones are adjacent. */
typedef struct pair_place {
    int64_t key, at;
} pair_place;

LK_DRIVER void pair_sort(pair_place *place, int64_t n);

/* An integer for every number, in the same order; 0 and -0 have the same. */
LK_INLINE int64_t pair_key(double y)
{
    int64_t key;
    y += 0;
    memcpy(&key, &y, sizeof key);
    return key < 0 ? key ^ INT64_MAX : key;
}

/* The vectors of an input as h = v / n with n = max(|v|, eps), which may be beyond the range of
 * doubles, or have few digits there: kept is n times the square of `root`, which is 1 where neither
 * is so. Not normalised: n is the same for all, 1 or a power of two such that products of h neither
 * overflow nor underflow. A vector with a component that is not finite has h = 0, and makes
 * whatever it is compared with NaN: its `taint` is NaN, that of others 0. So products over many
 * vectors may have it among them. */
typedef struct pair_units {
    real *h, *taint; /* taint: a stride more than there are rows */
    double *n, *root;
    int64_t rows, width, stride;
    double eps;            /* infinite: not normalised */
    const lk_tensor *mask; /* vectors where it is 0 are not read; NULL, or without data: all are */
} pair_units;

/* Of the vectors along the last axis of an input. */
LK_DRIVER pair_units pair_units_take(const lk_job *job, size_t *used, int input, double eps);

LK_DRIVER void pair_unit(const pair_units *u, int64_t i, const elem *v);

LK_INLINE bool pair_unit_masked(const pair_units *u, int64_t i)
{
    return u->mask && u->mask->data && lk_int(u->mask, i) == 0;
}

/* Vector i is not read, and compared with nothing. */
LK_DRIVER void pair_unit_none(const pair_units *u, int64_t i);

/* The cosine c of two vectors, x and y, which are i of u and j of v, and sqrt(1 - c^2). */
typedef struct pair_angle {
    double cosine, sine;
} pair_angle;

LK_DRIVER pair_angle pair_unit_angle(const pair_units *u, int64_t i, const elem *x,
                                     const pair_units *v, int64_t j, const elem *y);

/* Add by dc/dx to a sum of u->stride doubles; nothing where `by` is 0, NaN where it is that. */
LK_DRIVER void pair_unit_turn(const pair_units *u, int64_t i, const elem *x, const pair_units *v,
                              int64_t j, const elem *y, double cosine, double by, double *sum);

/* dL/dv from g = dL/dh: (g - [|v| > eps] (g h) h) scale / n, for vector i, and `more` of it (NULL:
 * nothing), which is added before the sum is rounded. */
LK_DRIVER void pair_unit_back(const pair_units *u, int64_t i, const real *g, double scale,
                              const double *more, elem *grad);

/* What products of h lack of products of v. */
LK_INLINE double pair_lack(const pair_units *u)
{
    return isfinite(u->eps) || u->rows == 0 ? 1 : u->n[0];
}

LK_DRIVER lk_status pair_fail_nonfinite(const lk_job *job, int input, int64_t index,
                                        lk_error *error);

/* Fill in all rows, row i from vector at[i].at of the input (at NULL: from vector i). With
 * nonfinite=error, an error for a value that is not finite. */
LK_DRIVER lk_status pair_units_fill(const lk_job *job, const pair_units *u, int input,
                                    const pair_place *at, lk_error *error);

#endif
