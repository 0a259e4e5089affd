/* SPDX-License-Identifier: MIT
 *
 * The work of a call: what it costs, how it is divided into blocks, and what memory it takes.
 */
#include "tests/run_call.h"

/* The cost is about the elements that are processed, whatever is made of them. */
static int64_t cost_of(const char *loss, const char *a, const char *b, int64_t rows, int64_t size)
{
    lk_error error;
    lk_call *call = lk_call_new(lk_loss_find(loss));
    const lk_tensor x = lk_matrix(LK_F32, NULL, rows, size);
    const lk_tensor y = strcmp(b, "targets") == 0 ? lk_vector(LK_I64, NULL, rows) : x;
    assert_int_equal(lk_call_cost(call), 0);
    assert_int_equal(lk_call_input(call, a, &x, &error), LK_OK);
    assert_int_equal(lk_call_input(call, b, &y, &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    const int64_t cost = lk_call_cost(call);
    lk_call_free(call);
    return cost;
}

static void test_cost(void **state)
{
    (void)state;
    assert_in_range(cost_of("cross_entropy", "logits", "targets", 32, 128), 4096, 3 * 4096);
    assert_in_range(cost_of("cross_entropy", "logits", "targets", 128, 50257), 128 * 50257,
                    2 * 128 * 50257);
    assert_in_range(cost_of("mse", "a", "b", 64, 64), 100, 4096);
    /* Each of 1024 rows with each of the others, and a pass for either gradient. */
    assert_in_range(cost_of("info_nce", "anchors", "candidates", 1024, 16), 1 << 20, 1 << 24);
    /* An empty tensor may claim sizes whose product overflows. */
    assert_true(cost_of("cross_entropy", "logits", "targets", 0, INT64_MAX / 64) >= 0);
}

/* The cost of what is mostly matrix products grows with them, 64 of two numbers to an element. */
static void test_cost_of_products(void **state)
{
    enum { TENSORS = 3 };
    static const struct {
        const char *loss, *names[TENSORS];
        int64_t shapes[TENSORS][4]; /* rank first; of rank 1: integers */
        double products;
    } cases[] = {
        {"info_nce",
         {"anchors", "candidates"},
         {{2, 1024, 768}, {2, 2048, 768}},
         3.0 * 1024 * 2048 * 768},
        {"supcon", {"embeddings", "labels"}, {{2, 2048, 768}, {1, 2048}}, 1.5 * 2048 * 2048 * 768},
        {"margin_softmax",
         {"embeddings", "prototypes", "targets"},
         {{2, 64, 512}, {2, 10000, 512}, {1, 64}},
         3.0 * 64 * 10000 * 512},
        {"siglip", {"a", "b"}, {{2, 512, 512}, {2, 512, 512}}, 3.0 * 512 * 512 * 512},
        {"late_interaction",
         {"queries", "documents"},
         {{3, 16, 32, 128}, {3, 32, 180, 128}},
         16.0 * 32 * 32 * 180 * 128},
        {"linear_cross_entropy",
         {"hidden", "weight", "targets"},
         {{2, 8, 768}, {2, 50257, 768}, {1, 8}},
         2.0 * 8 * 50257 * 768},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lk_error error;
        lk_call *call = lk_call_new(lk_loss_find(cases[i].loss));
        for (int k = 0; k < TENSORS && cases[i].names[k]; k++) {
            const int64_t *shape = cases[i].shapes[k];
            lk_tensor t = {.dtype = shape[0] == 1 ? LK_I64 : LK_F32, .rank = (int)shape[0]};
            for (int axis = 0; axis < t.rank; axis++)
                t.shape[axis] = shape[1 + axis];
            assert_int_equal(lk_call_input(call, cases[i].names[k], &t, &error), LK_OK);
        }
        assert_int_equal(lk_call_check(call, &error), LK_OK);
        const double cost = (double)lk_call_cost(call), elements = cases[i].products / 64;
        if (cost < elements || cost > 3 * elements)
            fail_msg("%s: %.0f, of %.0f elements' worth of products", cases[i].loss, cost,
                     elements);
        lk_call_free(call);
    }
}

/* A linear head's weight is read in each run: one of few rows is not worth it, but for a second
 * thread. */
static int64_t blocks_of(int64_t rows, int64_t classes)
{
    static float hidden[200], weight[1 << 16];
    static int64_t tokens[200];
    float value;
    lk_error error;
    lk_call *call = lk_call_new(lk_loss_find("linear_cross_entropy"));
    const lk_tensor x = lk_matrix(LK_F32, hidden, rows, 1);
    const lk_tensor w = lk_matrix(LK_F32, weight, classes, 1);
    const lk_tensor y = lk_vector(LK_I64, tokens, rows);
    assert_int_equal(lk_call_input(call, "hidden", &x, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "weight", &w, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "targets", &y, &error), LK_OK);
    assert_int_equal(lk_call_want(call, "loss", &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    assert_int_equal(lk_call_bind(call, 0, &value), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_OK);
    const int64_t blocks = lk_call_blocks(call);
    lk_call_free(call);
    return blocks;
}

/* The scores of few rows are made ahead, some classes at a time: the same bits as among more rows.
 */
static void test_head_ahead(void **state)
{
    enum { ROWS = 40, FEW = 13, CLASSES = 3001, DEPTH = 37 };
    static float hidden[ROWS * DEPTH], weight[CLASSES * DEPTH], bias[CLASSES], norm[DEPTH];
    static float loss[2][ROWS], grads[2][ROWS * DEPTH];
    static int64_t targets[ROWS];
    (void)state;
    for (int i = 0; i < ROWS * DEPTH; i++)
        hidden[i] = (float)(i * 7919 % 1009) / 500 - 1;
    for (int i = 0; i < CLASSES * DEPTH; i++)
        weight[i] = (float)(i % 9973 * 31 % 997) / 500 - 1;
    for (int i = 0; i < CLASSES; i++)
        bias[i] = (float)(i % 17) / 16;
    for (int i = 0; i < DEPTH; i++)
        norm[i] = (float)(1 + i % 3);
    for (int i = 0; i < ROWS; i++)
        targets[i] = i % 5 == 4 ? -100 : i * 71;
    for (int few = 0; few < 2; few++) {
        lk_error error;
        lk_call *call = lk_call_new(lk_loss_find("linear_cross_entropy"));
        const int64_t rows = few ? FEW : ROWS;
        const lk_tensor t[] = {lk_matrix(LK_F32, hidden, rows, DEPTH),
                               lk_matrix(LK_F32, weight, CLASSES, DEPTH),
                               lk_vector(LK_F32, bias, CLASSES), lk_vector(LK_F32, norm, DEPTH),
                               lk_vector(LK_I64, targets, rows)};
        static const char *const names[] = {"hidden", "weight", "bias", "norm_weight", "targets"};
        for (int i = 0; i < 5; i++)
            assert_int_equal(lk_call_input(call, names[i], &t[i], &error), LK_OK);
        assert_int_equal(lk_call_option(call, "reduction", "none", &error), LK_OK);
        assert_int_equal(lk_call_option(call, "softcap", "20", &error), LK_OK);
        assert_int_equal(lk_call_option(call, "vocab_size", "2990", &error), LK_OK);
        assert_int_equal(lk_call_want(call, "loss", &error), LK_OK);
        assert_int_equal(lk_call_want(call, "grad.hidden", &error), LK_OK);
        assert_int_equal(lk_call_check(call, &error), LK_OK);
        assert_int_equal(lk_call_bind(call, 0, loss[few]), LK_OK);
        assert_int_equal(lk_call_bind(call, 1, grads[few]), LK_OK);
        run_call(call);
        lk_call_free(call);
    }
    assert_memory_equal(loss[0], loss[1], FEW * sizeof(float));
    assert_memory_equal(grads[0], grads[1], FEW * DEPTH * sizeof(float));
}

/* What is in scratch before has no part in a head's gradients. */
static void test_head_scratch(void **state)
{
    enum { ROWS = 5, WIDTH = 3, CLASSES = 4 };
    static const float hidden[ROWS * WIDTH] = {1, -1, 2, 0.5f, 3},
                                     weight[CLASSES * WIDTH] = {1, 2, -1};
    static const int64_t tokens[ROWS] = {0, 1, 2, 3, 0};
    static float grads[2][ROWS * WIDTH];
    (void)state;
    for (int filled = 0; filled < 2; filled++) {
        lk_error error;
        lk_call *call = lk_call_new(lk_loss_find("linear_token_logprobs"));
        const lk_tensor x = lk_matrix(LK_F32, (void *)(uintptr_t)hidden, ROWS, WIDTH);
        const lk_tensor w = lk_matrix(LK_F32, (void *)(uintptr_t)weight, CLASSES, WIDTH);
        const lk_tensor y = lk_vector(LK_I64, (void *)(uintptr_t)tokens, ROWS);
        assert_int_equal(lk_call_input(call, "hidden", &x, &error), LK_OK);
        assert_int_equal(lk_call_input(call, "weight", &w, &error), LK_OK);
        assert_int_equal(lk_call_input(call, "targets", &y, &error), LK_OK);
        assert_int_equal(lk_call_want(call, "grad.hidden", &error), LK_OK);
        assert_int_equal(lk_call_check(call, &error), LK_OK);
        assert_int_equal(lk_call_bind(call, 0, grads[filled]), LK_OK);
        assert_int_equal(lk_call_plan(call, &error), LK_OK);
        const size_t size = (lk_call_scratch(call) + 63) / 64 * 64;
        void *scratch = aligned_alloc(64, size);
        memset(scratch, filled ? 0xff : 0, size);
        do
            lk_call_run(call, 0, lk_call_blocks(call), scratch);
        while (lk_call_next(call));
        assert_int_equal(lk_call_finish(call, &error), LK_OK);
        lk_call_free(call);
        free(scratch);
    }
    assert_memory_equal(grads[0], grads[1], sizeof grads[0]);
}

/* What rows leave for the gradients of the head is not kept where these are not asked for. */
static void test_head_memory(void **state)
{
    enum { ROWS = 64, LISTED = 512, CLASSES = 1024 };
    static float hidden[ROWS], weight[CLASSES], logprobs[ROWS * LISTED], grads[2][CLASSES], value;
    static int64_t ids[ROWS * LISTED];
    size_t memory[2];
    (void)state;
    for (int i = 0; i < ROWS * LISTED; i++) {
        ids[i] = i % LISTED;
        logprobs[i] = -10;
    }
    for (int with = 0; with < 2; with++) {
        lk_error error;
        lk_call *call = lk_call_new(lk_loss_find("linear_cross_entropy"));
        const lk_tensor x = lk_matrix(LK_F32, hidden, ROWS, 1);
        const lk_tensor w = lk_matrix(LK_F32, weight, CLASSES, 1);
        const lk_tensor t = lk_matrix(LK_I64, ids, ROWS, LISTED);
        const lk_tensor p = lk_matrix(LK_F32, logprobs, ROWS, LISTED);
        assert_int_equal(lk_call_input(call, "hidden", &x, &error), LK_OK);
        assert_int_equal(lk_call_input(call, "weight", &w, &error), LK_OK);
        assert_int_equal(lk_call_input(call, "teacher_ids", &t, &error), LK_OK);
        assert_int_equal(lk_call_input(call, "teacher_logprobs", &p, &error), LK_OK);
        assert_int_equal(lk_call_want(call, "loss", &error), LK_OK);
        assert_int_equal(lk_call_want(call, "grad.hidden", &error), LK_OK);
        if (with)
            assert_int_equal(lk_call_want(call, "grad.weight", &error), LK_OK);
        assert_int_equal(lk_call_check(call, &error), LK_OK);
        assert_int_equal(lk_call_bind(call, 0, &value), LK_OK);
        for (int k = 0; k <= with; k++)
            assert_int_equal(lk_call_bind(call, 1 + k, grads[k]), LK_OK);
        memory[with] = lk_call_memory(call);
        lk_call_free(call);
    }
    assert_true(memory[0] < 64 * 1024);
    assert_true(memory[1] > (size_t)ROWS * LISTED * 32);
}

static void test_head_blocks(void **state)
{
    (void)state;
    assert_int_equal(blocks_of(200, 1 << 16), 4);
    assert_int_equal(blocks_of(64, 1 << 16), 2);
    assert_true(blocks_of(16, 1 << 16) > 1); /* of classes */
    assert_true(blocks_of(4, 1 << 16) > 1);
    assert_int_equal(blocks_of(16, 1000), 1);
    assert_int_equal(blocks_of(200, 2), 1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost),        cmocka_unit_test(test_cost_of_products),
        cmocka_unit_test(test_head_ahead),  cmocka_unit_test(test_head_scratch),
        cmocka_unit_test(test_head_memory), cmocka_unit_test(test_head_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
