/* SPDX-License-Identifier: MIT */
#include "tell/metrics.h"

#include <losskit.h>
#include <string.h>
#include <time.h>

metrics metric;

/* The statuses of evaluations that are counted; any other counts as the last one. */
static const int statuses[] = {200, 400, 404, 406, 408, 413, 415, 422, 503, 504, 500};
enum { LOSSES_MAX = 64, CODECS = 3, STATUSES = sizeof statuses / sizeof *statuses };

static uint64_t requests[LOSSES_MAX + 1][CODECS + 1][STATUSES];
static uint64_t elements[LOSSES_MAX];
static tally tallies[LOSSES_MAX + 1];

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
    h->count[k]++;
    h->sum += seconds;
}

void metrics_request(int loss, int codec, int status)
{
    int k = 0;
    while (k < STATUSES - 1 && statuses[k] != status)
        k++;
    requests[loss < 0 || loss >= lk_loss_count() || loss >= LOSSES_MAX ? LOSSES_MAX : loss]
            [codec < 0 || codec >= CODECS ? CODECS : codec][k]++;
}

void metrics_elements(int loss, int64_t count)
{
    if (loss >= 0 && loss < LOSSES_MAX)
        elements[loss] += (uint64_t)count;
}

void metrics_timing(int loss, bool success, const timing *t)
{
    tally *to = &tallies[loss < 0 || loss >= LOSSES_MAX ? LOSSES_MAX : loss];
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    metrics_observe(&metric.request_duration_seconds, t->total);
    metrics_observe(&metric.queue_duration_seconds, t->queue);
    metrics_observe(&metric.decode_duration_seconds, t->decode);
    to->last_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    if (!success) {
        to->fail++;
        to->fail_time += t->total;
        return;
    }
    metrics_observe(&metric.compute_duration_seconds, t->compute);
    metrics_observe(&metric.encode_duration_seconds, t->encode);
    to->success++;
    to->sum.total += t->total;
    to->sum.queue += t->queue;
    to->sum.decode += t->decode;
    to->sum.compute += t->compute;
    to->sum.encode += t->encode;
}

const tally *metrics_tally(int loss)
{
    return &tallies[loss < 0 || loss >= LOSSES_MAX ? LOSSES_MAX : loss];
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
        total += h->count[k];
        buffer_printf(to, "lossd_%s_bucket{le=\"%.6g\"} %llu\n", name, bound(k),
                      (unsigned long long)total);
    }
    total += h->count[METRIC_BUCKETS - 1];
    buffer_printf(to, "lossd_%s_bucket{le=\"+Inf\"} %llu\nlossd_%s_sum %.9g\nlossd_%s_count %llu\n",
                  name, (unsigned long long)total, name, h->sum, name, (unsigned long long)total);
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
                if (requests[loss][codec][k] == 0)
                    continue;
                buffer_printf(to,
                              "lossd_requests_total{loss=\"%s\",codec=\"%s\",status=\"%d\"} %llu\n",
                              loss_name(loss), name(codec), statuses[k],
                              (unsigned long long)requests[loss][codec][k]);
            }
    head(to, "elements_total", "counter", "Elements of the largest input of each evaluation.");
    for (int loss = 0; loss < lk_loss_count() && loss < LOSSES_MAX; loss++)
        buffer_printf(to, "lossd_elements_total{loss=\"%s\"} %llu\n", loss_name(loss),
                      (unsigned long long)elements[loss]);
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
        metric.refused_##word++;
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
                  (unsigned long long)metric.refused_##word);
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
    buffer_printf(to, "lossd_%s %llu\n", #name, (unsigned long long)metric.name);
#define GAUGE(name, help)                                                                          \
    head(to, #name, "gauge", help);                                                                \
    buffer_printf(to, "lossd_%s %lld\n", #name, (long long)atomic_load(&metric.name));
#define HISTOGRAM(name, help) write_histogram(to, #name, help, &metric.name);
#define REASON(code)
#include "tell/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
#undef REASON
}
