/* SPDX-License-Identifier: MIT
 *
 * Selecting the body format of a request: by media types, by the bytes of a file, by its number.
 */
#include "tests/help.h"

#include "wire/wires.h"

static const char *name_of(const wire *w)
{
    return w ? w->name : "none";
}

static void content_types(void **unused)
{
    (void)unused;
    static const char *const cases[][2] = {
        {NULL, "json"},
        {"", "json"},
        {"  ", "json"},
        {";charset=utf-8", "json"},
        {"application/json", "json"},
        {"Application/JSON", "json"},
        {" application/json", "json"},
        {"application/json; charset=utf-8", "json"},
        {"application/json;charset=\"utf-8\"", "json"},
        {"application/json ;a=b", "json"},
        {"application/x-www-form-urlencoded", "json"},
        {"application/x-safetensors", "safetensors"},
        {"APPLICATION/OCTET-STREAM", "safetensors"},
        {"application/octet-stream; x=y", "safetensors"},
        {"application/jsonp", "none"},
        {"application/jso", "none"},
        {"application/", "none"},
        {"text/plain", "none"},
        {"*/*", "none"},
        {"json", "none"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = name_of(wire_of_content(cases[i][0]));
        if (strcmp(got, cases[i][1]) != 0)
            fail_msg("Content-Type: %s is %s, not %s", cases[i][0], got, cases[i][1]);
    }
}

/* The formats that an Accept header selects for a JSON body and for a safetensors body. */
static void accepts(void **unused)
{
    (void)unused;
    static const char *const cases[][3] = {
        {NULL, "json", "safetensors"},
        {"", "json", "safetensors"},
        {" , ", "json", "safetensors"},
        {"*/*", "json", "safetensors"},
        {"*/*;q=0.1", "json", "safetensors"},
        {"application/*", "json", "safetensors"},
        {"application/json", "json", "json"},
        {"APPLICATION/JSON", "json", "json"},
        {"application/json;charset=utf-8", "json", "json"},
        {"application/json ; q=0.5", "json", "json"},
        {"application/x-safetensors", "safetensors", "safetensors"},
        {"application/octet-stream", "safetensors", "safetensors"},
        {"text/html", "none", "none"},
        {"text/*", "none", "none"},
        {"*/json", "none", "none"},
        {"*", "none", "none"},
        {"text/html, application/json", "json", "json"},
        {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "json", "safetensors"},
        {"application/json, application/x-safetensors;q=0.5", "json", "json"},
        {"application/json;q=0.4, application/x-safetensors;q=0.5", "safetensors", "safetensors"},
        {"application/json;q=0.5,application/x-safetensors;q=0.5", "json", "safetensors"},
        {"application/x-safetensors, */*;q=0.1", "safetensors", "safetensors"},
        {"*/*, application/x-safetensors", "safetensors", "safetensors"},
        {"application/json, */*", "json", "json"},
        /* A specific type takes precedence over a wildcard, whatever the order. */
        {"application/json;q=0, */*", "safetensors", "safetensors"},
        {"*/*, application/json;q=0", "safetensors", "safetensors"},
        {"application/*;q=0.9, application/x-safetensors;q=0", "json", "json"},
        {"*/*, application/json;q=0.1", "safetensors", "safetensors"},
        {"application/*;q=0, */*", "none", "none"},
        {"application/json;q=0", "none", "none"},
        {"application/json;q=0.0, application/x-safetensors;q=0.000", "none", "none"},
        {"*/*;q=0", "none", "none"},
        {"application/json;Q=0", "none", "none"},
        {"application/json; x=\"a\"; q=0", "none", "none"},
        {"application/json;q=0.001", "json", "json"},
        /* An invalid quality counts as 1, and does not extend into the next element. */
        {"application/json;q=", "json", "json"},
        {"application/json;q=high", "json", "json"},
        {"application/json;q=7", "json", "json"},
        {"application/json;q=-1", "json", "json"},
        {"application/json;q=nan", "json", "json"},
        {"application/json;q=,application/x-safetensors;q=0", "json", "json"},
        {"application/json;,text/html", "json", "json"},
        {"application/json;", "json", "json"},
        {"application/json;q", "json", "json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = cases[i][0] ? exactly(cases[i][0], strlen(cases[i][0]) + 1) : NULL;
        const wire *const same[] = {&wire_json, &wire_safetensors};
        for (int k = 0; k < 2; k++) {
            const char *got = name_of(wire_of_accept(text, same[k]));
            if (strcmp(got, cases[i][1 + k]) != 0)
                fail_msg("Accept: %s with a body of %s is %s, not %s", text, same[k]->name, got,
                         cases[i][1 + k]);
        }
        free(text);
    }
}

static void bodies_in_files(void **unused)
{
    (void)unused;
    static const char file[] = "\x10\0\0\0\0\0\0\0{\"a\":1}         ";
    for (size_t n = 0; n < sizeof file; n++) {
        char *copy = exactly(file, n);
        const wire *w = wire_of_bytes((span){copy, n});
        assert_ptr_equal(w, n >= 24 ? &wire_safetensors : &wire_json);
        free(copy);
    }
    assert_ptr_equal(wire_of_bytes((span){" {\"inputs\":{}}", 14}), &wire_json);
}

/* Every wire has a place, and the name that is found there. */
static void places(void **unused)
{
    (void)unused;
    int count = 0;
    for (; wires[count]; count++) {
        assert_int_equal(wire_place(wires[count]), count);
        assert_string_equal(wire_name(count), wires[count]->name);
    }
    assert_int_equal(wire_place(NULL), count);
    assert_string_equal(wire_name(count), "none");
    assert_string_equal(wire_name(-1), "none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(content_types),
        cmocka_unit_test(accepts),
        cmocka_unit_test(bodies_in_files),
        cmocka_unit_test(places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
