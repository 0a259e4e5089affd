/* SPDX-License-Identifier: MIT
 *
 * POSIX shared memory, registered as Triton's clients do.
 */
#include "region/map.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *prefix = ""; /* --client-shm */

void region_shm_setup(const char *names)
{
    prefix = names + (names[0] == '/');
}

bool region_shm_offered(void)
{
    return prefix[0] != '\0';
}

/* Open the object that `key` names, if clients may name it. */
static int open_shm(const char *key, struct stat *is)
{
    char path[REGION_NAME + 1];
    const char *name = key + (key[0] == '/');
    if (!region_is_plain(name) || strchr(name, '/') || strncmp(name, prefix, strlen(prefix)) != 0)
        return -1;
    snprintf(path, sizeof path, "/%s", name);
    const int fd = shm_open(path, O_RDWR | O_CLOEXEC, 0);
    if (fd >= 0 && fstat(fd, is) == 0 && S_ISREG(is->st_mode) && is->st_uid == geteuid())
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static region *map_shm(const char *key, uint64_t offset, uint64_t size, problem *p)
{
    struct stat is;
    const int fd = open_shm(key, &is);
    if (fd < 0) {
        problem_set(p, 400, "region_invalid",
                    "key must be the name of a shared memory object that begins with \"%s\" "
                    "(--client-shm) and belongs to the user of lossd",
                    prefix);
        return NULL;
    }
    const size_t before = (size_t)(offset % (uint64_t)sysconf(_SC_PAGESIZE));
    region *r = NULL;
    if (size == 0 || offset > (uint64_t)is.st_size || size > (uint64_t)is.st_size - offset)
        problem_set(p, 400, "region_invalid",
                    "offset %llu and byte_size %llu are not a range of the object, which has %llu "
                    "bytes",
                    (unsigned long long)offset, (unsigned long long)size,
                    (unsigned long long)is.st_size);
    else
        r = region_new_mapped(TRITON, fd, &is, offset - before, before + (size_t)size, true, p);
    close(fd);
    if (r) {
        r->at += before;
        r->size = (size_t)size;
        r->shm_offset = offset;
        snprintf(r->shm, sizeof r->shm, "%s", key);
    }
    return r;
}

bool region_register(const char *name, const char *key, uint64_t offset, uint64_t size,
                     const asker *who, problem *p)
{
    if (!region_is_plain(name))
        return problem_set(p, 400, "malformed_request",
                           "the name of a region must be 1 to %d printable characters, without \" "
                           "and \\",
                           REGION_NAME - 1);
    region *r = map_shm(key, offset, size, p);
    if (!r)
        return false;
    r->listener = who->listener;
    snprintf(r->name, sizeof r->name, "%s", name);
    region_lock();
    region_view other;
    const bool ok = (!region_look_up_view(name, who, &other) ||
                     problem_set(p, 400, "region_exists",
                                 "shared memory region '%s' already in manager", name)) &&
                    region_publish(r, p);
    region_unlock();
    if (!ok)
        region_free_mapped(r);
    return ok;
}

/* Take the names of the regions that were registered so, or of one, away: as a group. */
static region_group retract_shm(const char *name, const asker *who)
{
    region_group gone = {0};
    region_lock();
    for (int i = 0; i < REGION_BUCKETS; i++)
        for (region **at = region_bucket(i); *at;) {
            region *r = *at;
            if (r->kind != TRITON || !region_is_for(r, who) ||
                (name && strcmp(r->name, name) != 0)) {
                at = &r->next;
                continue;
            }
            *at = r->next;
            r->sibling = gone.first;
            gone.first = r;
        }
    region_unlock();
    return gone;
}

void region_unregister(const char *name, const asker *who)
{
    region *next;
    for (region *r = retract_shm(name, who).first; r; r = next) {
        next = r->sibling;
        region_release(r);
    }
}

bool region_shm_status(const char *name, const asker *who, buffer *to, problem *p)
{
    bool any = false;
    buffer_text(to, "[");
    region_lock();
    for (int i = 0; i < REGION_BUCKETS; i++)
        for (const region *r = *region_bucket(i); r; r = r->next)
            if (r->kind == TRITON && region_is_for(r, who) &&
                (!name || strcmp(r->name, name) == 0)) {
                buffer_printf(to,
                              "%s{\"name\":\"%s\",\"key\":\"%s\",\"offset\":%llu,"
                              "\"byte_size\":%zu}",
                              any ? "," : "", r->name, r->shm, (unsigned long long)r->shm_offset,
                              r->size);
                any = true;
            }
    region_unlock();
    buffer_text(to, "]\n");
    return any || !name ||
           problem_set(p, 400, "unknown_region", "Unable to find system shared memory region: '%s'",
                       name);
}
