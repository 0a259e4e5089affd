/* SPDX-License-Identifier: MIT
 *
 * Supervised contrastive loss: every item against all others; those with the same label are its
 * positives.
 */
#include "rows/prefixes.h"
#include "rows/table.h"

typedef struct options {
    lk_reduce reduce;
    double temperature, base_temperature;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    PAIR_TEMPERATURE_FIELD(options, "0.1"),
    LK_FIELD(options, base_temperature, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "the loss is multiplied with temperature/base_temperature; off: with 1"),
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
    return labelled_of(job, o->cos_eps, o->temperature, false);
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
    double anchors = 0;
    for (int64_t i = 0; status == LK_OK && i < job->rows; i++)
        anchors += l.table.span[i] > 1;
    job->counted = job->rows;
    job->denominator[0] = anchors;
    return status;
}

static void ahead(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const labelled l = plan_of(job);
    table_ahead(job, &l.table, first, count, scratch);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const labelled l = plan_of(job);
    const pair_table *t = &l.table;
    const double factor = isnan(o->base_temperature) ? 1 : o->temperature / o->base_temperature;
    const int64_t group = table_group(t);
    for (int64_t i = first, n; i < first + count; i += n) {
        n = first + count - i < group ? first + count - i : group;
        const real *s = table_scores(job, t, i, n, scratch);
        for (int64_t r = 0; r < n; r++) {
            const table_target target = {.positives = (double)(t->span[i + r] - 1),
                                         .weight =
                                             factor * pair_weight(job, LABELS_GRAD_OUTPUT, 0)};
            if (target.positives > 0) /* else no anchor; its slopes are 0 already */
                pair_put(job, block, i + r,
                         factor * table_softmax(t, i + r, s + r * t->padded, &target));
        }
    }
}

static void back(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const labelled l = plan_of(job);
    table_back_rows(job, &l.table, EMBEDDINGS, first, count, scratch);
}

static const char tex[] =
    "\\frac{1}{N}\\sum_i\\left(\\log\\sum_{k \\ne i} e^{s_{ik}} - \\frac{1}{\\lvert "
    "P_i\\rvert}\\sum_{p \\in P_i} s_{ip}\\right),\\quad s_{ij} = \\frac{\\cos(i, "
    "j)}{\\tau},\\quad P_i\\ \\text{the others with the label of}\\ i";

LK_DESCRIBE(
    supcon, .tex = tex, .title = "Supervised contrastive loss",
    .formula = "mean over i of lse of s_ik over k != i - mean of s_ip over the others with i's "
               "label, s_ij = cos(i, j)/temperature",
    .help = "Every item against all others: those with its label are the targets, alike. Items "
            "whose label is theirs alone are no anchors.",
    .reference = "Khosla et al. 2020 (L_out); HobbitLong/SupContrast; "
                 "pytorch-metric-learning SupConLoss",
    .example = "{\"inputs\": {\"embeddings\": [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]],"
               " \"labels\": [0, 0, 0, 1]}, \"options\": {\"temperature\": 0.5}}",
    .traits = LK_NONNEGATIVE | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(supcon) = {
    .is = &LK_IS(supcon),
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
