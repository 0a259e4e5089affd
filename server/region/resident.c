/* SPDX-License-Identifier: MIT
 *
 * Tensors that stay: uploaded, or a file given at start.
 */
#include "region/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_name(const char *name)
{
    const size_t size = strlen(name);
    return size > 0 && size < REGION_OWN && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               size;
}

static bool put(const char *name, uint64_t key, bool fixed, const region_memory *memory,
                const region_tensor *tensors, int count, bool replace, problem *p)
{
    const asker who = {.key = key};
    if (!is_name(name))
        return problem_set(p, 400, "malformed_request",
                           "\"%.70s\" is no name of a region: 1 to %d letters, digits and ._-, and "
                           "no . at the beginning",
                           name, REGION_OWN - 1);
    region *r = calloc(1, sizeof *r + (size_t)count * sizeof *tensors), *old;
    if (!r)
        return problem_set(p, 503, "no_memory", "no memory for a region; try again later");
    r->kind = RESIDENT;
    snprintf(r->name, sizeof r->name, "%s", name);
    r->key = key;
    r->fixed = fixed;
    r->at = r->map = memory->at;
    r->size = memory->size;
    r->charged = memory->size;
    r->mapped = memory->room;
    r->drop = memory->drop;
    r->tensors = count;
    if (count > 0)
        memcpy(r->tensor, tensors, (size_t)count * sizeof *tensors);
    region_lock();
    old = region_look_up(name, RESIDENT, &who);
    bool ok = !old || (replace && !old->fixed) ||
              problem_set(p, 409, "region_exists",
                          old->fixed ? "region %s was given at start (--region) and stays"
                                     : "there is a region %s already; ?replace=true replaces it",
                          name);
    ok = ok && region_publish(r, p);
    if (ok && old)
        region_retract(old);
    region_unlock();
    if (!ok)
        free(r);
    else
        region_release(old);
    return ok;
}

bool region_put(const char *name, const asker *who, const region_memory *memory,
                const region_tensor *tensors, int count, bool replace, problem *p)
{
    return put(name, who->key, false, memory, tensors, count, replace, p);
}

static void unmap(char *at, size_t size)
{
    (void)munmap(at, size);
}

bool region_map(const char *path, region_memory *to, problem *p)
{
    struct stat is;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    *to = (region_memory){.drop = unmap};
    bool ok = false;
    if (fd < 0 || fstat(fd, &is) != 0)
        problem_set(p, 400, "malformed_request", "cannot read %.200s: %s", path, strerror(errno));
    else if (!S_ISREG(is.st_mode))
        problem_set(p, 400, "malformed_request", "cannot read %.200s: it is no file", path);
    else if (is.st_size == 0)
        problem_set(p, 400, "malformed_body", "%.200s is empty", path);
    else
        ok = region_reserve((size_t)is.st_size, p);
    if (ok) {
        to->size = to->room = (size_t)is.st_size;
        to->at = region_map_file(fd, 0, to->size, false, p);
        ok = to->at && region_populate(to->at, to->size, false, p);
        if (to->at && !ok)
            unmap(to->at, to->room);
        if (!ok)
            region_unreserve(to->room);
    }
    if (fd >= 0)
        close(fd);
    return ok;
}

bool region_keep(const char *name, const region_memory *memory, const region_tensor *tensors,
                 int count, problem *p)
{
    return put(name, 0, true, memory, tensors, count, false, p);
}

static bool not_there(const char *name, problem *p)
{
    return problem_set(p, 404, "unknown_region", "there is no region \"%.70s\" of yours", name);
}

bool region_delete(const char *name, const asker *who, problem *p)
{
    region_lock();
    region *r = region_look_up(name, RESIDENT, who);
    const bool fixed = r && r->fixed;
    if (r && !fixed)
        region_retract(r);
    region_unlock();
    if (!r)
        return not_there(name, p);
    if (fixed)
        return problem_set(p, 403, "forbidden", "region %s was given at start (--region) and stays",
                           name);
    region_release(r);
    return true;
}

static void write_tensors(const region *r, buffer *to, const char *before)
{
    for (int i = 0; i < r->tensors; i++) {
        const region_tensor *t = &r->tensor[i];
        buffer_printf(to, "%s{\"name\":\"%s/%s\",\"kind\":\"resident\",", i ? "," : before, r->name,
                      t->name);
        region_write_type(to, &t->is);
        buffer_printf(to, ",\"bytes\":%zu}",
                      (size_t)lk_tensor_count(&t->is) * lk_dtype_size(t->is.dtype));
    }
}

void region_list(const asker *who, buffer *to)
{
    const char *before = "";
    buffer_text(to, "{\"regions\":[");
    region_lock();
    for (int i = 0; i < REGION_BUCKETS; i++)
        for (const region *r = *region_bucket(i); r; r = r->next)
            if (r->kind == RESIDENT && region_is_for(r, who) && r->tensors > 0) {
                write_tensors(r, to, before);
                before = ",";
            }
    region_unlock();
    buffer_text(to, "]}\n");
}

bool region_tell(const char *name, const asker *who, buffer *to, problem *p)
{
    region_lock();
    const region *r = region_look_up(name, RESIDENT, who);
    if (r) {
        buffer_printf(to, "{\"name\":\"%s\",\"kind\":\"resident\",\"bytes\":%zu,\"tensors\":[",
                      r->name, r->size);
        write_tensors(r, to, "");
        buffer_text(to, "]}\n");
    }
    region_unlock();
    return r || not_there(name, p);
}
