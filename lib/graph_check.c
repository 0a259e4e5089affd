/* SPDX-License-Identifier: MIT
 *
 * Checks of a graph: which tensor each input of each part reads, the checks of the parts, and which
 * outputs there are.
 */
#include "graph.h"

/* Which tensor each input of each part reads. */
static lk_status connect(graph *g, lk_error *error)
{
    for (int k = 0; k < g->parts; k++) {
        part *p = &g->part[k];
        const lk_input *in = p->is->inputs;
        for (int i = 0; in[i].name; i++) {
            const bool mapped = p->source[i][0] != '\0';
            const char *name = lk_graph_source(g, p, i);
            named *t = name ? lk_graph_find(g, name) : NULL;
            if (mapped && !t)
                return lk_error_set(error, LK_MISSING_INPUT, p->source[i],
                                    "%s is missing; parts[%d].inputs maps %s to it", p->source[i],
                                    k, in[i].name);
            p->tensor[i] = t ? (int)(t - g->tensor) : -1;
            if (t)
                t->used = true;
        }
    }
    return LK_OK;
}

/* The first differentiable input of the first part chooses the element type. */
static lk_status choose_primary(graph *g, lk_error *error)
{
    for (int k = 0; k < g->parts; k++) {
        const lk_input *in = g->part[k].is->inputs;
        for (int i = 0; in[i].name; i++) {
            named *t = g->part[k].tensor[i] < 0 ? NULL : &g->tensor[g->part[k].tensor[i]];
            if (!t || !(in[i].flags & LK_DIFFERENTIABLE))
                continue;
            if (t->is.dtype == LK_ANY)
                t->is.dtype = LK_F32;
            g->primary = t->is.dtype;
            g->real = g->primary == LK_F64 ? LK_F64 : LK_F32;
            return LK_OK;
        }
    }
    return lk_error_set(error, LK_MISSING_INPUT, "",
                        "none of the parts has an input that it can differentiate");
}

static lk_status ask_part(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    const lk_input *in = p->is->inputs;
    char name[64];
    if (g->call.wanted_count == 0)
        return LK_OK; /* the part's defaults */
    lk_status status = lk_call_want(p->call, "loss", error);
    for (int w = 0; w < g->call.wanted_count && status == LK_OK; w++) {
        const char *wants = g->call.wanted[w].name;
        const bool gradient = strncmp(wants, "grad.", 5) == 0;
        for (int i = 0; gradient && in[i].name && status == LK_OK; i++) {
            if (p->tensor[i] < 0 || !(in[i].flags & LK_DIFFERENTIABLE) ||
                strcmp(g->tensor[p->tensor[i]].name, wants + 5) != 0)
                continue;
            snprintf(name, sizeof name, "grad.%s", in[i].name);
            status = lk_call_want(p->call, name, error);
        }
        snprintf(name, sizeof name, "part.%d.", k);
        const char *own = wants + strlen(name); /* check_output refuses names that no part has */
        if (strncmp(wants, name, strlen(name)) == 0 && strcmp(own, "loss") != 0)
            status = lk_call_want(p->call, own, error);
    }
    return status;
}

/* Give a part its inputs, without data, with 16-bit types widened if other inputs are wider. */
static lk_status give_inputs(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    const lk_input *in = p->is->inputs;
    lk_status status = LK_OK;
    for (int i = 0; in[i].name && status == LK_OK; i++) {
        lk_tensor t = lk_scalar(LK_F64, NULL); /* grad_output of a scalar loss */
        if (p->tensor[i] >= 0)
            t = g->tensor[p->tensor[i]].is;
        else if (strcmp(in[i].name, g->call.loss->is.inputs[UPSTREAM].name) != 0)
            continue;
        t.data = NULL;
        if (t.dtype == LK_ANY && (in[i].flags & LK_DIFFERENTIABLE) &&
            !(in[i].forms[0].dtypes & LK_INTS))
            t.dtype = g->primary;
        if (is_half(g->primary) && is_half(t.dtype))
            t.dtype = LK_F32;
        status = lk_call_input(p->call, in[i].name, &t, error);
    }
    return status;
}

/* All that the parts differentiate has one element type. */
static lk_status check_types(const graph *g, lk_error *error)
{
    for (int k = 0; k < g->parts; k++) {
        const part *p = &g->part[k];
        const lk_input *in = p->is->inputs;
        for (int i = 0; in[i].name; i++) {
            const named *t = p->tensor[i] < 0 ? NULL : &g->tensor[p->tensor[i]];
            if (t && (in[i].flags & LK_DIFFERENTIABLE) && t->is.dtype != LK_ANY &&
                lk_is_float(t->is.dtype) && t->is.dtype != g->primary)
                return lk_error_set(error, LK_DTYPE_UNSUPPORTED, t->name,
                                    "%s is %s; it must be %s, as all that the parts differentiate",
                                    t->name, lk_dtype_name(t->is.dtype), lk_dtype_name(g->primary));
        }
    }
    return LK_OK;
}

/* Element types that the request left open become those that the part has chosen. */
static void resolve_types(graph *g, int k)
{
    const part *p = &g->part[k];
    const lk_input *in = p->is->inputs;
    for (int i = 0; in[i].name; i++) {
        if (p->tensor[i] < 0)
            continue;
        named *t = &g->tensor[p->tensor[i]];
        const lk_dtype resolved = lk_call_tensor(p->call, in[i].name)->dtype;
        if (t->is.dtype == LK_ANY)
            t->is.dtype = lk_is_float(resolved) && is_half(g->primary) ? g->primary : resolved;
    }
}

static lk_status check_part(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    lk_status status = lk_graph_renew(g, k, error);
    p->checked = true;
    if (status == LK_OK)
        status = give_inputs(g, k, error);
    if (status == LK_OK)
        status = ask_part(g, k, error);
    if (status == LK_OK)
        status = lk_call_check(p->call, error);
    if (status == LK_OK) {
        resolve_types(g, k);
        return LK_OK;
    }
    /* The graph gives a part a scalar as its upstream gradient. */
    if (strcmp(error->input, g->call.loss->is.inputs[UPSTREAM].name) == 0)
        return lk_error_set(
            error, LK_OPTION_CONFLICT, "",
            "parts[%d] gives a loss for each row; the loss of a part must be one number", k);
    return lk_graph_part_error(g, k, status, error);
}

/* weights, log_vars and grad_output: [K], [K], []. */
static lk_status check_reserved(graph *g, int which, lk_error *error)
{
    const lk_input *own = g->call.loss->is.inputs;
    named *t = lk_graph_find(g, own[which].name);
    if (!t)
        return LK_OK;
    const bool one = lk_tensor_count(&t->is) == 1 && t->is.rank <= 1;
    const bool all = t->is.rank == 1 && t->is.shape[0] == g->parts;
    if (t->is.dtype == LK_ANY)
        t->is.dtype = g->primary;
    if (!lk_is_float(t->is.dtype) || (which != UPSTREAM && t->is.dtype != g->primary))
        return lk_error_set(error, LK_DTYPE_UNSUPPORTED, t->name, "%s is %s; it must be %s",
                            t->name, lk_dtype_name(t->is.dtype),
                            which == UPSTREAM ? "f64, f32, f16 or bf16"
                                              : lk_dtype_name(g->primary));
    char has[LK_SHAPE_TEXT];
    if (which == UPSTREAM && !one)
        return lk_error_set(error, LK_SHAPE_MISMATCH, t->name, "%s has shape %s; it must be []",
                            t->name, lk_shape_text(&t->is, has));
    if (which != UPSTREAM && !all)
        return lk_error_set(error, LK_SHAPE_MISMATCH, t->name, "%s has shape %s; it must be [%d]",
                            t->name, lk_shape_text(&t->is, has), g->parts);
    return LK_OK;
}

static bool is_uncertain(const graph *g)
{
    const graph_options *o = g->call.options;
    return o->combine == UNCERTAINTY;
}

static lk_status check_combine(const graph *g, lk_error *error)
{
    const graph_options *o = g->call.options;
    const bool uncertain = is_uncertain(g);
    if (lk_graph_find(g, "weights") && uncertain)
        return lk_error_set(error, LK_OPTION_CONFLICT, "weights",
                            "combine=uncertainty excludes weights; log_vars takes its place");
    if (lk_graph_find(g, "log_vars") && !uncertain)
        return lk_error_set(error, LK_OPTION_CONFLICT, "log_vars",
                            "log_vars needs combine=uncertainty");
    if (o->scales.count > 0 && !uncertain)
        return lk_error_set(error, LK_OPTION_CONFLICT, "", "scales needs combine=uncertainty");
    if (o->scales.count > 0 && o->scales.count != g->parts)
        return lk_error_set(error, LK_OPTION_OUT_OF_RANGE, "",
                            "scales has %lld numbers; it must have one for each of the %d parts",
                            (long long)o->scales.count, g->parts);
    for (int k = 0; k < g->parts; k++)
        if (uncertain && g->part[k].weight != 1)
            return lk_error_set(error, LK_OPTION_CONFLICT, "",
                                "parts[%d].weight is %g; with combine=uncertainty it must be 1", k,
                                g->part[k].weight);
    return LK_OK;
}

lk_status lk_graph_check_parts(graph *g, lk_error *error)
{
    lk_status status = LK_OK;
    for (int k = 0; k < g->parts && status == LK_OK; k++)
        status = check_part(g, k, error);
    return status;
}

/* Does any part have a gradient with respect to that tensor? */
static bool is_differentiated(const graph *g, const named *t)
{
    const char *output;
    if (lk_graph_reserves(g, t->name))
        return strcmp(t->name, g->call.loss->is.inputs[UPSTREAM].name) != 0;
    for (int k = 0; k < g->parts; k++)
        for (int o = 0; (output = lk_call_output(g->part[k].call, o, NULL)); o++)
            if (lk_graph_gradient_of(g, k, output) == t)
                return true;
    return false;
}

static lk_status default_outputs(graph *g, lk_error *error)
{
    char name[48];
    const lk_wanted *last = lk_wanted_add(&g->call, "loss", VALUE, 0);
    for (int i = 0; i < g->tensors && last; i++) {
        snprintf(name, sizeof name, "grad.%s", g->tensor[i].name);
        if (!lk_graph_reserves(g, g->tensor[i].name) && is_differentiated(g, &g->tensor[i]))
            last = lk_wanted_add(&g->call, name, GRADIENT, i);
    }
    if (last && lk_wanted_add(&g->call, "parts", DIAGNOSTIC, 0))
        return LK_OK;
    return lk_error_set(error, LK_UNKNOWN_OUTPUT, "", "more than %d outputs",
                        g->call.kind->outputs);
}

/* Find the output of a part that "part.<k>.<output>" names, with its type and shape. */
static bool find_part_output(const graph *g, const char *name, lk_tensor *is)
{
    char shown[64];
    const char *output;
    for (int k = 0; k < g->parts; k++) {
        for (int o = 0; (output = lk_call_output(g->part[k].call, o, is)); o++) {
            snprintf(shown, sizeof shown, "part.%d.%s", k, output);
            if (strcmp(shown, name) == 0)
                return strcmp(output, "loss") != 0 && strncmp(output, "grad.", 5) != 0;
        }
    }
    return false;
}

static lk_status unknown_output(const char *name, lk_error *error)
{
    if (strncmp(name, "part.", 5) == 0)
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                            "there is no output \"%s\"; part.<k>.<output> names an output of part "
                            "k that is neither loss nor gradient",
                            name);
    return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                        "there is no output \"%s\"; there are loss, parts, part.<k>.<output> and "
                        "grad.<tensor> of what the parts differentiate",
                        name);
}

/* Could that output exist, by the descriptions of the parts? */
static bool is_possible(const graph *g, const char *name)
{
    char shown[64];
    const named *t = strncmp(name, "grad.", 5) == 0 ? lk_graph_find(g, name + 5) : NULL;
    if (strcmp(name, "loss") == 0 || strcmp(name, "parts") == 0)
        return true;
    if (t && lk_graph_reserves(g, t->name))
        return strcmp(t->name, g->call.loss->is.inputs[UPSTREAM].name) != 0;
    for (int k = 0; k < g->parts; k++) {
        const part *p = &g->part[k];
        for (int i = 0; t && p->is->inputs[i].name; i++)
            if (p->tensor[i] == (int)(t - g->tensor) &&
                (p->is->inputs[i].flags & LK_DIFFERENTIABLE))
                return true;
        for (int o = 0; p->is->outputs[o].name; o++) {
            snprintf(shown, sizeof shown, "part.%d.%s", k, p->is->outputs[o].name);
            if (strcmp(shown, name) == 0)
                return true;
        }
    }
    return false;
}

/* The names of the request that the graph itself can judge. */
static lk_status check_names(const graph *g, lk_error *error)
{
    if (is_uncertain(g) && !lk_graph_find(g, "log_vars"))
        return lk_error_set(error, LK_MISSING_INPUT, "log_vars",
                            "log_vars is missing; combine=uncertainty needs it");
    for (int i = 0; i < g->tensors; i++)
        if (!g->tensor[i].used && !lk_graph_reserves(g, g->tensor[i].name))
            return lk_error_set(error, LK_UNKNOWN_INPUT, g->tensor[i].name,
                                "no part uses the tensor %s", g->tensor[i].name);
    for (int k = 0; k < g->call.wanted_count; k++)
        if (!is_possible(g, g->call.wanted[k].name))
            return unknown_output(g->call.wanted[k].name, error);
    return LK_OK;
}

/* The parts, then what is the graph's own: of all faults the first in order. */
static lk_status check_all(graph *g, lk_error *error)
{
    lk_error first = {0}, found;
    (void)check_types(g, &first);
    for (int k = 0; k < g->parts; k++)
        if (check_part(g, k, &found) != LK_OK)
            lk_error_keep(&first, &found);
    for (int i = 0; i < RESERVED; i++)
        if (check_reserved(g, i, &found) != LK_OK)
            lk_error_keep(&first, &found);
    if (check_combine(g, &found) != LK_OK)
        lk_error_keep(&first, &found);
    if (first.status != LK_OK)
        *error = first;
    return first.status;
}

static lk_status check_output(graph *g, int place, lk_error *error)
{
    lk_wanted *w = &g->call.wanted[place];
    named *t = strncmp(w->name, "grad.", 5) == 0 ? lk_graph_find(g, w->name + 5) : NULL;
    w->tensor = (lk_tensor){.dtype = g->real};
    w->role = strcmp(w->name, "loss") == 0 ? VALUE : DIAGNOSTIC;
    if (w->role == VALUE)
        return LK_OK;
    if (strcmp(w->name, "parts") == 0) {
        w->tensor = lk_vector(g->real, NULL, g->parts);
        return LK_OK;
    }
    if (t && is_differentiated(g, t)) {
        w->role = GRADIENT;
        w->i = (int)(t - g->tensor);
        w->tensor = t->is;
        w->tensor.data = NULL;
        t->gradient = place;
        return LK_OK;
    }
    return find_part_output(g, w->name, &w->tensor) ? LK_OK : unknown_output(w->name, error);
}

lk_status lk_graph_check(lk_call *call, lk_error *error)
{
    graph *g = graph_of(call);
    lk_error ignored;
    lk_status status;
    error = error ? error : &ignored;
    if (g->parts == 0)
        return lk_error_set(error, LK_MISSING_OPTION, "", "option parts is missing: %s",
                            call->loss->is.options[0].help);
    for (int i = 0; i < g->tensors; i++) { /* left by a check that failed */
        g->tensor[i].gradient = -1;
        g->tensor[i].used = false;
    }
    if ((status = connect(g, error)) != LK_OK || (status = check_names(g, error)) != LK_OK ||
        (status = choose_primary(g, error)) != LK_OK || (status = check_all(g, error)) != LK_OK)
        return status;
    /* The default outputs are known once the parts are checked with their own. Then outputs are
     * requested from each part by name, including gradients that are not among its defaults. */
    if (call->wanted_count == 0 && ((status = default_outputs(g, error)) != LK_OK ||
                                    (status = lk_graph_check_parts(g, error)) != LK_OK))
        return status;
    for (int k = 0; k < call->wanted_count; k++)
        if ((status = check_output(g, k, error)) != LK_OK)
            return status;
    return LK_OK;
}
