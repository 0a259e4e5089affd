/* SPDX-License-Identifier: MIT
 *
 * Triplet loss: an anchor should be nearer to its positive than to its negative, by a margin.
 */
#include "rows/pair.h"
#include "rows/prefixes.h"

enum { ANCHOR, POSITIVE, NEGATIVE, GRAD_OUTPUT };
enum { L2, L1, SQUARED_L2, COSINE }; /* distance */

typedef struct options {
    lk_reduce reduce;
    int distance;
    double margin;
    bool swap, soft;
    double pairwise_eps, cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, distance, "l2", "l2|l1|squared_l2|cosine", "how far two vectors are apart"),
    LK_FIELD(options, margin, "1", LK_RANGED, 0, (double)INFINITY,
             "how much nearer the positive should be"),
    LK_FIELD(options, swap, "false", 0, 0, 0,
             "take the positive's distance from the negative where it is the smaller one"),
    LK_FIELD(options, soft, "false", 0, 0, 0, "softplus(u) instead of max(0, u)"),
    LK_FIELD(options, pairwise_eps, "1e-6", LK_RANGED, 0, (double)INFINITY,
             "added to every component of a difference; l2 and l1"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [ANCHOR] = PAIR_VECTORS("anchor", "* D", LK_ROW_LOCAL, "one vector a row"),
    [POSITIVE] = PAIR_VECTORS("positive", "* D", LK_ROW_LOCAL, "a vector like the anchor"),
    [NEGATIVE] = PAIR_VECTORS("negative", "* D", LK_ROW_LOCAL, "a vector unlike the anchor"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

/* Distances, the value, and the slopes by each distance. */
static double row(const options *o, pair_triple *t, int64_t width)
{
    static const int kinds[] = {
        [L2] = PAIR_L2, [L1] = PAIR_L1, [SQUARED_L2] = PAIR_SQUARED_L2, [COSINE] = PAIR_COSINE};
    const int kind = kinds[o->distance];
    const double shift = kind == PAIR_L2 || kind == PAIR_L1 ? o->pairwise_eps : 0;
    pair_of(&t->ap, kind, t->a, t->p, width, o->cos_eps, shift);
    pair_of(&t->an, kind, t->a, t->n, width, o->cos_eps, shift);
    double dn = t->an.value, share = 1;
    if (o->swap) {
        pair_of(&t->pn, kind, t->p, t->n, width, o->cos_eps, shift);
        share = dn < t->pn.value ? 1 : dn > t->pn.value ? 0 : 0.5;
        dn = dn > t->pn.value ? t->pn.value : dn;
    }
    const double u = t->ap.value - dn + o->margin;
    const double slope = o->soft ? pair_sigmoid(u) : pair_step(u);
    t->c_ap = slope;
    t->c_an = -slope * share;
    t->c_pn = -slope * (1 - share);
    return o->soft ? lk_softplus(u) : pair_hinge(u);
}

static bool refused(const lk_job *job, int64_t i, int64_t width, lk_block *block)
{
    bool bad = false;
    for (int input = ANCHOR; pair_refuses(job) && input <= NEGATIVE; input++)
        bad = pair_refuse(job, input, i, width, block) || bad;
    return bad;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const int64_t width = job->size['D' - 'A'];
    const bool stream = pair_streams(job, 3);
    (void)scratch;
    for (int64_t i = first; i < first + count; i++) {
        const elem *v[3];
        elem *grad[3];
        if (refused(job, i, width, block))
            continue;
        for (int k = ANCHOR; k <= NEGATIVE; k++) {
            v[k] = (const elem *)job->in[k].data + i * width;
            grad[k] = job->grad[k].data ? (elem *)job->grad[k].data + i * width : NULL;
        }
        pair_triple t = {.a = v[ANCHOR], .p = v[POSITIVE], .n = v[NEGATIVE]};
        pair_put(job, block, i, row(o, &t, width));
        pair_triple_back(&t, pair_weight(job, GRAD_OUTPUT, i), width, grad, stream);
    }
    pair_settle(stream);
}

static const char tex[] =
    "\\ell = \\max\\left(0,\\ d(\\text{anchor}, \\text{positive}) - d(\\text{anchor}, "
    "\\text{negative}) + \\text{margin}\\right)";

LK_DESCRIBE(triplet, .tex = tex, .title = "Triplet margin loss",
            .formula = "max(0, d(anchor, positive) - d(anchor, negative) + margin)",
            .help = "Keeps the negative further from the anchor than the positive by a margin.",
            .reference = "PyTorch triplet_margin_loss, triplet_margin_with_distance_loss; "
                         "sentence-transformers TripletLoss; pytorch-metric-learning (soft)",
            .example = "{\"inputs\": {\"anchor\": [[1.0, 0.0], [1.0, 2.0]], "
                       "\"positive\": [[1.0, 1.0], [2.0, 1.0]], "
                       "\"negative\": [[0.0, 1.0], [-1.0, 1.0]]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = outputs, .options = fields);

LK_LOSS(triplet) = {
    .is = &LK_IS(triplet),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .check = pair_check_width,
    .prepare = pair_prepare,
    .rows = rows,
};
