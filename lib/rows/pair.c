/* SPDX-License-Identifier: MIT
 *
 * Rows of pairs of vectors: see rows/pair.h.
 */
#include "rows/pair.h"

#include "rows/elements.h"
#include "vector/tally.h"

bool pair_refuse(const lk_job *job, int input, int64_t i, int64_t width, lk_block *block)
{
    int64_t k = elements_nonfinite((const elem *)job->in[input].data + i * width, width);
    if (k < 0)
        return false;
    const int64_t at = i * width + k;
    lk_refuse(block, LK_NONFINITE_INPUT, input, at,
              (double)r_load((const elem *)job->in[input].data + at));
    return true;
}

lk_status pair_check_width(const lk_job *job, lk_error *error)
{
    if (job->size['D' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, 0, -1,
                       "%s has vectors without components; D must be at least 1",
                       job->loss->is->inputs[0].name);
    return LK_OK;
}

lk_status pair_prepare(lk_job *job, lk_error *error)
{
    (void)error;
    job->counted = job->rows;
    job->denominator[0] = (double)job->rows;
    return LK_OK;
}

bool pair_streams(const lk_job *job, int inputs)
{
    const int64_t row = job->size['D' - 'A'] * (int64_t)sizeof(elem);
    bool any = false;
    for (int k = 0; k < inputs; k++) {
        const void *grad = job->grad[k].data;
        if (grad && (job->rows * row < LK_STREAM_MIN || row % LK_LINE != 0 ||
                     (uintptr_t)grad % LK_LINE != 0 || grad == job->in[k].data))
            return false;
        any = any || grad;
    }
    return any;
}

void pair_settle(bool streamed)
{
    if (streamed)
        v_fence();
}

double pair_largest(const elem *v, int64_t width)
{
    vec most = {0}, taint = {0};
    for (int64_t k = 0; k < width; k += LANES) {
        const vec x = v_load_tail(v + k, LK_TAIL(k, width), 0);
        most = v_max(v_abs(x), most);
        taint += v_set(0) * x;
    }
    return isnan(v_count(taint)) ? (double)NAN : (double)v_top(most);
}

typedef struct pair_dots {
    double xx, xy, yy;
} pair_dots;

PARTS_INLINE void pair_add_products(const bool far, const pair *p, const elem *x, const elem *y,
                                    int64_t n, wide_sums *xx, wide_sums *xy, wide_sums *yy)
{
    wide_stride a = w_load_stride(x, n), b = w_load_stride(y, n);
    if (far) {
        a = w_stride_scaled(a, p->scale_x);
        b = w_stride_scaled(b, p->scale_y);
    }
    w_add_products(xx, &a, &a);
    w_add_products(xy, &a, &b);
    w_add_products(yy, &b, &b);
}

/* The sum of what a vector has, in the order of w_sum, where all else is 0. A sum begins with 0, so
 * that no -0 comes of it. */
LK_INLINE double pair_sum_one(wide_parts a, wide_parts b)
{
    wide_half sum = {0};
    for (int i = 0; i < WIDE_PARTS; i++)
        sum += a.half[i] * b.half[i];
    return half_sum(sum);
}

/* The dot products of vectors of at most LANES components. */
LK_INLINE pair_dots pair_products_one(const elem *x, const elem *y, int64_t width)
{
    const wide_parts a = w_load_parts(x, width), b = w_load_parts(y, width);
    return (pair_dots){pair_sum_one(a, a), pair_sum_one(a, b), pair_sum_one(b, b)};
}

/* The dot products, of scaled vectors if the pair is `far`. */
LK_INLINE pair_dots pair_products(const bool far, const pair *p, const elem *x, const elem *y,
                                  int64_t width)
{
    wide_sums xx = {0}, xy = {0}, yy = {0}, xx2 = {0}, xy2 = {0}, yy2 = {0};
    int64_t k = 0;
    if (!far && width <= LANES)
        return pair_products_one(x, y, width);
    for (; !far && k + 2 * STRIDE <= width; k += 2 * STRIDE) {
        pair_add_products(far, p, x + k, y + k, STRIDE, &xx, &xy, &yy);
        pair_add_products(far, p, x + k + STRIDE, y + k + STRIDE, STRIDE, &xx2, &xy2, &yy2);
    }
    for (; k < width; k += STRIDE)
        pair_add_products(far, p, x + k, y + k, width - k, &xx, &xy, &yy);
    return (pair_dots){w_sum(w_both(xx, &xx2)), w_sum(w_both(xy, &xy2)), w_sum(w_both(yy, &yy2))};
}

void pair_dot(pair *p, const elem *x, const elem *y, int64_t width)
{
    const pair_dots d = pair_products(false, NULL, x, y, width);
    *p = (pair){.kind = PAIR_DOT, .value = d.xy, .xy = 1};
    if (!isfinite(d.xy) && isnan(pair_largest(x, width) + pair_largest(y, width)))
        p->value = (double)NAN;
}

/* What a vector with the square of a norm is divided by. */
LK_INLINE double pair_divisor(int kind, double square, double eps)
{
    if (kind == PAIR_ADDED)
        return sqrt(square + eps * eps);
    const double norm = sqrt(square);
    return norm <= eps ? eps : norm;
}

typedef double pair_two __attribute__((vector_size(2 * sizeof(double))));

/* Value and slopes of a cosine from the dot product and what the vectors are divided by. Short
 * vectors take as long as their divisions: these are done two at a time. */
LK_INLINE void pair_cosine_of(pair *p, double xy, double n_x, double n_y, double eps_x,
                              double eps_y)
{
    const double sign = p->kind == PAIR_COSINE ? -1 : 1;
    const pair_two by_both = (pair_two){xy, sign} / n_x / n_y, n = {n_x, n_y};
    const double dot = by_both[0], s = dot > 1 ? 1 : dot < -1 ? -1 : dot;
    const pair_two along = (pair_two){-sign * s, -sign * s} / n / n;
    p->value = p->kind == PAIR_COSINE ? 1 - s : s;
    p->xy = by_both[1];
    p->xx = n_x > eps_x ? along[0] : 0;
    p->yy = n_y > eps_y ? along[1] : 0;
    if (isnan(s))
        p->xx = p->xy = p->yy = s;
}

/* The cosine of vectors whose squares would overflow or underflow: of scaled ones. */
static __attribute__((noinline)) void pair_cosine_far(pair *p, const elem *x, const elem *y,
                                                      int64_t width, double eps)
{
    const double most_x = pair_largest(x, width), most_y = pair_largest(y, width);
    p->far = true;
    p->scale_x = pair_root(most_x > eps ? most_x : eps);
    p->scale_y = pair_root(most_y > eps ? most_y : eps);
    const double eps_x = eps * p->scale_x * p->scale_x, eps_y = eps * p->scale_y * p->scale_y;
    const pair_dots d = pair_products(true, p, x, y, width);
    pair_cosine_of(p, d.xy, isnan(most_x) ? most_x : pair_divisor(p->kind, d.xx, eps_x),
                   isnan(most_y) ? most_y : pair_divisor(p->kind, d.yy, eps_y), eps_x, eps_y);
}

void pair_cosine(pair *p, int kind, const elem *x, const elem *y, int64_t width, double eps)
{
    const pair_dots d = pair_products(false, NULL, x, y, width);
    const double n_x = pair_divisor(kind, d.xx, eps), n_y = pair_divisor(kind, d.yy, eps);
    *p = (pair){.kind = kind};
    if (pair_near(n_x) && pair_near(n_y))
        pair_cosine_of(p, d.xy, n_x, n_y, eps, eps);
    else
        pair_cosine_far(p, x, y, width, eps);
}

/* x - y + shift in some lanes. */
LK_INLINE wide_half pair_difference(const bool far, const pair *p, wide_half x, wide_half y)
{
    if (far)
        return half_scaled(x * half_set(p->scale_x) - y * half_set(p->scale_x) +
                               half_set(p->shift * p->scale_x),
                           p->scale_y);
    return x - y + half_set(p->shift);
}

/* Add the terms of a stride of pair_sum_of, of which n count. */
PARTS_INLINE void pair_add_terms(const bool squares, const bool far, const pair *p, int64_t n,
                                 const elem *x, const elem *y, wide_sums *sum)
{
    const wide_stride a = w_load_stride(x, n), b = w_load_stride(y, n);
    wide_stride term;
    PARTS_UNROLLED
    for (int h = 0; h < STRIDE_HALVES; h++) {
        wide_half r = pair_difference(far, p, a.half[h], b.half[h]);
        if (n < STRIDE)
            r = half_where(half_first(n - h * HALF_LANES), r);
        term.half[h] = squares ? r * r : half_abs(r);
    }
    w_add(sum, &term);
}

/* The sum of |r|, or of its squares, over r = x - y + shift. */
LK_INLINE double pair_sum_of(const bool squares, const bool far, const pair *p, const elem *x,
                             const elem *y, int64_t width)
{
    const pair here = *p;
    wide_sums total = {0}, total2 = {0};
    int64_t k = 0;
    for (; k + 2 * STRIDE <= width; k += 2 * STRIDE) {
        pair_add_terms(squares, far, &here, STRIDE, x + k, y + k, &total);
        pair_add_terms(squares, far, &here, STRIDE, x + k + STRIDE, y + k + STRIDE, &total2);
    }
    for (; k < width; k += STRIDE)
        pair_add_terms(squares, far, &here, width - k, x + k, y + k, &total);
    return w_sum(w_both(total, &total2));
}

/* The largest |x - y + shift| of the scaled vectors. */
static double pair_largest_difference(const pair *p, const elem *x, const elem *y, int64_t width)
{
    double most = 0;
    for (int64_t k = 0; k < width; k++) {
        const double a = (double)r_load(x + k), b = (double)r_load(y + k);
        const double r = fabs(a * p->scale_x - b * p->scale_x + p->shift * p->scale_x);
        most = r > most ? r : most;
    }
    return most;
}

/* |x - y + shift| where its square would overflow or underflow: computed from vectors scaled by a
 * power of two. */
static void pair_length_far(pair *p, const elem *x, const elem *y, int64_t width)
{
    p->far = true;
    p->scale_x = 0x1p-2; /* so that no difference overflows, */
    double most = pair_largest_difference(p, x, y, width);
    if (most < 0x1p-400) { /* and small differences do not lose digits by underflow */
        p->scale_x = 1;
        most = pair_largest_difference(p, x, y, width);
    }
    p->scale_y = most > 0 ? pair_root(most) : 1;
    const double norm = sqrt(pair_sum_of(true, true, p, x, y, width));
    p->value = norm / p->scale_y / p->scale_y / p->scale_x;
    p->slope = norm == 0 ? 0 : 1 / norm;
}

void pair_length(pair *p, int kind, const elem *x, const elem *y, int64_t width, double shift)
{
    *p = (pair){.kind = kind, .shift = shift};
    const double sum = kind == PAIR_L1 ? pair_sum_of(false, false, p, x, y, width)
                                       : pair_sum_of(true, false, p, x, y, width);
    p->value = kind == PAIR_L2 ? sqrt(sum) : sum;
    p->slope = kind == PAIR_L1 ? 1 : kind == PAIR_SQUARED_L2 ? 2 : 1 / p->value;
    if (!isfinite(sum) && isnan(pair_largest(x, width) + pair_largest(y, width)))
        p->value = p->slope = (double)NAN;
    else if (kind == PAIR_L2 && !pair_near(p->value))
        pair_length_far(p, x, y, width);
}

/* The formula of a gradient, a compile-time constant in each copy of the loop. LINEAR: L2 and
 * squared L2, linear in x - y. FAR: every pair that is `far`, and pairs in the same row as one. */
typedef enum pair_family { PAIR_COSINES, PAIR_SIGNS, PAIR_LINEAR, PAIR_FAR } pair_family;

LK_INLINE pair_family pair_family_of(const pair *p)
{
    return p->far                    ? PAIR_FAR
           : pair_is_cosine(p->kind) ? PAIR_COSINES
           : p->kind == PAIR_L1      ? PAIR_SIGNS
                                     : PAIR_LINEAR;
}

/* dv/dx in some lanes; the pair may be `far`. */
static wide_half pair_slope_x_far(const pair *p, wide_half x, wide_half y)
{
    if (!pair_is_cosine(p->kind))
        return half_set(p->slope) * pair_difference(p->far, p, x, y);
    if (!p->far)
        return half_set(p->xx) * x + half_set(p->xy) * y;
    return half_scaled(half_set(p->xx) * half_scaled(x, p->scale_x) +
                           half_set(p->xy) * half_scaled(y, p->scale_y),
                       p->scale_x);
}

/* dv/dx and dv/dy in some lanes, from x and y in them. */
LK_INLINE wide_half pair_slope_x(const pair_family family, const pair *p, wide_half x, wide_half y)
{
    if (family == PAIR_FAR)
        return pair_slope_x_far(p, x, y);
    if (family == PAIR_COSINES)
        return half_set(p->xx) * x + half_set(p->xy) * y;
    const wide_half r = pair_difference(false, p, x, y);
    return half_set(p->slope) * (family == PAIR_SIGNS ? half_sign(r) : r);
}

LK_INLINE wide_half pair_slope_y(const pair_family family, const pair *p, wide_half x, wide_half y)
{
    if (family == PAIR_FAR && pair_is_cosine(p->kind)) {
        pair turned = *p;
        turned.xx = p->yy;
        turned.scale_x = p->scale_y;
        turned.scale_y = p->scale_x;
        return pair_slope_x_far(&turned, y, x);
    }
    if (family == PAIR_COSINES)
        return half_set(p->xy) * x + half_set(p->yy) * y;
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

/* Is the whole gradient of a row 0 or NaN? Then it is written here: if a NaN came out of the
 * arithmetic, its sign would depend on how the compiler orders the operations. */
LK_INLINE bool pair_flat(double c, elem *const *grad, int grads, int64_t width)
{
    if (c != 0 && !isnan(c))
        return false;
    for (int k = 0; k < grads; k++)
        if (grad[k])
            elements_fill(grad[k], width, c == 0 ? 0 : (real)NAN);
    return true;
}

/* Some elements of a gradient; a vector of one that goes past the caches is whole. */
LK_INLINE void pair_store(elem *to, int64_t n, wide_parts x, bool stream)
{
    if (stream)
        v_stream(to, half_join(x.half));
    else
        w_store_parts(to, n, x);
}

/* Fetch what the next row reads, a stride at a time, while this one, which is in cache, is read
 * again: hardware does not look beyond a page. */
LK_INLINE void pair_fetch(const elem *x, int64_t k, int64_t width)
{
    if ((k & (STRIDE - 1)) == 0)
        __builtin_prefetch((const void *)((uintptr_t)x + (uintptr_t)(k + width) * sizeof *x), 0, 2);
}

/* n components from the k-th on. */
LK_INLINE void pair_back_some(const pair_family family, const pair *p, wide_half by, const elem *x,
                              const elem *y, int64_t k, int64_t n, int64_t width, elem *grad_x,
                              elem *grad_y, bool stream)
{
    const wide_parts u = w_load_parts(x + k, n), v = w_load_parts(y + k, n);
    wide_parts to_x, to_y;
    pair_fetch(x, k, width);
    pair_fetch(y, k, width);
    for (int i = 0; i < WIDE_PARTS; i++) {
        to_x.half[i] = by * pair_slope_x(family, p, u.half[i], v.half[i]);
        to_y.half[i] = by * pair_slope_y(family, p, u.half[i], v.half[i]);
    }
    if (grad_x)
        pair_store(grad_x + k, n, to_x, stream);
    if (grad_y)
        pair_store(grad_y + k, n, to_y, stream);
}

LK_INLINE void pair_back_of(const pair_family family, const pair *p, double c, const elem *x,
                            const elem *y, int64_t width, elem *grad_x, elem *grad_y, bool stream)
{
    const wide_half by = half_set(c);
    const pair here = *p; /* for all the compiler knows a store of a gradient changes *p */
#define BACK(k, n) pair_back_some(family, &here, by, x, y, k, n, width, grad_x, grad_y, stream)
    TALLY_EACH(width, BACK);
#undef BACK
}

void pair_back(const pair *p, double c, const elem *x, const elem *y, int64_t width, elem *grad_x,
               elem *grad_y, bool stream)
{
    elem *const grad[] = {grad_x, grad_y};
    if (!pair_flat(c != 0 && isnan(p->value) ? p->value : c, grad, 2, width))
        PAIR_BY_FAMILY(pair_family_of(p), pair_back_of, p, c, x, y, width, grad_x, grad_y, stream);
}

LK_INLINE void pair_add_of(const pair_family family, const pair *p, double c, const elem *x,
                           const elem *y, int64_t width, double *to_x, double *to_y)
{
    const wide_half by = half_set(c);
    for (int64_t k = 0; k < width; k += LANES) {
        const int64_t n = LK_TAIL(k, width);
        const wide_parts u = w_load_parts(x + k, n), v = w_load_parts(y + k, n);
        for (int i = 0; i < WIDE_PARTS; i++) {
            double *at_x = to_x + k + i * HALF_LANES, *at_y = to_y + k + i * HALF_LANES;
            const wide_half a = u.half[i], b = v.half[i];
            if (to_x)
                half_write(at_x, half_read(at_x) + by * pair_slope_x(family, p, a, b));
            if (to_y)
                half_write(at_y, half_read(at_y) + by * pair_slope_y(family, p, a, b));
        }
    }
}

void pair_add(const pair *p, double c, const elem *x, const elem *y, int64_t width, double *to_x,
              double *to_y)
{
    const double all = c != 0 && isnan(p->value) ? p->value : c;
    for (int64_t k = 0; isnan(all) && k < width; k++) {
        if (to_x)
            to_x[k] = (double)NAN;
        if (to_y)
            to_y[k] = (double)NAN;
    }
    if (all != 0 && !isnan(all))
        PAIR_BY_FAMILY(pair_family_of(p), pair_add_of, p, c, x, y, width, to_x, to_y);
}

void pair_round(const double *sum, int64_t width, elem *to)
{
    for (int64_t k = 0; k < width; k += LANES) {
        wide_parts x;
        memcpy(&x, sum + k, sizeof x);
        w_store_parts(to + k, LK_TAIL(k, width), x);
    }
}

static pair_family pair_triple_family(const pair_triple *t)
{
    return t->an.far || t->pn.far ? PAIR_FAR : pair_family_of(&t->ap);
}

/* n components from the k-th on; c: the factors c_ap, c_an and c_pn, times the weight. */
LK_INLINE void pair_triple_back_some(const pair_family family, const pair_triple *t,
                                     const wide_half c[3], int64_t k, int64_t n, int64_t width,
                                     elem *const grad[3], bool stream)
{
    const elem *const from[3] = {t->a, t->p, t->n};
    wide_parts x[3], to[3];
    UNROLLED
    for (int i = 0; i < 3; i++) {
        x[i] = w_load_parts(from[i] + k, n);
        pair_fetch(from[i], k, width);
    }
    for (int i = 0; i < WIDE_PARTS; i++) {
        const wide_half a = x[0].half[i], p = x[1].half[i], q = x[2].half[i];
        to[0].half[i] =
            c[0] * pair_slope_x(family, &t->ap, a, p) + c[1] * pair_slope_x(family, &t->an, a, q);
        to[1].half[i] = c[0] * pair_slope_y(family, &t->ap, a, p);
        to[2].half[i] = c[1] * pair_slope_y(family, &t->an, a, q);
        if (t->c_pn != 0) {
            to[1].half[i] += c[2] * pair_slope_x(family, &t->pn, p, q);
            to[2].half[i] += c[2] * pair_slope_y(family, &t->pn, p, q);
        }
    }
    UNROLLED
    for (int i = 0; i < 3; i++)
        if (grad[i])
            pair_store(grad[i] + k, n, to[i], stream);
}

LK_INLINE void pair_triple_back_of(const pair_family family, const pair_triple *t, double weight,
                                   int64_t width, elem *const *grad, bool stream)
{
    const wide_half c[3] = {half_set(weight * t->c_ap), half_set(weight * t->c_an),
                            half_set(weight * t->c_pn)};
    /* Kept here, since for all the compiler knows a store of a gradient changes them there. */
    const pair_triple here = *t;
    elem *const to[3] = {grad[0], grad[1], grad[2]};
#define BACK(k, n) pair_triple_back_some(family, &here, c, k, n, width, to, stream)
    TALLY_EACH(width, BACK);
#undef BACK
}

void pair_triple_back(const pair_triple *t, double weight, int64_t width, elem *const *grad,
                      bool stream)
{
    if (!pair_flat(scalar_times(weight, t->c_ap), grad, 3, width))
        PAIR_BY_FAMILY(pair_triple_family(t), pair_triple_back_of, t, weight, width, grad, stream);
}
