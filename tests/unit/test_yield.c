/* SPDX-License-Identifier: MIT
 *
 * When a worker lets the loop have its processor: while other requests arrive, and not for its own.
 */
#include "request/steps.h"
#include "tell/metrics.h"
#include "tests/help.h"
#include "wire/wires.h"

#include <sched.h>

enum { ROWS = 2048, CLASSES = 128, MS = 1000 * 1000 };

static uint64_t clock_now = 1000 * MS;
static int yields;

/* The clock of this program: between two looks at it a millisecond passes. */
uint64_t uv_hrtime(void)
{
    return clock_now += MS;
}

int sched_yield(void)
{
    yields++;
    return 0;
}

/* How often does a worker yield that evaluates a request which began at `start`, if another one
 * that began at `other` (0: none) was complete before it? */
static int yields_of(uint64_t start, uint64_t other)
{
    const lk_loss *loss = lk_loss_find("cross_entropy");
    char *body = malloc(64 + 2 * ROWS * (CLASSES + 4)),
         *end = stpcpy(body, "{\"inputs\":{\"logits\":[");
    for (int i = 0; i < ROWS * CLASSES; i++)
        end = stpcpy(end, i == 0 ? "[0" : i % CLASSES == 0 ? "],[0" : ",0");
    end = stpcpy(end, "]],\"targets\":[0");
    for (int i = 1; i < ROWS; i++)
        end = stpcpy(end, ",0");
    end = stpcpy(end, "]}}");
    exchange x = {.start = start, .body = body, .body_size = (size_t)(end - body)};
    request r = {.x = &x, .ask = {.loss = loss, .in = &wire_json, .out = &wire_json, .query = ""}};
    exchange small = {.start = other};
    if (other > 0)
        steps_arrived(&(request){.x = &small});
    steps_arrived(&r);
    life_limit(&r, 0);
    r.reserved = SIZE_MAX;
    r.work.data = &r;
    r.e = evaluation_new(loss, r.ask.in, r.ask.out, (span){x.body, x.body_size});
    assert_non_null(r.e);
    atomic_store(&metric.queue_jobs, 1);
    yields = 0;
    steps_work_open(&r.work);
    if (r.problem.status != 0)
        fail_msg("%s", r.problem.detail);
    assert_int_equal(r.step, STEP_CLOSE);
    evaluation_free(r.e);
    free(body);
    return yields;
}

static void a_worker_yields_while_others_arrive(void **state)
{
    const uint64_t before = clock_now;
    (void)state;
    clock_now += 1000 * MS;
    assert_int_equal(yields_of(before, 0), 0);
    assert_int_equal(yields_of(clock_now, 0), 0);
    /* One that began while this one's body came, which takes long if it is large. */
    const uint64_t other = clock_now;
    assert_true(yields_of(other - 200 * MS, other) > 0);
    clock_now += 1000 * MS;
    assert_int_equal(yields_of(clock_now - 200 * MS, other), 0);
}

int main(void)
{
    const flags f = {.workers = 1, .request_timeout = 3600 * 1000, .max_body = 1 << 20};
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_worker_yields_while_others_arrive)};
    life_setup(&f);
    steps_setup(&f);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
