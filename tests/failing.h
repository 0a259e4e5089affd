/* SPDX-License-Identifier: MIT
 *
 * Allocations that fail on request. A program that includes this is linked with --wrap, so that the
 * allocations of the server and the library, on any thread, call the functions below.
 */
#ifndef TESTS_FAILING_H
#define TESTS_FAILING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
char *__wrap_strdup(const char *text);

/* At most 0: nothing fails; n: the n-th allocation from now on does. After it fails either nothing
 * more or everything. */
static atomic_long fails_in;
static atomic_bool for_good, failed;
static atomic_size_t asked;       /* bytes that were given, while something is to fail */
static _Thread_local bool spared; /* this thread is none of those that are looked at */

static bool fails(size_t size)
{
    if (spared)
        return false;
    if (failed ? for_good : fails_in > 0 && atomic_fetch_sub(&fails_in, 1) == 1) {
        failed = true;
        return true;
    }
    if (fails_in > 0)
        asked += size;
    return false;
}

void *__wrap_malloc(size_t size)
{
    return fails(size) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails(count * size) ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails(size) ? NULL : __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails(size) ? NULL : __real_aligned_alloc(alignment, size);
}

char *__wrap_strdup(const char *text)
{
    char *copy = __wrap_malloc(strlen(text) + 1);
    return copy ? strcpy(copy, text) : NULL;
}

static void failing_begin(long n, bool everything)
{
    asked = 0;
    for_good = everything;
    fails_in = n;
}

/* Did an allocation fail since begin? Nothing does any more. */
static bool failing_end(void)
{
    fails_in = 0;
    return atomic_exchange(&failed, false);
}

#endif
