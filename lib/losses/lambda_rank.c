/* SPDX-License-Identifier: MIT
 *
 * Pairs of items in the wrong order, weighted by what exchanging them would change: RankNet,
 * LambdaRank, LambdaLoss. Order, gains and weights are constants.
 */
#include "rows/list.h"

enum { NDCG2PP, NDCG2, LAMBDARANK, UNWEIGHTED }; /* weighting */
enum { TWO, E };                                 /* log_base */

typedef struct options {
    lk_reduce reduce;
    int weighting, log_base;
    int64_t k;
    double sigma, mu;
} options;

static const lk_field fields[] = {
    LIST_REDUCE_FIELDS(options, "pairs"),
    LK_WORDS(options, weighting, "ndcg2pp", "ndcg2pp|ndcg2|lambdarank|none",
             "of a pair: the two below, mu times the first; by how far its places are apart; by "
             "its places; 1 (RankNet)"),
    LK_FIELD(options, k, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,
             "pairs of the first k places alone; gains are over those of the best first k"),
    LK_FIELD(options, sigma, "1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "what differences of scores are multiplied with"),
    LK_FIELD(options, mu, "10", LK_RANGED, 0, (double)INFINITY, "ndcg2pp: weight of ndcg2"),
    LK_WORDS(options, log_base, "2", "2|e", "of the logarithm of a pair's probability"),
    {0},
};

static const lk_input inputs[] = {
    LIST_INPUTS("[0,60], finite if weighting=none",
                "how relevant each item is; the gain is 2^label - 1"),
    {0},
};

static const lk_output outputs[] = {{0}};

/* How many places of a list are compared. */
static int64_t places(const options *o, int64_t n)
{
    return o->k != LK_OFF_INTEGER && o->k < n ? o->k : n;
}

/* Pairs of different labels among the first places. */
static int64_t pairs_of(const options *o, const list *l)
{
    const int64_t n = places(o, l->n);
    double *label = l->spare;
    const lk_rank *order = list_order(l, l->score, l->n);
    for (int64_t i = 0; i < n; i++)
        label[i] = l->label[order[i].at];
    order = list_order(l, label, n);
    int64_t pairs = 0;
    for (int64_t first = 0, end; first < n; first = end) {
        for (end = first; end < n && order[end].key == order[first].key; end++)
            ;
        pairs += (end - first) * (n - end);
    }
    return pairs;
}

/* Room for prepare; nothing is left there. */
static size_t state_size(const lk_job *job)
{
    return job->rows > 0 ? list_scratch(job) : 0;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    int64_t pairs = 0;
    (void)error;
    list l = list_place(job, job->state);
    for (int64_t q = 0; q < job->rows; q++) {
        list_gather(job, q, (double)INFINITY, &l, NULL);
        pairs += pairs_of(o, &l);
    }
    job->counted = pairs;
    list_divide(job, pairs);
    return LK_OK;
}

/* 1 over the discount of place i, from 1 on. */
static double discounted(int64_t i)
{
    return lk_ln_2 / lk_log1p((double)i);
}

static double gain(double label)
{
    return lk_expm1(label * lk_ln_2);
}

/* The sum of discounted gains in the best order, of the first k. */
static double best_gain(const options *o, const list *l)
{
    const lk_rank *order = list_order(l, l->label, l->n);
    double sum = 0;
    for (int64_t i = 0; i < places(o, l->n); i++)
        sum += gain(l->label[order[i].at]) * discounted(i + 1);
    return sum;
}

/* The weight of the items at two places i < j, from 0 on; `inverse` is 1 over the discounts of
 * places from 1 on. */
static double weight(const options *o, const double *inverse, int64_t i, int64_t j, double gains)
{
    const double lambda = fabs(inverse[i] - inverse[j]) * gains;
    const double apart = fabs(inverse[j - i - 1] - inverse[j - i]) * gains;
    return o->weighting == UNWEIGHTED ? 1
           : o->weighting == NDCG2    ? apart
                                      : lambda + (o->weighting == NDCG2PP ? o->mu * apart : 0);
}

/* A pair: softplus(-u) and sigmoid(-u), which are made of the same numbers. */
static double pair_of(double u, double *miss)
{
    const double e = lk_exp(-fabs(u));
    *miss = u >= 0 ? e / (1 + e) : 1 / (1 + e);
    return (u < 0 ? -u : 0) + lk_log1p(e);
}

static void each(const lk_job *job, list *l)
{
    const options *o = job->options;
    const int64_t n = places(o, l->n);
    const bool weighted = o->weighting != UNWEIGHTED;
    const double base = o->log_base == TWO ? lk_ln_2 : 1, best = weighted ? best_gain(o, l) : 1;
    const lk_rank *order = list_order(l, l->score, l->n);
    double *inverse = l->spare, *gains = l->spare + n + 1; /* by place */
    for (int64_t i = 0; i <= n; i++)
        inverse[i] = discounted(i + 1);
    for (int64_t i = 0; i < n; i++)
        gains[i] = weighted ? gain(l->label[order[i].at]) / best : 0;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i + 1; j < n; j++) {
            const int64_t a = order[i].at, b = order[j].at;
            const double gap = l->label[a] - l->label[b];
            if (gap == 0)
                continue;
            const int64_t up = gap > 0 ? a : b, down = gap > 0 ? b : a;
            const double w = weight(o, inverse, i, j, fabs(gains[i] - gains[j])) / base;
            double miss, lost = pair_of(o->sigma * (l->score[up] - l->score[down]), &miss);
            const double push = scalar_times(w, o->sigma * miss);
            l->value += scalar_times(w, lost);
            l->slope[up] -= push;
            l->slope[down] += push;
        }
    }
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    list_rows(job, first, count, block, scratch, each,
              o->weighting == UNWEIGHTED ? (double)INFINITY : 60);
}

static const char tex[] =
    "\\begin{aligned} \\ell &= \\sum_{y_i > y_j} \\omega_{ij} \\log_2\\left(1 + e^{-\\sigma (s_i - "
    "s_j)}\\right) \\\\ \\text{lambdarank}: \\omega_{ij} &= \\left|\\frac{1}{D_i} - "
    "\\frac{1}{D_j}\\right|\\,|G_i - G_j|,\\quad D_i = \\log_2(1 + i) \\\\ \\text{ndcg2}: "
    "\\omega_{ij} &= \\left|\\frac{1}{D_{|i - j|}} - \\frac{1}{D_{|i - j| + 1}}\\right|\\,|G_i - "
    "G_j| \\\\ \\text{ndcg2pp}: \\omega &= \\mu\\,\\text{ndcg2} + \\text{lambdarank} "
    "\\end{aligned}";

LK_DESCRIBE(
    lambda_rank, .tex = tex, .title = "Weighted pairs of a list (RankNet, LambdaRank, LambdaLoss)",
    .formula = "sum over pairs with y_i > y_j of w_ij softplus(-sigma (s_i - s_j)) / ln(log_base); "
               "w: "
               "1; |1/D_i - 1/D_j| |G_i - G_j| by the places i, j in the order of the scores; the "
               "same with |i - j| and |i - j| + 1; D_i = log2(1 + i), G = (2^y - 1)/max DCG; mean: "
               "over the pairs",
    .help = "Raises the NDCG of lists: pairs count by what exchanging them would change. "
            "weighting=none is RankNet, whose labels may be any numbers.",
    .reference = "Burges et al. 2005; Burges 2010; Wang et al. 2018; sentence-transformers "
                 "cross_encoder/losses/lambda_loss.py",
    .example = "{\"inputs\": {\"scores\": [[0.2, 1.1, -0.3, 0.6]], \"labels\": [[2.0, 0.0, "
               "1.0, 1.0]]}}",
    .traits = LK_NONNEGATIVE | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(lambda_rank) = {
    .is = &LK_IS(lambda_rank),
    .row_cost = list_pairs_cost,
    .check = list_check,
    .state = state_size,
    LIST_MEMBERS(options),
};
