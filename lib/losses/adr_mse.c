/* SPDX-License-Identifier: MIT
 *
 * The squared error of approximated, differentiable ranks.
 */
#include "rows/list.h"

typedef struct options {
    lk_reduce reduce;
    double alpha;
} options;

static const lk_field fields[] = {
    LIST_REDUCE_FIELDS(options, "items"),
    LK_FIELD(options, alpha, "1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "how sharply scores are told apart: the higher, the closer to ranks"),
    {0},
};

static const lk_input inputs[] = {
    LIST_INPUTS("finite", "how relevant each item is; the order of a list is all that counts"),
    {0},
};

static const lk_output outputs[] = {{0}};

static lk_status prepare(lk_job *job, lk_error *error)
{
    int64_t items, lists;
    (void)error;
    list_count(job, &items, &lists);
    job->counted = items;
    list_divide(job, items);
    return LK_OK;
}

/* Ranks by label from 1 on; equal labels share the mean of theirs. */
static void rank(const list *l, double *r)
{
    const lk_rank *order = list_order(l, l->label, l->n);
    for (int64_t first = 0, end; first < l->n; first = end) {
        for (end = first; end < l->n && order[end].key == order[first].key; end++)
            ;
        for (int64_t k = first; k < end; k++)
            r[order[k].at] = (double)(first + end + 1) / 2;
    }
}

static void each(const lk_job *job, list *l)
{
    const options *o = job->options;
    const int64_t n = l->n;
    double *r = l->spare;
    double *error = l->spare + n; /* what the ranks exceed those by the scores by */
    double *by_rank = error;      /* in its place: the derivative by the rank by the scores */
    rank(l, r);
    for (int64_t i = 0; i < n; i++)
        error[i] = r[i] - 1;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i + 1; j < n; j++) {
            const double p = scalar_sigmoid(o->alpha * (l->score[j] - l->score[i]));
            error[i] -= p;
            error[j] -= 1 - p;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        const double weight = lk_ln_2 / lk_log1p(r[i]);
        l->value += error[i] * error[i] * weight;
        by_rank[i] = error[i] * (-2 * weight);
    }
    for (int64_t i = 0; job->grad[SCORES].data && i < n; i++) {
        for (int64_t j = i + 1; j < n; j++) {
            /* p (1 - p) is the same for u and -u, and does not cancel for the lower one. */
            const double p = scalar_sigmoid(-fabs(o->alpha * (l->score[j] - l->score[i])));
            const double slope = o->alpha * p * (1 - p) * (by_rank[i] - by_rank[j]);
            l->slope[j] += slope;
            l->slope[i] -= slope;
        }
    }
}

LIST_KERNELS(each, (double)INFINITY)

static const char tex[] =
    "\\text{loss} = \\frac{1}{N} \\sum_i \\frac{(r_i - \\hat r_i)^2}{\\log_2(1 + r_i)},\\qquad "
    "\\hat r_i = 1 + \\sum_{j \\neq i} \\sigma(\\alpha (s_j - s_i))";

LK_DESCRIBE(
    adr_mse, .tex = tex, .title = "Squared error of approximated ranks (ADR-MSE)",
    .formula = "sum_i (r_i - r'_i)^2 / log2(1 + r_i); r: rank by label, r'_i = 1 + sum_(j != "
               "i) sigmoid(alpha (s_j - s_i)); mean: over the items",
    .help = "Distils the order of a list, of a large language model for instance, into a "
            "ranking model; errors at the top count most.",
    .reference = "Schlatt et al. 2025; sentence-transformers cross_encoder/losses/adr_mse.py",
    .example = "{\"inputs\": {\"scores\": [[0.2, 1.1, -0.3, 0.6]], \"labels\": [[2.0, 0.0, "
               "1.0, 1.0]]}}",
    .traits = LK_NONNEGATIVE | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(adr_mse) = {
    .is = &LK_IS(adr_mse),
    .row_cost = list_pairs_cost,
    .check = list_check,
    LIST_MEMBERS(options),
};
