/* SPDX-License-Identifier: MIT
 *
 * The composite loss, which is made of other losses: its description and its lk_kind.
 */
#include "graph.h"

static const lk_input inputs[] = {
    [WEIGHTS] = {.name = "weights",
                 .forms = {{"K", LK_FLOATS}},
                 .flags = LK_OPTIONAL | LK_DIFFERENTIABLE,
                 .help = "multiplies the parts' own weights; weighted_sum only"},
    [LOG_VARS] = {.name = "log_vars",
                  .forms = {{"K", LK_FLOATS}},
                  .flags = LK_OPTIONAL | LK_DIFFERENTIABLE,
                  .help = "log of the variance of each part's noise; uncertainty only"},
    [UPSTREAM] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    {.name = "parts",
     .shape = "K",
     .dtype = LK_ANY,
     .flags = LK_DEFAULT,
     .help = "the value of each part, unweighted"},
    {0},
};

static const lk_field fields[] = {
    {.name = "parts",
     .type = LK_PARTS,
     .help = "the parts, each {\"loss\": NAME, \"name\": NAME, \"weight\": 1, \"inputs\": {...}, "
             "\"options\": {...}}; inputs maps an input of the part to a tensor of the request, to "
             "\"part.<k>.<output>\" of another part, or to null"},
    LK_WORDS(graph_options, combine, "weighted_sum", "weighted_sum|uncertainty",
             "how the parts' values become one"),
    LK_FIELD(graph_options, scales, "", 0, 0, 0,
             "uncertainty: a of each part, 1 for classification, 0.5 for regression; default ones"),
    {0},
};

/* Room for loss and parts, a gradient of each tensor, and three diagnostics of each part. */
_Static_assert(LK_OUTPUTS_MAX == 2 + TENSORS_MAX + 3 * PARTS_MAX,
               "all that is asked for by default");

static const lk_kind kind = {
    .size = sizeof(graph),
    .outputs = LK_OUTPUTS_MAX,
    .free = lk_graph_free,
    .input = lk_graph_input,
    .want = lk_graph_want,
    .part = lk_graph_part,
    .part_name = lk_graph_part_name,
    .part_option = lk_graph_part_option,
    .part_input = lk_graph_part_input,
    .dtypes = lk_graph_dtypes,
    .tensor = lk_graph_tensor,
    .check = lk_graph_check,
    .plan = lk_graph_plan,
    .scratch = lk_graph_scratch,
    .memory = lk_graph_memory,
    .cost = lk_graph_cost,
    .blocks = lk_graph_blocks,
    .run = lk_graph_run,
    .next = lk_graph_next,
    .finish = lk_graph_finish,
};

static const char tex[] =
    "\\begin{aligned} \\text{weighted\\_sum} &= \\sum_k w_k L_k \\\\ "
    "\\text{uncertainty} &= \\sum_k\\left(a_k e^{-s_k} L_k + \\frac{s_k}{2}\\right),\\quad s = "
    "\\text{log\\_vars} \\end{aligned}";

static const lk_description is = {
    .name = "composite",
    .tex = tex,
    .title = "Several losses as one",
    .formula = "weighted_sum: sum_k w_k L_k; "
               "uncertainty: sum_k a_k exp(-s_k) L_k + s_k/2, s = log_vars",
    .help = "Parts that name the same tensor share it, and its gradient is the sum of "
            "theirs. part.<k>.<output> is an output of part k, counted from 0, or of the "
            "part of that name: among `outputs` it asks for it, and as an input of a part "
            "it lets one part read another. Gradients flow back through the loss of a part "
            "and through the log-probabilities and the entropy that parts compute, so that "
            "one request goes from logits to their gradient; other outputs are constants. "
            "A part that is read, or is a transform, and has no weight of its own does not "
            "enter the loss.",
    .reference = "uncertainty weights: Kendall, Gal, Cipolla 2018",
    .example = "{\"inputs\": {\"logits\": [[[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]], "
               "\"targets\": [[0, 1]], \"old_logprobs\": [[-0.4, -2.8]], "
               "\"ref_logprobs\": [[-0.3, -3.0]], \"advantages\": [1.5]}, \"options\": "
               "{\"parts\": [{\"loss\": \"token_logprobs\", \"name\": \"policy\"}, "
               "{\"loss\": \"policy_gradient\", \"inputs\": {\"logprobs\": "
               "\"part.policy.logprobs\", \"entropy\": \"part.policy.entropy\"}, "
               "\"options\": {\"kl_weight\": 0.04, \"entropy_weight\": 0.01}}]}}",
    .traits = LK_DYNAMIC | LK_COUPLED,
    .inputs = inputs,
    .outputs = outputs,
    .options = fields,
};

const lk_loss lk_graph_loss = {
    .is = &is,
    .options_size = sizeof(graph_options),
    .kind = &kind,
};
