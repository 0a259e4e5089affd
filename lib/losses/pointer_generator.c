/* SPDX-License-Identifier: MIT
 *
 * Pointer-generator with coverage: a word is generated from the vocabulary or copied from the
 * source. A row is one example, because coverage couples its steps: values are computed in a
 * forward sweep, and with coverage the gradient of the attention in a backward sweep, where the
 * contributions of later steps are known.
 */
#include "lengths.h"
#include "rows/attention.h"
#include "vector/vmath.h"

enum {
    VOCAB_LOGITS,
    VOCAB_PROBS,
    ATTN_LOGITS,
    ATTN_PROBS,
    P_GEN_LOGIT,
    P_GEN,
    SOURCE_IDS,
    TARGETS,
    SOURCE_MASK,
    SOURCE_LENGTHS,
    TARGET_MASK,
    TARGET_LENGTHS,
    UPSTREAM,
};
enum { NLL, COVERAGE, COPY_SHARE };
enum { MEAN_OF_SEQUENCE_MEANS = LK_MEAN + 1 }; /* reduction */

typedef struct options {
    lk_reduce reduce;
    int64_t num_oov, ignore_index;
    double coverage_weight, eps;
} options;

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(options, "mean_of_sequence_means", "none|sum|mean|mean_of_sequence_means",
                       "one loss per step, their sum, their mean, or the mean over the examples "
                       "of the mean over each one's steps"),
    LK_NUM_ITEMS_FIELD(options),
    LK_EMPTY_MEAN_FIELD(options),
    LK_NONFINITE_FIELD(options),
    LK_FIELD(options, num_oov, "off", LK_OFF | LK_RANGED, 0, (double)INFINITY,
             "how many ids beyond the vocabulary there are; default: as many as source_ids uses"),
    LK_FIELD(options, coverage_weight, "0", LK_RANGED, 0, (double)INFINITY,
             "weight of the coverage, which is high where attention returns to where it has been"),
    LK_FIELD(options, eps, "0", LK_RANGED, 0, (double)INFINITY,
             "added to the probability of the target"),
    LK_FIELD(options, ignore_index, "-100", 0, 0, 0, "steps with this target do not count"),
    {0},
};

#define EITHER(name_, shape_, flags_, range_, help_)                                               \
    {                                                                                              \
        .name = (name_), .forms = {{shape_, LK_FLOATS}},                                           \
        .flags = LK_OPTIONAL | LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL | (flags_),          \
        .range = (range_), .help = (help_)                                                         \
    }
#define LENGTHS(name_, range_, help_)                                                              \
    {                                                                                              \
        .name = (name_), .forms = {{"B", LK_INTS}}, .flags = LK_OPTIONAL, .range = (range_),       \
        .help = (help_)                                                                            \
    }

static const lk_input inputs[] = {
    [VOCAB_LOGITS] = EITHER("vocab_logits", "B T V", 0, NULL,
                            "scores of the vocabulary at every step; this or vocab_probs"),
    [VOCAB_PROBS] = EITHER("vocab_probs", "B T V", 0, "[0,1]",
                           "probabilities of the vocabulary, taken as they are"),
    [ATTN_LOGITS] = EITHER("attn_logits", "B T S", LK_HISTORY, NULL,
                           "scores of the source positions at every step; this or attn_probs"),
    [ATTN_PROBS] = EITHER("attn_probs", "B T S", LK_HISTORY, "[0,1]",
                          "attention to the source positions, taken as it is"),
    [P_GEN_LOGIT] = EITHER("p_gen_logit", "B T", 0, NULL,
                           "score of generating as against copying; this or p_gen"),
    [P_GEN] = EITHER("p_gen", "B T", 0, "[0,1]", "probability of generating"),
    [SOURCE_IDS] = {.name = "source_ids",
                    .forms = {{"B S", LK_INDICES}},
                    .range = "[0,V+num_oov)",
                    .help = "the word at each source position; ids from V on are words of the "
                            "example that the vocabulary lacks"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"B T", LK_INDICES}},
                 .range = "[0,V+num_oov)",
                 .help = "the word of each step; from V on, one that the source has"},
    [SOURCE_MASK] = {.name = "source_mask",
                     .forms = {{"B S", LK_MASKS}},
                     .flags = LK_OPTIONAL,
                     .help = "source positions with 0 get no attention; this or source_lengths; "
                             "default all ones"},
    [SOURCE_LENGTHS] = LENGTHS("source_lengths", "[0,S]", "source positions of each example"),
    [TARGET_MASK] = {.name = "target_mask",
                     .forms = {{"B T", LK_MASKS}},
                     .flags = LK_OPTIONAL | LK_IGNORES,
                     .help = "steps with 0 do not count; this or target_lengths; default all ones"},
    [TARGET_LENGTHS] = LENGTHS("target_lengths", "[0,T]", "steps of each example"),
    [UPSTREAM] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    [NLL] = LK_OUTPUT("nll", "B T", LK_ANY, "-log of the target's probability"),
    [COVERAGE] = LK_OUTPUT("coverage", "B T", LK_ANY,
                           "sum over the source of the lesser of attention and earlier attention"),
    [COPY_SHARE] =
        LK_OUTPUT("copy_share", "B T", LK_ANY, "share of copying in the target's probability"),
    {0},
};

static int64_t size(const lk_job *job, char letter)
{
    return job->size[letter - 'A'];
}

/* Checks. */

static lk_status check(const lk_job *job, lk_error *error)
{
    if (size(job, 'V') == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH,
                       lk_has(job, VOCAB_LOGITS) ? VOCAB_LOGITS : VOCAB_PROBS, -1,
                       "the vocabulary is empty; it must have at least 1 word");
    for (int a = VOCAB_LOGITS; a <= TARGET_LENGTHS; a += 2) {
        const int given = lk_has(job, a) + lk_has(job, a + 1);
        const bool required = a <= P_GEN;
        if (a == SOURCE_IDS || given == 1 || (given == 0 && !required))
            continue;
        return lk_fail(job, error, LK_OPTION_CONFLICT, a, -1, "%s and %s: %s given; %s",
                       inputs[a].name, inputs[a + 1].name, given == 0 ? "neither is" : "both are",
                       required ? "exactly one of them must be" : "at most one of them may be");
    }
    return LK_OK;
}

static bool is_real(const lk_job *job, int64_t b, int64_t i)
{
    if (job->in[SOURCE_LENGTHS].data)
        return i < lk_int(&job->in[SOURCE_LENGTHS], b);
    return !job->in[SOURCE_MASK].data || lk_int(&job->in[SOURCE_MASK], b * size(job, 'S') + i) != 0;
}

static bool counts(const lk_job *job, int64_t b, int64_t t)
{
    const options *o = job->options;
    const int64_t place = b * size(job, 'T') + t;
    if (job->in[TARGET_LENGTHS].data && t >= lk_int(&job->in[TARGET_LENGTHS], b))
        return false;
    if (job->in[TARGET_MASK].data && lk_int(&job->in[TARGET_MASK], place) == 0)
        return false;
    return lk_int(&job->in[TARGETS], place) != o->ignore_index;
}

/* How many ids there are. */
static int64_t all_ids(const lk_job *job)
{
    const options *o = job->options;
    const int64_t V = size(job, 'V');
    int64_t ids = V;
    if (o->num_oov >= 0)
        return o->num_oov < INT64_MAX - V ? V + o->num_oov : INT64_MAX;
    for (int64_t i = 0; i < job->rows * size(job, 'S'); i++) {
        const int64_t id = lk_int(&job->in[SOURCE_IDS], i);
        if (id >= ids && id < INT64_MAX)
            ids = id + 1;
    }
    return ids;
}

static lk_status check_id(const lk_job *job, int input, int64_t i, int64_t ids, lk_error *error)
{
    const options *o = job->options;
    const int64_t id = lk_int(&job->in[input], i), V = size(job, 'V');
    char place[LK_PLACE_MAX];
    if (id >= 0 && id < ids)
        return LK_OK;
    lk_place(job, input, i, place);
    if (input == SOURCE_IDS)
        return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, input, i,
                       "%s is %lld; with %lld words and %lld beyond them it must be in [0, %lld]",
                       place, (long long)id, (long long)V, (long long)(ids - V),
                       (long long)ids - 1);
    return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, input, i,
                   "%s is %lld; with %lld words and %lld beyond them it must be in [0, %lld] or "
                   "ignore_index (%lld)",
                   place, (long long)id, (long long)V, (long long)(ids - V), (long long)ids - 1,
                   (long long)o->ignore_index);
}

static lk_status check_ids(const lk_job *job, lk_error *error)
{
    const int64_t S = size(job, 'S'), T = size(job, 'T'), ids = all_ids(job);
    lk_status status = LK_OK;
    for (int64_t i = 0; i < job->rows * S && status == LK_OK; i++)
        if (is_real(job, i / S, i % S))
            status = check_id(job, SOURCE_IDS, i, ids, error);
    for (int64_t i = 0; i < job->rows * T && status == LK_OK; i++)
        if (counts(job, i / T, i % T))
            status = check_id(job, TARGETS, i, ids, error);
    return status;
}

static bool in_source(const lk_job *job, int64_t b, int64_t y)
{
    const int64_t S = size(job, 'S');
    for (int64_t i = 0; i < S; i++)
        if (lk_int(&job->in[SOURCE_IDS], b * S + i) == y && is_real(job, b, i))
            return true;
    return false;
}

/* Refuse a target that can be neither generated nor copied. */
static lk_status check_reach(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t T = size(job, 'T'), V = size(job, 'V');
    char place[LK_PLACE_MAX];
    for (int64_t i = 0; i < job->rows * T && !(o->eps > 0); i++) {
        const int64_t y = lk_int(&job->in[TARGETS], i);
        if (y >= V && counts(job, i / T, i % T) && !in_source(job, i / T, y))
            return lk_fail(job, error, LK_TARGET_UNREACHABLE, TARGETS, i,
                           "%s is %lld, beyond the %lld words of the vocabulary, and no source "
                           "position of the example has it; use the unknown word, ignore_index or "
                           "eps > 0",
                           lk_place(job, TARGETS, i, place), (long long)y, (long long)V);
    }
    return LK_OK;
}

/* job->state: what an example's steps are. */
typedef struct extent {
    int64_t end;  /* the step after the last one that counts */
    double share; /* the weight of each that counts, before scale */
} extent;

static size_t state_size(const lk_job *job)
{
    return (size_t)job->rows * sizeof(extent);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const bool by_sequence = o->reduce.reduction == MEAN_OF_SEQUENCE_MEANS;
    extent *extents = job->state;
    int64_t examples = 0;
    lk_status status = lk_check_lengths(job, SOURCE_LENGTHS, 0, size(job, 'S'), error);
    if (status == LK_OK)
        status = lk_check_lengths(job, TARGET_LENGTHS, 0, size(job, 'T'), error);
    if (status == LK_OK)
        status = check_ids(job, error);
    if (status == LK_OK)
        status = check_reach(job, error);
    for (int64_t b = 0; b < job->rows; b++) {
        int64_t counted = 0;
        for (int64_t t = 0; t < size(job, 'T'); t++) {
            if (!counts(job, b, t))
                continue;
            counted++;
            extents[b].end = t + 1;
        }
        extents[b].share = by_sequence && counted > 0 ? 1 / (double)counted : 1;
        job->counted += counted;
        examples += counted > 0;
    }
    job->denominator[0] = (double)(by_sequence ? examples : job->counted);
    return status;
}

/* One example. */

typedef struct example {
    const lk_job *job;
    class_plan vocab;
    lk_block *block;
    attention at; /* S positions of the source */
    int64_t b, T, V;
    double log_eps;
    bool covers;      /* is the coverage needed? */
    bool looked_back; /* does a later step look back? */

    step now;
    step *steps;         /* [T] with coverage_weight */
    unsigned char *side; /* [T][S] 2 H, with coverage_weight */
} example;

static size_t scratch_size(const lk_job *job)
{
    const options *o = job->options;
    if (job->rows == 0)
        return 0;
    const size_t S = (size_t)size(job, 'S'), T = (size_t)size(job, 'T');
    size_t bytes = S * (sizeof(int64_t) + 4 * sizeof(double));
    bytes += (size_t)padded_lanes((int64_t)S) * sizeof(real);
    if (o->coverage_weight > 0)
        bytes += T * sizeof(step) + T * S;
    return bytes;
}

static example example_make(const lk_job *job, lk_block *block, void *scratch)
{
    const options *o = job->options;
    example e = {.job = job, .block = block, .at = {.coverage_weight = o->coverage_weight}};
    e.T = size(job, 'T');
    e.V = size(job, 'V');
    e.at.S = size(job, 'S');
    e.vocab = (class_plan){.classes = e.V, .width = e.V, .scale = 1};
    e.at.plan = (class_plan){.classes = e.at.S, .width = e.at.S, .scale = 1};
    e.log_eps = lk_log(o->eps);
    e.covers = o->coverage_weight > 0 || job->out[COVERAGE].data;
    e.at.ids = scratch;
    e.at.a = (double *)(e.at.ids + e.at.S);
    e.at.c = e.at.a + e.at.S;
    e.at.later = e.at.c + e.at.S;
    e.at.d = e.at.later + e.at.S;
    e.steps = (step *)(e.at.d + e.at.S);
    e.at.z = (real *)(e.steps + (o->coverage_weight > 0 ? e.T : 0));
    e.side = (unsigned char *)(e.at.z + padded_lanes(e.at.S));
    return e;
}

/* Row t of an input or of its gradient; NULL if there is none. */
static elem *row_of(const example *e, const lk_tensor *of, int64_t t, int64_t width)
{
    return of->data ? (elem *)of->data + (e->b * e->T + t) * width : NULL;
}

/* The attention at step t, and the logarithm of it on the word y. */
static double attend(example *e, step *s, int64_t t, int64_t y)
{
    const lk_job *job = e->job;
    if (job->in[ATTN_LOGITS].data)
        return attention_of_scores(&e->at, s, row_of(e, &job->in[ATTN_LOGITS], t, e->at.S), y);
    return attention_of_shares(&e->at, s, row_of(e, &job->in[ATTN_PROBS], t, e->at.S), y);
}

/* The gradient of step t's attention. */
static void attention_gradient(const example *e, const step *s, int64_t t, int64_t y)
{
    const lk_job *job = e->job;
    const bool looks = e->at.coverage_weight > 0 && s->rho != 0;
    const unsigned char *side = looks ? e->side + t * e->at.S : NULL;
    if (job->in[ATTN_LOGITS].data)
        attention_of_scores_back(&e->at, s, row_of(e, &job->in[ATTN_LOGITS], t, e->at.S), y, side,
                                 row_of(e, &job->grad[ATTN_LOGITS], t, e->at.S));
    else
        attention_of_shares_back(&e->at, s, y, side, row_of(e, &job->grad[ATTN_PROBS], t, e->at.S));
}

/* Steps. */

static double log_add(double a, double b, double c)
{
    double top = a > b ? a : b;
    top = c > top ? c : top;
    if (isinf(top) && top < 0)
        return a + b + c;
    return top + lk_log(lk_exp(a - top) + lk_exp(b - top) + lk_exp(c - top));
}

static int64_t word(const example *e, int64_t t)
{
    return counts(e->job, e->b, t) ? lk_int(&e->job->in[TARGETS], e->b * e->T + t) : NO_WORD;
}

static void put(const example *e, int output, int64_t t, double x)
{
    if (e->job->out[output].data)
        lk_put(&e->job->out[output], e->b * e->T + t, x);
}

/* log g and log(1 - g). */
static void gate(const example *e, int64_t t, double *log_g, double *log_1_g)
{
    const lk_job *job = e->job;
    const bool score = job->in[P_GEN_LOGIT].data;
    const double x = (double)r_load(row_of(e, &job->in[score ? P_GEN_LOGIT : P_GEN], t, 1));
    *log_g = score ? -lk_softplus(-x) : lk_log(x);
    *log_1_g = score ? -lk_softplus(x) : lk_log1p(-x);
}

/* log P(y), and the normaliser where P is a softmax. The vocabulary is not read for a word that it
 * lacks. */
static double generate(const example *e, int64_t t, int64_t y, class_norm *r)
{
    const lk_job *job = e->job;
    if (y >= e->V)
        return -(double)INFINITY;
    if (job->in[VOCAB_PROBS].data)
        return lk_log((double)r_load(row_of(e, &job->in[VOCAB_PROBS], t, e->V) + y));
    const class_row row = {.x = row_of(e, &job->in[VOCAB_LOGITS], t, e->V), .y = y};
    *r = class_normalise(&e->vocab, &row);
    return isnan(r->sum) ? r->sum : -class_nll(r);
}

/* The gradient of step t's vocabulary. By probability it is -by at y. */
static void vocabulary_gradient(const example *e, int64_t t, int64_t y, const class_norm *r,
                                double share, double by)
{
    const lk_job *job = e->job;
    const bool scores = job->in[VOCAB_LOGITS].data;
    elem *grad = row_of(e, &job->grad[scores ? VOCAB_LOGITS : VOCAB_PROBS], t, e->V);
    class_row row = {.x = row_of(e, &job->in[VOCAB_LOGITS], t, e->V), .y = y, .grad_x = grad};
    if (!grad)
        return;
    if (scores && y >= 0 && y < e->V && share != 0) {
        const int power = elements_power(share);
        const double part = ldexp(share, -power);
        const class_slope slope = {
            .y = row.y, .a = part / r->sum, .at = -part * (r->rest / r->sum)};
        class_gradient(&e->vocab, &row, r, &slope);
        if (power != 0)
            elements_scale(grad, e->V, power);
        return;
    }
    class_zero(&e->vocab, &row);
    if (!scores && y >= 0 && y < e->V && by != 0)
        r_store(grad + y, (real)-by);
}

static void gate_gradient(const example *e, int64_t t, double by_score, double by_probability)
{
    const lk_job *job = e->job;
    const bool score = job->in[P_GEN_LOGIT].data;
    elem *grad = row_of(e, &job->grad[score ? P_GEN_LOGIT : P_GEN], t, 1);
    if (grad)
        r_store(grad, (real)(score ? by_score : by_probability));
}

/* An ignored step: no loss, but its attention may count for coverage. */
static void skip(const example *e, int64_t t)
{
    vocabulary_gradient(e, t, NO_WORD, NULL, 0, 0);
    gate_gradient(e, t, 0, 0);
    for (int output = NLL; output <= COPY_SHARE; output++)
        put(e, output, t, 0);
}

/* The loss of a counted step, and its gradients except the attention's. */
static double one_step(example *e, step *s, int64_t t, int64_t y, double rho)
{
    const double lowest = -(double)INFINITY;
    class_norm r = {0};
    double log_g, log_1_g, coverage = 0;
    const double log_p = generate(e, t, y, &r), log_a = attend(e, s, t, y);
    gate(e, t, &log_g, &log_1_g);
    const double log_d = log_add(log_g + log_p, log_1_g + log_a, e->log_eps);
    if (e->covers)
        coverage =
            attention_cover(&e->at, e->at.coverage_weight > 0 ? e->side + t * e->at.S : NULL);
    const double value = scalar_times(e->at.coverage_weight, coverage) - log_d;

    /* Nothing has a slope where the probability is 0. */
    const double back = log_d == lowest ? lowest : -log_d;
    const double generated = log_d == lowest ? 0 : lk_exp(log_g + log_p - log_d);
    const double copied = log_d == lowest ? 0 : lk_exp(log_1_g + log_a - log_d);
    s->rho = rho != 0 && isnan(value) ? (double)NAN : rho;
    s->copy = e->job->in[ATTN_LOGITS].data ? copied : lk_exp(log_1_g + back);
    vocabulary_gradient(e, t, y, &r, scalar_times(s->rho, generated),
                        scalar_times(s->rho, lk_exp(log_g + back)));
    gate_gradient(e, t, scalar_times(s->rho, lk_exp(log_g) * copied - lk_exp(log_1_g) * generated),
                  scalar_times(s->rho, lk_exp(log_a + back) - lk_exp(log_p + back)));
    put(e, NLL, t, 0 - log_d);
    put(e, COVERAGE, t, coverage);
    put(e, COPY_SHARE, t, copied);
    return value;
}

/* Examples. */

static double upstream(const example *e, int64_t t)
{
    return scalar_constant(e->job, UPSTREAM, e->b * e->T + t, 1);
}

static void finish_attention(const example *e, const step *s, int64_t t, int64_t y)
{
    const lk_job *job = e->job;
    const bool scores = job->in[ATTN_LOGITS].data;
    elem *grad = row_of(e, &job->grad[scores ? ATTN_LOGITS : ATTN_PROBS], t, e->at.S);
    if (grad && (s->rho != 0 || e->looked_back))
        attention_gradient(e, s, t, y);
    else if (grad)
        memset(grad, 0, (size_t)e->at.S * sizeof(elem));
}

/* Add the attention of step t to the coverage of later steps; it is computed already if the step
 * counts. */
static void remember(example *e, int64_t t, int64_t y)
{
    step none;
    if (y == NO_WORD)
        (void)attend(e, &none, t, y);
    for (int64_t i = 0; i < e->at.S; i++)
        e->at.c[i] += e->at.a[i];
}

/* The values of the steps, and all gradients but those of the attention that coverage looks back
 * to. */
static double forwards(example *e, const extent *x)
{
    const options *o = e->job->options;
    const bool remembers = e->at.coverage_weight > 0;
    const double weight = x->share * e->job->scale[0];
    double sum = 0;
    memset(e->at.c, 0, (size_t)e->at.S * sizeof *e->at.c);
    memset(e->at.later, 0, (size_t)e->at.S * sizeof *e->at.later);
    for (int64_t t = 0; t < e->T; t++) {
        const int64_t y = t < x->end ? word(e, t) : NO_WORD;
        step here = {0};
        double value = 0;
        if (y != NO_WORD)
            value = x->share * one_step(e, &here, t, y, weight * upstream(e, t));
        else
            skip(e, t);
        if (e->covers && t < x->end)
            remember(e, t, y); /* first, because the gradient may be written in place */
        if (remembers)
            e->steps[t] = here;
        else
            finish_attention(e, &here, t, y);
        sum += value;
        if (o->reduce.reduction == LK_NONE && e->job->value.data)
            lk_put(&e->job->value, e->b * e->T + t, value);
    }
    return sum;
}

/* The gradients of the attention, where coverage looks back. */
static void backwards(example *e, const extent *x)
{
    e->looked_back = false;
    for (int64_t t = e->T - 1; t >= 0; t--) {
        const int64_t y = t < x->end ? word(e, t) : NO_WORD;
        const double rho = e->steps[t].rho;
        step again = {0};
        if (rho != 0 || e->looked_back) {
            (void)attend(e, &again, t, y);
            again.rho = rho;
            again.copy = e->steps[t].copy;
        }
        finish_attention(e, &again, t, y);
        for (int64_t i = 0; rho != 0 && i < e->at.S; i++)
            e->at.later[i] += rho * (1 - 0.5 * e->side[t * e->at.S + i]);
        e->looked_back = e->looked_back || rho != 0;
    }
}

/* Refuse element i of an input. */
static bool refuse(const example *e, lk_status status, int input, int64_t i)
{
    lk_refuse(e->block, status, input, i, (double)r_load((const elem *)e->job->in[input].data + i));
    return true;
}

/* The index of the first of n numbers at x that is not a probability, masked positions left out; -1
 * if there is none. NaN counts as valid, and gives NaN. */
static int64_t not_a_share(const example *e, const elem *x, int64_t n, bool of_source)
{
    const vec zero = {0}, one = v_set(1);
    for (int64_t k = 0; k < n; k += LANES) {
        const vec p = v_load_tail(x + k, LK_TAIL(k, n), 0);
        const mask bad = (p < zero) | (p > one);
        for (int i = 0; i < LANES; i++)
            if (bad[i] && !(of_source && e->at.ids[k + i] == MASKED))
                return k + i;
    }
    return -1;
}

/* Is there a bad value in the example? */
static bool refused(const example *e, const extent *x)
{
    const lk_job *job = e->job;
    const options *o = job->options;
    const int vocab = job->in[VOCAB_LOGITS].data ? VOCAB_LOGITS : VOCAB_PROBS;
    const int attn = job->in[ATTN_LOGITS].data ? ATTN_LOGITS : ATTN_PROBS;
    const int p_gen = job->in[P_GEN_LOGIT].data ? P_GEN_LOGIT : P_GEN;
    const bool nonfinite = o->reduce.nonfinite == LK_REFUSE_NONFINITE;
    bool bad = false;
    for (int64_t t = 0; t < x->end; t++) {
        const int64_t place = e->b * e->T + t;
        const bool counted = word(e, t) != NO_WORD;
        const double g = (double)r_load(row_of(e, &job->in[p_gen], t, 1));
        if (counted && p_gen == P_GEN && (g < 0 || g > 1))
            bad = refuse(e, LK_VALUE_OUT_OF_RANGE, p_gen, place);
        const bool attended = counted || e->at.coverage_weight > 0;
        int64_t at = counted && vocab == VOCAB_PROBS
                         ? not_a_share(e, row_of(e, &job->in[vocab], t, e->V), e->V, false)
                         : -1;
        if (at >= 0)
            bad = refuse(e, LK_VALUE_OUT_OF_RANGE, vocab, place * e->V + at);
        at = attended && attn == ATTN_PROBS
                 ? not_a_share(e, row_of(e, &job->in[attn], t, e->at.S), e->at.S, true)
                 : -1;
        if (at >= 0)
            bad = refuse(e, LK_VALUE_OUT_OF_RANGE, attn, place * e->at.S + at);
        if (!nonfinite)
            continue;
        if (counted && scalar_nonfinite(g))
            bad = refuse(e, LK_NONFINITE_INPUT, p_gen, place);
        const int64_t k =
            counted ? elements_nonfinite(row_of(e, &job->in[vocab], t, e->V), e->V) : -1;
        if (k >= 0)
            bad = refuse(e, LK_NONFINITE_INPUT, vocab, place * e->V + k);
        /* Coverage uses the attention of ignored steps, too. */
        const elem *a = row_of(e, &job->in[attn], t, e->at.S);
        for (int64_t i = 0; attended && i < e->at.S; i++)
            if (e->at.ids[i] != MASKED && scalar_nonfinite((double)r_load(a + i)))
                bad = refuse(e, LK_NONFINITE_INPUT, attn, place * e->at.S + i);
    }
    return bad;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const extent *extents = job->state;
    example e = example_make(job, block, scratch);
    for (int64_t b = first; b < first + count; b++) {
        const int64_t source = b * e.at.S;
        e.b = b;
        for (int64_t i = 0; i < e.at.S; i++)
            e.at.ids[i] = is_real(job, b, i) ? lk_int(&job->in[SOURCE_IDS], source + i) : MASKED;
        if (refused(&e, &extents[b]))
            continue;
        block->sum[0] += forwards(&e, &extents[b]);
        if (e.at.coverage_weight > 0 && (job->grad[ATTN_LOGITS].data || job->grad[ATTN_PROBS].data))
            backwards(&e, &extents[b]);
    }
}

static const char tex[] =
    "\\begin{aligned} \\ell &= -\\log\\left(g\\,P(y) + (1 - g)\\,A + \\text{eps}\\right) + "
    "\\lambda\\sum_i \\min(a_i, c_i) \\\\ "
    "P &= \\operatorname{softmax}(\\text{vocab\\_logits}),\\quad a = "
    "\\operatorname{softmax}(\\text{attn\\_logits}),\\quad g = \\sigma(\\text{p\\_gen\\_logit}) "
    "\\\\ "
    "A &= \\sum_{i\\,:\\,\\text{source\\_ids}_i = y} a_i,\\quad c = \\sum_{\\text{earlier "
    "steps}} a,\\quad \\lambda = \\text{coverage\\_weight} \\end{aligned}";

LK_DESCRIBE(pointer_generator, .tex = tex, .title = "Pointer-generator with coverage",
            .formula =
                "-log(g P(y) + (1-g) A + eps) + coverage_weight sum_i min(a_i, c_i); P = "
                "softmax(vocab_logits), a = softmax(attn_logits), g = sigmoid(p_gen_logit), A = "
                "sum of a_i where source_ids_i = y, c = sum of a over the earlier steps",
            .help = "For summaries and translations that copy names and rare words from their "
                    "source. Each of P, a and g is given as scores, which is safe from underflow, "
                    "or as probabilities. Coverage looks back over all earlier steps, whether "
                    "they count or not; steps after the last that counts are not read.",
            .reference = "See, Liu and Manning 2017",
            .example = "{\"inputs\": {\"vocab_logits\": [[[0.2, 0.4, 0.4], [0.1, 0.3, 0.6]]], "
                       "\"attn_logits\": [[[0.5, 0.1], [0.2, 0.9]]], "
                       "\"p_gen_logit\": [[0.8, -0.3]], \"source_ids\": [[1, 3]], "
                       "\"targets\": [[2, 3]]}, \"options\": {\"coverage_weight\": 1}}",
            .loss_shape = "B T", .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(pointer_generator) = {
    .is = &LK_IS(pointer_generator),
    .options_size = sizeof(options),
    .parts = 1,
    .rows_shape = "B",
    .check = check,
    .state = state_size,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
