/* SPDX-License-Identifier: MIT */
#include "region/names.h"

#include "guard.h"
#include "tell/metrics.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct {
    pthread_mutex_t lock; /* all members, and the users and next of all regions */
    size_t budget, charged;
    region *bucket[REGION_BUCKETS];
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

void region_setup(size_t budget)
{
    all.budget = budget;
    guard_setup();
}

void region_lock(void)
{
    pthread_mutex_lock(&all.lock);
}

void region_unlock(void)
{
    pthread_mutex_unlock(&all.lock);
}

region **region_bucket(int i)
{
    return &all.bucket[i];
}

/* Budget. */

static bool charge(size_t bytes, problem *p)
{
    const bool ok = bytes <= all.budget - all.charged;
    if (ok)
        all.charged += bytes;
    return ok || problem_set(p, 507, "region_budget",
                             "%zu more bytes do not fit in the budget of all regions, %zu bytes "
                             "(--region-budget)",
                             bytes, all.budget);
}

bool region_reserve(size_t bytes, problem *p)
{
    region_lock();
    const bool ok = charge(bytes, p);
    region_unlock();
    return ok;
}

void region_unreserve(size_t bytes)
{
    region_lock();
    all.charged -= bytes;
    region_unlock();
}

/* Names. */

bool region_is_plain(const char *text)
{
    size_t size = 0;
    while (text[size] >= ' ' && text[size] <= '~' && text[size] != '"' && text[size] != '\\')
        size++;
    return size > 0 && size < REGION_NAME && text[size] == '\0';
}

static region **bucket_of(const char *name)
{
    uint32_t hash = 2166136261u;
    for (; *name != '\0'; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return &all.bucket[hash % REGION_BUCKETS];
}

bool region_is_for(const region *r, const asker *who)
{
    return r->kind == RESIDENT ? r->key == 0 || r->key == who->key
           : r->kind == TRITON ? r->listener == who->listener
                               : true;
}

region *region_look_up(const char *name, region_kind kind, const asker *who)
{
    region *r = *bucket_of(name);
    while (r && (r->kind != kind || strcmp(r->name, name) != 0 || !region_is_for(r, who)))
        r = r->next;
    return r;
}

static void count_kind(const region *r, int by)
{
    atomic_fetch_add(&metric.regions[r->kind], by);
    atomic_fetch_add(&metric.region_bytes[r->kind], by * (long long)r->charged);
}

bool region_publish(region *r, problem *p)
{
    region **bucket = bucket_of(r->name);
    r->guard = guard_take(r->map, r->mapped);
    if (r->guard < 0)
        return problem_set(p, 507, "region_budget", "there are %d regions already, as many as may",
                           GUARDS_MAX);
    r->users = 1;
    r->next = *bucket;
    *bucket = r;
    count_kind(r, 1);
    return true;
}

void region_retract(region *r)
{
    region **at = bucket_of(r->name);
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
}

void region_release(region *r)
{
    if (!r)
        return;
    region_lock();
    const bool last = --r->users == 0;
    if (last) {
        guard_drop(r->guard);
        all.charged -= r->charged;
        count_kind(r, -1);
    }
    region_unlock();
    if (!last)
        return;
    if (r->drop)
        r->drop(r->map, r->mapped);
    else
        (void)munmap(r->map, r->mapped);
    free(r);
}

bool region_broken(const region *r)
{
    return guard_broken(r->guard);
}

static const region_tensor *tensor_of(const region *r, const char *name)
{
    for (int i = 0; i < r->tensors; i++)
        if (strcmp(r->tensor[i].name, name) == 0)
            return &r->tensor[i];
    return NULL;
}

/* A resident tensor, whose name is that of its region and its own. Holding the lock. */
static bool look_up_tensor(const char *name, const asker *who, region_view *to)
{
    const size_t own = strcspn(name, "/");
    char resident[REGION_OWN];
    if (name[own] != '/' || own >= sizeof resident)
        return false;
    memcpy(resident, name, own);
    resident[own] = '\0';
    region *r = region_look_up(resident, RESIDENT, who);
    const region_tensor *t = r ? tensor_of(r, name + own + 1) : NULL;
    if (!t)
        return false;
    *to = (region_view){.region = r,
                        .at = r->at + t->offset,
                        .size = (size_t)lk_tensor_count(&t->is) * lk_dtype_size(t->is.dtype),
                        .tensor = t->is};
    return true;
}

bool region_look_up_view(const char *name, const asker *who, region_view *to)
{
    if (look_up_tensor(name, who, to))
        return true;
    region *r = region_look_up(name, CLIENT, who);
    if (!r)
        r = region_look_up(name, TRITON, who);
    if (!r)
        return false;
    *to = (region_view){.region = r,
                        .at = r->at,
                        .size = r->size,
                        .writable = r->writable,
                        .tensor = {.dtype = LK_ANY}};
    return true;
}

bool region_find(const char *name, const asker *who, region_view *to, problem *p)
{
    region_lock();
    const bool found = region_look_up_view(name, who, to);
    if (found)
        to->region->users++;
    region_unlock();
    return found || problem_set(p, 422, "region_invalid",
                                "there is no region \"%.80s\" that this request may name", name);
}

bool region_overlap(const region *a, const char *a_at, size_t a_size, const region *b,
                    const char *b_at, size_t b_size)
{
    const bool same =
        a->map == b->map || (a->origin.file != 0 && a->origin.file == b->origin.file &&
                             a->origin.device == b->origin.device);
    const uint64_t x = a->origin.offset + (uint64_t)(a_at - a->map);
    const uint64_t y = b->origin.offset + (uint64_t)(b_at - b->map);
    return same && a_size > 0 && b_size > 0 && x < y + b_size && y < x + a_size;
}

void region_write_type(buffer *to, const lk_tensor *t)
{
    buffer_printf(to, "\"dtype\":\"%s\",\"shape\":[", lk_dtype_name(t->dtype));
    for (int i = 0; i < t->rank; i++)
        buffer_printf(to, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    buffer_text(to, "]");
}

void region_place_text(buffer *to, const char *name, size_t offset, const lk_tensor *t)
{
    buffer_printf(to, "{\"region\":\"%s\",\"offset\":%zu,", name, offset);
    region_write_type(to, t);
    buffer_text(to, "}");
}
