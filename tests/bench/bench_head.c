/* SPDX-License-Identifier: MIT
 *
 * Times the linear head of a language model, loss and gradient of the hidden states: by type, on
 * one thread and on two, as products by second beside those of sgemm of OpenBLAS, where it is
 * installed; how much memory it takes besides its tensors; and how many bytes hidden states have
 * beside logits. Medians of runs that take turns.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "losskit.h"

enum { TURNS = 7, ROWS = 256, WIDTH = 768, CLASSES = 50257 };

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

static double median(double *x)
{
    qsort(x, TURNS, sizeof *x, by_value);
    return x[TURNS / 2];
}

static void *need(void *p)
{
    if (!p)
        exit(1);
    return p;
}

static void *room(size_t bytes)
{
    return need(aligned_alloc(64, (bytes + 63) / 64 * 64));
}

/* Numbers from -most to most, as f32 or bf16. */
static void *random_numbers(int64_t n, float most, lk_dtype dtype)
{
    const size_t size = lk_dtype_size(dtype);
    char *to = room((size_t)n * size);
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        const float x = (float)(int32_t)state * 0x1p-31f * most;
        memcpy(to + i * (int64_t)size, (const char *)&x + sizeof x - size, size);
    }
    return to;
}

typedef struct head {
    lk_dtype dtype;
    void *hidden, *weight, *grad;
    int64_t *targets;
    char *scratch; /* for two */
    size_t scratch_size;
} head;

static lk_call *planned(head *h, float *loss)
{
    lk_call *call =
        need(lk_call_new(need((void *)(uintptr_t)lk_loss_find("linear_cross_entropy"))));
    const lk_tensor hidden = lk_matrix(h->dtype, h->hidden, ROWS, WIDTH);
    const lk_tensor weight = lk_matrix(h->dtype, h->weight, CLASSES, WIDTH);
    const lk_tensor targets = lk_vector(LK_I64, h->targets, ROWS);
    lk_error error;
    if (lk_call_input(call, "hidden", &hidden, &error) != LK_OK ||
        lk_call_input(call, "weight", &weight, &error) != LK_OK ||
        lk_call_input(call, "targets", &targets, &error) != LK_OK ||
        lk_call_check(call, &error) != LK_OK || lk_call_bind(call, 0, loss) != LK_OK ||
        lk_call_bind(call, 1, h->grad) != LK_OK || lk_call_plan(call, &error) != LK_OK)
        exit(1);
    if (!h->scratch) {
        h->scratch_size = (lk_call_scratch(call) + 63) / 64 * 64;
        h->scratch = room(2 * h->scratch_size);
    }
    return call;
}

typedef struct shard {
    lk_call *call;
    int64_t first, count;
    void *scratch;
} shard;

static void *run(void *p)
{
    const shard *s = p;
    lk_call_run(s->call, s->first, s->count, s->scratch);
    return NULL;
}

static double timed(head *h, int threads)
{
    float loss;
    const double start = now();
    lk_call *call = planned(h, &loss);
    do {
        const int64_t blocks = lk_call_blocks(call), half = threads == 2 ? blocks / 2 : 0;
        shard s[2] = {{call, 0, half, h->scratch + h->scratch_size},
                      {call, half, blocks - half, h->scratch}};
        pthread_t thread;
        if (threads == 2 && pthread_create(&thread, NULL, run, &s[0]) != 0)
            exit(1);
        run(&s[1]);
        if (threads == 2)
            pthread_join(thread, NULL);
    } while (lk_call_next(call));
    if (lk_call_finish(call, NULL) != LK_OK)
        exit(1);
    lk_call_free(call);
    return now() - start;
}

static void (*cblas_sgemm)(int, int, int, int, int, int, float, const float *, int, const float *,
                           int, float, float *, int);

/* The two products that a loss with its gradient is made of. */
static double by_openblas(const head *h, float *logits)
{
    enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 };
    const double start = now();
    cblas_sgemm(ROW_MAJOR, AS_IT_IS, TRANSPOSED, ROWS, CLASSES, WIDTH, 1, h->hidden, WIDTH,
                h->weight, WIDTH, 0, logits, CLASSES);
    cblas_sgemm(ROW_MAJOR, AS_IT_IS, AS_IT_IS, ROWS, WIDTH, CLASSES, 1, logits, CLASSES, h->weight,
                WIDTH, 0, h->grad, WIDTH);
    return now() - start;
}

static head make(lk_dtype dtype)
{
    head h = {.dtype = dtype};
    h.hidden = random_numbers((int64_t)ROWS * WIDTH, 1.7f, dtype);
    h.weight = random_numbers((int64_t)CLASSES * WIDTH, 0.08f, dtype);
    h.grad = random_numbers((int64_t)ROWS * WIDTH, 0, dtype);
    h.targets = room(ROWS * sizeof *h.targets);
    for (int64_t i = 0; i < ROWS; i++)
        h.targets[i] = i * 7919 % CLASSES;
    return h;
}

static double most_memory(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)use.ru_maxrss / 1024;
}

/* MiB that an evaluation takes besides its tensors, in a process of its own. */
static void print_memory(lk_dtype dtype, int threads)
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        head h = make(dtype);
        const double before = most_memory();
        (void)timed(&h, threads);
        printf("%s, %d thread%s: %.1f MiB besides its tensors\n", lk_dtype_name(dtype), threads,
               threads == 1 ? "" : "s", most_memory() - before);
        fflush(stdout);
        _exit(0);
    }
    if (child < 0 || waitpid(child, NULL, 0) != child)
        exit(1);
}

static void print(const char *what, double seconds)
{
    const double work = 4e-9 * ROWS * WIDTH * CLASSES;
    printf("%-24s %9.1f ms %9.1f GFLOP/s\n", what, seconds * 1e3, work / seconds);
}

/* The instruction set may be named. */
int main(int argc, char **argv)
{
    if (argc > 1 && !lk_isa_use(argv[1]))
        return 1;
    printf("\nlinear head, %d rows of %d, %d classes, loss and grad.hidden, %s\n", ROWS, WIDTH,
           CLASSES, lk_isa_used());
    for (int threads = 1; threads <= 2; threads++) {
        print_memory(LK_F32, threads);
        print_memory(LK_BF16, threads);
    }
    head f32 = make(LK_F32), bf16 = make(LK_BF16);
    float *logits = room(sizeof *logits * ROWS * CLASSES);
    double t[5][TURNS];
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    void *found = library ? dlsym(library, "cblas_sgemm") : NULL;
    memcpy(&cblas_sgemm, &found, sizeof found);
    for (int i = 0; i < TURNS; i++) {
        t[0][i] = timed(&f32, 1);
        t[1][i] = timed(&f32, 2);
        t[2][i] = timed(&bf16, 1);
        t[3][i] = timed(&bf16, 2);
        t[4][i] = cblas_sgemm ? by_openblas(&f32, logits) : 0;
    }
    print("f32, one thread", median(t[0]));
    print("f32, two threads", median(t[1]));
    print("bf16, one thread", median(t[2]));
    print("bf16, two threads", median(t[3]));
    if (cblas_sgemm)
        print("sgemm alone, one thread", median(t[4]));
    printf("a row is %zu bytes of f32 as hidden state, and %zu as logits: %.0f times as many\n",
           WIDTH * sizeof(float), CLASSES * sizeof(float), (double)CLASSES / WIDTH);
    return 0;
}
