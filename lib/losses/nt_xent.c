/* SPDX-License-Identifier: MIT
 *
 * NT-Xent: every positive pair of a batch is compared with the negatives of its first item.
 */
#include "rows/labelled.h"

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

static double value(const lk_job *job, const pair_table *t, int64_t i, const real *s,
                    double upstream)
{
    (void)job;
    return table_each(t, i, s, upstream);
}

static const labelled_loss driver = {plan_of, value};

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
    .driver = &driver,
    LABELLED,
};
