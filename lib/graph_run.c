/* SPDX-License-Identifier: MIT
 *
 * Running a graph, step by step: the passes of each part in turn, each followed by the addition of
 * those of its gradients that it wrote to a temporary buffer, and at the end the rounding of sums
 * to 16 bits. If a part's upstream gradient is beyond the range of floats, its gradients are
 * computed without a power of two, which they are multiplied by afterwards.
 */
#include "graph.h"

#include <stdlib.h>

enum { ADD_BLOCK = 64 * 1024, STEPS_MAX = PARTS_MAX * LK_MAX_INPUTS + TENSORS_MAX };

static size_t bytes_of(const lk_tensor *t, lk_dtype dtype)
{
    return (size_t)lk_tensor_count(t) * lk_dtype_size(dtype);
}

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Memory. */

/* Memory for outputs of a part that were not requested, and for gradients that are to be added. */
static size_t aside(const part *p)
{
    size_t bytes = 0;
    lk_tensor t;
    const char *output;
    for (int o = 0; (output = lk_call_output(p->call, o, &t)); o++)
        if (strcmp(output, "loss") != 0)
            bytes += aligned(bytes_of(&t, t.dtype));
    return bytes;
}

/* Do the parts read the tensor in a wider type than its own? */
static bool is_widened(const graph *g, const named *t)
{
    return is_half(g->primary) && is_half(t->is.dtype) && !lk_graph_reserves(g, t->name);
}

static size_t arena_bytes(const graph *g)
{
    size_t bytes = 0, most = 0;
    for (int i = 0; i < g->tensors; i++) {
        const size_t wide = aligned(bytes_of(&g->tensor[i].is, LK_F32));
        if (is_widened(g, &g->tensor[i]))
            bytes += g->tensor[i].gradient >= 0 ? 2 * wide : wide;
    }
    for (int k = 0; k < g->parts; k++)
        most = aside(&g->part[k]) > most ? aside(&g->part[k]) : most;
    return bytes + most + 64;
}

size_t lk_graph_memory(const lk_call *call)
{
    const graph *g = graph_of(call);
    size_t bytes = arena_bytes(g) + STEPS_MAX * sizeof(step);
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

static void *take(graph *g, size_t bytes)
{
    void *at = g->arena + g->arena_used;
    g->arena_used += aligned(bytes);
    return at;
}

/* How the parts are combined. */

static double number_at(const graph *g, int own, int64_t i, double fallback)
{
    const named *t = lk_graph_find(g, g->call.loss->is.inputs[own].name);
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
    if (o->combine == UNCERTAINTY)
        return (o->scales.count > 0 ? o->scales.value[k] : 1) * exp(-number_at(g, LOG_VARS, k, 0));
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
            return lk_error_set(error, LK_WEIGHT_INVALID, g->call.loss->is.inputs[WEIGHTS].name,
                                "weights[%d] is %g; a weight must be finite", k,
                                number_at(g, WEIGHTS, k, 1));
    return LK_OK;
}

static lk_status make_room(graph *g, lk_error *error)
{
    const size_t bytes = arena_bytes(g);
    free(g->arena);
    free(g->step);
    g->steps = g->at = 0;
    g->arena_used = 0;
    g->bad = (lk_error){.status = LK_OK};
    g->step = calloc(STEPS_MAX, sizeof *g->step);
    g->arena = bytes > INT64_MAX ? NULL : aligned_alloc(64, aligned(bytes));
    if (!g->step || !g->arena)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for the parts (%zu bytes)", bytes);
    return LK_OK;
}

/* The tensors as the parts see them, and the buffers in which their gradients are summed. */
static void present_tensors(graph *g)
{
    for (int i = 0; i < g->tensors; i++) {
        named *t = &g->tensor[i];
        const bool wide = is_widened(g, t);
        t->has_sum = false;
        t->wide = wide ? take(g, bytes_of(&t->is, LK_F32)) : NULL;
        if (wide)
            lk_convert(t->is.data, t->is.dtype, t->wide, LK_F32, lk_tensor_count(&t->is));
        if (t->gradient >= 0)
            t->to =
                wide ? take(g, bytes_of(&t->is, LK_F32)) : g->call.wanted[t->gradient].tensor.data;
    }
}

/* The buffer of the graph's output "part.<k>.<output>", or NULL if it was not requested. */
static void *shown_at(const graph *g, int k, const char *output)
{
    char shown[64];
    snprintf(shown, sizeof shown, "part.%d.%s", k, output);
    for (int i = 0; i < g->call.wanted_count; i++)
        if (strcmp(g->call.wanted[i].name, shown) == 0)
            return g->call.wanted[i].tensor.data;
    return NULL;
}

/* The buffer of one output of a part. A gradient that must be multiplied or added to a sum
 * afterwards gets a step. */
static void *place_output(graph *g, int k, const char *output, const lk_tensor *is, bool counts)
{
    const int power = g->part[k].power;
    named *t = lk_graph_gradient_of(g, k, output);
    void *at = t ? NULL : shown_at(g, k, output);
    if (strcmp(output, "loss") == 0)
        return g->part[k].value;
    if (at)
        return at;
    counts = counts && t && t->gradient >= 0;
    if (counts && !t->has_sum) {
        t->has_sum = true;
        if (power != 0)
            g->step[g->steps++] = (step){.kind = SCALE, .tensor = t, .of = t->to, .power = power};
        return t->to;
    }
    at = take(g, bytes_of(is, is->dtype));
    if (counts)
        g->step[g->steps++] = (step){.kind = ADD, .tensor = t, .of = at, .power = power};
    return at;
}

static void set_upstream(const graph *g, part *p, double upstream)
{
    const double size = fabs(upstream);
    const bool near = size == 0 || !isfinite(size) || (size >= 0x1p-100 && size <= 0x1p100);
    p->power = 0;
    if (g->real == LK_F32 && !near)
        (void)frexp(size, &p->power);
    p->upstream = ldexp(upstream, -p->power);
}

static lk_status plan_part(graph *g, int k, lk_error *error)
{
    part *p = &g->part[k];
    const char *output, *upstream = g->call.loss->is.inputs[UPSTREAM].name;
    const double factor = factor_of(g, k);
    const size_t mark = g->arena_used;
    lk_tensor is;
    set_upstream(g, p, factor * upstream_of(g));
    p->finished = false;
    for (int i = 0; p->is->inputs[i].name; i++) {
        const named *t = p->tensor[i] < 0 ? NULL : &g->tensor[p->tensor[i]];
        if (t)
            (void)lk_call_data(p->call, p->is->inputs[i].name, t->wide ? t->wide : t->is.data);
    }
    (void)lk_call_data(p->call, upstream, &p->upstream);
    g->step[g->steps++] = (step){.kind = RUN, .part = k};
    for (int o = 0; (output = lk_call_output(p->call, o, &is)); o++)
        (void)lk_call_bind(p->call, o, place_output(g, k, output, &is, factor != 0));
    g->arena_used = mark; /* reused by the next part, after this one's gradients are added */
    lk_status status = lk_call_plan(p->call, error);
    return status == LK_OK ? LK_OK : lk_graph_part_error(g, k, status, error);
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
    for (int k = 0; k < g->parts; k++)
        if ((status = plan_part(g, k, error)) != LK_OK)
            return status;
    for (int i = 0; i < g->tensors; i++) {
        named *t = &g->tensor[i];
        if (t->gradient >= 0 && t->has_sum && t->wide)
            g->step[g->steps++] = (step){.kind = ROUND, .tensor = t};
        else if (t->gradient >= 0 && !t->has_sum && lk_tensor_count(&t->is) > 0)
            memset(call->wanted[t->gradient].tensor.data, 0, bytes_of(&t->is, t->is.dtype));
    }
    return LK_OK;
}

/* Run. */

int64_t lk_graph_blocks(const lk_call *call)
{
    const graph *g = graph_of(call);
    const step *s = &g->step[g->at];
    if (s->kind == RUN)
        return lk_call_blocks(g->part[s->part].call);
    return (lk_tensor_count(&s->tensor->is) + ADD_BLOCK - 1) / ADD_BLOCK;
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
    if (g->bad.status == LK_OK)
        g->bad = error;
}

bool lk_graph_next(lk_call *call)
{
    graph *g = graph_of(call);
    const step *s = &g->step[g->at];
    if (s->kind == RUN && lk_call_next(g->part[s->part].call))
        return true;
    if (s->kind == RUN)
        finish_part(g, s->part);
    if (g->at + 1 == g->steps)
        return false;
    g->at++;
    return true;
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
    if (s->kind == RUN) {
        lk_call_run(g->part[s->part].call, first, count, scratch);
        return;
    }
    const named *t = s->tensor;
    const int64_t all = lk_tensor_count(&t->is), blocks = lk_graph_blocks(call);
    const int64_t end = count < blocks - first ? first + count : blocks;
    if (first >= end)
        return;
    const int64_t from = first * ADD_BLOCK;
    const int64_t most = (end == blocks ? all : end * ADD_BLOCK) - from;
    if (s->power != 0)
        lk_scale((char *)s->of + from * (int64_t)lk_dtype_size(g->real), g->real, most, s->power);
    if (s->kind == ADD)
        add(t->to, s->of, g->real, from, from + most);
    if (s->kind != ROUND)
        return;
    char *out = call->wanted[t->gradient].tensor.data;
    lk_convert((const char *)t->to + from * 4, LK_F32,
               out + from * (int64_t)lk_dtype_size(t->is.dtype), t->is.dtype, most);
}

/* Finish. */

/* The gradients with respect to weights and log_vars. */
static void own_gradient(const graph *g, int own, const double *gradient)
{
    const named *t = lk_graph_find(g, g->call.loss->is.inputs[own].name);
    if (t && t->gradient >= 0)
        lk_convert(gradient, LK_F64, g->call.wanted[t->gradient].tensor.data, t->is.dtype,
                   g->parts);
}

static void write_outputs(const graph *g, const double *value)
{
    const graph_options *o = g->call.options;
    const double upstream = upstream_of(g);
    double total = 0, by_weight[PARTS_MAX], by_log_var[PARTS_MAX];
    for (int k = 0; k < g->parts; k++) {
        const double factor = factor_of(g, k), share = factor == 0 ? 0 : factor * value[k];
        total += share;
        by_weight[k] = upstream * g->part[k].weight * value[k];
        by_log_var[k] = upstream * (0.5 - share);
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
    for (int k = 0; k < g->parts; k++) {
        finish_part(g, k); /* unless it is finished already */
        value[k] = lk_real_at(g->part[k].value, g->real, 0);
    }
    if (g->bad.status != LK_OK) {
        if (error)
            *error = g->bad;
        return g->bad.status;
    }
    write_outputs(g, value);
    return LK_OK;
}
