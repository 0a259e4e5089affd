/* SPDX-License-Identifier: MIT
 *
 * All pairs of items with labels: see rows/labelled.h.
 */
#include "rows/labelled.h"

labelled labelled_of(const lk_job *job, double eps, double temperature, bool each)
{
    labelled l = {.bytes = 0};
    pair_table *t = &l.table;
    t->rows = t->columns = pair_units_take(job, &l.bytes, EMBEDDINGS, eps);
    l.order = take(job->state, &l.bytes, t->rows.rows, sizeof *l.order);
    t->at = l.order;
    t->scale = 1 / temperature;
    t->self = true;
    t->each = each;
    table_take(job, &l.bytes, t);
    t->by_column = t->by_row; /* scores are symmetric */
    return l;
}

static labelled plan_of(const lk_job *job)
{
    const labelled_loss *of = job->loss->driver;
    return of->plan(job);
}

int64_t labelled_row_cost(const lk_job *job, const lk_pass *pass)
{
    const labelled l = plan_of(job);
    const pair_table *t = &l.table;
    const int64_t n = t->rows.rows;
    return pass != &job->loss->ahead ? table_cost(t, n) : t->kept ? 1 + table_cost(t, n / 2) : 0;
}

lk_status labelled_check(const lk_job *job, lk_error *error)
{
    lk_status status = pair_check_width(job, error);
    return status != LK_OK ? status : table_check_memory(job, job->rows, job->rows, error);
}

size_t labelled_state(const lk_job *job)
{
    return plan_of(job).bytes;
}

size_t labelled_scratch(const lk_job *job)
{
    const labelled l = plan_of(job);
    return table_scratch(job, &l.table);
}

lk_status labelled_prepare(lk_job *job, lk_error *error)
{
    const labelled l = plan_of(job);
    const pair_table *t = &l.table;
    const int64_t n = t->rows.rows;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        l.order[i] = (pair_place){lk_int(&job->in[LABELS], i), i};
    pair_sort(l.order, n);
    for (int64_t k = 0, end; k < n; k = end) {
        for (end = k; end < n && l.order[end].key == l.order[k].key; end++)
            ;
        for (int64_t m = k; m < end; m++) {
            t->first[m] = k;
            t->span[m] = end - k;
            sum += t->each ? (double)(end - k - 1) : end - k > 1;
        }
    }
    job->counted = n;
    job->denominator[0] = sum;
    return pair_units_fill(job, &t->rows, EMBEDDINGS, l.order, error);
}

void labelled_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const labelled_loss *of = job->loss->driver;
    const labelled l = of->plan(job);
    const pair_table *t = &l.table;
    const double upstream = pair_weight(job, LABELS_GRAD_OUTPUT, 0);
    const int64_t group = table_group(t);
    for (int64_t i = first, n; i < first + count; i += n) {
        n = at_most(first + count - i, group);
        const real *s = table_scores(job, t, i, n, scratch);
        for (int64_t r = 0; r < n; r++)
            if (t->span[i + r] > 1) /* else its slopes are 0 already */
                pair_put(job, block, i + r, of->value(job, t, i + r, s + r * t->padded, upstream));
    }
}

void labelled_ahead(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const labelled l = plan_of(job);
    table_ahead(job, &l.table, first, count, scratch);
}

void labelled_back(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const labelled l = plan_of(job);
    table_back_rows(job, &l.table, EMBEDDINGS, first, count, scratch);
}
