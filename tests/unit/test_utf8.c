/* SPDX-License-Identifier: MIT
 *
 * UTF-8: every character there and back, and nothing else taken for one.
 */
#include "tests/help.h"

#include "utf8.h"

static void characters(void **unused)
{
    (void)unused;
    for (int32_t code = 0; code < 0x110000; code++) {
        if (code >> 11 == 0xd800 >> 11)
            continue;
        char one[4];
        const size_t size = utf8_write(code, one);
        assert_int_equal(size, code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4);
        for (size_t left = 0; left <= size; left++) {
            char *copy = exactly(one, left);
            assert_int_equal(utf8_length(copy, left), left == size ? size : 0);
            free(copy);
        }
    }
}

/* Of all that three bytes and a fourth can be, as many are characters as there are characters. */
static void nothing_else(void **unused)
{
    (void)unused;
    size_t count[5] = {0};
    for (uint32_t word = 0; word < 1U << 24; word++) {
        char one[] = {(char)(word >> 16), (char)(word >> 8), (char)word, '\x80'};
        count[utf8_length(one, sizeof one)]++;
    }
    assert_int_equal(count[1], 0x80 << 16);
    assert_int_equal(count[2], (0x800 - 0x80) << 8);
    assert_int_equal(count[3], 0x10000 - 0x800 - 0x800);
    assert_int_equal(count[4], 0x100000 / 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters),
        cmocka_unit_test(nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
