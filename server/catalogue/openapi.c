/* SPDX-License-Identifier: MIT */
#include "catalogue/openapi.h"

#include "catalogue/describe.h"
#include "catalogue/trees.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define TAG_LOSSES  "losses"
#define TAG_SERVICE "service"
#define TAG_OIP     "open inference protocol"

static const char *name_of(const json_t *described)
{
    return json_string_value(json_object_get(described, "name"));
}

static json_t *ref(const char *name)
{
    return json_pack("{s:o}", "$ref", json_sprintf("#/components/schemas/%s", name));
}

/* The schema of the items of an array option. */
static json_t *item_schema(const json_t *option)
{
    const char *type = json_string_value(json_object_get(option, "type"));
    if (strcmp(type, "choices") == 0)
        return json_pack("{s:s, s:O}", "type", "string", "enum",
                         json_object_get(option, "choices"));
    if (strcmp(type, "parts") != 0)
        return json_pack("{s:s}", "type", strcmp(type, "list") == 0 ? "integer" : "number");
    return json_pack(
        "{s:s, s:[s], s:{s:{s:s}, s:{s:s, s:s}, s:{s:s, s:s}, s:{s:s, s:{s:[s,s]}}, s:{s:s}}, s:b}",
        "type", "object", "required", "loss", "properties", "loss", "type", "string", "name",
        "type", "string", "pattern", "^(?![0-9]+$)[A-Za-z0-9_]{1,31}$", "weight", "type", "number",
        "description",
        "default 1, or 0 for a transform and for a part that another one reads; these do not enter "
        "the loss",
        "inputs", "type", "object", "additionalProperties", "type", "string", "null", "options",
        "type", "object", "additionalProperties", 0);
}

/* An option of a description as a JSON schema. */
static json_t *option_schema(const json_t *option)
{
    static const char *const types[][2] = {
        {"real", "number"},  {"integer", "integer"}, {"unsigned", "integer"},
        {"flag", "boolean"}, {"choice", "string"},   {"list", "array"},
        {"reals", "array"},  {"choices", "array"},   {"parts", "array"}};
    static const char *const members[][2] = {{"minimum", "minimum"},
                                             {"maximum", "maximum"},
                                             {"greater_than", "exclusiveMinimum"},
                                             {"less_than", "exclusiveMaximum"},
                                             {"choices", "enum"},
                                             {"default", "default"},
                                             {"help", "description"}};
    json_t *o = json_object(), *value;
    const char *type = "string";
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i][0], json_string_value(json_object_get(option, "type"))) == 0)
            type = types[i][1];
    if (json_is_true(json_object_get(option, "can_be_off")))
        json_object_set_new(o, "type", json_pack("[s,s]", type, "null"));
    else
        json_object_set_new(o, "type", json_string(type));
    if (strcmp(type, "array") == 0)
        json_object_set_new(o, "items", item_schema(option));
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if ((value = json_object_get(option, members[i][0])))
            json_object_set(o, members[i][1], value);
    if (strcmp(type, "array") == 0)
        json_object_del(o, "enum"); /* its items have it */
    if ((value = json_object_get(option, "not")))
        json_object_set_new(o, "not", json_pack("{s:O}", "const", value));
    return o;
}

static json_t *tensor(const json_t *described)
{
    json_t *schema = ref("Tensor"), *help = json_object_get(described, "help");
    if (json_is_true(json_object_get(described, "in_place")))
        json_object_set_new(schema, "description",
                            json_sprintf("%s; in a region, its gradient may take its place",
                                         json_string_value(help)));
    else
        json_object_set(schema, "description", help);
    return schema;
}

static json_t *options_schema(const json_t *is)
{
    json_t *options = json_object(), *entry;
    size_t i;
    json_array_foreach(json_object_get(is, "options"), i, entry)
        json_object_set_new(options, name_of(entry), option_schema(entry));
    return json_pack("{s:s, s:o, s:b}", "type", "object", "properties", options,
                     "additionalProperties", 0);
}

/* A body and a query string take the same options. */
static json_t *options_ref(const json_t *is)
{
    return json_pack("{s:o}", "$ref", json_sprintf("#/components/schemas/%s_options", name_of(is)));
}

static json_t *request_schema(const json_t *is)
{
    json_t *inputs = json_object(), *required = json_array();
    json_t *outputs = json_array(), *entry, *more = json_false(), *names;
    size_t i;
    if (json_is_true(json_object_get(is, "made_of_parts")))
        more = ref("Tensor"); /* the names of tensors and outputs depend on the parts */
    json_array_foreach(json_object_get(is, "inputs"), i, entry)
    {
        json_object_set_new(inputs, name_of(entry), tensor(entry));
        if (json_is_true(json_object_get(entry, "required")))
            json_array_append(required, json_object_get(entry, "name"));
    }
    json_array_foreach(json_object_get(is, "outputs"), i, entry)
        json_array_append(outputs, json_object_get(entry, "name"));
    names = json_pack("{s:s}", "type", "string");
    if (json_is_false(more))
        json_object_set(names, "enum", outputs);
    json_decref(outputs);
    return json_pack("{s:s, s:[s], s:{s:{s:s, s:o, s:o, s:o}, s:o, s:{s:s, s:o}}, s:b}", "type",
                     "object", "required", "inputs", "properties", "inputs", "type", "object",
                     "properties", inputs, "required", required, "additionalProperties", more,
                     "options", options_ref(is), "outputs", "type", "array", "items",
                     json_pack("{s:[o,o]}", "anyOf", names, ref("Output")), "additionalProperties",
                     0);
}

static json_t *reply_schema(const json_t *is)
{
    json_t *properties = json_object(), *entry, *more = json_false();
    size_t i;
    if (json_is_true(json_object_get(is, "made_of_parts")))
        more = ref("Tensor");
    json_array_foreach(json_object_get(is, "outputs"), i, entry)
        json_object_set_new(properties, name_of(entry), tensor(entry));
    return json_pack("{s:s, s:[s,s], s:{s:{s:s}, s:{s:s, s:o, s:o}}}", "type", "object", "required",
                     "loss", "outputs", "properties", "loss", "const", name_of(is), "outputs",
                     "type", "object", "properties", properties, "additionalProperties", more);
}

static json_t *binary(void)
{
    return json_pack("{s:{s:s}}", "schema", "description",
                     "A safetensors file; options and outputs in its __metadata__.");
}

/* As the request body, and as the reply to it. */
static json_t *lines(void)
{
    return json_pack("{s:o}", "schema", ref("Lines"));
}

static json_t *lines_schema(void)
{
    return json_pack(
        "{s:s, s:s}", "type", "string", "description",
        "A request in JSON on each line, of any number. Each is answered by a line, in "
        "the same order and while the body comes: by its reply, or by a problem with a "
        "member `line`, the number of the line from 1.");
}

/* The parameters of an evaluation besides its body. The options are one exploded object: one query
 * parameter for each. */
static json_t *evaluate_parameters(const json_t *is)
{
    json_t *parameters = json_pack(
        "[{s:s, s:s, s:s, s:s, s:b, s:o}]", "name", "options", "in", "query", "description",
        "Options, each under its own name, as text: lists with commas, unset is off. None may be "
        "given here and in the body.",
        "style", "form", "explode", 1, "schema", options_ref(is));
    static const char *const shared[] = {"Outputs", "StrictJson", "RequestTimeout", "RequestId"};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        json_array_append_new(
            parameters,
            json_pack("{s:o}", "$ref", json_sprintf("#/components/parameters/%s", shared[i])));
    return parameters;
}

static json_t *shared_parameters(void)
{
    return json_pack(
        "{s:{s:s, s:s, s:s, s:s, s:b, s:{s:s, s:{s:s}}}, s:{s:s, s:s, s:s, s:{s:s, s:b}}, "
        "s:{s:s, s:s, s:s, s:{s:s, s:i}}, s:{s:s, s:s, s:s, s:{s:s}}}",
        "Outputs", "name", "outputs", "in", "query", "description",
        "The outputs to reply with, in this order; or in the body.", "style", "form", "explode", 0,
        "schema", "type", "array", "items", "type", "string", "StrictJson", "name", "strict_json",
        "in", "query", "description",
        "Write null for NaN and infinities, which JSON proper does not have.", "schema", "type",
        "boolean", "default", 0, "RequestTimeout", "name", "X-Request-Timeout", "in", "header",
        "description", "Milliseconds after which the reply is of no use.", "schema", "type",
        "integer", "minimum", 0, "RequestId", "name", "X-Request-Id", "in", "header", "description",
        "What the reply and the log call this request; made where it is not there.", "schema",
        "type", "string");
}

static bool is_oip(const char *path)
{
    return strncmp(path, "/v2", 3) == 0;
}

/* What a status other than that of success says. */
static const char *meaning(const char *status, size_t size)
{
    static const char *const all[][2] = {
        {"101", "Memory may be handed over."},
        {"400", "Not well-formed, or (Open Inference Protocol) nothing that can be done."},
        {"401", "No key, where one is asked for."},
        {"403", "A wrong key, or a web page of another origin."},
        {"404", "There is none of that name, or it is not offered (--client-shm)."},
        {"406", "No such encoding of the reply."},
        {"408", "The body did not come in time (--body-timeout)."},
        {"409", "The name is in use."},
        {"413", "The body is too large."},
        {"415", "No such encoding of the body."},
        {"422", "Well-formed, but it does not fit the loss, or an option is none."},
        {"426", "Memory is handed over on a Unix socket."},
        {"503", "Too much work under way, no memory, or it stops: try again after Retry-After."},
        {"504", "Not done in time (--request-timeout, X-Request-Timeout)."},
        {"507", "No room (--region-budget)."},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strlen(all[i][0]) == size && memcmp(all[i][0], status, size) == 0)
            return all[i][1];
    return NULL;
}

/* Add a route's other replies. A refusal has the form of the path's protocol; an upgrade and a
 * refusal of health checks have none. */
static void add_others(json_t *responses, const char *path, const char *others, bool health)
{
    for (size_t size; *others != '\0'; others += size + (others[size] == ' ')) {
        size = strcspn(others, " ");
        const char *what = meaning(others, size);
        const bool bare = *others == '1' || (health && *others == '5'), oip = is_oip(path);
        json_t *reply = json_pack("{s:s}", "description", what);
        if (!bare)
            json_object_set_new(reply, "content",
                                json_pack("{s:{s:o}}",
                                          oip ? "application/json" : "application/problem+json",
                                          "schema", ref(oip ? "OipError" : "Problem")));
        json_object_setn_new(responses, others, size, reply);
    }
}

static json_t *evaluate_path(const json_t *is, const char *others)
{
    json_t *request = json_pack("{s:o, s:O}", "schema", request_schema(is), "example",
                                json_object_get(is, "example"));
    json_t *content =
        json_pack("{s:o, s:o, s:o}", "application/json", request, "application/x-safetensors",
                  binary(), "application/x-ndjson", lines());
    json_t *accepted =
        json_pack("{s:{s:o}, s:o, s:o}", "application/json", "schema", reply_schema(is),
                  "application/x-safetensors", binary(), "application/x-ndjson", lines());
    json_t *responses = json_pack("{s:{s:s, s:o}}", "200", "description", "The outputs asked for.",
                                  "content", accepted);
    add_others(responses, json_string_value(json_object_get(is, "path")), others, false);
    json_t *operation =
        json_pack("{s:o, s:O, s:O, s:[s], s:o, s:{s:b, s:o}, s:o}", "operationId",
                  json_sprintf("evaluate_%s", name_of(is)), "summary", json_object_get(is, "title"),
                  "description", json_object_get(is, "help"), "tags", TAG_LOSSES, "parameters",
                  evaluate_parameters(is), "requestBody", "required", 1, "content", content,
                  "responses", responses);
    return json_pack("{s:o}", "post", operation);
}

/* One entry for each {name} of a path. */
static json_t *path_parameters(const char *path)
{
    json_t *parameters = json_array();
    for (const char *open = strchr(path, '{'); open; open = strchr(open + 1, '{')) {
        const size_t length = strcspn(open + 1, "}");
        json_array_append_new(parameters,
                              json_pack("{s:s%, s:s, s:b, s:{s:s}}", "name", open + 1, length, "in",
                                        "path", "required", 1, "schema", "type", "string"));
    }
    return parameters;
}

/* A request and a reply of the Open Inference Protocol: JSON, or JSON and raw tensors. */
static json_t *inference_content(void)
{
    return json_pack("{s:{s:{s:s}}, s:{s:{s:s}}}", "application/json", "schema", "type", "object",
                     "application/octet-stream", "schema", "description",
                     "JSON of Inference-Header-Content-Length bytes, then the raw tensors.");
}

/* Add a route that is not about a single loss. */
static void add_plain_path(json_t *paths, const char *method, const char *path, bool health,
                           const char *others, const char *sentence)
{
    char verb[8] = "";
    for (size_t i = 0; method[i] != '\0'; i++)
        verb[i] = (char)(method[i] | 0x20);
    json_t *item = json_object_get(paths, path), *parameters = path_parameters(path);
    char id[256]; /* no route is that long */
    size_t size = (size_t)snprintf(id, sizeof id, "%s", verb);
    for (const char *c = path; *c != '\0' && size < sizeof id; c++)
        if (*c != '}')
            id[size++] = *c == '/' || *c == '{' || *c == '.' ? '_' : *c;
    json_t *operation = json_pack(
        "{s:s%, s:s, s:s, s:[s], s:{s:{s:s}}}", "operationId", id, size, "summary", sentence,
        "description", sentence, "tags", is_oip(path) ? TAG_OIP : TAG_SERVICE, "responses",
        strcmp(method, "DELETE") == 0 ? "204" : "200", "description", sentence);
    add_others(json_object_get(operation, "responses"), path, others, health);
    if (json_array_size(parameters) > 0)
        json_object_set(operation, "parameters", parameters);
    json_decref(parameters);
    if (strcmp(method, "PUT") == 0) {
        json_array_append_new(json_object_get(operation, "parameters"),
                              json_pack("{s:s, s:s, s:{s:s}}", "name", "replace", "in", "query",
                                        "schema", "type", "boolean"));
        json_object_set_new(operation, "requestBody",
                            json_pack("{s:b, s:{s:o}}", "required", 1, "content",
                                      "application/x-safetensors", binary()));
    }
    if (strstr(path, "/infer")) {
        json_object_set_new(operation, "requestBody",
                            json_pack("{s:b, s:o}", "required", 1, "content", inference_content()));
        json_object_set_new(json_object_get(json_object_get(operation, "responses"), "200"),
                            "content", inference_content());
    }
    if (item)
        json_object_set_new(item, verb, operation);
    else
        json_object_set_new(paths, path, json_pack("{s:o}", verb, operation));
}

static json_t *tensor_schema(void)
{
    json_t *dtypes = json_array();
    for (int d = 0; d < LK_DTYPE_COUNT; d++)
        json_array_append_new(dtypes, json_string(lk_dtype_name((lk_dtype)d)));
    json_t *object =
        json_pack("{s:s, s:[s], s:{s:{s:s, s:{s:s, s:i}}, s:{s:s, s:{}}, s:{s:s, s:s}, s:{s:o}}}",
                  "type", "object", "required", "shape", "properties", "shape", "type", "array",
                  "items", "type", "integer", "minimum", 0, "data", "type", "array", "items",
                  "base64", "type", "string", "contentEncoding", "base64", "dtype", "enum", dtypes);
    return json_pack("{s:s, s:[{s:s, s:{}}, {s:s}, {s:s}, o, o]}", "description",
                     "Nested arrays of numbers, one number, a flat form, or where in a region it "
                     "lies. Bare NaN, Infinity and -Infinity are read and written.",
                     "anyOf", "type", "array", "items", "type", "number", "type", "boolean", object,
                     ref("Region"));
}

/* Where in a region a tensor lies; of an output, with its `name`, also a narrower type alone. */
static json_t *place_schema(const char *required, const char *what)
{
    json_t *members =
        json_pack("{s:{s:s}, s:{s:s, s:i}, s:{s:s}, s:{s:s, s:{s:s, s:i}}}", "region", "type",
                  "string", "offset", "type", "integer", "minimum", 0, "dtype", "type", "string",
                  "shape", "type", "array", "items", "type", "integer", "minimum", 0);
    if (!json_object_get(members, required))
        json_object_set_new(members, required, json_pack("{s:s}", "type", "string"));
    return json_pack("{s:s, s:s, s:[s], s:o, s:b}", "type", "object", "description", what,
                     "required", required, "properties", members, "additionalProperties", 0);
}

static json_t *problem_schema(void)
{
    return json_pack("{s:s, s:[s,s,s,s], s:{s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}, "
                     "s:{s:s, s:{s:s}}}}",
                     "type", "object", "required", "title", "status", "detail", "code",
                     "properties", "type", "type", "string", "title", "type", "string", "status",
                     "type", "integer", "detail", "type", "string", "code", "type", "string",
                     "input", "type", "string", "index", "type", "array", "items", "type",
                     "integer");
}

static json_t *oip_error_schema(void)
{
    return json_pack("{s:s, s:[s], s:{s:{s:s}}}", "type", "object", "required", "error",
                     "properties", "error", "type", "string");
}

/* Add a path for each loss, or each transform, and a schema of its options. */
static void add_evaluations(json_t *paths, json_t *schemas, const char *route, const char *others)
{
    for (int i = 0; i < lk_loss_count(); i++) {
        json_t *is = describe_tree(lk_loss_at(i));
        const char *path = json_string_value(json_object_get(is, "path"));
        char name[128]; /* no name of a loss is that long */
        snprintf(name, sizeof name, "%s_options", name_of(is));
        if (strncmp(path, route, strcspn(route, "{")) == 0) {
            json_object_set_new(paths, path, evaluate_path(is, others));
            json_object_set_new(schemas, name, options_schema(is));
        }
        json_decref(is);
    }
}

static json_t *tags(void)
{
    return json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "name", TAG_LOSSES, "description",
                     "A loss or a transform each", "name", TAG_SERVICE, "description",
                     "What there is, and how it does", "name", TAG_OIP, "description",
                     "The same as models of KServe's protocol, version 2");
}

void openapi_write(const lk_loss *all, buffer *to)
{
    (void)all;
    json_t *paths = json_object();
    json_t *schemas = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o}", "Tensor", tensor_schema(), "Lines", lines_schema(),
        "Region",
        place_schema("region", "A tensor in a region. Of a resident one the rest is known."),
        "Output", place_schema("name", "An output in a region, or in a narrower type."), "Problem",
        problem_schema(), "OipError", oip_error_schema());
#define ROUTE(method, path, access, begin, run, others, sentence)                                  \
    if (strcmp(method, "POST") == 0 && !is_oip(path))                                              \
        add_evaluations(paths, schemas, path, others);                                             \
    else if (path[strlen(path) - 1] != '/')                                                        \
        add_plain_path(paths, method, path, strcmp(#access, "ACCESS_HEALTH") == 0, others,         \
                       sentence);
#include "routes.def"
#undef ROUTE
    trees_write(
        json_pack(
            "{s:s, s:{s:s, s:s, s:s, s:{s:s}, s:{s:s, s:s}}, s:[{s:s}], s:o, s:[{}, {s:[]}], "
            "s:o, s:{s:o, s:o, s:{s:{s:s, s:s, s:s}}}}",
            "openapi", "3.1.0", "info", "title", "lossd", "version", lk_version(), "description",
            "Loss functions of Transformer models, with their gradients, over HTTP. The same "
            "inputs and options give the same bits: on every processor, instruction set and "
            "operating system, whatever the number of threads, the body format, the alignment "
            "in memory and the split of a batch over requests.",
            "contact", "name", "losskit", "license", "name", "MIT", "identifier", "MIT", "servers",
            "url", "http://127.0.0.1:8080", "tags", tags(), "security", "key", "paths", paths,
            "components", "schemas", schemas, "parameters", shared_parameters(), "securitySchemes",
            "key", "type", "http", "scheme", "bearer", "description",
            "Asked for where the service was started with --api-key-file."),
        true, to);
}
