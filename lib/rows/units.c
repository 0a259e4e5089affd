/* SPDX-License-Identifier: MIT
 *
 * Sets of vectors that are compared by cosine: see rows/units.h.
 */
#include "rows/units.h"

#include <stdlib.h>

#include "rows/elements.h"
#include "vector/wide.h"

static int pair_compare(const void *a, const void *b)
{
    const pair_place *p = a, *q = b;
    if (p->key != q->key)
        return p->key < q->key ? -1 : 1;
    return p->at < q->at ? -1 : p->at > q->at;
}

void pair_sort(pair_place *place, int64_t n)
{
    if (n > 1)
        qsort(place, (size_t)n, sizeof *place, pair_compare);
}

pair_units pair_units_take(const lk_job *job, size_t *used, int input, double eps)
{
    const lk_tensor *t = &job->in[input];
    pair_units u = {.rows = 1, .width = t->shape[t->rank - 1], .eps = eps};
    for (int axis = 0; axis < t->rank - 1; axis++)
        u.rows *= t->shape[axis];
    u.stride = padded_lanes(u.width);
    u.h = take(job->state, used, u.rows * u.stride, sizeof *u.h);
    u.n = take(job->state, used, u.rows, sizeof *u.n);
    u.root = take(job->state, used, u.rows, sizeof *u.root);
    u.taint = take(job->state, used, u.rows + STRIDE, sizeof *u.taint);
    return u;
}

/* The norm of v; times root squared where that is not 1. */
static double pair_norm(const elem *v, int64_t width, double root)
{
    wide_sums total = {0};
    for (int64_t k = 0; k < width; k += STRIDE) {
        wide_stride x = w_load_stride(v + k, width - k);
        if (root != 1)
            x = w_stride_scaled(x, root);
        w_add_products(&total, &x, &x);
    }
    return sqrt(w_sum(total));
}

static void put_divisor(const pair_units *u, int64_t i, double n, double root)
{
    u->n[i] = n;
    u->root[i] = root;
}

/* eps as n is kept: times root squared. */
static double kept_eps(const pair_units *u, double root)
{
    return u->eps * root * root;
}

/* Is vector i divided by its norm, or by eps? */
static bool unit_by_norm(const pair_units *u, int64_t i)
{
    return u->n[i] > kept_eps(u, u->root[i]);
}

/* h of vector i: v times root squared, divided by n. */
static void put_unit(const pair_units *u, int64_t i, const elem *v, double root, double n)
{
    real *h = u->h + i * u->stride;
    vec taint = {0};
    for (int64_t k = 0; k < u->width; k += LANES) {
        const wide_parts x = w_load_parts(v + k, LK_TAIL(k, u->width));
        wide_half unit[WIDE_PARTS];
        PARTS_UNROLLED
        for (int p = 0; p < WIDE_PARTS; p++)
            unit[p] = half_scaled(x.half[p], root) / half_set(n);
        const vec rounded = half_join(unit);
        v_write(h + k, rounded);
        taint += v_set(0) * rounded;
    }
    put_divisor(u, i, isnan(n) ? 1 : n, isnan(n) ? 1 : root);
    u->taint[i] = (real)v_count(taint); /* of lanes that are 0 or NaN */
    if (isnan(u->taint[i]))
        memset(u->h + i * u->stride, 0, (size_t)u->stride * sizeof *u->h);
}

void pair_unit(const pair_units *u, int64_t i, const elem *v)
{
    double root = 1, norm = pair_norm(v, u->width, 1), n = norm <= u->eps ? u->eps : norm;
    if (!pair_near(n)) {
        const double most = pair_largest(v, u->width);
        root = pair_root(most > u->eps ? most : u->eps);
        const double eps = kept_eps(u, root), far = pair_norm(v, u->width, root);
        n = isnan(most) ? most : far <= eps ? eps : far;
    }
    put_unit(u, i, v, root, n);
}

/* What all vectors are divided by that are not normalised. */
static double common_divisor(const pair_units *u, const elem *v)
{
    const double near = sizeof(real) == sizeof(double) ? 0x1p480 : 0x1p40, least = 1 / near / near;
    double most = 0;
    int power;
    for (int64_t i = 0; i < u->rows; i++) {
        const double top = pair_unit_masked(u, i) ? 0 : pair_largest(v + i * u->width, u->width);
        most = isfinite(top) && top > most ? top : most;
    }
    if (most == 0 || (most >= 1 / near && most <= near))
        return 1;
    (void)frexp(most > least ? most : least, &power);
    return ldexp(1, power - 1);
}

void pair_unit_none(const pair_units *u, int64_t i)
{
    put_divisor(u, i, 1, 1); /* h is 0, as the state was */
}

/* The square of a normalised vector's length: 1, but for one that is divided by eps. */
static double unit_square(const pair_units *u, int64_t i, double square)
{
    return unit_by_norm(u, i) ? 1 : square;
}

pair_angle pair_unit_angle(const pair_units *u, int64_t i, const elem *x, const pair_units *v,
                           int64_t j, const elem *y)
{
    const wide_half by_x = half_set(u->n[i]), by_y = half_set(v->n[j]);
    wide_sums aa = {0}, ab = {0}, bb = {0}, apart = {0}, along = {0};
    for (int64_t k = 0; k < u->width; k += STRIDE) {
        wide_stride a = w_load_stride(x + k, u->width - k), b = w_load_stride(y + k, u->width - k);
        wide_stride difference, sum;
        for (int h = 0; h < STRIDE_HALVES; h++) {
            a.half[h] = half_scaled(a.half[h], u->root[i]) / by_x;
            b.half[h] = half_scaled(b.half[h], v->root[j]) / by_y;
            difference.half[h] = a.half[h] - b.half[h];
            sum.half[h] = a.half[h] + b.half[h];
        }
        w_add_products(&aa, &a, &a);
        w_add_products(&ab, &a, &b);
        w_add_products(&bb, &b, &b);
        w_add_products(&apart, &difference, &difference);
        w_add_products(&along, &sum, &sum);
    }
    /* |a - b|^2 |a + b|^2 = (a^2 + b^2)^2 - 4 c^2: near 1 or -1, 1 - c^2 keeps its digits. Where it
     * is 0, rounding may leave less. */
    const double mean = (unit_square(u, i, w_sum(aa)) + unit_square(v, j, w_sum(bb))) / 2;
    const double square = w_sum(apart) * w_sum(along) / 4 + (1 - mean) * (1 + mean);
    return (pair_angle){.cosine = w_sum(ab), .sine = square < 0 ? 0 : sqrt(square)};
}

void pair_unit_turn(const pair_units *u, int64_t i, const elem *x, const pair_units *v, int64_t j,
                    const elem *y, double cosine, double by, double *sum)
{
    const wide_half n = half_set(u->n[i]), m = half_set(v->n[j]);
    const wide_half along = half_set(unit_by_norm(u, i) ? cosine : 0), factor = half_set(by);
    if (by == 0)
        return;
    for (int64_t k = 0; k < u->width; k += LANES) {
        const int64_t lanes = LK_TAIL(k, u->width);
        const wide_parts a = w_load_parts(x + k, lanes), b = w_load_parts(y + k, lanes);
        PARTS_UNROLLED
        for (int p = 0; p < WIDE_PARTS; p++) {
            double *to = sum + k + p * HALF_LANES;
            const wide_half own = half_scaled(a.half[p], u->root[i]) / n;
            const wide_half other = half_scaled(b.half[p], v->root[j]) / m;
            const wide_half slope = half_scaled(factor * (other - along * own) / n, u->root[i]);
            half_write(to, isnan(by) ? factor : half_read(to) + slope);
        }
    }
}

void pair_unit_back(const pair_units *u, int64_t i, const real *g, double scale, const double *more,
                    elem *grad)
{
    const real *h = u->h + i * u->stride;
    const bool by_norm = unit_by_norm(u, i), beyond = !isfinite(scale);
    wide_sums along = {0};
    for (int64_t k = 0; k < u->stride && by_norm; k += STRIDE) {
        const wide_stride x = w_read_stride(g + k), y = w_read_stride(h + k);
        w_add_products(&along, &x, &y);
    }
    const wide_half c = half_set(w_sum(along)), by = half_set(scale), n = half_set(u->n[i]);
    for (int64_t k = 0; k < u->width; k += LANES) {
        wide_parts to;
        PARTS_UNROLLED
        for (int p = 0; p < WIDE_PARTS; p++) {
            const int64_t at = k + p * HALF_LANES;
            wide_half x = w_read_half(g + at);
            if (by_norm)
                x -= c * w_read_half(h + at);
            const half_mask some = x != (wide_half){0};
            x = half_scaled(by * x / n, u->root[i]);
            if (beyond) /* 0 stays 0 */
                x = half_where(some, x);
            to.half[p] = more ? x + half_read(more + at) : x;
        }
        w_store_parts(grad + k, LK_TAIL(k, u->width), to);
    }
}

lk_status pair_fail_nonfinite(const lk_job *job, int input, int64_t index, lk_error *error)
{
    char place[LK_PLACE_MAX];
    return lk_fail(job, error, LK_NONFINITE_INPUT, input, index,
                   "%s is NaN or +inf; with nonfinite=error it must be finite or -inf",
                   lk_place(job, input, index, place));
}

lk_status pair_units_fill(const lk_job *job, const pair_units *u, int input, const pair_place *at,
                          lk_error *error)
{
    const elem *v = job->in[input].data;
    for (int64_t i = 0; pair_refuses(job) && i < u->rows; i++) {
        const int64_t bad =
            pair_unit_masked(u, i) ? -1 : elements_nonfinite(v + i * u->width, u->width);
        if (bad >= 0)
            return pair_fail_nonfinite(job, input, i * u->width + bad, error);
    }
    const bool normalised = isfinite(u->eps);
    const double n = normalised ? 0 : common_divisor(u, v);
    for (int64_t i = 0; i < u->rows; i++) {
        const elem *from = v + (at ? at[i].at : i) * u->width;
        if (pair_unit_masked(u, at ? at[i].at : i))
            put_divisor(u, i, normalised ? 1 : n, 1);
        else if (normalised)
            pair_unit(u, i, from);
        else
            put_unit(u, i, from, 1, n);
    }
    return LK_OK;
}
