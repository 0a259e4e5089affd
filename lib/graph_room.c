/* SPDX-License-Identifier: MIT
 *
 * The memory of a graph: a place in one arena for everything that is neither a tensor of the
 * request nor an output of the graph. Buffers that are not in use at the same time share theirs.
 */
#include "graph.h"

enum {
    ALIGNMENT = 64,
    ROOMS_MAX = 2 * TENSORS_MAX + PARTS_MAX * (SINGLE_OUTPUTS + LK_MAX_INPUTS),
    ALWAYS = 2 * PARTS_MAX + 1, /* later than every visit */
};

/* A buffer, and the visits between which it is in use. */
typedef struct room {
    size_t at, size;
    int from, until;
} room;

typedef struct plan {
    size_t size;
    int rooms;
    room room[ROOMS_MAX];
} plan;

/* The lowest place that no buffer has which is in use at the same time. */
static size_t place(plan *p, size_t bytes, int from, int until)
{
    room r = {
        .size = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, .from = from, .until = until};
    for (int i = 0; i < p->rooms; i++) {
        const room *other = &p->room[i];
        if (other->from > until || other->until < from || other->at >= r.at + r.size ||
            r.at >= other->at + other->size)
            continue;
        r.at = other->at + other->size;
        i = -1; /* look again from the first one */
    }
    p->room[p->rooms++] = r;
    p->size = r.at + r.size > p->size ? r.at + r.size : p->size;
    return r.at;
}

const lk_wanted *lk_graph_shown(const graph *g, int k, const char *output)
{
    int of;
    const char *name;
    for (int w = 0; w < g->call.wanted_count; w++)
        if (lk_graph_names_output(g, g->call.wanted[w].name, &of, &name) && of == k &&
            strcmp(name, output) == 0)
            return &g->call.wanted[w];
    return NULL;
}

bool lk_graph_widens(const graph *g, const named *t)
{
    return (is_half(g->primary) || t->own) && is_half(t->is.dtype) && !t->narrow &&
           !lk_graph_reserves(g, t->name);
}

/* Is input j of part l one of those whose gradients are summed with that of input i of part k, and
 * not after it? */
static bool precedes(const graph *g, int l, int j, int k, int i)
{
    return g->part[l].tensor[j] == g->part[k].tensor[i] && (l < k || (l == k && j <= i)) &&
           lk_graph_wants_gradient(g, l, j);
}

/* Is that the first of the gradients whose sum is that of the tensor? */
static bool is_first(const graph *g, int k, int i)
{
    for (int l = 0; l <= k; l++)
        for (int j = 0; g->part[l].is->inputs[j].name; j++)
            if (precedes(g, l, j, k, i))
                return l == k && j == i;
    return false;
}

/* The visit in which a part computes its gradients. */
static int back_of(const part *p)
{
    return p->deferred ? p->back : p->visit;
}

int lk_graph_added(const graph *g, int k, int i)
{
    int last = 0;
    for (int l = 0; l <= k; l++)
        for (int j = 0; g->part[l].is->inputs[j].name; j++)
            if (precedes(g, l, j, k, i) && back_of(&g->part[l]) > last)
                last = back_of(&g->part[l]);
    return last;
}

/* The place of an output of part k. */
static size_t output_place(const graph *g, plan *to, int k, const char *output, const lk_tensor *is)
{
    const part *p = &g->part[k];
    const size_t bytes = lk_graph_bytes(is, is->dtype);
    const int i = lk_graph_gradient_of(p, output);
    if (i >= 0 && p->tensor[i] >= 0)
        return is_first(g, k, i) ? ELSEWHERE
                                 : place(to, bytes, back_of(p), lk_graph_added(g, k, i));
    if (i < 0 && (lk_graph_shown(g, k, output) || (strcmp(output, "loss") == 0 && is->rank == 0)))
        return ELSEWHERE;
    return place(to, bytes, 0, ALWAYS);
}

void lk_graph_lay_out(graph *g)
{
    plan to = {.size = ALIGNMENT};
    lk_tensor is;
    const char *output;
    for (int i = 0; i < g->tensors; i++) {
        named *t = &g->tensor[i];
        const size_t wide = lk_graph_bytes(&t->is, LK_F32);
        t->wide_at = t->to_at = ELSEWHERE;
        if (!lk_graph_widens(g, t))
            continue;
        t->wide_at = place(&to, wide, 0, ALWAYS);
        if (t->gradient >= 0)
            t->to_at = place(&to, wide, 0, ALWAYS);
    }
    for (int k = 0; k < g->parts; k++) {
        part *p = &g->part[k];
        for (int i = 0; i < LK_MAX_INPUTS; i++)
            if (p->above[i].rank >= 0)
                p->above_at[i] =
                    place(&to, lk_graph_bytes(&p->above[i], p->above[i].dtype), 0, ALWAYS);
        for (int o = 0; (output = lk_call_output(p->call, o, &is)); o++)
            p->output_at[o] = output_place(g, &to, k, output, &is);
    }
    g->arena_size = to.size;
}
