/* SPDX-License-Identifier: MIT
 *
 * Contrastive preference optimisation: DPO without a reference model, plus the likelihood of the
 * chosen answer.
 */
#include "rows/contrast.h"

static const lk_field fields[] = {
    CONTRAST_FIELDS("0.1", "0", "sigmoid|hinge|ipo"),
    {0},
};

static const lk_input inputs[] = {CONTRAST_INPUTS("log-probabilities"), {0}};

SCALARWISE_KERNELS(contrast_row, 2, 0, CONTRAST_GRAD_OUTPUT)

static const char tex[] =
    "\\begin{aligned} u &= \\beta\\,(\\log\\pi_{\\text{chosen}} - \\log\\pi_{\\text{rejected}}) "
    "- \\gamma \\\\ "
    "\\ell &= -(1 - \\varepsilon)\\log\\sigma(u) - \\varepsilon\\log\\sigma(-u) + "
    "\\alpha\\,\\text{nll}_{\\text{chosen}},\\quad \\varepsilon = \\text{label\\_smoothing} "
    "\\end{aligned}";

LK_DESCRIBE(
    cpo, .tex = tex, .title = "Contrastive preference optimisation",
    .formula = "u = beta (chosen_logps - rejected_logps) - gamma; -(1-e) log sigmoid(u) - e "
               "log sigmoid(-u) + alpha chosen_nll, e = label_smoothing; hinge: max(0, 1 - "
               "u); ipo: (chosen_logps - rejected_logps - 1/(2 beta))^2. With shape a, "
               "log-probabilities x become (1 - exp(-a x))/a",
    .help = "Preferences without a reference model; chosen_nll keeps the policy close to the "
            "preferred answers. The inputs are sums of log-probabilities.",
    .reference = "Xu et al. 2024; Gupta et al. 2025 (shape: AlphaPO); TRL cpo_trainer.py",
    .example =
        "{\"inputs\": {\"chosen_logps\": [-10.0, -12.0], \"rejected_logps\": [-11.0, -9.0]}}",
    .traits = LK_ROWWISE, .loss_shape = "N", .inputs = inputs, .outputs = pair_outputs,
    .options = fields);

LK_LOSS(cpo) = {
    .is = &LK_IS(cpo),
    .check = contrast_check,
    SCALARWISE_MEMBERS(contrast_options, scalarwise_prepare),
};
