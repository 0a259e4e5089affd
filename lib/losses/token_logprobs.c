/* SPDX-License-Identifier: MIT
 *
 * Log-probabilities of given tokens, by position and by sequence: the front end of the preference
 * and policy losses, which take its outputs and send its gradient inputs.
 */
#include "rows/few.h"
#include "rows/sequence.h"

enum { GRAD_LOGPROBS = GRAD_OUTPUT + 1, GRAD_ENTROPY, GRAD_SEQUENCE, GRAD_MEAN, PACKED };
enum { LOGPROBS, ENTROPIES, SEQUENCE_LOGPROBS, MEAN_LOGPROBS };

typedef struct options {
    classwise_options common;
    int64_t shift;
} options;

static const lk_field fields[] = {
    LK_NONFINITE_FIELD(classwise_options),
    LK_FIELD(options, shift, "0", LK_RANGED, 0, (double)INFINITY,
             "logits at t are scored against targets at t + shift; 1: causal language model; what "
             "has no target so does not count"),
    CLASS_IGNORE_INDEX,
    CLASS_LOGIT_SCALE,
    CLASS_SOFTCAP,
    {0},
};

#define COTANGENT(name_, shape_, help_)                                                            \
    {                                                                                              \
        .name = (name_), .forms = {{shape_, LK_FLOATS}}, .flags = LK_OPTIONAL | LK_COTANGENT,      \
        .help = (help_)                                                                            \
    }

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"B T C", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "scores of the vocabulary at every position"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"B T", LK_INDICES}},
                 .range = "[0,C)",
                 .help = "tokens; position t + shift is what position t predicts"},
    [MASK] = CLASSWISE_MASK("B T"),
    [GRAD_OUTPUT] = {.name = "grad_output",
                     .forms = {{"", LK_FLOATS}},
                     .flags = LK_OPTIONAL,
                     .help = "upstream gradient of loss; default 1, or 0 where another upstream "
                             "gradient is given"},
    [GRAD_LOGPROBS] = COTANGENT("grad_logprobs", "B T", "upstream gradient of logprobs; default 0"),
    [GRAD_ENTROPY] = COTANGENT("grad_entropy", "B T", "upstream gradient of entropy; default 0"),
    [GRAD_SEQUENCE] = COTANGENT("grad_sequence_logprobs", "B",
                                "upstream gradient of sequence_logprobs; default 0"),
    [GRAD_MEAN] =
        COTANGENT("grad_mean_logprobs", "B", "upstream gradient of mean_logprobs; default 0"),
    [PACKED] = LK_OFFSETS_INPUT,
    {0},
};

static const lk_output outputs[] = {
    [LOGPROBS] = {.name = "logprobs",
                  .shape = "B T",
                  .dtype = LK_ANY,
                  .flags = LK_DEFAULT,
                  .help = "log p of each target; 0 where not counted"},
    [ENTROPIES] = LK_OUTPUT("entropy", "B T", LK_ANY, "entropy of softmax; 0 where not counted"),
    [SEQUENCE_LOGPROBS] = {.name = "sequence_logprobs",
                           .shape = "B",
                           .dtype = LK_ANY,
                           .flags = LK_DEFAULT,
                           .help = "sum of each sequence's logprobs"},
    [MEAN_LOGPROBS] = LK_OUTPUT("mean_logprobs", "B", LK_ANY,
                                "mean over each sequence's counted positions; 0 without any"),
    {0},
};

/* A gradient is computed by default if its upstream gradient was sent. */
static bool default_gradient(const lk_job *job, int input)
{
    (void)input;
    return job->given & ((2u << GRAD_MEAN) - (1u << GRAD_OUTPUT));
}

/* The index of row i's target, or -1 if the row is ignored. */
static int64_t place_of(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    return shifted_place(job, i, o->shift, lk_sequence(job, lk_sequence_of(job, i) + 1));
}

/* job->kept: of every row, what its gradient needs beside its logits. Rows of few classes are
 * computed again, which costs no more. */
typedef struct row_state {
    class_norm norm;
    double gap; /* class_entropy's */
} row_state;

static size_t kept(const lk_job *job)
{
    return job->size['C' - 'A'] > FEW ? (size_t)job->rows * sizeof(row_state) : 0;
}

/* job->state: how many positions of each sequence count, then log p of every row. */
static size_t state(const lk_job *job)
{
    return (size_t)(job->size['B' - 'A'] + job->rows) * sizeof(double);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    double *counted = job->state;
    lk_status status;
    for (int64_t i = 0; i < job->rows; i++) {
        int64_t place = place_of(job, i);
        if (place < 0)
            continue;
        if ((status = classwise_check_target(job, TARGETS, place, error)) != LK_OK)
            return status;
        counted[lk_sequence_of(job, i)]++;
    }
    return LK_OK;
}

/* The upstream gradients of row i's log p and entropy. */
static double upstream_logprob(const lk_job *job, int64_t i)
{
    const int64_t b = lk_sequence_of(job, i);
    const double *counted = job->state;
    const bool others = job->given & ((2u << GRAD_MEAN) - (1u << GRAD_LOGPROBS));
    double g = others && !lk_has(job, GRAD_OUTPUT) ? 0 : real_or_one(job, GRAD_OUTPUT, 0);
    if (lk_has(job, GRAD_LOGPROBS))
        g += real_or_one(job, GRAD_LOGPROBS, i);
    if (lk_has(job, GRAD_SEQUENCE))
        g += real_or_one(job, GRAD_SEQUENCE, b);
    if (lk_has(job, GRAD_MEAN))
        g += real_or_one(job, GRAD_MEAN, b) / counted[b];
    return g;
}

static double upstream_entropy(const lk_job *job, int64_t i)
{
    return lk_has(job, GRAD_ENTROPY) ? real_or_one(job, GRAD_ENTROPY, i) : 0;
}

static void gradient_of(const lk_job *job, const class_plan *p, const class_row *row,
                        const row_state *of, int64_t i)
{
    const double g_h = upstream_entropy(job, i), g_l = upstream_logprob(job, i);
    if (g_l == 0 && g_h == 0)
        class_zero(p, row);
    else if (isnan(of->norm.sum))
        elements_fill(row->grad_x, p->width, (real)NAN);
    else
        class_gradient_logprob(p, row, &of->norm, g_l, g_h, of->gap);
}

/* One counted row: log p of its target. */
static double one_row_of(const lk_job *job, const class_plan *p, class_row *row, int64_t i)
{
    row_state *kept_state = job->kept ? (row_state *)job->kept + i : NULL;
    const bool again = kept_state && row->grad_x;
    row_state of = again ? *kept_state : (row_state){.norm = class_normalise(p, row)};
    const bool none = isnan(of.norm.sum);
    const bool bends =
        job->kept ? lk_has(job, GRAD_ENTROPY) : row->grad_x && upstream_entropy(job, i) != 0;
    double entropy = 0;
    if (!again && (bends || job->out[ENTROPIES].data))
        entropy = none ? (double)NAN : class_entropy(p, row, &of.norm, &of.gap);
    put_row(job, ENTROPIES, i, entropy);
    if (kept_state && !again)
        *kept_state = of;
    if (row->grad_x)
        gradient_of(job, p, row, &of, i);
    return none ? (double)NAN : -class_nll(&of.norm);
}

/* Is row i to be computed? If so, its target is set. */
static bool counts(const lk_job *job, const class_plan *p, int64_t i, const elem *x, int64_t *y,
                   lk_block *block)
{
    const classwise_options *o = job->options;
    const int64_t place = place_of(job, i);
    if (place < 0 ||
        (o->reduce.nonfinite == LK_REFUSE_NONFINITE && class_refuse(p, LOGITS, i, x, block)))
        return false;
    *y = lk_int(&job->in[TARGETS], place);
    return true;
}

static void put_logprob(const lk_job *job, int64_t i, double value, lk_block *block)
{
    double *logprob = (double *)job->state + job->size['B' - 'A'];
    logprob[i] = value;
    block->sum[0] += value;
    put_row(job, LOGPROBS, i, value);
}

static void long_rows(const lk_job *job, const class_plan *p, int64_t first, int64_t count,
                      lk_block *block)
{
    const elem *logits = job->in[LOGITS].data;
    elem *grad = job->grad[LOGITS].data;
    for (int64_t i = first; i < first + count; i++) {
        const int64_t at = i * p->width;
        class_row row = {.x = logits + at, .y = -1, .grad_x = grad ? grad + at : NULL};
        double value = 0;
        if (counts(job, p, i, row.x, &row.y, block)) {
            value = one_row_of(job, p, &row, i);
        } else {
            class_zero(p, &row);
            put_row(job, ENTROPIES, i, 0);
        }
        put_logprob(job, i, value, block);
    }
}

/* Rows of few classes, a group at a time. */
static void short_rows(const lk_job *job, const class_plan *p, int64_t first, int64_t count,
                       lk_block *block, void *scratch)
{
    const few_plan plan = few_plan_make(p, scratch);
    elem *grad = job->grad[LOGITS].data;
    for (int64_t i = first; i < first + count; i += LANES) {
        few_rows r = {.x = (const elem *)job->in[LOGITS].data + i * p->width};
        r.grad_x = grad ? grad + i * p->width : NULL;
        r.count = first + count - i < LANES ? (int)(first + count - i) : LANES;
        for (int k = 0; k < LANES; k++) {
            int64_t y = -1;
            r.live[k] =
                k < r.count && counts(job, p, i + k, r.x + k * p->width, &y, block) ? -1 : 0;
            r.y[k] = (ilane)y;
            r.rho[k] = r.live[k] ? upstream_logprob(job, i + k) : 0;
            r.zeta[k] = r.live[k] ? upstream_entropy(job, i + k) : 0;
        }
        few_logprobs(&plan, &r);
        for (int k = 0; k < r.count; k++) {
            put_row(job, ENTROPIES, i + k, (double)r.entropy[k]);
            put_logprob(job, i + k, r.live[k] ? -(double)r.nll[k] : 0, block);
        }
    }
}

static size_t scratch_size(const lk_job *job)
{
    return job->size['C' - 'A'] <= FEW ? few_scratch(job->size['C' - 'A']) : 0;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const classwise_options *o = job->options;
    class_plan p = class_plan_make(job, &o->row, job->size['C' - 'A']);
    p.want_entropy = job->out[ENTROPIES].data;
    if (p.width <= FEW)
        short_rows(job, &p, first, count, block, scratch);
    else
        long_rows(job, &p, first, count, block);
}

static void finish(const lk_job *job, const double *sum)
{
    const int64_t B = job->size['B' - 'A'];
    const double *counted = job->state, *logprob = counted + B;
    (void)sum;
    for (int64_t b = 0; b < B; b++) {
        double total = 0;
        for (int64_t i = lk_sequence(job, b); i < lk_sequence(job, b + 1); i++)
            total += logprob[i];
        put_row(job, SEQUENCE_LOGPROBS, b, total);
        put_row(job, MEAN_LOGPROBS, b, counted[b] > 0 ? total / counted[b] : 0);
    }
}

static const char tex[] =
    "\\text{logprobs}_{b,t} = \\log\\operatorname{softmax}(z_{b,t})_{y_{b,t + "
    "\\text{shift}}},\\quad z = \\text{logit\\_scale}\\cdot c\\,\\tanh(\\text{logits}/c),\\ c = "
    "\\text{softcap}";

LK_LOSS(token_logprobs) = {
    .is =
        {
            .name = "token_logprobs",
            .tex = tex,
            .title = "Log-probabilities of given tokens",
            .formula = "logprobs_(b,t) = log softmax(z_(b,t))_y, y = targets_(b,t+shift), "
                       "z = logit_scale * softcap * tanh(logits / softcap); loss: their sum",
            .help = "What preference and policy losses take as input. Send their gradients back "
                    "as grad_logprobs, grad_sequence_logprobs and so on, and get the gradient of "
                    "the logits: two calls are a training step.",
            .reference = "TRL selective_log_softmax and entropy_from_logits",
            .example = "{\"inputs\": {\"logits\": [[[0.2, 0.4, 0.4], [0.1, 0.3, 0.6]]], "
                       "\"targets\": [[2, 0]]}}",
            .traits = LK_SHIFT_FREE,
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(options),
    .parts = 1,
    .rows_shape = "B T",
    .scratch = scratch_size,
    .check = classwise_check,
    .default_gradient = default_gradient,
    .kept = kept,
    .state = state,
    .prepare = prepare,
    .rows = rows,
    .finish = finish,
};
