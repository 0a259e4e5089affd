/* SPDX-License-Identifier: MIT
 *
 * Supervised contrastive loss: every item against all others; those with the same label are its
 * positives.
 */
#include "rows/labelled.h"

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

static double value(const lk_job *job, const pair_table *t, int64_t i, const real *s,
                    double upstream)
{
    const options *o = job->options;
    const double factor = isnan(o->base_temperature) ? 1 : o->temperature / o->base_temperature;
    const table_target target = {.positives = (double)(t->span[i] - 1),
                                 .weight = factor * upstream};
    return factor * table_softmax(t, i, s, &target);
}

static const labelled_loss driver = {plan_of, value};

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
    .driver = &driver,
    LABELLED,
};
