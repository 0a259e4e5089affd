/* SPDX-License-Identifier: MIT
 *
 * The multi-class hinge loss: the right class should lead every other one by a margin.
 */
#include "rows/numbers.h"

enum { LOGITS, TARGETS, MASK, GRAD_OUTPUT, CLASS_WEIGHT, SAMPLE_WEIGHT };

typedef struct options {
    lk_reduce reduce;
    int64_t p, ignore_index;
    double margin;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, p, "1", LK_RANGED, 1, 2, "1: the excess itself, 2: its square"),
    LK_FIELD(options, margin, "1", 0, 0, 0, "by how much the right class should lead"),
    LK_FIELD(options, ignore_index, "-100", 0, 0, 0, "rows with this target are not read"),
    {0},
};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"* C", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "scores of the classes"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INDICES}},
                 .range = "[0,C)",
                 .help = "the right class of each row"},
    [MASK] = NUMBERS_MASK,
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [CLASS_WEIGHT] = {.name = "class_weight",
                      .forms = {{"C", LK_FLOATS}},
                      .flags = LK_OPTIONAL | LK_WEIGHTS,
                      .range = "finite",
                      .help =
                          "weight of the rows of each class, by which the mean does not divide; "
                          "default ones"},
    [SAMPLE_WEIGHT] = NUMBERS_WEIGHT,
    {0},
};

static const lk_output outputs[] = {{0}};

static bool counts(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    return numbers_marked(job, MASK, i) && lk_int(&job->in[TARGETS], i) != o->ignore_index;
}

static void row(const lk_job *job, numbers *r)
{
    const options *o = job->options;
    const int64_t y = lk_int(&job->in[TARGETS], r->i);
    const double share = numbers_constant(job, CLASS_WEIGHT, y, 1) / (double)r->n;
    for (int64_t j = 0; j < r->n; j++) {
        const double u = o->margin - r->x[y] + r->x[j];
        if (j == y || !(u > 0)) /* NaN, of two impossible classes: no excess */
            continue;
        const double slope = scalar_times(share, o->p == 1 ? 1 : 2 * u);
        r->value += scalar_times(share, o->p == 1 ? u : u * u);
        r->slope[j] += slope;
        r->slope[y] -= slope;
    }
    if (numbers_hopeless(r->x, r->n))
        r->value = scalar_times(share, (double)NAN);
}

static const numbers_loss is = {
    .row = row, .counts = counts, .weight = SAMPLE_WEIGHT, .grad_output = GRAD_OUTPUT};

NUMBERS_KERNELS(is)

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t classes = job->size['C' - 'A'];
    numbers_count(job, is);
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t y = counts(job, i) ? lk_int(&job->in[TARGETS], i) : 0;
        if (y < 0 || y >= classes)
            return lk_refuse_target(job, error, TARGETS, i, classes, o->ignore_index);
    }
    return LK_OK;
}

static const char tex[] = "\\ell = \\frac{w_y}{C} \\sum_{j \\neq y} \\max(0,\\ \\mu - x_y + x_j)^p";

LK_DESCRIBE(
    multi_margin, .tex = tex, .title = "Multi-class margin loss",
    .formula = "w_y / C sum_(j != y) max(0, margin - logits_y + logits_j)^p; mean: over the "
               "counted rows",
    .help = "The hinge loss of classifiers: nothing is lost where the right class leads all "
            "others by the margin.",
    .reference = "PyTorch torch.nn.functional.multi_margin_loss; Crammer and Singer 2001",
    .example = "{\"inputs\": {\"logits\": [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]], "
               "\"targets\": [0, 1]}}",
    .traits = LK_ROWWISE, .loss_shape = "*", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(multi_margin) = {
    .is = &LK_IS(multi_margin),
    .check = numbers_check,
    NUMBERS_MEMBERS(options, prepare),
};
