/* SPDX-License-Identifier: MIT */
#include "request/budget.h"

#include "tell/metrics.h"

#include <stdatomic.h>

/* Set once. What is in use of both are metric.queue_bytes and metric.in_flight_requests. */
static struct {
    long long bytes, places;
} budget;

void budget_setup(const flags *f)
{
    budget.bytes = f->memory_budget;
    budget.places = f->queue_limit;
    atomic_store(&metric.memory_budget_bytes, f->memory_budget);
    atomic_store(&metric.queue_limit_jobs, f->queue_limit);
}

bool budget_reserve(size_t *reserved, size_t bytes, problem *p)
{
    const size_t all = (size_t)budget.bytes;
    if (bytes > all || *reserved + bytes > all)
        return problem_set(p, 413, "too_large",
                           "the request needs %zu bytes; the memory budget for all is %zu "
                           "(--memory-budget)",
                           *reserved + bytes, all);
    long long used = atomic_load(&metric.queue_bytes);
    do
        if ((long long)bytes > budget.bytes - used)
            return problem_set(
                p, 503, "over_budget",
                "%zu more bytes do not fit in the memory budget now (%lld of %zu in use); "
                "try again later",
                bytes, used, all);
    while (!atomic_compare_exchange_weak(&metric.queue_bytes, &used, used + (long long)bytes));
    *reserved += bytes;
    return true;
}

void budget_release(size_t *reserved)
{
    atomic_fetch_sub(&metric.queue_bytes, (long long)*reserved);
    *reserved = 0;
}

void budget_leave(void)
{
    atomic_fetch_sub(&metric.in_flight_requests, 1);
}

bool budget_enter(problem *p)
{
    const long long before = atomic_fetch_add(&metric.in_flight_requests, 1);
    if (before < budget.places)
        return true;
    budget_leave();
    return problem_set(p, 503, "queue_full",
                       "%lld evaluations are under way already; try again later", before);
}
