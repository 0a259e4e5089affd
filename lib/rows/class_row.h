/* SPDX-License-Identifier: MIT
 *
 * Rows of class scores: the arithmetic of one row of logits against a target, shared by every loss
 * that is a cross entropy at heart. LOSSES.md-style symbols: x logits, z = scaled scores, l = log
 * softmax(z), p = softmax(z), q = target distribution, w = class weights, y = target class.
 *
 * One visit: a row is read from memory once and its gradient written once; what is swept again lies
 * in cache. Sweep 1 finds max z and sum e^(z-max), and where a gradient will follow keeps the
 * exponentials; sweep 2, only where the value needs it, the sums that p or l enter; sweep 3, only
 * where asked, writes the gradient. The value is computed alike whether sweep 3 follows or not, so
 * asking for less never changes a bit.
 */
#ifndef LK_CLASS_ROW_H
#define LK_CLASS_ROW_H

#include "rows/elements.h"

/* By the names of the variant; they are in rows/class_row.c. */
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

/* Scores are prepared a chunk at a time: it stays in the first-level cache, and a sum over it may
 * be kept in the computing type. */
enum { CHUNK = 512 };

/* Rows no longer than a chunk are taken several at a time: what one waits for in a row (its
 * maximum, sum, logarithm) is done in the others meanwhile. */
enum { CLASS_TOGETHER = 8 };

enum { CLASS_UNIFORM, CLASS_OTHERS }; /* smoothing_mode */

typedef struct class_options {
    int64_t ignore_index, vocab_size;
    double label_smoothing, logit_scale, softcap, z_loss, focal_gamma, poly1;
    int smoothing_mode;
    bool subtract_entropy;
} class_options;

/* What is the same for every row of a call. */
typedef struct class_plan {
    int64_t classes;    /* those that count: vocab_size */
    int64_t width;      /* those that are there: C */
    int64_t inner;      /* how far apart the classes of a row stand in the caller's tensor */
    const real *weight; /* w, or NULL */
    double total_weight;
    double smoothing, off, on; /* eps; index form: q of the other classes, q of the target */
    double scale, z_loss, gamma, poly1;
    real cap; /* 0: no softcap */
    bool minus_entropy;
    bool want_entropy, want_argmax;
    bool stream; /* gradients go past the caches: they are larger than those, and not in place */
    bool plain;  /* its rows may be computed as rows/plain.h does */
} class_plan;

/* One row: in, then out. */
typedef struct class_row {
    const elem *x;    /* logits */
    const elem *t;    /* target probabilities; NULL: index form */
    int64_t y;        /* index form; -1 otherwise */
    elem *grad_x;     /* may be x; NULL: not wanted */
    elem *grad_t;     /* not t; NULL: not wanted */
    double rho, zeta; /* what the gradients of main and of L^2 are multiplied with */
    /* Scratch for the exponentials, so that the gradient needs no second one of each class:
     * e^(z - shift), and the shift of each chunk. NULL: they are computed again. */
    real *kept, *shift;

    double main, z_part; /* the loss, in its two parts, without rho */
    real nll, lse, entropy;
    int64_t argmax;
} class_row;

/* What sweep 1 finds. The target, or where there is none each class at the maximum, is left out of
 * the sum and added last: `rest` keeps its own precision, and with it what a confident row leaves
 * to the other classes, 1 - p = rest/sum, and its log p. */
typedef struct class_norm {
    real top;    /* max z, NaN left out */
    real at;     /* z_y */
    double rest; /* sum over the other classes of e^(z_k - top) */
    double own;  /* e^(z_y - top); without a target how many classes are at the maximum */
    double sum;  /* rest + own; NaN if the row has no softmax */
    double log_sum;
} class_norm;

/* The gradient of a row is (a e^(z-top) - w b q) J, with q from t or, in index form, constant but
 * for the target's entry, which is computed apart without cancellation. */
typedef struct class_slope {
    double a; /* of e^(z-top) */
    double b; /* of w q */
    /* A class whose entry is computed without cancellation, and that entry without J: the target;
     * in probability form the class at the maximum, if it is alone there. y is -1 for none. */
    int64_t y;
    double at;
} class_slope;

/* Is a gradient to be written past the caches? If it is larger than they are, and the lines that
 * two rows share, which are then written twice, are none or few. */
LK_DRIVER bool class_streams(const elem *grad, int64_t rows, int64_t width);

/* A positive option as a number that the computing type has: neither 0 nor infinite. */
LK_INLINE double class_clamp(double x)
{
    const double least = sizeof(real) == 8 ? 0x1p-1000 : 0x1p-120;
    return x < least ? least : x > 1 / least ? 1 / least : x;
}

/* Of rows that are `width` wide. */
LK_DRIVER class_plan class_plan_make(const lk_job *job, const class_options *o, int64_t width);

/* How many rows are taken at a time: where they are long, one while the gradient of the one before
 * is written. */
LK_INLINE int class_together(int64_t width)
{
    return width <= CHUNK ? CLASS_TOGETHER : 1;
}

/* Bytes of scratch for all rows that are under way at a time. */
LK_DRIVER size_t class_kept_size(int64_t width);

/* Give a row the k-th of them. A long plain row that its gradient is to replace had better stay in
 * cache itself, until the gradient is written: its exponentials are computed again, which gives the
 * same bits; of other rows it would not. */
LK_DRIVER void class_keep(const class_plan *p, class_row *row, void *scratch, int k);

LK_INLINE int64_t class_padded(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

/* z of n classes (n <= CHUNK), in whole vectors; -inf in the lanes beyond, which no maximum and
 * no sum of exponentials notices. Returns the maximum, NaN left out. */
LK_DRIVER real class_scores(const class_plan *p, const elem *x, int64_t n, real *z);

/* The maximum of whole vectors, NaN left out. */
LK_DRIVER real class_max(const real *z, int64_t n);

/* z becomes e^(z - shift), in whole vectors; their sum. */
LK_DRIVER real class_exps(real *z, int64_t n, real shift);

/* The sum of the same, which does not replace them. */
LK_DRIVER real class_sum_exp(real *z, int64_t n, real shift);

/* Sweep 1. */
LK_DRIVER class_norm class_normalise(const class_plan *p, const class_row *row);

/* log(tops + rest) with all the digits that the computing type has, also where `rest` is nearly
 * nothing beside a single top. log1p takes twice as long as log. */
LK_INLINE double class_log_sum(double tops, double rest)
{
    const double near = sizeof(real) == sizeof(double) ? 0.5 : 0x1p-20;
    return tops == 1 && rest < near ? log1p(rest) : log(tops + rest);
}

/* What is left to do when `rest` is known. */
LK_INLINE void class_close(class_norm *r, const class_row *row)
{
    if (row->y >= 0)
        r->own = exp((double)r->at - (double)r->top);
    r->sum = r->rest + r->own;
    if (!(r->sum > 0) || (isinf(r->top) && r->top > 0))
        r->sum = (double)NAN; /* all -inf; or some +inf */
    r->log_sum = row->y >= 0 || isnan(r->sum) ? log(r->sum) : class_log_sum(r->own, r->rest);
}

/* -log p_y. Of a class that is likely from the odds against it, which keeps all digits of a small
 * loss. */
LK_INLINE double class_nll(const class_norm *r)
{
    if (r->own > r->rest)
        return log1p(r->rest / r->own);
    return r->log_sum - ((double)r->at - (double)r->top);
}

/* -sum p l, and in *gap the mean sum p (top - z), so that l_k + entropy = (z_k - top) + gap.
 * Nothing cancels in either, however peaked or uniform the row is. `top` must be the row's maximum.
 */
LK_DRIVER double class_entropy(const class_plan *p, const class_row *row, const class_norm *r,
                               double *gap);

/* Sweep 3. */
LK_DRIVER void class_gradient(const class_plan *p, const class_row *row, const class_norm *r,
                              const class_slope *g);

/* The gradient of g_l log p_y + g_h H, H being the row's entropy:
 * J_k [ g_l (1[k = y] - p_k) - g_h p_k (l_k + H) ], over the scores if need be: a chunk is read
 * before it is written. `gap` is class_entropy's. */
LK_DRIVER void class_gradient_logprob(const class_plan *p, const class_row *row,
                                      const class_norm *r, double g_l, double g_h, double gap);

/* The gradients of a row that does not count, whose x and t are not read. */
LK_INLINE void class_zero(const class_plan *p, const class_row *row)
{
    if (row->grad_x)
        memset(row->grad_x, 0, (size_t)p->width * sizeof(elem));
    if (row->grad_t)
        memset(row->grad_t, 0, (size_t)p->width * sizeof(elem));
}

/* Everything else about one counted row, but for its gradients. */
LK_DRIVER class_slope class_conclude(const class_plan *p, class_row *row, const class_norm *r);

/* Counted rows, as many as are taken at a time. */
LK_DRIVER void class_compute(const class_plan *p, class_row *const *rows, int count);

#endif
