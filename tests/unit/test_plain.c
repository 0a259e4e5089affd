/* SPDX-License-Identifier: MIT
 *
 * Fast path of rows (lib/rows/plain.h): chunks with small and with large scores, rows whose
 * gradients are written while the next row is read, streaming stores. Values are compared with sums
 * in double; the bits must be the same wherever a row lies and whatever its neighbours are.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "internal.h"

static uint64_t state = 1;

static uint64_t draw(uint64_t below)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (state >> 33) % below;
}

static void *need(void *p)
{
    assert_non_null(p);
    return p;
}

/* The modifications of a row of scores between -4 and 4. */
enum {
    SMALL,      /* nothing */
    SPIKE,      /* one of them is 60 */
    EDGE,       /* one is 40, one -40: just small enough; a later one is slightly larger */
    HOLES,      /* -inf and the lowest f16 here and there */
    TAIL,       /* -inf from somewhere on */
    LOW,        /* all 200 lower */
    HIGH,       /* all 200 higher */
    FIRST_LOW,  /* the first 600 are -inf, the others 60000 lower */
    LAST_HIGH,  /* the last one is 5000: the others are negligible */
    OVER_40,    /* the last one is 60 to 200, the others 40: small, and far below the maximum */
    CONFIDENT,  /* the target's is 30 */
    UNLIKELY,   /* the target's is -30 */
    ALL_LOWEST, /* -inf, all of them */
    NOT_A_NUMBER,
    INFINITE,
    SORTS
};

static void fill_row(double *z, int64_t n, int64_t y, int sort)
{
    for (int64_t k = 0; k < n; k++)
        z[k] = (double)draw(33) / 4 - 4;
    const int64_t at = (int64_t)draw((uint64_t)n);
    switch (sort) {
    case SPIKE:
        z[at] = 60;
        break;
    case EDGE:
        z[0] = 40;
        z[n / 2] = -40;
        if (n > 1000)
            z[n - 1] = draw(2) ? 40.25 : -40.25;
        break;
    case HOLES:
        for (int64_t k = 0; k < n; k++)
            if (draw(7) == 0 && k != y)
                z[k] = draw(2) ? -INFINITY : -65504;
        break;
    case TAIL:
        for (int64_t k = at; k < n; k++)
            z[k] = k == y ? z[k] : -INFINITY;
        break;
    case LOW:
    case HIGH:
        for (int64_t k = 0; k < n; k++)
            z[k] += sort == LOW ? -200 : 200;
        break;
    case FIRST_LOW:
        for (int64_t k = 0; k < n; k++)
            z[k] = k < 600 && k != y ? -INFINITY : -60000 + 32 * round(z[k]);
        break;
    case LAST_HIGH:
        z[n - 1] = 4992;
        break;
    case OVER_40:
        for (int64_t k = 0; k < n; k++)
            z[k] = 40;
        z[n - 1] = 60 + 10 * (double)draw(15);
        break;
    case CONFIDENT:
        z[y] = 30;
        break;
    case UNLIKELY:
        z[y] = -30;
        break;
    case ALL_LOWEST:
        for (int64_t k = 0; k < n; k++)
            z[k] = -INFINITY;
        break;
    case NOT_A_NUMBER:
        z[at] = NAN;
        break;
    case INFINITE:
        z[at] = INFINITY;
        break;
    default:
        break;
    }
}

typedef struct batch {
    lk_dtype dtype;
    int64_t rows, width, classes; /* classes: vocab_size */
    const char *scale;            /* logit_scale */
    char *x, *grad, *room;        /* grad may be x; room: what grad lies in */
    int64_t *y;
    double *wide, *up; /* x as doubles; grad_output */
    double *loss;
} batch;

static size_t bytes_of(const batch *b)
{
    return (size_t)(b->rows * b->width) * lk_dtype_size(b->dtype);
}

static batch batch_new(lk_dtype dtype, int64_t rows, int64_t width, int64_t classes, int sort)
{
    batch b = {.dtype = dtype, .rows = rows, .width = width, .classes = classes, .scale = "1"};
    const size_t n = (size_t)(rows * width);
    b.wide = need(malloc(n * sizeof *b.wide));
    b.x = need(malloc(bytes_of(&b) + 1));
    b.room = need(malloc(bytes_of(&b) + 256));
    b.grad = b.room;
    b.y = need(malloc((size_t)rows * sizeof *b.y));
    b.up = need(malloc((size_t)rows * sizeof *b.up));
    b.loss = need(malloc((size_t)rows * sizeof *b.loss));
    for (int64_t i = 0; i < rows; i++) {
        double *z = b.wide + i * width;
        b.y[i] = (int64_t)draw((uint64_t)classes);
        /* Also factors near the limits of f32. */
        static const float far[] = {1e30F, 1e20F, 1e10F, 1e-10F, 1e-20F, 1e-30F};
        b.up[i] = draw(5) == 0   ? 0
                  : draw(3) == 0 ? (double)far[draw(6)]
                                 : (double)draw(100) / 16 - 3;
        fill_row(z, width, b.y[i], sort >= 0 ? sort : (int)draw(SORTS));
        if (draw(6) == 0)
            b.y[i] = -100;
    }
    lk_convert(b.wide, LK_F64, b.x, dtype, (int64_t)n);
    lk_convert(b.x, dtype, b.wide, LK_F64, (int64_t)n); /* what they are */
    return b;
}

static void batch_free(batch *b)
{
    free(b->wide);
    free(b->x);
    free(b->room);
    free(b->y);
    free(b->up);
    free(b->loss);
}

/* Rows first..first+count-1, in one call, their blocks in `runs` runs. */
static void evaluate(batch *b, int64_t first, int64_t count, int64_t runs, bool gradient)
{
    const size_t size = (size_t)b->width * lk_dtype_size(b->dtype);
    lk_error error;
    lk_call *call = need(lk_call_new(lk_loss_find("cross_entropy")));
    const lk_tensor x = lk_matrix(b->dtype, b->x + (size_t)first * size, count, b->width);
    const lk_tensor y = lk_vector(LK_I64, b->y + first, count);
    const lk_tensor up = lk_vector(LK_F64, b->up + first, count);
    char classes[24];
    (void)snprintf(classes, sizeof classes, "%lld", (long long)b->classes);
    assert_int_equal(lk_call_input(call, "logits", &x, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "targets", &y, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "grad_output", &up, &error), LK_OK);
    assert_int_equal(lk_call_option(call, "reduction", "none", &error), LK_OK);
    assert_int_equal(lk_call_option(call, "vocab_size", classes, &error), LK_OK);
    assert_int_equal(lk_call_option(call, "logit_scale", b->scale, &error), LK_OK);
    assert_int_equal(lk_call_want(call, "loss", &error), LK_OK);
    if (gradient)
        assert_int_equal(lk_call_want(call, "grad.logits", &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    char *loss = need(malloc((size_t)count * 8));
    assert_int_equal(lk_call_bind(call, 0, loss), LK_OK);
    if (gradient)
        assert_int_equal(lk_call_bind(call, 1, b->grad + (size_t)first * size), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_OK);
    void *scratch = need(aligned_alloc(64, (lk_call_scratch(call) + 64) / 64 * 64));
    const int64_t blocks = lk_call_blocks(call), part = blocks / runs + 1;
    for (int64_t k = 0; k < blocks; k += part)
        lk_call_run(call, k, part, scratch);
    assert_int_equal(lk_call_finish(call, &error), LK_OK);
    lk_convert(loss, b->dtype == LK_F64 ? LK_F64 : LK_F32, b->loss + first, LK_F64, count);
    free(loss);
    free(scratch);
    lk_call_free(call);
}

static void fail_at(const batch *b, int64_t i, const char *what, int64_t k, double got,
                    double right)
{
    fail_msg(
        "up %g: %s, %s, %lld x %lld of %lld, row %lld, target %lld: %s[%lld] is %.17g, not %.17g",
        b->up[i], lk_isa_used(), lk_dtype_name(b->dtype), (long long)b->rows, (long long)b->classes,
        (long long)b->width, (long long)i, (long long)b->y[i], what, (long long)k, got, right);
}

static bool is_near(double got, double right, double most)
{
    return isnan(right) ? isnan(got) : got == right || fabs(got - right) <= most;
}

/* Half an ulp of the type at x, and what its subnormals are apart. */
static double rounding(lk_dtype dtype, double x)
{
    return dtype == LK_F16    ? fabs(x) * 0x1p-11 + 0x1p-25
           : dtype == LK_BF16 ? fabs(x) * 0x1p-8
           : dtype == LK_F32  ? fabs(x) * 0x1p-24
                              : fabs(x) * 0x1p-53;
}

static void check_row(const batch *b, int64_t i, double *g)
{
    const double *z = b->wide + i * b->width, scale = atof(b->scale);
    const int64_t y = b->y[i];
    /* Scores are quarters, so that their differences are exact; scaled, they are rounded. */
    const double eps = b->dtype == LK_F64 ? 0x1p-47 : 0x1p-21;
    lk_convert(b->grad + (size_t)(i * b->width) * lk_dtype_size(b->dtype), b->dtype, g, LK_F64,
               b->width);
    double top = -INFINITY, rounded = 1;
    long double sum = 0, others = 0;
    for (int64_t k = 0; k < b->classes; k++) {
        if (z[k] > top || isnan(z[k]))
            top = isnan(top) ? top : z[k];
        if (scale != 1 && isfinite(z[k]) && fabs(scale * z[k]) > rounded)
            rounded = fabs(scale * z[k]);
    }
    for (int64_t k = 0; k < b->classes; k++) {
        const long double e = expl((long double)(scale * (z[k] - top)));
        sum += e;
        others += k == y ? 0 : e;
    }
    if (y < 0) {
        if (b->loss[i] != 0)
            fail_at(b, i, "loss", 0, b->loss[i], 0);
    } else {
        const double own = exp(scale * (z[y] - top));
        const double loss =
            own > others ? log1p((double)(others / own)) : (double)logl(sum) - scale * (z[y] - top);
        if (!is_near(b->loss[i], loss, eps / 2 * (rounded + fabs(loss))))
            fail_at(b, i, "loss", 0, b->loss[i], loss);
    }
    for (int64_t k = 0; k < b->width; k++) {
        double p = (double)(expl((long double)(scale * (z[k] - top))) / sum);
        if (k == y)
            p = -(double)(others / sum);
        double right = y < 0 || k >= b->classes || b->up[i] == 0 ? 0 : b->up[i] * scale * p;
        if (b->dtype == LK_F16 && fabs(right) > 65519)
            right = copysign((double)INFINITY, right);
        /* A probability below the smallest normal f32 may be 0. */
        const double least = y < 0 ? 0 : fabs(b->up[i] * scale) * 0x1p-125 + 1e-37;
        if (!is_near(g[k], right, fabs(right) * eps * rounded + rounding(b->dtype, right) + least))
            fail_at(b, i, "grad", k, g[k], right);
    }
}

static void each_isa(void (*check)(void))
{
    const char *best = lk_isa_used();
    for (int i = 0; i < lk_isa_count(); i++)
        if (lk_isa_use(lk_isa_name(i)))
            check();
    assert_true(lk_isa_use(best));
}

static const lk_dtype dtypes[] = {LK_F64, LK_F32, LK_F16, LK_BF16};
static const int64_t widths[] = {1,   2,   3,   31,  32,  33,   63,   64,   65,   127,  500,
                                 511, 512, 513, 545, 575, 1000, 1024, 1055, 2600, 9001, 10240};

static void check_values(void)
{
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (int sort = 0; sort < SORTS; sort++) {
                const int64_t width = widths[w], cut = draw(3) ? 0 : (int64_t)draw(40);
                batch b = batch_new(dtypes[t], 4, width, width > cut ? width - cut : width, sort);
                double *g = need(malloc((size_t)width * sizeof *g));
                if (sort <= SPIKE || sort == CONFIDENT)
                    b.scale = draw(3) ? "1" : draw(2) ? "0.5" : "8";
                evaluate(&b, 0, b.rows, 1, true);
                for (int64_t i = 0; i < b.rows; i++)
                    check_row(&b, i, g);
                free(g);
                batch_free(&b);
            }
}

static void test_values(void **unused)
{
    (void)unused;
    each_isa(check_values);
}

/* A weight of the target's class enters the gradient of all classes, and the mean divides by it;
 * the sums of blocks become the loss. */
static void check_weights(void)
{
    enum { ROWS = 300, WIDTH = 1024 };
    static const double weights[] = {1e25, 1e-25, 3, 1e-20};
    for (int sort = SMALL; sort <= HIGH; sort++)
        for (size_t w = 0; w < sizeof weights / sizeof *weights; w++) {
            batch b = batch_new(LK_F32, ROWS, WIDTH, WIDTH, sort);
            double *weight = need(malloc(WIDTH * sizeof *weight)), total = 0;
            for (int64_t k = 0; k < WIDTH; k++)
                weight[k] = (double)(float)weights[w];
            float loss;
            lk_error error;
            const char *options[] = {"reduction", "sum", NULL};
            const lk_named in[] = {{"logits", lk_matrix(LK_F32, b.x, ROWS, WIDTH)},
                                   {"targets", lk_vector(LK_I64, b.y, ROWS)},
                                   {"class_weight", lk_vector(LK_F64, weight, WIDTH)},
                                   {NULL, lk_scalar(LK_F32, NULL)}};
            const lk_named out[] = {{"loss", lk_scalar(LK_F32, &loss)},
                                    {"grad.logits", lk_matrix(LK_F32, b.grad, ROWS, WIDTH)},
                                    {NULL, lk_scalar(LK_F32, NULL)}};
            assert_int_equal(lk_evaluate("cross_entropy", options, in, out, &error), LK_OK);
            char *grad = need(malloc(bytes_of(&b)));
            memcpy(grad, b.grad, bytes_of(&b));
            for (int64_t i = 0; i < ROWS; i++)
                b.up[i] = weight[0];
            evaluate(&b, 0, ROWS, 1, true); /* the same, with the weight as grad_output */
            double *g = need(malloc(WIDTH * sizeof *g));
            memcpy(b.grad, grad, bytes_of(&b));
            for (int64_t i = 0; i < ROWS; i++) {
                check_row(&b, i, g);
                total += b.loss[i] * weight[0];
            }
            if (!is_near((double)loss, (double)(float)total, 1e-6 * fabs(total)))
                fail_at(&b, 0, "sum", 0, (double)loss, total);
            free(grad);
            free(g);
            free(weight);
            batch_free(&b);
        }
}

static void test_weights(void **unused)
{
    (void)unused;
    each_isa(check_weights);
}

/* Rows together, alone, in runs, in place, without their gradient, at any place in memory: the same
 * bits. In the first, large gradients go past the caches. */
static void check_bits_of(lk_dtype dtype, int64_t rows, int64_t width, int64_t classes)
{
    batch b = batch_new(dtype, rows, width, classes, -1);
    const size_t size = bytes_of(&b), row = (size_t)width * lk_dtype_size(dtype);
    double *loss = need(malloc((size_t)rows * sizeof *loss));
    char *grad = need(malloc(size));
    b.grad = b.room + draw(256 / lk_dtype_size(dtype)) * lk_dtype_size(dtype);
    evaluate(&b, 0, rows, 1, true);
    memcpy(grad, b.grad, size);
    memcpy(loss, b.loss, (size_t)rows * sizeof *loss);
    for (int sort = 0; sort < 6; sort++) {
        memset(b.room, 1, size + 256);
        b.grad = b.room + draw(256);
        if (sort == 0) {
            for (int64_t i = 0; i < rows; i++)
                evaluate(&b, i, 1, 1, true);
        } else if (sort == 1) {
            evaluate(&b, 0, rows, 3, true);
        } else if (sort == 2) {
            evaluate(&b, 0, rows / 2, 2, true);
            evaluate(&b, rows / 2, rows - rows / 2, 1, true);
        } else if (sort == 3) {
            evaluate(&b, 0, rows, 1, false);
            memcpy(b.grad, grad, size);
        } else if (sort == 4) { /* the loss is the same whatever its gradient is multiplied with */
            double *up = b.up;
            b.up = need(malloc((size_t)rows * sizeof *b.up));
            for (int64_t i = 0; i < rows; i++)
                b.up[i] = i % 2 ? 1e-12 : 1e25;
            evaluate(&b, 0, rows, 1, true);
            free(b.up);
            b.up = up;
            memcpy(b.grad, grad, size);
        } else {
            char *apart = b.x;
            memcpy(b.grad, b.x, size);
            b.x = b.grad;
            evaluate(&b, 0, rows, 1, true);
            b.x = apart;
        }
        for (int64_t i = 0; i < rows; i++) {
            if (memcmp(&loss[i], &b.loss[i], sizeof *loss) != 0 &&
                !(isnan(loss[i]) && isnan(b.loss[i])))
                fail_at(&b, i, "loss", sort, b.loss[i], loss[i]);
            if (memcmp(grad + (size_t)i * row, b.grad + (size_t)i * row, row) != 0)
                fail_at(&b, i, "bits of grad", sort, 0, 0);
        }
    }
    free(grad);
    free(loss);
    batch_free(&b);
}

static void check_bits(void)
{
    const bool reference = strcmp(lk_isa_used(), "scalar") == 0; /* never streams, and is slow */
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++) {
        const int64_t large = (int64_t)((17 << 20) / lk_dtype_size(dtypes[t]));
        for (size_t w = 3; w < sizeof widths / sizeof *widths; w++)
            check_bits_of(dtypes[t], 13, widths[w], widths[w]);
        check_bits_of(dtypes[t], 20, 1100, 1000);
        check_bits_of(dtypes[t], 3, 140001,
                      140001); /* f32: its exponentials are not kept in place */
        check_bits_of(dtypes[t], 3, 600001, 600001); /* nor here at all */
        if (reference)
            continue;
        check_bits_of(dtypes[t], large / 128, 128, 128);
        check_bits_of(dtypes[t], large / 1025, 1025, 1025);
        check_bits_of(dtypes[t], large / 2600, 2600, 2590);
        check_bits_of(dtypes[t], large / 50257, 50257, 50257);
    }
}

static void test_bits(void **unused)
{
    (void)unused;
    each_isa(check_bits);
}

/* Rows so long that the fast path does not keep their exponentials in place: the same bits in place
 * and out of place, with and without the fast path. */
static void check_long(void)
{
    enum { ROWS = 2, WIDTH = 140001 };
    static const char *const options[][3] = {
        {NULL}, {"label_smoothing", "0.1"}, {"softcap", "30"}, {"z_loss", "0.01"}};
    for (size_t k = 0; k < sizeof options / sizeof *options; k++) {
        batch b = batch_new(LK_F32, ROWS, WIDTH, WIDTH, SMALL);
        char *apart = need(malloc(bytes_of(&b)));
        float loss;
        for (int in_place = 0; in_place < 2; in_place++) {
            const lk_named in[] = {{"logits", lk_matrix(LK_F32, b.x, ROWS, WIDTH)},
                                   {"targets", lk_vector(LK_I64, b.y, ROWS)},
                                   {NULL, lk_scalar(LK_F32, NULL)}};
            const lk_named out[] = {
                {"loss", lk_scalar(LK_F32, &loss)},
                {"grad.logits", lk_matrix(LK_F32, in_place ? b.x : apart, ROWS, WIDTH)},
                {NULL, lk_scalar(LK_F32, NULL)}};
            lk_error error;
            assert_int_equal(lk_evaluate("cross_entropy", options[k], in, out, &error), LK_OK);
        }
        if (memcmp(b.x, apart, bytes_of(&b)) != 0)
            fail_msg("%s, %s: other bits in place", lk_isa_used(),
                     options[k][0] ? options[k][0] : "plain");
        free(apart);
        batch_free(&b);
    }
}

static void test_long(void **unused)
{
    (void)unused;
    each_isa(check_long);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
