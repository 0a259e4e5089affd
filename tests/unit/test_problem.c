/* SPDX-License-Identifier: MIT
 *
 * Problems: each is a JSON object with the members of RFC 9457 and those of lossd, whatever text it
 * quotes.
 */
#include "tests/help.h"

#include <jansson.h>

#include "losskit.h"
#include "tell/problem.h"

static json_t *written(const problem *p)
{
    buffer b = buffer_new(8192);
    json_error_t error;
    problem_write(p, &b);
    assert_false(b.failed);
    assert_int_equal(b.data[b.size - 1], '\n');
    json_t *tree = json_loadb(b.data, b.size, JSON_REJECT_DUPLICATES, &error);
    if (!tree)
        fail_msg("%.*s: %s", (int)b.size, b.data, error.text);
    assert_string_equal(json_string_value(json_object_get(tree, "type")), "about:blank");
    assert_string_equal(json_string_value(json_object_get(tree, "title")),
                        problem_title(p->status));
    assert_int_equal(json_integer_value(json_object_get(tree, "status")), p->status);
    assert_string_equal(json_string_value(json_object_get(tree, "code")), p->code);
    buffer_free(&b);
    return tree;
}

static void plain(void **unused)
{
    (void)unused;
    problem p;
    memset(&p, 0x5a, sizeof p);
    assert_false(problem_set(&p, 415, "unsupported", "%s is %d", "it", 7));
    json_t *tree = written(&p);
    assert_string_equal(json_string_value(json_object_get(tree, "detail")), "it is 7");
    assert_null(json_object_get(tree, "input"));
    assert_null(json_object_get(tree, "index"));
    assert_int_equal(json_object_size(tree), 5);
    json_decref(tree);
}

static void with_input(void **unused)
{
    (void)unused;
    problem p;
    assert_false(problem_input(&p, 400, "ragged_tensor", "logits", "\"%s\"\n", "q"));
    p.rank = 2;
    p.index[0] = 3;
    p.index[1] = INT64_MAX;
    json_t *tree = written(&p), *index = json_object_get(tree, "index");
    assert_string_equal(json_string_value(json_object_get(tree, "detail")), "\"q\"\n");
    assert_string_equal(json_string_value(json_object_get(tree, "input")), "logits");
    assert_int_equal(json_array_size(index), 2);
    assert_int_equal(json_integer_value(json_array_get(index, 0)), 3);
    assert_int_equal(json_integer_value(json_array_get(index, 1)), INT64_MAX);
    json_decref(tree);
}

/* Names and texts of any length and bytes are truncated, and never written beyond the buffer. */
static void long_and_wild(void **unused)
{
    (void)unused;
    char text[2000];
    for (int round = 0; round < 2000; round++) {
        problem p;
        int n = random_below(sizeof text - 1);
        for (int i = 0; i < n; i++)
            text[i] = (char)(round % 2 ? 1 + random_below(255) : "\xe2\x82\xac"[i % 3]);
        text[n] = '\0';
        problem_input(&p, 400, "malformed_body", text, "%s", text);
        assert_true(strlen(p.input) < sizeof p.input && strlen(p.detail) < sizeof p.detail);
        json_decref(written(&p));
    }
}

static void of_the_library(void **unused)
{
    (void)unused;
    for (int status = 1; status < LK_STATUS_COUNT; status++) {
        lk_error error = {.status = (lk_status)status, .rank = LK_MAX_RANK};
        problem p;
        snprintf(error.input, sizeof error.input, "a");
        snprintf(error.text, sizeof error.text, "what is wrong");
        for (int i = 0; i < LK_MAX_RANK; i++)
            error.index[i] = i;
        assert_false(problem_from(&p, &error));
        const int want = status == LK_UNKNOWN_LOSS ? 404
                         : status == LK_NO_MEMORY  ? 503
                         : status == LK_MISUSE     ? 500
                                                   : 422;
        assert_int_equal(p.status, want);
        assert_string_equal(p.code, lk_status_name(error.status));
        json_t *tree = written(&p);
        assert_int_equal(json_array_size(json_object_get(tree, "index")), LK_MAX_RANK);
        assert_string_equal(json_string_value(json_object_get(tree, "input")), "a");
        json_decref(tree);
    }
}

/* Every status has its standard title. */
static void titles(void **unused)
{
    (void)unused;
    static const int statuses[] = {400, 401, 403, 404, 405, 406, 408, 413, 414,
                                   415, 417, 422, 431, 500, 503, 504, 505};
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (strcmp(problem_title(statuses[i]), "Error") == 0)
            fail_msg("%d has no title", statuses[i]);
    assert_string_equal(problem_title(404), "Not Found");
    assert_non_null(problem_title(-1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),         cmocka_unit_test(with_input),
        cmocka_unit_test(long_and_wild), cmocka_unit_test(of_the_library),
        cmocka_unit_test(titles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
