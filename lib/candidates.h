/* SPDX-License-Identifier: MIT
 *
 * A row of scores of candidates, one of which is the right one or whose order a teacher knows: its
 * loss, and the derivatives by the scores. Compiled once, in double: there are few of them beside
 * the vectors that they compare.
 */
#ifndef LK_CANDIDATES_H
#define LK_CANDIDATES_H

#include "loss.h"

/* The candidate that is right for row i: of the input `index`, or that of the same number. */
int64_t lk_candidates_positive(const lk_job *job, int index, int64_t i);

/* Refuse rows whose right one is not among the `count` candidates, `what` they are called. */
lk_status lk_candidates_check(const lk_job *job, int index, int64_t count, const char *what,
                              lk_error *error);

/* n candidates that are not excluded. A score that is NaN makes all results NaN. */
typedef struct lk_candidates {
    int64_t n;
    const double *score;   /* [n] */
    const double *teacher; /* [n]; NULL: none */
    double *slope;         /* [n]: written */
} lk_candidates;

/* -log softmax(scale * score)_positive. */
double lk_candidates_contrast(const lk_candidates *c, int64_t positive, double scale);

/* KL(softmax(teacher / temperature) || softmax(scale * score)) / scale^2. */
double lk_candidates_distil(const lk_candidates *c, double temperature, double scale);

/* The mean, over the others, of ((score_positive - score) - (teacher_positive - teacher))^2; there
 * is at least one other. */
double lk_candidates_margins(const lk_candidates *c, int64_t positive);

#endif
