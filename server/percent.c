/* SPDX-License-Identifier: MIT */
#include "percent.h"

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool percent_decode(span from, bool plus, char *to, size_t size)
{
    cursor c = cursor_new(from);
    size_t used = 0;
    while (cursor_left(&c) > 0) {
        char byte = *cursor_take(&c, 1).data;
        if (byte == '+' && plus) {
            byte = ' ';
        } else if (byte == '%') {
            span digits = cursor_take(&c, 2);
            int high = c.failed ? -1 : hex(digits.data[0]),
                low = c.failed ? -1 : hex(digits.data[1]);
            if (high < 0 || low < 0)
                return false;
            byte = (char)(high << 4 | low);
        }
        if (byte == '\0' || used + 1 >= size)
            return false;
        to[used++] = byte;
    }
    to[used] = '\0';
    return true;
}
