/* SPDX-License-Identifier: MIT
 *
 * Metrics: the exposition text is valid and has the values that were counted.
 */
#include "tests/help.h"

#include "losskit.h"
#include "tell/metrics.h"
#include "wire/wires.h"

enum { SAMPLES = 4096, FAMILIES = 64 };

typedef struct series {
    char name[96], labels[200];
    double value;
} series;

typedef struct family {
    char name[96], type[16];
    bool help;
    int samples;
} family;

static family families[FAMILIES];
static series samples[SAMPLES];
static int family_count, sample_count;

static bool is_name(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((name[i] >= 'a' && name[i] <= 'z') || name[i] == '_' ||
              (i > 0 && name[i] >= '0' && name[i] <= '9')))
            return false;
    return n > 0;
}

static family *family_of(const char *name, size_t n)
{
    for (int i = 0; i < family_count; i++)
        if (strlen(families[i].name) == n && memcmp(families[i].name, name, n) == 0)
            return &families[i];
    return NULL;
}

/* Labels: name="value", ... without a quote or a backslash in the value. */
static size_t check_labels(const char *p)
{
    const char *start = p++;
    while (true) {
        size_t n = strcspn(p, "=");
        assert_true(is_name(p, n));
        p += n + 1;
        assert_int_equal(*p, '"');
        p++;
        p += strcspn(p, "\"\\\n");
        assert_int_equal(*p, '"');
        p++;
        if (*p == '}')
            return (size_t)(p + 1 - start);
        assert_int_equal(*p, ',');
        p++;
    }
}

static void parse_line(char *line)
{
    if (strncmp(line, "# HELP ", 7) == 0) {
        size_t n = strcspn(line + 7, " ");
        assert_true(is_name(line + 7, n));
        assert_true(strlen(line + 7 + n) > 5);
        if (family_of(line + 7, n))
            fail_msg("%s: twice", line);
        family *f = &families[family_count++];
        *f = (family){.help = true};
        memcpy(f->name, line + 7, n);
        return;
    }
    family *last = &families[family_count - 1];
    if (strncmp(line, "# TYPE ", 7) == 0) {
        size_t n = strcspn(line + 7, " ");
        assert_ptr_equal(family_of(line + 7, n), last);
        assert_string_equal(last->type, "");
        snprintf(last->type, sizeof last->type, "%s", line + 8 + n);
        return;
    }
    assert_int_not_equal(line[0], '#');
    series *s = &samples[sample_count++];
    size_t n = strcspn(line, "{ "), labels = 0;
    assert_true(is_name(line, n));
    *s = (series){.value = 0};
    memcpy(s->name, line, n);
    if (line[n] == '{') {
        labels = check_labels(line + n);
        memcpy(s->labels, line + n, labels);
    }
    char *end;
    assert_int_equal(line[n + labels], ' ');
    s->value = strtod(line + n + labels + 1, &end);
    assert_int_equal(*end, '\0');
    /* Of the family just begun: its name, or with a histogram's endings. */
    const size_t base = strlen(last->name);
    assert_memory_equal(s->name, last->name, base);
    const char *ending = s->name + base;
    if (strcmp(last->type, "histogram") == 0)
        assert_true(strcmp(ending, "_bucket") == 0 || strcmp(ending, "_sum") == 0 ||
                    strcmp(ending, "_count") == 0);
    else
        assert_string_equal(ending, "");
    last->samples++;
    for (int i = 0; i + 1 < sample_count; i++)
        if (strcmp(samples[i].name, s->name) == 0 && strcmp(samples[i].labels, s->labels) == 0)
            fail_msg("%s%s twice", s->name, s->labels);
}

static void scrape(void)
{
    buffer b = buffer_new(1 << 20);
    family_count = sample_count = 0;
    metrics_write(&b, wire_name);
    assert_false(b.failed);
    assert_int_equal(b.data[b.size - 1], '\n');
    buffer_append(&b, "", 1);
    char *rest = NULL;
    for (char *line = strtok_r(b.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        parse_line(line);
    buffer_free(&b);
}

static double value_of(const char *name, const char *labels)
{
    for (int i = 0; i < sample_count; i++)
        if (strcmp(samples[i].name, name) == 0 && strcmp(samples[i].labels, labels) == 0)
            return samples[i].value;
    return -1;
}

static void check_histogram(const char *name)
{
    char bucket[128], total[128], sum[128];
    double last = -1, limit = -1, count = -1;
    snprintf(bucket, sizeof bucket, "%s_bucket", name);
    snprintf(total, sizeof total, "%s_count", name);
    snprintf(sum, sizeof sum, "%s_sum", name);
    count = value_of(total, "");
    assert_true(count >= 0 && value_of(sum, "") >= 0);
    int buckets = 0;
    for (int i = 0; i < sample_count; i++) {
        if (strcmp(samples[i].name, bucket) != 0)
            continue;
        assert_int_equal(strncmp(samples[i].labels, "{le=\"", 5), 0);
        const char *le = samples[i].labels + 5;
        double bound = strncmp(le, "+Inf", 4) == 0 ? (double)INFINITY : strtod(le, NULL);
        assert_true(bound > limit);
        assert_true(samples[i].value >= last);
        if (buckets == 0)
            assert_true(bound == 15e-6);
        else if (!isinf(bound))
            assert_true(fabs(bound / limit - 1.5) < 1e-4);
        limit = bound;
        last = samples[i].value;
        buckets++;
    }
    assert_int_equal(buckets, METRIC_BUCKETS);
    assert_true(isinf(limit));
    assert_true(last == count);
}

static void check_families(void)
{
    assert_true(family_count > 10);
    for (int i = 0; i < family_count; i++) {
        const family *f = &families[i];
        const size_t n = strlen(f->name);
        const bool total = n > 6 && strcmp(f->name + n - 6, "_total") == 0;
        assert_true(f->help);
        assert_int_equal(strncmp(f->name, "lossd_", 6), 0);
        assert_true(strcmp(f->type, "counter") == 0 || strcmp(f->type, "gauge") == 0 ||
                    strcmp(f->type, "histogram") == 0);
        if (total != (strcmp(f->type, "counter") == 0))
            fail_msg("%s is a %s", f->name, f->type);
        if (strcmp(f->type, "histogram") == 0)
            check_histogram(f->name);
        if (f->samples == 0 && strcmp(f->name, "lossd_requests_total") != 0)
            fail_msg("%s has no value", f->name);
    }
}

/* Nothing has been counted yet: this test must come before those that count. */
static void fresh(void **unused)
{
    (void)unused;
    char labels[200];
    scrape();
    check_families();
    snprintf(labels, sizeof labels, "{version=\"%s\",isa=\"%s\"}", lk_version(), lk_isa_used());
    assert_true(value_of("lossd_build_info", labels) == 1);
    for (int i = 0; i < lk_loss_count(); i++) {
        snprintf(labels, sizeof labels, "{loss=\"%s\"}", lk_loss_describe(lk_loss_at(i))->name);
        assert_true(value_of("lossd_elements_total", labels) == 0);
    }
}

static void histograms(void **unused)
{
    (void)unused;
    const double seconds[] = {0, 1e-9, 15e-6, 15.1e-6, 22.5e-6, 1, 100, 1e9};
    const int n = sizeof seconds / sizeof *seconds;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        metrics_observe(&metrics_mine()->queue_duration_seconds, seconds[i]);
        sum += seconds[i];
    }
    for (int i = 0; i < 1000; i++)
        metrics_observe(&metrics_mine()->encode_duration_seconds, exp(random_unit() * 30 - 15));
    scrape();
    check_families();
    assert_true(value_of("lossd_queue_duration_seconds_count", "") == n);
    assert_true(fabs(value_of("lossd_queue_duration_seconds_sum", "") / sum - 1) < 1e-8);
    /* A value equal to a limit belongs to the bucket below it. */
    assert_true(value_of("lossd_queue_duration_seconds_bucket", "{le=\"1.5e-05\"}") == 3);
    assert_true(value_of("lossd_queue_duration_seconds_bucket", "{le=\"2.25e-05\"}") == 5);
    assert_true(value_of("lossd_encode_duration_seconds_count", "") == 1000);
}

static void requests(void **unused)
{
    (void)unused;
    char labels[200];
    const char *name = lk_loss_describe(lk_loss_at(0))->name;
    int codecs = 0;
    while (wires[codecs])
        codecs++;
    metrics_request(0, 0, 200);
    metrics_request(0, 0, 200);
    metrics_request(0, 1, 422);
    metrics_request(-1, -1, 404);
    metrics_request(1000, 1000, 404);
    metrics_request(0, 0, 299);
    metrics_elements(0, 5);
    metrics_elements(0, INT64_C(1) << 40);
    metrics_elements(-1, 5);
    metrics_elements(1000, 5);
    for (int loss = -1; loss < lk_loss_count() + 3; loss++)
        for (int codec = -1; codec < codecs; codec++)
            metrics_request(loss, codec, 413);
    scrape();
    check_families();
    snprintf(labels, sizeof labels, "{loss=\"%s\",codec=\"json\",status=\"200\"}", name);
    assert_true(value_of("lossd_requests_total", labels) == 2);
    snprintf(labels, sizeof labels, "{loss=\"%s\",codec=\"safetensors\",status=\"422\"}", name);
    assert_true(value_of("lossd_requests_total", labels) == 1);
    assert_true(
        value_of("lossd_requests_total", "{loss=\"unknown\",codec=\"none\",status=\"404\"}") == 2);
    snprintf(labels, sizeof labels, "{loss=\"%s\"}", name);
    assert_true(value_of("lossd_elements_total", labels) == (double)((INT64_C(1) << 40) + 5));
}

/* Every format has a name; an index beyond them has none. */
static void codecs(void **unused)
{
    (void)unused;
    for (int codec = 0; codec < 10; codec++)
        metrics_request(0, codec, 400);
    scrape();
    check_families();
}

static void gauge_values(void **unused)
{
    (void)unused;
    atomic_store(&metric.connections, 7);
    metrics_count(received_bytes_total, UINT64_C(1) << 50);
    scrape();
    assert_true(value_of("lossd_connections", "") == 7);
    assert_true(value_of("lossd_received_bytes_total", "") == 0x1p50);
}

/* The metrics whose names are promised to users. */
static void promised(void **unused)
{
    (void)unused;
    static const char *const names[] = {"requests_total",
                                        "request_duration_seconds",
                                        "queue_duration_seconds",
                                        "decode_duration_seconds",
                                        "compute_duration_seconds",
                                        "encode_duration_seconds",
                                        "queue_jobs",
                                        "queue_bytes",
                                        "in_flight_requests",
                                        "received_bytes_total",
                                        "sent_bytes_total",
                                        "connections",
                                        "workers_busy",
                                        "elements_total",
                                        "build_info"};
    scrape();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[96];
        snprintf(name, sizeof name, "lossd_%s", names[i]);
        if (!family_of(name, strlen(name)))
            fail_msg("%s is missing", name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh),  cmocka_unit_test(histograms),   cmocka_unit_test(requests),
        cmocka_unit_test(codecs), cmocka_unit_test(gauge_values), cmocka_unit_test(promised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
