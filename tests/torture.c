/* SPDX-License-Identifier: MIT
 *
 * Every allocation fails once. Each evaluation is repeated with its first, second, third, ...
 * allocation failing, until it succeeds. Every failure must be reported as a problem, and no memory
 * may be leaked (the leak check of the address sanitizer looks at the end). json_set_alloc_funcs
 * includes jansson's allocations.
 */
#include "tests/failing.h"
#include "tests/request/request.h"

#include <jansson.h>

static bool parsing; /* it was jansson that did not get its memory */

/* What jansson allocates. Its text buffer, which doubles from 16 bytes on, is spared: jansson 2.14
 * overlooks that it did not grow and reads beyond it. */
static void *parser_malloc(size_t size)
{
    bool before = failed;
    if (size >= 32 && (size & (size - 1)) == 0)
        return __real_malloc(size);
    void *p = __wrap_malloc(size); /* malloc itself is assumed to change nothing here */
    parsing = parsing || (failed && !before);
    return p;
}

static void begin(long n, bool everything)
{
    parsing = false;
    failing_begin(n, everything);
}

/* The server's steps. After open, they must not allocate more than open announced. */
static bool steps(const lk_loss *loss, const wire *in, const wire *out, span body,
                  const char *query, problem *p, size_t *beyond)
{
    evaluation *e = evaluation_new(loss, in, out, body);
    if (!e)
        return problem_set(p, 503, "no_memory", "no memory");
    tell_head(e);
    bool ok = evaluation_open(e, query, 2, p);
    size_t opened = asked;
    ok = ok && evaluation_fill(e, p);
    if (ok) {
        do
            for (int i = 0; i < e->shards; i++)
                evaluation_run(e, i);
        while (evaluation_next(e));
        ok = evaluation_close(e, p);
    }
    *beyond = ok && asked - opened > e->need ? asked - opened - e->need : 0;
    evaluation_free(e);
    return ok;
}

static void torture_body(const lk_loss *loss, const wire *in, const wire *out, const bytes *body,
                         const char *query, bool everything)
{
    const char *name = lk_loss_describe(loss)->name;
    for (long n = 1;; n++) {
        problem p = {0};
        size_t beyond;
        /* Gradients overwrite the body, so each round has its own copy. */
        char *copy = exactly(body->data, body->size);
        begin(n, everything);
        bool ok = steps(loss, in, out, (span){copy, body->size}, query, &p, &beyond);
        bool short_of_memory = failing_end();
        free(copy);
        if (ok && beyond > 0)
            fail_msg("%s, %s to %s: %zu bytes more were allocated than open said", name, in->name,
                     out->name, beyond);
        if (!short_of_memory) {
            if (!ok)
                fail_msg("%s, %s: %s", name, in->name, p.detail);
            return;
        }
        /* jansson does not always distinguish a failed allocation from invalid text. */
        bool blamed = p.status == 503 && strcmp(p.code, "no_memory") == 0;
        if (!ok && !blamed && !(parsing && p.status == 400))
            fail_msg("%s, %s to %s, allocation %ld: %d %s: %s", name, in->name, out->name, n,
                     p.status, p.code, p.detail);
        if (n > 10000)
            fail_msg("%s does not come to an end", name);
    }
}

static bool accepted(const sample *s)
{
    expected a;
    bool ok = ask(s, &a) == LK_OK;
    expected_free(&a);
    return ok;
}

static void evaluations(void **unused)
{
    (void)unused;
    FOR_EACH_DRAWN (l)
        for (int round = 0; round < 24; round++) {
            sample s = sample_new(lk_loss_at(l), (lk_dtype)(round % 4), 4,
                                  SAMPLE_OPTIONS | SAMPLE_OUTPUTS);
            for (int k = 0; k < WIRES && accepted(&s); k++) {
                bytes body = {0}, query = {0};
                const int where = round % 3 ? IN_BODY : IN_QUERY;
                put(&query, "", 0);
                say_body(&body, &s, every_wire[k], where);
                if (where == IN_QUERY)
                    say_query(&query, &s);
                torture_body(s.loss, every_wire[k], every_wire[(k + round) % WIRES], &body,
                             query.data, round % 2);
                free(body.data);
                free(query.data);
            }
            sample_free(&s);
        }
}

/* Composites: parts on shared tensors, of 16 bits too, and parts that read each other. */
static void composites(void **unused)
{
    (void)unused;
    static const char *const bodies[] = {
        "{\"inputs\":{\"a\":[1,2],\"b\":[0,3],\"logits\":[[1,2]],\"targets\":[1],\"log_vars\":[0,1,"
        "2]},"
        "\"options\":{\"combine\":\"uncertainty\",\"scales\":[1,1,0.5],\"parts\":[{\"loss\":"
        "\"mse\"},"
        "{\"loss\":\"cross_entropy\"},{\"loss\":\"mae\",\"inputs\":{\"a\":\"b\",\"b\":\"a\"}}]}}",
        "{\"inputs\":{\"a\":{\"dtype\":\"bf16\",\"shape\":[2],\"data\":[1,2]},\"b\":{\"dtype\":"
        "\"bf16\","
        "\"shape\":[2],\"data\":[0,3]}},\"options\":{\"parts\":[{\"loss\":\"mse\"},{\"loss\":"
        "\"mae\"}]}}",
        "{\"inputs\":{\"logits\":[[[1,-1,0.5],[0,1,2]]],\"targets\":[[0,1]],\"advantages\":{"
        "\"dtype\":"
        "\"f64\",\"shape\":[1],\"data\":[1.5]}},\"options\":{\"parts\":[{\"loss\":\"policy_"
        "gradient\","
        "\"inputs\":{\"logprobs\":\"part.p.logprobs\",\"entropy\":\"part.p.entropy\"},\"options\":"
        "{\"entropy_weight\":0.01}},{\"loss\":\"token_logprobs\",\"name\":\"p\"},{\"loss\":"
        "\"sequence_cross_entropy\"},{\"loss\":\"mae\",\"inputs\":{\"a\":\"part.p.sequence_"
        "logprobs\","
        "\"b\":\"part.p.mean_logprobs\"}}]},\"outputs\":[\"loss\",\"grad.logits\",\"part.p."
        "logprobs\"]}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        bytes body = {0};
        put(&body, bodies[i], strlen(bodies[i]));
        for (int everything = 0; everything < 2; everything++)
            torture_body(lk_loss_find("composite"), &wire_json, &wire_json, &body, "", everything);
        free(body.data);
    }
}

/* Invalid bodies: either error may be reported, but nothing else may go wrong. */
static void wrong_bodies(void **unused)
{
    (void)unused;
    static const char *const bodies[] = {
        "{\"\\u0061\":1}",
        "{\"inputs\":{\"\\u0061\":[1,\"x\"]}}",
        "{\"inputs\":{},\"options\":{\"a\":[[[{\"b\":1}]]]}}",
        "{\"inputs\":{},\"outputs\":[\"loss\",{\"a\":\"b\"}]}",
        "{\"options\":{\"a\":1,\"a\":1}}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        for (long n = 1;; n++) {
            problem p = {0};
            size_t beyond;
            span body = {bodies[i], strlen(bodies[i])};
            begin(n, n % 2);
            assert_false(steps(lk_loss_at(0), &wire_json, &wire_json, body, "", &p, &beyond));
            bool short_of_memory = failing_end();
            assert_true(p.status == 400 || p.status == 422 || (short_of_memory && p.status == 503));
            if (!short_of_memory)
                break;
        }
}

/* lk_call and lk_evaluate. */
static void library(void **unused)
{
    (void)unused;
    FOR_EACH_DRAWN (l)
        for (int round = 0; round < 40; round++) {
            sample s = sample_new(lk_loss_at(l), (lk_dtype)(round % 4), 4, SAMPLE_OUTPUTS);
            expected a;
            if (ask(&s, &a) != LK_OK || s.outputs == 0) {
                expected_free(&a);
                sample_free(&s);
                continue;
            }
            lk_named inputs[REQUEST_INPUTS + 1] = {{0}}, outputs[REQUEST_OUTPUTS + 1] = {{0}};
            const char *options[2 * REQUEST_OPTIONS + 1] = {0};
            for (int i = 0; i < s.inputs; i++)
                inputs[i] = (lk_named){s.input[i].name, s.input[i].tensor};
            for (int i = 0; i < s.options; i++) {
                options[2 * i] = s.option[i].name;
                options[2 * i + 1] = s.option[i].text;
            }
            for (int i = 0; i < a.outputs; i++)
                outputs[i] = (lk_named){a.output[i].name, a.output[i].tensor};
            for (long n = 1;; n++) {
                expected other;
                lk_error error = {.status = LK_OK};
                begin(n, round % 2);
                lk_status status = ask(&s, &other);
                bool short_of_memory = failing_end();
                expected_free(&other);
                assert_true(status == (short_of_memory ? LK_NO_MEMORY : LK_OK));
                begin(n, round % 2);
                status =
                    lk_evaluate(lk_loss_describe(s.loss)->name, options, inputs, outputs, &error);
                bool again = failing_end();
                if (status != (again ? LK_NO_MEMORY : LK_OK))
                    fail_msg("%s, allocation %ld: %s", lk_loss_describe(s.loss)->name, n,
                             lk_status_name(status));
                assert_int_equal(error.status, status);
                if (!short_of_memory && !again)
                    break;
            }
            expected_free(&a);
            sample_free(&s);
        }
}

/* A buffer that cannot grow stays failed and keeps what it has. */
static void buffers(void **unused)
{
    (void)unused;
    for (long n = 1; n < 8; n++) {
        buffer b = buffer_new(1 << 20);
        begin(n, false);
        for (int i = 0; i < 1000; i++)
            buffer_text(&b, "0123456789");
        bool short_of_memory = failing_end();
        assert_int_equal(b.failed, short_of_memory);
        assert_true(b.size <= b.capacity && b.size % 10 == 0);
        buffer_free(&b);
    }
}

int main(void)
{
    json_set_alloc_funcs(parser_malloc, free);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evaluations), cmocka_unit_test(composites), cmocka_unit_test(wrong_bodies),
        cmocka_unit_test(library),     cmocka_unit_test(buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
