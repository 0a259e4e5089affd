/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* F_GET_SEALS, MADV_POPULATE_WRITE */
#include "region.h"

#include "guard.h"
#include "tell/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

enum { BUCKETS = 256 };

typedef enum region_kind {
#define KIND(NAME, word) NAME,
    REGION_KINDS(KIND)
#undef KIND
} region_kind;

/* Of files that several regions may map: which, and from which byte on. */
typedef struct origin {
    dev_t device;
    ino_t file;
    uint64_t offset;
} origin;

struct region {
    region *next;    /* in its bucket, while it can be named */
    region *sibling; /* in its group */
    region_kind kind;
    char name[REGION_NAME];
    uint64_t key; /* RESIDENT: whose it is; 0: everybody's */
    int listener; /* TRITON: where it was registered */
    bool fixed;   /* given at start */
    int users;    /* who holds it, its name included */
    char *at;     /* what requests see */
    size_t size;
    size_t charged; /* bytes of the budget */
    bool writable;
    char *map; /* what is mapped */
    size_t mapped;
    void (*drop)(char *at, size_t size); /* instead of unmapping */
    origin origin;
    char shm[REGION_NAME]; /* TRITON: the key of the object, and where its range begins */
    uint64_t shm_offset;
    int guard;
    int tensors;
    region_tensor tensor[];
};

static struct {
    pthread_mutex_t lock; /* all members, and the users and next of all regions */
    size_t budget, charged;
    const char *prefix; /* --client-shm */
    region *bucket[BUCKETS];
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .prefix = ""};

void region_setup(size_t budget, const char *prefix)
{
    all.budget = budget;
    all.prefix = prefix + (prefix[0] == '/');
    guard_setup();
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
    pthread_mutex_lock(&all.lock);
    const bool ok = charge(bytes, p);
    pthread_mutex_unlock(&all.lock);
    return ok;
}

void region_unreserve(size_t bytes)
{
    pthread_mutex_lock(&all.lock);
    all.charged -= bytes;
    pthread_mutex_unlock(&all.lock);
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
    return &all.bucket[hash % BUCKETS];
}

/* May who asks name it? */
static bool is_for(const region *r, const asker *who)
{
    return r->kind == RESIDENT ? r->key == 0 || r->key == who->key
           : r->kind == TRITON ? r->listener == who->listener
                               : true;
}

/* Regions of different kinds may have the same name. Holding the lock. */
static region *look_up(const char *name, region_kind kind, const asker *who)
{
    region *r = *bucket_of(name);
    while (r && (r->kind != kind || strcmp(r->name, name) != 0 || !is_for(r, who)))
        r = r->next;
    return r;
}

static void count_kind(const region *r, int by)
{
    atomic_fetch_add(&metric.regions[r->kind], by);
    atomic_fetch_add(&metric.region_bytes[r->kind], by * (long long)r->charged);
}

/* Give a region its name. Its bytes are charged already. Holding the lock. */
static bool publish(region *r, problem *p)
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

/* Take the name away. Holding the lock; region_release must follow, without it. */
static void retract(region *r)
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
    pthread_mutex_lock(&all.lock);
    const bool last = --r->users == 0;
    if (last) {
        guard_drop(r->guard);
        all.charged -= r->charged;
        count_kind(r, -1);
    }
    pthread_mutex_unlock(&all.lock);
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
    region *r = look_up(resident, RESIDENT, who);
    const region_tensor *t = r ? tensor_of(r, name + own + 1) : NULL;
    if (!t)
        return false;
    *to = (region_view){.region = r,
                        .at = r->at + t->offset,
                        .size = (size_t)lk_tensor_count(&t->is) * lk_dtype_size(t->is.dtype),
                        .tensor = t->is};
    return true;
}

/* Holding the lock. */
static bool look_up_view(const char *name, const asker *who, region_view *to)
{
    if (look_up_tensor(name, who, to))
        return true;
    region *r = look_up(name, CLIENT, who);
    if (!r)
        r = look_up(name, TRITON, who);
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
    pthread_mutex_lock(&all.lock);
    const bool found = look_up_view(name, who, to);
    if (found)
        to->region->users++;
    pthread_mutex_unlock(&all.lock);
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

/* Mapping. */

/* Map `size` bytes of a file. NULL with a problem if that fails. */
static char *map_file(int fd, uint64_t offset, size_t size, bool writable, problem *p)
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

/* Have all pages of a mapping at once: one by one, when they are first used, they would cost more
 * than the kernels. */
static bool populate(char *at, size_t size, bool writable, problem *p)
{
    return madvise(at, size, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0 ||
           errno == EINVAL || /* before Linux 5.14 */
           problem_set(p, 507, "region_budget", "%zu bytes cannot be had in memory: %s", size,
                       strerror(errno));
}

/* A region that maps bytes of a file from a page's beginning on, charged but without a name. */
static region *new_mapped(region_kind kind, int fd, const struct stat *is, uint64_t offset,
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
    r->map = r->at = map_file(fd, offset, size, writable, p);
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

/* Undo new_mapped. */
static void free_mapped(region *r)
{
    region_unreserve(r->charged);
    (void)munmap(r->map, r->mapped);
    free(r);
}

/* Client memory. */

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
    region *r = new_mapped(CLIENT, fd, &is, 0, (size_t)size, may_write(fd), p);
    if (r && !populate(r->map, r->mapped, r->writable, p)) {
        free_mapped(r);
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
        pthread_mutex_lock(&all.lock);
        ok = publish(r, p);
        pthread_mutex_unlock(&all.lock);
    }
    if (!ok) {
        free_mapped(r);
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
        pthread_mutex_lock(&all.lock);
        retract(r);
        pthread_mutex_unlock(&all.lock);
        region_release(r);
    }
}

/* Resident regions. */

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
    pthread_mutex_lock(&all.lock);
    old = look_up(name, RESIDENT, &who);
    bool ok = !old || (replace && !old->fixed) ||
              problem_set(p, 409, "region_exists",
                          old->fixed ? "region %s was given at start (--region) and stays"
                                     : "there is a region %s already; ?replace=true replaces it",
                          name);
    ok = ok && publish(r, p);
    if (ok && old)
        retract(old);
    pthread_mutex_unlock(&all.lock);
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
        to->at = map_file(fd, 0, to->size, false, p);
        ok = to->at && populate(to->at, to->size, false, p);
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
    pthread_mutex_lock(&all.lock);
    region *r = look_up(name, RESIDENT, who);
    const bool fixed = r && r->fixed;
    if (r && !fixed)
        retract(r);
    pthread_mutex_unlock(&all.lock);
    if (!r)
        return not_there(name, p);
    if (fixed)
        return problem_set(p, 403, "forbidden", "region %s was given at start (--region) and stays",
                           name);
    region_release(r);
    return true;
}

static void write_type(buffer *to, const lk_tensor *t)
{
    buffer_printf(to, "\"dtype\":\"%s\",\"shape\":[", lk_dtype_name(t->dtype));
    for (int i = 0; i < t->rank; i++)
        buffer_printf(to, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    buffer_text(to, "]");
}

static void write_tensors(const region *r, buffer *to, const char *before)
{
    for (int i = 0; i < r->tensors; i++) {
        const region_tensor *t = &r->tensor[i];
        buffer_printf(to, "%s{\"name\":\"%s/%s\",\"kind\":\"resident\",", i ? "," : before, r->name,
                      t->name);
        write_type(to, &t->is);
        buffer_printf(to, ",\"bytes\":%zu}",
                      (size_t)lk_tensor_count(&t->is) * lk_dtype_size(t->is.dtype));
    }
}

void region_list(const asker *who, buffer *to)
{
    const char *before = "";
    buffer_text(to, "{\"regions\":[");
    pthread_mutex_lock(&all.lock);
    for (int i = 0; i < BUCKETS; i++)
        for (const region *r = all.bucket[i]; r; r = r->next)
            if (r->kind == RESIDENT && is_for(r, who) && r->tensors > 0) {
                write_tensors(r, to, before);
                before = ",";
            }
    pthread_mutex_unlock(&all.lock);
    buffer_text(to, "]}\n");
}

bool region_tell(const char *name, const asker *who, buffer *to, problem *p)
{
    pthread_mutex_lock(&all.lock);
    const region *r = look_up(name, RESIDENT, who);
    if (r) {
        buffer_printf(to, "{\"name\":\"%s\",\"kind\":\"resident\",\"bytes\":%zu,\"tensors\":[",
                      r->name, r->size);
        write_tensors(r, to, "");
        buffer_text(to, "]}\n");
    }
    pthread_mutex_unlock(&all.lock);
    return r || not_there(name, p);
}

/* Triton's shared memory. */

bool region_shm_offered(void)
{
    return all.prefix[0] != '\0';
}

/* Open the object that `key` names, if clients may name it. */
static int open_shm(const char *key, struct stat *is)
{
    char path[REGION_NAME + 1];
    const char *name = key + (key[0] == '/');
    if (!region_is_plain(name) || strchr(name, '/') ||
        strncmp(name, all.prefix, strlen(all.prefix)) != 0)
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
                    all.prefix);
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
        r = new_mapped(TRITON, fd, &is, offset - before, before + (size_t)size, true, p);
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
    pthread_mutex_lock(&all.lock);
    region_view other;
    const bool ok = (!look_up_view(name, who, &other) ||
                     problem_set(p, 400, "region_exists",
                                 "shared memory region '%s' already in manager", name)) &&
                    publish(r, p);
    pthread_mutex_unlock(&all.lock);
    if (!ok)
        free_mapped(r);
    return ok;
}

/* Take the names of the regions that were registered so, or of one, away: as a group. */
static region_group retract_shm(const char *name, const asker *who)
{
    region_group gone = {0};
    pthread_mutex_lock(&all.lock);
    for (int i = 0; i < BUCKETS; i++)
        for (region **at = &all.bucket[i]; *at;) {
            region *r = *at;
            if (r->kind != TRITON || !is_for(r, who) || (name && strcmp(r->name, name) != 0)) {
                at = &r->next;
                continue;
            }
            *at = r->next;
            r->sibling = gone.first;
            gone.first = r;
        }
    pthread_mutex_unlock(&all.lock);
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
    pthread_mutex_lock(&all.lock);
    for (int i = 0; i < BUCKETS; i++)
        for (const region *r = all.bucket[i]; r; r = r->next)
            if (r->kind == TRITON && is_for(r, who) && (!name || strcmp(r->name, name) == 0)) {
                buffer_printf(to,
                              "%s{\"name\":\"%s\",\"key\":\"%s\",\"offset\":%llu,"
                              "\"byte_size\":%zu}",
                              any ? "," : "", r->name, r->shm, (unsigned long long)r->shm_offset,
                              r->size);
                any = true;
            }
    pthread_mutex_unlock(&all.lock);
    buffer_text(to, "]\n");
    return any || !name ||
           problem_set(p, 400, "unknown_region", "Unable to find system shared memory region: '%s'",
                       name);
}

void region_place_text(buffer *to, const char *name, size_t offset, const lk_tensor *t)
{
    buffer_printf(to, "{\"region\":\"%s\",\"offset\":%zu,", name, offset);
    write_type(to, t);
    buffer_text(to, "}");
}
