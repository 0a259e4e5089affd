/* SPDX-License-Identifier: MIT
 *
 * Rows of vectors: losses that compare a vector with another one by cosine or by distance (first
 * part), or with all vectors of a set by the cosines of a whole row (second part).
 *
 * First part. A `pair` is a distance with what its gradient needs; a loss file gives the value and
 * the slope of a row as a function of the distance, and gets the kernel from pair_rows.
 *
 * Second part. `pair_units` are the unit vectors h of an input, kept in job->state. A row computes
 * its scores against all units of a set and leaves in their place G, the slope of the loss by each
 * score; the gradients are passes that gather: dL/dh_i = sum_j G_ij h_j, then through unit(). Who
 * reads whose row is up to the loss; every row writes its own row of G alone.
 */
#ifndef LK_PAIR_H
#define LK_PAIR_H

#include <stdlib.h>

#include "loss.h"
#include "vector/vec.h"
#include "vector/vmath.h"

/* Sums over the components of two vectors are carried in double from the start: what is left of a
 * cosine near 1, or of a difference, is small beside the terms. */
typedef int64_t wide_mask __attribute__((vector_size(LANES * sizeof(double))));

/* What sums of wide vectors are carried in: half a vector where that is what a register holds, for
 * gcc keeps the longer ones in memory from one turn of a loop to the next. */
enum { WIDE_PARTS = LANES > 1 && sizeof(real) < sizeof(double) ? 2 : 1 };
typedef double wide_half __attribute__((vector_size(LANES / WIDE_PARTS * sizeof(double))));

LK_INLINE wide_half w_fold(wide x)
{
    wide_half part[WIDE_PARTS];
    memcpy(part, &x, sizeof x);
    return WIDE_PARTS == 1 ? part[0] : part[0] + part[WIDE_PARTS - 1];
}

LK_INLINE wide w_set(double x)
{
    return x - (wide){0};
}

/* n elements, 0 < n <= LANES; 0 in the lanes beyond. */
LK_INLINE wide w_load(const elem *p, int64_t n)
{
    return v_wide(v_load_tail(p, n, 0));
}

LK_INLINE void w_store(elem *p, int64_t n, wide x)
{
    v_store_tail(p, n, __builtin_convertvector(x, vec));
}

LK_INLINE wide w_read(const double *p)
{
    wide x;
    memcpy(&x, p, sizeof x);
    return x;
}

LK_INLINE void w_write(double *p, wide x)
{
    memcpy(p, &x, sizeof x);
}

/* The first n lanes of x; 0 in the others. */
LK_INLINE wide w_first(int64_t n, wide x)
{
    if (n == LANES)
        return x;
    return (wide)(__builtin_convertvector(m_first(n), wide_mask) & (wide_mask)x);
}

LK_INLINE wide w_abs(wide x)
{
    return (wide)((wide_mask)x & INT64_MAX);
}

/* -1, 0 or 1; 0 for NaN. */
LK_INLINE wide w_sign(wide x)
{
    const wide zero = {0};
    wide_mask above = x > zero, below = x < zero;
    return (wide)((above & (wide_mask)w_set(1)) | (below & (wide_mask)w_set(-1)));
}

LK_INLINE double w_sum(wide_half x)
{
    for (int half = LANES / WIDE_PARTS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}

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

/* ------------------------------------------------------------------------------ what all share  */

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

/* The first NaN or +inf among n elements, or -1. */
LK_STATIC int64_t pair_nonfinite(const elem *x, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        real value = r_load(x + k);
        if (isnan(value) || (isinf(value) && value > 0))
            return k;
    }
    return -1;
}

/* Note the first bad value of row i of an input with `width` elements a row. */
LK_STATIC bool pair_refuse(const lk_job *job, int input, int64_t i, int64_t width, lk_block *block)
{
    int64_t k = pair_nonfinite((const elem *)job->in[input].data + i * width, width);
    if (k < 0)
        return false;
    if (block->bad == LK_OK || input < block->bad_input) {
        block->bad = LK_NONFINITE_INPUT;
        block->bad_input = input;
        block->bad_index = i * width + k;
    }
    return true;
}

/* Vectors without a component are not compared: there could be any number of them in no memory. */
LK_STATIC lk_status pair_check_width(const lk_job *job, lk_error *error)
{
    const lk_tensor *first = &job->in[0];
    if (job->size['D' - 'A'] == 0 && first->shape[0] > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, 0, -1,
                       "%s has vectors without components; D must be at least 1",
                       job->loss->is.inputs[0].name);
    return LK_OK;
}

/* A loss of [N] whose mean divides by N. */
LK_STATIC lk_status pair_prepare(lk_job *job, lk_error *error)
{
    (void)error;
    job->counted = job->rows;
    job->denominator[0] = (double)job->rows;
    return LK_OK;
}

/* ------------------------------------------------------------------------ one vector with one  */

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
LK_STATIC double pair_largest(const elem *v, int64_t width)
{
    double most = 0;
    for (int64_t k = 0; k < width; k++) {
        const double size = fabs((double)r_load(v + k));
        if (!isfinite(size))
            return (double)NAN;
        most = size > most ? size : most;
    }
    return most;
}

LK_INLINE wide pair_scaled(wide v, double root)
{
    return v * w_set(root) * w_set(root);
}

/* x x, x y and y y of vectors, scaled where they are far. */
LK_INLINE void pair_products(const bool far, pair *p, const elem *x, const elem *y, int64_t width)
{
    wide_half xx = {0}, xy = {0}, yy = {0}, xx2 = {0}, xy2 = {0}, yy2 = {0};
    int64_t k = 0;
    for (; !far && k + 2 * LANES <= width; k += 2 * LANES) {
        wide a = w_load(x + k, LANES), b = w_load(y + k, LANES);
        wide a2 = w_load(x + k + LANES, LANES), b2 = w_load(y + k + LANES, LANES);
        xx += w_fold(a * a);
        xy += w_fold(a * b);
        yy += w_fold(b * b);
        xx2 += w_fold(a2 * a2);
        xy2 += w_fold(a2 * b2);
        yy2 += w_fold(b2 * b2);
    }
    for (; k < width; k += LANES) {
        wide a = w_load(x + k, LK_TAIL(k, width)), b = w_load(y + k, LK_TAIL(k, width));
        if (far) {
            a = pair_scaled(a, p->scale_x);
            b = pair_scaled(b, p->scale_y);
        }
        xx += w_fold(a * a);
        xy += w_fold(a * b);
        yy += w_fold(b * b);
    }
    p->xx = w_sum(xx + xx2);
    p->xy = w_sum(xy + xy2);
    p->yy = w_sum(yy + yy2);
}

/* Cosine s = h_x h_y of h = unit(v); ds/dx = (h_y - [|x| > eps] s h_x) / n_x. */
LK_STATIC pair pair_cosine(int kind, const elem *x, const elem *y, int64_t width, double eps)
{
    pair p = {.kind = kind};
    double eps_x = eps, eps_y = eps;
    pair_products(false, &p, x, y, width);
    double norm_x = sqrt(p.xx), norm_y = sqrt(p.yy);
    if (!pair_near(norm_x <= eps ? eps : norm_x) || !pair_near(norm_y <= eps ? eps : norm_y)) {
        const double most_x = pair_largest(x, width), most_y = pair_largest(y, width);
        p.far = true;
        p.scale_x = pair_root(most_x > eps ? most_x : eps);
        p.scale_y = pair_root(most_y > eps ? most_y : eps);
        eps_x = eps * p.scale_x * p.scale_x;
        eps_y = eps * p.scale_y * p.scale_y;
        pair_products(true, &p, x, y, width);
        norm_x = isnan(most_x) ? most_x : sqrt(p.xx);
        norm_y = isnan(most_y) ? most_y : sqrt(p.yy);
    }
    const double n_x = norm_x <= eps_x ? eps_x : norm_x, n_y = norm_y <= eps_y ? eps_y : norm_y;
    const double dot = p.xy / n_x / n_y;
    const double s = dot > 1 ? 1 : dot < -1 ? -1 : dot;
    const double sign = kind == PAIR_COSINE ? -1 : 1;
    p.value = kind == PAIR_COSINE ? 1 - s : s;
    p.xy = sign / n_x / n_y;
    p.xx = n_x > eps_x ? -sign * s / n_x / n_x : 0;
    p.yy = n_y > eps_y ? -sign * s / n_y / n_y : 0;
    if (isnan(s))
        p.xx = p.xy = p.yy = s;
    return p;
}

/* x - y + shift in some lanes. */
LK_INLINE wide pair_difference(const bool far, const pair *p, wide x, wide y)
{
    if (far)
        return pair_scaled(x * w_set(p->scale_x) - y * w_set(p->scale_x) +
                               w_set(p->shift * p->scale_x),
                           p->scale_y);
    return x - y + w_set(p->shift);
}

/* The sum of |r|, or of its squares, over r = x - y + shift. */
LK_INLINE double pair_sum_of(const bool squares, const bool far, const pair *p, const elem *x,
                             const elem *y, int64_t width)
{
    wide_half total = {0}, total2 = {0};
    int64_t k = 0;
    for (; k + 2 * LANES <= width; k += 2 * LANES) {
        const wide r = pair_difference(far, p, w_load(x + k, LANES), w_load(y + k, LANES));
        const wide r2 =
            pair_difference(far, p, w_load(x + k + LANES, LANES), w_load(y + k + LANES, LANES));
        total += w_fold(squares ? r * r : w_abs(r));
        total2 += w_fold(squares ? r2 * r2 : w_abs(r2));
    }
    for (; k < width; k += LANES) {
        const int64_t n = LK_TAIL(k, width);
        const wide r = w_first(n, pair_difference(far, p, w_load(x + k, n), w_load(y + k, n)));
        total += w_fold(squares ? r * r : w_abs(r));
    }
    return w_sum(total + total2);
}

/* The largest |x - y + shift|, scaled. */
LK_STATIC double pair_largest_difference(const pair *p, const elem *x, const elem *y, int64_t width)
{
    double most = 0;
    for (int64_t k = 0; k < width; k++) {
        const double a = (double)r_load(x + k), b = (double)r_load(y + k);
        const double r = fabs(a * p->scale_x - b * p->scale_x + p->shift * p->scale_x);
        most = r > most ? r : most;
    }
    return most;
}

/* |x - y + shift| where its square is no number to be had; its vector and its length are divided by
 * a power of two. */
LK_STATIC void pair_length_far(pair *p, const elem *x, const elem *y, int64_t width)
{
    p->far = true;
    p->scale_x = 0x1p-2; /* so that no difference leaves the range, */
    double most = pair_largest_difference(p, x, y, width);
    if (most < 0x1p-400) { /* and where they are small none loses a digit */
        p->scale_x = 1;
        most = pair_largest_difference(p, x, y, width);
    }
    p->scale_y = most > 0 ? pair_root(most) : 1;
    const double norm = sqrt(pair_sum_of(true, true, p, x, y, width));
    p->value = norm / p->scale_y / p->scale_y / p->scale_x;
    p->slope = norm == 0 ? 0 : 1 / norm;
}

LK_STATIC pair pair_length(int kind, const elem *x, const elem *y, int64_t width, double shift)
{
    pair p = {.kind = kind, .shift = shift};
    const double sum = kind == PAIR_L1 ? pair_sum_of(false, false, &p, x, y, width)
                                       : pair_sum_of(true, false, &p, x, y, width);
    p.value = kind == PAIR_L2 ? sqrt(sum) : sum;
    p.slope = kind == PAIR_L1 ? 1 : kind == PAIR_SQUARED_L2 ? 2 : 1 / p.value;
    if (!isfinite(sum) && isnan(pair_largest(x, width) + pair_largest(y, width)))
        p.value = p.slope = (double)NAN;
    else if (kind == PAIR_L2 && !pair_near(p.value))
        pair_length_far(&p, x, y, width);
    return p;
}

/* The distance d(x, y) of that kind. `shift` is added to every component of x - y. */
LK_INLINE pair pair_of(int kind, const elem *x, const elem *y, int64_t width, double eps,
                       double shift)
{
    if (kind == PAIR_SIMILARITY || kind == PAIR_COSINE)
        return pair_cosine(kind, x, y, width, eps);
    return pair_length(kind, x, y, width, shift);
}

/* How gradients are computed, known where they are compiled. LINEAR is for both that are linear in
 * x - y. FAR is for all that are far, and for those beside them in a row. */
typedef enum pair_family { PAIR_COSINES, PAIR_SIGNS, PAIR_LINEAR, PAIR_FAR } pair_family;

LK_INLINE bool pair_is_cosine(const pair *p)
{
    return p->kind == PAIR_SIMILARITY || p->kind == PAIR_COSINE;
}

LK_INLINE pair_family pair_family_of(const pair *p)
{
    return p->far               ? PAIR_FAR
           : pair_is_cosine(p)  ? PAIR_COSINES
           : p->kind == PAIR_L1 ? PAIR_SIGNS
                                : PAIR_LINEAR;
}

/* dv/dx in some lanes, of a pair that may be far. */
LK_STATIC wide pair_slope_x_far(const pair *p, wide x, wide y)
{
    if (!pair_is_cosine(p))
        return w_set(p->slope) * pair_difference(p->far, p, x, y);
    if (!p->far)
        return w_set(p->xx) * x + w_set(p->xy) * y;
    return pair_scaled(w_set(p->xx) * pair_scaled(x, p->scale_x) +
                           w_set(p->xy) * pair_scaled(y, p->scale_y),
                       p->scale_x);
}

/* dv/dx and dv/dy in some lanes, from x and y in them. */
LK_INLINE wide pair_slope_x(const pair_family family, const pair *p, wide x, wide y)
{
    if (family == PAIR_FAR)
        return pair_slope_x_far(p, x, y);
    if (family == PAIR_COSINES)
        return w_set(p->xx) * x + w_set(p->xy) * y;
    const wide r = pair_difference(false, p, x, y);
    return w_set(p->slope) * (family == PAIR_SIGNS ? w_sign(r) : r);
}

LK_INLINE wide pair_slope_y(const pair_family family, const pair *p, wide x, wide y)
{
    if (family == PAIR_FAR && pair_is_cosine(p)) {
        pair turned = *p;
        turned.xx = p->yy;
        turned.scale_x = p->scale_y;
        turned.scale_y = p->scale_x;
        return pair_slope_x_far(&turned, y, x);
    }
    if (family == PAIR_COSINES)
        return w_set(p->xy) * x + w_set(p->yy) * y;
    return -pair_slope_x(family, p, x, y);
}

/* Call back(family, ...). */
#define PAIR_BY_FAMILY(family, back, ...)                                                          \
    do {                                                                                           \
        switch (family) {                                                                          \
        case PAIR_COSINES:                                                                         \
            back(PAIR_COSINES, __VA_ARGS__);                                                       \
            break;                                                                                 \
        case PAIR_SIGNS:                                                                           \
            back(PAIR_SIGNS, __VA_ARGS__);                                                         \
            break;                                                                                 \
        case PAIR_LINEAR:                                                                          \
            back(PAIR_LINEAR, __VA_ARGS__);                                                        \
            break;                                                                                 \
        case PAIR_FAR:                                                                             \
            back(PAIR_FAR, __VA_ARGS__);                                                           \
            break;                                                                                 \
        }                                                                                          \
    } while (0)

LK_STATIC void pair_fill(elem *grad, int64_t width, real x)
{
    for (int64_t k = 0; grad && k < width; k += LANES)
        v_store_tail(grad + k, LK_TAIL(k, width), v_set(x));
}

/* A row whose gradient is 0, or NaN, all over? Then it is written here: the sign of a NaN would
 * depend on what else the compiler does where it comes about. */
LK_INLINE bool pair_flat(double c, elem *const *grad, int grads, int64_t width)
{
    if (c != 0 && !isnan(c))
        return false;
    for (int k = 0; k < grads; k++)
        pair_fill(grad[k], width, c == 0 ? 0 : (real)NAN);
    return true;
}

LK_INLINE void pair_back_of(const pair_family family, const pair *p, double c, const elem *x,
                            const elem *y, int64_t width, elem *grad_x, elem *grad_y)
{
    for (int64_t k = 0; k < width; k += LANES) {
        const int64_t n = LK_TAIL(k, width);
        const wide u = w_load(x + k, n), v = w_load(y + k, n);
        if (grad_x)
            w_store(grad_x + k, n, w_set(c) * pair_slope_x(family, p, u, v));
        if (grad_y)
            w_store(grad_y + k, n, w_set(c) * pair_slope_y(family, p, u, v));
    }
}

/* Write c dv/dx and c dv/dy where they are asked for, also over x and y themselves. */
LK_STATIC void pair_back(const pair *p, double c, const elem *x, const elem *y, int64_t width,
                         elem *grad_x, elem *grad_y)
{
    elem *const grad[] = {grad_x, grad_y};
    if (!pair_flat(c != 0 && isnan(p->value) ? p->value : c, grad, 2, width))
        PAIR_BY_FAMILY(pair_family_of(p), pair_back_of, p, c, x, y, width, grad_x, grad_y);
}

/* Inputs of the losses of two vectors a row; GRAD_OUTPUT is the last. */
enum { PAIR_A, PAIR_B, PAIR_TARGET, PAIR_GRAD_OUTPUT };

/* Value and slope of row i as a function of v, the pair's value. */
typedef struct pair_row {
    double value, slope;
} pair_row;

LK_INLINE void pair_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                         const int kind, const double eps,
                         pair_row (*row)(const lk_job *job, int64_t i, double v))
{
    const int64_t width = job->size['D' - 'A'];
    const elem *a = job->in[PAIR_A].data, *b = job->in[PAIR_B].data;
    elem *grad_a = job->grad[PAIR_A].data, *grad_b = job->grad[PAIR_B].data;
    for (int64_t i = first; i < first + count; i++) {
        const elem *x = a + i * width, *y = b + i * width;
        if (pair_refuses(job)) {
            bool bad = pair_refuse(job, PAIR_A, i, width, block);
            if (pair_refuse(job, PAIR_B, i, width, block) || bad)
                continue;
        }
        const pair p = pair_of(kind, x, y, width, eps, 0);
        const pair_row r = row(job, i, p.value);
        pair_put(job, block, i, r.value);
        pair_back(&p, r.slope * pair_weight(job, PAIR_GRAD_OUTPUT, i), x, y, width,
                  grad_a ? grad_a + i * width : NULL, grad_b ? grad_b + i * width : NULL);
    }
}

/* -------------------------------------------------------------------------- one vector with all */

/* Numbers in order, equal ones side by side; each with its place. */
typedef struct pair_place {
    int64_t key, at;
} pair_place;

LK_STATIC int pair_compare(const void *a, const void *b)
{
    const pair_place *p = a, *q = b;
    if (p->key != q->key)
        return p->key < q->key ? -1 : 1;
    return p->at < q->at ? -1 : p->at > q->at;
}

LK_STATIC void pair_sort(pair_place *place, int64_t n)
{
    if (n > 1)
        qsort(place, (size_t)n, sizeof *place, pair_compare);
}

/* The next `bytes` bytes of job->state. Where only their number is asked for there is no state yet,
 * and the place is none: so it is computed as a number. */
LK_INLINE void *pair_take(const lk_job *job, size_t *used, size_t bytes)
{
    uintptr_t place = (uintptr_t)job->state + *used;
    *used += (bytes + 63) / 64 * 64;
    return (void *)place;
}

/* Whole vectors: rows of reals are padded to them, so that no loop here has a tail. */
LK_INLINE int64_t pair_padded(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

/* Refuse what even its size cannot be told of: x and y rows whose products are all kept. */
LK_STATIC lk_status pair_check_memory(const lk_job *job, int64_t x, int64_t y, lk_error *error)
{
    const double width = (double)job->size['D' - 'A'] + 64;
    const double reals = 2 * ((double)x + 64) * ((double)y + 64) + ((double)x + (double)y) * width;
    if (reals > 0x1p58)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, 0, -1,
                       "%s has more rows than memory can hold the similarities of",
                       job->loss->is.inputs[0].name);
    return LK_OK;
}

/* The vectors of an input as h = v / n with n = max(|v|, eps), or as they are with n = 1. */
typedef struct pair_units {
    real *h;
    double *n;
    int64_t rows, width, stride;
    double eps; /* infinite: as they are */
} pair_units;

LK_INLINE pair_units pair_units_take(const lk_job *job, size_t *used, int input, double eps)
{
    pair_units u = {.rows = job->in[input].shape[0], .width = job->in[input].shape[1], .eps = eps};
    u.stride = pair_padded(u.width);
    u.h = pair_take(job, used, (size_t)(u.rows * u.stride) * sizeof *u.h);
    u.n = pair_take(job, used, (size_t)u.rows * sizeof *u.n);
    return u;
}

/* The norm of v; times root squared where that is not 1. */
LK_STATIC double pair_norm(const elem *v, int64_t width, double root)
{
    wide_half total = {0};
    for (int64_t k = 0; k < width; k += LANES) {
        wide x = w_load(v + k, LK_TAIL(k, width));
        if (root != 1)
            x = pair_scaled(x, root);
        total += w_fold(x * x);
    }
    return sqrt(w_sum(total));
}

LK_STATIC void pair_unit(const pair_units *u, int64_t i, const elem *v)
{
    double n = 1, root = 1;
    if (isfinite(u->eps)) {
        const double norm = pair_norm(v, u->width, 1);
        n = norm <= u->eps ? u->eps : norm;
        if (!pair_near(n)) {
            const double most = pair_largest(v, u->width);
            root = pair_root(most > u->eps ? most : u->eps);
            const double eps = u->eps * root * root, far = pair_norm(v, u->width, root);
            n = isnan(most) ? most : far <= eps ? eps : far;
        }
    }
    u->n[i] = n / root / root;
    for (int64_t k = 0; k < u->width; k += LANES) {
        wide h = pair_scaled(w_load(v + k, LK_TAIL(k, u->width)), root) / w_set(n);
        v_write(u->h + i * u->stride + k, __builtin_convertvector(h, vec));
    }
}

LK_STATIC lk_status pair_fail_nonfinite(const lk_job *job, int input, int64_t index,
                                        lk_error *error)
{
    char place[LK_PLACE_MAX];
    return lk_fail(job, error, LK_NONFINITE_INPUT, input, index,
                   "%s is NaN or +inf; with nonfinite=error it must be finite or -inf",
                   lk_place(job, input, index, place));
}

/* All units of an input. Refuses what nonfinite=error refuses. */
LK_STATIC lk_status pair_units_fill(const lk_job *job, const pair_units *u, int input,
                                    lk_error *error)
{
    const elem *v = job->in[input].data;
    int64_t bad = pair_refuses(job) ? pair_nonfinite(v, u->rows * u->width) : -1;
    if (bad >= 0)
        return pair_fail_nonfinite(job, input, bad, error);
    for (int64_t i = 0; i < u->rows; i++)
        pair_unit(u, i, v + i * u->width);
    return LK_OK;
}

/* Products and their partial sums are reals, as long as a lane adds up no more than this many. */
enum { PAIR_TERMS = 64 };

/* out_j = x y_j for `many` vectors y_j. */
LK_INLINE void pair_dots(const real *x, const real *y, int64_t stride, const int many, double *out)
{
    for (int j = 0; j < many; j++)
        out[j] = 0;
    for (int64_t c = 0; c < stride; c += PAIR_TERMS * LANES) {
        const int64_t end = stride - c < PAIR_TERMS * LANES ? stride : c + PAIR_TERMS * LANES;
        vec total[4] = {{0}, {0}, {0}, {0}};
        for (int64_t k = c; k < end; k += LANES)
            for (int j = 0; j < many; j++)
                total[j] = v_fma(v_read(x + k), v_read(y + j * stride + k), total[j]);
        for (int j = 0; j < many; j++)
            out[j] += (double)v_sum(total[j]);
    }
}

/* A score: -inf is for those that are not allowed, so what is not finite becomes NaN. */
LK_INLINE real pair_score(double x)
{
    real s = (real)x;
    return s + 0 * s;
}

/* s_j = scale * x h_j for all units; -inf in the lanes beyond. */
LK_STATIC void pair_scores(const real *x, const pair_units *u, double scale, real *s)
{
    double dot[4];
    int64_t j = 0;
    for (; j + 4 <= u->rows; j += 4) {
        pair_dots(x, u->h + j * u->stride, u->stride, 4, dot);
        for (int k = 0; k < 4; k++)
            s[j + k] = pair_score(scale * dot[k]);
    }
    for (; j < u->rows; j++) {
        pair_dots(x, u->h + j * u->stride, u->stride, 1, dot);
        s[j] = pair_score(scale * dot[0]);
    }
    for (; j < pair_padded(u->rows); j++)
        s[j] = -(real)INFINITY;
}

/* max s_j, NaN left out; and what to take from s before exp, finite also where no score is. */
LK_STATIC real pair_top(const real *s, int64_t padded)
{
    vec top = v_set(-(real)INFINITY);
    for (int64_t k = 0; k < padded; k += LANES)
        top = v_max(v_read(s + k), top);
    real most = v_top(top);
    return isinf(most) && most < 0 ? 0 : most;
}

/* sum_j e^(s_j - shift). */
LK_STATIC double pair_sum_exp(const real *s, int64_t padded, real shift)
{
    double sum = 0;
    for (int64_t c = 0; c < padded; c += PAIR_TERMS * LANES) {
        const int64_t end = padded - c < PAIR_TERMS * LANES ? padded : c + PAIR_TERMS * LANES;
        vec total = {0};
        for (int64_t k = c; k < end; k += LANES)
            total += v_exp(v_read(s + k) - v_set(shift));
        sum += (double)v_sum(total);
    }
    return sum;
}

/* s_j becomes a e^(s_j - shift) - b, and 0 where it is -inf. Gives sum of that times s_j - shift.
 */
LK_STATIC double pair_replace(real *s, int64_t padded, real shift, double a, double b)
{
    const vec minus_inf = v_set(-(real)INFINITY);
    double sum = 0;
    for (int64_t c = 0; c < padded; c += PAIR_TERMS * LANES) {
        const int64_t end = padded - c < PAIR_TERMS * LANES ? padded : c + PAIR_TERMS * LANES;
        vec total = {0};
        for (int64_t k = c; k < end; k += LANES) {
            const vec x = v_read(s + k), d = x - v_set(shift);
            const mask there = x != minus_inf;
            const vec g = v_where(there, v_fma(v_set((real)a), v_exp(d), v_set((real)-b)));
            total += v_where(there, g * d);
            v_write(s + k, g);
        }
        sum += (double)v_sum(total);
    }
    return sum;
}

/* sum of s_j - shift over what is not -inf. */
LK_STATIC double pair_sum_scores(const real *s, int64_t padded, real shift)
{
    const vec minus_inf = v_set(-(real)INFINITY);
    double sum = 0;
    for (int64_t c = 0; c < padded; c += PAIR_TERMS * LANES) {
        const int64_t end = padded - c < PAIR_TERMS * LANES ? padded : c + PAIR_TERMS * LANES;
        vec total = {0};
        for (int64_t k = c; k < end; k += LANES)
            total += v_where(v_read(s + k) != minus_inf, v_read(s + k) - v_set(shift));
        sum += (double)v_sum(total);
    }
    return sum;
}

/* Cross entropy of a row of scores with the targets q, which are alike on `positives` of them but
 * for eps/allowed on all that are allowed: -sum_j q_j log softmax(s)_j. Scores of -inf are not
 * allowed and have no part in it. */
typedef struct pair_softmax {
    real *s; /* padded; where slopes are wanted, G replaces it */
    int64_t padded;
    const int64_t *at; /* the positives' places */
    int64_t positives;
    real *kept; /* room for as many reals */
    double eps, allowed;
    double weight; /* of G */
    bool slopes;

    double loss;
    double slope_scale; /* sum_j G_j s_j: the slope of log t where the scores are t s */
} pair_softmax;

LK_STATIC void pair_softmax_row(pair_softmax *r)
{
    const real top = pair_top(r->s, r->padded);
    const double many = (double)r->positives;
    double hit = 0, mean = 0;
    for (int64_t p = 0; p < r->positives; p++) {
        real *s = r->s + r->at[p];
        r->kept[p] = *s - top;
        *s = -(real)INFINITY;
        hit += (double)r_exp(r->kept[p]);
        mean += (double)r->kept[p] / many;
    }
    /* The positives are left out of the sum and added last: near 1, 1 - p keeps its digits. */
    const double rest = pair_sum_exp(r->s, r->padded, top), sum = hit + rest;
    const double log_sum = log1p((hit - 1) + rest);
    r->loss = (1 - r->eps) * (log_sum - mean);
    if (r->eps > 0) {
        double scores = pair_sum_scores(r->s, r->padded, top) + mean * many;
        r->loss += r->eps * (log_sum - scores / r->allowed);
    }
    if (isnan(sum))
        r->loss = (double)NAN;
    r->slope_scale = 0;
    if (!r->slopes)
        return;
    if (r->weight == 0) {
        memset(r->s, 0, (size_t)r->padded * sizeof *r->s);
        return;
    }
    const double off = r->eps > 0 ? r->eps / r->allowed : 0;
    r->slope_scale = pair_replace(r->s, r->padded, top, r->weight / sum, r->weight * off);
    for (int64_t p = 0; p < r->positives; p++) {
        /* e/sum - (1 - eps)/many - off, with what cancels taken out by hand. */
        double miss = ((double)r_exp(r->kept[p]) - hit / many) - rest / many;
        double g = r->weight * (miss / sum + (r->eps / many - off));
        r->s[r->at[p]] = (real)g;
        r->slope_scale += g * (double)r->kept[p];
    }
}

/* to += sum_j w_j h_j over all units, with w_j `step` apart: a row of G (1) or a column. Units
 * whose weight is 0 are not read. False if all are. */
LK_STATIC bool pair_gather(const real *w, int64_t step, const pair_units *u, double *to)
{
    enum { TILE = 4 };
    bool any = false;
    for (int64_t j = 0; j < u->rows && !any; j++)
        any = w[j * step] != 0;
    for (int64_t k = 0; any && k < u->stride; k += TILE * LANES) {
        const int64_t left = (u->stride - k) / LANES, vecs = left < TILE ? left : TILE;
        for (int64_t c = 0; c < u->rows; c += PAIR_TERMS) {
            const int64_t end = u->rows - c < PAIR_TERMS ? u->rows : c + PAIR_TERMS;
            vec total[TILE] = {{0}, {0}, {0}, {0}};
            for (int64_t j = c; j < end; j++) {
                const real *h = u->h + j * u->stride + k;
                const vec weight = v_set(w[j * step]);
                if (w[j * step] == 0)
                    continue;
                if (vecs == TILE)
                    for (int t = 0; t < TILE; t++)
                        total[t] = v_fma(weight, v_read(h + t * LANES), total[t]);
                else
                    for (int t = 0; t < vecs; t++)
                        total[t] = v_fma(weight, v_read(h + t * LANES), total[t]);
            }
            for (int t = 0; t < vecs; t++) {
                double *sum = to + k + t * LANES;
                w_write(sum, w_read(sum) + v_wide(total[t]));
            }
        }
    }
    return any;
}

/* dL/dv from g = dL/dh: scale * (g - [|v| > eps] (g h) h) / n, for vector i. */
LK_STATIC void pair_unit_back(const pair_units *u, int64_t i, const double *g, double scale,
                              elem *grad)
{
    const real *h = u->h + i * u->stride;
    wide_half along = {0};
    for (int64_t k = 0; k < u->stride && u->n[i] > u->eps; k += LANES)
        along += w_fold(w_read(g + k) * v_wide(v_read(h + k)));
    const wide c = w_set(w_sum(along)), by = w_set(scale), n = w_set(u->n[i]);
    for (int64_t k = 0; k < u->width; k += LANES) {
        wide x = w_read(g + k);
        if (u->n[i] > u->eps)
            x -= c * v_wide(v_read(h + k));
        w_store(grad + k, LK_TAIL(k, u->width), by * x / n);
    }
}

/* The gradient of vector i as the sum of two gathers, the second where b is not NULL. `g` is
 * scratch for a padded vector. */
LK_STATIC void pair_gather_back(const pair_units *u, int64_t i, const pair_units *others,
                                const real *a, int64_t step_a, const real *b, int64_t step_b,
                                double scale, double *g, elem *grad)
{
    memset(g, 0, (size_t)u->stride * sizeof *g);
    bool any = pair_gather(a, step_a, others, g);
    if (b)
        any = pair_gather(b, step_b, others, g) || any;
    if (any)
        pair_unit_back(u, i, g, scale, grad + i * u->width);
    else
        pair_fill(grad + i * u->width, u->width, 0);
}

LK_STATIC size_t pair_vector_scratch(const lk_job *job)
{
    return (size_t)pair_padded(job->size['D' - 'A']) * sizeof(double);
}

LK_INLINE bool pair_wants_gradient(const lk_job *job)
{
    bool any = false;
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        any = any || job->grad[i].data;
    return any;
}

/* ---------------------------------------------------------------- embeddings with their labels  */

/* Losses of `embeddings` [N,D] with `labels` [N]: all pairs of them, those with the same label
 * being the positive ones. */
enum { EMBEDDINGS, LABELS, LABELS_GRAD_OUTPUT };

#define PAIR_LABELLED_INPUTS                                                                       \
    [EMBEDDINGS] = PAIR_VECTORS("embeddings", "N D", 0, "a vector for every item"),                \
    [LABELS] = {.name = "labels",                                                                  \
                .forms = {{"N", LK_INTS}},                                                         \
                .help = "items with the same label belong together"},                              \
    [LABELS_GRAD_OUTPUT] = LK_GRAD_OUTPUT

typedef struct pair_labelled {
    pair_units u;
    real *slopes;      /* N rows of `padded` */
    pair_place *order; /* by label */
    int64_t *first;    /* of the item's label in `order` */
    int64_t *count;    /* of the items with its label */
    int64_t padded;
    size_t bytes;
} pair_labelled;

LK_INLINE pair_labelled pair_labelled_of(const lk_job *job, double eps)
{
    pair_labelled l = {.bytes = 0};
    l.u = pair_units_take(job, &l.bytes, EMBEDDINGS, eps);
    const size_t n = (size_t)l.u.rows;
    l.padded = pair_padded(l.u.rows);
    l.slopes = pair_take(job, &l.bytes, n * (size_t)l.padded * sizeof *l.slopes);
    l.order = pair_take(job, &l.bytes, n * sizeof *l.order);
    l.first = pair_take(job, &l.bytes, n * sizeof *l.first);
    l.count = pair_take(job, &l.bytes, n * sizeof *l.count);
    return l;
}

LK_STATIC lk_status pair_labelled_check(const lk_job *job, lk_error *error)
{
    lk_status status = pair_check_width(job, error);
    return status != LK_OK ? status : pair_check_memory(job, job->rows, job->rows, error);
}

LK_STATIC lk_status pair_labelled_fill(const lk_job *job, const pair_labelled *l, lk_error *error)
{
    const int64_t n = l->u.rows;
    for (int64_t i = 0; i < n; i++)
        l->order[i] = (pair_place){lk_int(&job->in[LABELS], i), i};
    pair_sort(l->order, n);
    for (int64_t k = 0, end; k < n; k = end) {
        for (end = k; end < n && l->order[end].key == l->order[k].key; end++)
            ;
        for (int64_t m = k; m < end; m++) {
            l->first[l->order[m].at] = k;
            l->count[l->order[m].at] = end - k;
        }
    }
    return pair_units_fill(job, &l->u, EMBEDDINGS, error);
}

/* The places of the items with the label of item i, but for i itself; how many. */
LK_INLINE int64_t pair_positives(const pair_labelled *l, int64_t i, int64_t *at)
{
    int64_t n = 0;
    for (int64_t m = l->first[i]; m < l->first[i] + l->count[i]; m++)
        if (l->order[m].at != i)
            at[n++] = l->order[m].at;
    return n;
}

/* Scratch of a row: the places and the scores of its positives. Of a pass: a vector. */
LK_STATIC size_t pair_labelled_scratch(const lk_job *job)
{
    size_t row = (size_t)job->rows * (sizeof(int64_t) + sizeof(real));
    size_t pass = pair_vector_scratch(job);
    return row > pass ? row : pass;
}

/* s and the gradient: dL/dh = (G + G') h / temperature. */
LK_INLINE void pair_labelled_back(const lk_job *job, const pair_labelled *l, double temperature,
                                  int64_t first, int64_t count, double *g)
{
    for (int64_t i = first; i < first + count; i++)
        pair_gather_back(&l->u, i, &l->u, l->slopes + i * l->padded, 1, l->slopes + i, l->padded,
                         1 / temperature, g, job->grad[EMBEDDINGS].data);
}

LK_STATIC int64_t pair_labelled_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    return job->rows * job->size['D' - 'A'];
}

#endif
