/* SPDX-License-Identifier: MIT */
#include "wire/inputs.h"

#include "wire/walk.h"

#include <stdio.h>

bool wire_input(evaluation *e, const char *name, const lk_tensor *tensor, span text, problem *p)
{
    lk_error error;
    for (int i = 0; i < e->sources; i++)
        if (strcmp(e->source[i].name, name) == 0)
            return problem_input(p, 400, "duplicate_name", name, "input %s comes twice", name);
    if (lk_call_input(e->call, name, tensor, &error) != LK_OK)
        return problem_from(p, &error);
    source *s = &e->source[e->sources++];
    *s = (source){.text = text};
    snprintf(s->name, sizeof s->name, "%s", name);
    return true;
}

bool wire_view(evaluation *e, const char *name, const lk_tensor *tensor, span bytes, problem *p)
{
    if (!wire_input(e, name, tensor, bytes, p))
        return false;
    e->source[e->sources - 1].raw = true;
    return true;
}

bool wire_malformed(problem *p, const char *why)
{
    return problem_set(p, 400, "malformed_body", "%s", why);
}

bool wire_dtype(unsigned takes, const char *name, span value, const dialect *d, lk_tensor *t,
                problem *p)
{
    takes = takes ? takes : (1u << LK_DTYPE_COUNT) - 1;
    char word[WALK_NAME], list[80] = "";
    size_t used = 0;
    int left = __builtin_popcount(takes);
    if (!walk_text(value, word))
        return problem_input(p, 400, "malformed_body", name, "%s%s.%s must be a string", d->prefix,
                             name, d->member);
    for (int type = 0; type < LK_DTYPE_COUNT; type++) {
        const char *spelt = d->spelling((lk_dtype)type);
        const char *after = left == 1 ? "" : left == 2 ? " or " : ", ";
        if (strcmp(spelt, word) == 0) {
            t->dtype = (lk_dtype)type;
            return true;
        }
        if (takes >> type & 1) {
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", spelt, after);
            left--;
        }
    }
    return problem_input(p, d->status, "dtype_unsupported", name,
                         "%s%s.%s is \"%.40s\"; it must be %s", d->prefix, name, d->member, word,
                         list);
}
