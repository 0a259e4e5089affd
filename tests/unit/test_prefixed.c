/* SPDX-License-Identifier: MIT
 *
 * Losses on the first components of embeddings: the sum of what separate calls on the prefixes
 * give; errors of `dims` and `dim_weights`.
 */
#include "tests/help.h"

#include <losskit.h>

enum { N = 3, D = 5 };

static double a[N * D], b[N * D], target[N] = {0.25, -0.5, 0.75};

static void draw(void)
{
    for (int i = 0; i < N * D; i++) {
        a[i] = random_normal();
        b[i] = random_normal();
    }
}

static lk_named matrix(const char *name, double *data, int64_t width)
{
    return (lk_named){name, {data, LK_F64, 2, {N, width}}};
}

typedef struct result {
    double loss, grad_a[N * D], grad_target[N], similarity[N];
} result;

/* cosine_similarity of the first `width` components, in one call. */
static result evaluate(int64_t width, const char *const *options)
{
    result r;
    double x[2][N * D];
    for (int i = 0; i < N * width; i++) {
        x[0][i] = a[i / width * D + i % width];
        x[1][i] = b[i / width * D + i % width];
    }
    lk_error error = {0};
    const lk_named in[] = {matrix("a", x[0], width),
                           matrix("b", x[1], width),
                           {"target", {target, LK_F64, 1, {N}}},
                           {0}};
    const lk_named out[] = {{"loss", {&r.loss, LK_F64, 0, {0}}},
                            matrix("grad.a", r.grad_a, width),
                            {"grad.target", {r.grad_target, LK_F64, 1, {N}}},
                            {"similarity", {r.similarity, LK_F64, 1, {N}}},
                            {0}};
    if (lk_evaluate("cosine_similarity", options, in, out, &error) != LK_OK)
        fail_msg("%s", error.text);
    return r;
}

static void same(double x, double y)
{
    if (!(fabs(x - y) <= 1e-14 * (1 + fabs(y))))
        fail_msg("%.17g, expected %.17g", x, y);
}

static void test_sum(void **state)
{
    static const struct {
        const char *options[5];
        int dims;
        int64_t d[3];
        double w[3];
    } cases[] = {
        {{"dims", "2"}, 1, {2}, {1}},
        {{"dims", "1,3,5"}, 3, {1, 3, 5}, {1, 1, 1}},
        {{"dims", "2,4", "dim_weights", "0.5,-2"}, 2, {2, 4}, {0.5, -2}},
        {{"dims", "2,4", "dim_weights", "1.5,0"}, 2, {2, 4}, {1.5, 0}},
        {{"dims", "2,4", "dim_weights", "0,3"}, 2, {2, 4}, {0, 3}},
        {{"dims", "3", "dim_weights", "0"}, 1, {3}, {0}},
    };
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        draw();
        const result got = evaluate(D, cases[c].options);
        result sum = {0};
        for (int k = 0; k < cases[c].dims; k++) {
            const int64_t d = cases[c].d[k];
            const result one = evaluate(d, NULL);
            sum.loss += cases[c].w[k] * one.loss;
            for (int64_t i = 0; i < N * d; i++)
                sum.grad_a[i / d * D + i % d] += cases[c].w[k] * one.grad_a[i];
            for (int i = 0; i < N; i++)
                sum.grad_target[i] += cases[c].w[k] * one.grad_target[i];
            memcpy(sum.similarity, one.similarity, sizeof sum.similarity);
        }
        same(got.loss, sum.loss);
        for (int i = 0; i < N * D; i++)
            same(got.grad_a[i], sum.grad_a[i]);
        for (int i = 0; i < N; i++) {
            same(got.grad_target[i], sum.grad_target[i]);
            same(got.similarity[i], sum.similarity[i]);
        }
    }
}

/* All components once: the same bits as without the option. */
static void test_all(void **state)
{
    static const char *const whole[] = {"dims", "5", NULL};
    (void)state;
    draw();
    const result got = evaluate(D, whole), expected = evaluate(D, NULL);
    assert_memory_equal(&got, &expected, sizeof got);
}

/* What lies beyond the last prefix is not read. */
static void test_not_read(void **state)
{
    static const char *const two[] = {"dims", "2", NULL};
    (void)state;
    draw();
    const result expected = evaluate(D, two);
    for (int i = 0; i < N; i++)
        a[i * D + 2] = b[i * D + 4] = (double)NAN;
    const result got = evaluate(D, two);
    assert_memory_equal(&got, &expected, sizeof got);
}

/* The number that the contract states. */
static void test_stated(void **state)
{
    double anchors[] = {1, 0, 1, 2}, candidates[] = {1, 1, 2, 1}, loss, grad[4];
    const double expected[] = {0, -0.07700373721, -0.03256562402, 0.01628281201};
    const char *const options[] = {"temperature", "0.5",   "dims", "1,2",
                                   "dim_weights", "1,0.5", NULL};
    const lk_named in[] = {{"anchors", {anchors, LK_F64, 2, {2, 2}}},
                           {"candidates", {candidates, LK_F64, 2, {2, 2}}},
                           {0}};
    const lk_named out[] = {
        {"loss", {&loss, LK_F64, 0, {0}}}, {"grad.anchors", {grad, LK_F64, 2, {2, 2}}}, {0}};
    lk_error error = {0};
    (void)state;
    assert_int_equal(lk_evaluate("info_nce", options, in, out, &error), LK_OK);
    assert_true(fabs(loss - 1.13083562) <= 1e-9);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(grad[i] - expected[i]) <= 1e-9);
}

static void test_errors(void **state)
{
    static const struct {
        const char *dims, *weights;
        lk_status status;
    } cases[] = {
        {"2,1", "1,1", LK_OPTION_OUT_OF_RANGE}, {"0,1", "1,1", LK_OPTION_OUT_OF_RANGE},
        {"1,1", "1,1", LK_OPTION_OUT_OF_RANGE}, {"1,6", "1,1", LK_OPTION_OUT_OF_RANGE},
        {"-1", "1", LK_OPTION_OUT_OF_RANGE},    {"1,2", "1", LK_OPTION_CONFLICT},
        {"off", "1", LK_OPTION_CONFLICT},       {"1,x", "1", LK_OPTION_INVALID},
        {"1,5", "1,nan", LK_OPTION_INVALID},    {"1,5", "1,2", LK_OK},
    };
    (void)state;
    draw();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double loss;
        lk_error error = {0};
        const char *const options[] = {"dims", cases[i].dims, "dim_weights", cases[i].weights,
                                       NULL};
        const lk_named in[] = {matrix("a", a, D), matrix("b", b, D), {0}};
        const lk_named out[] = {{"loss", {&loss, LK_F64, 0, {0}}}, {0}};
        assert_int_equal(lk_evaluate("cosine_similarity", options, in, out, &error),
                         cases[i].status);
    }
}

/* The first value that is not finite, whichever prefixes have it; one beyond them all is not read.
 */
static void test_nonfinite(void **state)
{
    static const char *const options[] = {"dims", "1,3,4", "nonfinite", "error", NULL};
    double loss;
    lk_error error = {0};
    (void)state;
    draw();
    b[1 * D + 4] = b[1 * D + 2] = a[2 * D] = a[1 * D + 3] = a[4] = (double)NAN;
    const lk_named in[] = {matrix("a", a, D), matrix("b", b, D), {0}};
    const lk_named out[] = {{"loss", {&loss, LK_F64, 0, {0}}}, {0}};
    assert_int_equal(lk_evaluate("cosine_similarity", options, in, out, &error),
                     LK_NONFINITE_INPUT);
    assert_string_equal(error.input, "a");
    assert_int_equal(error.index[0], 1);
    assert_int_equal(error.index[1], 3);
}

/* Many prefixes, whose sum is rounded to f32 once. */
static void test_many(void **state)
{
    enum { MANY = 512, STEP = 8 };
    static float x[MANY], y[MANY], grad[MANY];
    static double wide_x[MANY], wide_y[MANY], wide_grad[MANY];
    static char dims[MANY];
    const char *const options[] = {"dims", dims, NULL};
    (void)state;
    random_state = 1;
    for (int k = 0; k < MANY; k++) {
        wide_x[k] = (double)(x[k] = (float)random_normal());
        wide_y[k] = (double)(y[k] = (float)random_normal());
        if (k % STEP == 0)
            snprintf(dims + strlen(dims), sizeof dims - strlen(dims), "%s%d", k > 0 ? "," : "",
                     k + STEP);
    }
    double most = 0;
    float loss;
    double wide_loss;
    lk_error error;
    const lk_named in[] = {{"a", {x, LK_F32, 2, {1, MANY}}}, {"b", {y, LK_F32, 2, {1, MANY}}}, {0}};
    const lk_named out[] = {
        {"loss", {&loss, LK_F32, 0, {0}}}, {"grad.a", {grad, LK_F32, 2, {1, MANY}}}, {0}};
    const lk_named wide_in[] = {
        {"a", {wide_x, LK_F64, 2, {1, MANY}}}, {"b", {wide_y, LK_F64, 2, {1, MANY}}}, {0}};
    const lk_named wide_out[] = {
        {"loss", {&wide_loss, LK_F64, 0, {0}}}, {"grad.a", {wide_grad, LK_F64, 2, {1, MANY}}}, {0}};
    assert_int_equal(lk_evaluate("cosine_similarity", options, in, out, &error), LK_OK);
    assert_int_equal(lk_evaluate("cosine_similarity", options, wide_in, wide_out, &error), LK_OK);
    assert_true(fabs((double)loss - wide_loss) <= ldexp(fabs(wide_loss), -23));
    for (int k = 0; k < MANY; k++)
        most = fmax(most, fabs(wide_grad[k]));
    for (int k = 0; k < MANY; k++)
        assert_true(fabs((double)grad[k] - wide_grad[k]) <= ldexp(most, -24));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),      cmocka_unit_test(test_all),
        cmocka_unit_test(test_not_read), cmocka_unit_test(test_stated),
        cmocka_unit_test(test_errors),   cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
