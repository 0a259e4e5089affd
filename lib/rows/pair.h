/* SPDX-License-Identifier: MIT
 *
 * Losses that compare two vectors by cosine or by distance. A `pair` holds the distance and what
 * its gradient needs; a loss file gives the value and the slope of a row as a function of the
 * distance, and gets the kernel from pair_rows.
 */
#ifndef LK_PAIR_H
#define LK_PAIR_H

#include "loss.h"
#include "vector/accurate.h"
#include "vector/element.h"

/* Each variant has its own copy, under its own names; defined in rows/pair.c. */
#define pair_check_width LK_PASTE(LK_VARIANT, pair_check_width)
#define pair_prepare     LK_PASTE(LK_VARIANT, pair_prepare)
#define pair_refuse      LK_PASTE(LK_VARIANT, pair_refuse)
#define pair_largest     LK_PASTE(LK_VARIANT, pair_largest)
#define pair_dot         LK_PASTE(LK_VARIANT, pair_dot)
#define pair_cosine      LK_PASTE(LK_VARIANT, pair_cosine)
#define pair_length      LK_PASTE(LK_VARIANT, pair_length)
#define pair_streams     LK_PASTE(LK_VARIANT, pair_streams)
#define pair_settle      LK_PASTE(LK_VARIANT, pair_settle)
#define pair_back        LK_PASTE(LK_VARIANT, pair_back)
#define pair_add         LK_PASTE(LK_VARIANT, pair_add)
#define pair_round       LK_PASTE(LK_VARIANT, pair_round)
#define pair_triple_back LK_PASTE(LK_VARIANT, pair_triple_back)

/* Scalar functions that propagate NaN. */

/* max(0, x) and its slope. */
LK_INLINE double pair_hinge(double x)
{
    return x <= 0 ? 0 : x;
}

LK_INLINE double pair_step(double x)
{
    return x > 0 ? 1 : x <= 0 ? 0 : x;
}

/* The slope of lk_softplus. */
LK_INLINE double pair_sigmoid(double x)
{
    double e = lk_exp(-fabs(x));
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
#define PAIR_ADDED_EPS 1e-6 /* of PAIR_ADDED; PyTorch adds its square, 1e-12 */
#define PAIR_TEMPERATURE_FIELD(st, fallback_)                                                      \
    LK_FIELD(st, temperature, (fallback_), LK_RANGED | LK_OPEN, 0, (double)INFINITY,               \
             "the similarities are divided by it")

/* Is `loss` one number for each row? Every loss here has lk_reduce as its first member. */
LK_INLINE bool pair_per_row(const lk_job *job)
{
    const lk_reduce *reduce = job->options;
    return job->loss->is->loss_shape && reduce->reduction == LK_NONE;
}

LK_INLINE bool pair_refuses(const lk_job *job)
{
    const lk_reduce *reduce = job->options;
    return reduce->nonfinite == LK_REFUSE_NONFINITE;
}

/* Element i of a float input that is not differentiable. */
LK_INLINE double pair_number(const lk_job *job, int input, int64_t i)
{
    const char *data = job->in[input].data;
    real x;
    memcpy(&x, data + i * (int64_t)sizeof x, sizeof x);
    return (double)x;
}

/* The factor of the gradient of row i. */
LK_INLINE double pair_weight(const lk_job *job, int grad_output, int64_t i)
{
    if (!job->in[grad_output].data)
        return job->scale[0];
    return job->scale[0] * pair_number(job, grad_output, pair_per_row(job) ? i : 0);
}

LK_INLINE void pair_put(const lk_job *job, lk_block *block, int64_t i, double loss)
{
    block->sum[0] += loss;
    if (pair_per_row(job) && job->value.data)
        lk_put(&job->value, i, loss);
}

/* Does row i of an input, of `width` elements, have a value that is not finite? If so, it is noted
 * in the block as a bad value. */
LK_DRIVER bool pair_refuse(const lk_job *job, int input, int64_t i, int64_t width, lk_block *block);

/* Refuse vectors of width 0: a request could claim any number of them without sending a byte. */
LK_DRIVER lk_status pair_check_width(const lk_job *job, lk_error *error);

/* `prepare` of a loss with one value for each row, whose mean divides by the number of rows. */
LK_DRIVER lk_status pair_prepare(lk_job *job, lk_error *error);

/* PAIR_DOT: the dot product. PAIR_SIMILARITY: the cosine. PAIR_ADDED: the same with a norm whose
 * square is |v|^2 + eps^2. PAIR_COSINE: 1 - cosine. */
enum { PAIR_DOT, PAIR_SIMILARITY, PAIR_ADDED, PAIR_COSINE, PAIR_L2, PAIR_L1, PAIR_SQUARED_L2 };

typedef struct pair {
    int kind;
    double value;
    double xx, xy, yy; /* dots, cosines: dv/dx = xx x + xy y, dv/dy = xy x + yy y */
    double slope; /* distances: dv/dx = -dv/dy = slope * (x - y + shift), or slope times the sign of
                     that */
    double shift;
    /* The vectors are scaled, because their squares would overflow or underflow. The above is then
     * about the scaled vectors. Cosines: x and y are multiplied by the squares of scale_x and
     * scale_y. Distances: x - y + shift is multiplied by scale_x and by the square of scale_y. */
    bool far;
    double scale_x, scale_y;
} pair;

/* Is a norm such that squares, products and quotients neither overflow nor underflow a double? */
LK_INLINE bool pair_near(double norm)
{
    return norm >= 0x1p-480 && norm <= 0x1p480;
}

/* The square root of the power of two that scales numbers of up to `most` to about 1. The power
 * itself may overflow, so the root is applied twice. */
LK_INLINE double pair_root(double most)
{
    int exponent;
    (void)frexp(most, &exponent);
    return ldexp(1, -exponent / 2);
}

/* max |v_k|; NaN if it is not finite. */
LK_DRIVER double pair_largest(const elem *v, int64_t width);

/* Is a kind one of the products, of vectors that are normalised or are not? */
LK_INLINE bool pair_is_cosine(int kind)
{
    return kind <= PAIR_COSINE;
}

/* The dot product; NaN where a component of either vector is not finite. */
LK_DRIVER void pair_dot(pair *p, const elem *x, const elem *y, int64_t width);

/* Cosine s = h_x h_y of h = v / n, n = max(|v|, eps); ds/dx = (h_y - [|x| > eps] s h_x) / n_x. With
 * PAIR_ADDED n = sqrt(|v|^2 + eps^2), and [|x| > eps] is 1. */
LK_DRIVER void pair_cosine(pair *p, int kind, const elem *x, const elem *y, int64_t width,
                           double eps);

/* |x - y + shift|, the sum of its components' absolute values, or of their squares. */
LK_DRIVER void pair_length(pair *p, int kind, const elem *x, const elem *y, int64_t width,
                           double shift);

/* The distance or cosine of that kind. `shift` is added to every component of x - y. Written where
 * it belongs: to copy a pair just after its members were written would stall. */
LK_INLINE void pair_of(pair *p, int kind, const elem *x, const elem *y, int64_t width, double eps,
                       double shift)
{
    if (kind == PAIR_DOT)
        pair_dot(p, x, y, width);
    else if (pair_is_cosine(kind))
        pair_cosine(p, kind, x, y, width, eps);
    else
        pair_length(p, kind, x, y, width, shift);
}

/* Do the gradients of the first `inputs` inputs, vectors of all rows, go past the caches? Where
 * each of them is larger than these, not in place, and its rows are whole cache lines. */
LK_DRIVER bool pair_streams(const lk_job *job, int inputs);

/* After the last row of a run: others may read what went past the caches. */
LK_DRIVER void pair_settle(bool streamed);

/* Write c dv/dx and c dv/dy where requested; each may be written in place, over x or y. If c is 0
 * they are 0, even if v is NaN; if v is NaN and c is not 0 they are NaN. `stream`: past the caches,
 * see v_stream. */
LK_DRIVER void pair_back(const pair *p, double c, const elem *x, const elem *y, int64_t width,
                         elem *grad_x, elem *grad_y, bool stream);

/* Add c dv/dx and c dv/dy, nothing if c is 0, to sums of padded_lanes(width) doubles each (NULL:
 * not wanted), and round such sums to elements. */
LK_DRIVER void pair_add(const pair *p, double c, const elem *x, const elem *y, int64_t width,
                        double *to_x, double *to_y);
LK_DRIVER void pair_round(const double *sum, int64_t width, elem *to);

/* Three vectors (anchor, positive, negative), their distances, and the factors of the gradients of
 * these. */
typedef struct triple {
    const elem *a, *p, *n;
    pair ap, an, pn;
    double c_ap, c_an, c_pn;
} pair_triple;

/* Write `weight` times the gradients with respect to a, p and n where requested; each may be
 * written in place, over its own vector. */
LK_DRIVER void pair_triple_back(const pair_triple *t, double weight, int64_t width,
                                elem *const *grad, bool stream);

/* The inputs of losses that compare two vectors in each row. */
enum { PAIR_A, PAIR_B, PAIR_TARGET, PAIR_GRAD_OUTPUT };

/* Value and slope of row i as a function of v, the pair's value. */
typedef struct pair_row {
    double value, slope;
} pair_row;

/* The kernel of a loss of pairs of that kind; `row` gives the value and slope of each row. */
LK_INLINE void pair_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                         const int kind, const double eps,
                         pair_row (*row)(const lk_job *job, int64_t i, double v))
{
    const int64_t width = job->size['D' - 'A'];
    const elem *a = job->in[PAIR_A].data, *b = job->in[PAIR_B].data;
    elem *grad_a = job->grad[PAIR_A].data, *grad_b = job->grad[PAIR_B].data;
    const bool stream = pair_streams(job, 2);
    for (int64_t i = first; i < first + count; i++) {
        const elem *x = a + i * width, *y = b + i * width;
        if (pair_refuses(job)) {
            bool bad = pair_refuse(job, PAIR_A, i, width, block);
            if (pair_refuse(job, PAIR_B, i, width, block) || bad)
                continue;
        }
        pair p;
        pair_of(&p, kind, x, y, width, eps, 0);
        const pair_row r = row(job, i, p.value);
        pair_put(job, block, i, r.value);
        pair_back(&p, scalar_times(pair_weight(job, PAIR_GRAD_OUTPUT, i), r.slope), x, y, width,
                  grad_a ? grad_a + i * width : NULL, grad_b ? grad_b + i * width : NULL, stream);
    }
    pair_settle(stream);
}

#endif
