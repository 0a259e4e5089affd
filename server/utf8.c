/* SPDX-License-Identifier: MIT */
#include "utf8.h"

size_t utf8_length(const char *p, size_t left)
{
    const unsigned char *c = (const unsigned char *)p;
    const size_t n = left == 0                      ? 0
                     : c[0] < 0x80                  ? 1
                     : c[0] >= 0xc2 && c[0] < 0xe0  ? 2
                     : c[0] >= 0xe0 && c[0] < 0xf0  ? 3
                     : c[0] >= 0xf0 && c[0] <= 0xf4 ? 4
                                                    : 0;
    if (n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    /* Overlong encodings, surrogates, and code points beyond the last one. */
    if ((c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] > 0x9f) ||
        (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] > 0x8f))
        return 0;
    return n;
}

size_t utf8_write(int32_t code, char to[4])
{
    const size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n - 1; i > 0; i--, code >>= 6)
        to[i] = (char)(0x80 | (code & 0x3f));
    to[0] = (char)(marks[n] | code);
    return n;
}
