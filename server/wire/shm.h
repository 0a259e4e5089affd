/* SPDX-License-Identifier: MIT
 *
 * The body with which Triton's clients register a shared memory object:
 * {"key": "/name", "offset": 0, "byte_size": 1024}.
 */
#ifndef LOSSD_SHM_H
#define LOSSD_SHM_H

#include "cursor.h"
#include "tell/problem.h"

typedef struct shm_object {
    char key[64];
    uint64_t offset, size;
} shm_object;

/* False with a problem: it is malformed, or key or byte_size is missing. */
bool shm_read(span body, shm_object *to, problem *p);

#endif
