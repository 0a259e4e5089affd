/* SPDX-License-Identifier: MIT
 *
 * Matrix products (lib/rows/product.h) of every variant: the bits are those of the sums that the
 * header defines, computed here one by one, whatever the sizes, the place in memory, and the parts
 * that a product is cut into. Those sums are compared with sums in a wider type.
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
#include "tests/random.h"

/* The header is that of one variant; the functions of the others are declared below. */
#define LK_VARIANT scalar_F64
#define LK_ELEMENT_F64
#define LK_VECTOR_BYTES 0
#include "rows/product.h"

typedef void multiply(const product_side *rows, const product_side *columns, int64_t depth,
                      bool onto, void *out, int64_t stride, void *scratch);

typedef struct variant {
    const char *isa;
    lk_dtype element;
    multiply *run;
    size_t (*scratch)(int64_t rows, int64_t depth);
} variant;

#define DECLARE(isa, element, type)                                                                \
    void lk_##isa##_##element##_product(const product_side *, const product_side *, int64_t, bool, \
                                        type *, int64_t, void *);                                  \
    size_t lk_##isa##_##element##_product_scratch(int64_t, int64_t);                               \
    static void isa##_##element(const product_side *rows, const product_side *columns,             \
                                int64_t depth, bool onto, void *out, int64_t stride,               \
                                void *scratch)                                                     \
    {                                                                                              \
        lk_##isa##_##element##_product(rows, columns, depth, onto, out, stride, scratch);          \
    }
#define ISA(isa, runs)                                                                             \
    DECLARE(isa, F64, double)                                                                      \
    DECLARE(isa, F32, float)                                                                       \
    DECLARE(isa, F16, float)                                                                       \
    DECLARE(isa, BF16, float)
#include "isas.def"
#undef ISA

#define VARIANT(isa, element)                                                                      \
    {                                                                                              \
#isa, LK_##element, isa##_##element, lk_##isa##_##element##_product_scratch                \
    }
#define ISA(isa, runs) VARIANT(isa, F64), VARIANT(isa, F32), VARIANT(isa, F16), VARIANT(isa, BF16),
static const variant variants[] = {
#include "isas.def"
    {NULL, LK_F64, NULL, NULL}};

static bool runs(const variant *v)
{
    for (int i = 0; i < lk_isa_count(); i++)
        if (strcmp(lk_isa_name(i), v->isa) == 0)
            return lk_isa_runs(i);
    return false;
}

static size_t real_size(const variant *v)
{
    return v->element == LK_F64 ? sizeof(double) : sizeof(float);
}

static double one_fma(const variant *v, double a, double b, double c)
{
    return v->element == LK_F64 ? fma(a, b, c) : (double)fmaf((float)a, (float)b, (float)c);
}

static double one_sum(const variant *v, double a, double b)
{
    return v->element == LK_F64 ? a + b : (double)((float)a + (float)b);
}

/* Vectors of one side: their numbers, in the element type or as reals, in either order, at any
 * address. */
typedef struct side {
    product_side at;
    size_t size; /* bytes of a number */
    double *x;   /* the numbers, vector by vector */
    void *memory;
} side;

static void *need(void *p)
{
    assert_non_null(p);
    return p;
}

static side side_drawn(const variant *v, int64_t count, int64_t depth)
{
    const bool elements = random_int(0, 1) == 1, turned = random_int(0, 1) == 1;
    const lk_dtype computing = v->element == LK_F64 ? LK_F64 : LK_F32;
    const lk_dtype dtype = elements ? v->element : computing;
    const size_t size = dtype == LK_F64 ? 8 : dtype == LK_F32 ? 4 : 2;
    const int64_t line = (turned ? count : depth) + random_int(0, 3);
    const int64_t lines = turned ? depth : count;
    side s = {.size = size};
    s.x = need(malloc(sizeof(double) * (size_t)(count * depth + 1)));
    s.memory = need(malloc(size * (size_t)(line * lines) + 64));
    char *at = (char *)s.memory + random_int(0, 63);
    s.at = (product_side){.at = at, .elements = elements, .count = count};
    s.at.apart = turned ? 1 : line;
    s.at.step = turned ? line : 1;
    memset(s.memory, 0xff, size * (size_t)(line * lines) + 64); /* NaN, whatever the type */
    for (int64_t i = 0; i < count; i++) {
        for (int64_t k = 0; k < depth; k++) {
            /* Multiples of 2^-6 below 4: exact in every type. */
            const double x = (double)random_int(-255, 255) / 64;
            const double jitter = size > 2 ? (double)random_int(-999, 999) * 0x1p-22 : 0;
            const float narrow = (float)(x + jitter);
            const double wide = size == 8 ? x + jitter / 3 : (double)narrow;
            char *to = at + (size_t)(i * s.at.apart + k * s.at.step) * size;
            if (size == 8)
                memcpy(to, &wide, 8);
            else if (size == 4)
                memcpy(to, &narrow, 4);
            else
                lk_convert(&wide, LK_F64, to, dtype, 1);
            s.x[i * depth + k] = size == 2 ? x : wide;
        }
    }
    return s;
}

static void side_free(side *s)
{
    free(s->x);
    free(s->memory);
}

/* Vectors i.. of a side, from component k on. */
static product_side side_part(const side *s, int64_t i, int64_t count, int64_t k)
{
    product_side part = s->at;
    part.at = (const char *)s->at.at + (size_t)(i * s->at.apart + k * s->at.step) * s->size;
    part.count = count;
    return part;
}

static double read_real(const variant *v, const char *p)
{
    double wide;
    float narrow;
    memcpy(&wide, p, v->element == LK_F64 ? sizeof wide : 0);
    memcpy(&narrow, p, v->element == LK_F64 ? 0 : sizeof narrow);
    return v->element == LK_F64 ? wide : (double)narrow;
}

static void expect_sums(const variant *v, const side *a, const side *b, int64_t depth,
                        const char *out, int64_t stride)
{
    const double unit = v->element == LK_F64 ? 0x1p-53 : 0x1p-24;
    for (int64_t i = 0; i < a->at.count; i++) {
        for (int64_t j = 0; j < b->at.count; j++) {
            double total = 0, terms = 0;
            long double wide = 0;
            for (int64_t c = 0; c < depth; c += PRODUCT_TERMS) {
                double sum = 0;
                for (int64_t k = c; k < depth && k < c + PRODUCT_TERMS; k++) {
                    const double x = a->x[i * depth + k], y = b->x[j * depth + k];
                    sum = one_fma(v, x, y, sum);
                    wide += (long double)x * (long double)y;
                    terms += fabs(x * y);
                }
                total = c > 0 ? one_sum(v, total, sum) : sum;
            }
            const double got = read_real(v, out + (size_t)(i * stride + j) * real_size(v));
            if (got != total || fabs((double)(got - wide)) > 2 * PRODUCT_TERMS * unit * terms)
                fail_msg("%s, type %d, depth %d: element %d, %d is %.17g, not %.17g", v->isa,
                         v->element, (int)depth, (int)i, (int)j, got, total);
        }
    }
}

/* A product, whole and in parts, which must be the same. */
static void try_sizes(const variant *v, int64_t rows, int64_t columns, int64_t depth)
{
    side a = side_drawn(v, rows, depth), b = side_drawn(v, columns, depth);
    const int64_t stride = columns + random_int(0, 5);
    const size_t size = real_size(v) * (size_t)(rows * stride) + 64;
    char *memory = need(malloc(2 * size));
    char *whole = memory + random_int(0, 63), *parts = whole + size - 64;
    const size_t room_size = v->scratch(rows, depth);
    void *room = need(aligned_alloc(64, room_size > 0 ? room_size : 64));
    memset(memory, 0xff, 2 * size);
    v->run(&a.at, &b.at, depth, false, whole, stride, room);
    expect_sums(v, &a, &b, depth, whole, stride);

    const int64_t row = random_int(0, rows), column = random_int(0, columns);
    const int64_t cut = random_int(0, depth / PRODUCT_TERMS) * PRODUCT_TERMS;
    for (int part = 0; part < 8; part++) {
        const int64_t i = part & 1 ? row : 0, j = part & 2 ? column : 0, k = part & 4 ? cut : 0;
        const product_side some = side_part(&a, i, part & 1 ? rows - row : row, k);
        const product_side other = side_part(&b, j, part & 2 ? columns - column : column, k);
        const int64_t terms = part & 4 ? depth - cut : cut;
        if (terms > 0 || k == 0)
            v->run(&some, &other, terms, k > 0, parts + (size_t)(i * stride + j) * real_size(v),
                   stride, room);
    }
    if (cut == 0) /* its first part is empty, and the second was added to zeros */
        expect_sums(v, &a, &b, depth, parts, stride);
    else
        assert_memory_equal(whole, parts, real_size(v) * (size_t)(rows * stride));
    free(memory);
    free(room);
    side_free(&a);
    side_free(&b);
}

static void test_sizes(void **unused)
{
    (void)unused;
    random_state = 1;
    for (const variant *v = variants; v->isa; v++) {
        if (!runs(v))
            continue;
        for (int64_t n = 0; n <= 70; n++) {
            try_sizes(v, n, random_int(0, 70), random_int(0, 70));
            try_sizes(v, random_int(0, 70), n, random_int(0, 70));
            try_sizes(v, random_int(0, 70), random_int(0, 70), n);
        }
    }
}

/* More than a block of rows, of columns, of terms. */
static void test_blocks(void **unused)
{
    (void)unused;
    random_state = 2;
    for (const variant *v = variants; v->isa; v++) {
        if (!runs(v))
            continue;
        try_sizes(v, random_int(513, 700), random_int(1, 40), random_int(100, 140));
        try_sizes(v, random_int(1, 20), random_int(513, 1200), random_int(1, 20));
        try_sizes(v, random_int(1, 20), random_int(1, 60), random_int(1025, 2300));
        for (int64_t depth = 127; depth <= 129; depth++)
            try_sizes(v, random_int(1, 40), random_int(1, 40), depth);
        for (int i = 0; i < 8; i++)
            try_sizes(v, random_int(1, 40), random_int(1, 40), random_int(200, 900));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
