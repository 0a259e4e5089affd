/* SPDX-License-Identifier: MIT
 *
 * How threads share the processors: for how long a thread wants one, and whom it interrupts.
 */
#ifndef LOSSD_SLICE_H
#define LOSSD_SLICE_H

#include <stdint.h>

/* Ask for slices of so many ns for this thread and those that it starts from now on. Since Linux
 * 6.12 a thread that wakes up interrupts one that has longer slices. Older kernels take no notice;
 * where it is not allowed, the thread waits like any other. */
void slice_set(uint64_t ns);

/* From now on this thread, and those that it starts, interrupt no other one when they wake up. A
 * thread that was not started with the usual policy keeps its own. */
void slice_batch(void);

#endif
