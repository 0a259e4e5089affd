/* SPDX-License-Identifier: MIT
 *
 * Running a graph, step by step: the passes of each part in turn, and again for gradients that were
 * deferred, each visit followed by the addition of gradients that stand in temporary buffers; at
 * the end the rounding of sums to 16 bits. If a part's upstream gradient is beyond the range of
 * floats, its gradients are computed without a power of two, which they are multiplied by
 * afterwards.
 */
#include "graph.h"

#include <stdlib.h>

enum {
    ADD_BLOCK = 64 * 1024,
    /* Both visits of each part; two steps for each gradient of an input, and two for each tensor.
     */
    STEPS_MAX = PARTS_MAX * (2 + 2 * LK_MAX_INPUTS) + 2 * TENSORS_MAX
};

/* Memory. */

size_t lk_graph_memory(const lk_call *call)
{
    const graph *g = graph_of(call);
    size_t bytes = g->arena_size + STEPS_MAX * sizeof(step);
    for (int k = 0; k < g->parts; k++)
        bytes += lk_call_memory(g->part[k].call);
    return bytes;
}

size_t lk_graph_scratch(const lk_call *call)
{
    const graph *g = graph_of(call);
    size_t most = 0;
    for (int k = 0; k < g->parts; k++) {
        const size_t one = lk_call_scratch(g->part[k].call);
        most = one > most ? one : most;
    }
    return most;
}

int64_t lk_graph_cost(const lk_call *call)
{
    const graph *g = graph_of(call);
    double sum = 0;
    for (int k = 0; k < g->parts; k++) /* deferred: computed twice */
        sum += (double)lk_call_cost(g->part[k].call) * (1 + g->part[k].deferred);
    for (int i = 0; i < g->tensors; i++) /* conversions, and sums of gradients */
        sum += (double)lk_tensor_count(&g->tensor[i].is);
    return lk_cost(sum);
}

/* How the parts are combined. */

static double number_at(const graph *g, int own, int64_t i, double fallback)
{
    const named *t = lk_graph_find(g, g->call.loss->is->inputs[own].name);
    return t ? lk_real_at(t->is.data, t->is.dtype, i) : fallback;
}

static double upstream_of(const graph *g)
{
    return number_at(g, UPSTREAM, 0, 1);
}

/* The factor of the value of part k. */
static double factor_of(const graph *g, int k)
{
    const graph_options *o = g->call.options;
    if (g->part[k].inner)
        return 0;
    if (o->combine == UNCERTAINTY)
        return (o->scales.count > 0 ? o->scales.value[k] : 1) *
               lk_exp(-number_at(g, LOG_VARS, k, 0));
    return g->part[k].weight * number_at(g, WEIGHTS, k, 1);
}

/* Plan. */

static lk_status check_data(const graph *g, lk_error *error)
{
    for (int i = 0; i < g->tensors; i++)
        if (!g->tensor[i].is.data && lk_tensor_count(&g->tensor[i].is) > 0)
            return lk_misuse(error, "an input has no data");
    for (int k = 0; k < g->call.wanted_count; k++)
        if (!g->call.wanted[k].tensor.data && lk_tensor_count(&g->call.wanted[k].tensor) > 0)
            return lk_misuse(error, "an output is not bound");
    for (int k = 0; k < g->parts; k++)
        if (!isfinite(number_at(g, WEIGHTS, k, 1)))
            return lk_error_set(error, LK_WEIGHT_INVALID, g->call.loss->is->inputs[WEIGHTS].name,
                                "weights[%d] is %g; a weight must be finite", k,
                                number_at(g, WEIGHTS, k, 1));
    return LK_OK;
}

static lk_status make_room(graph *g, lk_error *error)
{
    free(g->arena);
    free(g->step);
    g->steps = g->at = 0;
    g->bad = (lk_error){.status = LK_OK};
    g->step = calloc(STEPS_MAX, sizeof *g->step);
    g->arena = g->arena_size > INT64_MAX ? NULL : aligned_alloc(64, g->arena_size);
    if (!g->step || !g->arena)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for the parts (%zu bytes)",
                            g->arena_size);
    return LK_OK;
}

/* The tensors as the parts see them, and the buffers in which their gradients are summed. */
static void present_tensors(graph *g)
{
    for (int i = 0; i < g->tensors; i++) {
        named *t = &g->tensor[i];
        const bool wide = lk_graph_widens(g, t);
        t->wide = wide ? g->arena + t->wide_at : NULL;
        if (wide)
            lk_convert(t->is.data, t->is.dtype, t->wide, LK_F32, lk_tensor_count(&t->is));
        if (t->gradient >= 0)
            t->to = wide ? g->arena + t->to_at : g->call.wanted[t->gradient].tensor.data;
    }
}

/* The buffer of an output of part k. */
static void *output_data(const graph *g, int k, int o, const char *output)
{
    part *p = (part *)(uintptr_t)&g->part[k];
    const int i = lk_graph_gradient_of(p, output);
    const lk_wanted *shown = lk_graph_shown(g, k, output);
    if (p->output_at[o] != ELSEWHERE)
        return g->arena + p->output_at[o];
    return i >= 0 ? g->tensor[p->tensor[i]].to : shown ? shown->tensor.data : p->value;
}

/* Set the upstream gradients of a part that defers its gradients to what they are without those of
 * other parts. */
static void set_upstreams(const graph *g, int k)
{
    const part *p = &g->part[k];
    const int own = lk_graph_upstream(p, "loss");
    for (int i = 0; i < LK_MAX_INPUTS; i++) {
        lk_tensor t = p->above[i];
        t.data = t.rank < 0 ? NULL : g->arena + p->above_at[i];
        for (int64_t e = 0; t.data && e < lk_tensor_count(&t); e++)
            lk_put(&t, e, i == own ? p->upstream : 0);
    }
}

/* Give a part its data, outputs first: its inputs may be outputs of others, but those come earlier
 * in the order of the parts. */
static void bind_part(graph *g, int k)
{
    part *p = &g->part[k];
    const char *output;
    for (int o = 0; (output = lk_call_output(p->call, o, NULL)); o++)
        (void)lk_call_bind(p->call, o, output_data(g, k, o, output));
    for (int i = 0; p->is->inputs[i].name; i++) {
        const named *t = p->tensor[i] < 0 ? NULL : &g->tensor[p->tensor[i]];
        void *data = t ? t->wide ? t->wide : t->is.data : NULL;
        if (p->above[i].rank >= 0)
            data = g->arena + p->above_at[i];
        else if (p->from[i] >= 0)
            data = lk_graph_part_output(&g->part[p->from[i]], p->reads[i]).data;
        else if (!t && i == lk_graph_upstream(p, "loss"))
            data = &p->upstream;
        (void)lk_call_data(p->call, p->is->inputs[i].name, data);
    }
}

static bool reads_parts(const part *p)
{
    for (int i = 0; p->is->inputs[i].name; i++)
        if (p->from[i] >= 0)
            return true;
    return false;
}

static lk_status plan_part(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    p->planned = true;
    lk_status status = lk_call_plan(p->call, error);
    return status == LK_OK ? LK_OK : lk_graph_part_error(g, k, status, error);
}

/* How much of the exponent of an upstream gradient is beyond what floats bear with some room. */
static int power_of(const graph *g, double upstream)
{
    const int near = 100;
    int power = 0;
    if (g->real == LK_F32 && isfinite(upstream))
        (void)frexp(upstream, &power);
    return power > near ? power - near : power < -near ? power + near : 0;
}

/* Is the part given an upstream gradient of one of its outputs, besides those of its readers? */
static bool is_sent_upstream(const part *p)
{
    for (int i = 0; p->is->inputs[i].name; i++)
        if ((p->is->inputs[i].flags & LK_COTANGENT) && (p->tensor[i] >= 0 || p->from[i] >= 0))
            return true;
    return false;
}

/* Which parts have a gradient other than 0 for those that they read, and their powers: the highest
 * of what flows into a part, so that all of it is in range; 0 where some of it is given as it is.
 */
static void find_flows(graph *g)
{
    for (int n = g->parts - 1; n >= 0; n--) {
        const int k = g->order[n];
        part *p = &g->part[k];
        p->upstream = factor_of(g, k) * upstream_of(g);
        p->flows = factor_of(g, k) != 0;
        p->power = power_of(g, p->upstream);
        for (const edge *e = g->edge; e < g->edge + g->edges; e++) {
            const part *reader = &g->part[e->to];
            if (e->from != k || !lk_graph_goes_back(g, e->to, e->input) || !reader->flows)
                continue;
            p->power = !p->flows || reader->power > p->power ? reader->power : p->power;
            p->flows = true;
        }
        if (is_sent_upstream(p))
            p->power = 0;
        p->upstream = ldexp(p->upstream, -p->power);
    }
}

/* Steps. */

static step *append(graph *g, step_kind kind)
{
    step *s = &g->step[g->steps++];
    *s = (step){.kind = kind};
    return s;
}

/* The gradient of input i of part k, without 2^power: a step multiplies it by the rest. */
static lk_tensor scaled_gradient(graph *g, int k, int i, int power)
{
    char name[64];
    snprintf(name, sizeof name, "grad.%s", g->part[k].is->inputs[i].name);
    const lk_tensor gradient = lk_graph_part_output(&g->part[k], name);
    if (g->part[k].power != power) {
        step *s = append(g, SCALE);
        s->is = gradient;
        s->power = g->part[k].power - power;
    }
    return gradient;
}

/* Add the gradients of those that read outputs of part k to its upstream gradients. */
static void add_upstreams(graph *g, int k)
{
    const part *p = &g->part[k];
    for (const edge *e = g->edge; e < g->edge + g->edges; e++) {
        if (e->from != k || !lk_graph_goes_back(g, e->to, e->input) || !g->part[e->to].flows)
            continue;
        const int up = lk_graph_upstream(p, e->output);
        const lk_tensor gradient = scaled_gradient(g, e->to, e->input, p->power);
        step *s = append(g, ADD);
        s->is = p->above[up];
        s->is.data = g->arena + p->above_at[up];
        s->from = gradient.data;
    }
}

/* The gradients of tensors that can be added to their sums after a visit. */
static void add_gradients(graph *g, int visit)
{
    for (int k = 0; k < g->parts; k++) {
        part *p = &g->part[k];
        for (int i = 0; p->is->inputs[i].name; i++) {
            if (p->tensor[i] < 0 || !p->flows || !lk_graph_wants_gradient(g, k, i) ||
                lk_graph_added(g, k, i) != visit)
                continue;
            named *t = &g->tensor[p->tensor[i]];
            const lk_tensor gradient = scaled_gradient(g, k, i, 0);
            if (gradient.data != t->to) {
                step *s = append(g, t->has_sum ? ADD : COPY);
                s->is = gradient;
                s->is.data = t->to;
                s->from = gradient.data;
            }
            t->has_sum = true;
        }
    }
}

static void plan_steps(graph *g)
{
    for (int i = 0; i < g->tensors; i++)
        g->tensor[i].has_sum = false;
    for (int visit = 0; visit < g->visits; visit++) {
        for (int k = 0; k < g->parts; k++) {
            const part *p = &g->part[k];
            const bool back = p->deferred && p->back == visit;
            if (back && p->flows)
                add_upstreams(g, k);
            if (p->visit == visit || (back && p->flows))
                append(g, back ? BACK : RUN)->part = k;
        }
        add_gradients(g, visit);
    }
    for (int i = 0; i < g->tensors; i++) {
        const named *t = &g->tensor[i];
        const lk_tensor *out = t->gradient < 0 ? NULL : &g->call.wanted[t->gradient].tensor;
        if (!out || lk_graph_reserves(g, t->name) || (t->has_sum && !t->wide))
            continue;
        step *s = append(g, t->has_sum ? ROUND : CLEAR);
        s->is = *out;
        s->from = t->to;
    }
}

lk_status lk_graph_plan(lk_call *call, lk_error *error)
{
    graph *g = graph_of(call);
    lk_error ignored;
    error = error ? error : &ignored;
    lk_status status = check_data(g, error);
    /* After a plan that failed, some parts may be planned already: start again with new calls. */
    if (status == LK_OK && g->step)
        status = lk_graph_check_parts(g, error);
    if (status == LK_OK)
        status = make_room(g, error);
    if (status != LK_OK)
        return status;
    present_tensors(g);
    find_flows(g);
    for (int n = 0; n < g->parts; n++) {
        g->part[g->order[n]].planned = g->part[g->order[n]].finished = false;
        bind_part(g, g->order[n]);
        set_upstreams(g, g->order[n]);
    }
    plan_steps(g);
    /* Those that read others are planned when these are done. */
    for (int k = 0; k < g->parts && status == LK_OK; k++)
        if (!reads_parts(&g->part[k]))
            status = plan_part(g, k, error);
    return status;
}

/* Run. */

static bool is_visit(const step *s)
{
    return s->kind == RUN || s->kind == BACK;
}

int64_t lk_graph_blocks(const lk_call *call)
{
    const graph *g = graph_of(call);
    const step *s = &g->step[g->at];
    if (is_visit(s))
        return lk_call_blocks(g->part[s->part].call);
    return (lk_tensor_count(&s->is) + ADD_BLOCK - 1) / ADD_BLOCK;
}

/* Keep the error of the first part that failed. */
static void note_error(graph *g, const lk_error *error)
{
    if (g->bad.status == LK_OK)
        g->bad = *error;
}

/* A part is finished before its gradients are added: some are computed by its finish. */
static void finish_part(graph *g, int k)
{
    lk_error error;
    part *p = &g->part[k];
    if (p->finished)
        return;
    p->finished = true;
    const lk_status status = lk_call_finish(p->call, &error);
    if (status == LK_OK)
        return;
    (void)lk_graph_part_error(g, k, status, &error);
    note_error(g, &error);
}

/* Start a step. A part that reads others is planned only now, with what they have computed. */
static bool start(graph *g, const step *s)
{
    lk_error error;
    lk_status status = LK_OK;
    part *p = &g->part[s->part];
    if (s->kind == RUN && !p->planned)
        status = plan_part(g, s->part, &error);
    if (s->kind == BACK) {
        p->finished = false;
        status = lk_call_backward(p->call, &error);
    }
    if (status != LK_OK)
        note_error(g, &error);
    return status == LK_OK;
}

bool lk_graph_next(lk_call *call)
{
    graph *g = graph_of(call);
    const step *s = &g->step[g->at];
    if (is_visit(s) && lk_call_next(g->part[s->part].call))
        return true;
    if (is_visit(s))
        finish_part(g, s->part);
    const bool hopeless = g->edges > 0 && g->bad.status != LK_OK; /* others read that part */
    if (hopeless || g->at + 1 == g->steps)
        return false;
    return start(g, &g->step[++g->at]);
}

static void add(void *to, const void *from, lk_dtype real, int64_t first, int64_t end)
{
    double wide, more_wide;
    float narrow, more_narrow;
    for (int64_t i = first; i < end; i++) {
        if (real == LK_F64) { /* outputs have any alignment */
            memcpy(&wide, (char *)to + i * 8, sizeof wide);
            memcpy(&more_wide, (const char *)from + i * 8, sizeof wide);
            wide += more_wide;
            memcpy((char *)to + i * 8, &wide, sizeof wide);
        } else {
            memcpy(&narrow, (char *)to + i * 4, sizeof narrow);
            memcpy(&more_narrow, (const char *)from + i * 4, sizeof narrow);
            narrow += more_narrow;
            memcpy((char *)to + i * 4, &narrow, sizeof narrow);
        }
    }
}

void lk_graph_run(lk_call *call, int64_t first, int64_t count, void *scratch)
{
    const graph *g = graph_of(call);
    const step *s = &g->step[g->at];
    if (is_visit(s)) {
        lk_call_run(g->part[s->part].call, first, count, scratch);
        return;
    }
    const int64_t all = lk_tensor_count(&s->is), blocks = lk_graph_blocks(call);
    const int64_t end = count < blocks - first ? first + count : blocks;
    if (first >= end)
        return;
    const int64_t from = first * ADD_BLOCK;
    const int64_t most = (end == blocks ? all : end * ADD_BLOCK) - from;
    const int64_t size = (int64_t)lk_dtype_size(s->is.dtype);
    char *to = (char *)s->is.data + from * size;
    switch (s->kind) {
    case SCALE:
        lk_scale(to, s->is.dtype, most, s->power);
        break;
    case ADD:
        add(s->is.data, s->from, s->is.dtype, from, from + most);
        break;
    case COPY:
        memcpy(to, (const char *)s->from + from * size, (size_t)(most * size));
        break;
    case CLEAR:
        memset(to, 0, (size_t)(most * size));
        break;
    default:
        lk_convert((const char *)s->from + from * 4, LK_F32, to, s->is.dtype, most);
        break;
    }
}

/* Finish. */

/* The gradients with respect to weights and log_vars. */
static void own_gradient(const graph *g, int own, const double *gradient)
{
    const named *t = lk_graph_find(g, g->call.loss->is->inputs[own].name);
    if (t && t->gradient >= 0)
        lk_convert(gradient, LK_F64, g->call.wanted[t->gradient].tensor.data, t->is.dtype,
                   g->parts);
}

/* The value of a part: 0 of a transform; the sum of a loss for each row. */
static double sum_of_loss(const part *p)
{
    const lk_tensor t = lk_graph_part_output(p, "loss");
    double sum = 0;
    for (int64_t i = 0; t.rank >= 0 && i < lk_tensor_count(&t); i++)
        sum += lk_real_at(t.data, t.dtype, i);
    return sum;
}

static void write_outputs(const graph *g, const double *value)
{
    const graph_options *o = g->call.options;
    const double upstream = upstream_of(g);
    double total = 0, by_weight[PARTS_MAX], by_log_var[PARTS_MAX];
    for (int k = 0; k < g->parts; k++) {
        const double factor = factor_of(g, k), share = factor == 0 ? 0 : factor * value[k];
        by_weight[k] = by_log_var[k] = 0;
        if (g->part[k].inner)
            continue;
        total += share;
        const double by = upstream * g->part[k].weight;
        by_weight[k] = by == 0 ? 0 : by * value[k];
        by_log_var[k] = upstream == 0 ? 0 : upstream * (0.5 - share);
        if (o->combine == UNCERTAINTY)
            total += 0.5 * number_at(g, LOG_VARS, k, 0);
    }
    own_gradient(g, WEIGHTS, by_weight);
    own_gradient(g, LOG_VARS, by_log_var);
    for (int i = 0; i < g->call.wanted_count; i++) {
        const lk_wanted *w = &g->call.wanted[i];
        if (w->role == VALUE)
            lk_put(&w->tensor, 0, total);
        for (int k = 0; strcmp(w->name, "parts") == 0 && k < g->parts; k++)
            lk_put(&w->tensor, k, value[k]);
    }
}

lk_status lk_graph_finish(lk_call *call, lk_error *error)
{
    graph *g = graph_of(call);
    double value[PARTS_MAX];
    for (int n = 0; n < g->parts && g->bad.status == LK_OK; n++)
        finish_part(g, g->order[n]); /* unless it is finished already */
    if (g->bad.status != LK_OK) {
        if (error)
            *error = g->bad;
        return g->bad.status;
    }
    for (int k = 0; k < g->parts; k++)
        value[k] = sum_of_loss(&g->part[k]);
    write_outputs(g, value);
    return LK_OK;
}
