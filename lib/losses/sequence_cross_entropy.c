/* SPDX-License-Identifier: MIT
 *
 * Cross entropy at every position of a batch of sequences: the training and evaluation loss of
 * generative language models.
 */
#include "rows/sequence.h"

static const lk_field fields[] = {
    LK_REDUCTION_FIELD(classwise_options, "mean",
                       "none|sum|mean|sequence_sum|sequence_mean|mean_of_sequence_means|"
                       "mean_of_sequence_sums",
                       "over positions, within each sequence, or both"),
    LK_NUM_ITEMS_FIELD(classwise_options),
    LK_EMPTY_MEAN_FIELD(classwise_options),
    LK_NONFINITE_FIELD(classwise_options),
    LK_FIELD(sequence_options, shift, "0", LK_RANGED, 0, (double)INFINITY,
             "logits at t are scored against targets at t + shift; 1: causal language model; what "
             "has no target so does not count"),
    TEXT_FIELDS(sequence_options),
    CLASS_FIELDS,
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
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [CLASS_WEIGHT] = CLASSWISE_CLASS_WEIGHT("C"),
    [LENGTHS] = {.name = "lengths",
                 .forms = {{"B", LK_INTS}},
                 .flags = LK_OPTIONAL,
                 .range = "[0,T]",
                 .help = "tokens of each sequence; what lies beyond is ignored"},
    [POSITION_WEIGHT] =
        {.name = "position_weight",
         .forms = {[EACH_POSITION] = {"B T", LK_FLOATS}, [EACH_PLACE] = {"T", LK_FLOATS}},
         .flags = LK_OPTIONAL | LK_WEIGHTS,
         .range = "finite",
         .help = "weight of each predicted token; default ones"},
    [OFFSETS] = LK_OFFSETS_INPUT,
    {0},
};

static const lk_output outputs[] = {
    CLASSWISE_DIAGNOSTICS("B T"),
    TEXT_DIAGNOSTICS,
    {0},
};

static lk_status check(const lk_job *job, lk_error *error)
{
    const sequence_options *o = job->options;
    lk_status status = text_check(job, &o->text, error);
    if (status == LK_OK)
        status = classwise_check(job, error);
    return status == LK_OK ? sequence_check(job, error) : status;
}

static const char *const shapes[] = {"B T", "", "", "B", "B", "", ""};

static const char tex[] =
    "\\ell_{b,t} = -\\log\\operatorname{softmax}(\\text{logits}_{b,t})_{y_{b,t + "
    "\\text{shift}}},\\quad y = \\text{targets}";

LK_DESCRIBE(
    sequence_cross_entropy, .tex = tex,
    .title = "Cross entropy of every position of a batch of sequences",
    .formula = "loss_(b,t) = cross_entropy(logits_(b,t), targets_(b,t+shift)), reduced over "
               "positions, within sequences, or both",
    .help = "With shift=1 the loss of causal language models; num_items makes the losses of "
            "micro-batches add up. With offsets the sequences are packed one after another, "
            "without padding. Perplexity, bits per token and bits per byte are outputs.",
    .reference = "Hugging Face ForCausalLMLoss; Megatron-LM's masked mean; bits per byte as in "
                 "the Language Model Evaluation Harness",
    .example = "{\"inputs\": {\"logits\": [[[0.2, 0.4, 0.4], [0.1, 0.3, 0.6], [0, 0, 0]]], "
               "\"targets\": [[0, 2, 1]]}, \"options\": {\"shift\": 1}}",
    .traits = LK_NONNEGATIVE | LK_SHIFT_FREE, .loss_shape = "B T", .loss_shapes = shapes,
    .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(sequence_cross_entropy) = {
    .is = &LK_IS(sequence_cross_entropy),
    .options_size = sizeof(sequence_options),
    .parts = 2,
    .check = check,
    .state = sequence_state_size,
    .prepare = sequence_prepare,
    .scratch = classwise_scratch,
    .rows = sequence_rows,
    .whole_runs = true,
    .finish = sequence_finish,
};
