/* SPDX-License-Identifier: MIT
 *
 * Checks every registered loss through the public header, from its description alone: each
 * instruction set against the scalar one; gradients against differences; the same bits whatever the
 * threads, the place in memory and the other outputs; no access outside a tensor; and the
 * properties that its traits promise. A newly registered loss is checked without further code.
 *
 * usage: check_losses [--seed N] [--count N] [--loss NAME]
 */
#include "tests/check/check.h"

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = argv[i + 1];
        if (value && strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(value, NULL, 10);
        } else if (value && strcmp(argv[i], "--count") == 0) {
            count = strtoll(value, NULL, 10);
        } else if (value && strcmp(argv[i], "--loss") == 0 && lk_loss_find(value)) {
            only = value;
        } else {
            fprintf(stderr, "usage: check_losses [--seed N] [--count N] [--loss NAME]\n");
            return 2;
        }
    }
    if (count == 0) {
        int64_t all = SANITIZED ? 42 : 420, losses = lk_loss_count();
        count = all / losses > 5 ? all / losses : 5;
    }
    print_message("seed %" PRIu64 ", %" PRId64 " rounds, isa %s\n", seed, count, lk_isa_used());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_isas),      cmocka_unit_test(test_differences),
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_every_offset),
        cmocka_unit_test(test_row_alone), cmocka_unit_test(test_ignored_rows),
        cmocka_unit_test(test_traits),    cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_linear),    cmocka_unit_test(test_packed),
        cmocka_unit_test(test_zeros),     cmocka_unit_test(test_unread),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
