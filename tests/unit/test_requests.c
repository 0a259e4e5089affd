/* SPDX-License-Identifier: MIT
 *
 * Whole evaluations: random requests for every loss go through each pair of body formats, and the
 * replies are compared, bit for bit, with the results of the library.
 */
#include "tests/request/request.h"

#include <jansson.h>

static const lk_dtype elements[] = {LK_F64, LK_F32, LK_F16, LK_BF16};

/* Decoders of replies, which share no code with the server's. */

/* Bare NaN, Infinity and -Infinity become strings, because jansson does not support them. */
static json_t *parse_reply(const char *data, size_t size)
{
    const bytes whole = {(char *)(uintptr_t)data, size, size}, *reply = &whole;
    bytes quoted = {0};
    bool string = false;
    for (size_t i = 0; i < reply->size; i++) {
        char c = reply->data[i];
        size_t n = 1;
        if (c == '"')
            string = !string;
        if (!string && (c == 'N' || c == 'I' || (c == '-' && reply->data[i + 1] == 'I'))) {
            n = c == 'N' ? 3 : c == 'I' ? 8 : 9;
            put(&quoted, "\"", 1);
            put(&quoted, reply->data + i, n);
            put(&quoted, "\"", 1);
            i += n - 1;
            continue;
        }
        put(&quoted, &c, 1);
    }
    json_error_t error;
    json_t *tree = json_loadb(quoted.data, quoted.size, JSON_REJECT_DUPLICATES, &error);
    if (!tree)
        fail_msg("reply is not JSON: %s: %s", error.text, reply->data);
    free(quoted.data);
    return tree;
}

static void flatten(const json_t *value, lk_tensor *t, int axis, int64_t *i, bool strict)
{
    if (axis < t->rank) {
        assert_true(json_is_array(value));
        assert_int_equal(json_array_size(value), t->shape[axis]);
        for (size_t k = 0; k < json_array_size(value); k++)
            flatten(json_array_get(value, k), t, axis + 1, i, strict);
        return;
    }
    assert_true(*i < lk_tensor_count(t));
    if (!is_float(t->dtype)) {
        assert_true(json_is_integer(value));
        if (t->dtype == LK_I32)
            assert_in_range(json_integer_value(value) + ((json_int_t)1 << 31), 0, UINT32_MAX);
        store_int(t->data, t->dtype, (*i)++, json_integer_value(value));
        return;
    }
    assert_true(json_is_number(value) || (strict ? json_is_null(value) : json_is_string(value)));
    const char *word = json_string_value(value);
    double x = json_is_number(value) ? json_number_value(value)
               : !word               ? (double)NAN
               : word[0] == '-'      ? -(double)INFINITY
               : word[0] == 'I'      ? (double)INFINITY
                                     : (double)NAN;
    store(t->data, t->dtype, (*i)++, x);
}

static void same_value(const expected *a, int k, int64_t i, const lk_tensor *got, bool strict)
{
    const lk_tensor *want = &a->output[k].tensor;
    const size_t size = lk_dtype_size(want->dtype);
    const char *x = (const char *)want->data + (size_t)i * size;
    const char *y = (const char *)got->data + (size_t)i * size;
    if (memcmp(x, y, size) == 0)
        return;
    if (is_float(want->dtype)) {
        double wide = load(want->data, want->dtype, i), other = load(got->data, got->dtype, i);
        /* As text a NaN has neither sign nor payload, and null is all that strict JSON has. */
        if (isnan(other) && (isnan(wide) || (strict && isinf(wide))))
            return;
        fail_msg("%s[%" PRId64 "] (%s) is %.17g; the library says %.17g", a->output[k].name, i,
                 lk_dtype_name(want->dtype), other, wide);
    }
    fail_msg("%s[%" PRId64 "] differs", a->output[k].name, i);
}

static void check_json(const lk_loss *loss, const bytes *reply, const expected *a, bool strict)
{
    json_t *tree = parse_reply(reply->data, reply->size);
    json_t *outputs = json_object_get(tree, "outputs");
    assert_string_equal(json_string_value(json_object_get(tree, "loss")),
                        lk_loss_describe(loss)->name);
    assert_int_equal(json_object_size(tree), 2);
    assert_int_equal(json_object_size(outputs), a->outputs);
    void *place = json_object_iter(outputs);
    for (int k = 0; k < a->outputs; k++, place = json_object_iter_next(outputs, place)) {
        const lk_tensor *want = &a->output[k].tensor;
        lk_tensor got = *want;
        const json_t *value = json_object_iter_value(place);
        int64_t i = 0;
        assert_string_equal(json_object_iter_key(place), a->output[k].name);
        got.data = malloc(bytes_of(&got) + 1);
        if (lk_tensor_count(want) == 0 && want->rank > 1) {
            lk_tensor flat = {got.data, LK_I64, 1, {want->rank}};
            int64_t shape[LK_MAX_RANK];
            flat.data = shape;
            assert_int_equal(json_object_size(value), 2);
            flatten(json_object_get(value, "shape"), &flat, 0, &i, false);
            assert_memory_equal(shape, want->shape, (size_t)want->rank * sizeof *shape);
            value = json_object_get(value, "data");
            flat = (lk_tensor){got.data, want->dtype, 1, {0}};
            i = 0;
            flatten(value, &flat, 0, &i, strict);
        } else {
            flatten(value, &got, 0, &i, strict);
        }
        assert_int_equal(i, lk_tensor_count(want));
        for (i = 0; i < lk_tensor_count(want); i++)
            same_value(a, k, i, &got, strict);
        free(got.data);
    }
    json_decref(tree);
}

static void check_safetensors(const lk_loss *loss, const bytes *reply, const expected *a)
{
    uint64_t length = 0;
    json_error_t error;
    assert_true(reply->size >= 8);
    for (int i = 8; i-- > 0;)
        length = length << 8 | (unsigned char)reply->data[i];
    assert_true(length <= reply->size - 8);
    assert_int_equal((8 + length) % 8, 0);
    json_t *header = json_loadb(reply->data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!header)
        fail_msg("header: %s", error.text);
    assert_int_equal(json_object_size(header), a->outputs + 1);
    void *place = json_object_iter(header);
    assert_string_equal(json_object_iter_key(place), "__metadata__");
    const char *name = json_string_value(json_object_get(json_object_iter_value(place), "loss"));
    assert_string_equal(name, lk_loss_describe(loss)->name);
    size_t at = 0;
    const char *data = reply->data + 8 + length;
    for (int k = 0; k < a->outputs; k++) {
        const lk_tensor *want = &a->output[k].tensor;
        place = json_object_iter_next(header, place);
        const json_t *entry = json_object_iter_value(place),
                     *shape = json_object_get(entry, "shape"),
                     *offsets = json_object_get(entry, "data_offsets");
        assert_string_equal(json_object_iter_key(place), a->output[k].name);
        assert_string_equal(json_string_value(json_object_get(entry, "dtype")), spelt(want->dtype));
        assert_int_equal(json_array_size(shape), want->rank);
        for (int axis = 0; axis < want->rank; axis++)
            assert_int_equal(json_integer_value(json_array_get(shape, (size_t)axis)),
                             want->shape[axis]);
        assert_int_equal(json_integer_value(json_array_get(offsets, 0)), at);
        assert_int_equal(json_integer_value(json_array_get(offsets, 1)), at + bytes_of(want));
        assert_true(at + bytes_of(want) <= reply->size - 8 - length);
        if (memcmp(data + at, want->data, bytes_of(want)) != 0) {
            lk_tensor got = *want;
            got.data = exactly(data + at, bytes_of(want));
            for (int64_t i = 0; i < lk_tensor_count(want); i++)
                same_value(a, k, i, &got, false);
            fail_msg("%s: the bits of a NaN differ", a->output[k].name);
        }
        at += bytes_of(want);
    }
    assert_int_equal(at, reply->size - 8 - length);
    json_decref(header);
}

static void check_oip(const lk_loss *loss, const outcome *o, const expected *a, bool id,
                      bool strict)
{
    const size_t head = o->head ? (size_t)o->head : o->reply.size;
    assert_true(head <= o->reply.size);
    json_t *tree = parse_reply(o->reply.data, head);
    json_t *outputs = json_object_get(tree, "outputs");
    size_t at = head;
    assert_string_equal(json_string_value(json_object_get(tree, "model_name")),
                        lk_loss_describe(loss)->name);
    assert_string_equal(json_string_value(json_object_get(tree, "model_version")), "1");
    assert_int_equal(json_is_string(json_object_get(tree, "id")), id);
    assert_int_equal(json_array_size(outputs), a->outputs);
    for (int k = 0; k < a->outputs; k++) {
        const json_t *entry = json_array_get(outputs, (size_t)k),
                     *shape = json_object_get(entry, "shape"),
                     *data = json_object_get(entry, "data"),
                     *size =
                         json_object_get(json_object_get(entry, "parameters"), "binary_data_size");
        const lk_tensor *want = &a->output[k].tensor;
        const size_t size_of = bytes_of(want);
        lk_tensor got = *want;
        int64_t i = 0;
        assert_string_equal(json_string_value(json_object_get(entry, "name")), a->output[k].name);
        assert_string_equal(json_string_value(json_object_get(entry, "datatype")),
                            oip_spelt(want->dtype));
        assert_int_equal(json_array_size(shape), want->rank);
        for (int axis = 0; axis < want->rank; axis++)
            assert_int_equal(json_integer_value(json_array_get(shape, (size_t)axis)),
                             want->shape[axis]);
        assert_true(!data == json_is_integer(size));
        got.data = malloc(size_of + 1);
        if (data) {
            lk_tensor flat = {got.data, want->dtype, 1, {lk_tensor_count(want)}};
            flatten(data, &flat, 0, &i, strict);
        } else {
            assert_int_equal(json_integer_value(size), size_of);
            assert_true(size_of <= o->reply.size - at);
            memcpy(got.data, o->reply.data + at, size_of);
            at += size_of;
        }
        for (i = 0; i < lk_tensor_count(want); i++)
            same_value(a, k, i, &got, strict && data);
        free(got.data);
    }
    assert_int_equal(at, o->reply.size);
    assert_true((at > head) <= (o->head > 0));
    json_decref(tree);
}

/* One request through one pair of formats. */
static void check(const sample *s, const expected *a, const wire *in, const wire *out, int where,
                  int shards, bool strict)
{
    bytes body = {0}, query = {0};
    outcome o;
    put(&query, "", 0);
    say_body(&body, s, in, where);
    if (where == IN_QUERY)
        say_query(&query, s);
    if (strict)
        say(&query, "%sstrict_json=true", query.size ? "&" : "");
    bool ok = serve_body(s->loss, in, out, body.data, body.size, query.data, shards, &o);
    if (ok != (a->status == LK_OK))
        fail_msg("%s, %s: the server says %d %s (%s), the library %s (%s); body %.400s; query %s",
                 lk_loss_describe(s->loss)->name, in->name, o.problem.status, o.problem.code,
                 o.problem.detail, lk_status_name(a->status), a->error.text,
                 in == &wire_safetensors ? body.data + 8 : body.data, query.data);
    if (!ok) {
        assert_string_equal(o.problem.code, lk_status_name(a->status));
        assert_int_equal(o.problem.status, 422);
        assert_string_equal(o.problem.input, a->error.input);
        assert_string_equal(o.problem.detail, a->error.text);
    } else {
        if (o.taken > o.need)
            fail_msg("%s: %zu bytes promised, %zu taken", lk_loss_describe(s->loss)->name, o.need,
                     o.taken);
        if (out == &wire_json)
            check_json(s->loss, &o.reply, a, strict);
        else if (out == &wire_oip)
            check_oip(s->loss, &o, a, in == &wire_oip, strict);
        else if (out == &wire_safetensors)
            check_safetensors(s->loss, &o.reply, a);
        else
            fail_msg("no test reads replies of %s yet", out->name);
    }
    outcome_free(&o);
    free(body.data);
    free(query.data);
}

static int check_pairs(sample *s)
{
    expected a;
    int good = ask(s, &a) == LK_OK;
    if (a.status != LK_OK)
        expected_free(&a);
    for (int i = 0; i < WIRES; i++)
        for (int k = 0; k < WIRES; k++) {
            check(s, &a, every_wire[i], every_wire[k], IN_BODY, 1, false);
            check(s, &a, every_wire[i], every_wire[k], IN_QUERY, 2, chance(0.5));
        }
    expected_free(&a);
    sample_free(s);
    return good;
}

static void round_trips(void **unused)
{
    (void)unused;
    FOR_EACH_DRAWN (l)
        for (int d = 0; d < 4; d++) {
            int good = 0;
            /* Options that exclude each other are drawn together more often than not. */
            for (int round = 0; round < 40 || (good < 10 && round < 200); round++) {
                unsigned flags = round % 4 ? SAMPLE_OPTIONS | SAMPLE_OUTPUTS : 0;
                flags |= round % 3 ? 0 : SAMPLE_PLAIN;
                sample s = sample_new(lk_loss_at(l), elements[d], 5, flags);
                good += check_pairs(&s);
            }
            if (good < 10)
                fail_msg("%s: only %d of 200 requests made from its description were accepted",
                         lk_loss_describe(lk_loss_at(l))->name, good);
        }
}

static void empty_tensors(void **unused)
{
    (void)unused;
    FOR_EACH_DRAWN (l)
        for (int d = 0; d < 4; d++)
            for (int round = 0; round < 10; round++) {
                sample s = sample_new(lk_loss_at(l), elements[d], 4,
                                      SAMPLE_EMPTY | (round % 2 ? SAMPLE_OUTPUTS : 0));
                check_pairs(&s);
            }
}

/* The example of every description, unchanged, and the form of its reply. */
static void examples(void **unused)
{
    (void)unused;
    for (int l = 0; l < lk_loss_count(); l++) {
        const lk_description *is = lk_loss_describe(lk_loss_at(l));
        for (int k = 0; k < WIRES; k++) {
            outcome o;
            if (!serve_body(lk_loss_at(l), &wire_json, every_wire[k], is->example,
                            strlen(is->example), "", 1, &o))
                fail_msg("the example of %s: %s", is->name, o.problem.detail);
            assert_true(o.reply.size > 0);
            assert_true(o.taken <= o.need);
            outcome_free(&o);
        }
    }
}

/* A request whose arithmetic is worth 5 shards, and which the loss accepts if it can be found; *a
 * is the library's answer. */
static sample large_sample(const lk_loss *loss, lk_dtype element, expected *a)
{
    for (int round = 1;; round++) {
        sample s = sample_new(loss, element, 101, 0);
        const uint64_t seed = random_bits();
        (void)ask(&s, a);
        for (int most = 101; a->status == LK_OK && a->cost < 5 * 128 * 1024 && most < 1000000;
             most += most / 2) {
            sample_free(&s);
            expected_free(a);
            random_state = seed;
            s = sample_new(loss, element, most, 0);
            (void)ask(&s, a);
        }
        if (a->status == LK_OK || round == 200)
            return s;
        sample_free(&s);
        expected_free(a);
    }
}

/* Large enough to be split: 1, 2 and 5 shards give the same bytes. */
static void shards(void **unused)
{
    (void)unused;
    FOR_EACH_DRAWN (l) {
        expected a;
        sample s = large_sample(lk_loss_at(l), elements[l % 2], &a);
        bytes body = {0};
        if (a.status != LK_OK)
            fail_msg("%s: %s", lk_loss_describe(s.loss)->name, a.error.text);
        say_safetensors(&body, &s, IN_BODY);
        static const int cuts[] = {1, 2, 5};
        for (int k = 0; k < 3; k++) {
            outcome o;
            if (!serve_body(s.loss, every_wire[1], every_wire[1], body.data, body.size, "", cuts[k],
                            &o))
                fail_msg("%s", o.problem.detail);
            assert_int_equal(o.shards, cuts[k]);
            assert_true(o.taken <= o.need);
            check_safetensors(s.loss, &o.reply, &a);
            outcome_free(&o);
        }
        free(body.data);
        expected_free(&a);
        sample_free(&s);
    }
}

/* Options and outputs given twice, in any combination of places. */
static void given_twice(void **unused)
{
    (void)unused;
    static const struct {
        const char *body, *query, *code;
    } cases[] = {
        {"{\"inputs\":{\"a\":1,\"b\":2},\"options\":{\"delta\":2}}", "delta=2", "duplicate_option"},
        {"{\"inputs\":{\"a\":1,\"b\":2},\"options\":{\"delta\":2,\"delta\":2}}", "",
         "duplicate_option"},
        {"{\"inputs\":{\"a\":1,\"b\":2}}", "delta=2&delta=3", "duplicate_option"},
        {"{\"inputs\":{\"a\":1,\"b\":2}}", "outputs=loss&outputs=loss", "duplicate_option"},
        {"{\"inputs\":{\"a\":1,\"b\":2}}", "outputs=loss,loss", "duplicate_option"},
        {"{\"inputs\":{\"a\":1,\"b\":2},\"outputs\":[\"loss\"]}", "outputs=grad.a",
         "duplicate_option"},
        {"{\"inputs\":{\"a\":1,\"b\":2},\"outputs\":[\"loss\"],\"outputs\":[\"loss\"]}", "",
         "duplicate_option"},
        {"{\"inputs\":{\"a\":1,\"b\":2}}", "strict_json=true&strict_json=true", "duplicate_option"},
        {"{\"inputs\":{\"a\":1,\"b\":2,\"a\":1}}", "", "duplicate_name"},
        {"{\"inputs\":{\"a\":1,\"b\":2},\"inputs\":{}}", "", "duplicate_name"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o;
        bool ok = serve_body(lk_loss_find("huber"), every_wire[0], every_wire[0], cases[i].body,
                             strlen(cases[i].body), cases[i].query, 1, &o);
        if (ok || strcmp(o.problem.code, cases[i].code) != 0)
            fail_msg("%s ? %s: %s", cases[i].body, cases[i].query,
                     ok ? "accepted" : o.problem.code);
    }
}

static void queries(void **unused)
{
    (void)unused;
    static const struct {
        const char *query, *code; /* NULL: fine */
    } cases[] = {
        {"", NULL},
        {"&", NULL},
        {"&&delta=2&", NULL},
        {"delta=%32", NULL},
        {"%64elta=2", NULL},
        {"reduction=s%75M", "option_invalid"},
        {"reduction=s%75%6D", NULL},
        {"delta=%", "malformed_query"},
        {"delta=%2", "malformed_query"},
        {"delta=%zz", "malformed_query"},
        {"delta=2%00", "malformed_query"},
        {"delta", "option_invalid"},
        {"delta=", "option_invalid"},
        {"=2", "unknown_option"},
        {"delta=2=3", "option_invalid"},
        {"delta=+2", "option_invalid"},
        {"delta=-1", "option_out_of_range"},
        {"strict_json=yes", "option_invalid"},
        {"strict_json=false", NULL},
        {"outputs=", "unknown_output"},
        {"outputs=loss,", "unknown_output"},
        {"outputs=loss,grad.b", NULL},
        {"outputs=loss%2Cgrad.b", NULL},
        {"outputs=loss,%20grad.a", NULL},
        {"nothing=1", "unknown_option"},
    };
    static const char body[] = "{\"inputs\":{\"a\":[1,2],\"b\":[2,4]}}";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o;
        char *query = exactly(cases[i].query, strlen(cases[i].query) + 1);
        bool ok = serve_body(lk_loss_find("huber"), every_wire[0], every_wire[0], body,
                             strlen(body), query, 1, &o);
        if (ok != !cases[i].code || (!ok && strcmp(o.problem.code, cases[i].code) != 0))
            fail_msg("?%s: %s", query, ok ? "accepted" : o.problem.detail);
        outcome_free(&o);
        free(query);
    }
    /* Long values are refused, not truncated. */
    static char longer[5000];
    memset(longer, '2', sizeof longer - 1);
    memcpy(longer, "delta=", 6);
    outcome o;
    assert_false(serve_body(lk_loss_find("huber"), every_wire[0], every_wire[0], body, strlen(body),
                            longer, 1, &o));
    assert_string_equal(o.problem.code, "malformed_query");
}

static void strict_json(void **unused)
{
    (void)unused;
    static const char body[] = "{\"inputs\":{\"a\":[NaN,Infinity,1],\"b\":[2,-Infinity,4]},"
                               "\"options\":{\"reduction\":\"none\"}}";
    outcome o;
    assert_true(serve_body(lk_loss_find("huber"), every_wire[0], every_wire[0], body, strlen(body),
                           "strict_json=true", 1, &o));
    assert_non_null(strstr(o.reply.data, "\"loss\":[null,null,2.5]"));
    assert_null(strstr(o.reply.data, "NaN"));
    outcome_free(&o);
    assert_true(serve_body(lk_loss_find("huber"), every_wire[0], every_wire[0], body, strlen(body),
                           "", 1, &o));
    assert_non_null(strstr(o.reply.data, "\"loss\":[NaN,Infinity,2.5]"));
    outcome_free(&o);
}

static void unknown_loss(void **unused)
{
    (void)unused;
    problem p = {0};
    assert_null(evaluation_loss("hubber", &p));
    assert_int_equal(p.status, 404);
    assert_string_equal(p.code, "unknown_loss");
    assert_non_null(strstr(p.detail, "huber"));
    char name[400];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_null(evaluation_loss(name, &p));
    assert_null(evaluation_loss("", &p));
    assert_ptr_equal(evaluation_loss("huber", &p), lk_loss_find("huber"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples),      cmocka_unit_test(round_trips),
        cmocka_unit_test(empty_tensors), cmocka_unit_test(shards),
        cmocka_unit_test(given_twice),   cmocka_unit_test(queries),
        cmocka_unit_test(strict_json),   cmocka_unit_test(unknown_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
