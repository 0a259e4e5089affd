/* SPDX-License-Identifier: MIT
 *
 * Regions: memory that a request names instead of carrying it. The folder region/ alone knows
 * mappings, names, the budget and lifetimes: a region is unmapped when nobody can name it and
 * nobody uses it any more. Any thread may call any function.
 *
 * The other side of shared memory may change its bytes at any time, even while they are read. A
 * mapping whose memory goes away under it (a file that is truncated) is replaced by zeros, and the
 * region is broken from then on: region_broken.
 */
#ifndef LOSSD_REGION_H
#define LOSSD_REGION_H

#include "tell/problem.h"

#include <losskit.h>

/* X(KIND, word) */
#define REGION_KINDS(X)                                                                            \
    X(CLIENT, client)     /* handed over by a client, unnamed when its connection ends */          \
    X(RESIDENT, resident) /* tensors that stay: uploaded, or a file given at start */              \
    X(TRITON, triton)     /* POSIX shared memory, registered as Triton's clients do */

enum {
    REGION_NAME = 160, /* of a region, or of a tensor in one, with its NUL */
    REGION_OWN = 64,   /* of a resident region, without its tensors */
    REGION_LINE = 512, /* room for what region_place_text writes */
};

typedef struct region region;

/* Who asks, and so which regions there are. */
typedef struct asker {
    uint64_t key; /* identity of the API key; 0: none is needed */
    int listener; /* the number of the address where the request came in */
} asker;

/* What a name stands for. */
typedef struct region_view {
    region *region;
    char *at;
    size_t size;
    bool writable;
    lk_tensor tensor; /* its type and shape; LK_ANY where only the request knows */
} region_view;

/* `budget` is in bytes, for all regions. */
void region_setup(size_t budget);

/* Find what `name` stands for, and hold it until region_release. False with region_invalid. */
bool region_find(const char *name, const asker *who, region_view *to, problem *p);
void region_release(region *r); /* accepts NULL */

/* Has memory of the region gone away? */
bool region_broken(const region *r);

/* Do two ranges have memory in common, by whatever mapping? */
bool region_overlap(const region *a, const char *a_at, size_t a_size, const region *b,
                    const char *b_at, size_t b_size);

/* Is it text that can stand in JSON as it is, short enough for a name? */
bool region_is_plain(const char *text);

/* Budget for memory that will become a region: region_budget if there is none left. */
bool region_reserve(size_t bytes, problem *p);
void region_unreserve(size_t bytes);

/* A file in memory that a region takes over; `drop` frees it, on any thread. */
typedef struct region_memory {
    char *at;
    size_t size; /* of the file */
    size_t room; /* of the memory, which is hardly more */
    void (*drop)(char *at, size_t room);
} region_memory;

/* A tensor of a resident region. */
typedef struct region_tensor {
    char name[REGION_OWN];
    size_t offset;
    lk_tensor is; /* its data is not set */
} region_tensor;

/* Make a resident region of memory whose size is reserved already; on success both belong to the
 * region. False with a problem: the name is invalid or in use, or there are too many. */
bool region_put(const char *name, const asker *who, const region_memory *memory,
                const region_tensor *tensors, int count, bool replace, problem *p);

/* Map a file, reserve its bytes, and let `put` make a region of it that no client can replace. */
bool region_map(const char *path, region_memory *to, problem *p);
bool region_keep(const char *name, const region_memory *memory, const region_tensor *tensors,
                 int count, problem *p);

/* Forget a resident region of that name. False with a problem: 404, or 403 if it was given at
 * start. */
bool region_delete(const char *name, const asker *who, problem *p);

/* Write resident regions as JSON: all that `who` may name, or one. */
void region_list(const asker *who, buffer *to);
bool region_tell(const char *name, const asker *who, buffer *to, problem *p);

/* The regions that came over one connection. Begin with {0}; one thread at a time. */
typedef struct region_group {
    region *first;
} region_group;

/* Map a sealed memfd of at least `size` bytes, and write its name as a line of JSON. Takes `fd`. */
bool region_receive(region_group *group, uint64_t size, uint64_t reserved, int fd, buffer *line,
                    problem *p);
void region_forget(region_group *group);

/* Triton's shared memory. `names` is what names of its objects begin with, and must stay valid;
 * "": they are not offered. `name` NULL: all. */
void region_shm_setup(const char *names);
bool region_shm_offered(void);
bool region_register(const char *name, const char *key, uint64_t offset, uint64_t size,
                     const asker *who, problem *p);
void region_unregister(const char *name, const asker *who);
bool region_shm_status(const char *name, const asker *who, buffer *to, problem *p);

/* Write {"region": ..., "offset": ..., "dtype": ..., "shape": ...}: at most REGION_LINE bytes. */
void region_place_text(buffer *to, const char *name, size_t offset, const lk_tensor *t);

#endif
