/* SPDX-License-Identifier: MIT
 *
 * Losses of lists, for learning to rank: scores, labels and mask [Q,K], a row being a list of those
 * of the K items that are not masked. A loss gives a function that computes the value of a list and
 * its slopes by the scores, and gets reading, checks, scaling and rounding from here. All in double
 * (rows/numbers.h): a list is some ten or hundred items, and pairs of them cancel.
 */
#ifndef LK_LIST_H
#define LK_LIST_H

#include "ranks.h"
#include "rows/numbers.h"

enum { SCORES, LABELS, MASK, GRAD_OUTPUT }; /* inputs */

/* reduction, where `loss` is one number. Not LK_MEAN and LK_SUM, which are for losses that have a
 * loss_shape: here list_divide sets the denominator. */
enum { LIST_MEAN, LIST_SUM };

/* A list: its items, then the results. */
typedef struct list {
    int64_t n;
    double *score, *label;
    double *spare;         /* room for 2 K + 4 numbers */
    lk_rank *ranks, *room; /* room for list_order */

    double value;
    double *slope; /* d value / d score; 0 at first */

    int64_t *at; /* where they are in the row */
} list;

#define LIST_INPUTS(label_range, label_help)                                                       \
    [SCORES] = {.name = "scores",                                                                  \
                .forms = {{"Q K", LK_FLOATS}},                                                     \
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,                           \
                .help = "score of each item of each list"},                                        \
    [LABELS] = {.name = "labels",                                                                  \
                .forms = {{"Q K", LK_FLOATS}},                                                     \
                .range = (label_range),                                                            \
                .help = (label_help)},                                                             \
    [MASK] = {.name = "mask",                                                                      \
              .forms = {{"Q K", LK_MASKS}},                                                        \
              .flags = LK_OPTIONAL | LK_IGNORES,                                                   \
              .help = "items with 0 are absent, and not read; default all there"},                 \
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT

LK_STATIC size_t list_scratch(const lk_job *job)
{
    const size_t K = (size_t)job->size['K' - 'A'];
    return (6 * K + 4) * sizeof(double) + 2 * K * sizeof(lk_rank);
}

/* Put a list into scratch memory, which has list_scratch bytes. */
LK_STATIC list list_place(const lk_job *job, void *scratch)
{
    const int64_t K = job->size['K' - 'A'];
    list l = {.ranks = scratch};
    l.room = l.ranks + K;
    l.at = (int64_t *)(l.room + K);
    l.score = (double *)(l.at + K);
    l.label = l.score + K;
    l.slope = l.label + K;
    l.spare = l.slope + K;
    return l;
}

/* Read the items of list q. Bad ones are recorded in the block, if there is one. */
LK_STATIC void list_gather(const lk_job *job, int64_t q, double most, list *l, lk_block *block)
{
    const lk_reduce *reduce = job->options;
    const int64_t K = job->size['K' - 'A'];
    const lk_tensor *scores = &job->in[SCORES], *labels = &job->in[LABELS];
    l->n = 0;
    for (int64_t i = q * K; i < q * K + K; i++) {
        if (!numbers_marked(job, MASK, i))
            continue;
        const double s = lk_real_at(scores->data, scores->dtype, i);
        const double y = lk_real_at(labels->data, labels->dtype, i);
        if (block && reduce->nonfinite == LK_REFUSE_NONFINITE && scalar_nonfinite(s))
            lk_refuse(block, LK_NONFINITE_INPUT, SCORES, i, s);
        if (block && !(isfinite(y) && (isinf(most) || (y >= 0 && y <= most))))
            lk_refuse(block, LK_VALUE_OUT_OF_RANGE, LABELS, i, y);
        l->score[l->n] = s;
        l->label[l->n] = y;
        l->slope[l->n] = 0;
        l->at[l->n++] = i - q * K;
    }
}

/* The places of n keys, the greatest first, equal ones as they are. Valid until the next call. */
LK_STATIC const lk_rank *list_order(const list *l, const double *key, int64_t n)
{
    for (int64_t k = 0; k < n; k++)
        l->ranks[k] = (lk_rank){.key = lk_rank_key(key[k]), .at = k};
    return lk_ranks_sort(l->ranks, l->room, n);
}

LK_STATIC bool list_has_nan(const list *l)
{
    for (int64_t k = 0; k < l->n; k++)
        if (isnan(l->score[k]))
            return true;
    return false;
}

/* Write the gradient of list q: slopes times a factor at its items, 0 elsewhere. */
LK_STATIC void list_write(const lk_job *job, int64_t q, const list *l, double factor)
{
    const int64_t K = job->size['K' - 'A'];
    double item;
    for (int64_t i = 0, k = 0; job->grad[SCORES].data && i < K; i++) {
        const bool there = k < l->n && l->at[k] == i;
        item = there ? l->slope[k++] : 0;
        numbers_write(&job->grad[SCORES], q * K + i, 1, &item, there ? factor : 0, l->value);
    }
}

/* The labels are in [0, most], or any finite number where that is infinite. */
LK_STATIC void list_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                         void *scratch, void (*each)(const lk_job *job, list *l), double most)
{
    const lk_reduce *reduce = job->options;
    const bool per_row = job->loss->is->loss_shape && reduce->reduction == LK_NONE;
    list l = list_place(job, scratch);
    for (int64_t q = first; q < first + count; q++) {
        list_gather(job, q, most, &l, block);
        l.value = 0;
        if (l.n > 0)
            each(job, &l);
        if (isnan(l.value) || list_has_nan(&l))
            l.value = (double)NAN; /* a NaN has one sign, whatever the compiler */
        block->sum[0] += l.value;
        if (per_row && job->value.data)
            lk_put(&job->value, q, l.value);
        const double up = numbers_constant(job, GRAD_OUTPUT, per_row ? q : 0, 1);
        list_write(job, q, &l, job->scale[0] * up);
    }
}

/* How many items, and lists with an item, there are. */
LK_STATIC void list_count(const lk_job *job, int64_t *items, int64_t *lists)
{
    const int64_t K = job->size['K' - 'A'];
    *items = *lists = 0;
    for (int64_t q = 0; q < job->rows; q++) {
        const int64_t before = *items;
        for (int64_t i = q * K; i < q * K + K; i++)
            *items += numbers_marked(job, MASK, i);
        *lists += *items > before;
    }
}

/* Every pair takes some operations. */
LK_STATIC int64_t list_pairs_cost(const lk_job *job, const lk_pass *pass)
{
    const double K = (double)job->size['K' - 'A'], cost = 16 * K * (K + 1);
    (void)pass;
    return cost < 0x1p60 ? (int64_t)cost : (int64_t)1 << 60;
}

/* Options and checks of losses whose reduction is LIST_MEAN or LIST_SUM. */
#define LIST_REDUCE_FIELDS(st, of)                                                                 \
    LK_REDUCTION_FIELD(st, "mean", "mean|sum", "over the number of " of ", or not"),               \
        LK_NUM_ITEMS_FIELD(st), LK_EMPTY_MEAN_FIELD(st), LK_NONFINITE_FIELD(st)

LK_STATIC lk_status list_check(const lk_job *job, lk_error *error)
{
    const lk_reduce *reduce = job->options;
    if (reduce->reduction == LIST_SUM && !isnan(reduce->num_items))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "num_items replaces the denominator of reduction=mean; leave it out with "
                       "another reduction");
    return LK_OK;
}

LK_STATIC void list_divide(lk_job *job, int64_t by)
{
    const lk_reduce *reduce = job->options;
    job->denominator[0] = reduce->reduction == LIST_SUM ? 1
                          : isnan(reduce->num_items)    ? (double)by
                                                        : reduce->num_items;
}

#define LIST_KERNELS(each, most_label)                                                             \
    static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,             \
                     void *scratch)                                                                \
    {                                                                                              \
        list_rows(job, first, count, block, scratch, each, most_label);                            \
    }

#define LIST_MEMBERS(options)                                                                      \
    .rows_shape = "Q", .options_size = sizeof(options), .parts = 1, .scratch = list_scratch,       \
    .prepare = prepare, .rows = rows

#endif
