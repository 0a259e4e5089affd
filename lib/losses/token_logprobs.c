/* SPDX-License-Identifier: MIT
 *
 * Log-probabilities of given tokens, by position and by sequence: the front end of the preference
 * and policy losses, which take its outputs and send its gradient inputs.
 */
#include "rows/few.h"
#include "rows/logprobs.h"

static const lk_field fields[] = {
    LK_NONFINITE_FIELD(classwise_options),
    LK_FIELD(logprobs_options, shift, "0", LK_RANGED, 0, (double)INFINITY,
             "logits at t are scored against targets at t + shift; 1: causal language model; what "
             "has no target so does not count"),
    CLASS_IGNORE_INDEX,
    CLASS_LOGIT_SCALE,
    CLASS_SOFTCAP,
    {0},
};

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
    LOGPROBS_UPSTREAMS("B T", "B"),
    [LOGPROBS_INPUTS] = LK_OFFSETS_INPUT,
    {0},
};

static const lk_output outputs[] = {LOGPROBS_RESULTS("B T", "B"), {0}};

/* job->kept: of every row. Rows of few classes are computed again, which costs no more. */
static size_t kept(const lk_job *job)
{
    return job->size['C' - 'A'] > FEW ? (size_t)job->rows * sizeof(logprobs_row) : 0;
}

/* One counted row: log p of its target. */
static double one_row_of(const lk_job *job, const class_plan *p, class_row *row, int64_t i)
{
    logprobs_row *kept_state = job->kept ? (logprobs_row *)job->kept + i : NULL;
    const bool again = kept_state && row->grad_x;
    logprobs_row of = again ? *kept_state : (logprobs_row){.norm = class_normalise(p, row)};
    const bool none = isnan(of.norm.sum);
    const bool bends = job->kept ? lk_has(job, GRAD_ENTROPY)
                                 : row->grad_x && logprobs_upstream_entropy(job, i) != 0;
    double entropy = 0;
    if (!again && (bends || job->out[ENTROPIES].data))
        entropy = none ? (double)NAN : class_entropy(p, row, &of.norm, &of.gap);
    put_row(job, ENTROPIES, i, entropy);
    if (kept_state && !again)
        *kept_state = of;
    if (row->grad_x)
        logprobs_gradient(job, p, row, &of, i);
    return none ? (double)NAN : -class_nll(&of.norm);
}

/* Is row i to be computed? If so, its target is set. */
static bool counts(const lk_job *job, const class_plan *p, int64_t i, const elem *x, int64_t *y,
                   lk_block *block)
{
    const classwise_options *o = job->options;
    const int64_t place = logprobs_place(job, i);
    if (place < 0 ||
        (o->reduce.nonfinite == LK_REFUSE_NONFINITE && class_refuse(p, LOGITS, i, x, block)))
        return false;
    *y = lk_int(&job->in[TARGETS], place);
    return true;
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
        logprobs_put(job, i, value, block);
    }
}

/* Rows of few classes, a group at a time. */
static void short_rows(const lk_job *job, const class_plan *p, int64_t first, int64_t count,
                       lk_block *block, void *scratch)
{
    const few_plan plan = few_plan_make(p, true, scratch);
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
            r.rho[k] = r.live[k] ? logprobs_upstream(job, i + k) : 0;
            r.zeta[k] = r.live[k] ? logprobs_upstream_entropy(job, i + k) : 0;
        }
        few_logprobs(&plan, &r);
        for (int k = 0; k < r.count; k++) {
            put_row(job, ENTROPIES, i + k, (double)r.entropy[k]);
            logprobs_put(job, i + k, r.live[k] ? -(double)r.nll[k] : 0, block);
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

static const char tex[] =
    "\\text{logprobs}_{b,t} = \\log\\operatorname{softmax}(z_{b,t})_{y_{b,t + "
    "\\text{shift}}},\\quad z = \\text{logit\\_scale}\\cdot c\\,\\tanh(\\text{logits}/c),\\ c = "
    "\\text{softcap}";

LK_DESCRIBE(token_logprobs, .tex = tex, .title = "Log-probabilities of given tokens",
            .formula = "logprobs_(b,t) = log softmax(z_(b,t))_y, y = targets_(b,t+shift), "
                       "z = logit_scale * softcap * tanh(logits / softcap); loss: their sum",
            .help = "What preference and policy losses take as input. Send their gradients back "
                    "as grad_logprobs, grad_sequence_logprobs and so on, and get the gradient of "
                    "the logits: two calls are a training step.",
            .reference = "TRL selective_log_softmax and entropy_from_logits",
            .example = "{\"inputs\": {\"logits\": [[[0.2, 0.4, 0.4], [0.1, 0.3, 0.6]]], "
                       "\"targets\": [[2, 0]]}}",
            .traits = LK_SHIFT_FREE, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(token_logprobs) = {
    .is = &LK_IS(token_logprobs),
    .options_size = sizeof(logprobs_options),
    .parts = 1,
    .rows_shape = "B T",
    .scratch = scratch_size,
    .check = classwise_check,
    .default_gradient = logprobs_default_gradient,
    .kept = kept,
    .state = logprobs_state,
    .prepare = logprobs_prepare,
    .rows = rows,
    .finish = logprobs_finish,
};
