/* SPDX-License-Identifier: MIT
 *
 * Cosine embedding loss: raises the cosine of similar pairs, and lowers that of others to a margin.
 */
#include "rows/pair.h"

typedef struct options {
    lk_reduce reduce;
    double margin;
    double cos_eps;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, margin, "0", LK_RANGED, -1, 1,
             "pairs with target -1 may be as similar as this for nothing"),
    PAIR_COS_EPS_FIELD(options),
    {0},
};

static const lk_input inputs[] = {
    [PAIR_A] = PAIR_VECTORS("a", "* D", LK_ROW_LOCAL, "one vector a row"),
    [PAIR_B] = PAIR_VECTORS("b", "* D", LK_ROW_LOCAL, "the vector it is compared with"),
    [PAIR_TARGET] = {.name = "target",
                     .forms = {{"*", LK_INTS}},
                     .range = "{-1,1}",
                     .help = "1: the two belong together; -1: they do not"},
    [PAIR_GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static lk_status prepare(lk_job *job, lk_error *error)
{
    for (int64_t i = 0; i < job->rows; i++) {
        int64_t y = lk_int(&job->in[PAIR_TARGET], i);
        char place[LK_PLACE_MAX];
        if (y != 1 && y != -1)
            return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, PAIR_TARGET, i,
                           "%s is %lld; it must be 1 or -1", lk_place(job, PAIR_TARGET, i, place),
                           (long long)y);
    }
    return pair_prepare(job, error);
}

static pair_row row(const lk_job *job, int64_t i, double s)
{
    const options *o = job->options;
    if (lk_int(&job->in[PAIR_TARGET], i) == 1)
        return (pair_row){1 - s, -1};
    return (pair_row){pair_hinge(s - o->margin), pair_step(s - o->margin)};
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    (void)scratch;
    pair_rows(job, first, count, block, PAIR_SIMILARITY, o->cos_eps, row);
}

LK_LOSS(cosine_embedding) = {
    .is = {.name = "cosine_embedding",
           .title = "Cosine embedding loss",
           .formula = "s = cos(a, b); 1 - s where target = 1, max(0, s - margin) where target = -1",
           .help =
               "Draws the pairs that belong together to each other, and turns the others apart.",
           .reference = "PyTorch torch.nn.functional.cosine_embedding_loss",
           .example = "{\"inputs\": {\"a\": [[1.0, 0.0], [1.0, 2.0]], "
                      "\"b\": [[1.0, 1.0], [2.0, 1.0]], \"target\": [1, -1]}, "
                      "\"options\": {\"margin\": 0.5}}",
           .traits = LK_NONNEGATIVE | LK_ROWWISE,
           .loss_shape = "*",
           .inputs = inputs,
           .outputs = outputs,
           .options = fields},
    .options_size = sizeof(options),
    .parts = 1,
    .check = pair_check_width,
    .prepare = prepare,
    .rows = rows,
};
