/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include "guard.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* The handler of SIGBUS reads these, so they are atomic. */
static struct {
    atomic_uintptr_t at;
    atomic_size_t size; /* 0: not in use */
    atomic_bool broken;
} guards[GUARDS_MAX];

/* Put zeros in the place of what is gone, from the faulting page on, and let the instruction run
 * again. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), fault = (uintptr_t)info->si_addr;
    const int saved = errno;
    (void)context;
    for (int i = 0; i < GUARDS_MAX; i++) {
        const size_t size = atomic_load(&guards[i].size);
        const uintptr_t at = atomic_load(&guards[i].at);
        if (size == 0 || fault < at || fault - at >= size)
            continue;
        const uintptr_t from = fault / page * page;
        const uintptr_t end = (at + size + page - 1) / page * page;
        atomic_store(&guards[i].broken, true);
        if (mmap((void *)from, end - from, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
            break;
        errno = saved;
        return;
    }
    signal(number, SIG_DFL); /* the instruction faults again, and that is the end */
}

void guard_setup(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

int guard_take(const char *at, size_t size)
{
    for (int i = 0; i < GUARDS_MAX; i++)
        if (atomic_load(&guards[i].size) == 0) {
            atomic_store(&guards[i].broken, false);
            atomic_store(&guards[i].at, (uintptr_t)at);
            atomic_store(&guards[i].size, size);
            return i;
        }
    return -1;
}

void guard_drop(int guard)
{
    atomic_store(&guards[guard].size, 0);
}

bool guard_broken(int guard)
{
    return atomic_load(&guards[guard].broken);
}
