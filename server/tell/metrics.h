/* SPDX-License-Identifier: MIT
 *
 * What the service counts, and the Prometheus text of it. Loop thread only, but for workers_busy
 * and queue_jobs, which are atomic.
 */
#ifndef LOSSD_METRICS_H
#define LOSSD_METRICS_H

#include "buffer.h"

#include <stdatomic.h>
#include <stdint.h>

enum { METRIC_BUCKETS = 41 }; /* 15 us times 1.5 to the k, and +Inf */

typedef struct histogram {
    uint64_t count[METRIC_BUCKETS];
    double sum;
} histogram;

typedef atomic_llong gauge;

/* One member a line of metrics.def. */
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
} metrics;

extern metrics metric;

void metrics_observe(histogram *h, double seconds);

/* Seconds of one evaluation: from its head to the last byte sent, and of its steps. */
typedef struct timing {
    double total, queue, decode, compute, encode;
} timing;

/* An evaluation is over. */
void metrics_timing(int loss, bool success, const timing *t);

/* What a loss has done since the start: counts, sums over the good ones but for fail_time, and when
 * the last one was, in ms since 1970 (0: never). */
typedef struct tally {
    uint64_t success, fail, last_ms;
    timing sum;
    double fail_time;
} tally;

/* Never NULL. */
const tally *metrics_tally(int loss);

/* An evaluation was answered: `loss` as the library numbers it, its body format by a number from 0
 * up; any other number counts as unknown, or as none. */
void metrics_request(int loss, int codec, int status);
void metrics_elements(int loss, int64_t count);

/* A request was refused with that code; other codes, and NULL, do not count. */
void metrics_refused(const char *code);

/* `codec` is how a number of metrics_request is called, also one that stands for none. */
void metrics_write(buffer *to, const char *(*codec)(int));

#endif
