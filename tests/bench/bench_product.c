/* SPDX-License-Identifier: MIT
 *
 * Times the matrix product of the embedding losses (lib/rows/product.h), f32, compared with sgemm
 * of OpenBLAS and oneDNN where their libraries are installed, on one thread, and with itself on
 * two. All of them take turns, and medians are printed, because the machine may be shared.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LK_VARIANT scalar_F32
#define LK_ELEMENT_F32
#define LK_VECTOR_BYTES 0
#include "rows/product.h"
#include "timing.h"

enum { TURNS = 41 };

static void *need(void *p)
{
    if (!p)
        exit(1);
    return p;
}

static float *random_floats(int64_t n)
{
    float *x = need(aligned_alloc(64, ((size_t)n * sizeof *x + 63) / 64 * 64));
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)state * 0x1p-31f;
    }
    return x;
}

/* The product of the instruction set that is used. */
typedef void multiply(const product_side *, const product_side *, int64_t, bool, float *, int64_t,
                      void *);

#define ISA(isa, runs)                                                                             \
    multiply lk_##isa##_F32_product;                                                               \
    size_t lk_##isa##_F32_product_scratch(int64_t, int64_t);
#include "isas.def"
#undef ISA

static multiply *run;
static size_t (*room_for)(int64_t, int64_t);

static void choose(void)
{
#define ISA(isa, runs)                                                                             \
    if (strcmp(lk_isa_used(), #isa) == 0) {                                                        \
        run = lk_##isa##_F32_product;                                                              \
        room_for = lk_##isa##_F32_product_scratch;                                                 \
    }
#include "isas.def"
}

/* a b', a of rows x depth, b of columns x depth. */
typedef struct problem {
    int64_t rows, columns, depth;
    const float *a, *b;
    float *out;
    char *scratch; /* for two */
    size_t scratch_size;
} problem;

static void ours(const problem *p)
{
    const product_side a = product_vectors(p->a, p->rows, p->depth);
    const product_side b = product_vectors(p->b, p->columns, p->depth);
    run(&a, &b, p->depth, false, p->out, p->columns, p->scratch);
}

static void *on_thread(void *p)
{
    ours(p);
    return NULL;
}

static void ours_on_two(const problem *p)
{
    problem first = *p, second = *p;
    pthread_t thread;
    first.rows /= 2;
    second.rows -= first.rows;
    second.a += first.rows * p->depth;
    second.out += first.rows * p->columns;
    second.scratch += p->scratch_size;
    if (pthread_create(&thread, NULL, on_thread, &second) != 0)
        exit(1);
    ours(&first);
    pthread_join(thread, NULL);
}

/* Libraries of others: functions of shared objects, which may not be there. */

static void *find(const char *const *names, const char *symbol)
{
    for (; *names; names++) {
        void *library = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
        void *found = library ? dlsym(library, symbol) : NULL;
        if (found)
            return found;
    }
    return NULL;
}

static const char *const openblas[] = {"libopenblas.so.0", NULL};
static const char *const onednn[] = {"libdnnl.so.3", "libdnnl.so.2", NULL};

static void (*cblas_sgemm)(int, int, int, int, int, int, float, const float *, int, const float *,
                           int, float, float *, int);
static int (*dnnl_sgemm)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t,
                         const float *, int64_t, float, float *, int64_t);

static void by_openblas(const problem *p)
{
    enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 };
    cblas_sgemm(ROW_MAJOR, AS_IT_IS, TRANSPOSED, (int)p->rows, (int)p->columns, (int)p->depth, 1,
                p->a, (int)p->depth, p->b, (int)p->depth, 0, p->out, (int)p->columns);
}

static void by_onednn(const problem *p)
{
    dnnl_sgemm('N', 'T', p->rows, p->columns, p->depth, 1, p->a, p->depth, p->b, p->depth, 0,
               p->out, p->columns);
}

static double timed(void (*multiply_by)(const problem *), const problem *p)
{
    const double start = now();
    multiply_by(p);
    return now() - start;
}

static void row(int64_t rows, int64_t columns, int64_t depth)
{
    problem p = {.rows = rows, .columns = columns, .depth = depth};
    float *const a = random_floats(rows * depth), *const b = random_floats(columns * depth);
    double t[4][TURNS];
    p.a = a;
    p.b = b;
    p.out = random_floats(rows * columns);
    p.scratch_size = room_for(rows, depth);
    p.scratch = need(aligned_alloc(64, 2 * p.scratch_size));
    for (int i = 0; i < TURNS; i++) {
        t[0][i] = timed(ours, &p);
        t[1][i] = timed(ours_on_two, &p);
        t[2][i] = cblas_sgemm ? timed(by_openblas, &p) : 0;
        t[3][i] = dnnl_sgemm ? timed(by_onednn, &p) : 0;
    }
    const double one = median(t[0], TURNS),
                 work = 2e-9 * (double)rows * (double)columns * (double)depth;
    printf("%5lldx%-6lldx%-5lld %8.2f ms %8.1f GFLOP/s %7.2f x", (long long)rows,
           (long long)columns, (long long)depth, one * 1e3, work / one, one / median(t[1], TURNS));
    for (int other = 2; other < 4; other++) {
        const double theirs = median(t[other], TURNS);
        if (theirs > 0)
            printf(" %9.2f", theirs / one);
        else
            printf(" %9s", "-");
    }
    printf("\n");
    free(a);
    free(b);
    free(p.out);
    free(p.scratch);
}

/* The instruction set may be named. */
int main(int argc, char **argv)
{
    if (argc > 1 && !lk_isa_use(argv[1]))
        return 1;
    /* Of one thread: oneDNN's OpenMP reads it when it is loaded. */
    setenv("OMP_NUM_THREADS", "1", 1);
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
    choose();
    void *found = find(openblas, "cblas_sgemm");
    memcpy(&cblas_sgemm, &found, sizeof found);
    found = find(onednn, "dnnl_sgemm");
    memcpy(&dnnl_sgemm, &found, sizeof found);
    printf(
        "\nmatrix products, f32, %s, one thread: two threads as so many times one, and the speed "
        "as a multiple of sgemm's\n%-18s %11s %16s %9s %9s %9s\n",
        lk_isa_used(), "rows, columns, depth", "time", "speed", "two", "OpenBLAS", "oneDNN");
    row(1024, 1024, 768);
    row(2048, 2048, 768);
    row(256, 10000, 512);
    row(64, 50257, 768);
    row(64, 64, 128);
    return 0;
}
