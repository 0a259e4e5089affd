/* SPDX-License-Identifier: MIT
 *
 * Cross entropy of logits with class indices or class probabilities. The arithmetic of a row is in
 * classwise.h; here are its inputs, its weights and its diagnostics.
 */
#include "../classwise.h"

enum { LOGITS, TARGETS, CLASS_WEIGHT, SAMPLE_WEIGHT, MASK, GRAD_OUTPUT };
enum { INDEX, PROBABILITY }; /* forms of TARGETS */
enum { NLL, LSE, ENTROPY, PREDICTED, ACCURACY, COUNT, PERPLEXITY, Z_LOSS, DENOMINATOR };
enum { MAIN, Z, SUM_NLL, SUM_RIGHT }; /* lk_block.sum */

typedef struct options {
    lk_reduce reduce;
    class_options row;
    int64_t class_dim;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_FIELD(options, class_dim, "-1", LK_RANGED, -1, 1,
             "where the classes stand: -1 last, 1 second as in [N,C,d1,...]"),
    CLASS_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"* C@class_dim", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "unnormalised scores of the classes"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INTS}, {"* C@class_dim", LK_FLOATS}},
                 .flags = LK_DIFFERENTIABLE,
                 .range = "[0,C)",
                 .help = "the right class of each row, or a probability for every class"},
    [CLASS_WEIGHT] = {.name = "class_weight",
                      .forms = {{"C", LK_FLOATS}},
                      .flags = LK_OPTIONAL | LK_WEIGHTS,
                      .range = ">=0",
                      .help = "weight of each class; default ones"},
    [SAMPLE_WEIGHT] = {.name = "sample_weight",
                       .forms = {{"*", LK_FLOATS}},
                       .flags = LK_OPTIONAL | LK_WEIGHTS,
                       .range = ">=0",
                       .help = "weight of each row; default ones"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL,
              .help = "rows with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    [NLL] = {"nll", "*", LK_ANY,
             "-log p of the target, without weight or smoothing; index targets"},
    [LSE] = {"lse", "*", LK_ANY, "logsumexp of the scaled scores"},
    [ENTROPY] = {"entropy", "*", LK_ANY, "entropy of softmax"},
    [PREDICTED] = {"predicted", "*", LK_I64, "the class of the highest score; -1 where ignored"},
    [ACCURACY] = {"accuracy", "", LK_ANY,
                  "share of counted rows whose predicted class is the target"},
    [COUNT] = {"count", "", LK_I64, "number of counted rows"},
    [PERPLEXITY] = {"perplexity", "", LK_ANY, "exp of the mean nll of the counted rows"},
    [Z_LOSS] = {"z_loss", "loss", LK_ANY, "the part of the loss that z_loss adds"},
    [DENOMINATOR] = {"denominator", "", LK_ANY, "what the mean divides by"},
    {0},
};

static int64_t classes_of(const lk_job *job)
{
    const options *o = job->options;
    return o->row.vocab_size > 0 ? o->row.vocab_size : job->size['C' - 'A'];
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t width = job->size['C' - 'A'];
    const bool soft = job->form[TARGETS] == PROBABILITY;
    const bool shaped = o->row.focal_gamma > 0 || o->row.poly1 != 0;
    if (width == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, LOGITS, -1,
                       "logits has no classes; the class axis must have at least 1");
    if (soft && (job->out_wanted & (1u << NLL | 1u << ACCURACY | 1u << PERPLEXITY)))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "nll, accuracy and perplexity need class indices as targets, not "
                       "probabilities");
    if (o->class_dim == 0)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "class_dim is 0; it must be -1 or 1");
    if (o->row.vocab_size > width)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "vocab_size is %lld; with %lld classes it must be in [1, %lld]",
                       (long long)o->row.vocab_size, (long long)width, (long long)width);
    if (shaped && soft)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "focal_gamma and poly1 need class indices as targets, not probabilities");
    if (shaped && o->row.label_smoothing > 0)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "focal_gamma and poly1 exclude label_smoothing; set one of them to 0");
    if (soft && lk_given(job, "ignore_index"))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "ignore_index needs class indices as targets; with probabilities use mask");
    if (o->row.smoothing_mode == CLASS_OTHERS && (soft || (job->rows > 0 && classes_of(job) == 1)))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "smoothing_mode=others needs class indices as targets and at least 2 "
                       "classes");
    return LK_OK;
}

static bool counted(const lk_job *job, int64_t row)
{
    const options *o = job->options;
    if (job->in[MASK].data && lk_int(&job->in[MASK], row) == 0)
        return false;
    return job->form[TARGETS] == PROBABILITY ||
           lk_int(&job->in[TARGETS], row) != o->row.ignore_index;
}

static double real_or_one(const lk_job *job, int input, int64_t i)
{
    real x = 1;
    if (job->in[input].data)
        memcpy(&x, (const char *)job->in[input].data + i * (int64_t)sizeof x, sizeof x);
    return (double)x;
}

static lk_status target_error(const lk_job *job, int64_t row, int64_t y, lk_error *error)
{
    const options *o = job->options;
    char place[LK_PLACE_MAX];
    return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, TARGETS, row,
                   "%s is %lld; with %lld classes it must be in [0, %lld] or ignore_index (%lld)",
                   lk_place(job, TARGETS, row, place), (long long)y, (long long)classes_of(job),
                   (long long)classes_of(job) - 1, (long long)o->row.ignore_index);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const int64_t classes = classes_of(job);
    const bool soft = job->form[TARGETS] == PROBABILITY;
    double n = 0, d = 0;
    for (int64_t i = 0; i < job->rows; i++) {
        if (!counted(job, i))
            continue;
        double w = 1, r = real_or_one(job, SAMPLE_WEIGHT, i);
        if (!soft) {
            int64_t y = lk_int(&job->in[TARGETS], i);
            if (y < 0 || y >= classes)
                return target_error(job, i, y, error);
            w = real_or_one(job, CLASS_WEIGHT, y);
        }
        job->counted++;
        n += r;
        d += r * w;
    }
    job->denominator[MAIN] = d;
    job->denominator[Z] = n;
    for (int64_t k = 0; k < classes; k++)
        job->total_weight += real_or_one(job, CLASS_WEIGHT, k);
    return LK_OK;
}

/* What the rows of one block share. */
typedef struct visit {
    const lk_job *job;
    lk_block *block;
    class_plan plan;
    bool per_row; /* reduction=none */
} visit;

static bool refuse_nonfinite(visit *v, int input, int64_t row, const elem *p)
{
    const int64_t inner = v->plan.inner;
    int64_t k = class_nonfinite(p, v->plan.classes);
    if (k < 0)
        return false;
    /* The flat place of class k of the row in the tensor as the caller sees it. */
    int64_t flat = (row / inner * v->plan.width + k) * inner + row % inner;
    if (v->block->bad == LK_OK || input < v->block->bad_input ||
        (input == v->block->bad_input && flat < v->block->bad_index)) {
        v->block->bad = LK_NONFINITE_INPUT;
        v->block->bad_input = input;
        v->block->bad_index = flat;
    }
    return true;
}

static void put_row(const lk_job *job, int output, int64_t i, double x)
{
    if (job->out[output].data)
        lk_put(&job->out[output], i, x);
}

static void one_row(visit *v, int64_t i, const elem *x, const elem *t, elem *grad_x, elem *grad_t)
{
    const lk_job *job = v->job;
    const options *o = job->options;
    class_row row = {.x = x, .t = t, .y = -1, .grad_x = grad_x, .grad_t = grad_t, .argmax = -1};
    const bool counts = counted(job, i);
    double r = 0;
    if (counts) {
        r = real_or_one(job, SAMPLE_WEIGHT, i);
        double upstream = real_or_one(job, GRAD_OUTPUT, v->per_row ? i : 0);
        row.y = t ? -1 : lk_int(&job->in[TARGETS], i);
        row.rho = r * job->scale[MAIN] * upstream;
        row.zeta = r * job->scale[Z] * upstream;
        if (o->reduce.nonfinite == LK_REFUSE_NONFINITE) {
            bool bad = refuse_nonfinite(v, LOGITS, i, x);
            if ((t && refuse_nonfinite(v, TARGETS, i, t)) || bad)
                return;
        }
        class_compute(&v->plan, &row);
    } else {
        class_zero(&v->plan, &row);
    }

    const double main = r > 0 ? r * row.main : 0, z = r > 0 ? r * row.z_part : 0;
    v->block->sum[MAIN] += main;
    v->block->sum[Z] += z;
    v->block->sum[SUM_NLL] += (double)row.nll;
    v->block->sum[SUM_RIGHT] += row.y >= 0 && row.argmax == row.y;
    if (v->per_row && job->value.data)
        lk_put(&job->value, i, main + z);
    if (v->per_row)
        put_row(job, Z_LOSS, i, z);
    put_row(job, NLL, i, (double)row.nll);
    put_row(job, LSE, i, (double)row.lse);
    put_row(job, ENTROPY, i, (double)row.entropy);
    put_row(job, PREDICTED, i, (double)row.argmax);
}

/* How many rows a tile has, where the classes of a row do not lie side by side. */
static int64_t tile_rows(const lk_job *job)
{
    int64_t row = job->size['C' - 'A'] * (int64_t)sizeof(elem);
    int64_t rows = 256 * 1024 / (row > 0 ? row : 1);
    return rows < 1 ? 1 : rows > 64 ? 64 : rows;
}

static int64_t inner_size(const lk_job *job)
{
    const options *o = job->options;
    int64_t inner = 1;
    for (int axis = 1; o->class_dim == 1 && axis < job->lead_rank; axis++)
        inner *= job->lead[axis];
    return inner;
}

static size_t scratch(const lk_job *job)
{
    size_t tile = (size_t)(tile_rows(job) * job->size['C' - 'A']) * sizeof(elem);
    size_t tiles = 1 + (job->form[TARGETS] == PROBABILITY ? 2 : 0);
    return inner_size(job) > 1 ? tile * tiles : 0;
}

/* rows x classes of a tensor whose classes stand `inner` apart, to and from rows side by side. */
static void gather(const elem *from, int64_t rows, int64_t classes, int64_t inner, elem *to)
{
    for (int64_t k = 0; k < classes; k++)
        for (int64_t i = 0; i < rows; i++)
            memcpy(to + i * classes + k, from + k * inner + i, sizeof(elem));
}

static void scatter(const elem *from, int64_t rows, int64_t classes, int64_t inner, elem *to)
{
    for (int64_t k = 0; k < classes; k++)
        for (int64_t i = 0; i < rows; i++)
            memcpy(to + k * inner + i, from + i * classes + k, sizeof(elem));
}

static void strided_rows(visit *v, int64_t first, int64_t count, elem *x)
{
    const lk_job *job = v->job;
    const bool soft = job->form[TARGETS] == PROBABILITY;
    const int64_t width = v->plan.width, inner = v->plan.inner, most = tile_rows(job);
    const elem *logits = job->in[LOGITS].data, *targets = job->in[TARGETS].data;
    elem *grad = job->grad[LOGITS].data, *grad_targets = job->grad[TARGETS].data;
    elem *t = x + most * width, *grad_t = t + most * width;
    for (int64_t i = first, rows; i < first + count; i += rows) {
        int64_t j = i % inner, place = i / inner * width * inner + j;
        rows = first + count - i < most ? first + count - i : most;
        rows = inner - j < rows ? inner - j : rows;
        gather(logits + place, rows, width, inner, x);
        if (soft)
            gather(targets + place, rows, width, inner, t);
        for (int64_t k = 0; k < rows; k++)
            one_row(v, i + k, x + k * width, soft ? t + k * width : NULL,
                    grad ? x + k * width : NULL, grad_targets ? grad_t + k * width : NULL);
        if (grad)
            scatter(x, rows, width, inner, grad + place);
        if (grad_targets)
            scatter(grad_t, rows, width, inner, grad_targets + place);
    }
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch_)
{
    const options *o = job->options;
    visit v = {.job = job, .block = block, .plan = class_plan_make(job, &o->row)};
    v.per_row = o->reduce.reduction == LK_NONE;
    v.plan.weight = job->in[CLASS_WEIGHT].data;
    v.plan.inner = inner_size(job);
    v.plan.want_entropy = job->out[ENTROPY].data;
    v.plan.want_argmax = job->out[PREDICTED].data || job->out[ACCURACY].data;
    if (v.plan.inner > 1) {
        strided_rows(&v, first, count, scratch_);
        return;
    }
    const bool soft = job->form[TARGETS] == PROBABILITY;
    const elem *logits = job->in[LOGITS].data, *targets = job->in[TARGETS].data;
    elem *grad = job->grad[LOGITS].data, *grad_targets = job->grad[TARGETS].data;
    for (int64_t i = first; i < first + count; i++) {
        int64_t place = i * v.plan.width;
        one_row(&v, i, logits + place, soft ? targets + place : NULL, grad ? grad + place : NULL,
                grad_targets ? grad_targets + place : NULL);
    }
}

static void finish(const lk_job *job, const double *sum)
{
    const options *o = job->options;
    const double n = (double)job->counted;
    const bool empty = job->counted == 0;
    const double nothing = o->reduce.empty_mean == LK_EMPTY_NAN ? (double)NAN : 0;
    put_row(job, ACCURACY, 0, empty ? nothing : sum[SUM_RIGHT] / n);
    put_row(job, COUNT, 0, n);
    put_row(job, PERPLEXITY, 0, exp(empty ? nothing : sum[SUM_NLL] / n));
    put_row(job, DENOMINATOR, 0, job->denominator[MAIN]);
    if (o->reduce.reduction == LK_NONE)
        return;
    bool no_mean = o->reduce.reduction == LK_MEAN && !(job->denominator[Z] > 0);
    put_row(job, Z_LOSS, 0, no_mean ? nothing : sum[Z] * job->scale[Z]);
}

LK_LOSS(cross_entropy) = {
    .is =
        {
            .name = "cross_entropy",
            .title = "Cross entropy of logits with class indices or probabilities",
            .formula = "loss_i = -sum_k w_k q_ik log softmax(z_i)_k + z_loss * lse(z_i)^2, "
                       "z = logit_scale * softcap * tanh(logits / softcap); "
                       "mean: sum_i / sum_i w_(y_i)",
            .help =
                "The loss of classifiers and language models. q is one-hot at the target class, "
                "smoothed with label_smoothing, or given as probabilities. Ignored rows are not "
                "read and get a zero gradient.",
            .reference =
                "PyTorch torch.nn.functional.cross_entropy; z-loss: Chowdhery et al. 2022; "
                "focal: Lin et al. 2017; PolyLoss: Leng et al. 2022; label smoothing: "
                "Szegedy et al. 2016",
            .example = "{\"inputs\": {\"logits\": [[0.2, 0.4, 0.4]], \"targets\": [2]}}",
            .traits = LK_NONNEGATIVE | LK_SHIFT_FREE,
            .loss_shape = "*",
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(options),
    .parts = 2,
    .check = check,
    .prepare = prepare,
    .scratch = scratch,
    .rows = rows,
    .finish = finish,
};
