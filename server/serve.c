/* SPDX-License-Identifier: MIT */
#include "serve.h"

#include "catalogue/greeting.h"
#include "catalogue/trees.h"
#include "http/access.h"
#include "http/http.h"
#include "http/systemd.h"
#include "http/tls.h"
#include "region.h"
#include "request.h"
#include "resident.h"
#include "route.h"
#include "slice.h"
#include "tell/log.h"

#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BAD_USAGE = 2,
    TEXT_MAX = 64 * 1024 * 1024,
    SETTLE_MS = 5,
    /* Of the processor, in ns, for each loop: less than a worker has, so that a loop runs as soon
     * as something arrives for it, although workers may be computing on all processors. */
    LOOP_SLICE = 100 * 1000,
};

/* What the main thread tells each loop, as bits. */
enum { RELOAD = 1, QUIESCE = 2, ABANDON = 4, END = 8 };

typedef struct lane {
    uv_loop_t loop;
    http *server;
    uv_thread_t thread; /* not of the first one */
    uv_async_t told;
    atomic_uint what;
    uv_timer_t settle; /* polls whether all requests are answered */
} lane;

static struct {
    const flags *flags;
    lane lane[LOOPS_MAX];
    int lanes;
    atomic_int starting; /* loops that do not run yet */
    uv_async_t started;  /* all of them do */
    atomic_int serving;  /* loops whose requests are not all answered */
    atomic_int writing;  /* loops that have not written their log before the process is cut off */
    atomic_int left;     /* requests that are then not answered */
    uv_async_t settled;  /* none is serving any more */
    uv_signal_t term, interrupt, hangup;
    uv_timer_t timer; /* drain delay, then drain timeout */
    int signals;
    bool quiesced, over;
} all;

/* A loop. */

static void tell(lane *l, unsigned what)
{
    atomic_fetch_or(&l->what, what);
    uv_async_send(&l->told);
}

/* Nothing after END. */
static void tell_all(unsigned what)
{
    for (int i = 0; i < all.lanes && !all.over; i++)
        tell(&all.lane[i], what);
    all.over = all.over || what == END;
}

static void on_settle(uv_timer_t *timer)
{
    lane *l = timer->data;
    if (http_exchanges(l->server) > 0)
        return;
    uv_close((uv_handle_t *)&l->settle, NULL);
    http_stop(l->server);
    l->server = NULL;
    if (atomic_fetch_sub(&all.serving, 1) == 1)
        uv_async_send(&all.settled);
}

/* Work on the pool cannot be cancelled, and its exchange is suspended: exit without waiting. */
static void abandon(lane *l)
{
    char left[16];
    atomic_fetch_add(&all.left, l->server ? http_exchanges(l->server) : 0);
    log_flush();
    if (atomic_fetch_sub(&all.writing, 1) > 1)
        return;
    snprintf(left, sizeof left, "%d", atomic_load(&all.left));
    log_line(LOG_WARN, "cut off", "requests", left, NULL);
    _exit(0);
}

static void on_told(uv_async_t *handle)
{
    lane *l = handle->data;
    const unsigned what = atomic_exchange(&l->what, 0);
    if (what & RELOAD) {
        access_reload(l == all.lane);
        tls_reload(l == all.lane);
    }
    if (what & QUIESCE) {
        http_quiesce(l->server);
        uv_timer_start(&l->settle, on_settle, 0, SETTLE_MS);
    }
    if (what & ABANDON)
        abandon(l);
    if (what & END)
        uv_close((uv_handle_t *)&l->told, NULL);
}

static void open_lane(lane *l)
{
    uv_loop_init(&l->loop);
    uv_async_init(&l->loop, &l->told, on_told);
    uv_timer_init(&l->loop, &l->settle);
    l->told.data = l->settle.data = l;
}

/* For the case that the service does not start: the loop has run nothing. */
static void drop_lane(lane *l)
{
    uv_close((uv_handle_t *)&l->settle, NULL);
    uv_close((uv_handle_t *)&l->told, NULL);
    uv_run(&l->loop, UV_RUN_DEFAULT);
    uv_loop_close(&l->loop);
}

static void note_start(void)
{
    if (atomic_fetch_sub(&all.starting, 1) == 1)
        uv_async_send(&all.started);
}

static void run_lane(void *of)
{
    lane *l = of;
    if (!access_setup(all.flags) || !tls_setup(all.flags))
        _exit(BAD_USAGE);
    note_start();
    uv_run(&l->loop, UV_RUN_DEFAULT);
    uv_loop_close(&l->loop);
    access_end();
    tls_end();
    log_flush();
}

/* Signals, on the main thread. */

static void on_drain_timeout(uv_timer_t *timer)
{
    (void)timer;
    tell_all(ABANDON);
}

static void quiesce(uv_timer_t *timer)
{
    (void)timer;
    all.quiesced = true;
    tell_all(QUIESCE);
    uv_timer_start(&all.timer, on_drain_timeout, (uint64_t)all.flags->drain_timeout, 0);
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)handle;
    all.signals++;
    log_line(LOG_INFO, "draining", "signal", number == SIGTERM ? "SIGTERM" : "SIGINT", NULL);
    log_flush();
    if (all.signals > 2 || (all.signals == 2 && all.quiesced)) {
        on_drain_timeout(&all.timer);
        return;
    }
    route_drain();
    systemd_notify("STOPPING=1");
    uint64_t delay = number == SIGTERM && all.signals == 1 ? (uint64_t)all.flags->drain_delay : 0;
    if (!all.quiesced)
        uv_timer_start(&all.timer, quiesce, delay, 0);
}

static void on_hangup(uv_signal_t *handle, int number)
{
    (void)handle;
    (void)number;
    tell_all(RELOAD);
}

/* The signal handles stay open: otherwise a late second signal would kill the process. */
static void on_settled(uv_async_t *handle)
{
    tell_all(END);
    uv_unref((uv_handle_t *)&all.term);
    uv_unref((uv_handle_t *)&all.interrupt);
    uv_unref((uv_handle_t *)&all.hangup);
    uv_close((uv_handle_t *)&all.timer, NULL);
    uv_close((uv_handle_t *)handle, NULL);
}

static void watch(uv_signal_t *handle, uv_signal_cb what, int number)
{
    uv_signal_init(&all.lane[0].loop, handle);
    uv_signal_start(handle, what, number);
}

/* Start. */

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

static void on_started(uv_async_t *handle)
{
    const http *server = all.lane[0].server;
    char workers[16], loops[16];
    snprintf(workers, sizeof workers, "%d", (int)all.flags->workers);
    snprintf(loops, sizeof loops, "%d", (int)all.flags->loops);
    for (int i = 0; http_url(server, i); i++)
        log_line(LOG_INFO, "listening", "url", http_url(server, i), "isa", lk_isa_used(), "workers",
                 workers, "loops", loops, "version", lk_version(), NULL);
    if (!lk_isa_fuses())
        log_line(LOG_WARN, "slow processor", "why",
                 "it has no fused multiply-add; results are the same, and take many times as long",
                 NULL);
    log_flush();
    greet(all.flags, server);
    systemd_notify("READY=1");
    uv_close((uv_handle_t *)handle, NULL);
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

static void drop_servers(void)
{
    while (all.lanes-- > 0) {
        http_stop(all.lane[all.lanes].server);
        drop_lane(&all.lane[all.lanes]);
    }
}

/* All addresses are open before the first request is served. */
static bool start_servers(const flags *f)
{
    for (; all.lanes < (int)f->loops; all.lanes++) {
        lane *l = &all.lane[all.lanes];
        open_lane(l);
        l->server =
            http_start(&l->loop, f, &route_handler, all.lanes > 0 ? all.lane[0].server : NULL);
        if (l->server)
            continue;
        drop_lane(l);
        drop_servers();
        return false;
    }
    return true;
}

/* Only clients on this machine have the memory that they would name. */
static bool may_share_memory(const flags *f)
{
    const http *server = all.lane[0].server;
    for (int i = 0; f->client_shm[0] != '\0' && http_url(server, i); i++) {
        if (http_url_is_local(server, i))
            continue;
        fprintf(stderr,
                "lossd: --client-shm is for loopback addresses and Unix sockets; %s is neither\n",
                http_url(server, i));
        return false;
    }
    return true;
}

static bool start_threads(void)
{
    all.starting = all.serving = all.writing = all.lanes;
    for (int i = 1; i < all.lanes; i++)
        if (uv_thread_create(&all.lane[i].thread, run_lane, &all.lane[i]) != 0) {
            fprintf(stderr, "lossd: cannot start a thread for each of --loops\n");
            return false;
        }
    return true;
}

int serve(const flags *f)
{
    char workers[16];
    all.flags = f;
    snprintf(workers, sizeof workers, "%d", (int)f->workers);
    setenv("UV_THREADPOOL_SIZE", workers, 1); /* libuv reads it at the first uv_queue_work */
    signal(SIGPIPE, SIG_IGN);
    keep_memory();
    trees_setup();
    log_set(strcmp(f->log_format, "json") == 0, strcmp(f->log_level, "error") == 0  ? LOG_ERROR
                                                : strcmp(f->log_level, "warn") == 0 ? LOG_WARN
                                                : strcmp(f->log_level, "info") == 0 ? LOG_INFO
                                                                                    : LOG_DEBUG);
    region_setup((size_t)f->region_budget);
    region_shm_setup(f->client_shm);
    if (!access_setup(f) || !tls_setup(f) || !resident_start(f))
        return BAD_USAGE;
    request_setup(f);
    if (!start_servers(f))
        return 1;
    if (!may_share_memory(f)) {
        drop_servers();
        return BAD_USAGE;
    }
    uv_loop_t *main_loop = &all.lane[0].loop;
    watch(&all.term, on_signal, SIGTERM);
    watch(&all.interrupt, on_signal, SIGINT);
    watch(&all.hangup, on_hangup, SIGHUP);
    uv_timer_init(main_loop, &all.timer);
    uv_async_init(main_loop, &all.settled, on_settled);
    uv_async_init(main_loop, &all.started, on_started);
    slice_set(LOOP_SLICE);
    if (!start_threads())
        _exit(1);
    note_start();
    uv_run(main_loop, UV_RUN_DEFAULT);
    for (int i = 1; i < all.lanes; i++)
        uv_thread_join(&all.lane[i].thread);
    log_line(LOG_INFO, "stopped", NULL);
    log_flush();
    return 0;
}
