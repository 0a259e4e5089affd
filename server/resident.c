/* SPDX-License-Identifier: MIT */
#include "resident.h"

#include "wire/archive.h"

#include <stdio.h>

/* The tensors of a file, for requests to name. */
static bool read_tensors(span file, region_tensor *to, int *count, problem *p)
{
    archive a;
    if (!archive_open(file, &a, p) || !archive_tensors(&a, NULL, p))
        return false;
    if (a.count == 0)
        return problem_set(p, 400, "malformed_body", "safetensors: there is no tensor in it");
    for (int i = 0; i < a.count; i++) {
        const archive_entry *t = &a.entry[i];
        const size_t length = strlen(t->name);
        if (!region_is_plain(t->name) || length >= REGION_OWN - 1)
            return problem_input(p, 400, "malformed_body", t->name,
                                 "safetensors: the name \"%s\" must be 1 to %d printable "
                                 "characters, without \" and \\",
                                 t->name, REGION_OWN - 2);
        to[i] = (region_tensor){.offset = (size_t)(a.data.data - file.data) + (size_t)t->begin,
                                .is = t->shape};
        memcpy(to[i].name, t->name, length + 1);
    }
    *count = a.count;
    return true;
}

bool resident_put(const char *name, const asker *who, const region_memory *memory, bool replace,
                  problem *p)
{
    region_tensor tensors[WIRE_TENSORS];
    int count = 0;
    return read_tensors((span){memory->at, memory->size}, tensors, &count, p) &&
           region_put(name, who, memory, tensors, count, replace, p);
}

static bool start_one(const char *name, const char *path, problem *p)
{
    region_tensor tensors[WIRE_TENSORS];
    int count = 0;
    region_memory file;
    if (!region_map(path, &file, p))
        return false;
    if (read_tensors((span){file.at, file.size}, tensors, &count, p) &&
        region_keep(name, &file, tensors, count, p))
        return true;
    region_unreserve(file.room);
    file.drop(file.at, file.room);
    return false;
}

bool resident_start(const flags *f)
{
    char name[REGION_OWN];
    problem p;
    for (int i = 0; i < f->residents; i++) {
        const char *text = f->resident[i], *path = strchr(text, '=') + 1;
        snprintf(name, sizeof name, "%.*s", (int)(path - text - 1), text);
        if (start_one(name, path, &p))
            continue;
        fprintf(stderr, "lossd: --region %s: %s\n", text, p.detail);
        return false;
    }
    return true;
}
