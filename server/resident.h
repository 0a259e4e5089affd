/* SPDX-License-Identifier: MIT
 *
 * From the bytes of a safetensors file to a resident region: checked like the body of a request.
 */
#ifndef LOSSD_RESIDENT_H
#define LOSSD_RESIDENT_H

#include "flags.h"
#include "region.h"

/* Make the region. On success it owns the memory, which was reserved for it. */
bool resident_put(const char *name, const asker *who, const region_memory *memory, bool replace,
                  problem *p);

/* Map the files of --region NAME=FILE. False with a line on stderr. */
bool resident_start(const flags *f);

#endif
