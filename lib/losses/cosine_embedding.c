/* SPDX-License-Identifier: MIT
 *
 * Cosine embedding loss: raises the cosine of similar pairs, and lowers that of others to a margin.
 */
#include "rows/pair.h"
#include "rows/prefixes.h"

enum { CLAMP, ADDED }; /* norm */

typedef struct options {
    lk_reduce reduce;
    double margin;
    int norm;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, margin, "0", LK_RANGED, -1, 1,
             "pairs with target -1 may be as similar as this for nothing"),
    LK_WORDS(options, norm, "clamp", "clamp|added",
             "what a vector is divided by: max(|v|, cos_eps), or as in PyTorch "
             "sqrt(|v|^2 + 1e-12), whose gradient at a vector of zeros is 100 times smaller"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [PAIR_A] = PAIR_VECTORS("a", "* D", LK_ROW_LOCAL, "one vector a row"),
    [PAIR_B] = PAIR_VECTORS("b", "* D", LK_ROW_LOCAL, "the vector it is compared with"),
    [PAIR_TARGET] = {.name = "target",
                     .forms = {{"*", LK_INTS | LK_FLOATS}},
                     .range = "{-1,1}",
                     .help = "1: the two belong together; -1: they do not"},
    [PAIR_GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    if (o->norm == ADDED && lk_given(job, "cos_eps"))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "cos_eps is not used with norm=added; leave it out");
    return pair_check_width(job, error);
}

static bool is_whole(const lk_job *job)
{
    return LK_INTS >> job->in[PAIR_TARGET].dtype & 1;
}

static double target_at(const lk_job *job, int64_t i)
{
    return is_whole(job) ? (double)lk_int(&job->in[PAIR_TARGET], i)
                         : pair_number(job, PAIR_TARGET, i);
}

static bool is_sign(double y)
{
    return y == 1 || y == -1;
}

/* Integers are checked here, floats with the rows. */
static lk_status prepare(lk_job *job, lk_error *error)
{
    for (int64_t i = 0; is_whole(job) && i < job->rows; i++) {
        char place[LK_PLACE_MAX];
        if (!is_sign(target_at(job, i)))
            return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, PAIR_TARGET, i,
                           "%s is %lld; it must be 1 or -1", lk_place(job, PAIR_TARGET, i, place),
                           (long long)lk_int(&job->in[PAIR_TARGET], i));
    }
    return pair_prepare(job, error);
}

static pair_row row(const lk_job *job, int64_t i, double s)
{
    const options *o = job->options;
    if (target_at(job, i) == 1)
        return (pair_row){1 - s, -1};
    return (pair_row){pair_hinge(s - o->margin), pair_step(s - o->margin)};
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    (void)scratch;
    for (int64_t i = first; i < first + count; i++)
        if (!is_sign(target_at(job, i)))
            lk_refuse(block, LK_VALUE_OUT_OF_RANGE, PAIR_TARGET, i, target_at(job, i));
    if (o->norm == ADDED)
        pair_rows(job, first, count, block, PAIR_ADDED, PAIR_ADDED_EPS, row);
    else
        pair_rows(job, first, count, block, PAIR_SIMILARITY, o->cos_eps, row);
}

static const char tex[] =
    "\\ell = \\begin{cases} 1 - s & y = 1 \\\\ "
    "\\max(0,\\ s - \\text{margin}) & y = -1 \\end{cases}\\qquad s = \\cos(a, b),\\ y = "
    "\\text{target}";

LK_DESCRIBE(
    cosine_embedding, .tex = tex, .title = "Cosine embedding loss",
    .formula = "s = cos(a, b); 1 - s where target = 1, max(0, s - margin) where target = -1",
    .help = "Draws the pairs that belong together to each other, and turns the others apart.",
    .reference = "PyTorch torch.nn.functional.cosine_embedding_loss",
    .example = "{\"inputs\": {\"a\": [[1.0, 0.0], [1.0, 2.0]], "
               "\"b\": [[1.0, 1.0], [2.0, 1.0]], \"target\": [1, -1]}, "
               "\"options\": {\"margin\": 0.5}}",
    .traits = LK_NONNEGATIVE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(cosine_embedding) = {
    .is = &LK_IS(cosine_embedding),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .check = check,
    .prepare = prepare,
    .rows = rows,
};
