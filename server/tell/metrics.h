/* SPDX-License-Identifier: MIT
 *
 * Metrics, and their Prometheus text. Each event loop counts in its own memory, so that they do not
 * wait for each other's cache lines; reading adds up what all have counted. Gauges are the same for
 * all threads.
 */
#ifndef LOSSD_METRICS_H
#define LOSSD_METRICS_H

#include "buffer.h"

#include <stdatomic.h>
#include <stdint.h>

enum {
    METRIC_BUCKETS = 41, /* upper bounds of 15 us * 1.5^k, and +Inf */
    METRIC_REGIONS = 3,  /* kinds of regions, in the order of region.h */
};

/* Only its own thread writes it, any thread may read it. */
typedef _Atomic uint64_t counter;

typedef struct histogram {
    counter count[METRIC_BUCKETS];
    _Atomic double sum;
} histogram;

typedef atomic_llong gauge;

#define COUNTER(name, help)
#define GAUGE(name, help)
#define HISTOGRAM(name, help)
#define REASON(code)

/* One member for each gauge of metrics.def. */
typedef struct gauges {
#undef GAUGE
#define GAUGE(name, help) gauge name;
#include "tell/metrics.def"
#undef GAUGE
#define GAUGE(name, help)
    gauge regions[METRIC_REGIONS], region_bytes[METRIC_REGIONS]; /* by kind */
} gauges;

extern gauges metric;

/* One member for each of the others. */
typedef struct metrics {
#undef COUNTER
#undef HISTOGRAM
#undef REASON
#define COUNTER(name, help)   counter name;
#define HISTOGRAM(name, help) histogram name;
#define REASON(code)          counter refused_##code;
#include "tell/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
#undef REASON
} metrics;

/* Those of this thread, which is one that runs an event loop; of no more than METRIC_THREADS. */
enum { METRIC_THREADS = 64 };
metrics *metrics_mine(void);

static inline void counter_add(counter *c, uint64_t n)
{
    const uint64_t before = atomic_load_explicit(c, memory_order_relaxed);
    atomic_store_explicit(c, before + n, memory_order_relaxed);
}

/* Add to a counter, by its name in metrics.def. */
#define metrics_count(name, n) counter_add(&metrics_mine()->name, n)

void metrics_observe(histogram *h, double seconds);

/* Durations of one evaluation in seconds: the total, from the head to the last byte sent, and its
 * steps. */
typedef struct timing {
    double total, queue, decode, compute, encode;
} timing;

/* Record the end of an evaluation. */
void metrics_timing(int loss, bool success, const timing *t);

/* Statistics of a loss since the start: counts; sums of the durations of successful evaluations,
 * and fail_time of the others; time of the last one, in ms since 1970 (0: never). */
typedef struct tally {
    uint64_t success, fail, last_ms;
    timing sum;
    double fail_time;
} tally;

tally metrics_tally(int loss);

/* Count an answered evaluation. `loss` is its index in the library, `codec` the index of its body
 * format; any other number counts as unknown, or as none. */
void metrics_request(int loss, int codec, int status);
void metrics_elements(int loss, int64_t count);

/* Count a request that was refused with that code; unknown codes and NULL are not counted. */
void metrics_refused(const char *code);

/* Write the Prometheus text. `codec` returns the name of a body format by its index, including the
 * index that means none. */
void metrics_write(buffer *to, const char *(*codec)(int));

#endif
