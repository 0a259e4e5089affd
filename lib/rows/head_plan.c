/* SPDX-License-Identifier: MIT
 *
 * Linear heads: their plan, what they cost and need. See rows/head.h and rows/head_parts.h.
 */
#include "rows/head_parts.h"

enum {
    HEAD_SCRATCH = 56 << 20, /* bytes of the rows that are visited together: of one at least */
    HEAD_PART = 8 << 20,     /* bytes of the gradients that a pass adds up together */
    HEAD_FEW = 16,           /* rows of a block at least */
    HEAD_AHEAD = 1024,       /* classes of a block of scores that are made ahead, at least */
};

_Static_assert(HEAD_ROWS % PRODUCT_TERMS == 0, "rows are cut where sums are");

static head_one one_of(const lk_job *job, const head_side *at, int64_t classes, size_t *used)
{
    head_one s = {.hidden = &job->in[at->hidden], .weight = &job->in[at->weight]};
    s.depth = s.weight->shape[1];
    if (at->bias >= 0 && lk_has(job, at->bias))
        s.bias = take(job->state, used, classes, sizeof *s.bias);
    if (at->norm_weight >= 0 && lk_has(job, at->norm_weight))
        s.norm = take(job->state, used, s.depth, sizeof *s.norm);
    return s;
}

static bool wants(const lk_job *job, int input)
{
    return input >= 0 && (job->grad_wanted >> input & 1);
}

static int heads(const head *h)
{
    return h->teacher.hidden ? 2 : 1;
}

int64_t head_visit_rows(const head *h)
{
    const double each =
        (double)sizeof(real) * ((double)head_apart(h->classes) * heads(h) +
                                2 * (double)h->own.depth + (double)h->teacher.depth);
    const int64_t rows = each > 0 ? (int64_t)((double)HEAD_SCRATCH / each) : HEAD_ROWS;
    return at_most(rows < 1 ? 1 : rows < HEAD_ROWS ? rows : HEAD_ROWS, h->job->rows);
}

/* Are the scores of all rows made before the visit of the one block that these are? */
static bool made_ahead(const head *h)
{
    return h->job->rows > 0 && h->job->rows <= HEAD_FEW && h->classes > HEAD_AHEAD &&
           head_visit_rows(h) == h->job->rows;
}

head head_of(const lk_job *job)
{
    const head_loss *of = job->loss->driver;
    const int norm = of->side.norm_weight;
    const int64_t rows = job->rows;
    const head_options *options = (const void *)((const char *)job->options + of->options);
    head h = {.job = job, .of = of, .classes = of->classes(job), .eps = options->norm_eps};
    if (of->bends)
        of->bends(job, h.bend);
    for (int k = 0; of->bends && k < 2; k++)
        h.bends = h.bends || h.bend[k].cap > 0 || h.bend[k].times != 1;
    h.bytes = whole_lines(of->state(job));
    h.own = one_of(job, &of->side, h.classes, &h.bytes);
    if (of->teacher)
        h.teacher = one_of(job, of->teacher, h.classes, &h.bytes);
    h.order = take(job->state, &h.bytes, rows, sizeof *h.order);
    h.live = take(job->state, &h.bytes, rows, sizeof *h.live);
    h.note = of->note(job);
    h.ahead = made_ahead(&h);
    for (int k = 0; k < heads(&h) && h.ahead; k++)
        h.scores[k] = take(job->state, &h.bytes, rows * head_apart(h.classes), sizeof(real));
    if (wants(job, of->side.weight) || wants(job, of->side.bias))
        h.notes = take(job->state, &h.bytes, rows, h.note);
    if (wants(job, norm))
        h.shares = take(job->state, &h.bytes, rows * h.own.depth, sizeof *h.shares);
    return h;
}

lk_status head_check(const lk_job *job, lk_error *error)
{
    const head_loss *of = job->loss->driver;
    const head_side *sides[] = {&of->side, of->teacher};
    for (int k = 0; k < 2 && sides[k] && job->rows > 0; k++)
        for (int axis = 0; axis < 2; axis++)
            if (job->in[sides[k]->weight].shape[axis] == 0)
                return lk_fail(job, error, LK_SHAPE_MISMATCH, sides[k]->weight, -1,
                               "%s has no %s; there must be at least 1",
                               job->loss->is->inputs[sides[k]->weight].name,
                               axis == 0 ? "classes" : "components");
    return LK_OK;
}

size_t head_state(const lk_job *job)
{
    return head_of(job).bytes;
}

static void fill_side(const lk_job *job, const head_side *at, int64_t classes, const head_one *s)
{
    if (s->bias)
        reals_read(&job->in[at->bias], 0, classes, s->bias);
    if (s->norm)
        reals_read(&job->in[at->norm_weight], 0, s->depth, s->norm);
}

void head_prepare(lk_job *job)
{
    const head h = head_of(job);
    const head_loss *of = h.of;
    int64_t counted = 0;
    fill_side(job, &of->side, h.classes, &h.own);
    if (of->teacher)
        fill_side(job, of->teacher, h.classes, &h.teacher);
    for (int64_t i = 0; i < job->rows; i++)
        if (of->counts(job, i))
            h.order[counted++] = i;
    job->counted = counted;
}

/* Sizes of what is computed together. */

int64_t head_pass_rows(const head *h)
{
    enum { DEEP = 8192 };
    const bool deep = h->own.depth > DEEP || h->teacher.depth > DEEP;
    return at_most(deep ? PRODUCT_TERMS : HEAD_ROWS, h->job->rows);
}

int64_t head_pass_classes(const head *h)
{
    enum { LEAST = 16 };
    const int64_t vector = h->own.depth * (int64_t)sizeof(real);
    const int64_t classes = vector > 0 ? HEAD_PART / vector : HEAD_CLASSES;
    return at_most(classes > LEAST ? classes : LEAST, at_most(HEAD_CLASSES, h->classes));
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* That of the products. */
static size_t products_for(const head *h, int64_t rows, int64_t classes)
{
    const int64_t depth = h->own.depth > h->teacher.depth ? h->own.depth : h->teacher.depth;
    const size_t scores = product_scratch(rows, depth);
    const size_t by_row = product_scratch(rows, classes);
    const size_t by_class = product_scratch(classes, rows);
    return larger(scores, larger(by_row, by_class));
}

/* With gradients of `vectors` hidden states or weights, and with scores unless these are made
 * ahead. */
static head_room room_of(const head *h, int64_t rows, int64_t classes, int64_t vectors, bool ahead,
                         void *scratch)
{
    const head_one *sides[] = {&h->own, &h->teacher};
    const int64_t scores = ahead ? 0 : rows * head_apart(classes);
    head_room r = {0};
    r.products = take(scratch, &r.bytes, 1, products_for(h, rows, classes));
    for (int k = 0; k < heads(h); k++) {
        r.hidden[k] = take(scratch, &r.bytes, rows * sides[k]->depth, sizeof(real));
        r.scores[k] = take(scratch, &r.bytes, scores, sizeof(real));
        r.bent[k] = take(scratch, &r.bytes, h->bends ? classes : 0, sizeof(real));
    }
    r.by_vector = take(scratch, &r.bytes, vectors * h->own.depth, sizeof(real));
    r.note = take(scratch, &r.bytes, 1, h->notes ? 0 : h->note);
    return r;
}

head_room head_visit_room(const head *h, void *scratch)
{
    const int64_t rows = head_visit_rows(h);
    head_room r = room_of(h, rows, h->classes, rows, h->ahead, scratch);
    for (int k = 0; k < 2 && h->ahead; k++)
        r.scores[k] = h->scores[k]; /* all rows are visited together */
    return r;
}

head_room head_pass_room(const head *h, void *scratch)
{
    return room_of(h, head_pass_rows(h), head_pass_classes(h), head_pass_classes(h), false,
                   scratch);
}

size_t head_scratch(const lk_job *job)
{
    const head h = head_of(job);
    return larger(head_visit_room(&h, NULL).bytes, head_pass_room(&h, NULL).bytes);
}

/* Of a row the products that make its scores and its gradient, asked for or not: blocks are the
 * same whatever is. Of a class both again, or the first ahead. */
int64_t head_row_cost(const lk_job *job, const lk_pass *pass)
{
    const head_loss *of = job->loss->driver;
    enum { PRODUCTS = 64 /* cost as much as an exponential */ };
    const bool ahead = pass == &job->loss->ahead;
    double products = (ahead ? 1 : 2) * (double)job->in[of->side.weight].shape[1];
    if (of->teacher)
        products += (double)job->in[of->teacher->weight].shape[1];
    if (ahead && !head_of(job).ahead)
        return 0;
    const double others = (double)(pass ? job->rows : of->classes(job));
    const lk_tensor *by_pass = pass ? &job->in[pass->input] : NULL; /* whose gradient is written */
    const int64_t written = pass && !ahead ? lk_tensor_count(by_pass) / by_pass->shape[0] : 0;
    const double cost = others * (1 + products / PRODUCTS) + (double)written, most = 0x1p50;
    return (int64_t)(cost < most ? cost : most);
}

/* A run reads the weight and copies it into panels, which takes as long as computing some 10 rows.
 * Fewer than MOST rows are cut into an even number of blocks nevertheless: threads come in pairs.
 * Each block of classes copies the FEW rows, so there are no more than SHARES of them. */
int64_t head_least(const lk_job *job, const lk_pass *pass)
{
    enum { MOST = 64, SHARES = 8 };
    if (pass == &job->loss->ahead) {
        const int64_t share = (job->in[pass->input].shape[0] + SHARES - 1) / SHARES;
        return share > HEAD_AHEAD ? share : HEAD_AHEAD;
    }
    const int64_t pairs = (job->rows + 2 * MOST - 1) / (2 * MOST);
    const int64_t rows = pairs > 0 ? (job->rows + 2 * pairs - 1) / (2 * pairs) : 0;
    return pass ? HEAD_CLASSES : rows > HEAD_FEW ? rows : HEAD_FEW;
}
