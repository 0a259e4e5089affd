/* SPDX-License-Identifier: MIT
 *
 * Metrics, and their Prometheus text. Loop thread only, except for gauges, which
 * are atomic.
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

typedef struct histogram {
    uint64_t count[METRIC_BUCKETS];
    double sum;
} histogram;

typedef atomic_llong gauge;

/* One member for each line of metrics.def. */
typedef struct metrics {
#define COUNTER(name, help)   uint64_t name;
#define GAUGE(name, help)     gauge name;
#define HISTOGRAM(name, help) histogram name;
#define REASON(code)          uint64_t refused_##code;
#include "tell/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
#undef REASON
    gauge regions[METRIC_REGIONS], region_bytes[METRIC_REGIONS]; /* by kind */
} metrics;

extern metrics metric;

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

/* Never NULL. */
const tally *metrics_tally(int loss);

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
