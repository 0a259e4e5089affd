/* SPDX-License-Identifier: MIT
 *
 * Simple preference optimisation: compares mean log-probabilities, with a margin and no reference.
 */
#include "rows/contrast.h"

static const lk_field fields[] = {
    CONTRAST_FIELDS("2", "0.5", "sigmoid|hinge"),
    {0},
};

static const lk_input inputs[] = {CONTRAST_INPUTS("mean log-probability a token"), {0}};

SCALARWISE_KERNELS(contrast_row, 2, 0, CONTRAST_GRAD_OUTPUT)

static const char tex[] =
    "\\begin{aligned} u &= \\beta\\,(\\log\\pi_{\\text{chosen}} - \\log\\pi_{\\text{rejected}}) "
    "- \\gamma \\\\ "
    "\\ell &= -(1 - \\varepsilon)\\log\\sigma(u) - \\varepsilon\\log\\sigma(-u) + "
    "\\alpha\\,\\text{nll}_{\\text{chosen}},\\quad \\varepsilon = \\text{label\\_smoothing} "
    "\\end{aligned}";

LK_DESCRIBE(
    simpo, .tex = tex, .title = "Simple preference optimisation",
    .formula = "u = beta (chosen_logps - rejected_logps) - gamma; -(1-e) log sigmoid(u) - e "
               "log sigmoid(-u) + alpha chosen_nll, e = label_smoothing; hinge: max(0, 1 - "
               "u). With shape a, log-probabilities x become (1 - exp(-a x))/a",
    .help = "Preferences without a reference model, where long answers are worth no more than "
            "short ones. The inputs are means of the log-probabilities of the answers' tokens.",
    .reference = "Meng et al. 2024; Gupta et al. 2025 (shape: AlphaPO); TRL CPOTrainer",
    .example = "{\"inputs\": {\"chosen_logps\": [-0.5, -1.0], \"rejected_logps\": [-1.5, -0.7]}}",
    .traits = LK_ROWWISE, .loss_shape = "N", .inputs = inputs, .outputs = pair_outputs,
    .options = fields);

LK_LOSS(simpo) = {
    .is = &LK_IS(simpo),
    .check = contrast_check,
    SCALARWISE_MEMBERS(contrast_options, scalarwise_prepare),
};
