/* SPDX-License-Identifier: MIT
 *
 * NT-Xent: every positive pair of a batch is compared with the negatives of its first item.
 */
#include "rows/prefixes.h"
#include "rows/table.h"

typedef struct options {
    lk_reduce reduce;
    double temperature;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    PAIR_TEMPERATURE_FIELD(options, "0.07"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    {0},
};

static const lk_input inputs[] = {PAIR_LABELLED_INPUTS, {0}};

static const lk_output outputs[] = {{0}};

static labelled plan_of(const lk_job *job)
{
    const options *o = job->options;
    return labelled_of(job, o->cos_eps, o->temperature, true);
}

static size_t state(const lk_job *job)
{
    return plan_of(job).bytes;
}

static size_t scratch_size(const lk_job *job)
{
    const labelled l = plan_of(job);
    return table_scratch(job, &l.table);
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    const labelled l = plan_of(job);
    return labelled_cost(job, &l, pass);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const labelled l = plan_of(job);
    lk_status status = labelled_fill(job, &l, error);
    double pairs = 0;
    for (int64_t i = 0; status == LK_OK && i < job->rows; i++)
        pairs += (double)(l.table.span[i] - 1);
    job->counted = job->rows;
    job->denominator[0] = pairs;
    return status;
}

static void ahead(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const labelled l = plan_of(job);
    table_ahead(job, &l.table, first, count, scratch);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const labelled l = plan_of(job);
    const pair_table *t = &l.table;
    const double weight = pair_weight(job, LABELS_GRAD_OUTPUT, 0);
    const int64_t group = table_group(t);
    for (int64_t i = first, n; i < first + count; i += n) {
        n = first + count - i < group ? first + count - i : group;
        const real *s = table_scores(job, t, i, n, scratch);
        for (int64_t r = 0; r < n; r++)
            if (t->span[i + r] > 1) /* else its slopes are 0 already */
                pair_put(job, block, i + r, table_each(t, i + r, s + r * t->padded, weight));
    }
}

static void back(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const labelled l = plan_of(job);
    table_back_rows(job, &l.table, EMBEDDINGS, first, count, scratch);
}

static const char tex[] =
    "\\frac{1}{\\lvert P\\rvert}\\sum_{(i, p) \\in P}\\left(\\log\\left(e^{s_{ip}} + \\sum_{y_k "
    "\\ne y_i} e^{s_{ik}}\\right) - s_{ip}\\right),\\quad s_{ij} = \\frac{\\cos(i, "
    "j)}{\\tau},\\quad P\\ \\text{the pairs of one label}";

LK_DESCRIBE(
    nt_xent, .tex = tex, .title = "NT-Xent (SimCLR)",
    .formula = "mean over the pairs i, p with one label of log(e^(s_ip) + sum of e^(s_ik) over "
               "other labels) - s_ip, s_ij = cos(i, j)/temperature",
    .help = "Every pair of items with the same label against all items with other labels. "
            "With two views of each item it is SimCLR's loss.",
    .reference = "Chen et al. 2020; optax ntxent; pytorch-metric-learning NTXentLoss",
    .example = "{\"inputs\": {\"embeddings\": [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]],"
               " \"labels\": [0, 0, 1, 1]}, \"options\": {\"temperature\": 0.5}}",
    .traits = LK_NONNEGATIVE | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(nt_xent) = {
    .is = &LK_IS(nt_xent),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .rows_shape = "N",
    .row_cost = row_cost,
    .least = table_least,
    .check = labelled_check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
    .ahead = {EMBEDDINGS, ahead},
    .passes = {{EMBEDDINGS, back}},
};
