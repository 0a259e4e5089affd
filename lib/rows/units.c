/* SPDX-License-Identifier: MIT
 *
 * Losses that compare every vector of one set with all vectors of another: see rows/units.h.
 */
#include "rows/units.h"

#include <stdlib.h>

#include "rows/elements.h"
#include "vector/vmath.h"
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

lk_status pair_check_memory(const lk_job *job, int64_t x, int64_t y, lk_error *error)
{
    const double width = (double)job->size['D' - 'A'] + 64;
    const double reals = 2 * ((double)x + 64) * ((double)y + 64) + ((double)x + (double)y) * width;
    if (reals > 0x1p58)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, 0, -1,
                       "%s has more rows than memory can hold the similarities of",
                       job->loss->is.inputs[0].name);
    return LK_OK;
}

pair_units pair_units_take(const lk_job *job, size_t *used, int input, double eps)
{
    pair_units u = {.rows = job->in[input].shape[0], .width = job->in[input].shape[1], .eps = eps};
    u.stride = padded_lanes(u.width);
    u.h = pair_take(job, used, (size_t)(u.rows * u.stride) * sizeof *u.h);
    u.n = pair_take(job, used, (size_t)u.rows * sizeof *u.n);
    return u;
}

/* The norm of v; times root squared where that is not 1. */
static double pair_norm(const elem *v, int64_t width, double root)
{
    wide_half total = {0};
    for (int64_t k = 0; k < width; k += LANES) {
        wide x = w_load(v + k, LK_TAIL(k, width));
        if (root != 1)
            x = w_scaled(x, root);
        total += w_fold(x * x);
    }
    return sqrt(w_sum(total));
}

void pair_unit(const pair_units *u, int64_t i, const elem *v)
{
    double root = 1, norm = pair_norm(v, u->width, 1), n = norm <= u->eps ? u->eps : norm;
    if (!pair_near(n)) {
        const double most = pair_largest(v, u->width);
        root = pair_root(most > u->eps ? most : u->eps);
        const double eps = u->eps * root * root, far = pair_norm(v, u->width, root);
        n = isnan(most) ? most : far <= eps ? eps : far;
    }
    u->n[i] = n / root / root;
    for (int64_t k = 0; k < u->width; k += LANES) {
        wide h = w_scaled(w_load(v + k, LK_TAIL(k, u->width)), root) / w_set(n);
        v_write(u->h + i * u->stride + k, __builtin_convertvector(h, vec));
    }
}

/* Store all vectors, not normalised, divided by a power of two. Returns the largest element. */
static real pair_copy(const pair_units *u, const elem *v, double n)
{
    const vec by = v_set((real)(1 / n));
    vec top = {0};
    for (int64_t i = 0; i < u->rows; i++) {
        u->n[i] = n;
        for (int64_t k = 0; k < u->width; k += LANES) {
            const vec h = by * v_load_tail(v + i * u->width + k, LK_TAIL(k, u->width), 0);
            v_write(u->h + i * u->stride + k, h);
            top = v_max_abs(h, top);
        }
    }
    return v_top(top);
}

static void pair_copy_all(const pair_units *u, const elem *v)
{
    const double near = sizeof(real) == sizeof(double) ? 0x1p480 : 0x1p40;
    const double most = (double)pair_copy(u, v, 1), least = 1 / near / near;
    int power;
    if (most == 0 || !isfinite(most) || (most >= 1 / near && most <= near))
        return;
    (void)frexp(most > least ? most : least, &power);
    (void)pair_copy(u, v, ldexp(1, power - 1));
}

lk_status pair_fail_nonfinite(const lk_job *job, int input, int64_t index, lk_error *error)
{
    char place[LK_PLACE_MAX];
    return lk_fail(job, error, LK_NONFINITE_INPUT, input, index,
                   "%s is NaN or +inf; with nonfinite=error it must be finite or -inf",
                   lk_place(job, input, index, place));
}

lk_status pair_units_fill(const lk_job *job, const pair_units *u, int input, lk_error *error)
{
    const elem *v = job->in[input].data;
    int64_t bad = pair_refuses(job) ? elements_nonfinite(v, u->rows * u->width) : -1;
    if (bad >= 0)
        return pair_fail_nonfinite(job, input, bad, error);
    if (!isfinite(u->eps))
        pair_copy_all(u, v);
    for (int64_t i = 0; isfinite(u->eps) && i < u->rows; i++)
        pair_unit(u, i, v + i * u->width);
    return LK_OK;
}

/* A lane accumulates at most this many products in the computing type; partial sums are then added
 * up in double. */
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

void pair_scores(const real *x, const pair_units *u, double scale, real *s)
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
    for (; j < padded_lanes(u->rows); j++)
        s[j] = -(real)INFINITY;
}

real pair_top(const real *s, int64_t padded)
{
    vec top = v_set(-(real)INFINITY);
    for (int64_t k = 0; k < padded; k += LANES)
        top = v_max(v_read(s + k), top);
    real most = v_top(top);
    return isinf(most) && most < 0 ? 0 : most;
}

double pair_sum_exp(const real *s, int64_t padded, real shift)
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

double pair_replace(real *s, int64_t padded, real shift, double a, double b)
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

/* The sum of s_j - shift over all s_j that are not -inf. */
static double pair_sum_scores(const real *s, int64_t padded, real shift)
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

void pair_softmax_row(pair_softmax *r)
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
        /* e/sum - (1 - eps)/many - off, rewritten so that nothing cancels. */
        double miss = ((double)r_exp(r->kept[p]) - hit / many) - rest / many;
        double g = r->weight * (miss / sum + (r->eps / many - off));
        r->s[r->at[p]] = (real)g;
        r->slope_scale += g * (double)r->kept[p];
    }
}

/* The same as pair_gather in `many` vectors of components from k on: sums that do not wait for each
 * other. */
LK_INLINE void pair_gather_at(const real *w, int64_t step, const pair_units *u, int64_t k,
                              const int many, double *to)
{
    for (int64_t c = 0; c < u->rows; c += PAIR_TERMS) {
        const int64_t end = u->rows - c < PAIR_TERMS ? u->rows : c + PAIR_TERMS;
        vec total[8] = {{0}};
        for (int64_t j = c; j < end; j++) {
            const real weight = w[j * step], *h = u->h + j * u->stride + k;
            if (weight == 0)
                continue;
            for (int t = 0; t < many; t++)
                total[t] = v_fma(v_set(weight), v_read(h + t * LANES), total[t]);
        }
        for (int t = 0; t < many; t++) {
            double *sum = to + k + t * LANES;
            w_write(sum, w_read(sum) + v_wide(total[t]));
        }
    }
}

/* to += sum_j w_j h_j over all units, with w_j `step` apart: a row of G (1) or a column. Units
 * whose weight is 0 are not read. Returns false if all weights are 0. */
static bool pair_gather(const real *w, int64_t step, const pair_units *u, double *to)
{
    bool any = false;
    int64_t k = 0;
    for (int64_t j = 0; j < u->rows && !any; j++)
        any = w[j * step] != 0;
    if (!any)
        return false;
    for (; u->stride - k >= 8 * LANES; k += 8 * LANES)
        pair_gather_at(w, step, u, k, 8, to);
    for (; u->stride - k >= 2 * LANES; k += 2 * LANES)
        pair_gather_at(w, step, u, k, 2, to);
    for (; k < u->stride; k += LANES)
        pair_gather_at(w, step, u, k, 1, to);
    return true;
}

/* dL/dv from g = dL/dh: scale * (g - [|v| > eps] (g h) h) / n, for vector i. */
static void pair_unit_back(const pair_units *u, int64_t i, const double *g, double scale,
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

void pair_gather_back(const pair_units *u, int64_t i, const pair_units *others, const real *a,
                      int64_t step_a, const real *b, int64_t step_b, double scale, double *g,
                      elem *grad)
{
    memset(g, 0, (size_t)u->stride * sizeof *g);
    bool any = pair_gather(a, step_a, others, g);
    if (b)
        any = pair_gather(b, step_b, others, g) || any;
    if (any)
        pair_unit_back(u, i, g, scale, grad + i * u->width);
    else
        elements_fill(grad + i * u->width, u->width, 0);
}

size_t pair_vector_scratch(const lk_job *job)
{
    return (size_t)padded_lanes(job->size['D' - 'A']) * sizeof(double);
}

pair_labelled pair_labelled_of(const lk_job *job, double eps)
{
    pair_labelled l = {.bytes = 0};
    l.u = pair_units_take(job, &l.bytes, EMBEDDINGS, eps);
    const size_t n = (size_t)l.u.rows;
    l.padded = padded_lanes(l.u.rows);
    l.slopes = pair_take(job, &l.bytes, n * (size_t)l.padded * sizeof *l.slopes);
    l.order = pair_take(job, &l.bytes, n * sizeof *l.order);
    l.first = pair_take(job, &l.bytes, n * sizeof *l.first);
    l.count = pair_take(job, &l.bytes, n * sizeof *l.count);
    return l;
}

lk_status pair_labelled_check(const lk_job *job, lk_error *error)
{
    lk_status status = pair_check_width(job, error);
    return status != LK_OK ? status : pair_check_memory(job, job->rows, job->rows, error);
}

lk_status pair_labelled_fill(const lk_job *job, const pair_labelled *l, lk_error *error)
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

size_t pair_labelled_scratch(const lk_job *job)
{
    size_t row = (size_t)job->rows * (sizeof(int64_t) + sizeof(real));
    size_t pass = pair_vector_scratch(job);
    return row > pass ? row : pass;
}

void pair_labelled_back(const lk_job *job, const pair_labelled *l, double temperature,
                        int64_t first, int64_t count, double *g)
{
    for (int64_t i = first; i < first + count; i++)
        pair_gather_back(&l->u, i, &l->u, l->slopes + i * l->padded, 1, l->slopes + i, l->padded,
                         1 / temperature, g, job->grad[EMBEDDINGS].data);
}

int64_t pair_labelled_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    return job->rows * job->size['D' - 'A'];
}
