/* SPDX-License-Identifier: MIT
 *
 * The edges of a graph: which part reads which output of another, the order of the parts, which of
 * them enter the loss and which compute gradients.
 */
#include "graph.h"

/* The output of that name among those of a description, or NULL. */
static const char *output_named(const lk_description *is, const char *name)
{
    if (strcmp(name, "loss") == 0)
        return is->traits & LK_TRANSFORM ? NULL : "loss";
    for (int o = 0; is->outputs[o].name; o++)
        if (strcmp(is->outputs[o].name, name) == 0)
            return is->outputs[o].name;
    return NULL;
}

static bool is_reference_to(const graph *g, int k, const char *text, size_t length)
{
    const char *name = g->part[k].name;
    char number[12];
    snprintf(number, sizeof number, "%d", k);
    return length > 0 && ((strlen(number) == length && memcmp(number, text, length) == 0) ||
                          (strlen(name) == length && memcmp(name, text, length) == 0));
}

bool lk_graph_names_output(const graph *g, const char *text, int *k, const char **output)
{
    const char *reference = text + strlen("part."), *dot;
    *k = g->parts;
    if (strncmp(text, "part.", 5) != 0 || !(dot = strchr(reference, '.')))
        return false;
    for (*k = 0; *k < g->parts; ++*k)
        if (is_reference_to(g, *k, reference, (size_t)(dot - reference)))
            return (*output = output_named(g->part[*k].is, dot + 1)) != NULL;
    return false;
}

int lk_graph_upstream(const part *p, const char *output)
{
    char name[64];
    if (strcmp(output, "loss") == 0)
        return lk_graph_part_place(p, "grad_output");
    snprintf(name, sizeof name, "grad_%s", output);
    const int i = lk_graph_part_place(p, name);
    return i >= 0 && (p->is->inputs[i].flags & LK_COTANGENT) ? i : -1;
}

bool lk_graph_goes_back(const graph *g, int k, int i)
{
    const part *p = &g->part[k];
    return p->live && p->from[i] >= 0 && (p->is->inputs[i].flags & LK_DIFFERENTIABLE) &&
           lk_graph_upstream(&g->part[p->from[i]], p->reads[i]) >= 0;
}

bool lk_graph_is_read(const graph *g, int k, const char *output)
{
    for (const edge *e = g->edge; e < g->edge + g->edges; e++)
        if (e->from == k && strcmp(e->output, output) == 0)
            return true;
    return false;
}

/* The error for input i of part k, which reads what part `from` does not have; g->parts: no part.
 */
static lk_status no_output(const graph *g, int k, int i, int from, lk_error *error)
{
    const part *p = &g->part[k];
    char names[LK_NAMES_TEXT];
    if (from == g->parts)
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                            "parts[%d].inputs.%s is \"%s\"; there is no such part: it must be "
                            "part.<k>.<output>, k from 0 to %d, or part.<name>.<output>",
                            k, p->is->inputs[i].name, p->source[i], g->parts - 1);
    const lk_description *is = g->part[from].is;
    const bool transform = is->traits & LK_TRANSFORM;
    return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                        "parts[%d].inputs.%s is \"%s\"; %s has %s%s%s", k, p->is->inputs[i].name,
                        p->source[i], is->name, transform ? "" : "loss",
                        transform || !is->outputs[0].name ? "" : ", ",
                        lk_names_text(is->outputs, sizeof *is->outputs, names));
}

/* Find the part and the output that each edge reads. */
static lk_status resolve(graph *g, lk_error *error)
{
    g->edges = 0;
    for (int k = 0; k < g->parts; k++)
        g->part[k].is_read = false;
    for (int k = 0; k < g->parts; k++) {
        part *p = &g->part[k];
        for (int i = 0; p->is->inputs[i].name; i++) {
            p->from[i] = -1;
            if (strncmp(p->source[i], "part.", 5) != 0)
                continue;
            int from;
            if (!lk_graph_names_output(g, p->source[i], &from, &p->reads[i]))
                return no_output(g, k, i, from, error);
            p->from[i] = from;
            g->part[p->from[i]].is_read = true;
            g->edge[g->edges++] = (edge){p->from[i], k, i, p->reads[i]};
        }
    }
    return LK_OK;
}

/* The first input of part k that reads a part which is not done; -1: none. */
static int waiting_input(const graph *g, int k, const bool *done)
{
    const part *p = &g->part[k];
    for (int i = 0; p->is->inputs[i].name; i++)
        if (p->from[i] >= 0 && !done[p->from[i]])
            return i;
    return -1;
}

/* Each part that is not done waits for another: walk along, until all that follows is a circle. */
static lk_status circle(const graph *g, const bool *done, lk_error *error)
{
    int k = 0, i;
    while (done[k])
        k++;
    for (int n = 0; n < g->parts; n++)
        k = g->part[k].from[waiting_input(g, k, done)];
    i = waiting_input(g, k, done);
    return lk_error_set(error, LK_GRAPH_INVALID, "",
                        "parts[%d].inputs.%s reads %s, which itself needs part %d", k,
                        g->part[k].is->inputs[i].name, g->part[k].source[i], k);
}

/* Again and again the first part whose sources are all done. */
static lk_status put_in_order(graph *g, lk_error *error)
{
    bool done[PARTS_MAX] = {false};
    for (int n = 0; n < g->parts; n++) {
        int k = 0;
        while (k < g->parts && (done[k] || waiting_input(g, k, done) >= 0))
            k++;
        if (k == g->parts)
            return circle(g, done, error);
        done[k] = true;
        g->order[n] = k;
    }
    return LK_OK;
}

/* Which parts enter the loss, themselves or through those that read them. */
static lk_status find_loss(graph *g, lk_error *error)
{
    bool any = false;
    for (int k = 0; k < g->parts; k++) {
        part *p = &g->part[k];
        p->inner = !p->weighted && (p->is_read || (p->is->traits & LK_TRANSFORM));
        p->live = !p->inner;
        any = any || p->live;
    }
    if (!any)
        return lk_error_set(error, LK_GRAPH_INVALID, "",
                            "no part enters the loss: each is a transform or is read by another "
                            "one, and has no weight");
    for (int n = g->parts - 1; n >= 0; n--)
        for (int k = g->order[n], i = 0; g->part[k].is->inputs[i].name; i++)
            if (lk_graph_goes_back(g, k, i))
                g->part[g->part[k].from[i]].live = true;
    return LK_OK;
}

lk_status lk_graph_connect_edges(graph *g, lk_error *error)
{
    lk_status status = resolve(g, error);
    if (status == LK_OK)
        status = put_in_order(g, error);
    return status == LK_OK ? find_loss(g, error) : status;
}

/* Gradients. */

/* Is the gradient of that tensor among the requested outputs? */
static bool wants(const graph *g, const named *t)
{
    for (int w = 0; w < g->call.wanted_count; w++)
        if (strncmp(g->call.wanted[w].name, "grad.", 5) == 0 &&
            strcmp(g->call.wanted[w].name + 5, t->name) == 0)
            return true;
    return false;
}

bool lk_graph_wants_gradient(const graph *g, int k, int i)
{
    const part *p = &g->part[k];
    if (!p->live || !(p->is->inputs[i].flags & LK_DIFFERENTIABLE))
        return false;
    if (p->tensor[i] >= 0)
        return wants(g, &g->tensor[p->tensor[i]]);
    return lk_graph_goes_back(g, k, i) && g->part[p->from[i]].grads;
}

/* Must the gradients of part k wait for those of a part that reads it? */
static bool waits_for(const graph *g, int k, const bool *done)
{
    for (const edge *e = g->edge; e < g->edge + g->edges; e++)
        if (e->from == k && lk_graph_goes_back(g, e->to, e->input) && !(done && done[e->to]))
            return true;
    return false;
}

void lk_graph_set_visits(graph *g)
{
    bool done[PARTS_MAX] = {false};
    g->visits = 0;
    for (int n = 0; n < g->parts; n++) {
        const int k = g->order[n];
        part *p = &g->part[k];
        p->visit = g->visits++;
        p->grads = false;
        for (int i = 0; p->is->inputs[i].name; i++)
            p->grads = p->grads || lk_graph_wants_gradient(g, k, i);
    }
    for (int k = 0; k < g->parts; k++) {
        g->part[k].deferred = g->part[k].grads && waits_for(g, k, NULL);
        done[k] = !g->part[k].deferred;
    }
    for (int k = 0; k < g->parts;) {
        for (k = 0; k < g->parts && (done[k] || waits_for(g, k, done));)
            k++;
        if (k == g->parts)
            return;
        g->part[k].back = g->visits++;
        done[k] = true;
    }
}
