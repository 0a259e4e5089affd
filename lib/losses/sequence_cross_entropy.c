/* SPDX-License-Identifier: MIT
 *
 * Cross entropy at every position of a batch of sequences: what generative language models are
 * trained and judged with.
 */
#include "../sequence.h"

enum {
    NLL_SUM = CLASSWISE_OUTPUTS,
    BITS_PER_TOKEN,
    BITS_PER_BYTE,
    BYTE_PERPLEXITY,
    WORD_PERPLEXITY
};

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(classwise_options, "mean",
                       "none|sum|mean|sequence_sum|sequence_mean|mean_of_sequence_means|"
                       "mean_of_sequence_sums",
                       "over positions, within each sequence, or both"),
    LK_NUM_ITEMS_FIELD(classwise_options),
    LK_EMPTY_MEAN_FIELD(classwise_options),
    LK_NONFINITE_FIELD(classwise_options),
    LK_FIELD(sequence_options, shift, "0", LK_RANGED, 0, (double)INFINITY,
             "logits at t are scored against targets at t + shift; 1: causal language model"),
    LK_FIELD(sequence_options, num_bytes, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "bytes of the text, for bits_per_byte and byte_perplexity"),
    LK_FIELD(sequence_options, num_words, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "words of the text, for word_perplexity"),
    CLASS_FIELDS,
    {0},
};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"B T C", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "scores of the vocabulary at every position"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"B T", LK_INTS}},
                 .range = "[0,C)",
                 .help = "tokens; position t + shift is what position t predicts"},
    [MASK] = CLASSWISE_MASK("B T"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [CLASS_WEIGHT] = CLASSWISE_CLASS_WEIGHT("C"),
    [LENGTHS] = {.name = "lengths",
                 .forms = {{"B", LK_INTS}},
                 .flags = LK_OPTIONAL,
                 .range = "[0,T]",
                 .help = "tokens of each sequence; what lies beyond is ignored"},
    [POSITION_WEIGHT] = {.name = "position_weight",
                         .forms = {{"B T", LK_FLOATS}, {"T", LK_FLOATS}},
                         .flags = LK_OPTIONAL | LK_WEIGHTS,
                         .range = ">=0",
                         .help = "weight of each predicted token; default ones"},
    {0},
};

static const lk_output outputs[] = {
    CLASSWISE_DIAGNOSTICS("B T"),
    [NLL_SUM] = LK_OUTPUT("nll_sum", "", LK_ANY, "sum of the counted nll"),
    [BITS_PER_TOKEN] = LK_OUTPUT("bits_per_token", "", LK_ANY, "nll_sum / (count ln 2)"),
    [BITS_PER_BYTE] = LK_OUTPUT("bits_per_byte", "", LK_ANY, "nll_sum / (num_bytes ln 2)"),
    [BYTE_PERPLEXITY] = LK_OUTPUT("byte_perplexity", "", LK_ANY, "exp(nll_sum / num_bytes)"),
    [WORD_PERPLEXITY] = LK_OUTPUT("word_perplexity", "", LK_ANY, "exp(nll_sum / num_words)"),
    {0},
};

static lk_status check(const lk_job *job, lk_error *error)
{
    const sequence_options *o = job->options;
    const int64_t T = job->size['T' - 'A'];
    const unsigned by_bytes = 1u << BITS_PER_BYTE | 1u << BYTE_PERPLEXITY;
    if ((job->out_wanted & by_bytes) && isnan(o->num_bytes))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "bits_per_byte and byte_perplexity need the option num_bytes");
    if ((job->out_wanted & 1u << WORD_PERPLEXITY) && isnan(o->num_words))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "word_perplexity needs the option num_words");
    if (o->shift > 0 && o->shift >= T)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "shift is %lld; with sequences of %lld it must be in [0, %lld]",
                       (long long)o->shift, (long long)T, (long long)(T > 0 ? T - 1 : 0));
    return classwise_check(job, error);
}

static void finish(const lk_job *job, const double *sum)
{
    const sequence_options *o = job->options;
    const sequence_state *state = job->state;
    const double nll = sum[SUM_NLL], bits = nll / log(2.0);
    const double n = (double)job->counted;
    classwise_finish(job, sum);
    if (o->common.reduce.reduction > LK_MEAN)
        put_row(job, DENOMINATOR, 0, state->denominator);
    put_row(job, NLL_SUM, 0, nll);
    put_row(job, BITS_PER_TOKEN, 0, n > 0 ? bits / n : 0);
    put_row(job, BITS_PER_BYTE, 0, bits / o->num_bytes);
    put_row(job, BYTE_PERPLEXITY, 0, exp(nll / o->num_bytes));
    put_row(job, WORD_PERPLEXITY, 0, exp(nll / o->num_words));
    if (by_sequence(o))
        sequence_values(job);
}

static const char *const shapes[] = {"B T", "", "", "B", "B", "", ""};

LK_LOSS(sequence_cross_entropy) = {
    .is =
        {
            .name = "sequence_cross_entropy",
            .title = "Cross entropy of every position of a batch of sequences",
            .formula =
                "loss_(b,t) = cross_entropy(logits_(b,t), targets_(b,t+shift)), reduced over "
                "positions, within sequences, or both",
            .help =
                "With shift=1 the loss of causal language models; num_items makes the losses of "
                "micro-batches add up. Perplexity, bits per token and bits per byte are outputs.",
            .reference =
                "Hugging Face ForCausalLMLoss; Megatron-LM's masked mean; bits per byte as in "
                "the Language Model Evaluation Harness",
            .example = "{\"inputs\": {\"logits\": [[[0.2, 0.4, 0.4], [0.1, 0.3, 0.6], [0, 0, 0]]], "
                       "\"targets\": [[0, 2, 1]]}, \"options\": {\"shift\": 1}}",
            .traits = LK_NONNEGATIVE | LK_SHIFT_FREE,
            .loss_shape = "B T",
            .loss_shapes = shapes,
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(sequence_options),
    .parts = 2,
    .check = check,
    .state = sequence_state_size,
    .prepare = sequence_prepare,
    .rows = sequence_rows,
    .finish = finish,
};
