/* SPDX-License-Identifier: MIT */
#include "wire/base64.h"

#include "wire/walk.h"

/* The value of a base64 digit, negative for other characters. */
static int digit_of(char c)
{
    /* The value of each digit plus one; 0 for other characters. */
#define ROW(c, n)                                                                                  \
    [c] = (n) + 1, [(c) + 1] = (n) + 2, [(c) + 2] = (n) + 3, [(c) + 3] = (n) + 4,                  \
    [(c) + 4] = (n) + 5
    static const unsigned char digits[256] = {
        ROW('A', 0),  ROW('F', 5),  ROW('K', 10), ROW('P', 15), ROW('U', 20), ['Z'] = 26,
        ROW('a', 26), ROW('f', 31), ROW('k', 36), ROW('p', 41), ROW('u', 46), ['z'] = 52,
        ROW('0', 52), ROW('5', 57), ['+'] = 63,   ['/'] = 64};
#undef ROW
    return digits[(unsigned char)c] - 1;
}

/* Decode four digits to three bytes; negative if they are not all digits. */
static int32_t four_digits(const char *text)
{
    const int a = digit_of(text[0]), b = digit_of(text[1]), c = digit_of(text[2]),
              d = digit_of(text[3]);
    return (a | b | c | d) < 0 ? -1 : a << 18 | b << 12 | c << 6 | d;
}

static span unquoted(span text)
{
    return (span){text.data + 1, text.size - 2};
}

/* The number of characters without padding; negative if the string is not valid JSON. Characters
 * are examined one by one only from the first escape on, and the two before it, which may be
 * padding. */
static int64_t count_digits(span text)
{
    const char *escape = memchr(text.data, '\\', text.size);
    const size_t plain = escape ? (size_t)(escape - text.data) : text.size;
    int64_t count = plain < 2 ? 0 : (int64_t)plain - 2;
    int padding = 0;
    cursor c = cursor_new(text);
    for (cursor_take(&c, (size_t)count); cursor_left(&c); count++) {
        char character[4];
        const size_t bytes = walk_character(&c, character);
        if (bytes == 0)
            return -1;
        padding = bytes == 1 && character[0] == '=' ? padding + 1 : 0;
    }
    return count - (padding < 2 ? padding : 2);
}

static bool fits(int64_t digits, const char *input, const lk_tensor *t, problem *p)
{
    const uint64_t bytes = (uint64_t)digits * 6 / 8, count = (uint64_t)lk_tensor_count(t);
    const uint64_t width = lk_dtype_size(t->dtype), need = count * (width ? width : 1);
    if (digits < 0)
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s.base64 is not a JSON string", input);
    if (width ? bytes == need : bytes >= need && bytes / 8 <= count)
        return true;
    return problem_input(p, 400, "ragged_tensor", input,
                         "inputs.%s.base64 holds %llu bytes; its shape and dtype need %llu", input,
                         (unsigned long long)bytes, (unsigned long long)need);
}

bool base64_fits(span text, const char *input, const lk_tensor *t, problem *p)
{
    return fits(count_digits(unquoted(text)), input, t, p);
}

bool base64_read(span text, const char *input, const lk_tensor *t, problem *p)
{
    const uint64_t size = (uint64_t)lk_tensor_count(t) * lk_dtype_size(t->dtype);
    const int64_t digits = count_digits(unquoted(text));
    unsigned char *to = t->data;
    uint64_t used = 0;
    unsigned bits = 0, have = 0;
    cursor c = cursor_new(unquoted(text));
    if (!fits(digits, input, t, p))
        return false;
    for (int64_t i = 0; i < digits; i++) {
        int32_t four;
        while (have == 0 && used + 3 <= size && i + 4 < digits && cursor_left(&c) > 4 &&
               (four = four_digits(c.p)) >= 0) {
            to[used] = (unsigned char)(four >> 16);
            to[used + 1] = (unsigned char)(four >> 8);
            to[used + 2] = (unsigned char)four;
            used += 3;
            i += 4;
            c.p += 4;
        }
        const size_t at = (size_t)(c.p - text.data) - 1;
        char character[4];
        const int digit = walk_character(&c, character) == 1 ? digit_of(character[0]) : -1;
        if (digit < 0)
            return problem_input(p, 400, "malformed_body", input,
                                 "inputs.%s.base64 has a byte at %zu that is not base64", input,
                                 at);
        bits = bits << 6 | (unsigned)digit;
        have += 6;
        if (have >= 8) {
            have -= 8;
            if (used < size)
                to[used] = (unsigned char)(bits >> have);
            used++;
        }
    }
    if (have == 6)
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s.base64 is cut off: its last digit stands alone", input);
    return true;
}
