/* SPDX-License-Identifier: MIT
 *
 * Evaluations that are kept for the next request: which requests get one, and that the reply, or
 * the problem, is that of an evaluation of their own.
 */
#include "kept.h"
#include "tests/request/request.h"

#include <stdio.h>

/* The reply of an evaluation that is open, or its problem. */
static bytes run(evaluation *e, bool *good)
{
    bytes said = {0};
    problem p;
    *good = evaluation_fill(e, &p);
    if (*good) {
        do
            evaluation_run(e, 0);
        while (evaluation_next(e));
        *good = evaluation_close(e, &p);
    }
    for (int i = 0; *good && i < e->pieces; i++)
        put(&said, e->piece[i].data, e->piece[i].size);
    if (!*good)
        put(&said, p.detail, strlen(p.detail));
    put(&said, "", 1);
    return said;
}

static evaluation *opened(const kept_key *key, span body)
{
    evaluation *e = evaluation_new(key->loss, key->in, key->out, body);
    problem p;
    assert_non_null(e);
    if (!evaluation_open(e, key->query, 1, &p))
        fail_msg("%.*s: %s", (int)body.size, body.data, p.detail);
    return e;
}

/* Answer a body, with what was kept if there is something. Was there? */
static bool answer(const kept_key *key, const char *body)
{
    const span own = {exactly(body, strlen(body)), strlen(body)};
    const span other = {exactly(body, strlen(body)), strlen(body)};
    bool good;
    evaluation *e = kept_take(key, own), *fresh = opened(key, other);
    const bool again = e != NULL;
    if (!e)
        e = opened(key, own);
    assert_int_equal(e->need, fresh->need);
    assert_int_equal(e->work, fresh->work);
    bytes want = run(fresh, &good), got = run(e, &good);
    if (strcmp(want.data, got.data) != 0)
        fail_msg("%s: %s, not %s", body, got.data, want.data);
    free(want.data);
    free(got.data);
    evaluation_free(fresh);
    kept_give(key, e, good);
    free((void *)(uintptr_t)own.data);
    free((void *)(uintptr_t)other.data);
    return again;
}

static kept_key json_key(const char *loss, const char *query)
{
    return (kept_key){lk_loss_find(loss), &wire_json, &wire_json, query, OIP_ALL};
}

static void expect(const kept_key *key, const char *body, bool again)
{
    if (answer(key, body) != again)
        fail_msg("%s %s", body, again ? "finds nothing" : "finds another's");
}

static void numbers_alone_may_differ(void **unused)
{
    static const struct {
        const char *body;
        bool again;
    } cases[] = {
        {"{\"inputs\":{\"a\":[1,2],\"b\":[0,0]}}", false},
        {"{\"inputs\":{\"a\":[3.5,-2e3],\"b\":[0.25,1]}}", true},
        {"{\"inputs\":{\"a\":[ 3 ,\n4 ],\"b\":[0,1]}}", true},
        {"{\"inputs\":{\"a\": [1,2],\"b\":[0,0]}}", false},
        {" {\"inputs\":{\"a\":[1,2],\"b\":[0,0]}}", false},
        {"\xef\xbb\xbf{\"inputs\":{\"a\":[1,2],\"b\":[0,0]}}", false},
        {"{\"inputs\":{\"a\":[1,2,3],\"b\":[0,0,4]}}", false},
        {"{\"inputs\":{\"a\":[[1,2]],\"b\":[[0,0]]}}", false},
        {"{\"inputs\":{\"a\":[[1],[2]],\"b\":[[0],[0]]}}", false},
        {"{\"inputs\":{\"b\":[1,2],\"a\":[0,0]}}", false},
        {"{\"inputs\":{\"a\":1,\"b\":2}}", false},
        {"{\"inputs\":{\"a\":7.25,\"b\":2}}", true},
        {"{\"inputs\":{\"a\":[1,2],\"b\":[0,0]},\"options\":{\"delta\":2}}", false},
        {"{\"inputs\":{\"a\":[1,2],\"b\":[0,0]},\"options\":{\"delta\":3}}", false},
        {"{\"inputs\":{\"a\":[9,8],\"b\":[7,6]},\"options\":{\"delta\":2}}", true},
        {"{\"outputs\":[\"loss\"],\"inputs\":{\"a\":[1,2],\"b\":[0,0]}}", false},
        {"{\"outputs\":[\"loss\"],\"inputs\":{\"a\":[1,2],\"b\":[5,0]}}", true},
        {"{\"outputs\":[\"grad.a\"],\"inputs\":{\"a\":[1,2],\"b\":[0,0]}}", false},
        {"{\"inputs\":{\"a\":[NaN,Infinity],\"b\":[5,0]}}", true},
        {"{\"inputs\":{\"a\":[1,2],\"b\":[0,0],\"mask\":[1,0]}}", false},
        {"{\"inputs\":{\"a\":[1,2],\"b\":[0,0],\"mask\":[true,false]}}", false},
        {"{\"inputs\":{\"a\":[1,2],\"b\":[0,0],\"mask\":[false,true]}}", true},
        {"{\"\\u0069nputs\":{\"a\":[1,2],\"b\":[0,0]}}", false},
        {"{\"\\u0069nputs\":{\"a\":[1,2],\"b\":[0,0]}}", false},
        {"{\"inputs\":{\"a\":{\"shape\":[2],\"data\":[1,2]},\"b\":[0,0]}}", false},
        {"{\"inputs\":{\"a\":{\"shape\":[2],\"data\":[1,2]},\"b\":[0,0]}}", false},
        {"{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AACAPw==\"},\"b\":[0]}}", false},
        {"{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AACAPw==\"},\"b\":[0]}}", false},
    };
    const kept_key key = json_key("huber", ""), asked = json_key("huber", "outputs=loss");
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(&key, cases[i].body, cases[i].again);
    expect(&asked, cases[0].body, false);
    expect(&asked, cases[1].body, true);
    kept_clear();
    expect(&asked, cases[1].body, false);
    kept_clear();
}

/* What is refused is refused in the same words, and is not kept. */
static void problems_are_the_same(void **unused)
{
    const kept_key key = json_key("cross_entropy", "");
    const char *const good = "{\"inputs\":{\"logits\":[[1,2,3]],\"targets\":[0]}}";
    const char *const bad[] = {
        "{\"inputs\":{\"logits\":[[1,2,3]],\"targets\":[3]}}",
        "{\"inputs\":{\"logits\":[[1,2,3]],\"targets\":[0.5]}}",
        "{\"inputs\":{\"logits\":[[1,2x,3]],\"targets\":[0]}}",
        "{\"inputs\":{\"logits\":[[1,-,3]],\"targets\":[0]}}",
        "{\"inputs\":{\"logits\":[[1,1e,3]],\"targets\":[99999999999999999999]}}",
    };
    (void)unused;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        expect(&key, good, false);
        expect(&key, good, true);
        expect(&key, bad[i], true);
    }
    kept_clear();
}

static void the_last_ones_are_kept(void **unused)
{
    enum { MANY = 20, KEPT = 16 };
    const kept_key key = json_key("huber", "");
    char body[MANY][200];
    (void)unused;
    for (int i = 0; i < MANY; i++)
        snprintf(body[i], sizeof *body, "{\"inputs\":{\"a\":%.*s0%.*s,\"b\":%.*s0%.*s}}", i % 7,
                 "[[[[[[[", i % 7, "]]]]]]]", i % 7, "[[[[[[[", i % 7, "]]]]]]]");
    for (int i = 7; i < MANY; i++) /* not by their shape, then by an option */
        snprintf(body[i], sizeof *body,
                 "{\"inputs\":{\"a\":[1],\"b\":[0]},\"options\":{\"delta\":%d}}", i);
    for (int i = 0; i < MANY; i++)
        expect(&key, body[i], false);
    for (int i = MANY - KEPT; i < MANY; i++)
        expect(&key, body[i], true);
    expect(&key, body[0], false);
    kept_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_alone_may_differ),
        cmocka_unit_test(problems_are_the_same),
        cmocka_unit_test(the_last_ones_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
