/* SPDX-License-Identifier: MIT
 *
 * The single block of memory in which the JSON tree of a document is allocated.
 */
#include "tests/help.h"

#include "catalogue/openapi.h"
#include "catalogue/trees.h"

#include <jansson.h>

static void write_largest(int times)
{
    for (int i = 0; i < times; i++) {
        buffer text = buffer_new(8 << 20);
        openapi_write(NULL, &text);
        buffer_free(&text);
    }
}

/* Nothing is used twice within a piece, so that four of the largest document show that one takes a
 * quarter of it at most. */
static void holds_the_largest(void **unused)
{
    (void)unused;
    assert_true(trees_begin());
    write_largest(4);
    assert_true(trees_end());
}

static void says_when_it_is_full(void **unused)
{
    (void)unused;
    assert_true(trees_begin());
    char *word = malloc(1 << 20);
    assert_non_null(word);
    memset(word, 'x', 1 << 20);
    json_t *last = NULL;
    for (int i = 0; i < 64; i++) {
        json_decref(last);
        last = json_stringn(word, 1 << 20);
    }
    assert_null(last);
    assert_false(trees_end());
    assert_false(trees_starved()); /* that is of memory that there was not */
    assert_true(trees_begin());
    json_t *again = json_array();
    assert_non_null(again);
    json_decref(again);
    assert_true(trees_end());
    free(word);
}

/* Earlier trees may be freed while a block is in use. */
static void older_trees_are_let_go(void **unused)
{
    (void)unused;
    json_t *old = json_pack("{s:[i,i]}", "a", 1, 2);
    assert_true(trees_begin());
    json_decref(old);
    json_decref(json_pack("{s:[i,i]}", "a", 1, 2));
    assert_true(trees_end());
}

int main(void)
{
    trees_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_the_largest),
        cmocka_unit_test(says_when_it_is_full),
        cmocka_unit_test(older_trees_are_let_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
