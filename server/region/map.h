/* SPDX-License-Identifier: MIT
 *
 * Bytes of files as memory.
 */
#ifndef LOSSD_MAP_H
#define LOSSD_MAP_H

#include "region/names.h"

struct stat;

/* Map `size` bytes of a file. NULL with a problem if that fails. */
char *region_map_file(int fd, uint64_t offset, size_t size, bool writable, problem *p);

/* Have all pages of a mapping at once: one by one, when they are first used, they would cost more
 * than the kernels. */
bool region_populate(char *at, size_t size, bool writable, problem *p);

/* A region that maps bytes of a file from a page's beginning on, charged but without a name; and
 * the end of one that gets none. */
region *region_new_mapped(region_kind kind, int fd, const struct stat *is, uint64_t offset,
                          size_t size, bool writable, problem *p);
void region_free_mapped(region *r);

#endif
