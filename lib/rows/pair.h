/* SPDX-License-Identifier: MIT
 *
 * Rows of vectors: losses that compare a vector with another one by cosine or by distance. A `pair`
 * is a distance with what its gradient needs; a loss file gives the value and the slope of a row as
 * a function of the distance, and gets the kernel from pair_rows.
 */
#ifndef LK_PAIR_H
#define LK_PAIR_H

#include "loss.h"
#include "vector/element.h"

/* By the names of the variant; they are in rows/pair.c. */
#define pair_check_width LK_PASTE(LK_VARIANT, pair_check_width)
#define pair_prepare     LK_PASTE(LK_VARIANT, pair_prepare)
#define pair_refuse      LK_PASTE(LK_VARIANT, pair_refuse)
#define pair_largest     LK_PASTE(LK_VARIANT, pair_largest)
#define pair_cosine      LK_PASTE(LK_VARIANT, pair_cosine)
#define pair_length      LK_PASTE(LK_VARIANT, pair_length)
#define pair_back        LK_PASTE(LK_VARIANT, pair_back)
#define pair_triple_back LK_PASTE(LK_VARIANT, pair_triple_back)
#define pair_rows        LK_PASTE(LK_VARIANT, pair_rows)

/* Functions of one number that let NaN through. */

/* max(0, x) and its slope. */
LK_INLINE double pair_hinge(double x)
{
    return x <= 0 ? 0 : x;
}

LK_INLINE double pair_step(double x)
{
    return x > 0 ? 1 : x <= 0 ? 0 : x;
}

/* log(1 + e^x) and its slope. */
LK_INLINE double pair_softplus(double x)
{
    return (x > 0 ? x : 0) + log1p(exp(-fabs(x)));
}

LK_INLINE double pair_sigmoid(double x)
{
    double e = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

#define PAIR_VECTORS(name_, shape_, flags_, help_)                                                 \
    {                                                                                              \
        .name = (name_), .forms = {{(shape_), LK_FLOATS}},                                         \
        .flags = LK_DIFFERENTIABLE | LK_GRADIENT | (flags_), .help = (help_)                       \
    }
#define PAIR_COS_EPS_FIELD(st)                                                                     \
    LK_FIELD(st, cos_eps, "1e-8", LK_RANGED | LK_OPEN, 0, (double)INFINITY,                        \
             "a vector is divided by its norm, or by this where the norm is less")
#define PAIR_TEMPERATURE_FIELD(st, fallback_)                                                      \
    LK_FIELD(st, temperature, (fallback_), LK_RANGED | LK_OPEN, 0, (double)INFINITY,               \
             "the similarities are divided by it")

/* The members of lk_reduce that every loss here has set. */
LK_INLINE bool pair_per_row(const lk_job *job)
{
    const lk_reduce *reduce = job->options;
    return job->loss->is.loss_shape && reduce->reduction == LK_NONE;
}

LK_INLINE bool pair_refuses(const lk_job *job)
{
    const lk_reduce *reduce = job->options;
    return reduce->nonfinite == LK_REFUSE_NONFINITE;
}

/* What the gradient of row i is multiplied with. */
LK_INLINE double pair_weight(const lk_job *job, int grad_output, int64_t i)
{
    const char *up = job->in[grad_output].data;
    real upstream = 1;
    if (up)
        memcpy(&upstream, up + (pair_per_row(job) ? i : 0) * (int64_t)sizeof upstream,
               sizeof upstream);
    return job->scale[0] * (double)upstream;
}

LK_INLINE void pair_put(const lk_job *job, lk_block *block, int64_t i, double loss)
{
    block->sum[0] += loss;
    if (pair_per_row(job) && job->value.data)
        lk_put(&job->value, i, loss);
}

/* Note the first bad value of row i of an input with `width` elements a row. */
LK_DRIVER bool pair_refuse(const lk_job *job, int input, int64_t i, int64_t width, lk_block *block);

/* Vectors without a component are not compared: there could be any number of them in no memory. */
LK_DRIVER lk_status pair_check_width(const lk_job *job, lk_error *error);

/* A loss of [*] whose mean divides by the rows. */
LK_DRIVER lk_status pair_prepare(lk_job *job, lk_error *error);

enum { PAIR_SIMILARITY, PAIR_COSINE, PAIR_L2, PAIR_L1, PAIR_SQUARED_L2 };

typedef struct pair {
    int kind;
    double value;
    double xx, xy, yy; /* cosines: dv/dx = xx x + xy y, dv/dy = xy x + yy y */
    double slope;      /* the others: dv/dx = -dv/dy = slope * (x - y + shift), or its sign */
    double shift;
    /* Where squares would leave the range all this is of scaled vectors. Cosines: by the squares of
     * these, of x and of y. Lengths: x - y + shift by the first and by the square of the second. */
    bool far;
    double scale_x, scale_y;
} pair;

/* Norms whose squares, products and quotients stay in the range of a double. */
LK_INLINE bool pair_near(double norm)
{
    return norm >= 0x1p-480 && norm <= 0x1p480;
}

/* Root of a power of two that brings numbers up to `most` to about 1. The power itself may be
 * beyond the range: it is applied in two steps. */
LK_INLINE double pair_root(double most)
{
    int exponent;
    (void)frexp(most, &exponent);
    return ldexp(1, -exponent / 2);
}

/* max |v_k|; NaN if it is not finite. */
LK_DRIVER double pair_largest(const elem *v, int64_t width);

/* Cosine s = h_x h_y of h = unit(v); ds/dx = (h_y - [|x| > eps] s h_x) / n_x. */
LK_DRIVER pair pair_cosine(int kind, const elem *x, const elem *y, int64_t width, double eps);

/* |x - y + shift|, the sum of its components' absolute values, or of their squares. */
LK_DRIVER pair pair_length(int kind, const elem *x, const elem *y, int64_t width, double shift);

/* The distance d(x, y) of that kind. `shift` is added to every component of x - y. */
LK_INLINE pair pair_of(int kind, const elem *x, const elem *y, int64_t width, double eps,
                       double shift)
{
    if (kind == PAIR_SIMILARITY || kind == PAIR_COSINE)
        return pair_cosine(kind, x, y, width, eps);
    return pair_length(kind, x, y, width, shift);
}

/* Write c dv/dx and c dv/dy where they are asked for, also over x and y themselves. */
LK_DRIVER void pair_back(const pair *p, double c, const elem *x, const elem *y, int64_t width,
                         elem *grad_x, elem *grad_y);

/* Three vectors: a, p and n; their distances, and what the gradients of these are multiplied with.
 */
typedef struct triple {
    const elem *a, *p, *n;
    pair ap, an, pn;
    double c_ap, c_an, c_pn;
} pair_triple;

/* Write weight times the gradients by a, p and n where they are asked for, each also over its own
 * vector. */
LK_DRIVER void pair_triple_back(const pair_triple *t, double weight, int64_t width,
                                elem *const *grad);

/* Inputs of the losses of two vectors a row; GRAD_OUTPUT is the last. */
enum { PAIR_A, PAIR_B, PAIR_TARGET, PAIR_GRAD_OUTPUT };

/* Value and slope of row i as a function of v, the pair's value. */
typedef struct pair_row {
    double value, slope;
} pair_row;

/* Rows of pairs of that kind, each as `row` says. */
LK_DRIVER void pair_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                         const int kind, const double eps,
                         pair_row (*row)(const lk_job *job, int64_t i, double v));

#endif
