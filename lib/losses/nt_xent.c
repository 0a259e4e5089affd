/* SPDX-License-Identifier: MIT
 *
 * NT-Xent: every positive pair of a batch is compared with the negatives of its first item.
 */
#include "rows/units.h"

typedef struct options {
    lk_reduce reduce;
    double temperature;
    double cos_eps;
} options;

static const lk_field fields[] = {
    PAIR_TEMPERATURE_FIELD(options, "0.07"),
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
    double pairs = 0;
    for (int64_t i = 0; status == LK_OK && i < job->rows; i++)
        pairs += (double)(l.count[i] - 1);
    job->counted = job->rows;
    job->denominator[0] = pairs;
    return status;
}

/* With l = lse of the negatives, E - s_p = softplus(l - s_p): the slope of a positive is
 * -sigmoid(l - s_p), and those of the negatives are their softmax times the sum of these. */
static double row(const lk_job *job, const pair_labelled *l, int64_t i, const int64_t *at,
                  int64_t positives, real *kept)
{
    const double weight = pair_weight(job, LABELS_GRAD_OUTPUT, 0);
    real *s = l->slopes + i * l->padded;
    double loss = 0, pull = 0;
    s[i] = -(real)INFINITY;
    for (int64_t p = 0; p < positives; p++) {
        kept[p] = s[at[p]];
        s[at[p]] = -(real)INFINITY;
    }
    const real top = pair_top(s, l->padded);
    const double sum = pair_sum_exp(s, l->padded, top), lse = (double)top + log(sum);
    for (int64_t p = 0; p < positives; p++) {
        loss += lk_softplus(lse - (double)kept[p]);
        pull += pair_sigmoid(lse - (double)kept[p]);
    }
    if (weight == 0) {
        memset(s, 0, (size_t)l->padded * sizeof *s);
    } else if (pair_wants_gradient(job)) {
        pair_replace(s, l->padded, top, weight * pull / sum, 0);
        for (int64_t p = 0; p < positives; p++)
            s[at[p]] = (real)(-weight * pair_sigmoid(lse - (double)kept[p]));
    }
    return loss;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const pair_labelled l = plan_of(job);
    int64_t *at = scratch;
    real *kept = (real *)(at + job->rows);
    for (int64_t i = first; i < first + count; i++) {
        const int64_t positives = pair_positives(&l, i, at);
        double loss = 0;
        if (positives > 0) { /* else its slopes stay zero, as the state was */
            pair_scores(l.u.h + i * l.u.stride, &l.u, 1 / o->temperature, l.slopes + i * l.padded);
            loss = row(job, &l, i, at, positives, kept);
        }
        pair_put(job, block, i, loss);
    }
}

static void back(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const options *o = job->options;
    const pair_labelled l = plan_of(job);
    pair_labelled_back(job, &l, o->temperature, first, count, scratch);
}

LK_LOSS(nt_xent) = {
    .is = {.name = "nt_xent",
           .title = "NT-Xent (SimCLR)",
           .formula =
               "mean over the pairs i, p with one label of log(e^(s_ip) + sum of e^(s_ik) over "
               "other labels) - s_ip, s_ij = cos(i, j)/temperature",
           .help = "Every pair of items with the same label against all items with other labels. "
                   "With two views of each item it is SimCLR's loss.",
           .reference = "Chen et al. 2020; optax ntxent; pytorch-metric-learning NTXentLoss",
           .example =
               "{\"inputs\": {\"embeddings\": [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]],"
               " \"labels\": [0, 0, 1, 1]}, \"options\": {\"temperature\": 0.5}}",
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
