/* SPDX-License-Identifier: MIT */
#include "catalogue/describe.h"

#include "catalogue/trees.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *text(const char *s)
{
    return s ? json_string(s) : json_null();
}

static json_t *words(const char *list, char separator)
{
    const char stop[] = {separator, '\0'};
    json_t *array = json_array();
    while (*list != '\0') {
        size_t n = strcspn(list, stop);
        json_array_append_new(array, json_stringn(list, n));
        list += n + (list[n] == separator);
    }
    return array;
}

static json_t *dtypes(unsigned set)
{
    json_t *array = json_array();
    for (int d = 0; d < LK_DTYPE_COUNT; d++)
        if (set >> d & 1)
            json_array_append_new(array, json_string(lk_dtype_name((lk_dtype)d)));
    return array;
}

/* A shape pattern for people: the letters and the star as in losskit.h, without "@option", which is
 * internal. */
static json_t *pattern(const char *shape)
{
    char text[256]; /* no pattern of the library is that long */
    size_t size = 0;
    const bool spreads = *shape == '~', cut = strchr(shape, '-') != NULL;
    shape += spreads ? strlen("~ ") : 0;
    for (; *shape != '\0' && size < sizeof text; shape++) {
        if (*shape == '@')
            shape += strcspn(shape, " ") - 1;
        else if (*shape != '-')
            text[size++] = *shape == ' ' ? ',' : *shape;
    }
    return json_sprintf("%s[%.*s]%s", spreads ? "broadcasts to " : "", (int)size, text,
                        cut ? " without its last axis" : "");
}

static json_t *input_json(const lk_input *in)
{
    json_t *forms = json_array();
    for (int f = 0; f < 3 && in->forms[f].shape; f++) {
        bool like_loss = strcmp(in->forms[f].shape, "loss") == 0;
        json_array_append_new(
            forms, json_pack("{s:o, s:o}", "shape",
                             like_loss ? json_string("shape of loss") : pattern(in->forms[f].shape),
                             "dtypes", dtypes(in->forms[f].dtypes)));
    }
    json_t *o = json_pack("{s:s, s:b, s:b, s:b, s:b, s:o}", "name", in->name, "required",
                          !(in->flags & LK_OPTIONAL), "differentiable",
                          (in->flags & LK_DIFFERENTIABLE) != 0, "default_gradient",
                          (in->flags & LK_GRADIENT) != 0, "in_place",
                          (in->flags & LK_ROW_LOCAL) != 0, "forms", forms);
    if (in->range)
        json_object_set_new(o, "range", json_string(in->range));
    json_object_set_new(o, "help", text(in->help));
    return o;
}

static const char *type_word(const lk_field *f)
{
    static const char *const names[] = {"real", "integer", "unsigned", "flag", "choice",
                                        "list", "reals",   "choices",  "parts"};
    return names[f->type];
}

/* A default as the JSON value that a client would send. */
static json_t *fallback(const lk_field *f)
{
    if (!f->fallback || ((f->flags & LK_OFF) && strcmp(f->fallback, "off") == 0))
        return json_null();
    if (f->type == LK_FLAG)
        return json_boolean(strcmp(f->fallback, "true") == 0);
    if (f->type == LK_LIST || f->type == LK_REALS)
        return json_array();
    if (f->type == LK_REAL)
        return json_loads(f->fallback, JSON_DECODE_ANY, NULL);
    if (f->type == LK_CHOICE)
        return json_string(f->fallback);
    if (f->type == LK_CHOICES)
        return words(f->fallback, ',');
    return json_integer(strtoll(f->fallback, NULL, 10));
}

static json_t *option_json(const lk_field *f)
{
    json_t *o = json_pack("{s:s, s:s, s:b}", "name", f->name, "type", type_word(f), "required",
                          f->fallback == NULL);
    if (f->fallback)
        json_object_set_new(o, "default", fallback(f));
    if (f->flags & LK_RANGED) {
        if (!isinf(f->min))
            json_object_set_new(o, f->flags & LK_OPEN ? "greater_than" : "minimum",
                                json_real(f->min));
        if (!isinf(f->max))
            json_object_set_new(o, f->flags & LK_OPEN_END ? "less_than" : "maximum",
                                json_real(f->max));
        if (f->flags & LK_NONZERO)
            json_object_set_new(o, "not", json_integer(0));
    }
    if (f->choices)
        json_object_set_new(o, "choices", words(f->choices, '|'));
    if (f->flags & LK_OFF)
        json_object_set_new(o, "can_be_off", json_true());
    json_object_set_new(o, "help", text(f->help));
    return o;
}

static json_t *output_json(const char *name, const char *shape, const char *dtype, bool is_default,
                           const char *help)
{
    bool like_loss = strcmp(shape, "loss") == 0;
    return json_pack("{s:s, s:o, s:s, s:b, s:s}", "name", name, "shape",
                     like_loss ? json_string("shape of loss") : pattern(shape), "dtype", dtype,
                     "default", is_default, "help", help);
}

/* The type of an output, in words. */
static const char *output_type(const lk_output *out)
{
    if (out->dtype != LK_ANY)
        return lk_dtype_name(out->dtype);
    return out->like ? "as the input" : "f32, or f64 with f64 inputs";
}

static json_t *outputs_json(const lk_description *is)
{
    static const char help_rows[] = "the loss: this shape with reduction none, else one number";
    json_t *array = json_array();
    if (!(is->traits & LK_TRANSFORM))
        json_array_append_new(array, output_json("loss", is->loss_shape ? is->loss_shape : "",
                                                 "f32, or f64 with f64 inputs", true,
                                                 is->loss_shape ? help_rows : "the loss"));
    for (const lk_input *in = is->inputs; in->name; in++) {
        if (!(in->flags & LK_DIFFERENTIABLE))
            continue;
        const lk_form *form = &in->forms[in->forms[0].dtypes & LK_FLOATS ? 0 : 1];
        json_array_append_new(
            array, json_pack("{s:o, s:o, s:s, s:b, s:o}", "name", json_sprintf("grad.%s", in->name),
                             "shape", pattern(form->shape), "dtype", "as the input", "default",
                             (in->flags & LK_GRADIENT) != 0, "help",
                             json_sprintf("gradient of the loss with respect to %s", in->name)));
    }
    for (const lk_output *out = is->outputs; out->name; out++)
        json_array_append_new(array, output_json(out->name, out->shape, output_type(out),
                                                 (out->flags & LK_DEFAULT) != 0, out->help));
    return array;
}

const char *describe_kind(const lk_loss *loss)
{
    return lk_loss_describe(loss)->traits & LK_TRANSFORM ? "transforms" : "losses";
}

json_t *describe_tree(const lk_loss *loss)
{
    const lk_description *is = lk_loss_describe(loss);
    json_t *inputs = json_array(), *options = json_array();
    for (const lk_input *in = is->inputs; in->name; in++)
        json_array_append_new(inputs, input_json(in));
    for (const lk_field *f = is->options; f->name; f++)
        json_array_append_new(options, option_json(f));
    return json_pack("{s:s, s:o, s:s, s:s, s:o, s:s, s:s, s:b, s:o, s:o, s:o, s:o}", "name",
                     is->name, "path", json_sprintf("/v1/%s/%s", describe_kind(loss), is->name),
                     "title", is->title, "formula", is->formula, "tex", text(is->tex), "help",
                     is->help, "reference", is->reference, "made_of_parts",
                     (is->traits & LK_DYNAMIC) != 0, "inputs", inputs, "options", options,
                     "outputs", outputs_json(is), "example", json_loads(is->example, 0, NULL));
}

void describe_json(const lk_loss *loss, buffer *to)
{
    if (loss) {
        trees_write(describe_tree(loss), true, to);
        return;
    }
    json_t *all = json_array();
    for (int i = 0; i < lk_loss_count(); i++)
        json_array_append_new(all, describe_tree(lk_loss_at(i)));
    trees_write(json_pack("{s:o}", "losses", all), true, to);
}

/* Text. The tables for the terminal and for Markdown are made from the JSON above, so that the
 * three cannot disagree. */

static const char *string(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

static bool truth(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static void join(const json_t *array, const char *separator, buffer *to)
{
    size_t i;
    json_t *word;
    json_array_foreach((json_t *)(uintptr_t)array, i, word)
        buffer_printf(to, "%s%s", i ? separator : "", json_string_value(word));
}

static void forms_text(const json_t *input, buffer *to)
{
    size_t i;
    json_t *form;
    json_array_foreach(json_object_get(input, "forms"), i, form)
    {
        buffer_printf(to, "%s%s ", i ? " or " : "", string(form, "shape"));
        join(json_object_get(form, "dtypes"), "/", to);
    }
}

/* "0 to 1", or each bound by itself: "> 0 and < 1". */
static void bounds_text(const json_t *option, buffer *to)
{
    static const char *const bounds[][2] = {
        {"minimum", ">="}, {"greater_than", ">"}, {"maximum", "<="}, {"less_than", "<"}};
    const json_t *min = json_object_get(option, "minimum"),
                 *max = json_object_get(option, "maximum"), *bound;
    const char *between = "";
    if (min && max) {
        buffer_printf(to, "%g to %g", json_real_value(min), json_real_value(max));
    } else {
        for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
            if (!(bound = json_object_get(option, bounds[i][0])))
                continue;
            buffer_printf(to, "%s%s %g", between, bounds[i][1], json_real_value(bound));
            between = " and ";
        }
    }
    if (json_object_get(option, "not"))
        buffer_text(to, ", not 0");
}

static bool has_bounds(const json_t *option)
{
    return json_object_get(option, "minimum") || json_object_get(option, "greater_than") ||
           json_object_get(option, "maximum") || json_object_get(option, "less_than");
}

static void range_text(const json_t *option, buffer *to)
{
    const json_t *choices = json_object_get(option, "choices");
    if (choices)
        join(choices, ", ", to);
    else if (has_bounds(option))
        bounds_text(option, to);
    else
        buffer_text(to, string(option, "type"));
    if (truth(option, "can_be_off"))
        buffer_text(to, " or off");
}

static void default_text(const json_t *option, buffer *to)
{
    const json_t *value = json_object_get(option, "default");
    char *dumped =
        json_is_null(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
    if (truth(option, "required"))
        buffer_text(to, "required");
    else
        buffer_text(to, dumped ? dumped : "off");
    free(dumped);
}

static void loss_text(const lk_loss *loss, buffer *to)
{
    json_t *is = describe_tree(loss), *entry;
    size_t i;
    buffer_printf(to, "%s: %s\n\n  %s\n\n%s\nSource: %s\n\nInputs\n", string(is, "name"),
                  string(is, "title"), string(is, "formula"), string(is, "help"),
                  string(is, "reference"));
    json_array_foreach(json_object_get(is, "inputs"), i, entry)
    {
        buffer_printf(to, "  %-16s ", string(entry, "name"));
        forms_text(entry, to);
        buffer_printf(to, "%s%s\n  %-16s %s\n", truth(entry, "required") ? ", required" : "",
                      truth(entry, "in_place") ? ", gradient in place" : "", "",
                      string(entry, "help"));
    }
    buffer_text(to, "\nOptions\n");
    json_array_foreach(json_object_get(is, "options"), i, entry)
    {
        buffer_printf(to, "  %-16s ", string(entry, "name"));
        range_text(entry, to);
        buffer_text(to, "; default ");
        default_text(entry, to);
        buffer_printf(to, "\n  %-16s %s\n", "", string(entry, "help"));
    }
    buffer_text(to, "\nOutputs\n");
    json_array_foreach(json_object_get(is, "outputs"), i, entry)
        buffer_printf(to, "  %-16s %s %s%s\n  %-16s %s\n", string(entry, "name"),
                      string(entry, "shape"), string(entry, "dtype"),
                      truth(entry, "default") ? ", by default" : "", "", string(entry, "help"));
    buffer_printf(to, "\nExample\n  %s\n", lk_loss_describe(loss)->example);
    json_decref(is);
}

void describe_text(const lk_loss *loss, buffer *to)
{
    if (loss) {
        loss_text(loss, to);
        return;
    }
    for (int i = 0; i < lk_loss_count(); i++) {
        const lk_description *is = lk_loss_describe(lk_loss_at(i));
        buffer_printf(to, "%-28s %s\n", is->name, is->title);
    }
}

/* Write a cell of a table, in which bars are escaped. */
static void cell(const char *s, buffer *to)
{
    for (; *s != '\0'; s++)
        buffer_printf(to, "%s%c", *s == '|' ? "\\" : "", *s);
}

static void loss_markdown(const lk_loss *loss, buffer *to)
{
    json_t *is = describe_tree(loss), *entry;
    size_t i;
    buffer_printf(to, "\n## %s\n\n%s.\n", string(is, "name"), string(is, "title"));
    if (string(is, "tex")[0] != '\0')
        buffer_printf(to, "\n```math\n%s\n```\n", string(is, "tex"));
    buffer_printf(to, "\n    %s\n\n%s\n\nSource: %s.\n", string(is, "formula"), string(is, "help"),
                  string(is, "reference"));
    buffer_text(to, "\n| input | shape and dtypes | | |\n|---|---|---|---|\n");
    json_array_foreach(json_object_get(is, "inputs"), i, entry)
    {
        buffer_printf(to, "| `%s` | ", string(entry, "name"));
        forms_text(entry, to);
        buffer_printf(to, " | %s%s%s | ", truth(entry, "required") ? "required" : "",
                      truth(entry, "differentiable") ? " differentiable" : "",
                      truth(entry, "in_place") ? " in place" : "");
        cell(string(entry, "help"), to);
        buffer_text(to, " |\n");
    }
    buffer_text(to, "\n| option | values | default | |\n|---|---|---|---|\n");
    json_array_foreach(json_object_get(is, "options"), i, entry)
    {
        buffer_printf(to, "| `%s` | ", string(entry, "name"));
        range_text(entry, to);
        buffer_text(to, " | ");
        default_text(entry, to);
        buffer_text(to, " | ");
        cell(string(entry, "help"), to);
        buffer_text(to, " |\n");
    }
    buffer_text(to, "\n| output | shape | dtype | |\n|---|---|---|---|\n");
    json_array_foreach(json_object_get(is, "outputs"), i, entry)
    {
        buffer_printf(to, "| `%s`%s | %s | %s | ", string(entry, "name"),
                      truth(entry, "default") ? " (default)" : "", string(entry, "shape"),
                      string(entry, "dtype"));
        cell(string(entry, "help"), to);
        buffer_text(to, " |\n");
    }
    buffer_printf(to, "\nExample:\n\n    curl -d '%s' http://127.0.0.1:8080%s\n",
                  lk_loss_describe(loss)->example, string(is, "path"));
    json_decref(is);
}

void describe_markdown(buffer *to)
{
    buffer_text(to,
                "# The losses\n\nGenerated by `make api` from the descriptions in lib/losses/; "
                "do not edit.\n\nShapes: a letter is one size, the same in all inputs of a loss; "
                "`*` is any number of leading sizes.\n");
    for (int i = 0; i < lk_loss_count(); i++)
        loss_markdown(lk_loss_at(i), to);
}
