/* SPDX-License-Identifier: MIT
 *
 * ctc compared with a sum over all paths, enumerated one by one: for scores near each other, and
 * for scores so far apart that even their exponents are rounded.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "internal.h"

enum { MOST_STEPS = 5, MOST_CLASSES = 4 };

static uint64_t state = 1;

static double draw(void) /* in [-1, 1) */
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(state & ~UINT64_C(0x7ff)) * 0x1p-63;
}

static int draw_below(int n)
{
    return (int)((draw() + 1) / 2 * n);
}

typedef struct example {
    lk_dtype dtype;
    int steps, classes, labels;
    int64_t target[MOST_STEPS];
    double x[MOST_STEPS * MOST_CLASSES]; /* what the element type holds */
    long double loss, grad[MOST_STEPS * MOST_CLASSES];
} example;

/* Whether the path without repeats and blanks (class 0) equals the target. */
static bool gives_target(const example *e, const int *path)
{
    int n = 0;
    for (int t = 0; t < e->steps; t++) {
        if (path[t] == 0 || (t > 0 && path[t] == path[t - 1]))
            continue;
        if (n == e->labels || e->target[n] != path[t])
            return false;
        n++;
    }
    return n == e->labels;
}

/* The next path; false after the last. */
static bool advance(const example *e, int *path)
{
    for (int t = 0; t < e->steps; t++) {
        if (++path[t] < e->classes)
            return true;
        path[t] = 0;
    }
    return false;
}

static void expect(example *e)
{
    const int C = e->classes;
    long double log_p[MOST_STEPS * MOST_CLASSES], top = -(long double)INFINITY, sum = 0;
    for (int t = 0; t < e->steps; t++) {
        long double most = -(long double)INFINITY, all = 0;
        for (int k = 0; k < C; k++)
            most = e->x[t * C + k] > (double)most ? (long double)e->x[t * C + k] : most;
        for (int k = 0; k < C; k++)
            all += expl((long double)e->x[t * C + k] - most);
        for (int k = 0; k < C; k++)
            log_p[t * C + k] = (long double)e->x[t * C + k] - most - logl(all);
    }
    /* First pass: the most likely path. Second pass: the sum, and the share of each entry in it. */
    long double mass[MOST_STEPS * MOST_CLASSES] = {0};
    for (int pass = 0; pass < 2; pass++) {
        int path[MOST_STEPS] = {0};
        do {
            long double l = 0;
            if (!gives_target(e, path))
                continue;
            for (int t = 0; t < e->steps; t++)
                l += log_p[t * C + path[t]];
            if (pass == 0) {
                top = l > top ? l : top;
                continue;
            }
            const long double share = expl(l - top);
            sum += share;
            for (int t = 0; t < e->steps; t++)
                mass[t * C + path[t]] += share;
        } while (advance(e, path));
    }
    e->loss = sum > 0 ? -(top + logl(sum)) : (long double)INFINITY;
    for (int i = 0; i < e->steps * C; i++)
        e->grad[i] = sum > 0 ? expl(log_p[i]) - mass[i] / sum : 0;
}

static void check_example(const example *e)
{
    const int C = e->classes;
    double memory[MOST_STEPS * MOST_CLASSES], grad[MOST_STEPS * MOST_CLASSES], loss;
    char out[sizeof memory], value[8];
    const int64_t n = e->steps * C, steps = e->steps, labels = e->labels;
    lk_convert(e->x, LK_F64, memory, e->dtype, n);
    lk_tensor x = {.data = memory, .dtype = e->dtype, .rank = 3, .shape = {1, steps, C}}, g = x;
    g.data = out;
    const char *options[] = {"reduction", "sum", NULL};
    const lk_named in[] = {{"logits", x},
                           {"targets", lk_matrix(LK_I64, (void *)e->target, 1, MOST_STEPS)},
                           {"input_lengths", lk_vector(LK_I64, (void *)&steps, 1)},
                           {"target_lengths", lk_vector(LK_I64, (void *)&labels, 1)},
                           {NULL, lk_scalar(LK_F32, NULL)}};
    const lk_named to[] = {
        {"loss", lk_scalar(e->dtype, value)}, {"grad.logits", g}, {NULL, lk_scalar(LK_F32, NULL)}};
    lk_error error;
    if (lk_evaluate("ctc", options, in, to, &error) != LK_OK)
        fail_msg("%s", error.text);
    lk_convert(out, e->dtype, grad, LK_F64, n);
    lk_convert(value, e->dtype, &loss, LK_F64, 1);
    const double eps = e->dtype == LK_F64 ? 1e-13 : 1e-6;
    if (!(fabs(loss - (double)e->loss) <= eps * fmax(1, fabs((double)e->loss))) &&
        loss != (double)e->loss)
        fail_msg("%s, %s, T %d, C %d, %d labels: loss is %.17g, not %.17g", lk_isa_used(),
                 lk_dtype_name(e->dtype), e->steps, C, e->labels, loss, (double)e->loss);
    for (int i = 0; i < n; i++)
        if (!(fabs(grad[i] - (double)e->grad[i]) <= 4 * eps))
            fail_msg("%s, %s, T %d, C %d, %d labels, x[0] %g: grad[%d] is %.17g, not %.17g",
                     lk_isa_used(), lk_dtype_name(e->dtype), e->steps, C, e->labels, e->x[0], i,
                     grad[i], (double)e->grad[i]);
}

/* Scores of about that size. Beyond 2^53 sums of exponents are rounded, each in its own order; then
 * one path has all, unless the greatest are close. */
static void check_spread(lk_dtype dtype, double spread)
{
    for (int i = 0; i < 300; i++) {
        example e = {.dtype = dtype, .steps = 1 + draw_below(MOST_STEPS)};
        e.classes = 2 + draw_below(MOST_CLASSES - 1);
        e.labels = draw_below(e.steps + 1);
        for (int k = 0; k < e.labels; k++)
            e.target[k] = 1 + draw_below(e.classes - 1);
        for (int k = 0; k < e.steps * e.classes; k++)
            e.x[k] = dtype == LK_F32 ? (double)(float)(spread * draw()) : spread * draw();
        expect(&e);
        check_example(&e);
    }
}

static void test_all_paths(void **unused)
{
    static const double spreads[] = {0, 1, 30, 1e3, 1e5, 1e15, 1e17, 1e18, 1e20, 1e30};
    (void)unused;
    const char *best = lk_isa_used();
    for (int isa = 0; isa < lk_isa_count(); isa++) {
        if (!lk_isa_use(lk_isa_name(isa)))
            continue;
        for (size_t k = 0; k < sizeof spreads / sizeof *spreads; k++) {
            check_spread(LK_F32, spreads[k]);
            check_spread(LK_F64, spreads[k]);
        }
    }
    assert_true(lk_isa_use(best));
}

/* Scores of many magnitudes for the only class of the target: the loss is that magnitude. */
static void test_unlikely(void **unused)
{
    (void)unused;
    for (double x = 1; x < 1e38; x *= 1.1) {
        example e = {.dtype = LK_F32, .steps = 1, .classes = 2};
        e.x[0] = (double)(float)-x;
        expect(&e);
        check_example(&e);
        e.dtype = LK_F64;
        e.x[0] = -x;
        expect(&e);
        check_example(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_paths),
        cmocka_unit_test(test_unlikely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
