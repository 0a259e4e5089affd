/* SPDX-License-Identifier: MIT
 *
 * Supervised contrastive loss: every item against all others; those with the same label are its
 * positives.
 */
#include "rows/units.h"

typedef struct options {
    lk_reduce reduce;
    double temperature, base_temperature;
    double cos_eps;
} options;

static const lk_field fields[] = {
    PAIR_TEMPERATURE_FIELD(options, "0.1"),
    LK_FIELD(options, base_temperature, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "the loss is multiplied with temperature/base_temperature; off: with 1"),
    PAIR_COS_EPS_FIELD(options),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    {0},
};

static const lk_input inputs[] = {PAIR_LABELLED_INPUTS, {0}};

static const lk_output outputs[] = {{0}};

static pair_labelled plan_of(const lk_job *job)
{
    const options *o = job->options;
    return pair_labelled_of(job, o->cos_eps);
}

static size_t state(const lk_job *job)
{
    return plan_of(job).bytes;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const pair_labelled l = plan_of(job);
    lk_status status = pair_labelled_fill(job, &l, error);
    double anchors = 0;
    for (int64_t i = 0; status == LK_OK && i < job->rows; i++)
        anchors += l.count[i] > 1;
    job->counted = job->rows;
    job->denominator[0] = anchors;
    return status;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const pair_labelled l = plan_of(job);
    const double factor = isnan(o->base_temperature) ? 1 : o->temperature / o->base_temperature;
    int64_t *at = scratch;
    for (int64_t i = first; i < first + count; i++) {
        pair_softmax r = {.s = l.slopes + i * l.padded, .padded = l.padded, .at = at};
        r.positives = pair_positives(&l, i, at);
        r.kept = (real *)(at + job->rows);
        r.weight = factor * pair_weight(job, LABELS_GRAD_OUTPUT, 0);
        r.slopes = pair_wants_gradient(job);
        if (r.positives == 0) { /* no anchor; the state is zero already */
            pair_put(job, block, i, 0);
            continue;
        }
        pair_scores(l.u.h + i * l.u.stride, &l.u, 1 / o->temperature, r.s);
        r.s[i] = -(real)INFINITY;
        pair_softmax_row(&r);
        pair_put(job, block, i, factor * r.loss);
    }
}

static void back(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const options *o = job->options;
    const pair_labelled l = plan_of(job);
    pair_labelled_back(job, &l, o->temperature, first, count, scratch);
}

LK_LOSS(supcon) = {
    .is = {.name = "supcon",
           .title = "Supervised contrastive loss",
           .formula =
               "mean over i of lse of s_ik over k != i - mean of s_ip over the others with i's "
               "label, s_ij = cos(i, j)/temperature",
           .help =
               "Every item against all others: those with its label are the targets, alike. Items "
               "whose label is theirs alone are no anchors.",
           .reference = "Khosla et al. 2020 (L_out); HobbitLong/SupContrast; "
                        "pytorch-metric-learning SupConLoss",
           .example =
               "{\"inputs\": {\"embeddings\": [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]],"
               " \"labels\": [0, 0, 0, 1]}, \"options\": {\"temperature\": 0.5}}",
           .traits = LK_NONNEGATIVE | LK_COUPLED,
           .inputs = inputs,
           .outputs = outputs,
           .options = fields},
    .options_size = sizeof(options),
    .parts = 1,
    .rows_shape = "N",
    .row_cost = pair_labelled_cost,
    .check = pair_labelled_check,
    .state = state,
    .prepare = prepare,
    .scratch = pair_labelled_scratch,
    .rows = rows,
    .passes = {{EMBEDDINGS, back}},
};
