/* SPDX-License-Identifier: MIT
 *
 * Losses that compare every vector of one set with all vectors of another, by cosine: contrastive
 * losses with in-batch negatives.
 *
 * `pair_units` are the normalised vectors h of an input, kept in job->state. A row computes its
 * scores against all vectors of a set, then replaces them by G, the derivatives of the loss with
 * respect to the scores. The gradients are separate passes, which gather from G: dL/dh_i = sum_j
 * G_ij h_j, then the gradient through the normalisation. A loss decides which rows of G it reads; a
 * row writes only its own row of G.
 */
#ifndef LK_UNITS_H
#define LK_UNITS_H

#include "rows/pair.h"

/* Each variant has its own copy, under its own names; defined in rows/units.c. */
#define pair_sort             LK_PASTE(LK_VARIANT, pair_sort)
#define pair_check_memory     LK_PASTE(LK_VARIANT, pair_check_memory)
#define pair_units_take       LK_PASTE(LK_VARIANT, pair_units_take)
#define pair_unit             LK_PASTE(LK_VARIANT, pair_unit)
#define pair_fail_nonfinite   LK_PASTE(LK_VARIANT, pair_fail_nonfinite)
#define pair_units_fill       LK_PASTE(LK_VARIANT, pair_units_fill)
#define pair_scores           LK_PASTE(LK_VARIANT, pair_scores)
#define pair_top              LK_PASTE(LK_VARIANT, pair_top)
#define pair_sum_exp          LK_PASTE(LK_VARIANT, pair_sum_exp)
#define pair_replace          LK_PASTE(LK_VARIANT, pair_replace)
#define pair_softmax_row      LK_PASTE(LK_VARIANT, pair_softmax_row)
#define pair_gather_back      LK_PASTE(LK_VARIANT, pair_gather_back)
#define pair_vector_scratch   LK_PASTE(LK_VARIANT, pair_vector_scratch)
#define pair_labelled_of      LK_PASTE(LK_VARIANT, pair_labelled_of)
#define pair_labelled_check   LK_PASTE(LK_VARIANT, pair_labelled_check)
#define pair_labelled_fill    LK_PASTE(LK_VARIANT, pair_labelled_fill)
#define pair_labelled_scratch LK_PASTE(LK_VARIANT, pair_labelled_scratch)
#define pair_labelled_back    LK_PASTE(LK_VARIANT, pair_labelled_back)
#define pair_labelled_cost    LK_PASTE(LK_VARIANT, pair_labelled_cost)

/* A key and its original index, for sorting keys so that equal ones are adjacent. */
typedef struct pair_place {
    int64_t key, at;
} pair_place;

LK_DRIVER void pair_sort(pair_place *place, int64_t n);

/* Take the next `bytes` bytes of job->state. While only the size of the state is being added up,
 * job->state is NULL and the result must not be used; the address is computed as an integer because
 * arithmetic on NULL is undefined. */
LK_INLINE void *pair_take(const lk_job *job, size_t *used, size_t bytes)
{
    uintptr_t place = (uintptr_t)job->state + *used;
    *used += (bytes + 63) / 64 * 64;
    return (void *)place;
}

/* Refuse x times y scores, all of which are kept, if their size in bytes would overflow. */
LK_DRIVER lk_status pair_check_memory(const lk_job *job, int64_t x, int64_t y, lk_error *error);

/* The vectors of an input as h = v / n with n = max(|v|, eps). Not normalised: n is the same for
 * all, 1 or a power of two such that products of h neither overflow nor underflow. */
typedef struct pair_units {
    real *h;
    double *n;
    int64_t rows, width, stride;
    double eps; /* infinite: not normalised */
} pair_units;

LK_DRIVER pair_units pair_units_take(const lk_job *job, size_t *used, int input, double eps);

LK_DRIVER void pair_unit(const pair_units *u, int64_t i, const elem *v);

LK_DRIVER lk_status pair_fail_nonfinite(const lk_job *job, int input, int64_t index,
                                        lk_error *error);

/* Fill in all rows. With nonfinite=error, an error for a value that is not finite. */
LK_DRIVER lk_status pair_units_fill(const lk_job *job, const pair_units *u, int input,
                                    lk_error *error);

/* What products of h lack of products of v. */
LK_INLINE double pair_lack(const pair_units *u)
{
    return isfinite(u->eps) || u->rows == 0 ? 1 : u->n[0];
}

/* A score. -inf marks excluded candidates, so a score that is not finite becomes NaN. */
LK_INLINE real pair_score(double x)
{
    real s = (real)x;
    return s + 0 * s;
}

/* s_j = scale * x h_j for all rows of u, padded with -inf. */
LK_DRIVER void pair_scores(const real *x, const pair_units *u, double scale, real *s);

/* max s_j, ignoring NaN: the shift that is subtracted before exp. Finite even if no score is. */
LK_DRIVER real pair_top(const real *s, int64_t padded);

/* sum_j e^(s_j - shift). */
LK_DRIVER double pair_sum_exp(const real *s, int64_t padded, real shift);

/* s_j becomes a e^(s_j - shift) - b, and 0 where it is -inf. Returns the sum of the new values,
 * each times s_j - shift. */
LK_DRIVER double pair_replace(real *s, int64_t padded, real shift, double a, double b);

/* The cross entropy of a row of scores, -sum_j q_j log softmax(s)_j. The target distribution q is
 * uniform over the positives, smoothed: mass eps is spread over all `allowed` candidates. Scores of
 * -inf mark excluded candidates. */
typedef struct pair_softmax {
    real *s; /* scores, padded; replaced by G if `slopes` */
    int64_t padded;
    const int64_t *at; /* indices of the positives */
    int64_t positives;
    real *kept; /* scratch for as many reals */
    double eps, allowed;
    double weight; /* of G */
    bool slopes;

    double loss;
    double slope_scale; /* sum_j G_j s_j: the derivative with respect to log t, if the scores are
                           scaled by t */
} pair_softmax;

LK_DRIVER void pair_softmax_row(pair_softmax *r);

/* Write the gradient of vector i: the sum of two gathers, the second only if b is not NULL. `g` is
 * scratch for a padded vector. */
LK_DRIVER void pair_gather_back(const pair_units *u, int64_t i, const pair_units *others,
                                const real *a, int64_t step_a, const real *b, int64_t step_b,
                                double scale, double *g, elem *grad);

LK_DRIVER size_t pair_vector_scratch(const lk_job *job);

LK_INLINE bool pair_wants_gradient(const lk_job *job)
{
    bool any = false;
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        any = any || job->grad[i].data;
    return any;
}

/* Losses over all pairs of `embeddings` [N,D] with `labels` [N]: pairs with equal labels are
 * positive. */
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
    pair_place *order; /* sorted by label */
    int64_t *first;    /* by item: where its label begins in `order` */
    int64_t *count;    /* by item: how many items have its label */
    int64_t padded;
    size_t bytes;
} pair_labelled;

LK_DRIVER pair_labelled pair_labelled_of(const lk_job *job, double eps);

LK_DRIVER lk_status pair_labelled_check(const lk_job *job, lk_error *error);

LK_DRIVER lk_status pair_labelled_fill(const lk_job *job, const pair_labelled *l, lk_error *error);

/* Store the indices of the items with the label of item i, except i. Returns their number. */
LK_INLINE int64_t pair_positives(const pair_labelled *l, int64_t i, int64_t *at)
{
    int64_t n = 0;
    for (int64_t m = l->first[i]; m < l->first[i] + l->count[i]; m++)
        if (l->order[m].at != i)
            at[n++] = l->order[m].at;
    return n;
}

/* Scratch: for a row, the indices and scores of its positives; for a gradient pass, a vector. */
LK_DRIVER size_t pair_labelled_scratch(const lk_job *job);

/* The gradient pass: dL/dh = (G + G') h / temperature, where G' is G transposed. */
LK_DRIVER void pair_labelled_back(const lk_job *job, const pair_labelled *l, double temperature,
                                  int64_t first, int64_t count, double *g);

LK_DRIVER int64_t pair_labelled_cost(const lk_job *job, const lk_pass *pass);

#endif
