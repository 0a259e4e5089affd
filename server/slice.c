/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* syscall */
#include "slice.h"

/* The C library of Debian 12 has no function for slices, and its sched.h excludes this header. */
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool read_own(struct sched_attr *how)
{
    return syscall(SYS_sched_getattr, 0, how, sizeof *how, 0) == 0;
}

static void write_own(struct sched_attr *how)
{
    (void)!syscall(SYS_sched_setattr, 0, how, 0);
}

void slice_set(uint64_t ns)
{
    struct sched_attr how = {.size = sizeof how};
    if (!read_own(&how))
        return;
    how.sched_runtime = ns;
    write_own(&how);
}

void slice_batch(void)
{
    struct sched_attr how = {.size = sizeof how};
    if (!read_own(&how) || how.sched_policy != SCHED_NORMAL)
        return;
    how.sched_policy = SCHED_BATCH;
    write_own(&how);
}
