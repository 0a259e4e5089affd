/* SPDX-License-Identifier: MIT */
#include "wire/options.h"

#include "wire/number.h"
#include "wire/place.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    LIST_TEXT_MAX = 2048,
    NUMBER_TEXT_MAX = NUMBER_ROOM + 2, /* ".0" */
    PARTS_TEXT_MAX = 64 * 1024,        /* text for jansson */
};

/* The type of an option; LK_REAL if the loss has no such option. */
static lk_type type_of(const lk_loss *loss, const char *name)
{
    for (const lk_field *f = lk_loss_describe(loss)->options; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f->type;
    return LK_REAL;
}

/* A number as text. A real that is whole stays a real: 2.0 is not an integer. */
static char *put_number(char to[NUMBER_TEXT_MAX], const json_t *value)
{
    if (json_is_integer(value))
        return number_write_i64(to, json_integer_value(value));
    char *end = number_write_f64(to, json_real_value(value));
    if (!memchr(to, '.', (size_t)(end - to)) && !memchr(to, 'e', (size_t)(end - to)))
        end = (char *)memcpy(end, ".0", 2) + 2;
    return end;
}

/* What an array for an option of that type holds; NULL: the option takes no array. */
static const char *items_of(lk_type type)
{
    return type == LK_LIST || type == LK_REALS ? "numbers" : type == LK_CHOICES ? "words" : NULL;
}

/* The text form of a JSON value; `made` is the buffer for it, if one is needed. NULL: it has
 * none. */
static const char *text_of(const json_t *value, lk_type type, char made[LIST_TEXT_MAX])
{
    char *end = made;
    size_t i;
    const json_t *one;
    if (json_is_string(value))
        return json_string_value(value);
    if (json_is_boolean(value))
        return json_is_true(value) ? "true" : "false";
    if (json_is_null(value))
        return "off";
    if (json_is_number(value)) {
        *put_number(made, value) = '\0';
        return made;
    }
    if (!json_is_array(value) || !items_of(type))
        return NULL;
    json_array_foreach(value, i, one)
    {
        const size_t word = type == LK_CHOICES ? json_string_length(one) : NUMBER_TEXT_MAX;
        if ((type == LK_CHOICES ? !json_is_string(one) : !json_is_number(one)) ||
            word >= (size_t)(made + LIST_TEXT_MAX - end) - 2)
            return NULL;
        if (i > 0)
            *end++ = ',';
        end = type != LK_CHOICES ? put_number(end, one)
                                 : (char *)memcpy(end, json_string_value(one), word) + word;
    }
    *end = '\0';
    return made;
}

static bool no_text(const char *where, const char *name, lk_type type, problem *p)
{
    const char *items = items_of(type);
    return problem_set(p, 422, "option_invalid", "%s%s must be %s%s, a string or null", where, name,
                       items ? "an array of " : "a number, true, false", items ? items : "");
}

static bool bad_part(size_t k, const char *member, const char *must_be, problem *p)
{
    return problem_set(p, 422, "option_invalid", "parts[%zu]%s%s must be %s", k, *member ? "." : "",
                       member, must_be);
}

static bool part_members(evaluation *e, size_t k, json_t *part, problem *p)
{
    const lk_loss *loss = lk_loss_find(json_string_value(json_object_get(part, "loss")));
    char text[LIST_TEXT_MAX], where[32];
    const char *name;
    json_t *value;
    lk_error error;
    json_object_foreach(json_object_get(part, "inputs"), name, value)
    {
        if (!json_is_string(value) && !json_is_null(value))
            return bad_part(k, "inputs", "an object of names of tensors, or null", p);
        if (lk_call_part_input(e->call, name, json_string_value(value), &error) != LK_OK)
            return problem_from(p, &error);
    }
    snprintf(where, sizeof where, "parts[%zu].options.", k);
    json_object_foreach(json_object_get(part, "options"), name, value)
    {
        const lk_type type = type_of(loss, name);
        const char *option = text_of(value, type, text);
        if (!option)
            return no_text(where, name, type, p);
        if (lk_call_part_option(e->call, name, option, &error) != LK_OK)
            return problem_from(p, &error);
    }
    return true;
}

static bool read_part(evaluation *e, size_t k, json_t *part, problem *p)
{
    const char *name;
    json_t *value;
    lk_error error;
    if (!json_is_object(part))
        return bad_part(k, "", "an object with loss, name, weight, inputs and options", p);
    json_object_foreach(part, name, value)
    {
        if (strcmp(name, "loss") == 0 && !json_is_string(value))
            return bad_part(k, name, "the name of a loss", p);
        if (strcmp(name, "name") == 0 && !json_is_string(value))
            return bad_part(k, name, "a string", p);
        if (strcmp(name, "weight") == 0 && !json_is_number(value))
            return bad_part(k, name, "a number", p);
        if ((strcmp(name, "inputs") == 0 || strcmp(name, "options") == 0) && !json_is_object(value))
            return bad_part(k, name, "an object", p);
        if (strcmp(name, "loss") != 0 && strcmp(name, "name") != 0 && strcmp(name, "weight") != 0 &&
            strcmp(name, "inputs") != 0 && strcmp(name, "options") != 0)
            return problem_set(p, 422, "option_invalid",
                               "parts[%zu] has a member \"%.40s\"; a part has loss, name, weight, "
                               "inputs and options",
                               k, name);
    }
    const char *loss = json_string_value(json_object_get(part, "loss"));
    const char *own = json_string_value(json_object_get(part, "name"));
    const json_t *weight = json_object_get(part, "weight");
    if (!loss)
        return bad_part(k, "loss", "there", p);
    lk_status status = weight ? lk_call_part(e->call, loss, json_number_value(weight), &error)
                              : lk_call_part_unweighted(e->call, loss, &error);
    if (status == LK_OK && own)
        status = lk_call_part_name(e->call, own, &error);
    if (status != LK_OK)
        return problem_from(p, &error);
    return part_members(e, k, part, p);
}

static bool read_parts(evaluation *e, const char *name, const json_t *parts, problem *p)
{
    size_t k;
    json_t *part;
    if (e->has_parts)
        return problem_set(p, 422, "duplicate_option", "option %s is set twice", name);
    e->has_parts = true;
    if (!json_is_array(parts))
        return problem_set(p, 422, "option_invalid", "option %s must be an array of parts", name);
    json_array_foreach(parts, k, part) if (!read_part(e, k, part, p)) return false;
    return true;
}

bool wire_option(evaluation *e, const char *name, const char *text, problem *p)
{
    json_error_t syntax = {0};
    lk_error error;
    if (type_of(e->loss, name) != LK_PARTS)
        return lk_call_option(e->call, name, text, &error) == LK_OK || problem_from(p, &error);
    if (strlen(text) > PARTS_TEXT_MAX)
        return problem_set(p, 413, "too_large", "option %s takes more than %d bytes", name,
                           PARTS_TEXT_MAX);
    json_t *parts = json_loads(text, JSON_REJECT_DUPLICATES, &syntax);
    if (!parts && syntax.text[0] == '\0') /* jansson gives no message when out of memory */
        return problem_set(p, 503, "no_memory", "no memory for %s; try again later", name);
    if (!parts)
        return problem_set(p, 422, "option_invalid", "option %s, at byte %d: %s", name,
                           syntax.position, syntax.text);
    const bool ok = read_parts(e, name, parts, p);
    json_decref(parts);
    return ok;
}

bool wire_option_json(evaluation *e, const char *name, const json_t *value, problem *p)
{
    const lk_type type = type_of(e->loss, name);
    char made[LIST_TEXT_MAX];
    if (type == LK_PARTS && !json_is_string(value))
        return read_parts(e, name, value, p);
    const char *text = text_of(value, type, made);
    return text ? wire_option(e, name, text, p) : no_text("option ", name, type, p);
}

/* The colon before an element type at the end of a name; NULL: there is none. Names of tensors, and
 * so of gradients, may have colons. */
static char *find_type(char *name)
{
    char *last = strrchr(name, ':');
    for (int type = 0; last && type < LK_DTYPE_COUNT; type++)
        if (strcmp(lk_dtype_name((lk_dtype)type), last + 1) == 0)
            return last;
    return NULL;
}

/* An output of a list: NAME, or NAME:TYPE for a narrower type. */
static bool want(evaluation *e, char *name, problem *p)
{
    char *type = find_type(name);
    lk_error error;
    if (!type && lk_call_want(e->call, name, &error) == LK_OK)
        return true;
    type = type ? type : strchr(name, ':'); /* what is no type is said to be none */
    if (type)
        *type++ = '\0';
    if (lk_call_want(e->call, name, &error) != LK_OK)
        return problem_from(p, &error);
    place narrower = place_new(name, PLACE_OUTPUT);
    return !type || (place_type(&narrower, name, type, p) && place_output(e, &narrower, p));
}

bool wire_outputs(evaluation *e, const char *list, problem *p)
{
    char name[64];
    if (e->outputs_named)
        return problem_set(p, 422, "duplicate_option", "outputs is given twice");
    e->outputs_named = true;
    while (true) {
        list += strspn(list, " ");
        size_t length = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), list);
        if (!want(e, name, p))
            return false;
        if (list[length] == '\0')
            return true;
        list += length + 1;
    }
}
