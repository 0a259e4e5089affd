/* SPDX-License-Identifier: MIT
 *
 * lossd: the commands, start, signals and stop.
 */
#include "catalogue/describe.h"
#include "catalogue/greeting.h"
#include "catalogue/manual.h"
#include "catalogue/openapi.h"
#include "catalogue/trees.h"
#include "eval.h"
#include "flags.h"
#include "http/access.h"
#include "http/http.h"
#include "http/systemd.h"
#include "http/tls.h"
#include "request.h"
#include "resident.h"
#include "route.h"
#include "tell/health.h"
#include "tell/log.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAD_USAGE = 2, TEXT_MAX = 64 * 1024 * 1024, SETTLE_MS = 5 };

/* serve. */

typedef struct service {
    uv_loop_t loop;
    http *server;
    const flags *flags;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t timer;  /* drain delay, then drain timeout */
    uv_timer_t settle; /* polls whether all requests are answered */
    int signals;
    bool quiesced;
} service;

/* The signal handles stay open: otherwise a late second signal would kill the process. */
static void stop(service *s)
{
    uv_unref((uv_handle_t *)&s->term);
    uv_unref((uv_handle_t *)&s->interrupt);
    uv_unref((uv_handle_t *)&s->hangup);
    uv_close((uv_handle_t *)&s->timer, NULL);
    uv_close((uv_handle_t *)&s->settle, NULL);
    http_stop(s->server);
}

static void on_settle(uv_timer_t *timer)
{
    service *s = timer->data;
    if (http_exchanges(s->server) == 0)
        stop(s);
}

static void on_drain_timeout(uv_timer_t *timer)
{
    service *s = timer->data;
    char left[16];
    snprintf(left, sizeof left, "%d", http_exchanges(s->server));
    log_line(LOG_WARN, "cut off", "requests", left, NULL); /* a warning: it is written */
    /* Work on the pool cannot be cancelled, and its exchange is suspended: exit without waiting. */
    _exit(0);
}

static void quiesce(uv_timer_t *timer)
{
    service *s = timer->data;
    s->quiesced = true;
    http_quiesce(s->server);
    uv_timer_start(&s->settle, on_settle, 0, SETTLE_MS);
    uv_timer_start(&s->timer, on_drain_timeout, (uint64_t)s->flags->drain_timeout, 0);
}

static void on_signal(uv_signal_t *handle, int number)
{
    service *s = handle->data;
    s->signals++;
    log_line(LOG_INFO, "draining", "signal", number == SIGTERM ? "SIGTERM" : "SIGINT", NULL);
    log_flush();
    if (s->signals > 2 || (s->signals == 2 && s->quiesced)) {
        on_drain_timeout(&s->timer);
        return;
    }
    route_drain();
    systemd_notify("STOPPING=1");
    uint64_t delay = number == SIGTERM && s->signals == 1 ? (uint64_t)s->flags->drain_delay : 0;
    if (!s->quiesced)
        uv_timer_start(&s->timer, quiesce, delay, 0);
}

static void on_hangup(uv_signal_t *handle, int number)
{
    (void)handle;
    (void)number;
    access_reload();
    tls_reload();
}

static void watch(service *s, uv_signal_t *handle, uv_signal_cb what, int number)
{
    uv_signal_init(&s->loop, handle);
    handle->data = s;
    uv_signal_start(handle, what, number);
}

/* To a person: where a log is read by eye, the first request to try. */
static void greet(const flags *f, const http *server)
{
    const int to = isatty(STDERR_FILENO) ? STDERR_FILENO : STDOUT_FILENO;
    const char *url = http_url(server, 0);
    buffer text = buffer_new(TEXT_MAX);
    if (isatty(to) && log_wants(LOG_INFO) && strcmp(f->log_format, "json") != 0) {
        for (int i = 0; strncmp(url, "unix:", 5) == 0 && http_url(server, i); i++)
            url = http_url(server, i);
        greeting_write(f, url, &text);
        if (write(to, text.data, text.size) < 0)
            (void)0; /* it is served all the same */
    }
    buffer_free(&text);
}

/* By default the C library gives memory at the end of the heap back to the kernel when it is freed,
 * and takes it again for the next request, page by page: in some processes and not in others, as
 * their heaps happen to lie. Here it stays until all has been quiet for a while (http.c). Large
 * bodies have memory of their own (pages.c); setting the other two fixes this limit as well. */
static void keep_memory(void)
{
    enum { LARGE = 32 << 20, MORE = 1 << 20 };
    mallopt(M_MMAP_THRESHOLD, LARGE);
    mallopt(M_TRIM_THRESHOLD, 2 * LARGE);
    mallopt(M_TOP_PAD, MORE);
}

static int serve(const flags *f)
{
    static service s; /* static, because its loop outlives this function */
    s.flags = f;
    char workers[16];
    snprintf(workers, sizeof workers, "%d", (int)f->workers);
    setenv("UV_THREADPOOL_SIZE", workers, 1); /* libuv reads it at the first uv_queue_work */
    signal(SIGPIPE, SIG_IGN);
    keep_memory();
    trees_setup();
    log_set(strcmp(f->log_format, "json") == 0, strcmp(f->log_level, "error") == 0  ? LOG_ERROR
                                                : strcmp(f->log_level, "warn") == 0 ? LOG_WARN
                                                : strcmp(f->log_level, "info") == 0 ? LOG_INFO
                                                                                    : LOG_DEBUG);
    region_setup((size_t)f->region_budget, f->client_shm);
    if (!access_setup(f) || !tls_setup(f) || !resident_start(f))
        return BAD_USAGE;
    uv_loop_init(&s.loop);
    request_setup(&s.loop, f);
    s.server = http_start(&s.loop, f, &route_handler);
    if (!s.server) {
        uv_run(&s.loop, UV_RUN_DEFAULT);
        uv_loop_close(&s.loop);
        return 1;
    }
    watch(&s, &s.term, on_signal, SIGTERM);
    watch(&s, &s.interrupt, on_signal, SIGINT);
    watch(&s, &s.hangup, on_hangup, SIGHUP);
    uv_timer_init(&s.loop, &s.timer);
    s.timer.data = &s;
    uv_timer_init(&s.loop, &s.settle);
    s.settle.data = &s;
    for (int i = 0; http_url(s.server, i); i++)
        log_line(LOG_INFO, "listening", "url", http_url(s.server, i), "isa", lk_isa_used(),
                 "workers", workers, "version", lk_version(), NULL);
    log_flush();
    greet(f, s.server);
    systemd_notify("READY=1");
    uv_run(&s.loop, UV_RUN_DEFAULT);
    log_line(LOG_INFO, "stopped", NULL);
    log_flush();
    return 0;
}

/* The other commands. */

static int print(buffer *text)
{
    bool ok = !text->failed && fwrite(text->data, 1, text->size, stdout) == text->size &&
              fflush(stdout) == 0;
    buffer_free(text);
    if (!ok)
        fprintf(stderr, "lossd: cannot write the output\n");
    return ok ? 0 : 1;
}

static int print_document(void (*write)(buffer *to))
{
    buffer text = buffer_new(TEXT_MAX);
    write(&text);
    return print(&text);
}

static void openapi_all(buffer *to)
{
    openapi_write(NULL, to);
}

static int print_problem(const problem *p)
{
    fprintf(stderr, "lossd: %s: %s\n", p->code, p->detail);
    return 1;
}

static int describe(int argc, char **argv)
{
    const lk_loss *loss = NULL;
    problem p;
    bool json = false, markdown = false, example = false;
    buffer text = buffer_new(TEXT_MAX);
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--markdown") == 0) {
            markdown = true;
        } else if (strcmp(argv[i], "--example") == 0) {
            example = true;
        } else if (argv[i][0] == '-') {
            fprintf(stderr, "lossd: describe takes --json, --markdown or --example, not \"%s\"\n",
                    argv[i]);
            return BAD_USAGE;
        } else if (!(loss = evaluation_loss(argv[i], &p))) {
            return print_problem(&p);
        }
    }
    if (example && !loss) {
        fprintf(stderr, "lossd: describe --example needs the name of a loss\n");
        return BAD_USAGE;
    }
    if (example)
        buffer_printf(&text, "%s\n", lk_loss_describe(loss)->example);
    else if (markdown)
        describe_markdown(&text);
    else if (json)
        describe_json(loss, &text);
    else
        describe_text(loss, &text);
    return print(&text);
}

static int health(int argc, char **argv)
{
    const char *url = "http://127.0.0.1:8080";
    if (argc == 4 && strcmp(argv[2], "--url") == 0) {
        url = argv[3];
    } else if (argc != 2) {
        fprintf(stderr, "lossd: health takes --url http://host:port or --url unix:/path\n");
        return BAD_USAGE;
    }
    return health_check(url);
}

/* Take a word out of the command line. */
static bool take(const char *word, int *argc, char **argv)
{
    int kept = 0;
    for (int i = 0; i < *argc; i++)
        if (i == 0 || strcmp(argv[i], word) != 0)
            argv[kept++] = argv[i];
    const bool there = kept < *argc;
    *argc = kept;
    return there;
}

static int serve_or_evaluate(int argc, char **argv)
{
    const char *command = argc > 1 && argv[1][0] != '-' ? argv[1] : "serve";
    const bool evaluates = strcmp(command, "eval") == 0;
    const bool lines = evaluates && take("--lines", &argc, argv);
    bool help;
    int first = argc > 1 && argv[1][0] != '-' ? 2 : 1, words = 0;
    static flags f; /* static, because access control uses them as long as the service runs */
    if (!evaluates && strcmp(command, "serve") != 0) {
        fprintf(stderr, "lossd: there is no command \"%s\"; lossd --help lists them\n", command);
        return BAD_USAGE;
    }
    if (!flags_parse(&f, argc, argv, first, evaluates ? &words : NULL, &help))
        return BAD_USAGE;
    if (help)
        return print_document(manual_help);
    if (!lk_isa_use(f.isa)) {
        fprintf(stderr, "lossd: --isa is \"%s\"; this processor runs auto", f.isa);
        for (int i = 0; i < lk_isa_count(); i++)
            if (lk_isa_runs(i))
                fprintf(stderr, ", %s", lk_isa_name(i));
        fputs("\n", stderr);
        return BAD_USAGE;
    }
    if (!evaluates)
        return serve(&f);
    return eval(&f, argv + first, words, lines);
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "serve";
    if (strcmp(command, "version") == 0 || strcmp(command, "--version") == 0) {
        printf("lossd %s\n", lk_version());
        return 0;
    }
    if (strcmp(command, "openapi") == 0)
        return print_document(openapi_all);
    if (strcmp(command, "manual") == 0)
        return print_document(manual_page);
    if (strcmp(command, "completion") == 0)
        return print_document(manual_completion);
    if (strcmp(command, "describe") == 0)
        return describe(argc, argv);
    if (strcmp(command, "health") == 0)
        return health(argc, argv);
    return serve_or_evaluate(argc, argv);
}
