/* SPDX-License-Identifier: MIT
 *
 * Losses over all pairs of `embeddings` [N,D] with `labels` [N]: pairs with equal labels are
 * positive. A row is an item; one without positives is left out. The rows of the table
 * (rows/table.h) are in the order of the labels.
 */
#ifndef LK_LABELLED_H
#define LK_LABELLED_H

#include "rows/prefixes.h"
#include "rows/table.h"

/* Each variant has its own copy, under its own names; defined in rows/labelled.c. */
#define labelled_of       LK_PASTE(LK_VARIANT, labelled_of)
#define labelled_row_cost LK_PASTE(LK_VARIANT, labelled_row_cost)
#define labelled_check    LK_PASTE(LK_VARIANT, labelled_check)
#define labelled_state    LK_PASTE(LK_VARIANT, labelled_state)
#define labelled_prepare  LK_PASTE(LK_VARIANT, labelled_prepare)
#define labelled_scratch  LK_PASTE(LK_VARIANT, labelled_scratch)
#define labelled_rows     LK_PASTE(LK_VARIANT, labelled_rows)
#define labelled_ahead    LK_PASTE(LK_VARIANT, labelled_ahead)
#define labelled_back     LK_PASTE(LK_VARIANT, labelled_back)

enum { EMBEDDINGS, LABELS, LABELS_GRAD_OUTPUT };

#define PAIR_LABELLED_INPUTS                                                                       \
    [EMBEDDINGS] = PAIR_VECTORS("embeddings", "N D", 0, "a vector for every item"),                \
    [LABELS] = {.name = "labels",                                                                  \
                .forms = {{"N", LK_INTS}},                                                         \
                .help = "items with the same label belong together"},                              \
    [LABELS_GRAD_OUTPUT] = LK_GRAD_OUTPUT

typedef struct labelled {
    pair_table table;
    pair_place *order; /* sorted by label */
    size_t bytes;
} labelled;

/* With `each`, the mean is over the pairs, otherwise over the items that have positives. */
LK_DRIVER labelled labelled_of(const lk_job *job, double eps, double temperature, bool each);

/* What a loss tells: lk_loss.driver. */
typedef struct labelled_loss {
    labelled (*plan)(const lk_job *job); /* labelled_of its options */

    /* The value of row i, which has scores s and positives; `upstream` is what its slopes are
     * multiplied by. */
    double (*value)(const lk_job *job, const pair_table *t, int64_t i, const real *s,
                    double upstream);
} labelled_loss;

LK_DRIVER int64_t labelled_row_cost(const lk_job *job, const lk_pass *pass);
LK_DRIVER lk_status labelled_check(const lk_job *job, lk_error *error);
LK_DRIVER size_t labelled_state(const lk_job *job);
LK_DRIVER lk_status labelled_prepare(lk_job *job, lk_error *error);
LK_DRIVER size_t labelled_scratch(const lk_job *job);
LK_DRIVER void labelled_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                             void *scratch);
LK_DRIVER void labelled_ahead(const lk_job *job, int64_t first, int64_t count, void *scratch);
LK_DRIVER void labelled_back(const lk_job *job, int64_t first, int64_t count, void *scratch);

/* Members of the loss. */
#define LABELLED                                                                                   \
    .kind = &lk_prefixed, .parts = 1, .rows_shape = "N", .row_cost = labelled_row_cost,            \
    .least = table_least, .check = labelled_check, .state = labelled_state,                        \
    .prepare = labelled_prepare, .scratch = labelled_scratch, .rows = labelled_rows,               \
    .ahead = {EMBEDDINGS, labelled_ahead}, .passes = {{EMBEDDINGS, labelled_back}}

#endif
