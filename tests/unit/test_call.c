/* SPDX-License-Identifier: MIT
 *
 * Errors of a call: every status, with the input and the element that it names; functions called
 * out of order; invalid shapes; the text forms of options.
 */
#include "tests/run_call.h"

#include <locale.h>

static float logits[] = {1, 2, 3, 4, 5, 6};
static float nan_logits[] = {1, 2, 3, 4, NAN, 6};
static double wide[] = {1, 2, 3, 4, 5, 6};
static int64_t targets[] = {0, 2};
static int64_t bad_targets[] = {0, 3};
static int64_t zeros[] = {0, 0};
static float shares[] = {1, 0, 0, 0, 0, 1};
static float weights[] = {1, NAN, 1};
static float below[] = {-1, -2, 0.5F};
static float infinite[] = {1, 1, INFINITY};
static unsigned char mask[] = {1, 0};
static int64_t offsets[] = {0, 2, 1, 2};

#define F32(...)                                                                                   \
    {                                                                                              \
        logits, LK_F32, sizeof((int[]){__VA_ARGS__}) / sizeof(int),                                \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define OF(data, type, ...)                                                                        \
    {                                                                                              \
        data, type, sizeof((int[]){__VA_ARGS__}) / sizeof(int),                                    \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }

/* ------------------------------------------------------------------------------------- statuses */

typedef struct refusal {
    const char *loss;
    lk_named in[5];
    const char *options[5];
    const char *want[3];
    lk_status status;
    const char *input;
    int rank;
    int64_t index[LK_MAX_RANK];
} refusal;

#define LOGITS                                                                                     \
    {                                                                                              \
        "logits", F32(2, 3)                                                                        \
    }
#define TARGETS                                                                                    \
    {                                                                                              \
        "targets", OF(targets, LK_I64, 2)                                                          \
    }
#define SHARES                                                                                     \
    {                                                                                              \
        "targets", OF(shares, LK_F32, 2, 3)                                                        \
    }
#define CE .loss = "cross_entropy"
#define VECTORS                                                                                    \
    {"anchors", F32(2, 3)},                                                                        \
    {                                                                                              \
        "candidates", F32(2, 3)                                                                    \
    }
#define NCE .loss = "info_nce"

static const refusal refusals[] = {
    {CE, .in = {LOGITS}, .status = LK_MISSING_INPUT, .input = "targets"},
    {CE, .in = {TARGETS}, .status = LK_MISSING_INPUT, .input = "logits"},
    {CE, .in = {{"logit", F32(2, 3)}}, .status = LK_UNKNOWN_INPUT},
    {CE, .in = {LOGITS, TARGETS}, .options = {"reductions", "sum"}, .status = LK_UNKNOWN_OPTION},
    {CE, .in = {LOGITS, TARGETS}, .options = {"z_loss", "1", "z_loss", "1"},
     .status = LK_DUPLICATE_OPTION},
    {CE, .in = {LOGITS, TARGETS}, .want = {"loss", "loss"}, .status = LK_DUPLICATE_OPTION},
    {CE, .in = {LOGITS, TARGETS}, .want = {"grad"}, .status = LK_UNKNOWN_OUTPUT},
    {CE, .in = {LOGITS, TARGETS}, .want = {"grad.nothing"}, .status = LK_UNKNOWN_OUTPUT},
    {CE, .in = {LOGITS, TARGETS}, .want = {"grad.targets"}, .status = LK_UNKNOWN_OUTPUT,
     .input = "targets"},
    {CE, .in = {LOGITS, TARGETS}, .want = {"grad.class_weight"}, .status = LK_UNKNOWN_OUTPUT,
     .input = "class_weight"},
    {CE, .in = {LOGITS, SHARES}, .want = {"nll"}, .status = LK_UNKNOWN_OUTPUT},
    {CE, .in = {LOGITS, TARGETS}, .options = {"reduction", "average"}, .status = LK_OPTION_INVALID},
    {CE, .in = {LOGITS, TARGETS}, .options = {"z_loss", "1,5"}, .status = LK_OPTION_INVALID},
    {CE, .in = {{"logits", OF(targets, LK_I64, 2)}, TARGETS}, .status = LK_DTYPE_UNSUPPORTED,
     .input = "logits"},
    {CE, .in = {LOGITS, {"targets", OF(shares, LK_F32, 2)}}, .status = LK_DTYPE_UNSUPPORTED,
     .input = "targets"},
    {CE, .in = {LOGITS, {"targets", OF(wide, LK_F64, 2, 3)}}, .status = LK_DTYPE_UNSUPPORTED,
     .input = "targets"},
    {CE, .in = {LOGITS, {"targets", OF(targets, (lk_dtype)99, 2)}}, .status = LK_DTYPE_UNSUPPORTED,
     .input = "targets"},
    {CE, .in = {LOGITS, {"targets", {targets, LK_I64, 0, {0}}}}, .status = LK_RANK_MISMATCH,
     .input = "targets"},
    {CE, .in = {{"logits", {logits, LK_F32, 0, {0}}}, TARGETS}, .status = LK_RANK_MISMATCH,
     .input = "logits"},
    {CE, .in = {LOGITS, {"targets", OF(targets, LK_I64, 1)}}, .status = LK_SHAPE_MISMATCH,
     .input = "targets"},
    {CE, .in = {LOGITS, TARGETS, {"class_weight", F32(2)}}, .status = LK_SHAPE_MISMATCH,
     .input = "class_weight"},
    {CE, .in = {LOGITS, TARGETS, {"grad_output", F32(2)}}, .status = LK_RANK_MISMATCH,
     .input = "grad_output"},
    {CE, .in = {{"logits", F32(2, 0)}, TARGETS}, .status = LK_SHAPE_MISMATCH, .input = "logits"},
    {CE, .in = {LOGITS, TARGETS}, .options = {"label_smoothing", "1.5"},
     .status = LK_OPTION_OUT_OF_RANGE},
    {CE, .in = {LOGITS, TARGETS}, .options = {"num_items", "-1"}, .status = LK_OPTION_OUT_OF_RANGE},
    {CE, .in = {LOGITS, TARGETS}, .options = {"vocab_size", "4"}, .status = LK_OPTION_OUT_OF_RANGE},
    {CE, .in = {LOGITS, TARGETS}, .options = {"focal_gamma", "2", "label_smoothing", "0.1"},
     .status = LK_OPTION_CONFLICT},
    {CE, .in = {LOGITS, TARGETS}, .options = {"num_items", "5", "reduction", "sum"},
     .status = LK_OPTION_CONFLICT},
    {CE, .in = {LOGITS, TARGETS}, .options = {"num_items", "5", "reduction", "none"},
     .status = LK_OPTION_CONFLICT},
    {CE, .in = {LOGITS, TARGETS, {"class_weight", OF(weights, LK_F32, 3)}},
     .status = LK_WEIGHT_INVALID, .input = "class_weight", .rank = 1, .index = {1}},
    {CE, .in = {LOGITS, TARGETS, {"class_weight", OF(infinite, LK_F32, 3)}},
     .status = LK_WEIGHT_INVALID, .input = "class_weight", .rank = 1, .index = {2}},
    {NCE, .in = {VECTORS, {"guide_anchors", F32(2, 3)}}, .status = LK_MISSING_INPUT,
     .input = "guide_candidates"},
    {NCE, .in = {VECTORS, {"positive_index", OF(targets, LK_I64, 2)}}, .options = {"hardness", "1"},
     .status = LK_MISSING_INPUT, .input = "group"},
    {NCE, .in = {VECTORS}, .options = {"symmetric", "true", "self_margin", "0"},
     .status = LK_OPTION_CONFLICT},
    {NCE, .in = {VECTORS, {"group", OF(targets, LK_I64, 2)}}, .options = {"symmetric", "true"},
     .status = LK_OPTION_CONFLICT, .input = "group"},
    {NCE, .in = {VECTORS}, .options = {"directions", "query_to_query"},
     .status = LK_OPTION_CONFLICT},
    {NCE, .in = {VECTORS}, .options = {"directions", "query_to_doc,query_to_doc"},
     .status = LK_OPTION_INVALID},
    {NCE, .in = {VECTORS},
     .options = {"directions", "query_to_doc,doc_to_doc", "partition", "per_direction"},
     .status = LK_OPTION_CONFLICT},
    {NCE, .in = {VECTORS}, .options = {"label_smoothing", "0.1", "hardness", "1"},
     .status = LK_OPTION_CONFLICT},
    {NCE, .in = {VECTORS}, .options = {"self_margin", "-1"}, .status = LK_OPTION_OUT_OF_RANGE},
    {NCE, .in = {VECTORS, {"group", OF(targets, LK_I64, 2)}}, .status = LK_TARGET_OUT_OF_RANGE,
     .input = "group", .rank = 1, .index = {1}},
    {NCE, .in = {VECTORS, {"group", OF(zeros, LK_I64, 2)}}, .status = LK_OPTION_CONFLICT,
     .input = "group", .rank = 1, .index = {1}},
    {.loss = "mask_tokens",
     .in = {{"input_ids", OF(targets, LK_I64, 1, 2)}},
     .options = {"mask_token_id", "4", "selection", "diffusion"},
     .want = {"mask_prob", "loss"},
     .status = LK_UNKNOWN_OUTPUT},
    {.loss = "mask_tokens",
     .in = {{"input_ids", OF(targets, LK_I64, 1, 2)}},
     .options = {"selection", "diffusion", "random_high", "9"},
     .status = LK_MISSING_OPTION},
    {.loss = "huber",
     .in = {{"a", F32(1, 3)}, {"b", F32(1, 3)}, {"sample_weight", OF(weights, LK_F32, 1, 3)}},
     .status = LK_WEIGHT_INVALID,
     .input = "sample_weight",
     .rank = 2,
     .index = {0, 1}},
    {CE, .in = {LOGITS, {"targets", OF(bad_targets, LK_I64, 2)}}, .status = LK_TARGET_OUT_OF_RANGE,
     .input = "targets", .rank = 1, .index = {1}},
    {CE, .in = {LOGITS, TARGETS}, .options = {"vocab_size", "2"}, .status = LK_TARGET_OUT_OF_RANGE,
     .input = "targets", .rank = 1, .index = {1}},
    {CE, .in = {{"logits", OF(nan_logits, LK_F32, 2, 3)}, TARGETS},
     .options = {"nonfinite", "error"}, .status = LK_NONFINITE_INPUT, .input = "logits", .rank = 2,
     .index = {1, 1}},
    {.loss = "huber",
     .in = {{"a", F32(2, 3)}, {"b", OF(nan_logits, LK_F32, 2, 3)}},
     .options = {"nonfinite", "error"},
     .status = LK_NONFINITE_INPUT,
     .input = "b",
     .rank = 2,
     .index = {1, 1}},
    {CE, .in = {LOGITS, {"targets", {NULL, LK_I64, 1, {2}}}}, .status = LK_MISUSE},
    {.loss = "sequence_cross_entropy",
     .in = {{"logits", F32(1, 2, 3)}, {"targets", OF(targets, LK_I64, 1, 2)}},
     .want = {"bits_per_byte"},
     .status = LK_UNKNOWN_OUTPUT},
    {.loss = "sequence_cross_entropy",
     .in = {{"logits", F32(1, 2, 3)},
            {"targets", OF(targets, LK_I64, 1, 2)},
            {"lengths", OF(bad_targets + 1, LK_I64, 1)}},
     .status = LK_LENGTH_OUT_OF_RANGE,
     .input = "lengths",
     .rank = 1,
     .index = {0}},
    {.loss = "sequence_cross_entropy",
     .in = {{"logits", F32(2, 3)},
            {"targets", OF(targets, LK_I64, 2)},
            {"offsets", OF(offsets, LK_I64, 4)}},
     .status = LK_OFFSETS_INVALID,
     .input = "offsets",
     .rank = 1,
     .index = {2}},
    {.loss = "sequence_cross_entropy",
     .in = {{"logits", F32(2, 3)},
            {"targets", OF(targets, LK_I64, 2)},
            {"offsets", OF(offsets + 2, LK_I64, 2)}},
     .status = LK_OFFSETS_INVALID,
     .input = "offsets",
     .rank = 1,
     .index = {0}},
    {.loss = "token_logprobs",
     .in = {{"logits", F32(2, 3)},
            {"targets", OF(targets, LK_I64, 2)},
            {"offsets", OF(targets, LK_I64, 1)}},
     .status = LK_OFFSETS_INVALID,
     .input = "offsets",
     .rank = 1,
     .index = {0}},
    {.loss = "sequence_cross_entropy",
     .in = {{"logits", F32(2, 3)},
            {"targets", OF(targets, LK_I64, 2)},
            {"offsets", OF(targets, LK_I64, 2)},
            {"lengths", OF(targets, LK_I64, 1)}},
     .status = LK_OPTION_CONFLICT,
     .input = "lengths"},
    {.loss = "sequence_cross_entropy",
     .in = {{"logits", F32(2, 3)},
            {"targets", OF(targets, LK_I64, 2)},
            {"offsets", OF(targets, LK_I64, 2)},
            {"position_weight", F32(3)}},
     .status = LK_OPTION_CONFLICT,
     .input = "position_weight"},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 2)},
            {"advantages", F32(1)},
            {"offsets", OF(targets, LK_I64, 2)},
            {"is_weights", F32(1, 1)}},
     .status = LK_RANK_MISMATCH,
     .input = "is_weights"},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)}, {"advantages", F32(1, 2)}},
     .options = {"objective", "gmpo"},
     .status = LK_RANK_MISMATCH,
     .input = "advantages"},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)}, {"advantages", F32(1)}},
     .options = {"is_mode", "mask"},
     .status = LK_MISSING_INPUT,
     .input = "sampling_logprobs"},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)}, {"advantages", F32(1)}},
     .options = {"objective", "dro"},
     .status = LK_MISSING_OPTION},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)}, {"advantages", F32(1)}},
     .options = {"objective", "importance", "level", "sequence"},
     .status = LK_OPTION_CONFLICT},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)}, {"advantages", F32(1)}},
     .options = {"objective", "sapo", "level", "gspo_token"},
     .status = LK_OPTION_CONFLICT},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)}, {"advantages", F32(1)}},
     .options = {"num_items", "3"},
     .status = LK_OPTION_CONFLICT},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)}, {"advantages", F32(1)}},
     .options = {"is_low", "2", "is_high", "2"},
     .status = LK_OPTION_OUT_OF_RANGE},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(logits, LK_F32, 1, 2)}, {"advantages", F32(1)}},
     .options = {"objective", "dppo_kl"},
     .status = LK_VALUE_OUT_OF_RANGE,
     .input = "logprobs",
     .rank = 2,
     .index = {0, 0}},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)},
            {"advantages", F32(1)},
            {"is_weights", OF(below, LK_F32, 1, 2)}},
     .options = {"objective", "vespo"},
     .status = LK_WEIGHT_INVALID,
     .input = "is_weights",
     .rank = 2,
     .index = {0, 0}},
    {.loss = "dpo",
     .in = {{"chosen_logps", OF(below, LK_F32, 2)}, {"rejected_logps", OF(below, LK_F32, 2)}},
     .options = {"loss_type", "aot", "f_divergence", "js"},
     .status = LK_OPTION_CONFLICT},
    {.loss = "dpo",
     .in = {{"chosen_logps", OF(below, LK_F32, 2)}, {"rejected_logps", OF(below, LK_F32, 2)}},
     .options = {"loss_type", "apo_down", "f_divergence", "alpha"},
     .status = LK_OPTION_CONFLICT},
    {.loss = "dpo",
     .in = {{"chosen_logps", OF(below, LK_F32, 2)},
            {"rejected_logps", OF(below, LK_F32, 2)},
            {"pair_weight", F32(2)}},
     .options = {"loss_type", "aot_unpaired"},
     .status = LK_OPTION_CONFLICT,
     .input = "pair_weight"},
    {.loss = "dpo",
     .in = {{"chosen_logps", OF(below, LK_F32, 2)},
            {"rejected_logps", OF(below, LK_F32, 2)},
            {"pair_weight", OF(infinite + 1, LK_F32, 2)}},
     .status = LK_WEIGHT_INVALID,
     .input = "pair_weight",
     .rank = 1,
     .index = {1}},
    {.loss = "dpo",
     .in = {{"chosen_logps", OF(below, LK_F32, 2)}, {"rejected_logps", OF(below, LK_F32, 2)}},
     .options = {"loss_type", "aot", "label_smoothing", "0.6"},
     .status = LK_OPTION_OUT_OF_RANGE},
    {.loss = "kto",
     .in = {{"logps", OF(below, LK_F32, 2)}, {"labels", OF(mask, LK_BOOL, 2)}, {"kl", F32(1)}},
     .options = {"loss_type", "bco"},
     .status = LK_OPTION_CONFLICT,
     .input = "kl"},
    {.loss = "cpo",
     .in = {{"chosen_logps", OF(below, LK_F32, 2)}, {"rejected_logps", OF(below, LK_F32, 2)}},
     .options = {"loss_type", "hinge", "label_smoothing", "0.1"},
     .status = LK_OPTION_CONFLICT},
    {.loss = "simpo",
     .in = {{"chosen_logps", OF(below, LK_F32, 2)}, {"rejected_logps", OF(below, LK_F32, 2)}},
     .options = {"loss_type", "ipo"},
     .status = LK_OPTION_INVALID},
    {.loss = "value_clip",
     .in = {{"values", F32(2)}, {"returns", F32(2)}},
     .status = LK_MISSING_INPUT,
     .input = "old_values"},
    {CE, .in = {LOGITS, TARGETS}, .options = {"target_scaling", "1", "label_smoothing", "0.1"},
     .status = LK_OPTION_CONFLICT},
    {CE, .in = {LOGITS, TARGETS}, .options = {"target_scaling", "1", "focal_gamma", "1"},
     .status = LK_OPTION_CONFLICT},
    {CE, .in = {LOGITS, {"targets", F32(2, 3)}}, .options = {"target_scaling", "1"},
     .status = LK_OPTION_CONFLICT},
    {CE, .in = {LOGITS, TARGETS}, .options = {"target_scaling", "-1"},
     .status = LK_OPTION_OUT_OF_RANGE},
    {.loss = "orpo",
     .in = {{"chosen_logps", OF(below, LK_F32, 2)},
            {"rejected_logps", OF(below + 1, LK_F32, 2)},
            {"chosen_nll", F32(2)}},
     .status = LK_VALUE_OUT_OF_RANGE,
     .input = "rejected_logps",
     .rank = 1,
     .index = {1}},
    {.loss = "policy_gradient",
     .in = {{"logprobs", OF(below, LK_F32, 1, 2)},
            {"old_logprobs", OF(below, LK_F32, 1, 2)},
            {"advantages", F32(1)},
            {"mask", OF(mask, LK_BOOL, 1, 2)}},
     .options = {"aggregation", "max_length"},
     .status = LK_MISSING_OPTION},
    /* Not errors: the invalid values of the cases above are masked, or in rows that are not read.
     */
    {CE, .in = {LOGITS, {"targets", OF(bad_targets, LK_I64, 2)}, {"mask", OF(mask, LK_BOOL, 2)}},
     .status = LK_OK},
    {CE, .in = {{"logits", OF(nan_logits, LK_F32, 2, 3)}, TARGETS, {"mask", OF(mask, LK_U8, 2)}},
     .options = {"nonfinite", "error"}, .status = LK_OK},
    {CE, .in = {LOGITS, {"targets", OF(bad_targets, LK_I64, 2)}}, .options = {"ignore_index", "3"},
     .status = LK_OK},
    {CE, .in = {LOGITS, TARGETS}, .options = {"num_items", "off", "reduction", "sum"}},
    {CE, .in = {LOGITS, TARGETS, {"grad_output", F32(1)}}, .status = LK_OK},
};

/* Run a whole evaluation until a step fails. */
static lk_status whole_call(const refusal *r, lk_error *error)
{
    static double room[8][64];
    lk_status status = LK_OK;
    lk_call *call = lk_call_new(lk_loss_find(r->loss));
    assert_non_null(call);
    for (int i = 0; r->in[i].name && status == LK_OK; i++)
        status = lk_call_input(call, r->in[i].name, &r->in[i].tensor, error);
    for (int i = 0; r->options[i] && status == LK_OK; i += 2)
        status = lk_call_option(call, r->options[i], r->options[i + 1], error);
    for (int i = 0; i < 3 && r->want[i] && status == LK_OK; i++)
        status = lk_call_want(call, r->want[i], error);
    if (status == LK_OK)
        status = lk_call_check(call, error);
    for (int i = 0; status == LK_OK && i < lk_call_outputs(call); i++)
        status = lk_call_bind(call, i, room[i]);
    if (status == LK_OK)
        status = lk_call_plan(call, error);
    if (status == LK_OK) {
        const size_t size = (lk_call_scratch(call) + 63) / 64 * 64;
        void *scratch = size ? aligned_alloc(64, size) : NULL;
        lk_call_run(call, 0, lk_call_blocks(call), scratch);
        free(scratch);
        status = lk_call_finish(call, error);
    }
    lk_call_free(call);
    return status;
}

static bool seen[LK_STATUS_COUNT];

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *r = &refusals[i];
        lk_error error = {0};
        lk_status status = whole_call(r, &error);
        seen[status] = true;
        if (status != r->status)
            print_error("case %zu: %s\n", i, error.text);
        assert_int_equal(status, r->status);
        assert_int_equal(whole_call(r, NULL), r->status);
        if (status == LK_OK)
            continue;
        assert_int_equal(error.status, status);
        assert_string_equal(error.input, r->input ? r->input : "");
        assert_int_equal(error.rank, r->rank);
        assert_memory_equal(error.index, r->index, sizeof error.index);
        size_t length = strlen(error.text);
        assert_true(length > 10);
        assert_true(error.text[length - 1] != '.' || strstr(error.text, ", ..."));
    }
}

/* Memory exhausted: a weight of 2^50 elements, none of which is read, would have to be converted.
 */
static void test_no_memory(void **state)
{
    (void)state;
    if (SANITIZED) /* which stop the program instead */
        skip();
    const int64_t many = INT64_C(1) << 50;
    const refusal r = {.loss = "huber",
                       .in = {{"a", {logits, LK_F32, 1, {many}}},
                              {"b", {logits, LK_F32, 1, {many}}},
                              {"sample_weight", {wide, LK_F64, 1, {many}}}}};
    lk_error error = {0};
    assert_int_equal(whole_call(&r, &error), LK_NO_MEMORY);
    assert_string_equal(error.input, "sample_weight");
    seen[LK_NO_MEMORY] = true;
}

static lk_call *filled(void)
{
    lk_tensor x = lk_matrix(LK_F32, logits, 2, 3), y = lk_vector(LK_I64, targets, 2);
    lk_call *call = lk_call_new(lk_loss_find("cross_entropy"));
    assert_non_null(call);
    assert_int_equal(lk_call_input(call, "logits", &x, NULL), LK_OK);
    assert_int_equal(lk_call_input(call, "targets", &y, NULL), LK_OK);
    return call;
}

static void test_evaluate(void **state)
{
    (void)state;
    float loss, gradient[6];
    double loss_wide;
    lk_named in[] = {LOGITS, TARGETS, {0}};
    lk_error error = {0};
#define EVALUATE(...) lk_evaluate("cross_entropy", NULL, in, (lk_named[]){__VA_ARGS__, {0}}, &error)
    assert_int_equal(EVALUATE({"loss", OF(&loss, LK_F32, 1)}), LK_SHAPE_MISMATCH);
    assert_int_equal(EVALUATE({"loss", lk_scalar(LK_F64, &loss_wide)}), LK_DTYPE_UNSUPPORTED);
    assert_int_equal(EVALUATE({"loss", lk_scalar((lk_dtype)99, &loss)}), LK_DTYPE_UNSUPPORTED);
    assert_int_equal(EVALUATE({"grad.logits", lk_matrix(LK_F32, gradient, 3, 2)}),
                     LK_SHAPE_MISMATCH);
    lk_tensor deep = {gradient, LK_F32, 9, {1, 1, 1, 1, 1, 1, 2, 3}};
    assert_int_equal(EVALUATE({"grad.logits", deep}), LK_SHAPE_MISMATCH);
    deep.rank = 1000000;
    assert_int_equal(EVALUATE({"grad.logits", deep}), LK_SHAPE_MISMATCH);
    deep.rank = -1;
    assert_int_equal(EVALUATE({"grad.logits", deep}), LK_SHAPE_MISMATCH);
    assert_int_equal(EVALUATE({"loss", lk_scalar(LK_F32, NULL)}), LK_MISUSE);
    assert_int_equal(EVALUATE({"lossy", lk_scalar(LK_F32, &loss)}), LK_UNKNOWN_OUTPUT);
    assert_int_equal(EVALUATE({"loss", lk_scalar(LK_F32, &loss)},
                              {"grad.logits", lk_matrix(LK_F32, gradient, 2, 3)}),
                     LK_OK);
    /* log(e^-2 + e^-1 + 1), plus 2 and 0, halved */
    assert_true(fabsf(loss - 1.4076060F) < 1e-6F);
    assert_true(fabsf(gradient[5] - (0.66524096F - 1) / 2) < 1e-6F);
#undef EVALUATE
    assert_int_equal(lk_evaluate("huber", NULL, in, NULL, &error), LK_MISUSE);
    assert_int_equal(lk_evaluate("nothing", NULL, NULL, NULL, &error), LK_UNKNOWN_LOSS);
    assert_int_equal(lk_evaluate("nothing", NULL, NULL, NULL, NULL), LK_UNKNOWN_LOSS);
    seen[LK_UNKNOWN_LOSS] = true;
}

/* Names of parts; only composites have parts. */
static void test_names(void **state)
{
    (void)state;
    static const char *const wrong[] = {"", "7", "a.b", "a b", "a23456789_123456789_123456789_12"};
    lk_error error;
    lk_call *call = lk_call_new(lk_loss_find("composite")), *plain = filled();
    assert_int_equal(lk_call_part_name(call, "a", &error), LK_MISUSE);
    assert_int_equal(lk_call_part_unweighted(call, "mse", &error), LK_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(lk_call_part_name(call, wrong[i], &error), LK_GRAPH_INVALID);
    assert_int_equal(lk_call_part_name(call, "a23456789_123456789_123456789_1", &error), LK_OK);
    assert_int_equal(lk_call_defer(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_part_name(plain, "a", NULL), LK_MISUSE);
    assert_int_equal(lk_call_part_unweighted(plain, "mse", NULL), LK_MISUSE);
    seen[LK_GRAPH_INVALID] = true;
    lk_call_free(call);
    lk_call_free(plain);
}

/* Statuses that no loss returns so far. When one does, it needs a case above. */
static void test_all_seen(void **state)
{
    (void)state;
    static const lk_status unreachable[] = {LK_MISSING_OPTION, LK_TARGET_UNREACHABLE,
                                            LK_VALUE_OUT_OF_RANGE};
    for (size_t i = 0; i < sizeof unreachable / sizeof *unreachable; i++)
        seen[unreachable[i]] = true;
    if (SANITIZED)
        seen[LK_NO_MEMORY] = true;
    for (int i = 0; i < LK_STATUS_COUNT; i++) {
        if (!seen[i])
            print_error("%s was never given\n", lk_status_name((lk_status)i));
        assert_true(seen[i]);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(lk_status_name((lk_status)i), lk_status_name((lk_status)k));
    }
    assert_string_equal(lk_status_name(LK_STATUS_COUNT), "unknown_status");
    assert_string_equal(lk_status_name((lk_status)-1), "unknown_status");
}

/* ------------------------------------------------------------------------------------- order -- */

/* Functions that must be refused after the check. */
static void assert_closed(lk_call *call)
{
    lk_tensor x = lk_matrix(LK_F32, logits, 2, 3);
    lk_error error = {0};
    assert_int_equal(lk_call_input(call, "logits", &x, &error), LK_MISUSE);
    assert_int_equal(error.status, LK_MISUSE);
    assert_int_equal(lk_call_option(call, "reduction", "sum", &error), LK_MISUSE);
    assert_int_equal(lk_call_want(call, "loss", &error), LK_MISUSE);
}

static void test_order(void **state)
{
    (void)state;
    static _Alignas(64) char scratch[16 * 1024];
    float loss = 0, gradient[6];
    lk_tensor out;
    lk_error error;
    lk_call_free(NULL);

    lk_call *call = filled();
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_MISUSE);
    assert_int_equal(lk_call_data(call, "logits", logits), LK_MISUSE);
    assert_int_equal(lk_call_finish(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_outputs(call), 0);
    assert_null(lk_call_output(call, 0, &out));
    assert_null(lk_call_in_place(call, 0));
    assert_int_equal(lk_call_blocks(call), 0);
    assert_int_equal(lk_call_scratch(call), 0);
    lk_call_run(call, 0, 1, NULL);

    assert_int_equal(lk_call_check(call, &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    assert_closed(call);
    assert_int_equal(lk_call_outputs(call), 2);
    assert_string_equal(lk_call_output(call, 0, &out), "loss");
    assert_int_equal(out.rank, 0);
    assert_string_equal(lk_call_output(call, 1, NULL), "grad.logits");
    assert_null(lk_call_output(call, 2, &out));
    assert_null(lk_call_output(call, -1, &out));
    assert_null(lk_call_in_place(call, 0));
    assert_ptr_equal(lk_call_in_place(call, 1)->data, logits);
    assert_null(lk_call_tensor(call, "mask"));
    assert_null(lk_call_tensor(call, "nothing"));
    assert_int_equal(lk_call_dtypes(call, "targets"), LK_INDICES | LK_FLOATS);
    assert_int_equal(lk_call_dtypes(call, "mask"), LK_MASKS);
    assert_int_equal(lk_call_dtypes(call, "nothing"), 0);
    assert_int_equal(lk_call_tensor(call, "logits")->shape[1], 3);
    assert_int_equal(lk_call_finish(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_data(call, "mask", mask), LK_MISUSE);
    assert_int_equal(lk_call_data(call, "nothing", mask), LK_MISUSE);
    assert_int_equal(lk_call_bind(call, 2, &loss), LK_MISUSE);
    assert_int_equal(lk_call_bind(call, -1, &loss), LK_MISUSE);
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_MISUSE); /* one is not bound */
    assert_int_equal(lk_call_bind(call, 1, gradient), LK_OK);

    assert_int_equal(lk_call_plan(call, &error), LK_OK);
    assert_closed(call);
    assert_int_equal(lk_call_plan(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_check(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_MISUSE);
    assert_int_equal(lk_call_data(call, "logits", logits), LK_MISUSE);
    assert_int_equal(lk_call_blocks(call), 1);
    assert_in_range(lk_call_scratch(call), 1, sizeof scratch);
    lk_call_run(call, 0, 1, scratch);
    assert_int_equal(lk_call_finish(call, &error), LK_OK);
    assert_int_equal(lk_call_finish(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_plan(call, &error), LK_MISUSE);
    assert_closed(call);
    float before = loss;
    lk_call_run(call, 0, 1, scratch);
    assert_true(loss == before);
    lk_call_free(call);

    call = filled();
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_OK);
    assert_int_equal(lk_call_bind(call, 1, gradient), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_OK);
    lk_call_run(call, 0, 1, NULL);
    assert_int_equal(lk_call_finish(call, &error), LK_MISUSE);
    assert_non_null(strstr(error.text, "scratch"));
    lk_call_free(call);
}

/* Deferred gradients: once, after the values. */
static void test_deferred(void **state)
{
    (void)state;
    static _Alignas(64) char scratch[16 * 1024];
    float loss = 0, gradient[6], upstream = 0;
    lk_tensor up = lk_scalar(LK_F32, &upstream);
    lk_error error;
    lk_call *call = filled();
    assert_int_equal(lk_call_input(call, "grad_output", &up, &error), LK_OK);
    assert_int_equal(lk_call_backward(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_defer(call, &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    assert_int_equal(lk_call_defer(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_MISUSE); /* the gradient is not bound */
    assert_int_equal(lk_call_bind(call, 1, gradient), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_OK);
    lk_call_run(call, 0, 1, scratch);
    assert_int_equal(lk_call_backward(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_finish(call, &error), LK_OK);
    assert_true(fabsf(loss - 1.4076060F) < 1e-6F);
    upstream = loss;
    assert_int_equal(lk_call_backward(call, &error), LK_OK);
    lk_call_run(call, 0, 1, scratch);
    assert_int_equal(lk_call_finish(call, &error), LK_OK);
    assert_true(fabsf(gradient[5] - loss * (0.66524096F - 1) / 2) < 1e-6F);
    assert_int_equal(lk_call_backward(call, &error), LK_MISUSE);
    assert_int_equal(lk_call_finish(call, &error), LK_MISUSE);
    lk_call_free(call);
}

/* Gradients that gather from all rows have passes of their own, which also need scratch buffers. */
static void test_passes_need_scratch(void **state)
{
    (void)state;
    float value, grad_a[8], grad_b[8];
    float a[] = {1, 0, 0, 1, 1, 1, 0, 2}, b[] = {1, 1, 0, 1, 1, 0, 2, 1};
    lk_error error;
    const lk_tensor anchors = lk_matrix(LK_F32, a, 4, 2), candidates = lk_matrix(LK_F32, b, 4, 2);
    void *outputs[] = {&value, grad_a, grad_b};
    lk_call *call = lk_call_new(lk_loss_find("info_nce"));
    assert_non_null(call);
    assert_int_equal(lk_call_input(call, "anchors", &anchors, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "candidates", &candidates, &error), LK_OK);
    assert_int_equal(lk_call_want(call, "loss", &error), LK_OK);
    assert_int_equal(lk_call_want(call, "grad.anchors", &error), LK_OK);
    assert_int_equal(lk_call_want(call, "grad.candidates", &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(lk_call_bind(call, i, outputs[i]), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_OK);
    void *scratch = aligned_alloc(64, (lk_call_scratch(call) + 63) / 64 * 64);
    assert_non_null(scratch);
    lk_call_run(call, 0, lk_call_blocks(call), scratch);
    assert_true(lk_call_next(call));
    do
        lk_call_run(call, 0, lk_call_blocks(call), NULL);
    while (lk_call_next(call));
    assert_int_equal(lk_call_finish(call, &error), LK_MISUSE);
    free(scratch);
    lk_call_free(call);
}

/* A plan that was refused for its numbers may be made again with others, and means the same as one
 * that never was refused. */
static void test_plan_again(void **state)
{
    (void)state;
    static _Alignas(64) char scratch[16 * 1024];
    double w[] = {1, 2, 3}, loss[2];
    int64_t y[] = {0, 7};
    for (int again = 0; again < 2; again++) {
        lk_error error;
        lk_call *call = filled();
        lk_tensor weight = lk_vector(LK_F64, w, 3), target = lk_vector(LK_I64, y, 2);
        float value;
        int64_t rows;
        assert_int_equal(lk_call_input(call, "class_weight", &weight, NULL), LK_OK);
        assert_int_equal(lk_call_input(call, "targets", &target, NULL), LK_OK);
        assert_int_equal(lk_call_option(call, "label_smoothing", "0.5", NULL), LK_OK);
        assert_int_equal(lk_call_want(call, "loss", NULL), LK_OK);
        assert_int_equal(lk_call_want(call, "count", NULL), LK_OK);
        assert_int_equal(lk_call_check(call, &error), LK_OK);
        assert_int_equal(lk_call_bind(call, 0, &value), LK_OK);
        assert_int_equal(lk_call_bind(call, 1, &rows), LK_OK);
        w[2] = again ? 3 : (double)NAN;
        if (!again)
            assert_int_equal(lk_call_plan(call, &error), LK_WEIGHT_INVALID);
        w[2] = 3;
        y[1] = 7;
        if (!again)
            assert_int_equal(lk_call_plan(call, &error), LK_TARGET_OUT_OF_RANGE);
        y[1] = 2;
        assert_int_equal(lk_call_plan(call, &error), LK_OK);
        lk_call_run(call, 0, lk_call_blocks(call), scratch);
        assert_int_equal(lk_call_finish(call, &error), LK_OK);
        assert_int_equal(rows, 2);
        loss[again] = (double)value;
        lk_call_free(call);
    }
    assert_true(loss[0] == loss[1]);
}

/* A failed check leaves the call unchanged. */
static void test_check_again(void **state)
{
    (void)state;
    lk_call *call = filled();
    lk_tensor y = lk_vector(LK_I64, targets, 2), soft = lk_matrix(LK_F32, shares, 2, 3);
    assert_int_equal(lk_call_option(call, "poly1", "1", NULL), LK_OK);
    assert_int_equal(lk_call_input(call, "targets", &soft, NULL), LK_OK);
    assert_int_equal(lk_call_check(call, NULL), LK_OPTION_CONFLICT);
    assert_int_equal(lk_call_input(call, "targets", &y, NULL), LK_OK);
    assert_int_equal(lk_call_want(call, "loss", NULL), LK_OK);
    assert_int_equal(lk_call_check(call, NULL), LK_OK);
    assert_int_equal(lk_call_outputs(call), 1);
    lk_call_free(call);
}

/* ------------------------------------------------------------------------------------- shapes - */

static void test_shapes(void **state)
{
    (void)state;
    lk_tensor t = {logits, LK_F32, 9, {1, 1, 1, 1, 1, 1, 1, 1}};
    lk_error error;
    lk_call *call = lk_call_new(lk_loss_find("huber"));
    assert_non_null(call);
    assert_int_equal(lk_tensor_count(&t), -1);
    assert_int_equal(lk_call_input(call, "a", &t, &error), LK_SHAPE_MISMATCH);
    assert_string_equal(error.input, "a");
    t.rank = -1;
    assert_int_equal(lk_tensor_count(&t), -1);
    t.rank = 8;
    assert_int_equal(lk_tensor_count(&t), 1);
    t.shape[3] = -2;
    assert_int_equal(lk_tensor_count(&t), -1);
    assert_int_equal(lk_call_input(call, "a", &t, &error), LK_SHAPE_MISMATCH);
    t.shape[4] = -2; /* two signs do not cancel */
    assert_int_equal(lk_tensor_count(&t), -1);
    t.shape[4] = t.shape[3] = 1;
    t.shape[0] = t.shape[7] = INT64_C(1) << 32;
    assert_int_equal(lk_tensor_count(&t), -1);
    t.shape[0] = 1 << 28;
    assert_int_equal(lk_tensor_count(&t), -1); /* 2^60 elements: 2^63 bytes */
    t.shape[0] = 1 << 27;
    assert_int_equal(lk_tensor_count(&t), INT64_C(1) << 59);
    t.shape[1] = 0;
    assert_int_equal(lk_tensor_count(&t), 0);
    t.shape[2] = INT64_MAX; /* beside a 0 it may be any */
    assert_int_equal(lk_tensor_count(&t), 0);
    t.shape[3] = -1;
    assert_int_equal(lk_tensor_count(&t), -1);
    lk_call_free(call);

    lk_tensor s = lk_scalar(LK_F64, wide);
    assert_int_equal(lk_tensor_count(&s), 1);
    s = lk_vector(LK_F64, wide, 0);
    assert_int_equal(lk_tensor_count(&s), 0);
}

/* Rank 8, all of them leading sizes. */
static void test_deepest(void **state)
{
    (void)state;
    float out[6];
    lk_tensor t = {logits, LK_F32, 8, {1, 1, 2, 1, 1, 3, 1, 1}}, to = t;
    to.data = out;
    lk_named in[] = {{"a", t}, {"b", t}, {0}}, outputs[] = {{"loss", to}, {0}};
    const char *options[] = {"reduction", "none", NULL};
    lk_error error;
    assert_int_equal(lk_evaluate("huber", options, in, outputs, &error), LK_OK);
    assert_true(out[5] == 0);
}

static void test_dtypes(void **state)
{
    (void)state;
#define CHECK(NAME, word, bytes)                                                                   \
    assert_int_equal(lk_dtype_size(LK_##NAME), bytes);                                             \
    assert_string_equal(lk_dtype_name(LK_##NAME), #word);
    LK_DTYPES(CHECK)
#undef CHECK
    assert_int_equal(lk_dtype_size(LK_ANY), 0);
    assert_string_equal(lk_dtype_name(LK_ANY), "any");
    assert_int_equal(lk_dtype_size((lk_dtype)-1), 0);
    assert_string_equal(lk_dtype_name((lk_dtype)77), "any");
    assert_string_equal(lk_version(), LK_VERSION);
}

/* Types left open: the primary's own or f32, then whatever the form has. */
static void test_any(void **state)
{
    (void)state;
    lk_call *call = lk_call_new(lk_loss_find("cross_entropy"));
    lk_tensor x = lk_matrix(LK_ANY, NULL, 2, 3), y = lk_vector(LK_ANY, NULL, 2);
    assert_non_null(call);
    assert_int_equal(lk_call_input(call, "logits", &x, NULL), LK_OK);
    assert_int_equal(lk_call_input(call, "targets", &y, NULL), LK_OK);
    assert_int_equal(lk_call_input(call, "mask", &y, NULL), LK_OK);
    assert_int_equal(lk_call_input(call, "sample_weight", &y, NULL), LK_OK);
    assert_int_equal(lk_call_check(call, NULL), LK_OK);
    assert_int_equal(lk_call_tensor(call, "logits")->dtype, LK_F32);
    assert_int_equal(lk_call_tensor(call, "targets")->dtype, LK_I64);
    assert_int_equal(lk_call_tensor(call, "mask")->dtype, LK_BOOL);
    assert_int_equal(lk_call_tensor(call, "sample_weight")->dtype, LK_F32);
    assert_int_equal(lk_call_plan(call, NULL), LK_MISUSE); /* no data */
    lk_call_free(call);
}

/* ----------------------------------------------------------------------------- text of options  */

/* Huber's loss of 10 is delta (10 - delta/2), which shows how delta was parsed; -1 if it was
 * refused. */
static double with_delta(const char *text)
{
    double a = 10, b = 0, loss = -1;
    lk_named in[] = {{"a", lk_scalar(LK_F64, &a)}, {"b", lk_scalar(LK_F64, &b)}, {0}};
    lk_named out[] = {{"loss", lk_scalar(LK_F64, &loss)}, {0}};
    const char *options[] = {"delta", text, NULL};
    return lk_evaluate("huber", options, in, out, NULL) == LK_OK ? loss : -1;
}

static void assert_numbers(void)
{
    assert_true(with_delta("0.1") == 0.1 * (10 - 0.5 * 0.1));
    assert_true(with_delta("1e-1") == 0.1 * (10 - 0.5 * 0.1));
    assert_true(with_delta("0,1") == -1);
    assert_true(with_delta("1,000.5") == -1);
}

/* The decimal point is a point wherever the program runs: also where the locale has a comma, which
 * is tried if such a locale is there. */
static void test_locale(void **state)
{
    (void)state;
    static const char *const commas[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8"};
    assert_numbers();
    for (size_t i = 0; i < sizeof commas / sizeof *commas; i++) {
        if (!setlocale(LC_NUMERIC, commas[i]))
            continue;
        assert_numbers();
        setlocale(LC_NUMERIC, "C");
        return;
    }
    print_message("no locale with a decimal comma here: checked in the C locale alone\n");
}

/* The shape that a pattern stands for where the size named `none` is 0 and no other has a bound;
 * `*` is one size then, and named '*'. */
static lk_tensor claim(const char *pattern, char none)
{
    lk_tensor t = {.dtype = LK_ANY};
    for (; *pattern != '\0'; pattern += strcspn(pattern, " "), pattern += strspn(pattern, " "))
        t.shape[t.rank++] = *pattern == none ? 0 : *pattern == '1' ? 1 : INT64_MAX;
    return t;
}

/* An empty tensor may claim any size beside its 0: nothing is computed of it that overflows. */
static void test_claims(void **state)
{
    (void)state;
    int evaluated = 0;
    char nothing[64];
    for (int l = 0; l < lk_loss_count(); l++) {
        const lk_description *is = lk_loss_describe(lk_loss_at(l));
        for (const char *none = "*ABCDEFGHIJKLMNOPQRSTUVWXYZ"; *none != '\0'; none++) {
            lk_error error;
            lk_status status = LK_OK;
            lk_call *call = lk_call_new(lk_loss_at(l));
            for (const lk_input *in = is->inputs; in->name && status == LK_OK; in++) {
                const lk_tensor t = claim(in->forms[0].shape, *none);
                if (!(in->flags & LK_OPTIONAL))
                    status = lk_call_input(call, in->name, &t, &error);
            }
            if (status == LK_OK)
                status = lk_call_check(call, &error);
            for (int i = 0; i < lk_call_outputs(call); i++)
                assert_int_equal(lk_call_bind(call, i, nothing), LK_OK);
            if (status == LK_OK && lk_call_plan(call, &error) == LK_OK) {
                assert_in_range(lk_call_memory(call) + lk_call_scratch(call), 0, 1 << 20);
                void *scratch = aligned_alloc(64, (lk_call_scratch(call) + 64) / 64 * 64);
                do
                    lk_call_run(call, 0, lk_call_blocks(call), scratch);
                while (lk_call_next(call));
                assert_int_equal(lk_call_finish(call, &error), LK_OK);
                free(scratch);
                evaluated++;
            }
            lk_call_free(call);
        }
    }
    assert_true(evaluated > 20);
}

/* What has one for each sequence, beside rows that are none: what is missing is said, not that its
 * shape must be []. */
static void test_sequences(void **state)
{
    (void)state;
    static const struct {
        const char *loss, *input;
        lk_dtype type;
    } cases[] = {{"linear_cross_entropy", "lengths", LK_I64},
                 {"linear_token_logprobs", "grad_sequence_logprobs", LK_F32},
                 {"linear_token_logprobs", "grad_mean_logprobs", LK_F32}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        lk_error error;
        char text[200];
        const lk_named in[] = {{"hidden", F32(2, 3)},
                               {"weight", F32(2, 3)},
                               {"targets", OF(targets, LK_I64, 2)},
                               {cases[k].input, OF(targets, cases[k].type, 2)},
                               {NULL}};
        float loss;
        const lk_named out[] = {{"loss", lk_scalar(LK_F32, &loss)}, {NULL}};
        assert_int_equal(lk_evaluate(cases[k].loss, NULL, in, out, &error), LK_RANK_MISMATCH);
        assert_string_equal(error.input, cases[k].input);
        snprintf(
            text, sizeof text,
            "%s needs sequences, which hidden of shape [2,3] has not; it must have [B,T,D], or "
            "there must be offsets",
            cases[k].input);
        assert_string_equal(error.text, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_evaluate),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_all_seen),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_deferred),
        cmocka_unit_test(test_passes_need_scratch),
        cmocka_unit_test(test_plan_again),
        cmocka_unit_test(test_check_again),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_deepest),
        cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_any),
        cmocka_unit_test(test_locale),
        cmocka_unit_test(test_claims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
