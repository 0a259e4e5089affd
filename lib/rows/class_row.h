/* SPDX-License-Identifier: MIT
 *
 * Rows of class scores: the arithmetic of one row of logits against a target, shared by every loss
 * that is a cross entropy at heart. Symbols: x logits, z = scaled scores, J = dz/dx, l = log
 * softmax(z), p = softmax(z), q = target distribution, w = class weights, y = target class.
 *
 * One visit: a row is read from memory once and its gradient is written once; later sweeps find the
 * row in cache. Sweep 1 computes max z and sum e^(z-max), and keeps the exponentials in scratch if
 * a gradient is requested. Sweep 2, only if the value needs it, computes the sums over p or l.
 * Sweep 3, only if requested, writes the gradient. The value is computed in the same way with and
 * without sweep 3, so the requested outputs do not change its bits.
 */
#ifndef LK_CLASS_ROW_H
#define LK_CLASS_ROW_H

#include "rows/class_plan.h"
#include "rows/elements.h"

/* Each variant has its own copy, under its own names; defined in rows/class_row.c. */
#define class_streams          LK_PASTE(LK_VARIANT, class_streams)
#define class_plan_make        LK_PASTE(LK_VARIANT, class_plan_make)
#define class_scores           LK_PASTE(LK_VARIANT, class_scores)
#define class_max              LK_PASTE(LK_VARIANT, class_max)
#define class_exps             LK_PASTE(LK_VARIANT, class_exps)
#define class_sum_exp          LK_PASTE(LK_VARIANT, class_sum_exp)
#define class_kept_size        LK_PASTE(LK_VARIANT, class_kept_size)
#define class_keep             LK_PASTE(LK_VARIANT, class_keep)
#define class_normalise        LK_PASTE(LK_VARIANT, class_normalise)
#define class_entropy          LK_PASTE(LK_VARIANT, class_entropy)
#define class_gradient         LK_PASTE(LK_VARIANT, class_gradient)
#define class_gradient_logprob LK_PASTE(LK_VARIANT, class_gradient_logprob)
#define class_conclude         LK_PASTE(LK_VARIANT, class_conclude)
#define class_compute          LK_PASTE(LK_VARIANT, class_compute)

/* Scores are processed in chunks: a chunk stays in the first-level cache, and is short enough for
 * its sum to be accumulated in the computing type. */
enum { CHUNK = 512 };

/* Rows no longer than a chunk are computed several at a time, to hide the latency of one row's
 * maximum, sum and logarithm behind the others. */
enum { CLASS_TOGETHER = 8 };

/* One row: the inputs, then the results. */
typedef struct class_row {
    const elem *x;    /* logits */
    const elem *t;    /* target probabilities; NULL: index form */
    int64_t y;        /* index form; -1 otherwise */
    elem *grad_x;     /* may be x; NULL: not wanted */
    elem *grad_t;     /* not t; NULL: not wanted */
    double rho, zeta; /* factors of the gradients of main and of lse^2 */
    /* Scratch for the exponentials e^(z - shift) and for the shift of each chunk, so that the
     * gradient need not compute them again. NULL: it does. */
    real *kept, *shift;

    double main, z_part; /* the two parts of the loss, not multiplied by rho */
    bool weighs;         /* has the gradient of main a part in that of x? */
    real nll, lse, entropy;
    int64_t argmax;
} class_row;

/* The result of sweep 1. The target (index form) or every class at the maximum (probability form)
 * is left out of the sum and added last. So `rest` keeps full precision, and so do 1 - p = rest/sum
 * and log p of a peaked row. */
typedef struct class_norm {
    real top;    /* max z, NaN left out */
    real at;     /* z_y */
    double rest; /* sum over the other classes of e^(z_k - top) */
    double own;  /* index form: e^(z_y - top); probability form: number of classes at the maximum */
    double sum;  /* rest + own; NaN if the row has no softmax */
    double log_sum;
} class_norm;

/* The gradient of a row is (a e^(z-top) - w b q) J. In probability form q comes from t; in index
 * form it is constant except for the target, whose gradient is computed separately, without
 * cancellation. */
typedef struct class_slope {
    double a; /* of e^(z-top) */
    /* A class whose entry is computed without cancellation, and that entry without J: the target;
     * in probability form the class at the maximum, if it is alone there. y is -1 for none. `at`
     * is beside `a`: a plain row's two are stored and loaded as one vector. */
    double at;
    int64_t y;
    double b; /* of w q */
} class_slope;

/* Should a gradient be written with streaming stores? Yes if it exceeds the caches and few or no
 * cache lines are shared by two rows (a shared line would be written twice). */
LK_DRIVER bool class_streams(const elem *grad, int64_t rows, int64_t width);

/* A positive option, clamped to the range of the computing type: neither 0 nor infinite. */
LK_INLINE double class_clamp(double x)
{
    const double least = sizeof(real) == 8 ? 0x1p-1000 : 0x1p-120;
    return x < least ? least : x > 1 / least ? 1 / least : x;
}

/* The plan for rows of `width` classes. */
LK_DRIVER class_plan class_plan_make(const lk_job *job, const class_options *o, int64_t width);

/* How many rows are computed at a time. Long rows: one, while the gradient of the previous one is
 * written. */
LK_INLINE int class_together(int64_t width)
{
    return width <= CHUNK ? CLASS_TOGETHER : 1;
}

/* Bytes of scratch for all rows that are computed at a time. */
LK_DRIVER size_t class_kept_size(int64_t width);

/* Give a row the k-th share of the scratch. Not to a long row on the fast path with its gradient in
 * place: there it is faster to keep the scores in cache and compute the exponentials again. That
 * gives the same bits on the fast path, but not elsewhere. */
LK_DRIVER void class_keep(const class_plan *p, class_row *row, void *scratch, int k);

/* z of n classes (n <= CHUNK), in whole strides, padded with -inf, which changes neither a maximum
 * nor a sum of exponentials. Returns the maximum, ignoring NaN. */
LK_DRIVER real class_scores(const class_plan *p, const elem *x, int64_t n, real *z);

/* The maximum of whole strides, ignoring NaN. */
LK_DRIVER real class_max(const real *z, int64_t n);

/* Replace z by e^(z - shift), in whole strides. Returns their sum. */
LK_DRIVER real class_exps(real *z, int64_t n, real shift);

/* The same sum, leaving z unchanged. */
LK_DRIVER real class_sum_exp(real *z, int64_t n, real shift);

/* Sweep 1. */
LK_DRIVER class_norm class_normalise(const class_plan *p, const class_row *row);

/* log(tops + rest) with all the digits that the computing type has, also where `rest` is nearly
 * nothing beside a single top. log1p takes twice as long as log. */
LK_INLINE double class_log_sum(double tops, double rest)
{
    const double near = sizeof(real) == sizeof(double) ? 0.5 : 0x1p-20;
    return tops == 1 && rest < near ? lk_log1p(rest) : lk_log(tops + rest);
}

/* What is left to do when `rest` is known. */
LK_INLINE void class_close(class_norm *r, const class_row *row)
{
    if (row->y >= 0)
        r->own = lk_exp((double)r->at - (double)r->top);
    r->sum = r->rest + r->own;
    if (!(r->sum > 0) || (row->y < 0 && isinf(r->top) && r->top > 0))
        r->sum = (double)NAN; /* all -inf; or some +inf */
    r->log_sum = row->y >= 0 || isnan(r->sum) ? lk_log(r->sum) : class_log_sum(r->own, r->rest);
}

/* -log p_y. For a likely class it is computed from the odds against it, which keeps full precision
 * of a small loss. */
LK_INLINE double class_nll(const class_norm *r)
{
    if (r->own > r->rest)
        return lk_log1p(r->rest / r->own);
    return r->log_sum - ((double)r->at - (double)r->top);
}

/* -sum p l, and in *gap the mean sum p (top - z), so that l_k + entropy = (z_k - top) + gap.
 * Nothing cancels in either, however peaked or uniform the row is. `top` must be the row's
 * maximum. */
LK_DRIVER double class_entropy(const class_plan *p, const class_row *row, const class_norm *r,
                               double *gap);

/* Sweep 3. */
LK_DRIVER void class_gradient(const class_plan *p, const class_row *row, const class_norm *r,
                              const class_slope *g);

/* The gradient of g_l log p_y + g_h H (y -1: it is not among the classes), where H is the row's
 * entropy: J_k [ g_l (1[k = y] - p_k) - g_h p_k (l_k + H) ], also in place: each chunk is read
 * before it is written. `gap` is class_entropy's. */
LK_DRIVER void class_gradient_logprob(const class_plan *p, const class_row *row,
                                      const class_norm *r, double g_l, double g_h, double gap);

/* Zero gradients for an ignored row; its x and t are not read. */
LK_INLINE void class_zero(const class_plan *p, const class_row *row)
{
    if (row->grad_x)
        memset(row->grad_x, 0, (size_t)p->width * sizeof(elem));
    if (row->grad_t)
        memset(row->grad_t, 0, (size_t)p->width * sizeof(elem));
}

/* The results of one counted row after sweep 1, except its gradients. Returns the coefficients of
 * these. */
LK_DRIVER class_slope class_conclude(const class_plan *p, class_row *row, const class_norm *r);

/* Compute counted rows, at most class_together() of them. */
LK_DRIVER void class_compute(const class_plan *p, class_row *const *rows, int count);

#endif
