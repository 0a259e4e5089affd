/* SPDX-License-Identifier: MIT
 *
 * Linear heads: losses whose rows are scores of classes that no input holds. The scores of row i
 * are x_i = h_i weight' + bias, with h the hidden states, normalised by their root mean square if
 * there is a norm_weight. The driver makes the scores of some rows at a time; what they are for,
 * and the derivatives E = dL/dx, is the loss's (head_loss).
 *
 * Few rows, which are one block, have their scores made ahead of the visit, by a pass over the
 * classes: workers share the reading of the weight, which is most of the work.
 *
 * Rows that do not count are left out before anything is multiplied, and their hidden states are
 * not read. Values, and the gradients of hidden states, are computed in one visit of the rows, from
 * two products: x, which E replaces, and E weight. What a row leaves for its E is a few numbers
 * (head_loss.note); the gradients of weight and bias are passes over the classes, which make the
 * scores of their classes again, of all rows, then E and the product E' h.
 *
 * All products add up in an order that nothing but their depth decides (rows/product.h): that of
 * scores is D; of the gradient of a hidden state, the number of classes; and of the gradient of
 * weight, the number of counted rows, which are taken HEAD_ROWS at a time, a multiple of the terms
 * that product adds up by themselves. So the bits of a row depend on nothing but the row and the
 * head, and those of grad.weight, grad.bias and grad.norm_weight on nothing but these and the order
 * of the rows: not on threads, blocks, or how many rows fit into scratch.
 *
 * Computed with reals alone: hidden states and weights of 16 bits are widened on the way, and a
 * gradient is rounded once.
 */
#ifndef LK_HEAD_H
#define LK_HEAD_H

#include "loss.h"
#include "vector/element.h"

/* Each variant has its own copy, under its own names; defined in rows/head_plan.c, head_visit.c and
 * head_classes.c. */
#define head_check       LK_PASTE(LK_VARIANT, head_check)
#define head_prepare     LK_PASTE(LK_VARIANT, head_prepare)
#define head_state       LK_PASTE(LK_VARIANT, head_state)
#define head_scratch     LK_PASTE(LK_VARIANT, head_scratch)
#define head_row_cost    LK_PASTE(LK_VARIANT, head_row_cost)
#define head_least       LK_PASTE(LK_VARIANT, head_least)
#define head_rows        LK_PASTE(LK_VARIANT, head_rows)
#define head_ahead       LK_PASTE(LK_VARIANT, head_ahead)
#define head_back_weight LK_PASTE(LK_VARIANT, head_back_weight)
#define head_back_bias   LK_PASTE(LK_VARIANT, head_back_bias)
#define head_back_norm   LK_PASTE(LK_VARIANT, head_back_norm)

enum { HEAD_ROWS = 512 };

/* The options of a head: a member of the loss's option struct. */
typedef struct head_options {
    double norm_eps;
} head_options;

#define HEAD_FIELDS(st)                                                                            \
    {                                                                                              \
        .name = "norm_eps", .type = LK_REAL, .flags = LK_RANGED | LK_OPEN,                         \
        .max = (double)INFINITY, .offset = offsetof(st, head.norm_eps), .fallback = "1e-6",        \
        .help = "with norm_weight: added to the mean square of a hidden state"                     \
    }

/* The inputs of a head: where they are among those of the loss. -1: the head has no such input. */
typedef struct head_side {
    int hidden, weight, bias, norm_weight;
} head_side;

#define HEAD_HIDDEN(help_)                                                                         \
    {                                                                                              \
        .name = "hidden", .forms = {{"* D", LK_FLOATS}}, .flags = LK_DIFFERENTIABLE | LK_GRADIENT, \
        .help = help_                                                                              \
    }
#define HEAD_PARAMETER(name_, shape_, flags_, help_)                                               \
    {                                                                                              \
        .name = (name_), .forms = {{shape_, LK_FLOATS}},                                           \
        .flags = LK_DIFFERENTIABLE | LK_OWN_TYPE | (flags_), .help = (help_)                       \
    }
#define HEAD_WEIGHT                                                                                \
    HEAD_PARAMETER("weight", "C D", 0,                                                             \
                   "the head: a vector for each class; its scores are "                            \
                   "hidden weight' + bias")
#define HEAD_BIAS HEAD_PARAMETER("bias", "C", LK_OPTIONAL, "of the scores; default zeros")
#define HEAD_NORM_WEIGHT                                                                           \
    HEAD_PARAMETER("norm_weight", "D", LK_OPTIONAL,                                                \
                   "hidden states are divided by their root mean square and multiplied with it "   \
                   "before the head; default: they are taken as they are")

/* Scores x become times * cap tanh(x / cap); cap 0: times * x. E remains the derivative with
 * respect to x. */
typedef struct head_bend {
    real cap, times;
} head_bend;

/* What a loss makes of the scores: lk_loss.driver. Row i is that of the call. */
typedef struct head_loss {
    head_side side;
    const head_side *teacher; /* a second head, of constants, without norm_weight; NULL: none */

    size_t options;                        /* where the head_options are among the loss's */
    size_t (*state)(const lk_job *job);    /* bytes of the loss's own part of job->state */
    int64_t (*classes)(const lk_job *job); /* that are scored: the first ones of weight */
    bool (*counts)(const lk_job *job, int64_t i);
    size_t (*note)(const lk_job *job); /* bytes that a counted row leaves for its slopes, zeros at
                                          first: a multiple of 8 */

    /* The value of a counted row with scores x, and y by the teacher: its outputs, what it adds to
     * the sums, and the note. Returns whether E of the row is other than 0. */
    bool (*value)(const lk_job *job, int64_t i, const real *x, const real *y, lk_block *block,
                  void *note);
    void (*ignore)(const lk_job *job, int64_t i, lk_block *block); /* another row: its outputs */

    /* What scores become before they are looked at, of both heads; NULL: nothing. */
    void (*bends)(const lk_job *job, head_bend to[2]);

    /* Scores x of the classes from `first` on become E, without 2^power; y as in value. */
    void (*slopes)(const lk_job *job, int64_t i, const void *note, int64_t first, int64_t count,
                   real *x, const real *y);
    int (*power)(const lk_job *job); /* see elements_power */
} head_loss;

/* What tables cannot say of the shapes. */
LK_DRIVER lk_status head_check(const lk_job *job, lk_error *error);

/* To be called at the end of the loss's prepare. */
LK_DRIVER void head_prepare(lk_job *job);

/* Members of the loss: HEAD_MEMBERS. */
LK_DRIVER size_t head_state(const lk_job *job);
LK_DRIVER size_t head_scratch(const lk_job *job);
LK_DRIVER int64_t head_row_cost(const lk_job *job, const lk_pass *pass);
LK_DRIVER int64_t head_least(const lk_job *job, const lk_pass *pass);
LK_DRIVER void head_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                         void *scratch);
LK_DRIVER void head_ahead(const lk_job *job, int64_t first, int64_t count, void *scratch);
LK_DRIVER void head_back_weight(const lk_job *job, int64_t first, int64_t count, void *scratch);
LK_DRIVER void head_back_bias(const lk_job *job, int64_t first, int64_t count, void *scratch);
LK_DRIVER void head_back_norm(const lk_job *job, int64_t first, int64_t count, void *scratch);

#define HEAD_MEMBERS(weight, bias, norm_weight)                                                    \
    .row_cost = head_row_cost, .least = head_least, .state = head_state, .scratch = head_scratch,  \
    .rows = head_rows, .whole_runs = true, .ahead = {weight, head_ahead},                          \
    .passes = {                                                                                    \
        {weight, head_back_weight},                                                                \
        {bias, head_back_bias},                                                                    \
        {norm_weight, head_back_norm},                                                             \
    }

#endif
