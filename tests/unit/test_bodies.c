/* SPDX-License-Identifier: MIT
 *
 * Invalid bodies: whatever the bytes, the result is a reply or a problem that blames the client,
 * and no byte beyond the end of the body is read.
 */
#include "tests/request/request.h"

#include <jansson.h>

static bool try_body(const lk_loss *loss, const wire *in, const void *body, size_t size, outcome *o)
{
    const wire *out = size % 2 ? &wire_json : &wire_safetensors;
    bool ok = serve_body(loss, in, out, body, size, "", 1, o);
    const int status = o->problem.status;
    bool blamed = status == 400 || status == 413 || status == 422;
    if (ok ? status != 0 : !blamed || !o->problem.code || !o->problem.detail[0])
        fail_msg("%s of %zu bytes: status %d, %s: %s; %.*s", in->name, size, status,
                 o->problem.code ? o->problem.code : "", o->problem.detail, (int)size,
                 (const char *)body);
    return ok;
}

static void expect(const char *body, const char *code)
{
    outcome o;
    bool ok = try_body(lk_loss_find("huber"), &wire_json, body, strlen(body), &o);
    const char *got = ok ? "fine" : o.problem.code;
    if (strcmp(got, code) != 0)
        fail_msg("%s: %s, not %s: %s", body, got, code, o.problem.detail);
    outcome_free(&o);
}

static void json_bodies(void **unused)
{
    (void)unused;
    static const struct {
        const char *code, *body;
    } cases[] = {
        {"malformed_body", ""},
        {"malformed_body", " "},
        {"malformed_body", "{"},
        {"malformed_body", "[]"},
        {"malformed_body", "null"},
        {"missing_input", "{}"},
        {"missing_input", " { } "},
        {"malformed_body", "{}{}"},
        {"malformed_body", "{} x"},
        {"malformed_body", "{,}"},
        {"malformed_body", "{\"a\\"},
        {"malformed_body", "{\"\\u12\":1}"},
        {"malformed_body", "{\"inputs\\"},
        {"malformed_body", "{\"input\":{}}"},
        {"malformed_body", "{\"inputs\":[]}"},
        {"malformed_body", "{\"inputs\":{\"a\":\"1\",\"b\":1}}"},
        {"malformed_body", "{\"inputs\":{\"a\":null,\"b\":1}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[\"1\"],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[[1],[null]],\"b\":1}}"},
        {"dtype_unsupported", "{\"inputs\":{\"a\":[true],\"b\":[1]}}"},
        {"dtype_unsupported", "{\"inputs\":{\"a\":[1,true],\"b\":[1,1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[1,],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[1 2],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[,1],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[01],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[+1],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[.5],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[1.],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[1e],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[-],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[Inf],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[-NaN],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[nan],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[0x1],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[1}},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[1]],\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[1]\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":[1],\"b\":[1],}}"},
        {"malformed_body", "{\"inputs\":{\"a\":1,\"b\":1},}"},
        {"fine", "{\"inputs\":{\"a\":[1],\"b\":[1]}}"},
        {"fine", "{\"inputs\":{\"a\":1,\"b\":1}}"},
        {"fine", "{\"inputs\":{\"a\":[],\"b\":[]}}"},
        {"fine", "{\"inputs\":{\"\\u0061\":[1e400],\"b\":[-1e-400]}}"},
        {"fine", "{\"inputs\":{\"a\":[NaN,Infinity,-Infinity],\"b\":[1,2,3]}}"},
        {"fine", "\t{ \"inputs\" :\n{ \"a\" : [ 1 , 2 ] ,\r\"b\" : [ 1 , 2 ] } }\n"},
        {"duplicate_name", "{\"inputs\":{\"a\":[1],\"\\u0061\":[1]}}"},
        {"unknown_input", "{\"inputs\":{\"a\":[1],\"b\":[1],\"c\":[1]}}"},
        {"unknown_input", "{\"inputs\":{\"\":[1]}}"},
        {"missing_input", "{\"inputs\":{\"a\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":[[1,2],[3]],\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":[[1,2],3],\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":[1,[2]],\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":[[],[1]],\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":[[1],[]],\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":[[[]],[]],\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":[[],[[]]],\"b\":[1]}}"},
        {"fine", "{\"inputs\":{\"a\":[[[[[[[[1]]]]]]]],\"b\":[[[[[[[[1]]]]]]]]}}"},
        {"too_large", "{\"inputs\":{\"a\":[[[[[[[[[1]]]]]]]]],\"b\":1}}"},
        {"shape_mismatch", "{\"inputs\":{\"a\":[1,2],\"b\":[1]}}"},
        {"rank_mismatch", "{\"inputs\":{\"a\":[1,2],\"b\":1}}"},
        /* Objects. */
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[2],\"data\":[1,2]},\"b\":[1,2]}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[],\"data\":[1]},\"b\":1}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[1,2],\"data\":[[1,2]]},\"b\":[[1,2]]}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[0,3],\"data\":[]},"
                 "\"b\":{\"shape\":[0,3],\"data\":[]}}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAAA==\"},\"b\":[1]}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAAA\"},\"b\":[1]}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"\\/\\/\\/\\/AA\"},\"b\":[1]}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[0],\"base64\":\"\"},\"b\":[]}}"},
        {"fine",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAAA\\u003d\\u003D\"},\"b\":[1]}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAAA=\\u003d\"},\"b\":[1]}}"},
        {"fine", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAAA\\u003d=\"},\"b\":[1]}}"},
        {"fine",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"\\u0041AA\\u0041AA\"},\"b\":[1]}}"},
        {"fine",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"b\\u0061se64\":\"\\u002b\\u002fAAAA\"},\"b\":[1]}}"},
        {"ragged_tensor",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAA\\u003d\\u003d\"},\"b\":[1]}}"},
        {"malformed_body",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAA\\u00e9\"},\"b\":[1]}}"},
        {"malformed_body",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAA\\n\"},\"b\":[1]}}"},
        {"malformed_body",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAA\\u0000\"},\"b\":[1]}}"},
        {"malformed_body",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAA\\u00\"},\"b\":[1]}}"},
        {"malformed_body",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AA=\\u003dAA\"},\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":{\"shape\":[2],\"data\":[1]},\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":{\"shape\":[2],\"data\":[[1,2]]},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[1],\"data\":1},\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAA\"},\"b\":[1]}}"},
        {"ragged_tensor", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAAAAA\"},\"b\":[1]}}"},
        /* Refused before memory for 10^9 elements is allocated. */
        {"ragged_tensor", "{\"inputs\":{\"a\":{\"shape\":[1000000000],\"base64\":\"AAAA\"},"
                          "\"b\":{\"shape\":[1000000000],\"base64\":\"AAAA\"}}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAA AA\"},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAA-\"},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AA==AA\"},\"b\":[1]}}"},
        {"ragged_tensor",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAAA=\\u003d\\u003d\"},\"b\":[1]}}"},
        {"ragged_tensor",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":\"AAAAAA======\"},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"dtype\":\"f16\",\"shape\":[3],\"base64\":"
                           "\"AAAAAAAAA\"},\"b\":[1,2,3]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[1],\"base64\":1},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[1]},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"data\":[1]},\"b\":[1]}}"},
        {"malformed_body",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"data\":[1],\"base64\":\"\"},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[1],\"data\":[1],\"x\":1},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":1,\"data\":[1]},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[[1]],\"data\":[1]},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[1.0],\"data\":[1]},\"b\":[1]}}"},
        {"malformed_body", "{\"inputs\":{\"a\":{\"shape\":[-1],\"data\":[1]},\"b\":[1]}}"},
        {"malformed_body",
         "{\"inputs\":{\"a\":{\"shape\":[99999999999999999999],\"data\":[1]},\"b\":[1]}}"},
        {"too_large", "{\"inputs\":{\"a\":{\"shape\":[4294967296,4294967296],\"data\":[1]},"
                      "\"b\":[1]}}"},
        {"too_large",
         "{\"inputs\":{\"a\":{\"shape\":[1,1,1,1,1,1,1,1,1],\"data\":[1]},\"b\":[1]}}"},
        {"duplicate_name",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"shape\":[1],\"data\":[1]},\"b\":[1]}}"},
        {"dtype_unsupported",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"data\":[1],\"dtype\":\"F32\"},\"b\":[1]}}"},
        {"dtype_unsupported",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"data\":[1],\"dtype\":\"i64\"},\"b\":[1]}}"},
        {"dtype_unsupported", "{\"inputs\":{\"a\":{\"shape\":[1],\"data\":[1],\"dtype\":\"f16\"},"
                              "\"b\":{\"shape\":[1],\"data\":[1],\"dtype\":\"bf16\"}}}"},
        {"malformed_body",
         "{\"inputs\":{\"a\":{\"shape\":[1],\"data\":[1],\"dtype\":1},\"b\":[1]}}"},
        /* Options and outputs. */
        {"malformed_body", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":[]}"},
        {"malformed_body", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{]}}"},
        {"option_invalid", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"delta\":[1]}}"},
        {"option_invalid", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"delta\":true}}"},
        {"option_invalid", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"delta\":null}}"},
        {"fine", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"num_items\":null}}"},
        {"fine", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"delta\":\"2e0\"}}"},
        {"fine", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"delta\":1e300}}"},
        {"option_invalid", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"reduction\":1}}"},
        {"option_invalid", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"reduction\":\"\"}}"},
        {"unknown_option", "{\"inputs\":{\"a\":1,\"b\":1},\"options\":{\"x\":1}}"},
        {"malformed_body", "{\"inputs\":{\"a\":1,\"b\":1},\"outputs\":\"loss\"}"},
        {"malformed_body", "{\"inputs\":{\"a\":1,\"b\":1},\"outputs\":[1]}"},
        {"unknown_output", "{\"inputs\":{\"a\":1,\"b\":1},\"outputs\":[\"x\"]}"},
        {"unknown_output", "{\"inputs\":{\"a\":1,\"b\":1},\"outputs\":[\"grad.x\"]}"},
        {"unknown_output", "{\"inputs\":{\"a\":1,\"b\":1},\"outputs\":[\"grad.\"]}"},
        {"fine", "{\"inputs\":{\"a\":1,\"b\":1},\"outputs\":[]}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(cases[i].body, cases[i].code);
}

/* Integers and masks: values that do not fit are refused in every format, never truncated. */
static void json_integers(void **unused)
{
    (void)unused;
    static const struct {
        const char *code, *targets;
    } cases[] = {
        {"fine", "[1]"},
        {"fine", "[-100]"},
        {"target_out_of_range", "[3]"},
        {"dtype_unsupported", "[1.0]"},
        {"dtype_unsupported", "[1e0]"},
        {"dtype_unsupported", "[NaN]"},
        {"dtype_unsupported", "[true]"},
        {"malformed_body", "[0x1]"},
        {"value_out_of_range", "[9223372036854775808]"},
        {"value_out_of_range", "{\"shape\":[1],\"data\":[4294967297],\"dtype\":\"i32\"}"},
        {"value_out_of_range", "{\"shape\":[1],\"data\":[-2147483649],\"dtype\":\"i32\"}"},
        {"target_out_of_range", "{\"shape\":[1],\"data\":[-2147483648],\"dtype\":\"i32\"}"},
        {"fine", "{\"shape\":[1],\"data\":[2],\"dtype\":\"i32\"}"},
        {"fine", "{\"shape\":[1],\"data\":[1],\"dtype\":\"u8\"}"},
        {"target_out_of_range", "{\"shape\":[1],\"data\":[3],\"dtype\":\"u8\"}"},
        {"fine", "[1],\"mask\":[true]"},
        {"fine", "[1],\"mask\":[0]"},
        {"fine", "[7],\"mask\":[false]"},
        {"value_out_of_range", "[1],\"mask\":[2]"},
        {"value_out_of_range", "[1],\"mask\":[-1]"},
        {"malformed_body", "[1],\"mask\":[truely]"},
        {"malformed_body", "[1],\"mask\":[1.0]"},
        {"malformed_body", "[1],\"mask\":[t]"},
        {"fine", "[1],\"mask\":{\"shape\":[1],\"data\":[255],\"dtype\":\"u8\"}"},
        {"value_out_of_range", "[1],\"mask\":{\"shape\":[1],\"data\":[256],\"dtype\":\"u8\"}"},
        {"dtype_unsupported", "[1],\"mask\":{\"shape\":[1],\"data\":[1],\"dtype\":\"i64\"}"},
        {"weight_invalid", "[1],\"sample_weight\":[-Infinity]"},
        {"weight_invalid", "[1],\"class_weight\":[1,NaN,1]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o;
        bytes body = {0};
        say(&body, "{\"inputs\":{\"logits\":[[1,2,3]],\"targets\":%s}}", cases[i].targets);
        bool ok = try_body(lk_loss_find("cross_entropy"), &wire_json, body.data, body.size, &o);
        if (strcmp(ok ? "fine" : o.problem.code, cases[i].code) != 0)
            fail_msg("targets %s: %s, not %s: %s", cases[i].targets, ok ? "fine" : o.problem.code,
                     cases[i].code, o.problem.detail);
        outcome_free(&o);
        free(body.data);
    }
}

/* An error names the input and the index of the element. */
static void json_places(void **unused)
{
    (void)unused;
    outcome o;
    const char *body = "{\"inputs\":{\"a\":[[1,2,3,4,5],[1,2,3,4,5],[1,2,3,4,5],[1,2,3,4]]}}";
    assert_false(try_body(lk_loss_find("huber"), &wire_json, body, strlen(body), &o));
    assert_string_equal(o.problem.detail, "inputs.a[3]: 4 values, row 0 has 5");
    assert_string_equal(o.problem.input, "a");
    assert_int_equal(o.problem.rank, 1);
    assert_int_equal(o.problem.index[0], 3);
    body = "{\"inputs\":{\"a\":[[1,2],[1,x]]}}";
    assert_false(try_body(lk_loss_find("huber"), &wire_json, body, strlen(body), &o));
    assert_non_null(strstr(o.problem.detail, "inputs.a[1][1]"));
    body = "{\"inputs\":{\"a\":[[1,2],[1,Nan]],\"b\":[[1,2],[3,4]]}}";
    assert_false(try_body(lk_loss_find("huber"), &wire_json, body, strlen(body), &o));
    assert_non_null(strstr(o.problem.detail, "inputs.a[1][1] is Nan"));
    assert_int_equal(o.problem.rank, 2);
    assert_int_equal(o.problem.index[0], 1);
    assert_int_equal(o.problem.index[1], 1);
}

/* More tensors than allowed, all of them unknown. */
static void many_tensors(void **unused)
{
    (void)unused;
    outcome o;
    bytes body = {0}, header = {0};
    say(&body, "{\"inputs\":{\"a\":1,\"b\":1");
    for (int i = 0; i < 100; i++)
        say(&body, ",\"t%d\":1", i);
    say(&body, "}}");
    assert_false(try_body(lk_loss_find("huber"), &wire_json, body.data, body.size, &o));
    assert_string_equal(o.problem.code, "unknown_input");
    free(body.data);
    body = (bytes){0};
    say(&header, "{");
    for (int i = 0; i < 65; i++)
        say(&header, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
            i ? "," : "", i, i, i + 1);
    say(&header, "}");
    char length[8] = {(char)(header.size & 0xff), (char)(header.size >> 8)};
    put(&body, length, 8);
    put(&body, header.data, header.size);
    put(&body, header.data, 65);
    assert_false(try_body(lk_loss_find("huber"), &wire_safetensors, body.data, body.size, &o));
    assert_int_equal(o.problem.status, 413);
    free(body.data);
    free(header.data);
}

static void expect_safetensors(const char *code, const char *header, size_t data)
{
    outcome o;
    bytes body = {0};
    char length[8] = {(char)(strlen(header) & 0xff), (char)(strlen(header) >> 8)};
    put(&body, length, 8);
    put(&body, header, strlen(header));
    for (size_t i = 0; i < data; i++)
        put(&body, "", 1);
    bool ok = try_body(lk_loss_find("huber"), &wire_safetensors, body.data, body.size, &o);
    if (strcmp(ok ? "fine" : o.problem.code, code) != 0)
        fail_msg("%s + %zu: %s, not %s: %s", header, data, ok ? "fine" : o.problem.code, code,
                 o.problem.detail);
    outcome_free(&o);
    free(body.data);
}

#define F32_AT(name, shape, from, to)                                                              \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" from "," to "]}"

static void safetensors_bodies(void **unused)
{
    (void)unused;
    static const struct {
        const char *code, *header;
        size_t data;
    } cases[] = {
        {"fine", "{" F32_AT("a", "1", "0", "4") "," F32_AT("b", "1", "4", "8") "}", 8},
        {"fine", " \n{" F32_AT("b", "1", "4", "8") "," F32_AT("a", "1", "0", "4") "}  ", 8},
        {"fine", "{" F32_AT("a", "", "0", "4") "," F32_AT("b", "", "4", "8") "}", 8},
        {"fine", "{" F32_AT("a", "0,3", "0", "0") "," F32_AT("b", "0,3", "0", "0") "}", 0},
        {"fine",
         "{\"__metadata__\":{\"format\":\"pt\",\"delta\":\"2\",\"outputs\":\"loss\"}," F32_AT(
             "a", "1", "0", "4") "," F32_AT("b", "1", "4", "8") "}",
         8},
        {"missing_input", "{}", 0},
        {"missing_input", "{\"__metadata__\":{}}", 0},
        {"malformed_body", "", 0},
        {"malformed_body", "[]", 0},
        {"malformed_body", "{", 0},
        {"malformed_body", "{}x", 0},
        {"malformed_body", "{\"\xff\":1}", 0},
        {"malformed_body", "{}", 1},
        {"malformed_body", "{\"a\":1}", 0},
        {"malformed_body", "{\"a\":{}}", 0},
        {"malformed_body", "{\"__metadata__\":[]}", 0},
        {"malformed_body", "{\"__metadata__\":{\"delta\":2}}", 0},
        {"missing_input",
         "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4},
        {"malformed_body", "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
        {"dtype_unsupported", "{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
         4},
        {"malformed_body", "{" F32_AT("a", "-1", "0", "4") "}", 4},
        {"malformed_body", "{" F32_AT("a", "1.0", "0", "4") "}", 4},
        {"malformed_body", "{" F32_AT("a", "1", "0.0", "4") "}", 4},
        {"malformed_body", "{" F32_AT("a", "1", "-4", "0") "}", 4},
        {"malformed_body", "{" F32_AT("a", "1", "4", "0") "}", 4},
        {"malformed_body", "{" F32_AT("a", "1", "0", "4,8") "}", 4},
        {"malformed_body", "{" F32_AT("a", "2", "0", "4") "}", 4},
        {"malformed_body", "{" F32_AT("a", "1", "4", "8") "}", 8},
        {"malformed_body", "{" F32_AT("a", "1", "0", "4") "," F32_AT("b", "1", "0", "4") "}", 4},
        {"malformed_body", "{" F32_AT("a", "1", "0", "4") "," F32_AT("b", "1", "2", "6") "}", 8},
        {"malformed_body", "{" F32_AT("a", "1", "0", "4") "," F32_AT("b", "1", "5", "9") "}", 9},
        {"malformed_body", "{" F32_AT("a", "1", "0", "4") "," F32_AT("b", "1", "4", "8") "}", 9},
        {"malformed_body", "{" F32_AT("a", "1", "0", "4") "," F32_AT("b", "1", "4", "8") "}", 7},
        {"malformed_body", "{" F32_AT("a", "4294967296,4294967296", "0", "0") "}", 0},
        {"malformed_body", "{" F32_AT("a", "9223372036854775807,0,2", "0", "8") "}", 8},
        {"malformed_body", "{" F32_AT("a", "9223372036854775808", "0", "8") "}", 8},
        {"malformed_body", "{" F32_AT("a", "1", "0", "18446744073709551616") "}", 8},
        {"too_large", "{" F32_AT("a", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4},
        {"duplicate_name", "{" F32_AT("a", "1", "0", "4") "," F32_AT("a", "1", "4", "8") "}", 8},
        {"unknown_input", "{" F32_AT("c", "1", "0", "4") "}", 4},
        {"duplicate_name", "{\"__metadata__\":{\"delta\":\"1\",\"delta\":\"1\"}}", 0},
        {"option_invalid", "{\"__metadata__\":{\"delta\":\"x\"}}", 0},
        {"unknown_option", "{\"__metadata__\":{\"x\":\"x\"}}", 0},
        {"unknown_output", "{\"__metadata__\":{\"outputs\":\"x\"}}", 0},
        {"duplicate_option", "{\"__metadata__\":{\"outputs\":\"loss,loss\"}}", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_safetensors(cases[i].code, cases[i].header, cases[i].data);
    /* Lengths that overflow in an unchecked comparison. */
    static const char *const lengths[] = {"\xff\xff\xff\xff\xff\xff\xff\xff",
                                          "\xf8\xff\xff\xff\xff\xff\xff\xff", "\0\0\0\0\0\0\0\x80",
                                          "\3\0\0\0\0\0\0\0"};
    for (int i = 0; i < 4; i++) {
        char body[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        outcome o;
        memcpy(body, lengths[i], 8);
        assert_false(try_body(lk_loss_find("huber"), &wire_safetensors, body, 10, &o));
        assert_string_equal(o.problem.code, "malformed_body");
    }
    /* The limit of the header, in a body that is as long as its header says. */
    const size_t size = 8 + 65537;
    char *large = malloc(size);
    assert_non_null(large);
    memset(large, ' ', size);
    memcpy(large, "\1\0\1\0\0\0\0\0{}", 10);
    outcome o;
    assert_false(try_body(lk_loss_find("huber"), &wire_safetensors, large, size, &o));
    assert_string_equal(o.problem.code, "malformed_body");
    memcpy(large, "\0\0\1\0\0\0\0\0{}", 10);
    assert_false(try_body(lk_loss_find("huber"), &wire_safetensors, large, size - 1, &o));
    assert_string_equal(o.problem.code, "missing_input");
    free(large);
}

/* Every prefix of a valid body. */
static void truncations(void **unused)
{
    (void)unused;
    FOR_EACH_DRAWN (l)
        for (int round = 0; round < 12; round++) {
            sample s = sample_new(lk_loss_at(l), round % 2 ? LK_F32 : LK_F16, 3,
                                  SAMPLE_OPTIONS | SAMPLE_OUTPUTS);
            const wire *w = every_wire[round / 2 % WIRES];
            bytes body = {0};
            say_body(&body, &s, w, IN_BODY);
            for (size_t n = 0; n < body.size; n++) {
                outcome o;
                if (try_body(s.loss, w, body.data, n, &o))
                    fail_msg("%s cut to %zu of %zu bytes was accepted: %s", w->name, n, body.size,
                             body.data);
            }
            free(body.data);
            sample_free(&s);
        }
}

/* The example of each description as a request. */
static void example_body(const lk_loss *loss, const wire *w, bytes *body)
{
    const char *example = lk_loss_describe(loss)->example;
    sample s = {.loss = loss, .element = LK_F32};
    problem p = {0};
    if (w == &wire_json) {
        put(body, example, strlen(example));
        return;
    }
    evaluation *e = evaluation_new(loss, &wire_json, &wire_json, (span){example, strlen(example)});
    assert_true(evaluation_open(e, "", 1, &p) && evaluation_fill(e, &p));
    for (int i = 0; i < e->sources; i++) {
        s.input[s.inputs++] =
            (request_input){e->source[i].name, *lk_call_tensor(e->call, e->source[i].name)};
    }
    json_t *tree = json_loads(example, 0, NULL), *value;
    const char *name;
    json_object_foreach(json_object_get(tree, "options"), name, value)
    {
        s.option[s.options].name = name;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        const size_t bracket = json_is_array(value);
        snprintf(s.option[s.options++].text, sizeof s.option[0].text, "%.*s",
                 (int)(strlen(text) - 2 * bracket), text + bracket);
        if (json_is_string(value))
            snprintf(s.option[s.options - 1].text, sizeof s.option[0].text, "%s",
                     json_string_value(value));
        free(text);
    }
    say_body(body, &s, w, IN_BODY);
    json_decref(tree);
    evaluation_free(e);
}

/* Every byte of a small body changed to every other, in turn; with many losses each takes its
 * share of the values. */
static void changed_bytes(void **unused)
{
    (void)unused;
    const unsigned step = 1 + (unsigned)lk_loss_count() / 4;
    FOR_EACH_DRAWN (l)
        for (int k = 0; k < WIRES; k++) {
            bytes body = {0};
            outcome o;
            example_body(lk_loss_at(l), every_wire[k], &body);
            if (!try_body(lk_loss_at(l), every_wire[k], body.data, body.size, &o))
                fail_msg("%s: %s", lk_loss_describe(lk_loss_at(l))->name, o.problem.detail);
            outcome_free(&o);
            for (size_t i = 0; i < body.size; i++) {
                const char kept = body.data[i];
                for (unsigned v = (unsigned)((i + (size_t)l) % step); v < 256; v += step) {
                    body.data[i] = (char)v;
                    (void)try_body(lk_loss_at(l), every_wire[k], body.data, body.size, &o);
                    outcome_free(&o);
                }
                body.data[i] = kept;
            }
            free(body.data);
        }
}

/* Several bytes removed, duplicated, or replaced by structural characters. */
static void mangled_bodies(void **unused)
{
    (void)unused;
    static const char structure[] = "[]{}\",:\\ 0-1.eN\0";
    FOR_EACH_DRAWN (l)
        for (int round = 0; round < 4000 / (1 + lk_loss_count() / 4); round++) {
            bytes body = {0}, mangled = {0};
            outcome o;
            example_body(lk_loss_at(l), every_wire[round % WIRES], &body);
            for (size_t i = 0; i < body.size; i++) {
                if (chance(0.01))
                    continue;
                put(&mangled, chance(0.01) ? structure + random_below(16) : body.data + i, 1);
                if (chance(0.01))
                    put(&mangled, body.data + random_below((int)body.size), 1);
            }
            (void)try_body(lk_loss_at(l), every_wire[round % WIRES], mangled.data, mangled.size,
                           &o);
            outcome_free(&o);
            free(body.data);
            free(mangled.data);
        }
}

/* Very deep nesting, in every place where the body is traversed. */
static void deep_bodies(void **unused)
{
    (void)unused;
    static const char *const starts[] = {"",
                                         "{\"inputs\":",
                                         "{\"inputs\":{\"a\":",
                                         "{\"options\":",
                                         "{\"outputs\":",
                                         "{\"options\":{\"x\":"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        for (int object = 0; object < 2; object++) {
            bytes body = {0};
            outcome o;
            put(&body, starts[i], strlen(starts[i]));
            for (int k = 0; k < 100000; k++)
                put(&body, object ? "{\"a\":" : "[", object ? 5 : 1);
            assert_false(try_body(lk_loss_find("huber"), &wire_json, body.data, body.size, &o));
            for (int k = 0; k < 100000; k++)
                put(&body, object ? "}" : "]", 1);
            put(&body, "}}}", (size_t)(starts[i][0] == '{') + (strchr(starts[i], 'a') != NULL));
            assert_false(try_body(lk_loss_find("huber"), &wire_json, body.data, body.size, &o));
            free(body.data);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_bodies),        cmocka_unit_test(json_integers),
        cmocka_unit_test(json_places),        cmocka_unit_test(many_tensors),
        cmocka_unit_test(safetensors_bodies), cmocka_unit_test(truncations),
        cmocka_unit_test(changed_bytes),      cmocka_unit_test(mangled_bodies),
        cmocka_unit_test(deep_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
