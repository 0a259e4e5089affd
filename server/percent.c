/* SPDX-License-Identifier: MIT */
#include "percent.h"

bool percent_decode(span from, bool plus, char *to, size_t size)
{
    cursor c = cursor_new(from);
    size_t used = 0;
    while (cursor_left(&c) > 0) {
        char byte = *cursor_take(&c, 1).data;
        if (byte == '+' && plus) {
            byte = ' ';
        } else if (byte == '%') {
            const int32_t code = cursor_hex(&c, 2);
            if (code < 0)
                return false;
            byte = (char)code;
        }
        if (byte == '\0' || used + 1 >= size)
            return false;
        to[used++] = byte;
    }
    to[used] = '\0';
    return true;
}
