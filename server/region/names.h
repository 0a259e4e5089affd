/* SPDX-License-Identifier: MIT
 *
 * What a region is, and its life: its bytes are charged to the budget, it gets a name, is found by
 * it and held, loses it, and is freed when nobody holds it any more. For the files of this folder,
 * one for each kind of region.
 */
#ifndef LOSSD_NAMES_H
#define LOSSD_NAMES_H

#include "region.h"

#include <sys/types.h>

enum { REGION_BUCKETS = 256 };

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

/* For the names, and the users and next of all regions. */
void region_lock(void);
void region_unlock(void);

/* With the lock. */

/* May who asks name it? */
bool region_is_for(const region *r, const asker *who);

/* Regions of different kinds may have the same name. */
region *region_look_up(const char *name, region_kind kind, const asker *who);
bool region_look_up_view(const char *name, const asker *who, region_view *to);

/* The regions of a bucket; each is in one of REGION_BUCKETS. */
region **region_bucket(int i);

/* Give a region its name; its bytes are charged already. Take the name away: region_release must
 * follow, without the lock. */
bool region_publish(region *r, problem *p);
void region_retract(region *r);

/* Without it: write "dtype": ..., "shape": ... */
void region_write_type(buffer *to, const lk_tensor *t);

#endif
