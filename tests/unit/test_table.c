/* SPDX-License-Identifier: MIT
 *
 * Tables of scores (lib/rows/table.h) that are too large to be kept, whose scores the gradients
 * compute again: with reduction=sum the gradient of an anchor depends on nothing but the anchor and
 * the candidates, so it has the bits that it has in a small table, which is kept. And tables of a
 * set with itself, of which half is computed where it is kept.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <losskit.h>

#include "tests/random.h"

enum { ROWS = 4200, WIDTH = 3, SIZE = ROWS * WIDTH }; /* 67 MiB of scores in f32 */

static float anchors[SIZE], candidates[SIZE], by_anchors[SIZE], by_candidates[SIZE];
static float part[SIZE], sum[SIZE];

/* The gradients of the anchors first..first+count-1. */
static double evaluate(const char *smoothing, int64_t first, int64_t count, float *grad_anchors,
                       float *grad_candidates)
{
    static int64_t index[ROWS];
    const char *options[] = {"reduction", "sum", "label_smoothing", smoothing, NULL};
    const int64_t at = first * WIDTH;
    float loss;
    lk_error error;
    for (int64_t i = 0; i < count; i++)
        index[i] = (first + i) * 17 % ROWS;
    lk_named in[] = {{"anchors", lk_matrix(LK_F32, anchors + at, count, WIDTH)},
                     {"candidates", lk_matrix(LK_F32, candidates, ROWS, WIDTH)},
                     {"positive_index", lk_vector(LK_I64, index, count)},
                     {NULL, lk_scalar(LK_F32, NULL)}};
    lk_named out[] = {{"loss", lk_scalar(LK_F32, &loss)},
                      {"grad.anchors", lk_matrix(LK_F32, grad_anchors + at, count, WIDTH)},
                      {"grad.candidates", lk_matrix(LK_F32, grad_candidates, ROWS, WIDTH)},
                      {NULL, lk_scalar(LK_F32, NULL)}};
    assert_int_equal(lk_evaluate("info_nce", options, in, out, &error), LK_OK);
    return (double)loss;
}

static void expect_parts(const char *smoothing)
{
    static float parts[SIZE];
    const double whole = evaluate(smoothing, 0, ROWS, by_anchors, by_candidates);
    double total = 0, most = 0;
    memset(sum, 0, sizeof sum);
    for (int64_t first = 0; first < ROWS; first += ROWS / 3) {
        total += evaluate(smoothing, first, ROWS / 3, parts, part);
        for (int i = 0; i < SIZE; i++)
            sum[i] += part[i];
    }
    assert_true(fabs(total - whole) < 1e-6 * fabs(whole));
    assert_memory_equal(by_anchors, parts, sizeof parts);
    for (int i = 0; i < SIZE; i++)
        most = fmax(most, fabs((double)sum[i]));
    for (int i = 0; i < SIZE; i++)
        assert_true(fabs((double)(sum[i] - by_candidates[i])) < 2e-6 * most);
}

static void test_large(void **state)
{
    (void)state;
    random_state = 1;
    for (int i = 0; i < SIZE; i++) {
        anchors[i] = (float)random_normal();
        candidates[i] = (float)random_normal();
    }
    expect_parts("0");
    expect_parts("0.1");
}

static float labelled(const char *loss, const int64_t *labels, int64_t n, bool gradient)
{
    float value;
    lk_error error;
    lk_named in[] = {{"embeddings", lk_matrix(LK_F32, anchors, n, WIDTH)},
                     {"labels", lk_vector(LK_I64, (void *)(uintptr_t)labels, n)},
                     {NULL, lk_scalar(LK_F32, NULL)}};
    lk_named out[] = {{"loss", lk_scalar(LK_F32, &value)},
                      {gradient ? "grad.embeddings" : NULL, lk_matrix(LK_F32, part, n, WIDTH)},
                      {NULL, lk_scalar(LK_F32, NULL)}};
    assert_int_equal(lk_evaluate(loss, NULL, in, out, &error), LK_OK);
    return value;
}

/* Without a gradient nothing is kept, and each row computes all of its scores. */
static void test_own(void **state)
{
    static const int64_t sizes[] = {2, 127, 128, 129, 256, 257, 384, 500, 640, 1000, 1037};
    static int64_t labels[ROWS];
    (void)state;
    random_state = 2;
    for (int i = 0; i < SIZE; i++)
        anchors[i] = (float)random_normal();
    for (int i = 0; i < ROWS; i++)
        labels[i] = random_int(0, 9);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t n = sizes[i];
        assert_true(labelled("supcon", labels, n, true) == labelled("supcon", labels, n, false));
        assert_true(labelled("nt_xent", labels, n, true) == labelled("nt_xent", labels, n, false));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_large), cmocka_unit_test(test_own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
