/* SPDX-License-Identifier: MIT
 *
 * Compressed bodies: the measured size is exactly the inflated size.
 */
#include "fuzz.h"

#include "server/http/coding.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { MOST = 1 << 20 };
    for (coding c = CODING_GZIP; c <= CODING_DEFLATE; c++) {
        const span body = {(const char *)data, size};
        size_t plain = 0;
        problem p = {0};
        if (!coding_measure(c, body, MOST, &plain, &p)) {
            REQUIRE(p.status == 400 || p.status == 413);
            continue;
        }
        REQUIRE(plain <= MOST);
        char *to = malloc(plain ? plain : 1);
        REQUIRE(to && coding_inflate(c, body, to, plain, &p));
        free(to);
    }
    return 0;
}
