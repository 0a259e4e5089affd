/* SPDX-License-Identifier: MIT
 *
 * Times the kernels beside memcpy of the same tensor, in one run: pairs are interleaved and the
 * medians compared as a ratio, since the machine may be shared.
 */
#include <losskit.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAIRS = 15 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

/* Bits of an element of any type that is a moderate score: what the time does not depend on. */
static void fill(lk_dtype dtype, void *data, int64_t n)
{
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        double wide = (double)(int32_t)state * 0x1p-29;
        float single = (float)wide;
        uint32_t bits;
        memcpy(&bits, &single, sizeof bits);
        uint16_t half = (uint16_t)(bits >> 16);
        if (dtype == LK_F64)
            memcpy((char *)data + i * 8, &wide, sizeof wide);
        else if (dtype == LK_F32)
            memcpy((char *)data + i * 4, &single, sizeof single);
        else /* as f16 these bits are other numbers, finite ones all the same */
            memcpy((char *)data + i * 2, &half, sizeof half);
    }
}

static double evaluate(const char *loss, const lk_named *in, bool gradient, void *grad)
{
    static char *scratch;
    static size_t size;
    lk_error error;
    double start = now(), value;
    lk_call *call = lk_call_new(lk_loss_find(loss));
    for (const lk_named *i = in; i->name; i++)
        lk_call_input(call, i->name, &i->tensor, &error);
    lk_call_want(call, "loss", &error);
    if (gradient)
        lk_call_want(call, "grad.logits", &error);
    if (lk_call_check(call, &error) != LK_OK || lk_call_bind(call, 0, &value) != LK_OK ||
        (gradient && lk_call_bind(call, 1, grad) != LK_OK) || lk_call_plan(call, &error) != LK_OK) {
        fprintf(stderr, "%s\n", error.text);
        exit(1);
    }
    if (lk_call_scratch(call) > size) { /* a service keeps it, too */
        free(scratch);
        size = (lk_call_scratch(call) + 63) / 64 * 64;
        scratch = aligned_alloc(64, size);
        if (!scratch)
            exit(1);
    }
    lk_call_run(call, 0, lk_call_blocks(call), scratch);
    if (lk_call_finish(call, &error) != LK_OK)
        exit(1);
    lk_call_free(call);
    return now() - start;
}

static void row(lk_dtype dtype, int64_t rows, int64_t classes)
{
    int64_t n = rows * classes;
    size_t bytes = (size_t)n * lk_dtype_size(dtype);
    /* As lossd, NumPy and PyTorch have their tensors: at the beginning of a line. */
    const size_t size = (bytes + 63) / 64 * 64;
    char *x = aligned_alloc(64, size), *g = aligned_alloc(64, size);
    char *copy = aligned_alloc(64, size);
    int64_t *y = malloc((size_t)rows * sizeof *y);
    double t[4][PAIRS];
    if (!x || !g || !copy || !y)
        exit(1);
    fill(dtype, x, n);
    memset(g, 1, bytes);
    memset(copy, 1, bytes);
    for (int64_t i = 0; i < rows; i++)
        y[i] = i * 7919 % classes;
    lk_named in[] = {{"logits", lk_matrix(dtype, x, rows, classes)},
                     {"targets", lk_vector(LK_I64, y, rows)},
                     {NULL, lk_scalar(LK_F32, NULL)}};
    for (int k = 0; k < PAIRS; k++) {
        double start = now();
        memcpy(copy, x, bytes);
        t[0][k] = now() - start;
        t[1][k] = evaluate("cross_entropy", in, true, g);
        t[2][k] = evaluate("cross_entropy", in, false, NULL);
        memcpy(g, x, bytes);
        in[0].tensor.data = g;
        t[3][k] = evaluate("cross_entropy", in, true, g);
        in[0].tensor.data = x;
    }
    double base = median(t[0], PAIRS);
    printf("%-5s %6lldx%-7lld %8.2f ms %8.2f %8.2f %8.2f   %6.3f ns\n", lk_dtype_name(dtype),
           (long long)rows, (long long)classes, base * 1e3, median(t[1], PAIRS) / base,
           median(t[3], PAIRS) / base, median(t[2], PAIRS) / base,
           median(t[1], PAIRS) / (double)n * 1e9);
    free(x);
    free(g);
    free(copy);
    free(y);
}

int main(void)
{
    static const struct {
        int64_t rows, classes;
    } shapes[] = {{48000, 128}, {6144, 1000}, {192, 32000}, {128, 50257}, {40, 151936}};
    for (int i = 0; i < lk_isa_count(); i++) {
        if (!lk_isa_use(lk_isa_name(i)))
            continue;
        printf("cross_entropy, %s, one thread, as multiples of memcpy of the logits (median of %d "
               "interleaved pairs)\n%-5s %-14s %11s %8s %8s %8s   %s\n",
               lk_isa_used(), PAIRS, "type", "shape", "memcpy", "grad", "in place", "value",
               "grad per logit");
        for (lk_dtype d = LK_F64; d <= LK_BF16; d++)
            for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
                if (d != LK_F64 || k == 3)
                    row(d, shapes[k].rows, shapes[k].classes);
    }
    return 0;
}
