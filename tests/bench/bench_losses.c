/* SPDX-License-Identifier: MIT
 *
 * Times the kernels compared with memcpy of the same tensor. The two alternate, and the ratio of
 * their medians is printed, because the machine may be shared.
 */
#define _DEFAULT_SOURCE /* sysconf's caches */
#include <losskit.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "timing.h"

enum { PAIRS = 15 };

/* The bits of a moderate score of any type; the time does not depend on its value. */
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

/* Each of two threads does half of the work. */
typedef struct half {
    void (*run)(const struct half *); /* of blocks, or of bytes */
    lk_call *call;
    int64_t first, count;
    char *to, *scratch;
    const char *from;
} half;

static void run_blocks(const half *h)
{
    lk_call_run(h->call, h->first, h->count, h->scratch);
}

static void run_copy(const half *h)
{
    memcpy(h->to + h->first, h->from + h->first, (size_t)h->count);
}

static void *on_thread(void *h)
{
    ((const half *)h)->run(h);
    return NULL;
}

static void in_two(half whole, char *other_scratch)
{
    half second = whole;
    pthread_t thread;
    whole.count /= 2;
    second.first += whole.count;
    second.count -= whole.count;
    second.scratch = other_scratch;
    if (pthread_create(&thread, NULL, on_thread, &second) != 0)
        exit(1);
    whole.run(&whole);
    pthread_join(thread, NULL);
}

static double evaluate(const char *loss, const lk_named *in, bool gradient, void *grad, int threads)
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
        scratch = aligned_alloc(64, 2 * size);
        if (!scratch)
            exit(1);
    }
    const half whole = {run_blocks, call, 0, lk_call_blocks(call), NULL, scratch, NULL};
    if (threads == 2)
        in_two(whole, scratch + size);
    else
        run_blocks(&whole);
    if (lk_call_finish(call, &error) != LK_OK)
        exit(1);
    lk_call_free(call);
    return now() - start;
}

/* Logits and targets, and room for a gradient and a copy. */
typedef struct batch {
    size_t bytes;
    char *x, *g, *copy;
    int64_t *y;
    lk_named in[3];
} batch;

static batch batch_new(lk_dtype dtype, int64_t rows, int64_t classes)
{
    batch b = {.bytes = (size_t)(rows * classes) * lk_dtype_size(dtype)};
    /* At the beginning of a cache line, as in lossd, NumPy and PyTorch. */
    const size_t size = (b.bytes + 63) / 64 * 64;
    b.x = aligned_alloc(64, size);
    b.g = aligned_alloc(64, size);
    b.copy = aligned_alloc(64, size);
    b.y = malloc((size_t)rows * sizeof *b.y);
    if (!b.x || !b.g || !b.copy || !b.y)
        exit(1);
    fill(dtype, b.x, rows * classes);
    memset(b.g, 1, b.bytes);
    memset(b.copy, 1, b.bytes);
    for (int64_t i = 0; i < rows; i++)
        b.y[i] = i * 7919 % classes;
    b.in[0] = (lk_named){"logits", lk_matrix(dtype, b.x, rows, classes)};
    b.in[1] = (lk_named){"targets", lk_vector(LK_I64, b.y, rows)};
    b.in[2] = (lk_named){NULL, lk_scalar(LK_F32, NULL)};
    return b;
}

static void batch_free(batch *b)
{
    free(b->x);
    free(b->g);
    free(b->copy);
    free(b->y);
}

/* One read of the whole tensor; using the values costs almost nothing. */
static void read_all(const batch *b)
{
    typedef uint64_t words __attribute__((vector_size(64), aligned(64)));
    static volatile uint64_t sink;
    words sum[4] = {{0}, {0}, {0}, {0}};
    const words *x = (const words *)b->x;
    for (size_t k = 0; k + 4 <= b->bytes / sizeof *x; k += 4)
        for (int i = 0; i < 4; i++)
            sum[i] |= x[k + (size_t)i];
    sink = sum[0][0] | sum[1][0] | sum[2][0] | sum[3][0];
    (void)sink;
}

static void row(lk_dtype dtype, int64_t rows, int64_t classes, int pairs)
{
    batch b = batch_new(dtype, rows, classes);
    lk_named *in = b.in;
    char *x = b.x, *g = b.g;
    const size_t bytes = b.bytes;
    double t[5][PAIRS];
    for (int k = 0; k < pairs; k++) {
        double start = now();
        memcpy(b.copy, x, bytes);
        t[0][k] = now() - start;
        t[1][k] = evaluate("cross_entropy", in, true, g, 1);
        start = now();
        read_all(&b);
        t[4][k] = now() - start;
        t[2][k] = evaluate("cross_entropy", in, false, NULL, 1);
        memcpy(g, x, bytes);
        in[0].tensor.data = g;
        t[3][k] = evaluate("cross_entropy", in, true, g, 1);
        in[0].tensor.data = x;
    }
    double base = median(t[0], pairs), read = median(t[4], pairs), value = median(t[2], pairs);
    printf("%-5s %6lldx%-7lld %8.2f ms %8.2f %8.2f %8.2f %8.2f   %6.3f ns\n", lk_dtype_name(dtype),
           (long long)rows, (long long)classes, base * 1e3, median(t[1], pairs) / base,
           median(t[3], pairs) / base, value / base, value / read,
           median(t[1], pairs) / (double)(rows * classes) * 1e9);
    batch_free(&b);
}

static void table(const char *what, int pairs, const lk_dtype *dtypes, size_t megabytes)
{
    static const int64_t classes[] = {128, 1000, 32000, 50257, 151936};
    printf("cross_entropy, %s, one thread, %s, as multiples of memcpy of the logits, and of one "
           "read of them (median of %d interleaved pairs)\n%-5s %-14s %11s %8s %8s %8s %8s   %s\n",
           lk_isa_used(), what, pairs, "type", "shape", "memcpy", "grad", "in place", "value",
           "of read", "grad per logit");
    for (const lk_dtype *d = dtypes; *d != LK_ANY; d++)
        for (size_t k = 0; k < sizeof classes / sizeof *classes; k++) {
            const int64_t logits = megabytes ? (int64_t)((megabytes << 20) / lk_dtype_size(*d))
                                             : 6200000; /* a common batch of them */
            if (*d != LK_F64 || classes[k] == 50257)
                row(*d, (logits + classes[k] - 1) / classes[k], classes[k], pairs);
        }
}

/* Twice the work must take twice the time. */
static void linear(void)
{
    static const struct {
        int64_t rows, classes;
    } shapes[] = {{8, 1000},  {80, 1000},  {800, 1000},  {8000, 1000},
                  {16, 1000}, {16, 10000}, {16, 100000}, {16, 1000000}};
    printf("\ncross_entropy with its gradient, f32, %s, one thread, by rows and by classes\n",
           lk_isa_used());
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        batch b = batch_new(LK_F32, shapes[k].rows, shapes[k].classes);
        double t[PAIRS];
        for (int i = 0; i < PAIRS; i++)
            t[i] = evaluate("cross_entropy", b.in, true, b.g, 1);
        printf("%8lldx%-9lld %6.3f ns per logit\n", (long long)shapes[k].rows,
               (long long)shapes[k].classes,
               median(t, PAIRS) * 1e9 / (double)(shapes[k].rows * shapes[k].classes));
        batch_free(&b);
    }
}

static void two_threads(void)
{
    static const struct {
        int64_t rows, classes;
    } shapes[] = {{1000, 1000}, {6144, 1000}, {128, 50257}};
    printf("\ncross_entropy with its gradient, f32, %s: one thread's time as a multiple of two's\n"
           "%16s %14s %8s\n",
           lk_isa_used(), "shape", "cross_entropy", "memcpy");
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        batch b = batch_new(LK_F32, shapes[k].rows, shapes[k].classes);
        const half all = {run_copy, NULL, 0, (int64_t)b.bytes, b.copy, NULL, b.x};
        double t[4][PAIRS];
        for (int i = 0; i < PAIRS; i++) {
            double start = now();
            run_copy(&all);
            t[0][i] = now() - start;
            start = now();
            in_two(all, NULL);
            t[1][i] = now() - start;
            t[2][i] = evaluate("cross_entropy", b.in, true, b.g, 1);
            t[3][i] = evaluate("cross_entropy", b.in, true, b.g, 2);
        }
        printf("%8lldx%-7lld %12.2f x %6.2f x\n", (long long)shapes[k].rows,
               (long long)shapes[k].classes, median(t[2], PAIRS) / median(t[3], PAIRS),
               median(t[0], PAIRS) / median(t[1], PAIRS));
        batch_free(&b);
    }
}

/* What weights and masks of an element-wise loss cost. */
static void weighted(void)
{
    enum { ROWS = 4096, LABELS = 1024, N = ROWS * LABELS };
    batch b = batch_new(LK_F32, ROWS, LABELS);
    const size_t bytes = (size_t)N * sizeof(float);
    float *y = aligned_alloc(64, bytes), *w = aligned_alloc(64, bytes);
    unsigned char *mask = malloc(N);
    if (!y || !w || !mask)
        exit(1);
    for (int64_t i = 0; i < N; i++) {
        y[i] = (float)(i * 7919 % 1000) / 1000;
        w[i] = (float)(i * 104729 % 1000 + 1) / 500;
        mask[i] = i * 7919 % 5 != 0;
    }
    const struct {
        const char *text, *name;
        lk_tensor tensor;
    } more[] = {
        {"none", NULL, lk_scalar(LK_F32, NULL)},
        {"weight of each element", "weight", lk_matrix(LK_F32, w, ROWS, LABELS)},
        {"weight of each row", "weight", lk_matrix(LK_F32, w, ROWS, 1)},
        {"pos_weight of each label", "pos_weight", lk_vector(LK_F32, w, LABELS)},
        {"mask", "mask", lk_matrix(LK_BOOL, mask, ROWS, LABELS)},
    };
    enum { MORE = sizeof more / sizeof *more };
    double t[2 * MORE][PAIRS], copy[PAIRS];
    for (int k = 0; k < PAIRS; k++) {
        double start = now();
        memcpy(b.copy, b.x, b.bytes);
        copy[k] = now() - start;
        for (int i = 0; i < MORE; i++) {
            const lk_named in[] = {{"logits", lk_matrix(LK_F32, b.x, ROWS, LABELS)},
                                   {"targets", lk_matrix(LK_F32, y, ROWS, LABELS)},
                                   {more[i].name, more[i].tensor},
                                   {NULL, lk_scalar(LK_F32, NULL)}};
            for (int threads = 1; threads <= 2; threads++)
                t[2 * i + threads - 1][k] = evaluate("bce_with_logits", in, true, b.g, threads);
        }
    }
    const double base = median(copy, PAIRS);
    printf("\nbce_with_logits with its gradient, f32, %s, %dx%d, as multiples of memcpy of the "
           "logits (%.2f ms)\n%-26s %10s %12s\n",
           lk_isa_used(), ROWS, LABELS, base * 1e3, "weights", "one thread", "two threads");
    for (int i = 0; i < MORE; i++)
        printf("%-26s %10.2f %12.2f\n", more[i].text, median(t[2 * i], PAIRS) / base,
               median(t[2 * i + 1], PAIRS) / base);
    free(y);
    free(w);
    free(mask);
    batch_free(&b);
}

/* The size of the last-level cache in MiB, as the processor reports it. */
static size_t last_cache(void)
{
    const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    const long last = l3 > 0 ? l3 : l2;
    return last > 0 ? (size_t)last >> 20 : 32;
}

int main(void)
{
    static const lk_dtype all[] = {LK_F64, LK_F32, LK_F16, LK_BF16, LK_ANY};
    static const lk_dtype usual[] = {LK_F32, LK_F16, LK_BF16, LK_ANY};
    const size_t beyond = last_cache() * 5 / 4 + 1;
    char what[80];
    for (int i = 0; i < lk_isa_count(); i++)
        if (lk_isa_use(lk_isa_name(i)))
            table("about 6 million logits", PAIRS, all, 0);
    for (int i = 0; i < lk_isa_count() && !lk_isa_use(lk_isa_name(i)); i++)
        continue;
    (void)snprintf(what, sizeof what, "tensors of %zu MiB, more than the last-level cache", beyond);
    table(what, 5, usual, beyond);
    linear();
    two_threads();
    weighted();
    return 0;
}
