/* SPDX-License-Identifier: MIT
 *
 * The cost of moving bytes: lossd's HTTP code without evaluations. POST /echo sends the body back
 * at once, POST /pool after a round trip through the worker pool. It takes lossd's flags and ends
 * on SIGTERM.
 */
#include "server/http/http.h"
#include "server/tell/log.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uv_loop_t loop;
static size_t body_max;

static void nothing(uv_work_t *work)
{
    (void)work;
}

static void back(exchange *x)
{
    x->reply.status = 200;
    x->reply.media = "application/octet-stream";
    x->reply.pieces = 1;
    x->reply.whole = (span){x->body, x->body_size};
    x->reply.piece = &x->reply.whole;
}

static void after(uv_work_t *work, int status)
{
    exchange *x = work->data;
    (void)status;
    back(x);
    http_resume(x);
}

static bool on_begin(exchange *x)
{
    x->body_max = body_max;
    return true;
}

static bool on_grow(exchange *x, size_t more)
{
    (void)x;
    (void)more;
    return true;
}

static void on_refuse(exchange *x)
{
    (void)x;
}

static void on_leave(exchange *x)
{
    (void)x;
}

static void on_run(exchange *x)
{
    if (x->target.segments > 0 && strcmp(x->target.segment[0], "pool") == 0) {
        uv_work_t *work = calloc(1, sizeof *work);
        if (!work)
            abort();
        work->data = x;
        x->request = work;
        http_suspend(x);
        uv_queue_work(&loop, work, nothing, after);
        return;
    }
    back(x);
}

static void on_end(exchange *x)
{
    free(x->request);
}

static void on_rest(void)
{
}

static const handler echo = {
    .begin = on_begin,
    .grow = on_grow,
    .refuse = on_refuse,
    .run = on_run,
    .leave = on_leave,
    .end = on_end,
    .rest = on_rest,
};

int main(int argc, char **argv)
{
    flags f;
    bool help = false;
    char workers[16];
    if (!flags_parse(&f, argc, argv, 1, NULL, &help) || help)
        return 2;
    snprintf(workers, sizeof workers, "%d", (int)f.workers);
    setenv("UV_THREADPOOL_SIZE", workers, 1);
    signal(SIGPIPE, SIG_IGN);
    body_max = (size_t)f.max_body;
    log_set(false, LOG_ERROR);
    uv_loop_init(&loop);
    if (!http_start(&loop, &f, &echo, NULL))
        return 1;
    return uv_run(&loop, UV_RUN_DEFAULT);
}
