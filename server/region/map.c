/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* MADV_POPULATE_WRITE */
#include "region/map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

char *region_map_file(int fd, uint64_t offset, size_t size, bool writable, problem *p)
{
    /* What is only read is the same memory either way; before Linux 6.7 memory that is sealed
     * against writing cannot be mapped as shared. */
    char *at = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                    writable ? MAP_SHARED : MAP_PRIVATE, fd, (off_t)offset);
    if (at == MAP_FAILED) {
        problem_set(p, 507, "region_budget", "%zu bytes cannot be mapped: %s", size,
                    strerror(errno));
        return NULL;
    }
    (void)madvise(at, size, MADV_HUGEPAGE); /* only a hint */
    return at;
}

bool region_populate(char *at, size_t size, bool writable, problem *p)
{
    return madvise(at, size, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0 ||
           errno == EINVAL || /* before Linux 5.14 */
           problem_set(p, 507, "region_budget", "%zu bytes cannot be had in memory: %s", size,
                       strerror(errno));
}

region *region_new_mapped(region_kind kind, int fd, const struct stat *is, uint64_t offset,
                          size_t size, bool writable, problem *p)
{
    region *r = calloc(1, sizeof *r);
    if (!r) {
        problem_set(p, 503, "no_memory", "no memory for a region; try again later");
        return NULL;
    }
    if (!region_reserve(size, p)) {
        free(r);
        return NULL;
    }
    r->kind = kind;
    r->map = r->at = region_map_file(fd, offset, size, writable, p);
    if (!r->map) {
        region_unreserve(size);
        free(r);
        return NULL;
    }
    r->mapped = r->size = r->charged = size;
    r->writable = writable;
    r->origin = (origin){is->st_dev, is->st_ino, offset};
    return r;
}

void region_free_mapped(region *r)
{
    region_unreserve(r->charged);
    (void)munmap(r->map, r->mapped);
    free(r);
}
