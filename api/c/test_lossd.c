/* SPDX-License-Identifier: MIT
 *
 * The client against a running lossd (LOSSD, or ../../build/lossd), over TCP and a Unix socket, and
 * against servers that misbehave.
 */
#define LOSSD_IMPLEMENTATION
#include "lossd.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A lossd of our own. */

static pid_t running[5];
static int runs;
static char folder[] = "/tmp/lossd-XXXXXX", tcp[128], local[160];

/* url becomes its TCP address; the other one is unix:FOLDER/NUMBER. */
static void start(char *url, const char *flag, const char *value)
{
    const char *binary = getenv("LOSSD"), *address = NULL;
    char path[160], log[160], said[4096];
    snprintf(path, sizeof path, "unix:%s/%d", folder, runs);
    snprintf(log, sizeof log, "%s/%d.log", folder, runs);
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen(log, "w", stderr))
            _exit(127);
        execl(binary ? binary : "../../build/lossd", "lossd", "--listen", "127.0.0.1:0", "--listen",
              path, flag, value, (char *)NULL);
        _exit(127);
    }
    running[runs++] = child;
    for (int tries = 0; tries < 2000 && !address; tries++) {
        FILE *file = fopen(log, "r");
        const size_t size = file ? fread(said, 1, sizeof said - 1, file) : 0;
        said[size] = '\0';
        if (strstr(said, path)) /* the last that it says */
            address = strstr(said, "url=");
        if (file)
            fclose(file);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    assert_non_null(address);
    snprintf(url, 128, "%.*s", (int)strcspn(address + 4, " "), address + 4);
}

static int begin(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    curl_global_init(CURL_GLOBAL_DEFAULT);
    start(tcp, "--workers", "2");
    snprintf(local, sizeof local, "unix:%s/0", folder);
    return 0;
}

static int end(void **state)
{
    (void)state;
    char path[160];
    for (int i = 0; i < runs; i++) {
        kill(running[i], SIGTERM);
        waitpid(running[i], NULL, 0);
        snprintf(path, sizeof path, "%s/%d", folder, i);
        unlink(path);
        snprintf(path, sizeof path, "%s/%d.log", folder, i);
        unlink(path);
    }
    rmdir(folder);
    curl_global_cleanup();
    return 0;
}

/* The shared cases. */

static void *numbers(const json_t *data, lossd_dtype dtype)
{
    const size_t count = json_array_size(data), width = lossd_types[dtype].width;
    char *to = calloc(count + 1, width);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(data, i);
        const double f64 = json_is_true(item) ? 1 : json_number_value(item);
        const float f32 = (float)f64;
        const int64_t i64 = json_is_integer(item) ? json_integer_value(item) : (int64_t)f64;
        const int32_t i32 = (int32_t)i64;
        const uint8_t u8 = (uint8_t)(json_is_true(item) ? 1 : i64);
        const void *from = dtype == LOSSD_F64   ? (const void *)&f64
                           : dtype == LOSSD_F32 ? (const void *)&f32
                           : dtype == LOSSD_I64 ? (const void *)&i64
                           : dtype == LOSSD_I32 ? (const void *)&i32
                                                : (const void *)&u8;
        memcpy(to + i * width, from, width);
    }
    return to;
}

static lossd_tensor tensor(const char *name, const json_t *t)
{
    lossd_tensor made = {.name = name};
    const char *word = json_string_value(json_object_get(t, "dtype"));
    const json_t *shape = json_object_get(t, "shape");
    while (strcasecmp(lossd_types[made.dtype].word, word) != 0)
        made.dtype++;
    for (; made.rank < (int)json_array_size(shape); made.rank++)
        made.shape[made.rank] = json_integer_value(json_array_get(shape, (size_t)made.rank));
    made.data = numbers(json_object_get(t, "data"), made.dtype);
    return made;
}

/* As lossd writes it. */
static char *option_text(const json_t *value)
{
    if (json_is_string(value))
        return lossd_join(json_string_value(value), "");
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const size_t size = strlen(text);
    if (json_is_null(value)) {
        memcpy(text, "off", sizeof "off"); /* it was null */
    } else if (json_is_array(value) && !json_is_object(json_array_get(value, 0))) {
        memmove(text, text + 1, size - 2);
        text[size - 2] = '\0';
    }
    return text;
}

static int compared;

static void one_case(lossd_client *client, const json_t *one)
{
    lossd_tensor inputs[LOSSD_MAX_INPUTS + 1] = {{0}};
    lossd_option options[32] = {{0}};
    const char *outputs[32] = {NULL}, *name,
               *title = json_string_value(json_object_get(one, "name"));
    const char *loss = json_string_value(json_object_get(one, "loss"));
    const double tolerance = json_number_value(json_object_get(one, "tolerance"));
    const bool plain = strcmp(loss, "mask_tokens") != 0;
    int i = 0, o = 0, n = 0;
    json_t *value;
    lossd_result got;
    lossd_error error;
    json_object_foreach(json_object_get(one, "inputs"), name, value) inputs[i++] =
        tensor(name, value);
    json_object_foreach(json_object_get(one, "options"), name, value) options[o++] =
        (lossd_option){name, option_text(value)};
    json_object_foreach(json_object_get(one, "outputs"), name, value) outputs[n++] = name;
    if (!(plain ? lossd_evaluate : lossd_transform)(client, loss, inputs, options, outputs, &got,
                                                    &error))
        fail_msg("%s: %s", title, error.detail);
    assert_int_equal(got.count, n);
    for (int k = 0; k < n; k++) {
        const json_t *want = json_object_get(json_object_get(one, "outputs"), outputs[k]);
        const json_t *shape = json_object_get(want, "shape"), *data = json_object_get(want, "data");
        const lossd_tensor *t = &got.tensors[k];
        assert_string_equal(t->name, outputs[k]);
        assert_int_equal(t->rank, json_array_size(shape));
        for (int axis = 0; axis < t->rank; axis++)
            assert_int_equal(t->shape[axis],
                             json_integer_value(json_array_get(shape, (size_t)axis)));
        assert_int_equal((uintptr_t)t->data % lossd_types[t->dtype].width, 0);
        assert_int_equal(lossd_count(t), json_array_size(data));
        for (int64_t at = 0; at < lossd_count(t); at++, compared++) {
            const double x = json_number_value(json_array_get(data, (size_t)at));
            const double room = tolerance * (fabs(x) > 1 ? fabs(x) : 1);
            if (!(fabs(lossd_get(t, at) - x) <= room))
                fail_msg("%s: %s[%lld] is %.17g, not %.17g", title, outputs[k], (long long)at,
                         lossd_get(t, at), x);
        }
    }
    lossd_result_free(&got);
    while (i-- > 0)
        free((void *)(uintptr_t)inputs[i].data);
    while (o-- > 0)
        free((void *)(uintptr_t)options[o].value);
}

static void every_shared_case(void **state)
{
    (void)state;
    const char *const urls[] = {tcp, local};
    for (int u = 0; u < 2; u++) {
        lossd_client *client = lossd_open(urls[u], NULL);
        FILE *file = fopen("../cases.jsonl", "r");
        char *line = NULL;
        size_t room = 0;
        compared = 0;
        assert_non_null(file);
        while (getline(&line, &room, file) > 0) {
            json_t *one = json_loads(line, 0, NULL);
            one_case(client, one);
            json_decref(one);
        }
        assert_true(compared > 1000);
        free(line);
        fclose(file);
        lossd_close(client);
    }
}

static const float two[] = {1, 2};
static const lossd_tensor pair[] = {
    {"a", LOSSD_F32, 1, {2}, two}, {"b", LOSSD_F32, 1, {2}, (const float[]){0, 0}}, {0}};

static void errors_carry_code_and_place(void **state)
{
    (void)state;
    lossd_client *client = lossd_open(local, NULL);
    const int64_t five = 5;
    const lossd_tensor inputs[] = {
        {"logits", LOSSD_F32, 2, {1, 2}, two}, {"targets", LOSSD_I64, 1, {1}, &five}, {0}};
    const lossd_tensor wrong[][2] = {{{"a", LOSSD_F32, 1, {-1}, two}, {0}},
                                     {{"a", LOSSD_F32, 9, {1}, two}, {0}},
                                     {{"a", (lossd_dtype)8, 1, {1}, two}, {0}},
                                     {{"a", LOSSD_F32, 3, {1 << 30, 1 << 30, 1 << 30}, two}, {0}}};
    const lossd_tensor twice[] = {pair[0], pair[0], {0}};
    lossd_result got;
    lossd_error error;
    assert_false(lossd_evaluate(client, "cross_entropy", inputs, NULL, NULL, &got, &error));
    assert_int_equal(error.status, 422);
    assert_string_equal(error.code, "target_out_of_range");
    assert_string_equal(error.input, "targets");
    assert_int_equal(error.indices, 1);
    assert_int_equal(error.index[0], 0);
    assert_non_null(strstr(error.detail, "targets[0] is 5"));
    assert_true(strlen(error.request_id) > 0);
    assert_false(lossd_evaluate(client, "no such loss", pair, NULL, NULL, &got, &error));
    assert_int_equal(error.status, 404);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(lossd_evaluate(client, "mse", wrong[i], NULL, NULL, &got, &error));
        assert_string_equal(error.code, "bad_tensor");
    }
    assert_false(lossd_evaluate(client, "mse", twice, NULL, NULL, &got, &error));
    assert_string_equal(error.code, "bad_tensor");
    /* The client is as good as before. */
    assert_true(lossd_evaluate(client, "mse", pair, NULL, NULL, &got, &error));
    assert_true(lossd_get(lossd_output(&got, "loss"), 0) == 2.5);
    assert_null(lossd_output(&got, "nll"));
    lossd_result_free(&got);
    lossd_result_free(&got);
    lossd_close(client);
    lossd_close(NULL);
}

static void element_types(void **state)
{
    (void)state;
    lossd_client *client = lossd_open(tcp, NULL);
    const uint16_t f16[] = {0xbe00, 0x3400, 0x4000, 0x3800, 0xba00, 0x4200};
    const uint16_t bf16[] = {0xbfc0, 0x3e80, 0x4000, 0x3f00, 0xbf40, 0x4040};
    const double exact[] = {-1.5, 0.25, 2, 0.5, -0.75, 3};
    const int64_t targets[] = {1, 2};
    lossd_tensor inputs[] = {
        {"logits", LOSSD_F64, 2, {2, 3}, exact}, {"targets", LOSSD_I64, 1, {2}, targets}, {0}};
    lossd_result want, got;
    lossd_error error;
    assert_true(lossd_evaluate(client, "cross_entropy", inputs, NULL, NULL, &want, &error));
    for (int k = 0; k < 2; k++) {
        inputs[0].dtype = k ? LOSSD_BF16 : LOSSD_F16;
        inputs[0].data = k ? bf16 : f16;
        assert_true(lossd_evaluate(client, "cross_entropy", inputs, NULL, NULL, &got, &error));
        assert_int_equal(lossd_output(&got, "grad.logits")->dtype, inputs[0].dtype);
        for (int i = 0; i < 6; i++) {
            assert_true(lossd_get(&inputs[0], i) == exact[i]);
            assert_true(fabs(lossd_get(lossd_output(&got, "grad.logits"), i) -
                             lossd_get(lossd_output(&want, "grad.logits"), i)) < 1e-2);
        }
        lossd_result_free(&got);
    }
    lossd_result_free(&want);
    const uint16_t odd[] = {0x7c00, 0x7e00, 1, 0x8000, 0x3c01};
    const lossd_tensor halves = {"x", LOSSD_F16, 1, {5}, odd};
    assert_true(isinf(lossd_get(&halves, 0)) && isnan(lossd_get(&halves, 1)));
    assert_true(lossd_get(&halves, 2) == 0x1p-24 && signbit(lossd_get(&halves, 3)));
    assert_true(lossd_get(&halves, 4) == 1 + 0x1p-10);
    lossd_close(client);
}

static void large_ones(void **state)
{
    (void)state;
    enum { N = 3000000 };
    float *a = malloc(N * sizeof *a);
    for (int i = 0; i < N; i++)
        a[i] = (float)(i % 1000);
    const lossd_tensor inputs[] = {{"a", LOSSD_F32, 1, {N}, a}, {"b", LOSSD_F32, 1, {N}, a}, {0}};
    const char *const urls[] = {tcp, local};
    for (int u = 0; u < 2; u++) {
        const lossd_settings small = {.retries = 0, .max_reply = 1000000};
        lossd_client *client = lossd_open(urls[u], NULL), *tight = lossd_open(urls[u], &small);
        lossd_result got;
        lossd_error error;
        for (int i = 0; i < 3; i++) {
            assert_true(lossd_evaluate(client, "mse", inputs, NULL, NULL, &got, &error));
            assert_true(lossd_get(lossd_output(&got, "loss"), 0) == 0);
            assert_int_equal(lossd_count(lossd_output(&got, "grad.a")), N);
            lossd_result_free(&got);
        }
        assert_false(lossd_evaluate(tight, "mse", inputs, NULL, NULL, &got, &error));
        assert_non_null(strstr(error.detail, "max_reply"));
        lossd_close(tight);
        lossd_close(client);
    }
    free(a);
}

/* A server that gives each connection these bytes, `times` of them, and then closes it. */

typedef struct fake {
    int fd, port, times, seen;
    const char *reply;
    size_t size;
    bool hang; /* keep it open, and say no more */
    pthread_t thread;
} fake;

static void *serve(void *cls)
{
    fake *f = cls;
    for (int i = 0; i < f->times; i++) {
        const int c = accept(f->fd, NULL, NULL);
        char taken[65536];
        size_t size = 0;
        while (size < sizeof taken - 1) { /* the head; bodies here are small and come with it */
            const ssize_t n = recv(c, taken + size, sizeof taken - 1 - size, 0);
            if (n <= 0)
                break;
            size += (size_t)n;
            taken[size] = '\0';
            if (strstr(taken, "\r\n\r\n"))
                break;
        }
        f->seen++;
        if (send(c, f->reply, f->size, MSG_NOSIGNAL) < 0)
            break;
        if (f->hang) /* until the client leaves */
            while (recv(c, taken, sizeof taken, 0) > 0)
                continue;
        shutdown(c, SHUT_WR);
        while (recv(c, taken, sizeof taken, 0) > 0)
            continue;
        close(c);
    }
    return NULL;
}

static lossd_client *fake_start(fake *f, const lossd_settings *settings)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    char url[64];
    f->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(f->fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(f->fd, 8), 0);
    getsockname(f->fd, (struct sockaddr *)&at, &size);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", ntohs(at.sin_port));
    pthread_create(&f->thread, NULL, serve, f);
    return lossd_open(url, settings);
}

static void fake_stop(fake *f)
{
    shutdown(f->fd, SHUT_RDWR);
    pthread_join(f->thread, NULL);
    close(f->fd);
}

static void full_for_ever(void **state)
{
    (void)state;
    static const char busy[] = "HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nConnection: close\r\n"
                               "Content-Length: 4\r\n\r\nbusy";
    fake f = {.times = 3, .reply = busy, .size = sizeof busy - 1};
    lossd_client *client = fake_start(&f, &(lossd_settings){.retries = 2});
    lossd_result got;
    lossd_error error;
    assert_false(lossd_evaluate(client, "mse", pair, NULL, NULL, &got, &error));
    assert_int_equal(error.status, 503);
    assert_string_equal(error.detail, "busy");
    lossd_close(client);
    fake_stop(&f);
    assert_int_equal(f.seen, 3);
}

static void in_time(void **state)
{
    (void)state;
    static const char half[] = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    for (size_t size = 0; size < sizeof half; size += sizeof half - 1) {
        fake f = {.times = 1, .reply = half, .size = size, .hang = true};
        lossd_client *client = fake_start(&f, &(lossd_settings){.timeout_ms = 200, .retries = 4});
        const int64_t begun = lossd_now_ms();
        lossd_result got;
        lossd_error error;
        assert_false(lossd_evaluate(client, "mse", pair, NULL, NULL, &got, &error));
        assert_string_equal(error.code, "timeout");
        assert_true(lossd_now_ms() - begun < 3000);
        lossd_close(client);
        fake_stop(&f);
    }
}

static void hostile_replies(void **state)
{
    (void)state;
#define GOOD(shape, place, type)                                                                   \
    "{\"loss\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" place "}}"
    static const struct {
        long long length; /* -1: the header's own */
        const char *header;
        size_t data;
    } replies[] = {{-1, GOOD("[]", "[0,4]", "F32"), 4}, /* the good one */
                   {0x7fffffffffffffff, GOOD("[]", "[0,4]", "F32"), 4},
                   {-2, GOOD("[]", "[0,4]", "F32"), 4},
                   {200, GOOD("[]", "[0,4]", "F32"), 4},
                   {-1, GOOD("[]", "[0,4]", "F32"), 3},
                   {-1, GOOD("[]", "[4,0]", "F32"), 4},
                   {-1, GOOD("[]", "[-4,0]", "F32"), 4},
                   {-1, GOOD("[]", "[0,99999999999]", "F32"), 4},
                   {-1, GOOD("[2]", "[0,4]", "F32"), 4},
                   {-1, GOOD("[-1]", "[0,4]", "F32"), 4},
                   {-1, GOOD("[\"1\"]", "[0,4]", "F32"), 4},
                   {-1, GOOD("1", "[0,4]", "F32"), 4},
                   {-1, GOOD("[65536,65536,65536,65536]", "[0,0]", "F32"), 4},
                   {-1, GOOD("[1,1,1,1,1,1,1,1,1]", "[0,4]", "F32"), 4},
                   {-1, GOOD("[]", "[0,4]", "F31"), 4},
                   {-1, GOOD("[]", "[0,4]", "F64"), 4},
                   {-1, GOOD("[]", "[0]", "F32"), 4},
                   {-1, "{\"loss\":1}", 0},
                   {-1, "[]", 0},
                   {-1, "", 0},
                   {-1, "{\"loss", 0},
                   {200, "{\"loss", 0}};
    for (size_t i = 0; i < sizeof replies / sizeof *replies; i++) {
        const size_t header = strlen(replies[i].header), size = 8 + header + replies[i].data;
        char reply[512];
        int at =
            snprintf(reply, sizeof reply,
                     "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", size);
        const uint64_t length = replies[i].length == -1 ? header : (uint64_t)replies[i].length;
        for (int k = 0; k < 8; k++)
            reply[at++] = (char)(length >> (8 * k) & 0xff);
        memset(reply + at, 0, size - 8);
        memcpy(reply + at, replies[i].header, header);
        fake f = {.times = 1, .reply = reply, .size = (size_t)at + size - 8};
        lossd_client *client = fake_start(&f, NULL);
        lossd_result got;
        lossd_error error;
        const bool ok = lossd_evaluate(client, "mse", pair, NULL, NULL, &got, &error);
        if (ok != (i == 0))
            fail_msg("reply %zu: %s", i, ok ? "taken" : error.detail);
        if (ok)
            lossd_result_free(&got);
        else
            assert_string_equal(error.code, "bad_reply");
        lossd_close(client);
        fake_stop(&f);
    }
}

static void closed_connections(void **state)
{
    (void)state;
    char url[128];
    start(url, "--idle-timeout", "1s");
    lossd_client *client = lossd_open(url, NULL);
    lossd_result got;
    lossd_error error;
    assert_true(lossd_ready(client));
    for (int i = 0; i < 4; i++) { /* about when the connection is closed */
        if (!lossd_evaluate(client, "mse", pair, NULL, NULL, &got, &error))
            fail_msg("%s", error.detail);
        lossd_result_free(&got);
        nanosleep(&(struct timespec){.tv_nsec = 985000000 + i * 10000000 % 15000000}, NULL);
    }
    lossd_close(client);
    client = lossd_open("http://127.0.0.1:9", NULL);
    assert_false(lossd_ready(client));
    lossd_close(client);
}

static void keys(void **state)
{
    (void)state;
    static const char *const given[] = {NULL, "another-key-of-length", "a-key-of-some-length"};
    static const long wanted[] = {401, 403, 0};
    char url[128], path[160];
    snprintf(path, sizeof path, "%s/keys", folder);
    FILE *file = fopen(path, "w");
    fputs("a-key-of-some-length\n", file);
    fclose(file);
    start(url, "--api-key-file", path);
    for (int i = 0; i < 3; i++) {
        lossd_client *client = lossd_open(url, &(lossd_settings){.api_key = given[i]});
        lossd_result got;
        lossd_error error = {0};
        assert_int_equal(lossd_evaluate(client, "mse", pair, NULL, NULL, &got, &error), i == 2);
        assert_int_equal(error.status, wanted[i]);
        lossd_result_free(&got);
        lossd_close(client);
    }
    unlink(path);
}

/* Bytes of bodies that lossd has moved. */
static double moved(lossd_client *client)
{
    lossd_error error;
    assert_true(lossd_call(client, "/", "metrics", NULL, 0, &error));
    client->reply[client->size - 1] = '\0';
    const char *in = strstr(client->reply, "\nlossd_received_bytes_total ");
    const char *out = strstr(client->reply, "\nlossd_sent_bytes_total ");
    const double sum = atof(strchr(in + 1, ' ')) + atof(strchr(out + 1, ' '));
    lossd_drop_reply(client);
    return sum;
}

/* The same calls in shared memory and, over TCP, in ordinary memory; with a lossd that is started
 * again meanwhile. */
static void shared_memory(void **state)
{
    (void)state;
    enum { ROWS = 64, CLASSES = 1000, BYTES = ROWS * CLASSES * 4 };
    char url[128];
    start(url, "--workers", "2");
    char path[160];
    snprintf(path, sizeof path, "unix:%s/%d", folder, runs - 1);
    float *copy = malloc(BYTES);
    int64_t targets[ROWS];
    for (int i = 0; i < ROWS * CLASSES; i++)
        copy[i] = (float)sin(i);
    for (int i = 0; i < ROWS; i++)
        targets[i] = i;
    const char *const urls[] = {path, url};
    for (int k = 0; k < 2; k++) {
        lossd_client *client = lossd_open(urls[k], NULL), *other = lossd_open(url, NULL);
        const char *why = "?";
        lossd_result want, got;
        lossd_error error;
        lossd_tensor inputs[] = {{"logits", LOSSD_F32, 2, {ROWS, CLASSES}, copy},
                                 {"targets", LOSSD_I64, 1, {ROWS}, targets},
                                 {0}};
        assert_true(lossd_evaluate(client, "cross_entropy", inputs, NULL, NULL, &want, &error));
        const float *slopes = lossd_output(&want, "grad.logits")->data;
        char *memory = lossd_share(client, BYTES + ROWS * 8, &why);
        assert_non_null(memory);
        assert_int_equal(why == NULL, k == 0);
        memcpy(memory, copy, BYTES);
        memcpy(memory + BYTES, targets, sizeof targets);
        inputs[0].data = memory;
        inputs[1].data = memory + BYTES;
        const lossd_place places[] = {{"grad.logits", memory, BYTES}, {0}};
        const double before = moved(other);
        if (!lossd_evaluate_into(client, "cross_entropy", inputs, NULL, NULL, places, &got, &error))
            fail_msg("%s", error.detail);
        assert_int_equal(moved(other) - before < 50000, k == 0);
        assert_ptr_equal(lossd_output(&got, "grad.logits")->data, memory);
        assert_memory_equal(memory, slopes, BYTES);
        assert_true(lossd_get(lossd_output(&got, "loss"), 0) ==
                    lossd_get(lossd_output(&want, "loss"), 0));
        lossd_result_free(&got);
        const lossd_place small[] = {{"grad.logits", memory, BYTES - 1}, {0}};
        memcpy(memory, copy, BYTES);
        (void)lossd_evaluate_into(client, "cross_entropy", inputs, NULL, NULL, small, &got, &error);
        lossd_result_free(&got);
        lossd_result_free(&want);
        lossd_unshare(client, memory);
        assert_non_null(lossd_share(client, 100, NULL)); /* closed with the client */
        lossd_close(client);
        lossd_close(other);
    }
    free(copy);
}

static void resident_tensors(void **state)
{
    (void)state;
    const float weight[] = {1, 2, 3}, logits[] = {1, 2, 3};
    const int64_t targets[] = {1};
    const lossd_tensor kept[] = {{"w", LOSSD_F32, 1, {3}, weight}, {0}};
    const lossd_tensor inputs[] = {
        {"logits", LOSSD_F32, 2, {1, 3}, logits}, {"targets", LOSSD_I64, 1, {1}, targets}, {0}};
    const lossd_option options[] = {{"region.class_weight", "{\"region\":\"head/w\"}"}, {0}};
    lossd_client *client = lossd_open(local, NULL);
    lossd_result got;
    lossd_error error;
    assert_true(lossd_keep(client, "head", kept, false, &error));
    assert_false(lossd_keep(client, "head", kept, false, &error));
    assert_string_equal(error.code, "region_exists");
    assert_true(lossd_keep(client, "head", kept, true, &error));
    if (!lossd_evaluate(client, "cross_entropy", inputs, options, NULL, &got, &error))
        fail_msg("%s", error.detail);
    lossd_result_free(&got);
    assert_true(lossd_forget(client, "head", &error));
    assert_false(lossd_evaluate(client, "cross_entropy", inputs, options, NULL, &got, &error));
    assert_string_equal(error.code, "region_invalid");
    assert_true(lossd_ready(client));
    lossd_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shared_case),
        cmocka_unit_test(errors_carry_code_and_place),
        cmocka_unit_test(element_types),
        cmocka_unit_test(large_ones),
        cmocka_unit_test(full_for_ever),
        cmocka_unit_test(in_time),
        cmocka_unit_test(hostile_replies),
        cmocka_unit_test(closed_connections),
        cmocka_unit_test(keys),
        cmocka_unit_test(shared_memory),
        cmocka_unit_test(resident_tensors),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
