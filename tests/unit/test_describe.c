/* SPDX-License-Identifier: MIT
 *
 * Generated documents: each contains everything that the descriptions have, and is well-formed.
 */
#include "tests/request/request.h"

#include <jansson.h>

#include "catalogue/describe.h"
#include "catalogue/openapi.h"

static json_t *parsed(buffer *b)
{
    json_error_t error;
    assert_false(b->failed);
    json_t *tree = json_loadb(b->data, b->size, JSON_REJECT_DUPLICATES, &error);
    if (!tree)
        fail_msg("line %d: %s", error.line, error.text);
    buffer_free(b);
    return tree;
}

static const json_t *entry(const json_t *array, const char *name)
{
    size_t i;
    json_t *value;
    json_array_foreach((json_t *)(uintptr_t)array, i, value)
    {
        const char *is = json_string_value(json_object_get(value, "name"));
        assert_non_null(is);
        if (strcmp(is, name) == 0)
            return value;
    }
    fail_msg("there is no %s", name);
    return NULL;
}

static bool truth(const json_t *object, const char *key)
{
    assert_true(json_is_boolean(json_object_get(object, key)));
    return json_is_true(json_object_get(object, key));
}

static void same_text(const json_t *object, const char *key, const char *text)
{
    assert_string_equal(json_string_value(json_object_get(object, key)), text);
}

static void check_inputs(const json_t *array, const lk_description *is)
{
    size_t count = 0;
    for (const lk_input *in = is->inputs; in->name; in++, count++) {
        const json_t *o = entry(array, in->name), *forms = json_object_get(o, "forms");
        assert_int_equal(truth(o, "required"), !(in->flags & LK_OPTIONAL));
        assert_int_equal(truth(o, "differentiable"), (in->flags & LK_DIFFERENTIABLE) != 0);
        assert_int_equal(truth(o, "default_gradient"), (in->flags & LK_GRADIENT) != 0);
        assert_int_equal(truth(o, "in_place"), (in->flags & LK_ROW_LOCAL) != 0);
        same_text(o, "help", in->help);
        size_t shapes = 1;
        while (shapes < 3 && in->forms[shapes].shape)
            shapes++;
        assert_int_equal(json_array_size(forms), shapes);
        for (size_t f = 0; f < json_array_size(forms); f++) {
            const json_t *form = json_array_get(forms, f),
                         *dtypes = json_object_get(form, "dtypes");
            const char *shape = json_string_value(json_object_get(form, "shape"));
            assert_int_equal(json_array_size(dtypes), __builtin_popcount(in->forms[f].dtypes));
            assert_non_null(shape);
            assert_null(strchr(shape, '@'));
        }
        if (in->range)
            same_text(o, "range", in->range);
    }
    assert_int_equal(json_array_size(array), count);
}

static void check_options(const json_t *array, const lk_description *is)
{
    size_t count = 0;
    for (const lk_field *f = is->options; f->name; f++, count++) {
        const json_t *o = entry(array, f->name), *value = json_object_get(o, "default");
        same_text(o, "help", f->help);
        assert_int_equal(truth(o, "required"), !f->fallback);
        const bool off = !f->fallback || ((f->flags & LK_OFF) && strcmp(f->fallback, "off") == 0);
        assert_int_equal(off, f->fallback ? json_is_null(value) : !value);
        if (!off && f->type == LK_REAL)
            assert_true(json_number_value(value) == strtod(f->fallback, NULL));
        else if (!off && (f->type == LK_INTEGER || f->type == LK_UNSIGNED))
            assert_int_equal(json_integer_value(value), strtoll(f->fallback, NULL, 10));
        else if (!off && f->type == LK_CHOICE)
            assert_string_equal(json_string_value(value), f->fallback);
        else if (!off && (f->type == LK_LIST || f->type == LK_REALS || f->type == LK_CHOICES))
            assert_true(json_is_array(value));
        else if (!off)
            assert_int_equal(json_is_true(value), strcmp(f->fallback, "true") == 0);
        if ((f->flags & LK_RANGED) && isfinite(f->min))
            assert_true(json_number_value(json_object_get(
                            o, f->flags & LK_OPEN ? "greater_than" : "minimum")) == f->min);
        if ((f->flags & LK_RANGED) && isfinite(f->max))
            assert_true(json_number_value(json_object_get(
                            o, f->flags & LK_OPEN_END ? "less_than" : "maximum")) == f->max);
        assert_int_equal(json_object_get(o, "not") != NULL, (f->flags & LK_NONZERO) != 0);
        bytes choices = {0};
        put(&choices, "", 0);
        const json_t *list = json_object_get(o, "choices");
        for (size_t i = 0; i < json_array_size(list); i++)
            say(&choices, "%s%s", i ? "|" : "", json_string_value(json_array_get(list, i)));
        assert_string_equal(choices.data, f->choices ? f->choices : "");
        free(choices.data);
    }
    assert_int_equal(json_array_size(array), count);
}

static void check_outputs(const json_t *array, const lk_description *is)
{
    const bool loss = !(is->traits & LK_TRANSFORM);
    size_t count = loss;
    if (loss)
        assert_true(truth(entry(array, "loss"), "default"));
    for (const lk_input *in = is->inputs; in->name; in++) {
        if (!(in->flags & LK_DIFFERENTIABLE))
            continue;
        char name[64];
        snprintf(name, sizeof name, "grad.%s", in->name);
        assert_int_equal(truth(entry(array, name), "default"), (in->flags & LK_GRADIENT) != 0);
        count++;
    }
    for (const lk_output *out = is->outputs; out->name; out++, count++) {
        const json_t *o = entry(array, out->name);
        assert_int_equal(truth(o, "default"), (out->flags & LK_DEFAULT) != 0);
        same_text(o, "help", out->help);
        if (out->dtype != LK_ANY)
            same_text(o, "dtype", lk_dtype_name(out->dtype));
    }
    assert_int_equal(json_array_size(array), count);
}

static void check_description(const json_t *tree, const lk_description *is)
{
    same_text(tree, "name", is->name);
    same_text(tree, "title", is->title);
    same_text(tree, "formula", is->formula);
    if (is->tex)
        same_text(tree, "tex", is->tex);
    else
        assert_true(json_is_null(json_object_get(tree, "tex")));
    same_text(tree, "help", is->help);
    same_text(tree, "reference", is->reference);
    check_inputs(json_object_get(tree, "inputs"), is);
    check_options(json_object_get(tree, "options"), is);
    check_outputs(json_object_get(tree, "outputs"), is);
    json_t *example = json_loads(is->example, JSON_REJECT_DUPLICATES, NULL);
    assert_true(json_equal(example, json_object_get(tree, "example")));
    json_decref(example);
}

static void as_json(void **unused)
{
    (void)unused;
    buffer all = buffer_new(16 << 20);
    describe_json(NULL, &all);
    json_t *tree = parsed(&all), *losses = json_object_get(tree, "losses");
    assert_int_equal(json_array_size(losses), lk_loss_count());
    for (int i = 0; i < lk_loss_count(); i++) {
        buffer b = buffer_new(1 << 20);
        describe_json(lk_loss_at(i), &b);
        json_t *one = parsed(&b);
        check_description(one, lk_loss_describe(lk_loss_at(i)));
        assert_true(json_equal(one, json_array_get(losses, (size_t)i)));
        json_decref(one);
    }
    json_decref(tree);
}

/* Everything that has a name is mentioned. */
static void mentions(const char *text, const char *name, const char *before, const char *after)
{
    char words[128];
    snprintf(words, sizeof words, "%s%s%s", before, name, after);
    if (!strstr(text, words))
        fail_msg("\"%s\" is not mentioned", words);
}

static void mentions_all(const char *text, const lk_description *is, const char *before,
                         const char *after)
{
    for (const lk_input *in = is->inputs; in->name; in++)
        mentions(text, in->name, before, after);
    for (const lk_field *f = is->options; f->name; f++)
        mentions(text, f->name, before, after);
    for (const lk_output *out = is->outputs; out->name; out++)
        mentions(text, out->name, before, after);
    if (!(is->traits & LK_TRANSFORM))
        mentions(text, "loss", before, after);
    assert_null(strstr(text, "(null)"));
}

static void as_markdown(void **unused)
{
    (void)unused;
    buffer b = buffer_new(16 << 20);
    describe_markdown(&b);
    buffer_append(&b, "", 1);
    assert_false(b.failed);
    for (int i = 0; i < lk_loss_count(); i++) {
        const lk_description *is = lk_loss_describe(lk_loss_at(i));
        char heading[128];
        snprintf(heading, sizeof heading, "\n## %s\n", is->name);
        char *start = strstr(b.data, heading);
        assert_non_null(start);
        char *end = strstr(start + 1, "\n## ");
        if (end)
            *end = '\0';
        assert_non_null(strstr(start, is->title));
        assert_non_null(strstr(start, is->formula));
        assert_true(!is->tex || strstr(start, is->tex));
        assert_non_null(strstr(start, is->example));
        mentions_all(start, is, "| `", "`");
        /* Every row of a table has the same number of columns. */
        int bars = 0;
        for (char *line = start; line; line = strchr(line + 1, '\n')) {
            int here = 0;
            for (char *c = line + 1; *c && *c != '\n'; c++)
                here += *c == '|' && c[-1] != '\\';
            if (line[1] != '|')
                bars = 0;
            else if (bars && here != bars)
                fail_msg("a row of %d bars in a table of %d: %.80s", here, bars, line + 1);
            else
                bars = here;
        }
        if (end)
            *end = '\n';
    }
    buffer_free(&b);
}

static void as_text(void **unused)
{
    (void)unused;
    buffer all = buffer_new(1 << 20);
    describe_text(NULL, &all);
    buffer_append(&all, "", 1);
    for (int i = 0; i < lk_loss_count(); i++) {
        const lk_description *is = lk_loss_describe(lk_loss_at(i));
        buffer b = buffer_new(1 << 20);
        assert_non_null(strstr(all.data, is->name));
        describe_text(lk_loss_at(i), &b);
        buffer_append(&b, "", 1);
        assert_false(b.failed);
        mentions_all(b.data, is, "  ", " ");
        assert_non_null(strstr(b.data, is->example));
        buffer_free(&b);
    }
    buffer_free(&all);
}

/* OpenAPI. */

static const json_t *resolve(const json_t *root, const char *pointer)
{
    const json_t *at = root;
    assert_int_equal(strncmp(pointer, "#/", 2), 0);
    for (pointer += 2; at; pointer += *pointer == '/') {
        char key[128];
        size_t n = strcspn(pointer, "/");
        snprintf(key, sizeof key, "%.*s", (int)n, pointer);
        at = json_object_get(at, key);
        pointer += n;
        if (*pointer == '\0')
            break;
    }
    return at;
}

static int refs;

static void walk(const json_t *root, const json_t *value)
{
    size_t i;
    const char *key;
    json_t *child;
    if (json_is_array(value))
        json_array_foreach((json_t *)(uintptr_t)value, i, child) walk(root, child);
    if (json_is_object(value))
        json_object_foreach((json_t *)(uintptr_t)value, key, child)
        {
            if (strcmp(key, "$ref") == 0) {
                refs++;
                if (!resolve(root, json_string_value(child)))
                    fail_msg("%s leads nowhere", json_string_value(child));
            }
            walk(root, child);
        }
}

/* The object itself, or the target of its $ref. */
static json_t *followed(const json_t *root, json_t *value)
{
    json_t *ref = json_object_get(value, "$ref");
    return ref ? (json_t *)(uintptr_t)resolve(root, json_string_value(ref)) : value;
}

/* Every path with its methods, operation ids, responses and parameters. */
static void check_paths(const json_t *root, json_t *paths)
{
    const char *path, *verb;
    json_t *item, *operation, *ids = json_object();
    json_object_foreach(paths, path, item)
    {
        assert_int_equal(path[0], '/');
        json_object_foreach(item, verb, operation)
        {
            const char *id = json_string_value(json_object_get(operation, "operationId"));
            assert_true(strcmp(verb, "get") == 0 || strcmp(verb, "post") == 0 ||
                        strcmp(verb, "put") == 0 || strcmp(verb, "delete") == 0);
            assert_non_null(id);
            if (json_object_get(ids, id))
                fail_msg("two operations are %s", id);
            json_object_set_new(ids, id, json_true());
            json_t *responses = json_object_get(operation, "responses"), *response;
            const char *status;
            assert_non_null(
                json_object_get(responses, strcmp(verb, "delete") == 0 ? "204" : "200"));
            json_object_foreach(responses, status, response)
                assert_true(json_is_string(json_object_get(response, "description")));
            /* Each {name} of the path is a parameter. */
            size_t braces = 0, in_path = 0, i;
            json_t *parameter;
            for (const char *c = path; *c; c++)
                braces += *c == '{';
            json_array_foreach(json_object_get(operation, "parameters"), i, parameter)
            {
                parameter = followed(root, parameter);
                const char *in = json_string_value(json_object_get(parameter, "in"));
                in_path += strcmp(in, "path") == 0;
                assert_non_null(json_object_get(parameter, "schema"));
            }
            assert_int_equal(braces, in_path);
        }
    }
    json_decref(ids);
}

/* Defaults have the type that their schema says. */
static void check_default(const char *name, const json_t *schema)
{
    const json_t *value = json_object_get(schema, "default"),
                 *type = json_object_get(schema, "type");
    bool ok = !value;
    for (size_t i = 0; i < 2 && value; i++) {
        const char *word = json_is_array(type) ? json_string_value(json_array_get(type, i))
                                               : json_string_value(type);
        if (!word)
            continue;
        ok = ok || (strcmp(word, "number") == 0 && json_is_number(value)) ||
             (strcmp(word, "integer") == 0 && json_is_integer(value)) ||
             (strcmp(word, "boolean") == 0 && json_is_boolean(value)) ||
             (strcmp(word, "string") == 0 && json_is_string(value)) ||
             (strcmp(word, "array") == 0 && json_is_array(value)) ||
             (strcmp(word, "null") == 0 && json_is_null(value));
    }
    if (!ok)
        fail_msg("the default of %s is not of its type", name);
}

static void openapi(void **unused)
{
    (void)unused;
    buffer b = buffer_new(16 << 20);
    openapi_write(NULL, &b);
    json_t *root = parsed(&b), *paths = json_object_get(root, "paths");
    assert_int_equal(strncmp(json_string_value(json_object_get(root, "openapi")), "3.1", 3), 0);
    same_text(json_object_get(root, "info"), "version", lk_version());
    refs = 0;
    walk(root, root);
    assert_true(refs > 10);
    check_paths(root, paths);
    for (int i = 0; i < lk_loss_count(); i++) {
        const lk_description *is = lk_loss_describe(lk_loss_at(i));
        char path[128];
        snprintf(path, sizeof path, "/v1/%s/%s",
                 is->traits & LK_TRANSFORM ? "transforms" : "losses", is->name);
        json_t *post = json_object_get(json_object_get(paths, path), "post");
        assert_non_null(post);
        json_t *content = json_object_get(
            json_object_get(json_object_get(post, "requestBody"), "content"), "application/json");
        json_t *schema = json_object_get(content, "schema");
        json_t *members = json_object_get(schema, "properties"), *value;
        json_t *inputs = json_object_get(json_object_get(members, "inputs"), "properties");
        json_t *options =
            json_object_get(followed(root, json_object_get(members, "options")), "properties");
        /* A query string takes the same. */
        json_t *query = json_array_get(json_object_get(post, "parameters"), 0);
        assert_true(
            json_equal(json_object_get(query, "schema"), json_object_get(members, "options")));
        for (const lk_input *in = is->inputs; in->name; in++)
            assert_non_null(json_object_get(inputs, in->name));
        for (const lk_field *f = is->options; f->name; f++)
            assert_non_null(json_object_get(options, f->name));
        const char *name;
        json_object_foreach(options, name, value) check_default(name, value);
        /* The example is a request that succeeds. */
        char *example = json_dumps(json_object_get(content, "example"), 0);
        outcome o;
        if (!serve_body(lk_loss_at(i), &wire_json, &wire_json, example, strlen(example), "", 1, &o))
            fail_msg("the example of %s: %s", is->name, o.problem.detail);
        outcome_free(&o);
        free(example);
    }
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_json),
        cmocka_unit_test(as_markdown),
        cmocka_unit_test(as_text),
        cmocka_unit_test(openapi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
