/* SPDX-License-Identifier: MIT
 *
 * Request targets and trace ids.
 */
#include "fuzz.h"

#include "server/http/head.h"

#include <ctype.h>

/* Segments joined and encoded byte by byte must be split into the same segments again. */
static void check_target(char *line)
{
    target t, again;
    problem p = {0};
    char *joined = malloc(3 * strlen(line) + TARGET_SEGMENTS + 1), *to = joined;
    REQUIRE(joined);
    if (!target_split(line, &t, &p)) {
        REQUIRE((p.status == 400 || p.status == 404) && p.detail[0] != '\0');
        free(joined);
        return;
    }
    REQUIRE(t.segments <= TARGET_SEGMENTS && t.query);
    for (int i = 0; i < t.segments; i++) {
        REQUIRE(strcmp(t.segment[i], "..") != 0 && strcmp(t.segment[i], ".") != 0);
        *to++ = '/';
        for (const char *c = t.segment[i]; *c != '\0'; c++) {
            REQUIRE(*c != '/' && !iscntrl((unsigned char)*c));
            to += sprintf(to, "%%%02X", (unsigned char)*c);
        }
    }
    *to = '\0';
    if (t.segments > 0) {
        REQUIRE(target_split(joined, &again, &p) && again.segments == t.segments);
        for (int i = 0; i < t.segments; i++)
            REQUIRE(strcmp(again.segment[i], t.segment[i]) == 0);
    }
    free(joined);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *line = malloc(size + 1);
    REQUIRE(line);
    memcpy(line, data, size);
    line[size] = '\0';
    (void)head_is_traceparent(line);
    check_target(line);
    free(line);
    return 0;
}
