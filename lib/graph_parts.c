/* SPDX-License-Identifier: MIT
 *
 * Filling a graph: tensors by name, and parts with their options and inputs. The only file that
 * looks up other losses.
 */
#include "graph.h"

#include <stdlib.h>

/* Names. */

named *lk_graph_find(const graph *g, const char *name)
{
    for (int i = 0; i < g->tensors; i++)
        if (strcmp(g->tensor[i].name, name) == 0)
            return (named *)(uintptr_t)&g->tensor[i];
    return NULL;
}

bool lk_graph_reserves(const graph *g, const char *name)
{
    for (int i = 0; i < RESERVED; i++)
        if (strcmp(g->call.loss->is->inputs[i].name, name) == 0)
            return true;
    return false;
}

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS  "0123456789"

/* Names are copied into replies unescaped, so only letters, digits and joining marks are
 * allowed. */
static bool is_word(const char *name)
{
    const size_t length = strlen(name);
    return length > 0 && length < NAME_SIZE && strspn(name, LETTERS DIGITS "_-./:") == length;
}

/* Does the name of what an input reads mean an output of a part, not a tensor? */
static bool is_edge(const char *name)
{
    return strncmp(name, "part.", 5) == 0;
}

const char *lk_graph_source(const graph *g, const part *p, int i)
{
    if (p->none[i] || is_edge(p->source[i]) || lk_graph_reserves(g, p->is->inputs[i].name))
        return NULL;
    return p->source[i][0] ? p->source[i] : p->is->inputs[i].name;
}

int lk_graph_part_place(const part *p, const char *input)
{
    for (int i = 0; p->is->inputs[i].name; i++)
        if (strcmp(p->is->inputs[i].name, input) == 0)
            return i;
    return -1;
}

int lk_graph_gradient_of(const part *p, const char *output)
{
    return strncmp(output, "grad.", 5) == 0 ? lk_graph_part_place(p, output + 5) : -1;
}

lk_tensor lk_graph_part_output(const part *p, const char *output)
{
    lk_tensor t;
    const char *name;
    for (int o = 0; (name = lk_call_output(p->call, o, &t)); o++)
        if (strcmp(name, output) == 0)
            return t;
    return (lk_tensor){.rank = -1};
}

lk_status lk_graph_part_error(const graph *g, int k, lk_status status, lk_error *error)
{
    if (!error)
        return status;
    const lk_error was = *error;
    const part *p = &g->part[k];
    const int i = lk_graph_part_place(p, was.input);
    const bool linked = i >= 0 && p->from[i] >= 0;
    if (linked)
        snprintf(error->text, sizeof error->text, "parts[%d].inputs.%s: %.180s", k, was.input,
                 was.text);
    else
        snprintf(error->text, sizeof error->text, "parts[%d]: %.220s", k, was.text);
    if (linked)
        error->rank = 0; /* the place is not in a tensor of the request */
    if (i >= 0 && p->source[i][0])
        snprintf(error->input, sizeof error->input, "%.*s", (int)sizeof error->input - 1,
                 linked ? "" : p->source[i]); /* a longer name is cut */
    return status;
}

/* Filling. */

void lk_graph_free(lk_call *call)
{
    graph *g = graph_of(call);
    for (int k = 0; k < g->parts; k++) {
        lk_call_free(g->part[k].call);
        free(g->part[k].options);
    }
    free(g->arena);
    free(g->step);
}

lk_status lk_graph_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error)
{
    graph *g = graph_of(call);
    named *t = lk_graph_find(g, name);
    lk_status status = lk_tensor_check(name, tensor, error);
    if (status != LK_OK)
        return status;
    if (!is_word(name))
        return lk_error_set(
            error, LK_UNKNOWN_INPUT, "",
            "\"%.40s\" is no name of a tensor: 1 to %d letters, digits or _ - . / :", name,
            NAME_SIZE - 1);
    if (is_edge(name))
        return lk_error_set(error, LK_UNKNOWN_INPUT, "",
                            "\"%.40s\" is no name of a tensor: part. begins those of outputs of "
                            "parts",
                            name);
    if (!t && g->tensors == TENSORS_MAX)
        return lk_error_set(error, LK_UNKNOWN_INPUT, name, "more than %d tensors", TENSORS_MAX);
    if (!t)
        t = &g->tensor[g->tensors++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->is = *tensor;
    return LK_OK;
}

unsigned lk_graph_dtypes(const lk_call *call, const char *name)
{
    const graph *g = graph_of(call);
    unsigned all = ~0u;
    for (const lk_input *own = call->loss->is->inputs; own->name; own++)
        if (strcmp(own->name, name) == 0)
            return lk_input_dtypes(own);
    for (int k = 0; k < g->parts; k++) {
        const part *p = &g->part[k];
        const lk_input *in = p->is->inputs;
        for (int i = 0; in[i].name; i++) {
            const char *reads = lk_graph_source(g, p, i);
            if (reads && strcmp(reads, name) == 0)
                all &= lk_input_dtypes(&in[i]);
        }
    }
    return all == ~0u ? 0 : all;
}

const lk_tensor *lk_graph_tensor(const lk_call *call, const char *name)
{
    const named *t = lk_graph_find(graph_of(call), name);
    return t ? &t->is : NULL;
}

/* Outputs are known only when all parts are, so check looks again. */
lk_status lk_graph_want(const lk_call *call, const char *output, lk_wanted *wanted, lk_error *error)
{
    (void)call;
    if (strlen(output) >= sizeof wanted->name)
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "", "there is no output \"%.60s\"", output);
    return LK_OK;
}

lk_status lk_graph_part(lk_call *call, const char *loss, const double *weight, lk_error *error)
{
    graph *g = graph_of(call);
    const lk_loss *found = lk_isa_loss(loss);
    const int k = g->parts;
    if (k == PARTS_MAX)
        return lk_error_set(error, LK_OPTION_OUT_OF_RANGE, "", "parts has more than %d entries",
                            PARTS_MAX);
    if (strcmp(loss, call->loss->is->name) == 0)
        return lk_error_set(error, LK_OPTION_CONFLICT, "",
                            "parts[%d].loss is %s; a part must be a loss of its own", k, loss);
    if (!found)
        return lk_error_set(error, LK_OPTION_INVALID, "",
                            "parts[%d].loss is \"%.40s\"; there is no such loss", k, loss);
    if (weight && (found->is->traits & LK_TRANSFORM))
        return lk_error_set(error, LK_OPTION_CONFLICT, "",
                            "parts[%d].weight is %g; %s is a transform and has no loss", k, *weight,
                            loss);
    if (weight && !isfinite(*weight))
        return lk_error_set(error, LK_OPTION_INVALID, "",
                            "parts[%d].weight is %g; it must be finite", k, *weight);
    part *p = &g->part[k];
    *p = (part){.loss = found, .is = found->is, .weight = weight ? *weight : 1, .weighted = weight};
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        p->tensor[i] = p->from[i] = -1;
    p->call = lk_call_new(found);
    if (!p->call)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for a call");
    g->parts++;
    return LK_OK;
}

lk_status lk_graph_part_name(lk_call *call, const char *name, lk_error *error)
{
    graph *g = graph_of(call);
    const int k = g->parts - 1;
    const size_t length = strlen(name);
    if (k < 0)
        return lk_misuse(error, "there is no part yet");
    if (length == 0 || length >= NAME_SIZE || strspn(name, LETTERS DIGITS "_") != length ||
        strspn(name, DIGITS) == length)
        return lk_error_set(error, LK_GRAPH_INVALID, "",
                            "parts[%d].name is \"%.40s\"; it must be 1 to %d letters, digits or _, "
                            "not all digits",
                            k, name, NAME_SIZE - 1);
    for (int other = 0; other < k; other++)
        if (strcmp(g->part[other].name, name) == 0)
            return lk_error_set(error, LK_GRAPH_INVALID, "",
                                "parts[%d].name is \"%s\", as parts[%d].name is; names differ", k,
                                name, other);
    snprintf(g->part[k].name, NAME_SIZE, "%s", name);
    return LK_OK;
}

/* Keep an option for the calls that will replace this one (lk_graph_renew). */
static lk_status remember(part *p, const char *name, const char *text, lk_error *error)
{
    const size_t name_size = strlen(name) + 1, text_size = strlen(text) + 1;
    char *all = realloc(p->options, p->options_size + name_size + text_size);
    if (!all)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for an option");
    memcpy(all + p->options_size, name, name_size);
    memcpy(all + p->options_size + name_size, text, text_size);
    p->options = all;
    p->options_size += name_size + text_size;
    return LK_OK;
}

lk_status lk_graph_renew(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    if (!p->checked)
        return LK_OK;
    lk_call *fresh = lk_call_new(p->loss); /* the old call stays if there is no memory */
    if (!fresh)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for a call");
    lk_call_free(p->call);
    p->call = fresh;
    p->checked = false;
    lk_status status = LK_OK;
    for (size_t at = 0; at < p->options_size && status == LK_OK;) {
        const char *name = p->options + at, *text = name + strlen(name) + 1;
        status = lk_call_option(p->call, name, text, error);
        at += strlen(name) + strlen(text) + 2;
    }
    return status;
}

lk_status lk_graph_part_option(lk_call *call, const char *name, const char *text, lk_error *error)
{
    graph *g = graph_of(call);
    const int k = g->parts - 1;
    if (k < 0)
        return lk_misuse(error, "there is no part yet");
    const size_t before = g->part[k].options_size;
    lk_status status = lk_graph_renew(g, k, error);
    /* Remembered first: an option that is set must not be lost with its call. */
    if (status == LK_OK)
        status = remember(&g->part[k], name, text, error);
    if (status == LK_OK && (status = lk_call_option(g->part[k].call, name, text, error)) != LK_OK)
        g->part[k].options_size = before;
    return status == LK_OK ? LK_OK : lk_graph_part_error(g, k, status, error);
}

lk_status lk_graph_part_input(lk_call *call, const char *input, const char *tensor, lk_error *error)
{
    graph *g = graph_of(call);
    const int k = g->parts - 1;
    if (k < 0)
        return lk_misuse(error, "there is no part yet");
    part *p = &g->part[k];
    const int i = lk_graph_part_place(p, input);
    if (i < 0)
        return lk_error_set(error, LK_UNKNOWN_INPUT, "",
                            "parts[%d].inputs: %s has no input \"%.40s\"", k, p->is->name, input);
    if (lk_graph_reserves(g, input) || (tensor && lk_graph_reserves(g, tensor)))
        return lk_error_set(error, LK_OPTION_CONFLICT, "",
                            "parts[%d].inputs maps %s; weights, log_vars and grad_output are the "
                            "composite's own",
                            k, input);
    if (tensor && is_edge(tensor) && strlen(tensor) >= SOURCE_SIZE)
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                            "parts[%d].inputs.%s is \"%.70s\"; there is no such output", k, input,
                            tensor);
    if (tensor && !is_edge(tensor) && !is_word(tensor))
        return lk_error_set(
            error, LK_UNKNOWN_INPUT, "",
            "parts[%d].inputs.%s is \"%.40s\", which is no name of a tensor: 1 to %d "
            "letters, digits or _ - . / :",
            k, input, tensor, NAME_SIZE - 1);
    if (!tensor && !(p->is->inputs[i].flags & LK_OPTIONAL))
        return lk_error_set(error, LK_MISSING_INPUT, "",
                            "parts[%d].inputs.%s is null; %s cannot do without it", k, input,
                            p->is->name);
    p->none[i] = !tensor;
    snprintf(p->source[i], SOURCE_SIZE, "%s", tensor ? tensor : "");
    return LK_OK;
}
