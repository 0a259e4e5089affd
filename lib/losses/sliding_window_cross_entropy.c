/* SPDX-License-Identifier: MIT
 *
 * Cross entropy with a window that slides over a text. Two methods have that name: `strided`
 * evaluates a text longer than a model's context, each token in the window that gives it most
 * context; `mean` averages the means of overlapping windows of one sequence.
 */
#include "rows/sequence.h"

enum { TOKENS = CLASSWISE_INPUTS };
enum { STRIDED, WINDOW_MEAN }; /* mode */

typedef struct options {
    classwise_options common;
    text_options text;
    int mode;
    int64_t stride, window;
} options;

static const lk_field fields[] = {
    LK_WORDS(options, mode, "strided", "strided|mean",
             "judge a text longer than the context, or average over windows of one sequence"),
    LK_FIELD(options, stride, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,
             "tokens between the starts of two windows; strided: required, in [1,L]; mean: "
             "default 1"),
    LK_FIELD(options, window, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,
             "positions of a window; mean only, required there"),
    LK_REDUCE_FIELDS(classwise_options),
    TEXT_FIELDS(options),
    CLASS_FIELDS,
    {0},
};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"* L C", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "strided: [J,L,C], what the model said to each of J windows of L tokens; "
                        "mean: [L,C]"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"* L", LK_INDICES}},
                 .flags = LK_OPTIONAL,
                 .range = "[0,C)",
                 .help = "mean: the token that each position is scored against"},
    [MASK] = CLASSWISE_MASK("* L"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [CLASS_WEIGHT] = CLASSWISE_CLASS_WEIGHT("C"),
    [TOKENS] = {.name = "tokens",
                .forms = {{"S", LK_INDICES}},
                .flags = LK_OPTIONAL,
                .range = "[0,C)",
                .help = "strided: the whole text; window j covers tokens j*stride to "
                        "j*stride + L - 1"},
    {0},
};

static const lk_output outputs[] = {
    CLASSWISE_DIAGNOSTICS("* L"),
    TEXT_DIAGNOSTICS,
    {0},
};

static bool is_set(int64_t option)
{
    return option != LK_OFF_INTEGER;
}

static lk_status check_strided(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t L = job->size['L' - 'A'], K = o->stride;
    if (!is_set(K))
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option stride is missing; mode=strided needs it: by how many tokens the "
                       "windows advance");
    if (!lk_has(job, TOKENS))
        return lk_fail(job, error, LK_MISSING_INPUT, TOKENS, -1,
                       "tokens is missing; mode=strided needs it: %s", inputs[TOKENS].help);
    if (job->lead_rank != 1)
        return lk_fail(job, error, LK_RANK_MISMATCH, LOGITS, -1,
                       "logits has rank %d; with mode=strided it must be [J,L,C]",
                       job->lead_rank + 2);
    if (lk_has(job, TARGETS) || lk_has(job, MASK) || is_set(o->window))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "mode=strided takes tokens; targets, mask and window belong to mode=mean");
    if (K > L)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "stride is %lld; with windows of %lld it must be in [1, %lld], or tokens "
                       "between the windows are never seen",
                       (long long)K, (long long)L, (long long)L);
    const int64_t S = job->size['S' - 'A'], J = K < 1 || S <= L ? 1 : 1 + (S - L + K - 1) / K;
    if (K > 0 && job->lead[0] != J)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, LOGITS, -1,
                       "logits has %lld windows; %lld tokens in windows of %lld with stride %lld "
                       "make %lld",
                       (long long)job->lead[0], (long long)S, (long long)L, (long long)K,
                       (long long)J);
    return LK_OK;
}

static lk_status check_mean(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    if (!is_set(o->window))
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option window is missing; mode=mean needs it: the positions of a window");
    if (!lk_has(job, TARGETS))
        return lk_fail(job, error, LK_MISSING_INPUT, TARGETS, -1,
                       "targets is missing; mode=mean needs it: %s", inputs[TARGETS].help);
    if (job->lead_rank != 0)
        return lk_fail(job, error, LK_RANK_MISMATCH, LOGITS, -1,
                       "logits has rank %d; with mode=mean it must be [T,C]", job->lead_rank + 2);
    if (lk_has(job, TOKENS))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "mode=mean takes targets; tokens belongs to mode=strided");
    if (o->common.reduce.reduction != LK_MEAN || !isnan(o->common.reduce.num_items))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "mode=mean excludes num_items and every reduction but mean");
    return LK_OK;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    lk_status status = o->mode == STRIDED ? check_strided(job, error) : check_mean(job, error);
    if (status == LK_OK)
        status = text_check(job, &o->text, error);
    return status == LK_OK ? classwise_check(job, error) : status;
}

/* Strided. */

static int64_t window_end(const lk_job *job, int64_t j)
{
    const options *o = job->options;
    const int64_t S = job->size['S' - 'A'], end = j * o->stride + job->size['L' - 'A'];
    return end < S ? end : S;
}

/* The token that row i predicts, or -1 if another window has it or there is none. */
static int64_t token_of(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    const int64_t L = job->size['L' - 'A'], j = i / L, token = j * o->stride + i % L + 1;
    const int64_t seen = j > 0 ? window_end(job, j - 1) : 0;
    if (token < seen || token >= window_end(job, j) ||
        lk_int(&job->in[TOKENS], token) == o->common.row.ignore_index)
        return -1;
    return token;
}

static class_target strided_target(const lk_job *job, int64_t i)
{
    const options *o = job->options;
    const int64_t token = token_of(job, i);
    class_target t = {.counts = token >= 0, .y = -1, .main = 1, .z = 1};
    t.up = o->common.reduce.reduction == LK_NONE ? i : 0;
    if (t.counts)
        t.y = lk_int(&job->in[TOKENS], token);
    return t;
}

static void strided_targets(const lk_job *job, int64_t first, int count, class_targets *to)
{
    for (int k = 0; k < count; k++)
        class_put_target(to, k, strided_target(job, first + k));
}

static lk_status prepare_strided(lk_job *job, lk_error *error)
{
    double weights = 0;
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t token = token_of(job, i);
        lk_status status = token < 0 ? LK_OK : classwise_check_target(job, TOKENS, token, error);
        if (status != LK_OK)
            return status;
        job->counted += token >= 0;
        if (token >= 0)
            weights += real_or_one(job, CLASS_WEIGHT, lk_int(&job->in[TOKENS], token));
    }
    job->denominator[MAIN] = weights;
    job->denominator[Z] = (double)job->counted;
    return LK_OK;
}

/* Mean. job->state: how many windows have a counted position, the weight of every position, and how
 * many positions before each one count. With class weights the parts have weights of their own:
 * then those of the main part follow, and what they are made of. */

typedef struct mean_state {
    int64_t windows; /* the denominator */
    double weight[];
} mean_state;

static int64_t *counts_before(const lk_job *job)
{
    mean_state *state = job->state;
    return (int64_t *)(void *)(state->weight + job->rows);
}

/* Arrays of one more than there are positions: the weights of the main part, one for each window,
 * and room for sums. */
static double *weighted(const lk_job *job, int array)
{
    return (double *)(void *)(counts_before(job) + (job->rows + 1) * (1 + array));
}

static size_t state(const lk_job *job)
{
    const options *o = job->options;
    const size_t T = (size_t)job->rows, more = lk_has(job, CLASS_WEIGHT) ? 3 * (T + 1) : 0;
    return o->mode == STRIDED ? 0 : sizeof(mean_state) + (2 * T + 1 + more) * 8;
}

static class_target mean_target(const lk_job *job, int64_t i)
{
    const mean_state *state = job->state;
    class_target t = {.counts = state->weight[i] > 0, .y = -1};
    t.z = state->weight[i];
    t.main = lk_has(job, CLASS_WEIGHT) ? weighted(job, 0)[i] : t.z;
    if (t.counts)
        t.y = lk_int(&job->in[TARGETS], i);
    return t;
}

static void mean_targets(const lk_job *job, int64_t first, int count, class_targets *to)
{
    for (int k = 0; k < count; k++)
        class_put_target(to, k, mean_target(job, first + k));
}

/* The windows start at 0, K, 2K, ... as far as they fit; where the last one ends early, one more
 * ends with the text. */
typedef struct windows {
    int64_t length, stride, regular, all;
} windows;

static windows windows_of(const lk_job *job)
{
    const options *o = job->options;
    const int64_t T = job->rows;
    windows w = {.length = o->window < T ? o->window : T};
    w.stride = is_set(o->stride) ? o->stride : 1;
    w.regular = 1 + (T - w.length) / w.stride;
    w.all = w.regular + ((w.regular - 1) * w.stride + w.length < T);
    return w;
}

static int64_t window_start(const lk_job *job, const windows *w, int64_t r)
{
    return r < w->regular ? r * w->stride : job->rows - w->length;
}

/* 1/n of window r, n its counted positions; 0 without any. */
static long double window_share(const lk_job *job, const windows *w, int64_t r)
{
    const int64_t *before = counts_before(job), start = window_start(job, w, r);
    const int64_t n = before[start + w->length] - before[start];
    return n > 0 ? 1.0L / (long double)n : 0;
}

/* The weight of a position is the sum of 1/n over the windows it is in, which are neighbours: each
 * window enters the sum once and leaves it once, whatever its length. In long double, because
 * adding and later subtracting a term leaves a rounding error. */
static void weigh(lk_job *job, const windows *w)
{
    mean_state *state = job->state;
    const int64_t *before = counts_before(job);
    int64_t first = 0, end = 0;
    long double sum = 0;
    for (int64_t r = 0; r < w->all; r++)
        state->windows += window_share(job, w, r) > 0;
    for (int64_t t = 0; t < job->rows; t++) {
        for (; end < w->all && window_start(job, w, end) <= t; end++)
            sum += window_share(job, w, end);
        for (; first < end && window_start(job, w, first) + w->length <= t; first++)
            sum -= window_share(job, w, first);
        if (first == end)
            sum = 0;
        if (before[t + 1] > before[t] && first < end)
            state->weight[t] = (double)(sum / (long double)state->windows);
    }
}

/* Sums of runs of values whose ends never move back. Nothing is subtracted, so what has left a sum
 * leaves no rounding error, however large it was. */
typedef struct runs {
    const double *value;
    double *rest; /* of the values up to `turn`: the sum from each one on */
    int64_t turn, end;
    double later; /* the sum of the others */
} runs;

static double run_sum(runs *r, int64_t first, int64_t end)
{
    for (; r->end < end; r->end++)
        r->later += r->value[r->end];
    if (first >= r->turn) {
        double sum = 0;
        for (int64_t i = end; i-- > first;)
            r->rest[i] = sum += r->value[i];
        r->turn = end;
        r->later = 0;
    }
    return first < r->turn ? r->rest[first] + r->later : r->later;
}

/* The weights of the main part where classes have weights: that of a window is 1/D, D the sum of
 * the class weights of its positions, where D is not 0. Returns the number of such windows. */
static int64_t weigh_classes(const lk_job *job, const windows *w)
{
    const int64_t *before = counts_before(job), T = job->rows;
    double *weight = weighted(job, 0), *share = weighted(job, 1);
    runs positions = {.value = weight, .rest = weighted(job, 2)};
    runs shares = {.value = share, .rest = weighted(job, 2)};
    int64_t first = 0, end = 0, some = 0;
    for (int64_t t = 0; t < T; t++)
        weight[t] = before[t + 1] == before[t]
                        ? 0
                        : real_or_one(job, CLASS_WEIGHT, lk_int(&job->in[TARGETS], t));
    for (int64_t r = 0; r < w->all; r++) {
        const int64_t start = window_start(job, w, r);
        const double d = run_sum(&positions, start, start + w->length);
        share[r] = d != 0 ? 1 / d : 0;
        some += d != 0;
    }
    for (int64_t t = 0; t < T; t++) {
        while (end < w->all && window_start(job, w, end) <= t)
            end++;
        while (first < end && window_start(job, w, first) + w->length <= t)
            first++;
        weight[t] =
            before[t + 1] > before[t] && some > 0 ? run_sum(&shares, first, end) / (double)some : 0;
    }
    return some;
}

static lk_status prepare_mean(lk_job *job, lk_error *error)
{
    mean_state *state = job->state;
    int64_t *before = counts_before(job);
    const windows w = windows_of(job);
    for (int64_t i = 0; i < job->rows; i++) {
        const bool counts = classwise_counts(job, i);
        lk_status status = counts ? classwise_check_target(job, TARGETS, i, error) : LK_OK;
        if (status != LK_OK)
            return status;
        before[i + 1] = before[i] + counts;
    }
    weigh(job, &w);
    for (int64_t i = 0; i < job->rows; i++)
        job->counted += state->weight[i] > 0;
    /* The weights are divided already. */
    job->denominator[MAIN] = job->denominator[Z] = state->windows > 0;
    if (lk_has(job, CLASS_WEIGHT)) {
        state->windows = weigh_classes(job, &w);
        job->denominator[MAIN] = state->windows > 0;
    }
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    classwise_total_weight(job);
    return o->mode == STRIDED ? prepare_strided(job, error) : prepare_mean(job, error);
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    if (o->mode == STRIDED)
        classwise_rows(job, strided_targets, NULL, first, count, block, scratch);
    else
        classwise_rows(job, mean_targets, NULL, first, count, block, scratch);
}

static void finish(const lk_job *job, const double *sum)
{
    const options *o = job->options;
    classwise_finish(job, sum);
    if (o->mode == WINDOW_MEAN)
        put_row(job, DENOMINATOR, 0, (double)((const mean_state *)job->state)->windows);
    text_finish(job, &o->text, sum);
}

static const char tex[] =
    "\\text{strided} = \\frac{1}{N}\\sum_{\\text{counted rows}} "
    "-\\log\\operatorname{softmax}(\\text{logits}_{j,i})_{y_{j s + i + 1}},\\quad s = "
    "\\text{stride}";

LK_DESCRIBE(
    sliding_window_cross_entropy, .tex = tex, .title = "Cross entropy under a sliding window",
    .formula = "strided: row i of window j predicts token j*stride + i + 1 and counts where no "
               "earlier window has it; mean over the counted rows. mean: the mean over windows "
               "of the mean loss of each window's positions. With class_weight means divide by the "
               "weights of the targets",
    .help = "strided is how the perplexity of a text longer than the context is measured: "
            "with stride < L every token but the first counts exactly once. mean weighs "
            "the positions of one sequence by the windows they are in.",
    .reference = "Hugging Face, Perplexity of fixed-length models (with the count of each "
                 "window's targets corrected)",
    .example = "{\"inputs\": {\"logits\": [[[0.2, 0.4, 0.4], [0.1, 0.3, 0.6]], "
               "[[0.5, 0.1, 0.2], [0.3, 0.3, 0.1]]], \"tokens\": [0, 2, 1]}, "
               "\"options\": {\"stride\": 1}}",
    .traits = LK_NONNEGATIVE | LK_COUPLED | LK_SHIFT_FREE, .loss_shape = "* L", .inputs = inputs,
    .outputs = outputs, .options = fields);

LK_LOSS(sliding_window_cross_entropy) = {
    .is = &LK_IS(sliding_window_cross_entropy),
    .options_size = sizeof(options),
    .parts = 2,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = classwise_scratch,
    .rows = rows,
    .whole_runs = true,
    .finish = finish,
};
