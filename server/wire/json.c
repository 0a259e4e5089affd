/* SPDX-License-Identifier: MIT
 *
 * JSON bodies: {"inputs": ..., "options": ..., "outputs": ...}.
 */
#include "wire/base64.h"
#include "wire/inputs.h"
#include "wire/options.h"
#include "wire/place.h"
#include "wire/tensor_text.h"
#include "wire/walk.h"
#include "wire/wire.h"

#include <jansson.h>
#include <stdio.h>

static const dialect json_types = {"inputs.", "dtype", lk_dtype_name, 422};

/* {"region": ..., "offset": ..., "dtype": ..., "shape": ...} */
static bool tensor_in_region(evaluation *e, const char *input, span text, problem *p)
{
    char what[WALK_NAME + 16];
    json_error_t syntax = {0};
    place said = place_new(input, PLACE_INPUT);
    snprintf(what, sizeof what, "inputs.%s", input);
    json_t *object = walk_tree(text, &syntax);
    if (!object)
        return walk_problem(&syntax, text, e->body.data, what, p);
    const bool ok = place_read(object, what, &said, p) && place_input(e, &said, p);
    json_decref(object);
    return ok;
}

/* {"shape": ..., "data" or "base64": ..., "dtype": ...} */
static bool tensor_object(evaluation *e, const char *input, span text, problem *p)
{
    cursor c = cursor_new(text);
    char name[WALK_NAME];
    span value, shape = {0}, data = {0}, base64 = {0}, dtype = {0};
    lk_tensor t = {.dtype = LK_ANY};
    int more = cursor_accept(&c, '{') ? 1 : -1;
    for (bool first = true; more == 1; first = false) {
        more = walk_member(&c, first, name, &value);
        if (more != 1)
            break;
        if (strcmp(name, "region") == 0)
            return tensor_in_region(e, input, text, p);
        span *known = strcmp(name, "shape") == 0    ? &shape
                      : strcmp(name, "data") == 0   ? &data
                      : strcmp(name, "base64") == 0 ? &base64
                      : strcmp(name, "dtype") == 0  ? &dtype
                                                    : NULL;
        if (!known)
            return problem_input(
                p, 400, "malformed_body", input,
                "inputs.%s has a member \"%s\"; a tensor has shape, data or base64, "
                "and dtype%s",
                input, name, name[0] >= '0' && name[0] <= '9' ? "; " TENSOR_TEXT_TYPED_ARRAY : "");
        if (known->size > 0)
            return problem_input(p, 400, "duplicate_name", input, "inputs.%s.%s comes twice", input,
                                 name);
        *known = value;
        more = walk_after(&c, '}');
    }
    if (more < 0)
        return problem_input(p, 400, "malformed_body", input, "inputs.%s is not a JSON object",
                             input);
    if (shape.size == 0 || (data.size > 0) == (base64.size > 0))
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s must have shape and exactly one of data and base64", input);
    if (!tensor_text_sizes(shape, input, &t, p) ||
        (dtype.size > 0 &&
         !wire_dtype(lk_call_dtypes(e->call, input), input, dtype, &json_types, &t, p)))
        return false;
    if (base64.size > 0) {
        if (base64.data[0] != '"')
            return problem_input(p, 400, "malformed_body", input,
                                 "inputs.%s.base64 must be a string", input);
        if (!base64_fits(base64, input, &t, p) || !wire_input(e, input, &t, base64, p))
            return false;
        e->source[e->sources - 1].base64 = true;
        return true;
    }
    return tensor_text_fits(data, input, &t, p) && wire_input(e, input, &t, data, p);
}

static bool open_inputs(evaluation *e, span text, problem *p)
{
    cursor c = cursor_new(text);
    char name[WALK_NAME];
    span value;
    int more = cursor_accept(&c, '{') ? 1 : -1, tensors = 0;
    if (more < 0)
        return wire_malformed(p, "inputs must be an object of tensors by name");
    for (bool first = true; more == 1; first = false) {
        more = walk_member(&c, first, name, &value);
        if (more != 1)
            break;
        if (++tensors > WIRE_TENSORS)
            return problem_set(p, 413, "too_large", "more than %d tensors in inputs", WIRE_TENSORS);
        lk_tensor t = {.dtype = LK_ANY};
        if (value.data[0] == '{') {
            if (!tensor_object(e, name, value, p))
                return false;
        } else if (!tensor_text_shape(value, name, &t, p) || !wire_input(e, name, &t, value, p)) {
            return false;
        }
        more = walk_after(&c, '}');
    }
    cursor_space(&c);
    return (more == 0 && !cursor_left(&c)) ||
           problem_set(p, 400, "malformed_body", "inputs is not a JSON object, at byte %zu",
                       (size_t)(c.p - e->body.data));
}

static bool open_options(evaluation *e, span text, problem *p)
{
    json_error_t syntax = {0};
    json_t *options = walk_tree(text, &syntax);
    const char *name;
    json_t *value;
    bool ok = true;
    if (!options)
        return walk_problem(&syntax, text, e->body.data, "options", p);
    if (!json_is_object(options))
        ok = wire_malformed(p, "options must be an object");
    else
        json_object_foreach(options, name, value)
        {
            ok = ok && wire_option_json(e, name, value, p);
        }
    json_decref(options);
    return ok;
}

/* The name of an output, or an object that says more of it. */
static bool open_output(evaluation *e, size_t i, const json_t *value, problem *p)
{
    char what[32];
    lk_error error;
    place said = place_new(json_is_string(value) ? json_string_value(value) : "", PLACE_OUTPUT);
    snprintf(what, sizeof what, "outputs[%zu]", i);
    if (json_is_string(value))
        return lk_call_want(e->call, json_string_value(value), &error) == LK_OK ||
               problem_from(p, &error);
    if (!json_is_object(value))
        return problem_set(p, 400, "malformed_body", "%s must be a string or an object", what);
    if (!place_read(value, what, &said, p))
        return false;
    if (lk_call_want(e->call, said.name, &error) != LK_OK)
        return problem_from(p, &error);
    return place_output(e, &said, p);
}

static bool open_outputs(evaluation *e, span text, problem *p)
{
    json_error_t syntax = {0};
    json_t *outputs = walk_tree(text, &syntax);
    size_t i;
    json_t *value;
    bool ok = true;
    if (!outputs)
        return walk_problem(&syntax, text, e->body.data, "outputs", p);
    e->outputs_named = true;
    if (!json_is_array(outputs))
        ok = wire_malformed(p, "outputs must be an array of names");
    else
        json_array_foreach(outputs, i, value)
        {
            ok = ok && open_output(e, i, value, p);
        }
    json_decref(outputs);
    return ok;
}

static bool json_open(evaluation *e, problem *p)
{
    cursor c = cursor_new(walk_body(e->body));
    char name[WALK_NAME];
    span value, inputs = {0}, options = {0}, outputs = {0};
    if (!cursor_accept(&c, '{'))
        return wire_malformed(p, cursor_left(&c) ? "the body is not a JSON object"
                                                 : "the body is empty; it must be a JSON object");
    int more = 1;
    for (bool first = true; more == 1; first = false) {
        more = walk_member(&c, first, name, &value);
        if (more != 1)
            break;
        span *known = strcmp(name, "inputs") == 0    ? &inputs
                      : strcmp(name, "options") == 0 ? &options
                      : strcmp(name, "outputs") == 0 ? &outputs
                                                     : NULL;
        if (!known)
            return problem_set(p, 400, "malformed_body",
                               "the body has a member \"%s\"; a request has inputs, options and "
                               "outputs",
                               name);
        if (known->size > 0)
            return problem_set(p, known == &outputs ? 422 : 400,
                               known == &outputs ? "duplicate_option" : "duplicate_name",
                               "%s is given twice", name);
        *known = value;
        more = walk_after(&c, '}');
    }
    cursor_space(&c);
    if (more < 0)
        return problem_set(p, 400, "malformed_body", "the body is not JSON, at byte %zu",
                           (size_t)(c.p - e->body.data));
    if (cursor_left(&c))
        return problem_set(p, 400, "malformed_body", "text after the JSON object, at byte %zu",
                           (size_t)(c.p - e->body.data));
    return (options.size == 0 || open_options(e, options, p)) &&
           (inputs.size == 0 || open_inputs(e, inputs, p)) &&
           (outputs.size == 0 || open_outputs(e, outputs, p));
}

/* Outlines. */

static bool outline_add(outline *o, const void *data, size_t size)
{
    if (size > sizeof o->text - o->size)
        return false;
    memcpy(o->text + o->size, data, size);
    o->size += size;
    return true;
}

/* A tensor at the cursor: the text since `from`, which moves on, then type and shape instead of
 * numbers. */
static bool outline_tensor(cursor *c, const char **from, outline *o)
{
    problem unused;
    lk_tensor t = {.dtype = LK_ANY};
    cursor_space(c);
    const char *begin = c->p;
    if (o->tensors == EVALUATION_INPUTS || !tensor_text_walk(c, "", &t, &unused))
        return false;
    const bool ok = outline_add(o, *from, (size_t)(begin - *from)) &&
                    outline_add(o, &t.dtype, sizeof t.dtype) &&
                    outline_add(o, &t.rank, sizeof t.rank) &&
                    outline_add(o, t.shape, (size_t)t.rank * sizeof *t.shape);
    o->tensor[o->tensors++] = (span){begin, (size_t)(c->p - begin)};
    *from = c->p;
    return ok;
}

static bool outline_inputs(cursor *c, const char **from, outline *o)
{
    span key;
    int more = cursor_accept(c, '{') ? 1 : -1;
    while (more == 1)
        more = walk_string(c, &key) && cursor_accept(c, ':') && outline_tensor(c, from, o)
                   ? walk_after(c, '}')
                   : -1;
    return more == 0;
}

/* A name in another spelling than "inputs" has its tensors in the outline, where they count. */
static bool json_outline(span body, outline *o)
{
    cursor c = cursor_new(walk_body(body));
    const char *from = body.data;
    span key, value;
    int more = cursor_accept(&c, '{') ? 1 : -1;
    o->tensors = 0;
    o->size = 0;
    while (more == 1) {
        const bool ok =
            walk_string(&c, &key) && cursor_accept(&c, ':') &&
            (span_is(key, "\"inputs\"") ? outline_inputs(&c, &from, o) : walk_value(&c, &value));
        more = ok ? walk_after(&c, '}') : -1;
    }
    return more == 0 && outline_add(o, from, (size_t)(body.data + body.size - from));
}

static bool json_read(const evaluation *e, const source *s, const lk_tensor *t, problem *p)
{
    (void)e;
    return s->base64 ? base64_read(s->text, s->name, t, p)
                     : tensor_text_read(s->text, s->name, t, p);
}

static size_t json_bound(const evaluation *e)
{
    size_t bytes = 128;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        bytes += strlen(place_result(e, i, &t)) + 64 + 24 * LK_MAX_RANK;
        bytes += place_region(e, i) ? REGION_LINE : tensor_text_bound(&t);
    }
    return bytes;
}

static void write_empty(buffer *b, const lk_tensor *t)
{
    buffer_text(b, "{\"shape\":");
    tensor_text_write_sizes(b, t);
    buffer_text(b, ",\"data\":[]}");
}

static bool json_encode(evaluation *e, problem *p)
{
    buffer *b = &e->text;
    (void)p;
    buffer_texts(b, "{\"loss\":\"", lk_loss_describe(e->loss)->name, "\",\"outputs\":{", NULL);
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        buffer_texts(b, i ? ",\"" : "\"", place_result(e, i, &t), "\":", NULL);
        const place *at = place_region(e, i);
        if (at)
            region_place_text(b, at->region, at->offset, &t);
        else if (lk_tensor_count(&t) == 0 && t.rank > 1)
            write_empty(b, &t);
        else
            b->size = (size_t)(tensor_text_nested(b->data + b->size, &t, e->strict_json) - b->data);
    }
    buffer_text(b, "}}\n");
    e->piece[e->pieces++] = (span){b->data, b->size};
    return true;
}

static const char *const media[] = {"application/json", "application/x-www-form-urlencoded", NULL};

const wire wire_json = {
    .name = "json",
    .media = media,
    .outline = json_outline,
    .open = json_open,
    .read = json_read,
    .bound = json_bound,
    .encode = json_encode,
};
