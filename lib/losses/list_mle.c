/* SPDX-License-Identifier: MIT
 *
 * The likelihood of the order that the labels give a list, where its items are drawn one after
 * another in proportion to e^score.
 */
#include "rows/list.h"

typedef struct options {
    lk_reduce reduce;
    bool position_weight;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, position_weight, "false", 0, 0, 0,
             "weigh the first draws more, 2^(items left) - 1 over the sum of these (p-ListMLE)"),
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
    job->counted = lists;
    job->denominator[0] = (double)lists;
    return LK_OK;
}

/* log(e^a + e^b). */
static double add_logs(double a, double b)
{
    const double most = a > b ? a : b;
    return isinf(most) ? most : most + lk_log1p(lk_exp(-fabs(a - b)));
}

/* 2^(n - i) - 1 for i from 0, over 2^n so that it stays finite. */
static double weight(const options *o, int64_t n, int64_t i)
{
    const int most = 2000;
    const double last = ldexp(1, -(n < most ? (int)n : most));
    return o->position_weight ? ldexp(1, -(i < most ? (int)i : most)) - last : 1;
}

static void each(const lk_job *job, list *l)
{
    const options *o = job->options;
    const int64_t n = l->n;
    const lk_rank *order = list_order(l, l->label, n);
    double *rest = l->spare; /* logsumexp of an item and those after it */
    double total = 0;
    /* The log of the sum, over the draws r so far, of w_r e^-rest_r: times e^score it is the sum of
     * an item's chances in them, each times the draw's weight. */
    double log_drawn = -(double)INFINITY;
    for (int64_t i = n; i-- > 0;) {
        const double s = l->score[order[i].at];
        rest[i] = i + 1 < n ? add_logs(s, rest[i + 1]) : s;
        total += weight(o, n, i);
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t k = order[i].at;
        const double w = o->position_weight ? weight(o, n, i) / total : 1;
        /* The last item competes with none: it has all the probability, even at -inf. */
        const bool sure = i + 1 == n && !scalar_nonfinite(l->score[k]);
        const double behind = sure ? 0 : l->score[k] - rest[i];
        l->value += scalar_times(w, -behind);
        l->slope[k] = lk_exp(l->score[k] + log_drawn) + scalar_times(w, lk_expm1(behind));
        if (w > 0) /* far back in a long list it underflows */
            log_drawn = add_logs(log_drawn, lk_log(w) - rest[i]);
    }
}

LIST_KERNELS(each, (double)INFINITY)

static const char tex[] =
    "\\ell = \\sum_i \\omega_i \\left(\\log \\sum_{j \\ge i} e^{s_{\\pi(j)}} - "
    "s_{\\pi(i)}\\right),\\qquad \\pi: \\text{items by label}";

LK_DESCRIBE(
    list_mle, .tex = tex, .title = "Likelihood of the order of a list (ListMLE)",
    .formula = "sum_i w_i (lse(scores of items i, i+1, ...) - score_i), items in the order of "
               "their labels; w = 1, or with position_weight 2^(n - i) - 1 over its sum",
    .help = "Teaches the whole order of a list. Items of equal labels are taken in the order "
            "they are given in.",
    .reference = "Xia et al. 2008; Lan et al. 2014 (position_weight); sentence-transformers "
                 "cross_encoder/losses/list_mle.py, plist_mle.py",
    .example = "{\"inputs\": {\"scores\": [[0.2, 1.1, -0.3, 0.6]], \"labels\": [[2.0, 0.0, "
               "1.0, 1.0]]}}",
    .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "Q", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(list_mle) = {
    .is = &LK_IS(list_mle),
    LIST_MEMBERS(options),
};
