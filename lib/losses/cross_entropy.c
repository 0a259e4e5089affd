/* SPDX-License-Identifier: MIT
 *
 * Cross entropy of logits with class indices or class probabilities.
 */
#include "rows/class.h"

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(classwise_options),
    LK_FIELD(classwise_options, class_dim, "-1", LK_RANGED | LK_NONZERO, -1, 1,
             "where the classes stand: -1 last, 1 second as in [N,C,d1,...]"),
    CLASS_FIELDS,
    {0},
};

static const lk_input inputs[] = {
    [LOGITS] = {.name = "logits",
                .forms = {{"* C@class_dim", LK_FLOATS}},
                .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                .help = "unnormalised scores of the classes"},
    [TARGETS] = {.name = "targets",
                 .forms = {{"*", LK_INDICES}, {"* C@class_dim", LK_FLOATS}},
                 .flags = LK_DIFFERENTIABLE,
                 .range = "[0,C)",
                 .help = "the right class of each row, or a probability for every class"},
    [MASK] = CLASSWISE_MASK("*"),
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    [CLASS_WEIGHT] = CLASSWISE_CLASS_WEIGHT("C"),
    [SAMPLE_WEIGHT] = {.name = "sample_weight",
                       .forms = {{"*", LK_FLOATS}},
                       .flags = LK_OPTIONAL | LK_WEIGHTS,
                       .range = "finite",
                       .help = "weight of each row; default ones"},
    {0},
};

static const lk_output outputs[] = {CLASSWISE_DIAGNOSTICS("*"), {0}};

static const char tex[] =
    "\\begin{aligned} \\ell_i &= -\\sum_k w_k\\,q_{ik}\\,\\log\\operatorname{softmax}(z_i)_k + "
    "\\zeta\\,\\operatorname{lse}(z_i)^2 \\\\ "
    "z &= \\text{logit\\_scale}\\cdot c\\,\\tanh(\\text{logits}/c),\\quad c = \\text{softcap},\\ "
    "\\zeta = \\text{z\\_loss} \\\\ "
    "\\text{mean} &= \\frac{\\sum_i \\ell_i}{\\sum_i w_{y_i}} \\end{aligned}";

LK_DESCRIBE(
    cross_entropy, .tex = tex,
    .title = "Cross entropy of logits with class indices or probabilities",
    .formula = "loss_i = -sum_k w_k q_ik log softmax(z_i)_k + z_loss * lse(z_i)^2, "
               "z = logit_scale * softcap * tanh(logits / softcap); "
               "mean: sum_i / sum_i w_(y_i)",
    .help = "The loss of classifiers and language models. q is one-hot at the target class, "
            "smoothed with label_smoothing, or given as probabilities. Ignored rows are not "
            "read and get a zero gradient.",
    .reference = "PyTorch torch.nn.functional.cross_entropy; z-loss: Chowdhery et al. 2022; "
                 "focal: Lin et al. 2017; PolyLoss: Leng et al. 2022; label smoothing: "
                 "Szegedy et al. 2016",
    .example = "{\"inputs\": {\"logits\": [[0.2, 0.4, 0.4]], \"targets\": [2]}}",
    .traits = LK_NONNEGATIVE | LK_SHIFT_FREE | LK_ROWWISE, .loss_shape = "*", .inputs = inputs,
    .outputs = outputs, .options = fields);

LK_LOSS(cross_entropy) = {
    .is = &LK_IS(cross_entropy),
    .options_size = sizeof(classwise_options),
    .parts = 2,
    .check = classwise_check,
    .prepare = weighted_prepare,
    .scratch = classwise_scratch,
    .rows = weighted_rows,
    .whole_runs = true,
    .finish = classwise_finish,
};
