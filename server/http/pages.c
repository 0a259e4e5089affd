/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS and madvise are not in POSIX */
#include "http/pages.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    HUGE_PAGE = 2 << 20,
    LARGE = 8 << 20, /* smaller ones come from malloc, which reuses memory itself */
    KEPT = 8,
    SMALL_STEP = 1024,
/* Of these one is kept, too: malloc has to search for it, each time. The address sanitizer wants
 * every body to end where its memory ends. */
#if defined(__SANITIZE_ADDRESS__)
    SMALL = 0,
#else
    SMALL = 64 << 10,
#endif
};

static size_t most_kept;

/* The memory that this thread keeps for reuse, the longest unused first. */
static _Thread_local struct {
    size_t sum;
    int count;
    pages kept[KEPT];
    int age[KEPT];
    pages small;
    int small_age;
} spare;

void pages_setup(size_t most)
{
    most_kept = most;
}

static pages take_kept(int i)
{
    const pages p = spare.kept[i];
    spare.sum -= p.size;
    spare.count--;
    memmove(&spare.kept[i], &spare.kept[i + 1], (size_t)(spare.count - i) * sizeof(pages));
    memmove(&spare.age[i], &spare.age[i + 1], (size_t)(spare.count - i) * sizeof(int));
    return p;
}

static void unmap(pages p)
{
    (void)munmap(p.at, p.size);
}

static pages map(size_t size)
{
    if (size > SIZE_MAX / 2)
        return (pages){0};
    size = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    /* Map one huge page more, so that the block can be aligned to huge pages; the rest is
     * unmapped. */
    char *all =
        mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return (pages){0};
    const size_t before = (HUGE_PAGE - (uintptr_t)all % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0)
        (void)munmap(all, before);
    (void)munmap(all + before + size, HUGE_PAGE - before);
    (void)madvise(all + before, size, MADV_HUGEPAGE); /* only a hint */
    return (pages){all + before, size};
}

/* The smallest kept block that is large enough, unless most of it would be unused. */
static pages take(size_t size)
{
    int best = -1;
    for (int i = 0; i < spare.count; i++) {
        const size_t is = spare.kept[i].size;
        if (is >= size && is / 2 <= size && (best < 0 || is < spare.kept[best].size))
            best = i;
    }
    return best >= 0 ? take_kept(best) : map(size);
}

/* The first memory of a small body: not much more than it needs. */
static bool take_small(pages *p, size_t size)
{
    const size_t whole = (size + SMALL_STEP - 1) / SMALL_STEP * SMALL_STEP;
    if (spare.small.size >= whole && spare.small.size / 2 <= whole) {
        *p = spare.small;
        spare.small = (pages){0};
        return true;
    }
    char *at = malloc(whole);
    if (at)
        *p = (pages){at, whole};
    return at;
}

static void keep_small(pages p)
{
    free(spare.small.at);
    spare.small = p;
    spare.small_age = 0;
}

bool pages_grow(pages *p, size_t size)
{
    if (size <= p->size)
        return true;
    if (p->size == 0 && size <= SMALL)
        return take_small(p, size);
    if (size < LARGE) {
        char *at = realloc(p->at, size);
        if (at)
            *p = (pages){at, size};
        return at;
    }
    const pages large = take(size);
    if (!large.at)
        return false;
    if (p->size > 0)
        memcpy(large.at, p->at, p->size);
    pages_free(p);
    *p = large;
    return true;
}

void pages_fit(pages *p, size_t size)
{
    enum { PAGE = 64 * 1024 /* on any machine a multiple of one */ };
    const size_t whole = (size + PAGE - 1) / PAGE * PAGE;
    if (size < LARGE) {
        char *at = p->size < LARGE ? realloc(p->at, size) : malloc(size);
        if (!at)
            return;
        if (p->size >= LARGE) {
            memcpy(at, p->at, size);
            pages_free(p);
        }
        *p = (pages){at, size};
    } else if (whole < p->size && munmap(p->at + whole, p->size - whole) == 0) {
        p->size = whole;
    }
}

void pages_free(pages *p)
{
    if (p->size == 0) {
        return;
    } else if (p->size <= SMALL) {
        keep_small(*p);
    } else if (p->size < LARGE) {
        free(p->at);
    } else if (p->size > most_kept) {
        unmap(*p);
    } else {
        while (spare.count == KEPT || spare.sum + p->size > most_kept)
            unmap(take_kept(0));
        spare.age[spare.count] = 0;
        spare.kept[spare.count++] = *p;
        spare.sum += p->size;
    }
    *p = (pages){0};
}

void pages_drop(char *at, size_t size)
{
    if (size < LARGE)
        free(at);
    else
        unmap((pages){at, size});
}

void pages_age(int most)
{
    for (int i = 0; i < spare.count; i++)
        spare.age[i]++;
    while (spare.count > 0 && spare.age[0] >= most)
        unmap(take_kept(0));
    if (++spare.small_age >= most)
        keep_small((pages){0});
}
