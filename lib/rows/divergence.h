/* SPDX-License-Identifier: MIT
 *
 * The divergence of a student's row of class scores from a teacher's distribution over the same
 * classes, and its gradient. Where the two are close, or one class has nearly all of the mass,
 * nothing cancels.
 */
#ifndef LK_DIVERGENCE_H
#define LK_DIVERGENCE_H

#include "rows/teacher.h"

enum { FORWARD_KL, REVERSE_KL, JSD, TVD, SKEW_FORWARD_KL, MSE_LOGITS }; /* divergence */

/* What a teacher gives. */
enum { TEACHER_LOGITS, TEACHER_LOGPROBS, TEACHER_PROBS, TEACHER_FORMS };

/* What the rows of a call share. Scores are multiplied by `scale`. */
typedef struct divergence_plan {
    int divergence;
    double beta, scale;
    int64_t classes;
} divergence_plan;

/* A row of both sides, each with its softmax at its temperature, which MSE_LOGITS does without. The
 * caller gives the first members, and before the gradient `weight`; the rest is what the value
 * leaves for the gradient. */
typedef struct divergence_row {
    const elem *x;
    const real *y;  /* the teacher's row: logits, probabilities or log-probabilities */
    int given;      /* what the teacher gives */
    int divergence; /* jsd at the ends of beta's range becomes another divergence */
    int64_t classes;
    real scale, teacher_scale;
    real beta, rest, log_beta, log_rest; /* rest: 1 - beta */
    teacher_norm student, teacher;
    bool close;               /* are both distributions close for every class? Then: */
    real base, apart;         /* log p - log q is (x - y) - base - apart */
    double over;              /* excess of the teacher's mass over 1 */
    double anchor;            /* of the slopes r: the leading class's */
    double sum;               /* the mean under p of the other slopes, relative to the anchor */
    double plus, minus, even; /* tvd: the student's mass where p > q, p < q, p = q */
    real weight;              /* of the gradient */
    int64_t written;          /* at the end, classes whose gradient divergence_value wrote */
    bool careful, none;       /* how it is to be computed; has the row no value? */
} divergence_row;

/* Each variant has its own copy, under its own names; defined in rows/divergence.c. */
#define divergence_row_of   LK_PASTE(LK_VARIANT, divergence_row_of)
#define divergence_value    LK_PASTE(LK_VARIANT, divergence_value)
#define divergence_gradient LK_PASTE(LK_VARIANT, divergence_gradient)

/* A row without its numbers: x, y and their softmax. */
LK_DRIVER divergence_row divergence_row_of(const divergence_plan *plan, int given);

/* The divergence of a row; `slopes`: the gradient is to be written as well. Where `grad` is not
 * NULL, and the weight is known, the last classes of it may be written there at once. */
LK_DRIVER double divergence_value(divergence_row *r, bool slopes, elem *grad);

/* The derivatives with respect to scale * x, times the row's weight; may be written over x. The
 * row's x, y and classes may be a part of those of the value. */
LK_DRIVER void divergence_gradient(const divergence_row *r, elem *grad);

#endif
