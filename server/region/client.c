/* SPDX-License-Identifier: MIT
 *
 * Memory that a client hands over, and that loses its name with its connection.
 */
#define _GNU_SOURCE /* F_GET_SEALS */
#include "region/map.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

/* Can whoever has this file no longer take its memory away, and so make a reader fault? A memfd of
 * huge pages (MFD_HUGETLB) is none: holes can be made in it, for which the kernel may have no page
 * later, and neither a guard nor munmap takes a part of such a page. */
static bool is_sealed(int fd, const struct stat *is)
{
    struct statfs on;
    const int seals = fcntl(fd, F_GET_SEALS), need = F_SEAL_SHRINK | F_SEAL_SEAL;
    return S_ISREG(is->st_mode) && seals >= 0 && (seals & need) == need && fstatfs(fd, &on) == 0 &&
           on.f_type == TMPFS_MAGIC;
}

static bool may_read(int fd)
{
    return (fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY;
}

static bool may_write(int fd)
{
    const int seals = fcntl(fd, F_GET_SEALS);
    return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR &&
           (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) == 0;
}

static region *map_handed(uint64_t size, uint64_t reserved, int fd, problem *p)
{
    struct stat is;
    if (reserved != 0 || size == 0) {
        problem_set(p, 400, "malformed_request",
                    "a message is a size, which is not 0, and flags, which are 0; size is %llu, "
                    "flags are %llu",
                    (unsigned long long)size, (unsigned long long)reserved);
        return NULL;
    }
    if (fstat(fd, &is) != 0 || !is_sealed(fd, &is) || !may_read(fd)) {
        problem_set(p, 422, "region_invalid",
                    "the descriptor must be a memfd, of ordinary pages, that may be read, with the "
                    "seals F_SEAL_SHRINK and F_SEAL_SEAL");
        return NULL;
    }
    if (size > (uint64_t)is.st_size) {
        problem_set(p, 422, "region_invalid", "the memory has %llu bytes; %llu were announced",
                    (unsigned long long)is.st_size, (unsigned long long)size);
        return NULL;
    }
    region *r = region_new_mapped(CLIENT, fd, &is, 0, (size_t)size, may_write(fd), p);
    if (r && !region_populate(r->map, r->mapped, r->writable, p)) {
        region_free_mapped(r);
        return NULL;
    }
    return r;
}

/* A name that cannot be guessed. */
static bool draw_name(char to[REGION_NAME])
{
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return false;
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(to + 2 * i, 3, "%02x", random[i]);
    return true;
}

bool region_receive(region_group *group, uint64_t size, uint64_t reserved, int fd, buffer *line,
                    problem *p)
{
    region *r = map_handed(size, reserved, fd, p);
    close(fd);
    if (!r)
        return false;
    bool ok = draw_name(r->name) ||
              problem_set(p, 503, "no_memory", "no random name is to be had; try again later");
    if (ok) {
        region_lock();
        ok = region_publish(r, p);
        region_unlock();
    }
    if (!ok) {
        region_free_mapped(r);
        return false;
    }
    r->sibling = group->first;
    group->first = r;
    buffer_printf(line, "{\"region\":\"%s\",\"size\":%zu}\n", r->name, r->size);
    return true;
}

void region_forget(region_group *group)
{
    while (group->first) {
        region *r = group->first;
        group->first = r->sibling;
        region_lock();
        region_retract(r);
        region_unlock();
        region_release(r);
    }
}
