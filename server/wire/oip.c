/* SPDX-License-Identifier: MIT
 *
 * Bodies of the Open Inference Protocol, version 2: JSON, and behind it the raw bytes of the
 * tensors that are not in the JSON. How long the JSON is stands in a header of the request; without
 * that header it is the whole body.
 */
#include "oip.h"
#include "wire/inputs.h"
#include "wire/options.h"
#include "wire/tensor_text.h"
#include "wire/walk.h"
#include "wire/wire.h"

#include <jansson.h>

static bool malformed(problem *p, const char *what)
{
    return problem_set(p, 400, "malformed_body", "%s", what);
}

static bool is_half(lk_dtype dtype)
{
    return dtype == LK_F16 || dtype == LK_BF16;
}

/* Objects. */

/* A member that is looked for: its value once it was met. */
typedef struct member {
    const char *name;
    span value;
} member;

/* The members of an object; null is as if it were not there, which is how some clients leave things
 * out. Members that are not looked for are nobody's concern, but must be JSON. `what` is what the
 * object is called. */
static bool read_members(const evaluation *e, span text, member *members, int count,
                         const char *what, problem *p)
{
    cursor c = cursor_new(text);
    char name[WALK_NAME];
    span value;
    int more = cursor_accept(&c, '{') ? 1 : -1;
    for (bool first = true; more == 1; first = false) {
        more = walk_member(&c, first, name, &value);
        if (more != 1)
            break;
        member *m = NULL;
        for (int i = 0; i < count && !m; i++)
            if (strcmp(members[i].name, name) == 0)
                m = &members[i];
        if (m && m->value.size > 0)
            return problem_set(p, 400, "duplicate_name", "%s has %s twice", what, name);
        if (m && !span_is(value, "null"))
            m->value = value;
        /* What is not known is ignored, if it is JSON; of a long one its brackets were seen. */
        const bool ignored = !m && value.size <= WALK_TREE;
        json_t *tree = ignored ? walk_tree(value, NULL) : NULL;
        if (ignored && !tree)
            return problem_set(p, 400, "malformed_body", "%s has a member %s that is not JSON",
                               what, name);
        json_decref(tree);
        more = walk_after(&c, '}');
    }
    cursor_space(&c);
    const size_t at = (size_t)(c.p - e->body.data);
    if (more == 0 && cursor_left(&c) && e->oip.head == OIP_ALL)
        return problem_set(
            p, 400, "malformed_body",
            "text after the JSON object, at byte %zu; raw tensors can follow it only "
            "where Inference-Header-Content-Length says how long it is",
            at);
    return (more == 0 && !cursor_left(&c)) ||
           problem_set(p, 400, "malformed_body", "%s is not a JSON object, at byte %zu", what, at);
}

/* A small value as JSON text, for problems. */
static const char *shown(const json_t *value, char to[48])
{
    const size_t size = json_dumpb(value, to, 47, JSON_ENCODE_ANY | JSON_COMPACT);
    to[size < 47 ? size : 0] = '\0';
    return to[0] != '\0' ? to : "something else";
}

/* A small value as a tree; NULL with a problem. */
static json_t *read_tree(const evaluation *e, span text, const char *what, problem *p)
{
    json_error_t error = {0};
    json_t *tree = walk_tree(text, &error);
    if (!tree)
        walk_problem(&error, text, e->body.data, what, p);
    return tree;
}

/* Parameters. */

/* Names that clients of other servers send, and that are no options. */
static bool is_reserved(const char *name)
{
    static const char *const words[] = {"priority", "timeout", "headers", "binary_data_output"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(name, words[i]) == 0)
            return true;
    return strncmp(name, "sequence_", 9) == 0 || strncmp(name, "triton_", 7) == 0;
}

static bool read_parameter(evaluation *e, const char *name, const json_t *value, problem *p)
{
    char text[48];
    if (strcmp(name, "binary_data_output") == 0) {
        if (!json_is_boolean(value))
            return problem_set(p, 400, "malformed_body",
                               "parameters.binary_data_output is %s; it must be true or false",
                               shown(value, text));
        e->oip.raw_default = json_is_true(value);
    }
    if (strcmp(name, "timeout") == 0) {
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return problem_set(p, 400, "malformed_body",
                               "parameters.timeout is %s; it must be an integer >= 0, in "
                               "microseconds",
                               shown(value, text));
        e->timeout = (uint64_t)json_integer_value(value);
    }
    return is_reserved(name) || wire_option_json(e, name, value, p);
}

static bool read_parameters(evaluation *e, span text, problem *p)
{
    json_t *parameters = read_tree(e, text, "parameters", p), *value;
    const char *name;
    bool ok = parameters != NULL;
    if (ok && !json_is_object(parameters))
        ok = malformed(p, "parameters must be an object");
    json_object_foreach(parameters, name, value)
    {
        ok = ok && read_parameter(e, name, value, p);
    }
    json_decref(parameters);
    return ok;
}

/* What a tensor may say that is done elsewhere and not here. */
static bool no_shared_memory(const json_t *parameters, const char *what, problem *p)
{
    static const char *const words[] = {"shared_memory_region", "classification"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (json_object_get(parameters, words[i]))
            return problem_set(p, 400, "malformed_body", "%s.parameters.%s is not offered here",
                               what, words[i]);
    return true;
}

/* Inputs. */

/* Where the raw tensors have been read to. */
typedef struct raw_reader {
    cursor c;
    bool any; /* the request has a header length: raw tensors may follow */
} raw_reader;

static bool read_datatype(span value, const char *input, lk_tensor *t, problem *p)
{
    char word[WALK_NAME];
    if (!walk_text(value, word))
        return problem_input(p, 400, "malformed_body", input, "inputs.%s.datatype must be a string",
                             input);
    t->dtype = oip_dtype(word);
    if (t->dtype != LK_ANY)
        return true;
    return problem_input(p, 400, "dtype_unsupported", input,
                         "inputs.%s.datatype is \"%s\"; it must be FP64, FP32, FP16, BF16, INT64, "
                         "INT32, UINT8 or BOOL",
                         input, word);
}

static bool input_bytes(evaluation *e, const char *input, const lk_tensor *t, json_int_t size,
                        raw_reader *raw, problem *p)
{
    const uint64_t need = (uint64_t)lk_tensor_count(t) * lk_dtype_size(t->dtype);
    if (size < 0 || (uint64_t)size != need)
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s.parameters.binary_data_size is %lld; its shape and "
                             "datatype need %llu",
                             input, (long long)size, (unsigned long long)need);
    if (need > 0 && !raw->any)
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s has binary_data_size, but the request has no "
                             "Inference-Header-Content-Length and is all JSON",
                             input);
    if (need > cursor_left(&raw->c))
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s needs %llu bytes behind the JSON; %zu are left", input,
                             (unsigned long long)need, cursor_left(&raw->c));
    return wire_view(e, input, t, cursor_take(&raw->c, (size_t)need), p);
}

static bool input_text(evaluation *e, const char *input, const lk_tensor *t, span data, problem *p)
{
    if (is_half(t->dtype))
        return problem_input(p, 400, "dtype_unsupported", input,
                             "inputs.%s is %s, which has no form in JSON; send it as binary data",
                             input, oip_spelling(t->dtype));
    return tensor_text_fits(data, input, t, p) && wire_input(e, input, t, data, p);
}

static bool read_input(evaluation *e, span text, int index, raw_reader *raw, problem *p)
{
    enum { NAME, SHAPE, DATATYPE, PARAMETERS, DATA, MEMBERS };
    member m[MEMBERS] = {
        {"name", {0}}, {"shape", {0}}, {"datatype", {0}}, {"parameters", {0}}, {"data", {0}}};
    char what[32], name[WALK_NAME], text_of_size[48];
    lk_tensor t = {.dtype = LK_ANY};
    snprintf(what, sizeof what, "inputs[%d]", index);
    if (!read_members(e, text, m, MEMBERS, what, p))
        return false;
    if (!walk_text(m[NAME].value, name))
        return problem_set(p, 400, "malformed_body", "%s needs a name, a string", what);
    if (m[SHAPE].value.size == 0 || m[DATATYPE].value.size == 0)
        return problem_input(p, 400, "malformed_body", name, "inputs.%s needs %s", name,
                             m[SHAPE].value.size == 0 ? "a shape" : "a datatype");
    if (!tensor_text_sizes(m[SHAPE].value, name, &t, p) ||
        !read_datatype(m[DATATYPE].value, name, &t, p))
        return false;

    json_t *parameters = NULL;
    bool ok = true;
    if (m[PARAMETERS].value.size > 0) {
        parameters = read_tree(e, m[PARAMETERS].value, what, p);
        ok = parameters && no_shared_memory(parameters, what, p);
        if (ok && !json_is_object(parameters))
            ok = problem_input(p, 400, "malformed_body", name,
                               "inputs.%s.parameters must be an object", name);
    }
    const json_t *size = json_object_get(parameters, "binary_data_size");
    if (ok && (size != NULL) == (m[DATA].value.size > 0))
        ok = problem_input(p, 400, "malformed_body", name,
                           "inputs.%s must have exactly one of data and "
                           "parameters.binary_data_size",
                           name);
    else if (ok && size && !json_is_integer(size))
        ok = problem_input(p, 400, "malformed_body", name,
                           "inputs.%s.parameters.binary_data_size is %s; it must be an integer",
                           name, shown(size, text_of_size));
    else if (ok && size)
        ok = input_bytes(e, name, &t, json_integer_value(size), raw, p);
    else if (ok)
        ok = input_text(e, name, &t, m[DATA].value, p);
    json_decref(parameters);
    return ok;
}

static bool read_inputs(evaluation *e, span text, raw_reader *raw, problem *p)
{
    cursor c = cursor_new(text);
    span value;
    int more = cursor_accept(&c, '[') ? 1 : -1;
    for (int i = 0; more == 1; i++) {
        more = walk_item(&c, i == 0, &value);
        if (more != 1)
            break;
        if (i == WIRE_TENSORS)
            return problem_set(p, 413, "too_large", "more than %d tensors in inputs", WIRE_TENSORS);
        if (!read_input(e, value, i, raw, p))
            return false;
        more = walk_after(&c, ']');
    }
    if (more < 0 || cursor_left(&c))
        return malformed(p, "inputs must be an array of tensors");
    if (cursor_left(&raw->c))
        return problem_set(p, 400, "malformed_body",
                           "%zu bytes are left behind the last tensor; the binary_data_size of the "
                           "inputs must add up to what follows the JSON",
                           cursor_left(&raw->c));
    return true;
}

/* Outputs. */

static bool read_output(evaluation *e, const json_t *output, size_t k, problem *p)
{
    const json_t *name = json_object_get(output, "name");
    const json_t *parameters = json_object_get(output, "parameters");
    const json_t *raw = json_object_get(parameters, "binary_data");
    char what[40], text[48];
    lk_error error;
    snprintf(what, sizeof what, "outputs[%zu]", k);
    if (!json_is_object(output) || !json_is_string(name))
        return problem_set(p, 400, "malformed_body", "%s must be an object with a name", what);
    if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
        return problem_set(p, 400, "malformed_body", "%s.parameters must be an object", what);
    if (raw && !json_is_boolean(raw))
        return problem_set(p, 400, "malformed_body",
                           "%s.parameters.binary_data is %s; it must be true or false", what,
                           shown(raw, text));
    if (!no_shared_memory(parameters, what, p))
        return false;
    if (lk_call_want(e->call, json_string_value(name), &error) != LK_OK)
        return problem_from(p, &error);
    if (k < EVALUATION_PIECES)
        e->oip.said[k] = !raw ? OIP_AS_DEFAULT : json_is_true(raw) ? OIP_RAW : OIP_JSON;
    return true;
}

static bool read_outputs(evaluation *e, span text, problem *p)
{
    json_t *outputs = read_tree(e, text, "outputs", p), *output;
    size_t k;
    bool ok = outputs != NULL;
    if (ok && !json_is_array(outputs))
        ok = malformed(p, "outputs must be an array of objects with a name");
    json_array_foreach(outputs, k, output)
    {
        ok = ok && read_output(e, output, k, p);
    }
    json_decref(outputs);
    return ok;
}

/* The request. */

static bool read_id(evaluation *e, span text, problem *p)
{
    json_error_t error = {0};
    json_t *id = NULL;
    if (text.size <= WALK_TREE)
        id = json_loadb(text.data, text.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!id)
        return walk_problem(&error, text, e->body.data, "id", p);
    const bool ok = json_is_string(id);
    json_decref(id);
    e->oip.id = text; /* echoed as it stands */
    return ok || malformed(p, "id must be a string");
}

static bool oip_open(evaluation *e, problem *p)
{
    enum { ID, PARAMETERS, INPUTS, OUTPUTS, MEMBERS };
    member m[MEMBERS] = {{"id", {0}}, {"parameters", {0}}, {"inputs", {0}}, {"outputs", {0}}};
    cursor c = cursor_new(e->body);
    const bool split = e->oip.head != OIP_ALL;
    if (split && e->oip.head > e->body.size)
        return problem_set(p, 400, "malformed_body",
                           "Inference-Header-Content-Length is %llu, but the body has %zu bytes",
                           (unsigned long long)e->oip.head, e->body.size);
    span text = cursor_take(&c, split ? (size_t)e->oip.head : e->body.size);
    if (text.size == 0)
        return malformed(p, e->body.size == 0 ? "the body is empty; it must be a JSON object"
                                              : "Inference-Header-Content-Length is 0; the body "
                                                "must begin with a JSON object");
    if (!read_members(e, walk_body(text), m, MEMBERS, "the request", p))
        return false;
    if (m[INPUTS].value.size == 0)
        return malformed(p, "the request has no inputs");
    raw_reader raw = {.c = c, .any = split};
    return (m[ID].value.size == 0 || read_id(e, m[ID].value, p)) &&
           (m[PARAMETERS].value.size == 0 || read_parameters(e, m[PARAMETERS].value, p)) &&
           read_inputs(e, m[INPUTS].value, &raw, p) &&
           (m[OUTPUTS].value.size == 0 || read_outputs(e, m[OUTPUTS].value, p));
}

/* The reply. */

static bool is_raw(const evaluation *e, int output)
{
    const char said = output < EVALUATION_PIECES ? e->oip.said[output] : OIP_AS_DEFAULT;
    return said == OIP_AS_DEFAULT ? e->oip.raw_default : said == OIP_RAW;
}

static bool oip_accept(const evaluation *e, problem *p)
{
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        const char *name = lk_call_output(e->call, i, &t);
        if (is_half(t.dtype) && !is_raw(e, i))
            return problem_set(p, 400, "dtype_unsupported",
                               "output %s is %s, which has no form in JSON; ask for it with "
                               "parameters.binary_data, or for all with binary_data_output",
                               name, oip_spelling(t.dtype));
    }
    return true;
}

static size_t oip_bound(const evaluation *e)
{
    size_t bytes = 256 + e->oip.id.size;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        bytes += strlen(lk_call_output(e->call, i, &t)) + 128 + 24 * LK_MAX_RANK;
        bytes += is_raw(e, i) ? 0 : tensor_text_bound(&t);
    }
    return bytes;
}

static bool oip_encode(evaluation *e, problem *p)
{
    buffer *b = &e->text;
    (void)p;
    buffer_printf(b, "{\"model_name\":\"%s\",\"model_version\":\"%s\"",
                  lk_loss_describe(e->loss)->name, OIP_VERSION);
    if (e->oip.id.size > 0) {
        buffer_text(b, ",\"id\":");
        buffer_append(b, e->oip.id.data, e->oip.id.size);
    }
    buffer_text(b, ",\"outputs\":[");
    bool raw = false;
    e->pieces = 1;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        const char *name = lk_call_output(e->call, i, &t);
        const size_t bytes = (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype);
        buffer_printf(b, "%s{\"name\":\"%s\",\"shape\":", i ? "," : "", name);
        tensor_text_write_sizes(b, &t);
        buffer_printf(b, ",\"datatype\":\"%s\",", oip_spelling(t.dtype));
        if (is_raw(e, i)) {
            raw = true;
            buffer_printf(b, "\"parameters\":{\"binary_data_size\":%zu}}", bytes);
            if (bytes > 0)
                e->piece[e->pieces++] = (span){t.data, bytes};
            continue;
        }
        buffer_text(b, "\"data\":");
        if (!b->failed)
            b->size = (size_t)(tensor_text_flat(b->data + b->size, &t) - b->data);
        buffer_text(b, "}");
    }
    buffer_text(b, raw ? "]}" : "]}\n");
    e->piece[0] = (span){b->data, b->size};
    if (raw) {
        e->media = "application/octet-stream";
        e->oip.reply_head = b->size;
    }
    return true;
}

/* Chosen by the route, not by a media type: clients send any, or none. */
static const char *const media[] = {"application/json", NULL};

const wire wire_oip = {
    .name = "oip",
    .media = media,
    .routed = true,
    .open = oip_open,
    .read = wire_read_text,
    .accept = oip_accept,
    .bound = oip_bound,
    .encode = oip_encode,
};
