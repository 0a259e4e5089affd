/* SPDX-License-Identifier: MIT
 *
 * Cosine similarity of two vectors, as a regression or as a distance.
 */
#include "rows/elements.h"
#include "rows/pair.h"
#include "rows/prefixes.h"

enum { MSE, DISTANCE }; /* form */
enum { SIMILARITY };

typedef struct options {
    lk_reduce reduce;
    int form;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, form, "distance", "mse|distance",
             "(s - target)^2, or 1 - s; with a target the default is mse"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [PAIR_A] = PAIR_VECTORS("a", "* D", LK_ROW_LOCAL, "one vector a row"),
    [PAIR_B] = PAIR_VECTORS("b", "* D", LK_ROW_LOCAL, "the vector it is compared with"),
    [PAIR_TARGET] = {.name = "target",
                     .forms = {{"*", LK_FLOATS}},
                     .flags = LK_OPTIONAL | LK_DIFFERENTIABLE,
                     .help = "the similarity there should be; form=mse"},
    [PAIR_GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    [SIMILARITY] = LK_OUTPUT("similarity", "*", LK_ANY, "cosine of a and b"),
    {0},
};

static int form_of(const lk_job *job)
{
    const options *o = job->options;
    if (lk_given(job, "form"))
        return o->form;
    return lk_has(job, PAIR_TARGET) ? MSE : DISTANCE;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    if (form_of(job) == MSE && !lk_has(job, PAIR_TARGET))
        return lk_fail(job, error, LK_MISSING_INPUT, PAIR_TARGET, -1,
                       "target is missing; form=mse needs it");
    return pair_check_width(job, error);
}

LK_INLINE pair_row row_of(const lk_job *job, int64_t i, double s, const bool mse)
{
    double r = 0;
    if (job->out[SIMILARITY].data)
        lk_put(&job->out[SIMILARITY], i, s);
    if (mse)
        r = s - (double)elements_at(job->in[PAIR_TARGET].data, i);
    if (job->grad[PAIR_TARGET].data) {
        double g = scalar_times(pair_weight(job, PAIR_GRAD_OUTPUT, i), r == 0 ? 0 : -2 * r);
        elements_fill((elem *)job->grad[PAIR_TARGET].data + i, 1, (real)g);
    }
    return mse ? (pair_row){r * r, 2 * r} : (pair_row){1 - s, -1};
}

static pair_row distance_row(const lk_job *job, int64_t i, double s)
{
    return row_of(job, i, s, false);
}

static pair_row mse_row(const lk_job *job, int64_t i, double s)
{
    return row_of(job, i, s, true);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    (void)scratch;
    if (pair_refuses(job) && lk_has(job, PAIR_TARGET))
        for (int64_t i = first; i < first + count; i++)
            if (pair_refuse(job, PAIR_TARGET, i, 1, block))
                break;
    if (form_of(job) == MSE)
        pair_rows(job, first, count, block, PAIR_SIMILARITY, o->cos_eps, mse_row);
    else
        pair_rows(job, first, count, block, PAIR_SIMILARITY, o->cos_eps, distance_row);
}

static const char tex[] = "\\ell = \\begin{cases} (s - y)^2 & \\text{with a target}\\ y \\\\ "
                          "1 - s & \\text{without} \\end{cases}\\qquad s = \\cos(a, b)";

LK_DESCRIBE(cosine_similarity, .tex = tex, .title = "Cosine similarity",
            .formula = "s = cos(a, b); (s - target)^2, or 1 - s without a target",
            .help = "Trains embeddings towards known similarities, or pairs towards each other.",
            .reference = "sentence-transformers CosineSimilarityLoss; PyTorch cosine_similarity",
            .example = "{\"inputs\": {\"a\": [[1.0, 0.0], [1.0, 2.0]], "
                       "\"b\": [[1.0, 1.0], [2.0, 1.0]], \"target\": [1.0, 0.5]}}",
            .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
            .outputs = outputs, .options = fields);

LK_LOSS(cosine_similarity) = {
    .is = &LK_IS(cosine_similarity),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .check = check,
    .prepare = pair_prepare,
    .rows = rows,
};
