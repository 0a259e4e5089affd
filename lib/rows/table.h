/* SPDX-License-Identifier: MIT
 *
 * Losses that compare every vector of one set with all vectors of another, by cosine: contrastive
 * losses with in-batch negatives. They have a table of scores s_ij = scale * h_i h_j, whose rows
 * are compared with softmax; some of a row's columns are its positives.
 *
 * G are the derivatives of the loss with respect to the scores. A row that is visited notes what
 * its G are computed from (table_slopes), a few numbers. The gradients are separate passes: the
 * scores of some rows and columns are computed again, or read if the table is small enough to be
 * kept; they give G, and a product with it the gradient, dL/dh_i = scale * sum_j G_ij h_j, which
 * then goes through the normalisation. A loss without softmax computes its G itself (`slopes`), and
 * has no use for `first`, `span` and `by_row`. All products add up in an order that no block or
 * thread decides (rows/product.h).
 */
#ifndef LK_TABLE_H
#define LK_TABLE_H

#include "rows/elements.h"
#include "rows/units.h"

/* Each variant has its own copy, under its own names; defined in rows/table.c. */
#define table_check_memory  LK_PASTE(LK_VARIANT, table_check_memory)
#define table_slopes_take   LK_PASTE(LK_VARIANT, table_slopes_take)
#define table_take          LK_PASTE(LK_VARIANT, table_take)
#define table_scratch       LK_PASTE(LK_VARIANT, table_scratch)
#define table_cost          LK_PASTE(LK_VARIANT, table_cost)
#define table_least         LK_PASTE(LK_VARIANT, table_least)
#define table_ahead         LK_PASTE(LK_VARIANT, table_ahead)
#define table_group         LK_PASTE(LK_VARIANT, table_group)
#define table_scores        LK_PASTE(LK_VARIANT, table_scores)
#define table_softmax       LK_PASTE(LK_VARIANT, table_softmax)
#define table_take_positive LK_PASTE(LK_VARIANT, table_take_positive)
#define table_each          LK_PASTE(LK_VARIANT, table_each)
#define table_moment        LK_PASTE(LK_VARIANT, table_moment)
#define table_back_rows     LK_PASTE(LK_VARIANT, table_back_rows)
#define table_back_columns  LK_PASTE(LK_VARIANT, table_back_columns)

/* Refuse x times y scores if the sizes of what depends on them would overflow. */
LK_DRIVER lk_status table_check_memory(const lk_job *job, int64_t x, int64_t y, lk_error *error);

/* By row, with d = s - top: G = by e^d - off where the column is not positive. Where it is, G =
 * pull ((e^d - hit) - rest) + more, which does not cancel if there is only one; if each positive is
 * compared with the negatives alone, G = -pull sigmoid(hit - s). All 0: a row whose G are 0. */
typedef struct table_slopes {
    real *top, *by, *off;
    double *pull, *hit, *rest, *more;
} table_slopes;

LK_DRIVER table_slopes table_slopes_take(const lk_job *job, size_t *used, int64_t rows);

typedef struct pair_table pair_table;
struct pair_table {
    pair_units rows, columns;
    double scale;
    int power;      /* G is without the factor 2^power, which the gradients are multiplied by */
    int64_t padded; /* columns, in whole strides */
    bool self;      /* rows and columns are the same, and no vector is compared with itself */
    bool each;      /* a positive is compared with the negatives, not with other positives */
    /* Of each row: its positives are columns first..first+span-1, but not itself. */
    int64_t *first, *span;
    table_slopes by_row; /* members are NULL: no gradient is wanted */
    table_slopes
        by_column;        /* of the transposed table, where that has a part in the loss; or NULL */
    real *kept;           /* the scores, or NULL if they are computed again */
    const pair_place *at; /* vector at[i].at of the input is row i; NULL: vector i is */
    /* Changes the scores of row i from column j on: excluded ones become -inf. NULL: none. */
    void (*mend)(const lk_job *job, int64_t i, int64_t j, int64_t count, real *s);
    /* Adds to the gradient of vector i of an input, in double, what its G in the table do not give.
     * NULL: nothing. */
    void (*add)(const lk_job *job, int input, int64_t i, double *sum);
    /* The scores of row i from column j on become their G, in whole vectors: where each score has
     * its own, and no row is compared by softmax. NULL: G are what visits of the rows noted. */
    void (*slopes)(const lk_job *job, const pair_table *t, int64_t i, int64_t j, int64_t count,
                   real *s);
};

/* Complete a table of given rows and columns with memory for what else it needs. */
LK_DRIVER void table_take(const lk_job *job, size_t *used, pair_table *t);

LK_DRIVER size_t table_scratch(const lk_job *job, const pair_table *t);

/* The cost of a vector that is compared with so many: see lk_loss.row_cost. */
LK_DRIVER int64_t table_cost(const pair_table *t, int64_t others);

/* lk_loss.least: fewer rows do not share the work of copying the columns into panels. */
LK_DRIVER int64_t table_least(const lk_job *job, const lk_pass *pass);

/* How many rows at a time table_scores can give, at most TABLE_ROWS. */
enum { TABLE_ROWS = 128 };
LK_DRIVER int64_t table_group(const pair_table *t);

/* lk_loss.ahead of a table of a set with itself: computes the scores of each pair once, if they are
 * kept. */
LK_DRIVER void table_ahead(const lk_job *job, const pair_table *t, int64_t first, int64_t count,
                           void *scratch);

/* The scores of `count` rows from row i on, t->padded apart, with -inf at the end of each. */
LK_DRIVER const real *table_scores(const lk_job *job, const pair_table *t, int64_t i, int64_t count,
                                   void *scratch);

/* The cross entropy of a row of scores, -sum_j q_j log softmax(s)_j. The target distribution q is
 * uniform over the positives, of which there is one at least, smoothed: mass eps is spread over all
 * `allowed` candidates. Scores of -inf mark excluded candidates. Notes the slopes, times `weight`.
 */
typedef struct table_target {
    double positives;
    double eps, allowed;
    double weight;
} table_target;

LK_DRIVER double table_softmax(const pair_table *t, int64_t i, const real *s,
                               const table_target *target);

/* The G of a row's one positive after its visit, which is 0 in the table from then on: its part of
 * the gradients is that of `add`. */
LK_DRIVER double table_take_positive(const pair_table *t, int64_t i);

/* The sum over positives p of log(e^s_p + sum over negatives of e^s_j) - s_p. */
LK_DRIVER double table_each(const pair_table *t, int64_t i, const real *s, double weight);

/* sum_j G_j s_j of row i after its visit: the derivative with respect to log t, if the scores are
 * scaled by t. */
LK_DRIVER double table_moment(const pair_table *t, int64_t i, const real *s);

/* The gradient passes: of the vectors first..first+count-1 that are the rows, or the columns. */
LK_DRIVER void table_back_rows(const lk_job *job, const pair_table *t, int input, int64_t first,
                               int64_t count, void *scratch);
LK_DRIVER void table_back_columns(const lk_job *job, const pair_table *t, int input, int64_t first,
                                  int64_t count, void *scratch);

/* See elements_power: of the factor that all rows share. */
LK_INLINE int table_power(const lk_job *job, int grad_output)
{
    return elements_power(pair_per_row(job) ? 1 : pair_weight(job, grad_output, 0));
}

LK_INLINE bool table_wants_gradient(const lk_job *job)
{
    return job->grad_wanted != 0;
}

#endif
