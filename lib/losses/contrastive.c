/* SPDX-License-Identifier: MIT
 *
 * Contrastive loss: positive pairs are pulled together, negative pairs pushed apart up to a margin.
 */
#include "rows/pair.h"
#include "rows/prefixes.h"

enum { COSINE, L2 }; /* distance */

typedef struct options {
    lk_reduce reduce;
    int distance;
    double margin;
    bool squared;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, distance, "cosine", "cosine|l2", "1 - cos(a, b), or |a - b|"),
    LK_FIELD(options, margin, "0.5", LK_RANGED, 0, (double)INFINITY,
             "pairs with target 0 are pushed this far apart"),
    LK_FIELD(options, squared, "true", 0, 0, 0, "half the squares of the distances"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [PAIR_A] = PAIR_VECTORS("a", "* D", LK_ROW_LOCAL, "one vector a row"),
    [PAIR_B] = PAIR_VECTORS("b", "* D", LK_ROW_LOCAL, "the vector it is compared with"),
    [PAIR_TARGET] = {.name = "target",
                     .forms = {{"*", LK_INTS | LK_MASKS}},
                     .range = "{0,1}",
                     .help = "1: the two are similar; 0: they are not"},
    [PAIR_GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static lk_status prepare(lk_job *job, lk_error *error)
{
    for (int64_t i = 0; i < job->rows; i++) {
        int64_t y = lk_int(&job->in[PAIR_TARGET], i);
        char place[LK_PLACE_MAX];
        if (y != 1 && y != 0)
            return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, PAIR_TARGET, i,
                           "%s is %lld; it must be 0 or 1", lk_place(job, PAIR_TARGET, i, place),
                           (long long)y);
    }
    return pair_prepare(job, error);
}

static pair_row row(const lk_job *job, int64_t i, double d)
{
    const options *o = job->options;
    const bool similar = lk_int(&job->in[PAIR_TARGET], i) == 1;
    const double h = pair_hinge(o->margin - d);
    if (o->squared)
        return similar ? (pair_row){d * d / 2, d} : (pair_row){h * h / 2, -h};
    return similar ? (pair_row){d, 1} : (pair_row){h, -pair_step(o->margin - d)};
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    (void)scratch;
    pair_rows(job, first, count, block, o->distance == L2 ? PAIR_L2 : PAIR_COSINE, o->cos_eps, row);
}

static const char tex[] =
    "\\ell = \\frac{1}{2}\\left(y\\,d^2 + (1 - y)\\,\\max(0,\\ m - d)^2\\right),\\quad d = 1 - "
    "\\cos(a, b)\\ \\text{or}\\ \\lVert a - b\\rVert,\\ m = \\text{margin}";

LK_DESCRIBE(contrastive, .tex = tex, .title = "Contrastive loss",
            .formula = "(y d^2 + (1 - y) max(0, margin - d)^2)/2, d = 1 - cos(a, b) or |a - b|",
            .help = "Draws similar pairs together and pushes the others apart, up to a margin.",
            .reference = "Hadsell et al. 2006; sentence-transformers ContrastiveLoss",
            .example = "{\"inputs\": {\"a\": [[1.0, 0.0], [1.0, 2.0]], "
                       "\"b\": [[1.0, 1.0], [2.0, 1.0]], \"target\": [1, 0]}, "
                       "\"options\": {\"distance\": \"l2\", \"margin\": 2}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = outputs, .options = fields);

LK_LOSS(contrastive) = {
    .is = &LK_IS(contrastive),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .check = pair_check_width,
    .prepare = prepare,
    .rows = rows,
};
