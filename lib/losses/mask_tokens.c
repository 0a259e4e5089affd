/* SPDX-License-Identifier: MIT
 *
 * Masks tokens for the training of masked language models. A transform: integers in, integers out.
 * Every random number is a function of seed, row, position and purpose alone, so the same masks
 * come out on every machine, however a batch is split.
 */
#include "loss.h"

enum { INPUT_IDS, SPECIAL_MASK, ATTENTION_MASK, WORD_IDS };
enum { MASKED_IDS, LABELS, MASK_PROB };
enum { BERNOULLI, FIXED_COUNT, DIFFUSION }; /* selection */
enum { SELECT, REPLACE, PICK, DRAWS };      /* what a random number is for */

typedef struct options {
    lk_reduce reduce;
    int64_t mask_token_id, random_low, random_high, ignore_index, max_predictions;
    double mlm_probability, mask_replace_prob, random_replace_prob, diffusion_eps;
    lk_list special_ids;
    int selection;
    uint64_t seed, row_offset;
} options;

static const lk_field fields[] = {
    LK_FIELD(options, mask_token_id, NULL, 0, 0, 0, "what a masked token becomes"),
    LK_FIELD(options, mlm_probability, "0.15", LK_RANGED, 0, 1,
             "the probability that a token is selected, or the share that is"),
    LK_FIELD(options, mask_replace_prob, "0.8", LK_RANGED, 0, 1,
             "the probability that a selected token becomes mask_token_id"),
    LK_FIELD(options, random_replace_prob, "0.1", LK_RANGED, 0, 1,
             "the probability that it becomes a random token; else it stays as it is"),
    LK_FIELD(options, random_low, "0", 0, 0, 0, "the lowest random token"),
    LK_FIELD(options, random_high, "off", LK_OFF, 0, 0,
             "one more than the highest; required where random_replace_prob > 0"),
    LK_FIELD(options, special_ids, "", 0, 0, 0, "tokens that are never selected"),
    LK_FIELD(options, ignore_index, "-100", 0, 0, 0, "the label of tokens that are not selected"),
    LK_WORDS(options, selection, "bernoulli", "bernoulli|fixed_count|diffusion",
             "each token by itself, or a fixed share of each row, or each by itself with a "
             "probability that is drawn for the row, and all of them become mask_token_id"),
    LK_FIELD(options, max_predictions, "off", LK_OFF | LK_RANGED, 0, (double)INFINITY,
             "fixed_count: at most so many tokens of a row"),
    LK_FIELD(options, diffusion_eps, "1e-3", LK_RANGED, 0, 1,
             "diffusion: the least probability; that of a row is uniform from it to 1"),
    LK_FIELD(options, seed, "0", 0, 0, 0, "the same seed, the same masks"),
    LK_FIELD(options, row_offset, "0", 0, 0, 0,
             "the number of the first row, where a batch is one part of many"),
    {0},
};

static const lk_input inputs[] = {
    [INPUT_IDS] = {.name = "input_ids", .forms = {{"B T", LK_INTS}}, .help = "tokens"},
    [SPECIAL_MASK] = {.name = "special_mask",
                      .forms = {{"B T", LK_MASKS}},
                      .flags = LK_OPTIONAL,
                      .help = "1: never selected, such as [CLS], [SEP] and padding; default none"},
    [ATTENTION_MASK] = {.name = "attention_mask",
                        .forms = {{"B T", LK_MASKS}},
                        .flags = LK_OPTIONAL,
                        .help = "0: padding, never selected; default none"},
    [WORD_IDS] = {.name = "word_ids",
                  .forms = {{"B T", LK_INTS}},
                  .flags = LK_OPTIONAL,
                  .help = "equal numbers in a row are one word, selected as a whole; -1: in no "
                          "word, never selected; default: each token is one"},
    {0},
};

static const lk_output outputs[] = {
    [MASKED_IDS] = {.name = "masked_ids",
                    .shape = "B T",
                    .dtype = LK_ANY,
                    .like = "input_ids",
                    .flags = LK_DEFAULT,
                    .help = "input_ids with the selected tokens replaced"},
    [LABELS] = {.name = "labels",
                .shape = "B T",
                .dtype = LK_ANY,
                .like = "input_ids",
                .flags = LK_DEFAULT,
                .help = "the selected tokens as they were, ignore_index elsewhere"},
    [MASK_PROB] = {.name = "mask_prob",
                   .shape = "B",
                   .dtype = LK_F32,
                   .flags = LK_DEFAULT,
                   .help = "the probability that a token of the row is selected; among the default "
                           "outputs with selection=diffusion"},
    {0},
};

static bool fits(const lk_job *job, int64_t id)
{
    return job->in[INPUT_IDS].dtype == LK_I64 || (id >= INT32_MIN && id <= INT32_MAX);
}

static lk_status check_id(const lk_job *job, const char *name, int64_t id, lk_error *error)
{
    if (fits(job, id))
        return LK_OK;
    return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                   "%s is %lld, which does not fit input_ids' type i32", name, (long long)id);
}

/* Among the default outputs? Probabilities are where they are drawn. */
static bool default_output(const lk_job *job, int output)
{
    const options *o = job->options;
    return output == MASKED_IDS || output == LABELS ||
           (output == MASK_PROB && o->selection == DIFFUSION);
}

/* What else masks tokens is not used. */
static lk_status check_diffusion(const lk_job *job, lk_error *error)
{
    static const char *const others[] = {"mlm_probability",     "mask_replace_prob",
                                         "random_replace_prob", "random_low",
                                         "random_high",         "max_predictions"};
    const options *o = job->options;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (lk_given(job, others[i]))
            return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                           "%s is not used with selection=diffusion; leave it out", others[i]);
    const lk_status status = check_id(job, "mask_token_id", o->mask_token_id, error);
    return status != LK_OK ? status : check_id(job, "ignore_index", o->ignore_index, error);
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    lk_status status;
    if (o->selection == DIFFUSION)
        return check_diffusion(job, error);
    if (o->random_replace_prob > 0 && o->random_high == LK_OFF_INTEGER)
        return lk_fail(job, error, LK_MISSING_OPTION, -1, -1,
                       "option random_high is missing; with random_replace_prob %g it must be "
                       "given: one more than the highest random token",
                       o->random_replace_prob);
    if (o->mask_replace_prob + o->random_replace_prob > 1)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "mask_replace_prob %g and random_replace_prob %g add up to more than 1",
                       o->mask_replace_prob, o->random_replace_prob);
    if (o->random_high != LK_OFF_INTEGER && o->random_high <= o->random_low)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "random_high is %lld; it must be greater than random_low, %lld",
                       (long long)o->random_high, (long long)o->random_low);
    if ((status = check_id(job, "mask_token_id", o->mask_token_id, error)) != LK_OK ||
        (status = check_id(job, "ignore_index", o->ignore_index, error)) != LK_OK ||
        (status = check_id(job, "random_low", o->random_low, error)) != LK_OK)
        return status;
    if (o->random_high != LK_OFF_INTEGER && !fits(job, o->random_high - 1))
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "random_high is %lld; with input_ids of type i32 it must be at most %lld",
                       (long long)o->random_high, (long long)INT32_MAX + 1);
    if (o->max_predictions != LK_OFF_INTEGER && o->selection != FIXED_COUNT)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "max_predictions needs selection=fixed_count");
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    (void)job;
    (void)error;
    return LK_OK;
}

/* SplitMix64, with random access to its sequence. */

static const uint64_t GOLDEN = 0x9E3779B97F4A7C15U;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

static uint64_t draw(uint64_t stream, int64_t t, int what)
{
    return mix(stream + (DRAWS * (uint64_t)t + (uint64_t)what + 1) * GOLDEN);
}

/* In [0, 1). */
static double unit_of(uint64_t r)
{
    return (double)(r >> 11) * 0x1p-53;
}

/* The upper 64 bits of a product: r in [0, 2^64) becomes a number in [0, n). */
static uint64_t scaled(uint64_t r, uint64_t n)
{
    const uint64_t low = UINT32_MAX, r0 = r & low, r1 = r >> 32, n0 = n & low, n1 = n >> 32;
    const uint64_t a = r1 * n0 + (r0 * n0 >> 32), b = r0 * n1 + (a & low);
    return r1 * n1 + (a >> 32) + (b >> 32);
}

/* What is selected as a whole: a token, or a word's eligible tokens. */
typedef struct unit {
    uint64_t draw;      /* of its first eligible position */
    int64_t word, head; /* head: that position */
    int64_t size;
} unit;

/* A row's scratch: its eligible tokens as units, and for each token whether it is selected. */
typedef struct row {
    const lk_job *job;
    int64_t b, T;
    uint64_t stream;
    double probability; /* of selecting a unit, or the share of tokens */
    unit *units;
    unsigned char *selected;
} row;

static size_t scratch_size(const lk_job *job)
{
    return job->rows > 0 ? (size_t)job->size['T' - 'A'] * (sizeof(unit) + 1) : 0;
}

static int64_t int_at(const row *r, int input, int64_t t)
{
    return lk_int(&r->job->in[input], r->b * r->T + t);
}

static bool is_eligible(const row *r, int64_t t)
{
    const options *o = r->job->options;
    const int64_t id = int_at(r, INPUT_IDS, t);
    if (lk_has(r->job, SPECIAL_MASK) && int_at(r, SPECIAL_MASK, t) != 0)
        return false;
    if (lk_has(r->job, ATTENTION_MASK) && int_at(r, ATTENTION_MASK, t) == 0)
        return false;
    if (lk_has(r->job, WORD_IDS) && int_at(r, WORD_IDS, t) == -1)
        return false;
    for (int64_t k = 0; k < o->special_ids.count; k++)
        if (id == o->special_ids.value[k])
            return false;
    return true;
}

/* Heap sort: in place, with no slow worst case that a client could provoke. */

typedef bool (*unit_order)(const unit *a, const unit *b);

static bool by_word(const unit *a, const unit *b)
{
    return a->word < b->word || (a->word == b->word && a->head < b->head);
}

static bool by_draw(const unit *a, const unit *b)
{
    return a->draw < b->draw || (a->draw == b->draw && a->head < b->head);
}

static void sift(unit *units, int64_t at, int64_t n, unit_order before)
{
    const unit moved = units[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        child += child + 1 < n && before(&units[child], &units[child + 1]);
        if (!before(&moved, &units[child]))
            break;
        units[at] = units[child];
    }
    units[at] = moved;
}

static void sort(unit *units, int64_t n, unit_order before)
{
    for (int64_t i = n / 2; i-- > 0;)
        sift(units, i, n, before);
    for (int64_t i = n; i-- > 1;) {
        const unit last = units[i];
        units[i] = units[0];
        units[0] = last;
        sift(units, 0, i, before);
    }
}

/* Gather the row's eligible tokens into units, joined by word. Returns the number of units; *tokens
 * becomes the number of tokens. */
static int64_t gather(const row *r, int64_t *tokens)
{
    int64_t n = 0, units = 0;
    for (int64_t t = 0; t < r->T; t++)
        if (is_eligible(r, t))
            r->units[n++] = (unit){.head = t, .size = 1};
    *tokens = n;
    for (int64_t k = 0; k < n && lk_has(r->job, WORD_IDS); k++)
        r->units[k].word = int_at(r, WORD_IDS, r->units[k].head);
    if (lk_has(r->job, WORD_IDS))
        sort(r->units, n, by_word);
    for (int64_t k = 0; k < n; k++) {
        if (lk_has(r->job, WORD_IDS) && units > 0 && r->units[units - 1].word == r->units[k].word)
            r->units[units - 1].size++;
        else
            r->units[units++] = r->units[k];
    }
    for (int64_t k = 0; k < units; k++)
        r->units[k].draw = draw(r->stream, r->units[k].head, SELECT);
    return units;
}

/* Moves the selected units to the front. Returns their number. */
static int64_t choose(const row *r, int64_t units, int64_t tokens)
{
    const options *o = r->job->options;
    int64_t chosen = 0, left = (int64_t)floor(r->probability * (double)tokens + 0.5);
    if (o->selection != FIXED_COUNT) {
        for (int64_t k = 0; k < units; k++)
            if (unit_of(r->units[k].draw) < r->probability)
                r->units[chosen++] = r->units[k];
        return chosen;
    }
    left = tokens == 0 ? 0 : left < 1 ? 1 : left;
    left = o->max_predictions != LK_OFF_INTEGER && left > o->max_predictions ? o->max_predictions
                                                                             : left;
    sort(r->units, units, by_draw);
    for (int64_t k = 0; k < units; k++) {
        if (r->units[k].size > left)
            continue; /* a word that does not fit; a shorter one may */
        left -= r->units[k].size;
        r->units[chosen++] = r->units[k];
    }
    return chosen;
}

/* Marks the tokens of the chosen units. A word's tokens may be anywhere in the row: their unit is
 * found by the word, by which the chosen units are sorted. */
static void mark(const row *r, int64_t chosen)
{
    if (r->T == 0)
        return;
    memset(r->selected, 0, (size_t)r->T);
    if (!lk_has(r->job, WORD_IDS)) {
        for (int64_t k = 0; k < chosen; k++)
            r->selected[r->units[k].head] = 1;
        return;
    }
    sort(r->units, chosen, by_word);
    for (int64_t t = 0; t < r->T; t++) {
        const int64_t word = int_at(r, WORD_IDS, t);
        int64_t low = 0, high = chosen;
        while (low < high) {
            const int64_t middle = low + (high - low) / 2;
            if (r->units[middle].word < word)
                low = middle + 1;
            else
                high = middle;
        }
        r->selected[t] = low < chosen && r->units[low].word == word && is_eligible(r, t);
    }
}

static int64_t replacement(const row *r, int64_t t, int64_t id)
{
    const options *o = r->job->options;
    const double v = unit_of(draw(r->stream, t, REPLACE));
    if (o->selection == DIFFUSION || v < o->mask_replace_prob)
        return o->mask_token_id;
    if (!(v < o->mask_replace_prob + o->random_replace_prob))
        return id;
    const uint64_t range = (uint64_t)o->random_high - (uint64_t)o->random_low;
    return (int64_t)((uint64_t)o->random_low + scaled(draw(r->stream, t, PICK), range));
}

static void put(const lk_tensor *to, int64_t i, int64_t id)
{
    const int32_t narrow = (int32_t)id;
    if (to->data && to->dtype == LK_I64)
        memcpy((char *)to->data + i * 8, &id, sizeof id);
    else if (to->data)
        memcpy((char *)to->data + i * 4, &narrow, sizeof narrow);
}

static double probability_of(const options *o, uint64_t stream)
{
    const double low = o->diffusion_eps;
    return o->selection == DIFFUSION ? (1 - low) * unit_of(mix(stream)) + low : o->mlm_probability;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    row r = {.job = job, .T = job->size['T' - 'A'], .units = scratch};
    r.selected = (unsigned char *)scratch + (size_t)r.T * sizeof(unit);
    (void)block;
    for (r.b = first; r.b < first + count; r.b++) {
        int64_t tokens;
        r.stream = mix(o->seed + (o->row_offset + (uint64_t)r.b + 1) * GOLDEN);
        r.probability = probability_of(o, r.stream);
        if (job->out[MASK_PROB].data)
            lk_put(&job->out[MASK_PROB], r.b, r.probability);
        const int64_t units = gather(&r, &tokens);
        mark(&r, choose(&r, units, tokens));
        for (int64_t t = 0; t < r.T; t++) {
            const int64_t id = int_at(&r, INPUT_IDS, t), i = r.b * r.T + t;
            put(&job->out[MASKED_IDS], i, r.selected[t] ? replacement(&r, t, id) : id);
            put(&job->out[LABELS], i, r.selected[t] ? id : o->ignore_index);
        }
    }
}

static const char tex[] =
    "\\Pr[\\text{selected}] = \\text{mlm\\_probability};\\quad \\text{then}\\quad x' = "
    "\\begin{cases} \\text{mask\\_token\\_id} \\\\ "
    "\\text{a random token} \\\\ "
    "x \\end{cases}\\qquad \\text{label} = x";

LK_DESCRIBE(
    mask_tokens, .tex = tex, .title = "Mask tokens for a masked language model",
    .formula = "a token or word is selected with mlm_probability; then it becomes "
               "mask_token_id, a random token, or stays, and its label is what it was",
    .help = "The same masks from the same seed on every machine, whatever the batch it is "
            "split into: row_offset says which rows these are. With selection=diffusion the "
            "loss of a masked diffusion model is cross_entropy with labels as targets, "
            "1/mask_prob as sample_weight, and num_items.",
    .reference = "Devlin et al. 2019; Hugging Face DataCollatorForLanguageModeling; Nie et "
                 "al. 2025 (LLaDA); random numbers: SplitMix64",
    .example = "{\"inputs\": {\"input_ids\": [[101, 7592, 1010, 2088, 999, 102]]}, "
               "\"options\": {\"mask_token_id\": 103, \"random_high\": 30522, "
               "\"special_ids\": [101, 102], \"seed\": 42, \"mlm_probability\": 0.5}}",
    .traits = LK_TRANSFORM | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(mask_tokens) = {
    .is = &LK_IS(mask_tokens),
    .options_size = sizeof(options),
    .parts = 1,
    .rows_shape = "B",
    .check = check,
    .default_output = default_output,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
