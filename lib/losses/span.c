/* SPDX-License-Identifier: MIT
 *
 * Extractive question answering: two cross entropies over the positions of a text, for the start
 * and the end of the answer.
 */
#include "rows/class.h"

enum { HALVES = 2 }; /* start, end: in this order among inputs, outputs and parts */
enum { START, END, START_POSITIONS, END_POSITIONS, CHOICES, UPSTREAM };
enum { START_LOSS, END_LOSS, EXACT_MATCH };
enum { SUM_BOTH = HALVES, SUM_EXACT };

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(classwise_options, "mean", "none|sum|mean",
                       "one loss per text, their sum, or their mean"),
    LK_EMPTY_MEAN_FIELD(classwise_options),
    LK_NONFINITE_FIELD(classwise_options),
    CLASS_FIELD(label_smoothing, "0", LK_RANGED, 0, 1,
                "probability mass taken from the target and spread over the positions that can be "
                "chosen"),
    CLASS_LOGIT_SCALE,
    CLASS_Z_LOSS,
    {0},
};

#define SCORES(name_, help_)                                                                       \
    {                                                                                              \
        .name = (name_), .forms = {{"B T", LK_FLOATS}},                                            \
        .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL, .help = (help_)                   \
    }
#define POSITIONS(name_, help_)                                                                    \
    {                                                                                              \
        .name = (name_), .forms = {{"B", LK_INDICES}}, .range = ">=0", .help = (help_)             \
    }

static const lk_input inputs[] = {
    [START] = SCORES("start_logits", "scores of every position as the answer's first"),
    [END] = SCORES("end_logits", "scores of every position as the answer's last"),
    [START_POSITIONS] = POSITIONS("start_positions", "where the answer starts; T or more, beyond "
                                                     "the text: this half is ignored"),
    [END_POSITIONS] = POSITIONS("end_positions", "where the answer ends; likewise"),
    [CHOICES] = {.name = "mask",
                 .forms = {{"B T", LK_MASKS}},
                 .flags = LK_OPTIONAL,
                 .help = "positions with 0 cannot be chosen: they are not read and count as -inf"},
    [UPSTREAM] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    [START_LOSS] = LK_OUTPUT("start_loss", "loss", LK_ANY, "the cross entropy of the starts"),
    [END_LOSS] = LK_OUTPUT("end_loss", "loss", LK_ANY, "the cross entropy of the ends"),
    [EXACT_MATCH] = LK_OUTPUT("exact_match", "", LK_ANY,
                              "share of the texts with both halves counted where both positions "
                              "have the highest score"),
    {0},
};

static lk_status check(const lk_job *job, lk_error *error)
{
    if (job->size['T' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, START, -1,
                       "start_logits has no positions; a text must have at least 1");
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const int64_t T = job->size['T' - 'A'];
    char place[LK_PLACE_MAX];
    for (int half = 0; half < HALVES; half++) {
        const int input = START_POSITIONS + half;
        int64_t counted = 0;
        for (int64_t b = 0; b < job->rows; b++) {
            int64_t y = lk_int(&job->in[input], b);
            if (y < 0)
                return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, input, b,
                               "%s is %lld; it must be in [0, %lld], or more to be ignored",
                               lk_place(job, input, b, place), (long long)y, (long long)T - 1);
            counted += y < T;
        }
        job->denominator[half] = (double)counted;
    }
    job->total_weight = (double)T;
    return LK_OK;
}

/* Scratch: the scores of one text, needed where a mask excludes some of them, and the gradients of
 * those that are left; with a place more for a target that is excluded. */
static size_t scratch_size(const lk_job *job)
{
    return lk_has(job, CHOICES) ? 2 * ((size_t)job->size['T' - 'A'] + 1) * sizeof(elem) : 0;
}

static bool chosen_from(const lk_job *job, int64_t i)
{
    return !job->in[CHOICES].data || lk_int(&job->in[CHOICES], i) != 0;
}

/* The scores of text b in a half, with -inf where they cannot be chosen. */
static const elem *scores_of(const lk_job *job, int half, int64_t b, elem *scratch)
{
    const int64_t T = job->size['T' - 'A'];
    const elem *x = (const elem *)job->in[half].data + b * T;
    if (!job->in[CHOICES].data)
        return x;
    for (int64_t t = 0; t < T; t++)
        if (chosen_from(job, b * T + t))
            memcpy(scratch + t, x + t, sizeof *x); /* of any alignment */
        else
            elements_fill(scratch + t, 1, -(real)INFINITY);
    return scratch;
}

static void zero_others(const lk_job *job, int half, int64_t b)
{
    const int64_t T = job->size['T' - 'A'];
    elem *grad = job->grad[half].data;
    for (int64_t i = b * T; grad && job->in[CHOICES].data && i < (b + 1) * T; i++)
        if (!chosen_from(job, i))
            elements_fill(grad + i, 1, 0);
}

/* A row of the n positions that can be chosen, over which alone smoothing spreads its mass. A
 * target that is not among them follows them, with the score -inf and nothing of that mass. Returns
 * n; the scores in `row`, which have all positions, are moved, and the gradient is set aside. */
static int64_t gather(const lk_job *job, int64_t b, class_row *row, elem *scores, elem *grad)
{
    const int64_t T = job->size['T' - 'A'];
    int64_t n = 0, y = -1;
    for (int64_t t = 0; t < T; t++)
        if (chosen_from(job, b * T + t)) {
            y = t == row->y ? n : y;
            memmove(scores + n++, scores + t, sizeof *scores);
        }
    if (y < 0)
        elements_fill(scores + n, 1, -(real)INFINITY);
    row->y = y < 0 ? n : y;
    row->grad_x = row->grad_x ? grad : NULL;
    return n;
}

static void scatter(const lk_job *job, int64_t b, const elem *from, elem *to)
{
    const int64_t T = job->size['T' - 'A'];
    for (int64_t t = 0, n = 0; t < T; t++)
        if (chosen_from(job, b * T + t))
            memcpy(to + t, from + n++, sizeof *to);
}

/* Compute a smoothed row of the chosen scores alone: smoothing takes its share from all classes,
 * and the masked ones are none. */
static void compute_chosen(const lk_job *job, const class_plan *all, int64_t b, class_row *row,
                           elem *scratch)
{
    const classwise_options *o = job->options;
    class_options own = o->row;
    elem *const grad = scratch + all->width + 1, *const grad_x = row->grad_x;
    const int64_t n = gather(job, b, row, scratch, grad);
    own.smoothing_mode = row->y == n ? CLASS_OTHERS : CLASS_UNIFORM;
    class_plan p = class_plan_make(job, &own, row->y == n ? n + 1 : n);
    p.total_weight = (double)p.classes;
    p.want_argmax = all->want_argmax;
    class_compute(&p, &row, 1);
    if (grad_x)
        scatter(job, b, grad, grad_x);
}

/* Half of the cross entropy of the start or the end, and whether its prediction is right. */
static double one_half(const lk_job *job, const class_plan *p, int half, int64_t b, lk_block *block,
                       elem *scratch, bool *right)
{
    const classwise_options *o = job->options;
    const int64_t T = p->width, y = lk_int(&job->in[START_POSITIONS + half], b);
    elem *grad = job->grad[half].data;
    class_row row = {.y = y, .grad_x = grad ? grad + b * T : NULL, .argmax = -1};
    *right = false;
    if (y >= T) {
        class_zero(p, &row);
        return 0;
    }
    row.x = scores_of(job, half, b, scratch);
    if (o->reduce.nonfinite == LK_REFUSE_NONFINITE && class_refuse(p, half, b, row.x, block))
        return 0;
    const double rho =
        0.5 * job->scale[half] * real_or_one(job, UPSTREAM, o->reduce.reduction == LK_NONE ? b : 0);
    const int power = elements_power(p->z_loss > 1 ? rho * p->z_loss : rho);
    row.rho = row.zeta = ldexp(rho, -power);
    if (p->smoothing > 0 && job->in[CHOICES].data)
        compute_chosen(job, p, b, &row, scratch);
    else
        class_compute(p, &(class_row *){&row}, 1);
    zero_others(job, half, b);
    if (power != 0 && grad)
        elements_scale(grad + b * T, T, power);
    *right = row.argmax == row.y && chosen_from(job, b * T + y);
    return 0.5 * (row.main + row.z_part);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const classwise_options *o = job->options;
    const int64_t T = job->size['T' - 'A'];
    const bool per_row = o->reduce.reduction == LK_NONE;
    class_plan p = class_plan_make(job, &o->row, T);
    p.want_argmax = job->out[EXACT_MATCH].data;
    for (int64_t b = first; b < first + count; b++) {
        double loss = 0;
        int right = 0, counted = 0;
        for (int half = 0; half < HALVES; half++) {
            bool is_right;
            double value = one_half(job, &p, half, b, block, scratch, &is_right);
            loss += value;
            right += is_right;
            counted += lk_int(&job->in[START_POSITIONS + half], b) < T;
            block->sum[half] += value;
            if (per_row)
                put_row(job, START_LOSS + half, b, 2 * value);
        }
        if (per_row && job->value.data)
            lk_put(&job->value, b, loss);
        block->sum[SUM_BOTH] += counted == HALVES;
        block->sum[SUM_EXACT] += right == HALVES;
    }
}

static void finish(const lk_job *job, const double *sum)
{
    const classwise_options *o = job->options;
    const double nothing = o->reduce.empty_mean == LK_EMPTY_NAN ? (double)NAN : 0;
    for (int half = 0; half < HALVES && o->reduce.reduction != LK_NONE; half++)
        put_row(job, START_LOSS + half, 0,
                job->scale[half] != 0 ? 2 * sum[half] * job->scale[half] : nothing);
    put_row(job, EXACT_MATCH, 0, sum[SUM_BOTH] > 0 ? sum[SUM_EXACT] / sum[SUM_BOTH] : nothing);
}

static const char tex[] = "\\ell = \\frac{1}{2}\\left(\\operatorname{ce}(\\text{start\\_logits}, "
                          "\\text{start\\_positions}) + \\operatorname{ce}(\\text{end\\_logits}, "
                          "\\text{end\\_positions})\\right)";

LK_DESCRIBE(span, .tex = tex, .title = "Extractive question answering: start and end of the answer",
            .formula = "(cross_entropy(start_logits, start_positions) + "
                       "cross_entropy(end_logits, end_positions)) / 2",
            .help = "What BERT is trained with on SQuAD. A position at or beyond the end of the "
                    "text, whose answer was cut off, is ignored.",
            .reference = "Devlin et al. 2019; Hugging Face ForQuestionAnsweringLoss",
            .example = "{\"inputs\": {\"start_logits\": [[1.2, -0.8, -0.5]], "
                       "\"end_logits\": [[0.3, 0.1, -0.4]], \"start_positions\": [0], "
                       "\"end_positions\": [1]}}",
            .traits = LK_NONNEGATIVE | LK_SHIFT_FREE | LK_ROWWISE, .loss_shape = "B",
            .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(span) = {
    .is = &LK_IS(span),
    .options_size = sizeof(classwise_options),
    .parts = HALVES,
    .check = check,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
    .finish = finish,
};
