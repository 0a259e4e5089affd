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
            if (name && mapped && !t)
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

/* Is the tensor one of integers, or may it be one? (Where an edge takes the place of the logits,
 * the targets come first.) */
static bool may_be_index(const lk_input *in, const named *t)
{
    return t->is.dtype == LK_ANY ? (in->forms[0].dtypes & LK_INTS) != 0 : !lk_is_float(t->is.dtype);
}

/* The first tensor that a part differentiates; of those with a type of their own, or of others. */
static named *first_differentiable(graph *g, unsigned own)
{
    for (int k = 0; k < g->parts; k++) {
        const lk_input *in = g->part[k].is->inputs;
        for (int i = 0; in[i].name; i++) {
            named *t = g->part[k].tensor[i] < 0 ? NULL : &g->tensor[g->part[k].tensor[i]];
            if (t &&
                (in[i].flags & (LK_DIFFERENTIABLE | LK_OWN_TYPE)) == (LK_DIFFERENTIABLE | own) &&
                !may_be_index(&in[i], t))
                return t;
        }
    }
    return NULL;
}

/* The first differentiable input of the first part chooses the element type. */
static lk_status choose_primary(graph *g, lk_error *error)
{
    named *t = first_differentiable(g, 0);
    t = t ? t : first_differentiable(g, LK_OWN_TYPE);
    if (t) {
        if (t->is.dtype == LK_ANY)
            t->is.dtype = LK_F32;
        g->primary = t->is.dtype;
        g->real = g->primary == LK_F64 ? LK_F64 : LK_F32;
        return LK_OK;
    }
    return lk_error_set(error, LK_MISSING_INPUT, "",
                        "none of the parts has an input that it can differentiate");
}

/* How many inputs read the tensor? */
static int uses(const graph *g, int tensor)
{
    int count = 0;
    for (int k = 0; k < g->parts; k++)
        for (int i = 0; g->part[k].is->inputs[i].name; i++)
            count += g->part[k].tensor[i] == tensor;
    return count;
}

static bool is_own(const graph *g, int k, int i)
{
    const part *p = &g->part[k];
    return p->tensor[i] >= 0 && g->tensor[p->tensor[i]].own;
}

/* Which tensors have a type of their own. Its reader takes such a one as it is, so it is widened
 * only where gradients of several readers are added up. */
static void find_own(graph *g)
{
    for (int t = 0; t < g->tensors; t++) {
        bool own = uses(g, t) > 0, wanted = false;
        for (int k = 0; k < g->parts; k++)
            for (int i = 0; g->part[k].is->inputs[i].name; i++) {
                if (g->part[k].tensor[i] != t)
                    continue;
                own = own && (g->part[k].is->inputs[i].flags & LK_OWN_TYPE);
                wanted = wanted || lk_graph_wants_gradient(g, k, i);
            }
        g->tensor[t].own = own;
        g->tensor[t].narrow = own && !(wanted && uses(g, t) > 1);
    }
}

/* Which tensors are not widened, however few bits they have. */
static void find_narrow(graph *g)
{
    find_own(g);
    for (int k = 0; k < g->parts; k++) {
        const part *p = &g->part[k];
        bool narrow = g->edges > 0;
        for (int i = 0; p->is->inputs[i].name; i++) {
            if (is_own(g, k, i))
                continue;
            const lk_dtype dtype = p->tensor[i] < 0 ? LK_I64 : g->tensor[p->tensor[i]].is.dtype;
            const bool floats = dtype == LK_ANY || lk_is_float(dtype);
            if ((p->from[i] >= 0 && (p->is->inputs[i].flags & LK_DIFFERENTIABLE)) ||
                (floats && uses(g, p->tensor[i]) > 1))
                narrow = false;
        }
        for (int i = 0; p->is->inputs[i].name; i++)
            if (p->tensor[i] >= 0 && !is_own(g, k, i))
                g->tensor[p->tensor[i]].narrow = narrow;
    }
}

static lk_status ask_part(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    const lk_input *in = p->is->inputs;
    const lk_output *out = p->is->outputs;
    const bool transform = p->is->traits & LK_TRANSFORM;
    char name[64];
    lk_status status = transform ? LK_OK : lk_call_want(p->call, "loss", error);
    for (int i = 0; in[i].name && status == LK_OK; i++) {
        snprintf(name, sizeof name, "grad.%s", in[i].name);
        if (lk_graph_wants_gradient(g, k, i))
            status = lk_call_want(p->call, name, error);
    }
    for (int o = 0; out[o].name && status == LK_OK; o++)
        if (lk_graph_is_read(g, k, out[o].name) || lk_graph_shown(g, k, out[o].name))
            status = lk_call_want(p->call, out[o].name, error);
    return status;
}

/* May the part give a loss for each row? */
static bool may_have_rows(const part *p)
{
    return p->is_read && (p->inner || p->weight == 0);
}

/* What an edge carries. Of a part with a fault only the type is known. */
static lk_tensor read_output(const graph *g, const part *p, const char *output)
{
    lk_tensor t = lk_graph_part_output(p, output);
    if (t.rank >= 0)
        return t;
    t = lk_scalar(g->real, NULL);
    for (const lk_output *o = p->is->outputs; o->name; o++)
        if (strcmp(o->name, output) == 0 && o->dtype != LK_ANY)
            t.dtype = o->dtype;
    return t;
}

/* What input i of part k is given: type and shape; rank -1: nothing. */
static lk_tensor input_of(const graph *g, int k, int i)
{
    const part *p = &g->part[k];
    const bool upstream =
        strcmp(p->is->inputs[i].name, g->call.loss->is->inputs[UPSTREAM].name) == 0;
    if (p->deferred && p->above[i].rank >= 0)
        return p->above[i];
    if (p->from[i] >= 0)
        return read_output(g, &g->part[p->from[i]], p->reads[i]);
    if (p->tensor[i] >= 0)
        return g->tensor[p->tensor[i]].is;
    if (upstream && !p->deferred && !may_have_rows(p))
        return lk_scalar(LK_F64, NULL);
    return (lk_tensor){.rank = -1};
}

/* Give a part its inputs, without data, with 16-bit types widened if other inputs are wider. */
static lk_status give_inputs(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    const lk_input *in = p->is->inputs;
    lk_status status = LK_OK;
    for (int i = 0; in[i].name && status == LK_OK; i++) {
        lk_tensor t = input_of(g, k, i);
        if (t.rank < 0)
            continue;
        if (p->from[i] >= 0 && !lk_is_float(t.dtype))
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, in[i].name,
                                "%s is %s; only floats are read from parts", p->source[i],
                                lk_dtype_name(t.dtype));
        t.data = NULL;
        if (t.dtype == LK_ANY && (in[i].flags & LK_DIFFERENTIABLE) &&
            !(in[i].forms[0].dtypes & LK_INTS))
            t.dtype = g->primary;
        if ((is_half(g->primary) || is_own(g, k, i)) && is_half(t.dtype) &&
            !(p->tensor[i] >= 0 && g->tensor[p->tensor[i]].narrow))
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
                lk_is_float(t->is.dtype) && t->is.dtype != g->primary &&
                !(t->own && t->is.dtype != LK_F64 && g->real != LK_F64))
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

static lk_status not_one_number(int k, lk_error *error)
{
    return lk_error_set(
        error, LK_OPTION_CONFLICT, "",
        "parts[%d] gives a loss for each row; the loss of a part must be one number", k);
}

static lk_status check_call(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    lk_status status = lk_graph_renew(g, k, error);
    p->checked = true;
    if (status == LK_OK)
        status = give_inputs(g, k, error);
    if (status == LK_OK && p->deferred)
        status = lk_call_defer(p->call, error);
    if (status == LK_OK)
        status = ask_part(g, k, error);
    if (status == LK_OK)
        status = lk_call_check(p->call, error);
    if (status == LK_OK) {
        resolve_types(g, k);
        return LK_OK;
    }
    /* The graph gives a part a scalar as its upstream gradient. */
    if (strcmp(error->input, g->call.loss->is->inputs[UPSTREAM].name) == 0)
        return not_one_number(k, error);
    return lk_graph_part_error(g, k, status, error);
}

/* The upstream gradients of a part that defers its gradients, now that the shapes of its outputs
 * are known: that of the loss, and those of outputs that are read by parts with gradients. */
static lk_status set_upstreams(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    const int own = lk_graph_upstream(p, "loss");
    const lk_tensor loss = lk_graph_part_output(p, "loss");
    if (loss.rank > 0 && !may_have_rows(p))
        return not_one_number(k, error);
    p->above[own] = loss;
    for (const edge *e = g->edge; e < g->edge + g->edges; e++) {
        if (e->from != k || !lk_graph_goes_back(g, e->to, e->input))
            continue;
        const int up = lk_graph_upstream(p, e->output);
        if (p->tensor[up] >= 0 || p->from[up] >= 0)
            return lk_error_set(error, LK_OPTION_CONFLICT, "",
                                "parts[%d].inputs.%s is given, and parts[%d].inputs.%s reads the "
                                "output whose upstream gradient it is",
                                k, p->is->inputs[up].name, e->to,
                                g->part[e->to].is->inputs[e->input].name);
        p->above[up] = lk_graph_part_output(p, e->output);
    }
    return LK_OK;
}

static lk_status check_part(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        p->above[i] = (lk_tensor){.rank = -1};
    lk_status status = check_call(g, k, error);
    if (status == LK_OK && p->deferred && (status = set_upstreams(g, k, error)) == LK_OK)
        status = check_call(g, k, error);
    return status;
}

/* weights, log_vars and grad_output: [K], [K], []. */
static lk_status check_reserved(graph *g, int which, lk_error *error)
{
    const lk_input *own = g->call.loss->is->inputs;
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
    for (int n = 0; n < g->parts && status == LK_OK; n++)
        status = check_part(g, g->order[n], error);
    return status;
}

/* Has the loss a gradient with respect to that tensor, which is that of an input of a part that has
 * all of these flags? */
static bool is_differentiated(const graph *g, const named *t, unsigned flags)
{
    if (lk_graph_reserves(g, t->name))
        return !(flags & LK_GRADIENT) &&
               strcmp(t->name, g->call.loss->is->inputs[UPSTREAM].name) != 0;
    for (int k = 0; k < g->parts; k++)
        for (int i = 0; g->part[k].is->inputs[i].name; i++)
            if (g->part[k].live && g->part[k].tensor[i] == (int)(t - g->tensor) &&
                (g->part[k].is->inputs[i].flags & flags) == flags)
                return true;
    return false;
}

static lk_status default_outputs(graph *g, lk_error *error)
{
    char name[48];
    const lk_wanted *last = lk_wanted_add(&g->call, "loss", VALUE, 0);
    for (int i = 0; i < g->tensors && last; i++) {
        snprintf(name, sizeof name, "grad.%s", g->tensor[i].name);
        if (is_differentiated(g, &g->tensor[i], LK_DIFFERENTIABLE | LK_GRADIENT))
            last = lk_wanted_add(&g->call, name, GRADIENT, i);
    }
    if (last && lk_wanted_add(&g->call, "parts", DIAGNOSTIC, 0))
        return LK_OK;
    return lk_error_set(error, LK_UNKNOWN_OUTPUT, "", "more than %d outputs",
                        g->call.kind->outputs);
}

static lk_status unknown_output(const graph *g, const char *name, lk_error *error)
{
    if (strncmp(name, "part.", 5) == 0)
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                            "there is no output \"%s\"; part.<k>.<output> names an output of part "
                            "k that is %s",
                            name, g->edges > 0 ? "no gradient" : "neither loss nor gradient");
    return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                        "there is no output \"%s\"; there are loss, parts, part.<k>.<output> and "
                        "grad.<tensor> of what the parts differentiate",
                        name);
}

/* The part and the output that the name of a requested output names. A part's loss is an output of
 * its own only where parts read each other; elsewhere `parts` has all there is. */
static bool find_part_output(const graph *g, const char *name, int *k, const char **output)
{
    return lk_graph_names_output(g, name, k, output) &&
           (g->edges > 0 || strcmp(*output, "loss") != 0);
}

/* Could that output exist, by the descriptions of the parts? */
static bool is_possible(const graph *g, const char *name)
{
    int k;
    const char *output;
    const named *t = strncmp(name, "grad.", 5) == 0 ? lk_graph_find(g, name + 5) : NULL;
    return strcmp(name, "loss") == 0 || strcmp(name, "parts") == 0 ||
           (t && is_differentiated(g, t, LK_DIFFERENTIABLE)) ||
           find_part_output(g, name, &k, &output);
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
            return unknown_output(g, g->call.wanted[k].name, error);
    return LK_OK;
}

static bool reads_only(const graph *g, int k, const bool *known)
{
    for (const edge *e = g->edge; e < g->edge + g->edges; e++)
        if (e->to == k && !known[e->from])
            return false;
    return true;
}

/* The parts, then what is the graph's own: of all faults the first in order. The shapes of what a
 * part with a fault computes are not known, so that of its readers only faults of names and types
 * count. */
static lk_status check_all(graph *g, lk_error *error)
{
    lk_error first = {0}, found[PARTS_MAX] = {0}, own;
    bool known[PARTS_MAX];
    (void)check_types(g, &first);
    for (int n = 0; n < g->parts; n++) {
        const int k = g->order[n];
        const bool judged = reads_only(g, k, known);
        known[k] = check_part(g, k, &found[k]) == LK_OK && judged;
        if (!judged && lk_status_order(found[k].status) > LK_OF_TYPES)
            found[k].status = LK_OK;
    }
    for (int k = 0; k < g->parts; k++)
        lk_error_keep(&first, &found[k]);
    for (int i = 0; i < RESERVED; i++)
        if (check_reserved(g, i, &own) != LK_OK)
            lk_error_keep(&first, &own);
    if (check_combine(g, &own) != LK_OK)
        lk_error_keep(&first, &own);
    if (first.status != LK_OK)
        *error = first;
    return first.status;
}

/* The tensor, if its gradient may be computed in its place: one part reads it, once and as it is,
 * and could do so itself. */
static const lk_tensor *may_overwrite(const graph *g, const named *t)
{
    const int tensor = (int)(t - g->tensor);
    const char *output;
    if (uses(g, tensor) != 1 || lk_graph_widens(g, t))
        return NULL;
    for (int i = 0; i < g->tensors; i++)
        if (t->is.data && i != tensor && g->tensor[i].is.data == t->is.data)
            return NULL;
    for (int k = 0; k < g->parts; k++) {
        const part *p = &g->part[k];
        for (int o = 0; (output = lk_call_output(p->call, o, NULL)); o++) {
            const int i = lk_graph_gradient_of(p, output);
            if (i >= 0 && p->tensor[i] == tensor && lk_call_in_place(p->call, o))
                return &t->is;
        }
    }
    return NULL;
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
    if (t) {
        w->role = GRADIENT;
        w->i = (int)(t - g->tensor);
        w->tensor = t->is;
        w->tensor.data = NULL;
        w->over = may_overwrite(g, t);
        t->gradient = place;
        return LK_OK;
    }
    int k;
    const char *output;
    if (!find_part_output(g, w->name, &k, &output))
        return unknown_output(g, w->name, error);
    if (lk_graph_shown(g, k, output) != w)
        return lk_error_set(error, LK_DUPLICATE_OPTION, "", "output %s is asked for twice",
                            w->name);
    w->tensor = lk_graph_part_output(&g->part[k], output);
    return LK_OK;
}

lk_status lk_graph_check(lk_call *call, lk_error *error)
{
    graph *g = graph_of(call);
    lk_error ignored;
    lk_status status;
    error = error ? error : &ignored;
    if (g->parts == 0)
        return lk_error_set(error, LK_MISSING_OPTION, "", "option parts is missing: %s",
                            call->loss->is->options[0].help);
    for (int i = 0; i < g->tensors; i++) { /* left by a check that failed */
        g->tensor[i].gradient = -1;
        g->tensor[i].used = false;
    }
    if ((status = lk_graph_connect_edges(g, error)) != LK_OK ||
        (status = connect(g, error)) != LK_OK || (status = check_names(g, error)) != LK_OK ||
        (call->wanted_count == 0 && (status = default_outputs(g, error)) != LK_OK))
        return status;
    lk_graph_set_visits(g);
    find_narrow(g);
    if ((status = choose_primary(g, error)) != LK_OK || (status = check_all(g, error)) != LK_OK)
        return status;
    for (int k = 0; k < call->wanted_count; k++)
        if ((status = check_output(g, k, error)) != LK_OK)
            return status;
    lk_graph_lay_out(g);
    return LK_OK;
}
