/* SPDX-License-Identifier: MIT
 *
 * Every loss through every body format, in and out, in every element type: what comes back must be,
 * bit for bit, what a call in process gives. The requests are the examples of the descriptions.
 */
#include "server/evaluate.h"
#include "server/wire.h"

#include <inttypes.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { INPUTS = 16, ELEMENTS = 4096 };

typedef struct sample {
    const lk_loss *loss;
    lk_call *call; /* evaluated in process */
    int inputs;
    char name[INPUTS][32];
    lk_tensor in[INPUTS];
    int outputs;
    void *out[64];
    json_t *options; /* of the example, borrowed from `example`; may be NULL */
    json_t *example;
} sample;

/* The shape of nested arrays, and their numbers in order. */
static void flatten(const json_t *value, lk_tensor *t, int depth, double *numbers, int64_t *count)
{
    size_t i;
    json_t *item;
    if (!json_is_array(value)) {
        assert_true(*count < ELEMENTS);
        numbers[(*count)++] =
            json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
        return;
    }
    t->rank = depth + 1 > t->rank ? depth + 1 : t->rank;
    t->shape[depth] = (int64_t)json_array_size(value);
    json_array_foreach((json_t *)(uintptr_t)value, i, item)
        flatten(item, t, depth + 1, numbers, count);
}

static void store(const lk_tensor *t, const double *numbers, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t wide = (int64_t)numbers[i];
        int32_t narrow = (int32_t)wide;
        char *to = (char *)t->data + i * (int64_t)lk_dtype_size(t->dtype);
        if (t->dtype == LK_I64)
            memcpy(to, &wide, sizeof wide);
        else if (t->dtype == LK_I32)
            memcpy(to, &narrow, sizeof narrow);
        else if (t->dtype == LK_U8 || t->dtype == LK_BOOL)
            *to = (char)wide;
        else
            wire_put_real(t->dtype, t->data, i, numbers[i]);
    }
}

static size_t bytes_of(const lk_tensor *t)
{
    return (size_t)lk_tensor_count(t) * lk_dtype_size(t->dtype);
}

/* The example of a loss, its differentiable inputs in the element type, evaluated in process. */
static sample make_sample(const lk_loss *loss, lk_dtype element)
{
    sample s = {.loss = loss, .call = lk_call_new(loss)};
    const lk_description *is = lk_loss_describe(loss);
    lk_error error = {0};
    const char *name;
    json_t *value;
    static double numbers[INPUTS][ELEMENTS];
    int64_t counts[INPUTS] = {0};
    s.example = json_loads(is->example, 0, NULL);
    assert_non_null(s.example);
    s.options = json_object_get(s.example, "options");
    json_object_foreach(json_object_get(s.example, "inputs"), name, value)
    {
        lk_tensor *t = &s.in[s.inputs];
        *t = (lk_tensor){.dtype = LK_ANY};
        flatten(value, t, 0, numbers[s.inputs], &counts[s.inputs]);
        for (const lk_input *in = is->inputs; in->name; in++)
            if (strcmp(in->name, name) == 0 && (in->flags & LK_DIFFERENTIABLE) &&
                (in->forms[0].dtypes & LK_FLOATS))
                t->dtype = element;
        snprintf(s.name[s.inputs], sizeof s.name[0], "%s", name);
        assert_int_equal(lk_call_input(s.call, name, t, &error), LK_OK);
        s.inputs++;
    }
    json_object_foreach(s.options, name, value)
    {
        char text[64];
        if (json_is_string(value))
            snprintf(text, sizeof text, "%s", json_string_value(value));
        else if (json_is_boolean(value))
            snprintf(text, sizeof text, "%s", json_is_true(value) ? "true" : "false");
        else if (json_is_integer(value))
            snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        else if (json_is_array(value))
            for (size_t i = 0, used = 0; i < json_array_size(value); i++)
                used +=
                    (size_t)snprintf(text + used, sizeof text - used, "%s%" JSON_INTEGER_FORMAT,
                                     i ? "," : "", json_integer_value(json_array_get(value, i)));
        else
            snprintf(text, sizeof text, "%.17g", json_real_value(value));
        assert_int_equal(lk_call_option(s.call, name, text, &error), LK_OK);
    }
    if (lk_call_check(s.call, &error) != LK_OK)
        fail_msg("%s: %s", is->name, error.text);
    for (int i = 0; i < s.inputs; i++) {
        s.in[i] = *lk_call_tensor(s.call, s.name[i]);
        s.in[i].data = calloc(1, bytes_of(&s.in[i]) + 1);
        store(&s.in[i], numbers[i], counts[i]);
        lk_call_data(s.call, s.name[i], s.in[i].data);
    }
    s.outputs = lk_call_outputs(s.call);
    for (int i = 0; i < s.outputs; i++) {
        lk_tensor t;
        lk_call_output(s.call, i, &t);
        s.out[i] = calloc(1, bytes_of(&t) + 1);
        lk_call_bind(s.call, i, s.out[i]);
    }
    if (lk_call_plan(s.call, &error) != LK_OK)
        fail_msg("%s: %s", is->name, error.text);
    void *scratch = aligned_alloc(64, (lk_call_scratch(s.call) + 127) / 64 * 64);
    do
        lk_call_run(s.call, 0, lk_call_blocks(s.call), scratch);
    while (lk_call_next(s.call));
    free(scratch);
    assert_int_equal(lk_call_finish(s.call, &error), LK_OK);
    return s;
}

static void free_sample(sample *s)
{
    for (int i = 0; i < s->inputs; i++)
        free(s->in[i].data);
    for (int i = 0; i < s->outputs; i++)
        free(s->out[i]);
    json_decref(s->example);
    lk_call_free(s->call);
}

/* Bodies, written without the code under test. */

static double element(const lk_tensor *t, int64_t i)
{
    const char *from = (const char *)t->data + i * (int64_t)lk_dtype_size(t->dtype);
    double wide;
    float single;
    int64_t whole;
    int32_t narrow;
    uint16_t half;
    switch (t->dtype) {
    case LK_F64:
        memcpy(&wide, from, sizeof wide);
        return wide;
    case LK_F32:
        memcpy(&single, from, sizeof single);
        return (double)single;
    case LK_I64:
        memcpy(&whole, from, sizeof whole);
        return (double)whole;
    case LK_I32:
        memcpy(&narrow, from, sizeof narrow);
        return narrow;
    case LK_U8:
    case LK_BOOL:
        return *from;
    default:
        memcpy(&half, from, sizeof half);
        if (t->dtype == LK_BF16) {
            uint32_t bits = (uint32_t)half << 16;
            memcpy(&single, &bits, sizeof bits);
            return (double)single;
        }
        int exponent = half >> 10 & 31, fraction = half & 1023;
        double size =
            exponent ? (1024 + fraction) * (double)(1ll << exponent) * 0x1p-25 : fraction * 0x1p-24;
        return half & 0x8000 ? -size : size;
    }
}

static void write_json(const sample *s, buffer *b)
{
    buffer_text(b, "{\"inputs\":{");
    for (int i = 0; i < s->inputs; i++) {
        const lk_tensor *t = &s->in[i];
        buffer_printf(b, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", s->name[i],
                      lk_dtype_name(t->dtype));
        for (int axis = 0; axis < t->rank; axis++)
            buffer_printf(b, "%s%" PRId64, axis ? "," : "", t->shape[axis]);
        buffer_text(b, "],\"data\":[");
        for (int64_t k = 0; k < lk_tensor_count(t); k++)
            buffer_printf(b, "%s%.17g", k ? "," : "", element(t, k));
        buffer_text(b, "]}");
    }
    buffer_text(b, "}");
    if (s->options) {
        char *options = json_dumps(s->options, JSON_COMPACT);
        buffer_printf(b, ",\"options\":%s", options);
        free(options);
    }
    buffer_text(b, "}");
}

static void write_safetensors(const sample *s, buffer *b)
{
    size_t at = 0;
    const char *name;
    json_t *value;
    static const char *const words[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"};
    buffer header = buffer_new(1 << 16);
    buffer_text(&header, "{\"__metadata__\":{\"format\":\"pt\"");
    json_object_foreach(s->options, name, value)
    {
        char *text = json_is_string(value) ? strdup(json_string_value(value))
                                           : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        const size_t bracket = json_is_array(value);
        buffer_printf(&header, ",\"%s\":\"%.*s\"", name, (int)(strlen(text) - 2 * bracket),
                      text + bracket);
        free(text);
    }
    buffer_text(&header, "}");
    for (int i = 0; i < s->inputs; i++) {
        const lk_tensor *t = &s->in[i];
        buffer_printf(&header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", s->name[i],
                      words[t->dtype]);
        for (int axis = 0; axis < t->rank; axis++)
            buffer_printf(&header, "%s%" PRId64, axis ? "," : "", t->shape[axis]);
        buffer_printf(&header, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes_of(t));
        at += bytes_of(t);
    }
    buffer_text(&header, "}");
    for (int i = 0; i < 8; i++) {
        char byte = (char)(header.size >> (8 * i) & 0xff);
        buffer_append(b, &byte, 1);
    }
    buffer_append(b, header.data, header.size);
    for (int i = 0; i < s->inputs; i++)
        buffer_append(b, s->in[i].data, bytes_of(&s->in[i]));
    buffer_free(&header);
}

/* Replies, read without the code under test. */

static void compare_safetensors(const sample *s, const char *reply, size_t size)
{
    uint64_t length = 0;
    assert_true(size >= 8);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | (unsigned char)reply[i];
    json_t *header = json_loadb(reply + 8, length, 0, NULL);
    assert_non_null(header);
    for (int i = 0; i < s->outputs; i++) {
        lk_tensor t;
        const char *name = lk_call_output(s->call, i, &t);
        json_t *offsets = json_object_get(json_object_get(header, name), "data_offsets");
        size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        size_t end = (size_t)json_integer_value(json_array_get(offsets, 1));
        assert_int_equal(end - begin, bytes_of(&t));
        assert_memory_equal(reply + 8 + length + begin, s->out[i], bytes_of(&t));
    }
    assert_int_equal(json_object_size(header), s->outputs + 1);
    json_decref(header);
}

static void compare_json(const sample *s, const char *reply)
{
    const char *at = strstr(reply, "\"outputs\":{");
    assert_non_null(at);
    for (int i = 0; i < s->outputs; i++) {
        lk_tensor t;
        char key[64], bits[16] = {0};
        snprintf(key, sizeof key, "\"%s\":", lk_call_output(s->call, i, &t));
        at = strstr(at, key); /* in the order asked for */
        assert_non_null(at);
        at += strlen(key);
        for (int64_t k = 0; k < lk_tensor_count(&t); k++) {
            char *end;
            at += strspn(at, "[], ");
            double x = strtod(at, &end);
            assert_ptr_not_equal(at, end);
            at = end;
            lk_tensor one = {.data = bits, .dtype = t.dtype};
            store(&one, &x, 1);
            size_t width = lk_dtype_size(t.dtype);
            assert_memory_equal(bits, (char *)s->out[i] + (size_t)k * width, width);
        }
    }
}

static void round_trip(const sample *s, const wire *in, const wire *out, int shards)
{
    problem p = {0};
    buffer body = buffer_new(1 << 20), reply = buffer_new(1 << 20);
    if (in == &wire_json)
        write_json(s, &body);
    else
        write_safetensors(s, &body);
    assert_false(body.failed);
    /* A copy of the exact size, so that a sanitizer sees a step outside. */
    char *exact = malloc(body.size);
    memcpy(exact, body.data, body.size);
    evaluation *e = evaluation_new(s->loss, in, out, (span){exact, body.size});
    if (!evaluation_open(e, "", shards, &p) || !evaluation_fill(e, &p))
        fail_msg("%s by %s: %s", lk_loss_describe(s->loss)->name, in->name, p.detail);
    do
        for (int i = 0; i < e->shards; i++)
            evaluation_run(e, e->shards - 1 - i);
    while (evaluation_next(e));
    assert_true(evaluation_close(e, &p));
    assert_true(e->need >= e->arena_used + e->text.size);
    for (int i = 0; i < e->pieces; i++)
        buffer_append(&reply, e->piece[i].data, e->piece[i].size);
    if (out == &wire_json) {
        buffer_append(&reply, "", 1);
        compare_json(s, reply.data);
    } else {
        compare_safetensors(s, reply.data, reply.size);
    }
    evaluation_free(e);
    free(exact);
    buffer_free(&body);
    buffer_free(&reply);
}

static void test_round_trips(void **state)
{
    int trips = 0;
    (void)state;
    for (int i = 0; i < lk_loss_count(); i++) {
        if (lk_loss_describe(lk_loss_at(i))->traits & LK_DYNAMIC)
            continue;
        for (int element_type = LK_F64; element_type <= LK_BF16; element_type++) {
            sample s = make_sample(lk_loss_at(i), (lk_dtype)element_type);
            for (const wire *const *in = wires; *in; in++)
                for (const wire *const *out = wires; *out; out++, trips++)
                    round_trip(&s, *in, *out, 1 + trips % 3);
            free_sample(&s);
        }
    }
    print_message("%d round trips of %d losses\n", trips, lk_loss_count());
}

/* Every truncation and every changed byte of a good body: an answer or a clean problem. */
static void evaluate_any(const lk_loss *loss, const wire *w, const char *body, size_t size)
{
    problem p = {0};
    char *exact = malloc(size ? size : 1);
    memcpy(exact, body, size);
    evaluation *e = evaluation_new(loss, w, &wire_json, (span){exact, size});
    bool ok = evaluation_open(e, "", 2, &p) && e->need < 1 << 24 && evaluation_fill(e, &p);
    if (ok) {
        for (int i = 0; i < e->shards; i++)
            evaluation_run(e, i);
        ok = evaluation_close(e, &p);
    }
    assert_true(ok || p.status == 0 || (p.status >= 400 && p.status < 500));
    evaluation_free(e);
    free(exact);
}

static void test_broken_bodies(void **state)
{
    sample s = make_sample(lk_loss_find("cross_entropy"), LK_F32);
    (void)state;
    for (const wire *const *w = wires; *w; w++) {
        buffer body = buffer_new(1 << 20);
        if (*w == &wire_json)
            write_json(&s, &body);
        else
            write_safetensors(&s, &body);
        for (size_t size = 0; size < body.size; size++)
            evaluate_any(s.loss, *w, body.data, size);
        for (size_t at = 0; at < body.size; at++) {
            char was = body.data[at];
            static const char others[] = "\0\xff 0-,[]{}\":eN9\\";
            for (size_t k = 0; k < sizeof others - 1; k++) {
                body.data[at] = others[k];
                evaluate_any(s.loss, *w, body.data, body.size);
            }
            body.data[at] = was;
        }
        buffer_free(&body);
    }
    free_sample(&s);
}

static void test_unknown_loss(void **state)
{
    problem p = {0};
    (void)state;
    assert_null(evaluation_loss("cross_entropi", &p));
    assert_int_equal(p.status, 404);
    assert_non_null(strstr(p.detail, "cross_entropy"));
    assert_null(evaluation_loss("", &p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_broken_bodies),
        cmocka_unit_test(test_unknown_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
