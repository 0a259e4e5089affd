/* SPDX-License-Identifier: MIT
 *
 * Mappings whose memory may go away while they are read: a file that is made shorter, or a page
 * that cannot be had. The fault must not end the process: zeros take the place of what is gone, and
 * the guard is broken from then on. Any thread may call any function.
 */
#ifndef LOSSD_GUARD_H
#define LOSSD_GUARD_H

#include <stdbool.h>
#include <stddef.h>

enum { GUARDS_MAX = 1024 };

/* Catch faults from now on; once. */
void guard_setup(void);

/* Guard a mapping of ordinary pages, until guard_drop, which must come before it is unmapped. -1:
 * there are GUARDS_MAX already. One thread at a time. */
int guard_take(const char *at, size_t size);
void guard_drop(int guard);

/* Has memory of the mapping gone away? */
bool guard_broken(int guard);

#endif
