/* SPDX-License-Identifier: MIT
 *
 * Masked language model: cross entropy at the masked positions.
 */
#include "rows/class.h"

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(classwise_options),
    CLASS_FIELDS,
    {0},
};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"* C", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "scores [B,T,V] of all positions, or [P,V] of the selected ones"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INDICES}},
                 .range = "[0,C)",
                 .help = "labels: the original token where it was masked, ignore_index elsewhere"},
    [MASK] = CLASSWISE_MASK("*"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [CLASS_WEIGHT] = CLASSWISE_CLASS_WEIGHT("C"),
    [SAMPLE_WEIGHT] = {.name = "sample_weight",
                       .forms = {{"*", LK_FLOATS}},
                       .flags = LK_OPTIONAL | LK_WEIGHTS,
                       .range = "finite",
                       .help = "weight of each position; default ones"},
    {0},
};

static const lk_output outputs[] = {CLASSWISE_DIAGNOSTICS("*"), {0}};

static const char tex[] =
    "\\text{mean} = \\frac{1}{\\lvert M\\rvert}\\sum_{i \\in M} "
    "-\\log\\operatorname{softmax}(\\text{logits}_i)_{y_i},\\quad M\\ \\text{the masked "
    "positions}";

LK_DESCRIBE(masked_lm, .tex = tex, .title = "Masked language model loss",
            .formula = "cross entropy of the masked positions; mean: divided by their number",
            .help = "What BERT is trained with. Its perplexity is what the literature calls "
                    "pseudo-perplexity.",
            .reference = "Devlin et al. 2019; Hugging Face ForMaskedLMLoss",
            .example = "{\"inputs\": {\"logits\": [[[0.2, 0.4, 0.4], [0.1, 0.3, 0.6]]], "
                       "\"targets\": [[-100, 2]]}}",
            .traits = LK_NONNEGATIVE | LK_SHIFT_FREE | LK_ROWWISE, .loss_shape = "*",
            .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(masked_lm) = {
    .is = &LK_IS(masked_lm),
    .options_size = sizeof(classwise_options),
    .parts = 2,
    .check = classwise_check,
    .prepare = weighted_prepare,
    .scratch = classwise_scratch,
    .rows = weighted_rows,
    .whole_runs = true,
    .finish = classwise_finish,
};
