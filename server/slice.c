/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* syscall */
#include "slice.h"

/* The C library of Debian 12 has no function for it, and its sched.h excludes this header. */
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

void slice_set(uint64_t ns)
{
    struct sched_attr how = {.size = sizeof how};
    if (syscall(SYS_sched_getattr, 0, &how, sizeof how, 0) != 0)
        return;
    how.sched_runtime = ns;
    (void)!syscall(SYS_sched_setattr, 0, &how, 0);
}
