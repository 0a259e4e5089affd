/* SPDX-License-Identifier: MIT */
#include "tell/metrics.h"

#include <losskit.h>
#include <string.h>
#include <time.h>

gauges metric;

/* The statuses of evaluations that are counted; any other counts as the last one. */
static const int statuses[] = {200, 400, 404, 406, 408, 413, 415, 422, 503, 504, 500};
enum { LOSSES_MAX = 128, CODECS = 3, STATUSES = sizeof statuses / sizeof *statuses };

/* A tally of a thread. */
typedef struct own_tally {
    counter success, fail, last_ms;
    _Atomic double total, queue, decode, compute, encode, fail_time;
} own_tally;

/* What a thread has counted. */
typedef struct bank {
    metrics metrics;
    counter requests[LOSSES_MAX + 1][CODECS + 1][STATUSES];
    counter elements[LOSSES_MAX];
    own_tally tallies[LOSSES_MAX + 1];
} bank;

static bank banks[METRIC_THREADS];
static atomic_int taken;
static _Thread_local bank *own;

static bank *mine(void)
{
    if (!own)
        own = &banks[atomic_fetch_add(&taken, 1) % METRIC_THREADS];
    return own;
}

metrics *metrics_mine(void)
{
    return &mine()->metrics;
}

static void add(_Atomic double *to, double x)
{
    const double before = atomic_load_explicit(to, memory_order_relaxed);
    atomic_store_explicit(to, before + x, memory_order_relaxed);
}

/* The sums over all threads of the counter, or the number, that is at the same place in each. */
static uint64_t count_at(const counter *first)
{
    uint64_t sum = 0;
    for (int i = 0; i < METRIC_THREADS && i < atomic_load(&taken); i++)
        sum += atomic_load_explicit(
            (const counter *)(const void *)((const char *)first + (size_t)i * sizeof(bank)),
            memory_order_relaxed);
    return sum;
}

static double sum_at(const _Atomic double *first)
{
    double sum = 0;
    for (int i = 0; i < METRIC_THREADS && i < atomic_load(&taken); i++)
        sum += atomic_load_explicit(
            (const _Atomic double *)(const void *)((const char *)first + (size_t)i * sizeof(bank)),
            memory_order_relaxed);
    return sum;
}

static double bound(int k)
{
    double seconds = 15e-6;
    while (k-- > 0)
        seconds *= 1.5;
    return seconds;
}

void metrics_observe(histogram *h, double seconds)
{
    int k = 0;
    double limit = bound(0);
    while (k < METRIC_BUCKETS - 1 && seconds > limit) {
        limit *= 1.5;
        k++;
    }
    counter_add(&h->count[k], 1);
    add(&h->sum, seconds);
}

void metrics_request(int loss, int codec, int status)
{
    int k = 0;
    while (k < STATUSES - 1 && statuses[k] != status)
        k++;
    const int known = loss >= 0 && loss < lk_loss_count() && loss < LOSSES_MAX;
    const int format = codec < 0 || codec >= CODECS ? CODECS : codec;
    counter_add(&mine()->requests[known ? loss : LOSSES_MAX][format][k], 1);
}

void metrics_elements(int loss, int64_t count)
{
    if (loss >= 0 && loss < LOSSES_MAX)
        counter_add(&mine()->elements[loss], (uint64_t)count);
}

static int place_of(int loss)
{
    return loss < 0 || loss >= LOSSES_MAX ? LOSSES_MAX : loss;
}

void metrics_timing(int loss, bool success, const timing *t)
{
    own_tally *to = &mine()->tallies[place_of(loss)];
    metrics *m = metrics_mine();
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    metrics_observe(&m->request_duration_seconds, t->total);
    metrics_observe(&m->queue_duration_seconds, t->queue);
    metrics_observe(&m->decode_duration_seconds, t->decode);
    atomic_store_explicit(&to->last_ms,
                          (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000,
                          memory_order_relaxed);
    if (!success) {
        counter_add(&to->fail, 1);
        add(&to->fail_time, t->total);
        return;
    }
    metrics_observe(&m->compute_duration_seconds, t->compute);
    metrics_observe(&m->encode_duration_seconds, t->encode);
    counter_add(&to->success, 1);
    add(&to->total, t->total);
    add(&to->queue, t->queue);
    add(&to->decode, t->decode);
    add(&to->compute, t->compute);
    add(&to->encode, t->encode);
}

tally metrics_tally(int loss)
{
    const own_tally *first = &banks[0].tallies[place_of(loss)];
    tally sum = {
        .success = count_at(&first->success),
        .fail = count_at(&first->fail),
        .fail_time = sum_at(&first->fail_time),
        .sum = {.total = sum_at(&first->total),
                .queue = sum_at(&first->queue),
                .decode = sum_at(&first->decode),
                .compute = sum_at(&first->compute),
                .encode = sum_at(&first->encode)},
    };
    for (int i = 0; i < METRIC_THREADS; i++) {
        const uint64_t last = atomic_load(&banks[i].tallies[place_of(loss)].last_ms);
        sum.last_ms = last > sum.last_ms ? last : sum.last_ms;
    }
    return sum;
}

static void head(buffer *to, const char *name, const char *type, const char *help)
{
    buffer_printf(to, "# HELP lossd_%s %s\n# TYPE lossd_%s %s\n", name, help, name, type);
}

static void write_histogram(buffer *to, const char *name, const char *help, const histogram *h)
{
    uint64_t total = 0;
    head(to, name, "histogram", help);
    for (int k = 0; k < METRIC_BUCKETS - 1; k++) {
        total += count_at(&h->count[k]);
        buffer_printf(to, "lossd_%s_bucket{le=\"%.6g\"} %llu\n", name, bound(k),
                      (unsigned long long)total);
    }
    total += count_at(&h->count[METRIC_BUCKETS - 1]);
    buffer_printf(to, "lossd_%s_bucket{le=\"+Inf\"} %llu\nlossd_%s_sum %.9g\nlossd_%s_count %llu\n",
                  name, (unsigned long long)total, name, sum_at(&h->sum), name,
                  (unsigned long long)total);
}

static const char *loss_name(int loss)
{
    return loss < LOSSES_MAX ? lk_loss_describe(lk_loss_at(loss))->name : "unknown";
}

static void write_requests(buffer *to, const char *(*name)(int codec))
{
    head(to, "requests_total", "counter", "Evaluations answered.");
    for (int loss = 0; loss <= LOSSES_MAX; loss++)
        for (int codec = 0; codec <= CODECS; codec++)
            for (int k = 0; k < STATUSES; k++) {
                const uint64_t count = count_at(&banks[0].requests[loss][codec][k]);
                if (count == 0)
                    continue;
                buffer_printf(to,
                              "lossd_requests_total{loss=\"%s\",codec=\"%s\",status=\"%d\"} %llu\n",
                              loss_name(loss), name(codec), statuses[k], (unsigned long long)count);
            }
    head(to, "elements_total", "counter", "Elements of the largest input of each evaluation.");
    for (int loss = 0; loss < lk_loss_count() && loss < LOSSES_MAX; loss++)
        buffer_printf(to, "lossd_elements_total{loss=\"%s\"} %llu\n", loss_name(loss),
                      (unsigned long long)count_at(&banks[0].elements[loss]));
}

#define COUNTER(name, help)
#define GAUGE(name, help)
#define HISTOGRAM(name, help)
void metrics_refused(const char *code)
{
    if (!code)
        return;
#define REASON(word)                                                                               \
    if (strcmp(code, #word) == 0)                                                                  \
        metrics_count(refused_##word, 1);
#include "tell/metrics.def"
#undef REASON
}

static void write_kinds(buffer *to, const char *name, const char *help, const gauge *by_kind)
{
    static const char *const kinds[METRIC_REGIONS] = {"client", "resident", "triton"};
    head(to, name, "gauge", help);
    for (int i = 0; i < METRIC_REGIONS; i++)
        buffer_printf(to, "lossd_%s{kind=\"%s\"} %lld\n", name, kinds[i],
                      (long long)atomic_load(&by_kind[i]));
}

static void write_refused(buffer *to)
{
    head(to, "rejected_total", "counter", "Requests refused for want of room, time or right.");
#define REASON(word)                                                                               \
    buffer_printf(to, "lossd_rejected_total{reason=\"" #word "\"} %llu\n",                         \
                  (unsigned long long)count_at(&banks[0].metrics.refused_##word));
#include "tell/metrics.def"
#undef REASON
}
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM

void metrics_write(buffer *to, const char *(*codec)(int))
{
    write_requests(to, codec);
    write_refused(to);
    write_kinds(to, "regions", "Regions that requests may name.", metric.regions);
    write_kinds(to, "region_bytes", "Bytes of them.", metric.region_bytes);
    head(to, "build_info", "gauge", "Always 1; what is running.");
    buffer_printf(to, "lossd_build_info{version=\"%s\",isa=\"%s\"} 1\n", lk_version(),
                  lk_isa_used());
#define COUNTER(name, help)                                                                        \
    head(to, #name, "counter", help);                                                              \
    buffer_printf(to, "lossd_%s %llu\n", #name,                                                    \
                  (unsigned long long)count_at(&banks[0].metrics.name));
#define GAUGE(name, help)                                                                          \
    head(to, #name, "gauge", help);                                                                \
    buffer_printf(to, "lossd_%s %lld\n", #name, (long long)atomic_load(&metric.name));
#define HISTOGRAM(name, help) write_histogram(to, #name, help, &banks[0].metrics.name);
#define REASON(code)
#include "tell/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
#undef REASON
}
