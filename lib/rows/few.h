/* SPDX-License-Identifier: MIT
 *
 * Rows of few class scores, across lanes: a vector holds one class of as many rows as it has lanes,
 * so that maxima, sums and logarithms cost a fraction of an instruction a row. Sums over classes
 * run in the order of the classes within a lane: what a row gives depends on nothing but the row.
 * The results are those of rows/class_row.h.
 */
#ifndef LK_FEW_H
#define LK_FEW_H

#include "rows/class_row.h"
#include "vector/cross.h"

/* Each variant has its own copy, under its own names; defined in rows/few_compute.c. */
#define few_plan_make LK_PASTE(LK_VARIANT, few_plan_make)
#define few_scratch   LK_PASTE(LK_VARIANT, few_scratch)
#define few_compute   LK_PASTE(LK_VARIANT, few_compute)
#define few_logprobs  LK_PASTE(LK_VARIANT, few_logprobs)

/* Rows of at most so many classes go across lanes. Beyond, what a row costs besides its classes, in
 * scalars, is little of it, and a group of rows takes too much of the first-level cache. */
enum { FEW = 256 };

/* What all groups of rows of a run share: the plan, how rows lie in memory, and how they lie in the
 * copy that rows which do not fill a group are computed in. The arrays hold a vector for each
 * class. */
typedef struct few_plan {
    const class_plan *row;
    bool bare;  /* a row's loss is -log p_y, times a class weight if there are any */
    bool take;  /* index form: the targets' scores are taken out of their places */
    int narrow; /* classes of rows that stay in registers (index form), or 0 */
    bool large; /* do a group's scores take more than a fifth of a first-level cache of 32 KiB? */
    cross_rows given, copied;
    uintptr_t next; /* bytes from a group to the next one in memory, or 0 */
    real *raw;      /* logits as given */
    real *z, *e;    /* scaled scores, which may be raw; e^(z - shift), which may be z: what is
                       computed at a time has to fit into the first-level cache */
    real *t;        /* targets as given */
    elem *x_room, *t_room;
} few_plan;

/* Consecutive rows, one a lane: the inputs, then the results. A row that is not live is not counted
 * or not there: its gradient and its results are 0, its argmax is -1. */
typedef struct few_rows {
    const elem *x, *t;                   /* of the first row; t is NULL in index form */
    elem *grad_x, *grad_t;               /* may be x and t; NULL: not wanted */
    int count;                           /* rows in memory; the other lanes are not live */
    _Alignas(LK_LINE) ilane live[LANES]; /* 0 or -1 */
    ilane y[LANES];                      /* index form; -1 otherwise */
    double rho[LANES], zeta[LANES];

    double main[LANES], z_part[LANES]; /* not multiplied by rho */
    real nll[LANES], lse[LANES], entropy[LANES];
    ilane argmax[LANES];
} few_rows;

/* Bytes of scratch for rows of `width` classes; any alignment will do. */
LK_DRIVER size_t few_scratch(int64_t width);

/* `keep`: scores are needed beside their exponentials. */
LK_DRIVER few_plan few_plan_make(const class_plan *row, bool keep, void *scratch);

/* Values and gradients as class_compute's. */
LK_DRIVER void few_compute(const few_plan *p, few_rows *rows);

/* log p_y (as -nll), the entropy if the plan wants it, and where grad_x is given the gradient of
 * rho log p_y + zeta H. */
LK_DRIVER void few_logprobs(const few_plan *p, few_rows *rows);

#endif
