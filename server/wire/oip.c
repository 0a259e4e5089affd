/* SPDX-License-Identifier: MIT
 *
 * Bodies of the Open Inference Protocol, version 2: JSON, followed by the raw bytes of the tensors
 * that are not in the JSON. A header of the request gives the length of the JSON; without that
 * header it is the whole body.
 */
#include "oip.h"
#include "wire/inputs.h"
#include "wire/options.h"
#include "wire/place.h"
#include "wire/skip.h"
#include "wire/tensor_text.h"
#include "wire/walk.h"
#include "wire/wire.h"

#include <jansson.h>
#include <stdio.h>

static bool is_half(lk_dtype dtype)
{
    return dtype == LK_F16 || dtype == LK_BF16;
}

/* Objects. */

/* A known member of an object, with its value once it was read. */
typedef struct member {
    const char *name;
    span value;
} member;

/* Called for other members. `what` names the object, for problems. */
typedef bool other_member(evaluation *e, const char *what, const char *name, span value,
                          problem *p);

static bool ignore(evaluation *e, const char *what, const char *name, span value, problem *p)
{
    (void)e;
    return skip_value(value) ||
           problem_set(p, 400, "malformed_body", "%s has a member %s that is not JSON", what, name);
}

/* Read the members of an object. null counts as absent, since some clients write it to omit a
 * member. */
static bool read_members(evaluation *e, span text, member *members, int count, other_member *other,
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
        if (!m && !other(e, what, name, value, p))
            return false;
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

/* The text of a value, cut, for problems. */
static const char *shown(span value, char to[48])
{
    snprintf(to, 48, "%.*s", (int)(value.size < 47 ? value.size : 47), value.data);
    return to;
}

/* Read a member that is true or false, if it is present. */
static bool read_flag(const member *m, const char *what, bool *to, problem *p)
{
    char text[48];
    const bool yes = span_is(m->value, "true");
    if (m->value.size > 0)
        *to = yes;
    return m->value.size == 0 || yes || span_is(m->value, "false") ||
           problem_set(p, 400, "malformed_body", "%s.%s is %s; it must be true or false", what,
                       m->name, shown(m->value, text));
}

/* Parameters. */

/* Parameters that clients of other servers send, and that are not options. */
static bool is_reserved(const char *name)
{
    return strcmp(name, "priority") == 0 || strcmp(name, "headers") == 0 ||
           strncmp(name, "sequence_", 9) == 0 || strncmp(name, "triton_", 7) == 0;
}

static bool read_option(evaluation *e, const char *what, const char *name, span value, problem *p)
{
    json_error_t error = {0};
    if (is_reserved(name))
        return ignore(e, what, name, value, p);
    json_t *tree = walk_tree(value, &error);
    const bool ok = tree ? wire_option_json(e, name, tree, p)
                         : walk_problem(&error, value, e->body.data, what, p);
    json_decref(tree);
    return ok;
}

static bool read_parameters(evaluation *e, span text, problem *p)
{
    enum { RAW, STRICT, TIMEOUT, MEMBERS };
    member m[MEMBERS] = {{"binary_data_output", {0}}, {"strict_json", {0}}, {"timeout", {0}}};
    char shown_text[48];
    int64_t timeout = 0;
    if (!read_members(e, text, m, MEMBERS, read_option, "parameters", p) ||
        !read_flag(&m[RAW], "parameters", &e->oip.raw_default, p) ||
        !read_flag(&m[STRICT], "parameters", &e->strict_json, p))
        return false;
    if (m[TIMEOUT].value.size > 0 && (!walk_integer(m[TIMEOUT].value, &timeout) || timeout < 0))
        return problem_set(p, 400, "malformed_body",
                           "parameters.timeout is %s; it must be an integer >= 0, in microseconds",
                           shown(m[TIMEOUT].value, shown_text));
    e->timeout = (uint64_t)timeout;
    return true;
}

/* The parameters of a tensor. */
enum {
    TENSOR_SIZE,
    TENSOR_BINARY,
    TENSOR_DTYPE,
    TENSOR_REGION,
    TENSOR_BYTES,
    TENSOR_OFFSET,
    TENSOR_CLASSES,
    TENSOR_PARAMETERS
};
typedef struct tensor_parameters {
    member m[TENSOR_PARAMETERS];
} tensor_parameters;

/* Read those that are there; refuse that of a feature that this server does not have. */
static bool read_tensor_parameters(evaluation *e, span text, tensor_parameters *to,
                                   const char *what, problem *p)
{
    char where[WALK_NAME + 32];
    *to = (tensor_parameters){{{"binary_data_size", {0}},
                               {"binary_data", {0}},
                               {"dtype", {0}},
                               {"shared_memory_region", {0}},
                               {"shared_memory_byte_size", {0}},
                               {"shared_memory_offset", {0}},
                               {"classification", {0}}}};
    snprintf(where, sizeof where, "%s.parameters", what);
    if (text.size == 0)
        return true;
    if (text.data[0] != '{')
        return problem_set(p, 400, "malformed_body", "%s must be an object", where);
    if (!read_members(e, text, to->m, TENSOR_PARAMETERS, ignore, where, p))
        return false;
    return to->m[TENSOR_CLASSES].value.size == 0 ||
           problem_set(p, 400, "malformed_body", "%s.%s is not offered here", where,
                       to->m[TENSOR_CLASSES].name);
}

static bool read_count(const member *m, const char *what, uint64_t *to, problem *p)
{
    int64_t number;
    if (m->value.size == 0)
        return true;
    if (!walk_integer(m->value, &number) || number < 0)
        return problem_set(p, 400, "malformed_body", "%s.parameters.%s must be an integer >= 0",
                           what, m->name);
    *to = (uint64_t)number;
    return true;
}

/* Read where in a region a tensor lies, if it does. */
static bool read_place(const tensor_parameters *given, const char *what, place *to, problem *p)
{
    const member *where = &given->m[TENSOR_REGION], *size = &given->m[TENSOR_BYTES];
    json_error_t error;
    if (where->value.size == 0)
        return true;
    json_t *name = where->value.size <= WALK_TREE
                       ? json_loadb(where->value.data, where->value.size, JSON_DECODE_ANY, &error)
                       : NULL;
    const char *text = json_string_value(name);
    const bool ok = text && text[0] != '\0' && strlen(text) < sizeof to->region;
    if (ok)
        snprintf(to->region, sizeof to->region, "%s", text);
    json_decref(name);
    if (!ok)
        return problem_set(p, 400, "malformed_body",
                           "%s.parameters.%s must be a name, of less than %d bytes", what,
                           where->name, REGION_NAME);
    if (size->value.size == 0)
        return problem_set(p, 400, "malformed_body", "%s.parameters needs %s", what, size->name);
    return read_count(size, what, &to->size, p) &&
           read_count(&given->m[TENSOR_OFFSET], what, &to->offset, p);
}

/* Inputs. */

/* The position in the raw tensors. */
typedef struct raw_reader {
    cursor c;
    bool any; /* the request has a header length: raw tensors may follow */
} raw_reader;

static const dialect types = {"inputs.", "datatype", oip_spelling, 400};

static bool input_bytes(evaluation *e, const char *input, const lk_tensor *t, int64_t size,
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

static bool input_text(evaluation *e, const char *input, lk_tensor *t, span data, problem *p)
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
    tensor_parameters given;
    char what[WALK_NAME + 16], name[WALK_NAME], text_of_size[48];
    int64_t bytes;
    lk_tensor t = {.dtype = LK_ANY};
    snprintf(what, sizeof what, "inputs[%d]", index);
    if (!read_members(e, text, m, MEMBERS, ignore, what, p))
        return false;
    if (!walk_text(m[NAME].value, name))
        return problem_set(p, 400, "malformed_body", "%s needs a name, a string", what);
    snprintf(what, sizeof what, "inputs.%s", name);
    if (m[SHAPE].value.size == 0 || m[DATATYPE].value.size == 0)
        return problem_input(p, 400, "malformed_body", name, "%s needs %s", what,
                             m[SHAPE].value.size == 0 ? "a shape" : "a datatype");
    if (!tensor_text_sizes(m[SHAPE].value, name, &t, p) ||
        !wire_dtype(lk_call_dtypes(e->call, name), name, m[DATATYPE].value, &types, &t, p) ||
        !read_tensor_parameters(e, m[PARAMETERS].value, &given, what, p))
        return false;
    place said = place_new(name, PLACE_INPUT);
    const member size = given.m[TENSOR_SIZE];
    if (!read_place(&given, what, &said, p))
        return false;
    if ((size.value.size > 0) + (m[DATA].value.size > 0) + (said.region[0] != '\0') != 1)
        return problem_input(p, 400, "malformed_body", name,
                             "%s must have exactly one of data, parameters.binary_data_size and "
                             "parameters.shared_memory_region",
                             what);
    if (said.region[0] != '\0') {
        said.is = t;
        return place_input(e, &said, p);
    }
    if (m[DATA].value.size > 0)
        return input_text(e, name, &t, m[DATA].value, p);
    if (!walk_integer(size.value, &bytes))
        return problem_input(p, 400, "malformed_body", name,
                             "%s.parameters.binary_data_size is %s; it must be an integer", what,
                             shown(size.value, text_of_size));
    return input_bytes(e, name, &t, bytes, raw, p);
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
        return wire_malformed(p, "inputs must be an array of tensors");
    if (cursor_left(&raw->c))
        return problem_set(p, 400, "malformed_body",
                           "%zu bytes are left behind the last tensor; the binary_data_size of the "
                           "inputs must add up to what follows the JSON",
                           cursor_left(&raw->c));
    return true;
}

/* Outputs. */

/* A narrower type, by the protocol's name or by ours. */
static bool read_type(const member *m, const char *what, place *to, problem *p)
{
    char word[WALK_NAME], where[48];
    if (m->value.size == 0)
        return true;
    snprintf(where, sizeof where, "%s.parameters", what);
    if (!walk_text(m->value, word))
        word[0] = '\0';
    for (int type = 0; type < LK_DTYPE_COUNT; type++)
        if (strcmp(oip_spelling((lk_dtype)type), word) == 0)
            snprintf(word, sizeof word, "%s", lk_dtype_name((lk_dtype)type));
    return place_type(to, where, word, p);
}

static bool read_output(evaluation *e, span text, int k, problem *p)
{
    enum { NAME, PARAMETERS, MEMBERS };
    member m[MEMBERS] = {{"name", {0}}, {"parameters", {0}}};
    tensor_parameters given;
    char what[32], where[48], name[WALK_NAME];
    bool is_raw = false;
    lk_error error;
    snprintf(what, sizeof what, "outputs[%d]", k);
    snprintf(where, sizeof where, "%s.parameters", what);
    if (text.data[0] == '{' && !read_members(e, text, m, MEMBERS, ignore, what, p))
        return false;
    if (!walk_text(m[NAME].value, name))
        return problem_set(p, 400, "malformed_body", "%s must be an object with a name", what);
    place said = place_new(name, PLACE_OUTPUT);
    const member *raw = &given.m[TENSOR_BINARY];
    if (!read_tensor_parameters(e, m[PARAMETERS].value, &given, what, p) ||
        !read_flag(raw, where, &is_raw, p) || !read_place(&given, what, &said, p) ||
        !read_type(&given.m[TENSOR_DTYPE], what, &said, p))
        return false;
    if (lk_call_want(e->call, name, &error) != LK_OK)
        return problem_from(p, &error);
    if (k < EVALUATION_PIECES)
        e->oip.said[k] = raw->value.size == 0 ? OIP_AS_DEFAULT : is_raw ? OIP_RAW : OIP_JSON;
    return (said.region[0] == '\0' && said.is.dtype == LK_ANY) || place_output(e, &said, p);
}

static bool read_outputs(evaluation *e, span text, problem *p)
{
    cursor c = cursor_new(text);
    span value;
    int more = cursor_accept(&c, '[') ? 1 : -1;
    for (int k = 0; more == 1; k++) {
        more = walk_item(&c, k == 0, &value);
        if (more != 1)
            break;
        if (!read_output(e, value, k, p))
            return false;
        more = walk_after(&c, ']');
    }
    return (more == 0 && !cursor_left(&c)) ||
           wire_malformed(p, "outputs must be an array of objects with a name");
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
    e->oip.id = text; /* echoed unchanged */
    return ok || wire_malformed(p, "id must be a string");
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
        return wire_malformed(p, e->body.size == 0
                                     ? "the body is empty; it must be a JSON object"
                                     : "Inference-Header-Content-Length is 0; the body "
                                       "must begin with a JSON object");
    if (!read_members(e, walk_body(text), m, MEMBERS, ignore, "the request", p))
        return false;
    if (m[INPUTS].value.size == 0)
        return wire_malformed(p, "the request has no inputs");
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
        const char *name = place_result(e, i, &t);
        if (is_half(t.dtype) && !is_raw(e, i) && !place_region(e, i))
            return problem_set(p, 400, "dtype_unsupported",
                               "output %s is %s, which has no form in JSON; ask for it with "
                               "parameters.binary_data, or for all with binary_data_output",
                               name, oip_spelling(t.dtype));
    }
    return true;
}

static size_t oip_text(const evaluation *e)
{
    return e->oip.head < e->body.size ? (size_t)e->oip.head : e->body.size;
}

static size_t oip_bound(const evaluation *e)
{
    size_t bytes = 256 + e->oip.id.size;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        bytes += strlen(place_result(e, i, &t)) + 128 + 24 * LK_MAX_RANK;
        bytes += place_region(e, i) ? REGION_LINE : is_raw(e, i) ? 0 : tensor_text_bound(&t);
    }
    return bytes;
}

static bool oip_encode(evaluation *e, problem *p)
{
    buffer *b = &e->text;
    (void)p;
    buffer_texts(b, "{\"model_name\":\"", lk_loss_describe(e->loss)->name,
                 "\",\"model_version\":\"" OIP_VERSION "\"", NULL);
    if (e->oip.id.size > 0) {
        buffer_text(b, ",\"id\":");
        buffer_append(b, e->oip.id.data, e->oip.id.size);
    }
    buffer_text(b, ",\"outputs\":[");
    bool raw = false;
    e->pieces = 1;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        const char *name = place_result(e, i, &t);
        const place *at = place_region(e, i);
        const size_t bytes = (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype);
        buffer_texts(b, i ? ",{" : "{", "\"name\":\"", name, "\",\"shape\":", NULL);
        tensor_text_write_sizes(b, &t);
        buffer_texts(b, ",\"datatype\":\"", oip_spelling(t.dtype), "\",", NULL);
        if (at) {
            buffer_printf(b,
                          "\"parameters\":{\"shared_memory_region\":\"%s\","
                          "\"shared_memory_byte_size\":%zu,\"shared_memory_offset\":%llu}}",
                          at->region, bytes, (unsigned long long)at->offset);
            continue;
        }
        if (is_raw(e, i)) {
            raw = true;
            buffer_text(b, "\"parameters\":{\"binary_data_size\":");
            buffer_integer(b, (int64_t)bytes);
            buffer_text(b, "}}");
            if (bytes > 0)
                e->piece[e->pieces++] = (span){t.data, bytes};
            continue;
        }
        buffer_text(b, "\"data\":");
        if (!b->failed)
            b->size = (size_t)(tensor_text_flat(b->data + b->size, &t, e->strict_json) - b->data);
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

static bool oip_read(const evaluation *e, const source *s, const lk_tensor *t, problem *p)
{
    (void)e;
    return tensor_text_read(s->text, s->name, t, p);
}

/* Chosen by the route, not by a media type: clients send any, or none. */
static const char *const media[] = {"application/json", NULL};

const wire wire_oip = {
    .name = "oip",
    .media = media,
    .routed = true,
    .text = oip_text,
    .open = oip_open,
    .read = oip_read,
    .accept = oip_accept,
    .bound = oip_bound,
    .encode = oip_encode,
};
