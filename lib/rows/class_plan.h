/* SPDX-License-Identifier: MIT
 *
 * Rows of class scores: their options, and what all rows of a call share. Symbols as in
 * rows/class_row.h.
 */
#ifndef LK_CLASS_PLAN_H
#define LK_CLASS_PLAN_H

#include "vector/element.h"

#include <stdbool.h>

enum { CLASS_UNIFORM, CLASS_OTHERS }; /* smoothing_mode */

typedef struct class_options {
    int64_t ignore_index, vocab_size;
    double label_smoothing, logit_scale, softcap, z_loss, focal_gamma, poly1, target_scaling;
    int smoothing_mode;
    bool subtract_entropy;
} class_options;

/* What all rows of a call share. */
typedef struct class_plan {
    int64_t classes; /* classes in the softmax: vocab_size */
    int64_t width;   /* classes in the tensor: C */
    int64_t inner;   /* stride between the classes of a row in the caller's tensor, in elements */
    const real *weight; /* w, or NULL */
    double total_weight;
    bool weightless;           /* all w are 0 */
    double smoothing, off, on; /* eps; index form: q of the other classes, q of the target */
    double scale, z_loss, gamma, poly1, target_scaling;
    real cap;       /* 0: no softcap */
    double main, z; /* the factors of all gradients of the two parts, without 2^power */
    int power;      /* see elements_power */
    bool minus_entropy;
    bool want_entropy, want_argmax;
    bool want_rows; /* rows/few.h: more is wanted of a row than its part in the sums */
    bool stream; /* gradients are written with streaming stores: they exceed the caches and are not
                    in place */
    bool plain;  /* rows may take the fast path of rows/plain.h */
} class_plan;

#endif
