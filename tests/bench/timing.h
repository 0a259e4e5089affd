/* SPDX-License-Identifier: MIT
 *
 * What every timing here needs: clocks in seconds, and the median of what they measured.
 */
#ifndef BENCH_TIMING_H
#define BENCH_TIMING_H

#include <stdlib.h>
#include <time.h>

static inline double clock_seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline double now(void)
{
    return clock_seconds(CLOCK_MONOTONIC);
}

static inline int by_double(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of x[0..n-1], which are sorted. */
static inline double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_double);
    return x[n / 2];
}

#endif
