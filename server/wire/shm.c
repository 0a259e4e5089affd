/* SPDX-License-Identifier: MIT */
#include "wire/shm.h"

#include "wire/skip.h"
#include "wire/walk.h"

/* A key of sizeof key - 1 bytes may have been cut. */
_Static_assert(sizeof((shm_object *)0)->key == WALK_NAME, "a word fits");

static bool read_size(span value, uint64_t *to)
{
    int64_t number;
    if (!walk_integer(value, &number) || number < 0)
        return false;
    *to = (uint64_t)number;
    return true;
}

bool shm_read(span body, shm_object *to, problem *p)
{
    cursor c = cursor_new(body);
    char name[WALK_NAME];
    span value;
    bool key = false, size = false, ok = true;
    int more = cursor_accept(&c, '{') ? 1 : -1;
    *to = (shm_object){.offset = 0};
    for (bool first = true; more == 1 && ok; first = false) {
        more = walk_member(&c, first, name, &value);
        if (more != 1)
            break;
        if (strcmp(name, "key") == 0)
            ok = key = walk_text(value, to->key) && strlen(to->key) < sizeof to->key - 1;
        else if (strcmp(name, "offset") == 0)
            ok = read_size(value, &to->offset);
        else if (strcmp(name, "byte_size") == 0)
            ok = size = read_size(value, &to->size);
        else
            ok = skip_value(value);
        more = walk_after(&c, '}');
    }
    cursor_space(&c);
    return (ok && more == 0 && !cursor_left(&c) && key && size) ||
           problem_set(p, 400, "malformed_body",
                       "the body must be a JSON object with key, a string of at most %d bytes, and "
                       "offset and byte_size, integers >= 0",
                       WALK_NAME - 2);
}
