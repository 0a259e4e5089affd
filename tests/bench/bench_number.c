/* SPDX-License-Identifier: MIT
 *
 * How fast numbers are read from and written as text, compared with jansson on the same numbers.
 * Prints MB of text per second (medians) and the ratio of the median times. The measurements
 * alternate, so that a slow moment of the machine affects all of them. jansson builds and reads a
 * tree of values, and the ratio includes the cost of the tree.
 *
 * usage: bench_number [repetitions]
 */
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "timing.h"
#include "wire/number.h"

enum { COUNT = 200000, MOST_REPETITIONS = 1001 };

static uint64_t state = 1;

static uint64_t next_random(void)
{
    state += 0x9E3779B97F4A7C15U;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

static void fail(const char *what)
{
    fprintf(stderr, "bench_number: %s\n", what);
    exit(1);
}

static double values[COUNT];
static double sink;

static size_t write_all(char *text, bool wide)
{
    char *p = text;
    for (int i = 0; i < COUNT; i++) {
        *p++ = i > 0 ? ',' : '[';
        p = wide ? number_write_f64(p, values[i]) : number_write_f32(p, (float)values[i]);
    }
    *p++ = ']';
    return (size_t)(p - text);
}

static void read_all(const char *text, size_t size)
{
    const char *p = text, *end = text + size;
    double x = 0, sum = 0;
    while (*p != ']') {
        p = number_read(p + 1, end, &x);
        if (p == NULL)
            fail("number_read");
        sum += x;
    }
    sink += sum;
}

static void run(const char *name, bool wide, int repetitions)
{
    static char text[COUNT * 32 + NUMBER_ROOM], other[COUNT * 32];
    static double times[4][MOST_REPETITIONS];
    size_t size = write_all(text, wide), other_size = 0;
    size_t flags = JSON_COMPACT | (size_t)JSON_REAL_PRECISION(wide ? 17 : 9);
    for (int r = -1; r < repetitions; r++) { /* the first to warm up */
        double start = now();
        read_all(text, size);
        double t0 = now();
        json_error_t error;
        json_t *tree = json_loadb(text, size, 0, &error);
        double t1 = now();
        if (tree == NULL)
            fail(error.text);
        double t2 = now();
        write_all(text, wide);
        double t3 = now();
        other_size = json_dumpb(tree, other, sizeof other, flags);
        double t4 = now();
        if (other_size == 0 || other_size > sizeof other)
            fail("json_dumpb");
        json_decref(tree);
        if (r >= 0) {
            times[0][r] = t0 - start;
            times[1][r] = t1 - t0;
            times[2][r] = t3 - t2;
            times[3][r] = t4 - t3;
        }
    }
    double m[4];
    for (int i = 0; i < 4; i++)
        m[i] = median(times[i], repetitions);
    double mb = (double)size * 1e-6, other_mb = (double)other_size * 1e-6;
    printf("%-26s %5.1f %8.0f %8.0f %6.1f %8.0f %8.0f %6.1f\n", name, (double)size / COUNT,
           mb / m[0], mb / m[1], m[1] / m[0], mb / m[2], other_mb / m[3], m[3] / m[2]);
}

int main(int argc, char **argv)
{
    int repetitions = argc > 1 ? atoi(argv[1]) : 31;
    if (repetitions < 1 || repetitions > MOST_REPETITIONS)
        fail("usage: bench_number [repetitions]");
    printf("%-26s %5s %24s %24s\n", "", "bytes", "read, MB/s", "write, MB/s");
    printf("%-26s %5s %8s %8s %6s %8s %8s %6s\n", "numbers", "each", "number", "jansson", "ratio",
           "number", "jansson", "ratio");
    for (int wide = 0; wide < 2; wide++) {
        for (int i = 0; i < COUNT; i++) {
            double u = (double)(next_random() >> 11) * 0x1p-53 * 2 - 1;
            values[i] = wide ? u : (double)(float)u;
        }
        run(wide ? "f64, -1 to 1" : "f32, -1 to 1", wide, repetitions);
        for (int i = 0; i < COUNT; i++) {
            double x;
            do {
                uint64_t bits = next_random();
                uint32_t half = (uint32_t)bits;
                float y;
                memcpy(&x, &bits, sizeof x);
                memcpy(&y, &half, sizeof y);
                x = wide ? x : (double)y;
            } while (!isfinite(x));
            values[i] = x;
        }
        run(wide ? "f64, any finite" : "f32, any finite", wide, repetitions);
        for (int i = 0; i < COUNT; i++)
            values[i] = (double)(next_random() % 200001) / 1000 - 100;
        run(wide ? "f64, three decimals" : "f32, three decimals", wide, repetitions);
    }
    return isnan(sink);
}
