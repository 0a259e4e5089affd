/* SPDX-License-Identifier: MIT
 *
 * Linear heads: see rows/head.h.
 */
#include "rows/head.h"

#include "rows/elements.h"
#include "rows/product.h"
#include "vector/vmath.h"

enum {
    HEAD_SCRATCH = 56 << 20, /* bytes of the rows that are visited together: of one at least */
    HEAD_CLASSES = 512,      /* of a block of a pass */
    HEAD_PART = 8 << 20,     /* bytes of the gradients that a pass adds up together */
    HEAD_CHUNK = 512,        /* terms that are added up in reals; beyond that in double */
};

_Static_assert(HEAD_ROWS % PRODUCT_TERMS == 0, "rows are cut where sums are");

/* Elements of 16 bits are read, written and multiplied by the functions of their own variants,
 * which compute with the same reals. */
#if !defined(LK_ELEMENT_F64)
#define HALF_(isa, element)                                                                        \
    LK_DRIVER void lk_##isa##_##element##_elements_widen(const uint16_t *, int64_t, real *);       \
    LK_DRIVER void lk_##isa##_##element##_elements_narrow(const real *, int64_t, uint16_t *);      \
    LK_DRIVER void lk_##isa##_##element##_product(const product_side *, const product_side *,      \
                                                  int64_t, bool, real *, int64_t, void *);         \
    LK_INLINE void widen_##element(const void *x, int64_t n, real *to)                             \
    {                                                                                              \
        lk_##isa##_##element##_elements_widen(x, n, to);                                           \
    }                                                                                              \
    LK_INLINE void narrow_##element(const real *x, int64_t n, void *to)                            \
    {                                                                                              \
        lk_##isa##_##element##_elements_narrow(x, n, to);                                          \
    }                                                                                              \
    LK_INLINE void product_##element(const product_side *rows, const product_side *columns,        \
                                     int64_t depth, bool onto, real *out, int64_t stride,          \
                                     void *scratch)                                                \
    {                                                                                              \
        lk_##isa##_##element##_product(rows, columns, depth, onto, out, stride, scratch);          \
    }
#define HALF(isa, element) HALF_(isa, element)
HALF(LK_ISA, F16)
HALF(LK_ISA, BF16)
#endif

/* n elements of a tensor, from element `at` on. */
static void read_reals(const lk_tensor *t, int64_t at, int64_t n, real *to)
{
    const char *from = (const char *)t->data + at * (int64_t)lk_dtype_size(t->dtype);
    switch (t->dtype) {
#if !defined(LK_ELEMENT_F64)
    case LK_F16:
        widen_F16(from, n, to);
        break;
    case LK_BF16:
        widen_BF16(from, n, to);
        break;
#endif
    default:
        memcpy(to, from, (size_t)n * sizeof *to);
    }
}

/* The same multiplied by 2^power and stored. */
static void write_reals(const lk_tensor *t, int64_t at, int64_t n, int power, real *x)
{
    char *to = (char *)t->data + at * (int64_t)lk_dtype_size(t->dtype);
    for (int64_t k = 0; power != 0 && k < n; k++)
        x[k] = (real)ldexp((double)x[k], power);
    switch (t->dtype) {
#if !defined(LK_ELEMENT_F64)
    case LK_F16:
        narrow_F16(x, n, to);
        break;
    case LK_BF16:
        narrow_BF16(x, n, to);
        break;
#endif
    default:
        memcpy(to, x, (size_t)n * sizeof *x);
    }
}

static void clear(const lk_tensor *t, int64_t at, int64_t n)
{
    const int64_t size = (int64_t)lk_dtype_size(t->dtype);
    memset((char *)t->data + at * size, 0, (size_t)(n * size));
}

/* A product with a side of weights of any type. */
static void multiply(const product_side *rows, const product_side *weights, lk_dtype dtype,
                     int64_t depth, bool onto, real *out, int64_t stride, void *scratch)
{
    switch (dtype) {
#if !defined(LK_ELEMENT_F64)
    case LK_F16:
        product_F16(rows, weights, depth, onto, out, stride, scratch);
        break;
    case LK_BF16:
        product_BF16(rows, weights, depth, onto, out, stride, scratch);
        break;
#endif
    default:
        product(rows, weights, depth, onto, out, stride, scratch);
    }
}

/* One head of a call. */
typedef struct side {
    const lk_tensor *hidden, *weight;
    int64_t depth;
    real *bias, *norm; /* as reals; or NULL */
} side;

typedef struct head {
    const lk_job *job;
    const head_loss *of;
    side own, teacher; /* teacher.hidden is NULL if there is none */
    int64_t classes;
    double eps;
    bool bends; /* are scores looked at as they are, or: */
    head_bend bend[2];
    int64_t *order; /* the counted rows */
    bool *live;     /* of each of them: is its E other than 0? */
    char *notes;    /* of each of them, of as many bytes; NULL: no pass asks for them */
    size_t note;
    real *shares; /* of each of them, in the gradient of norm_weight; NULL: not wanted */
    size_t bytes; /* of the whole state */
} head;

/* Take the next bytes of job->state; see pair_take. */
static void *take(const lk_job *job, size_t *used, size_t bytes)
{
    const uintptr_t place = (uintptr_t)job->state + *used;
    *used += (bytes + LK_LINE - 1) / LK_LINE * LK_LINE;
    return (void *)place;
}

static side take_side(const lk_job *job, const head_side *at, int64_t classes, size_t *used)
{
    side s = {.hidden = &job->in[at->hidden], .weight = &job->in[at->weight]};
    s.depth = s.weight->shape[1];
    if (at->bias >= 0 && lk_has(job, at->bias))
        s.bias = take(job, used, (size_t)classes * sizeof(real));
    if (at->norm_weight >= 0 && lk_has(job, at->norm_weight))
        s.norm = take(job, used, (size_t)s.depth * sizeof(real));
    return s;
}

static bool wants(const lk_job *job, int input)
{
    return input >= 0 && (job->grad_wanted >> input & 1);
}

static head head_of(const lk_job *job)
{
    const head_loss *of = job->loss->driver;
    const int norm = of->side.norm_weight;
    const size_t rows = (size_t)job->rows;
    head h = {.job = job, .of = of, .classes = of->classes(job), .eps = of->options(job)->norm_eps};
    if (of->bends)
        of->bends(job, h.bend);
    for (int k = 0; of->bends && k < 2; k++)
        h.bends = h.bends || h.bend[k].cap > 0 || h.bend[k].times != 1;
    h.bytes = (of->state(job) + LK_LINE - 1) / LK_LINE * LK_LINE;
    h.own = take_side(job, &of->side, h.classes, &h.bytes);
    if (of->teacher)
        h.teacher = take_side(job, of->teacher, h.classes, &h.bytes);
    h.order = take(job, &h.bytes, rows * sizeof *h.order);
    h.live = take(job, &h.bytes, rows * sizeof *h.live);
    h.note = of->note(job);
    if (wants(job, of->side.weight) || wants(job, of->side.bias))
        h.notes = take(job, &h.bytes, rows * h.note);
    if (wants(job, norm))
        h.shares = take(job, &h.bytes, rows * (size_t)h.own.depth * sizeof(real));
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

static void fill_side(const lk_job *job, const head_side *at, int64_t classes, const side *s)
{
    if (s->bias)
        read_reals(&job->in[at->bias], 0, classes, s->bias);
    if (s->norm)
        read_reals(&job->in[at->norm_weight], 0, s->depth, s->norm);
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

LK_INLINE int64_t at_most(int64_t n, int64_t most)
{
    return n < most ? n : most;
}

/* From row to row of scores, in reals: whole lines. */
static int64_t apart(int64_t classes)
{
    enum { LINE = LK_LINE / (int)sizeof(real) };
    return (classes + LINE - 1) / LINE * LINE;
}

static size_t whole_lines(int64_t reals)
{
    return (size_t)apart(reals) * sizeof(real);
}

static int heads(const head *h)
{
    return h->teacher.hidden ? 2 : 1;
}

/* How many rows are visited together. */
static int64_t visit_rows(const head *h)
{
    const double each =
        (double)sizeof(real) * ((double)apart(h->classes) * heads(h) + 2 * (double)h->own.depth +
                                (double)h->teacher.depth);
    const int64_t rows = each > 0 ? (int64_t)((double)HEAD_SCRATCH / each) : HEAD_ROWS;
    return at_most(rows < 1 ? 1 : rows < HEAD_ROWS ? rows : HEAD_ROWS, h->job->rows);
}

/* How many rows, and classes, a pass takes at a time. */
static int64_t pass_rows(const head *h)
{
    enum { DEEP = 8192 };
    const bool deep = h->own.depth > DEEP || h->teacher.depth > DEEP;
    return at_most(deep ? PRODUCT_TERMS : HEAD_ROWS, h->job->rows);
}

static int64_t pass_classes(const head *h)
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

/* Scratch begins with that of the products. */
static size_t room_for(const head *h, int64_t rows, int64_t classes)
{
    const int64_t depth = h->own.depth > h->teacher.depth ? h->own.depth : h->teacher.depth;
    const size_t scores = product_scratch(rows, depth);
    const size_t by_row = product_scratch(rows, classes);
    const size_t by_class = product_scratch(classes, rows);
    return larger(scores, larger(by_row, by_class));
}

/* The arrays that rows are computed in: hidden states and scores of both heads, and gradients of
 * `vectors` hidden states or weights. */
typedef struct room {
    void *products;
    real *hidden[2], *scores[2], *by_vector;
    real *bent[2]; /* scores of a row */
    void *note;    /* of a row, where none are kept */
    size_t bytes;
} room;

static room room_of(const head *h, int64_t rows, int64_t classes, int64_t vectors, void *scratch)
{
    const side *sides[] = {&h->own, &h->teacher};
    uintptr_t at = (uintptr_t)scratch;
    room r = {.products = scratch};
    at += room_for(h, rows, classes);
    for (int k = 0; k < heads(h); k++) {
        r.hidden[k] = (real *)at;
        at += whole_lines(rows * sides[k]->depth);
        r.scores[k] = (real *)at;
        at += whole_lines(rows * apart(classes));
        r.bent[k] = (real *)at;
        at += h->bends ? whole_lines(classes) : 0;
    }
    r.by_vector = (real *)at;
    at += whole_lines(vectors * h->own.depth);
    r.note = (void *)at;
    r.bytes = (size_t)(at - (uintptr_t)scratch) + (h->notes ? 0 : h->note);
    return r;
}

static room visit_room(const head *h, void *scratch)
{
    return room_of(h, visit_rows(h), h->classes, visit_rows(h), scratch);
}

static room pass_room(const head *h, void *scratch)
{
    return room_of(h, pass_rows(h), pass_classes(h), pass_classes(h), scratch);
}

size_t head_scratch(const lk_job *job)
{
    const head h = head_of(job);
    return larger(visit_room(&h, NULL).bytes, pass_room(&h, NULL).bytes);
}

/* Of a row the products that make its scores and its gradient, asked for or not: blocks are the
 * same whatever is. Of a class both again. */
int64_t head_row_cost(const lk_job *job, const lk_pass *pass)
{
    const head_loss *of = job->loss->driver;
    enum { PRODUCTS = 64 /* cost as much as an exponential */ };
    double products = 2 * (double)job->in[of->side.weight].shape[1];
    if (of->teacher)
        products += (double)job->in[of->teacher->weight].shape[1];
    const double others = (double)(pass ? job->rows : of->classes(job));
    const lk_tensor *by_pass = pass ? &job->in[pass->input] : NULL; /* whose gradient is written */
    const int64_t written = pass ? lk_tensor_count(by_pass) / by_pass->shape[0] : 0;
    const double cost = others * (1 + products / PRODUCTS) + (double)written, most = 0x1p50;
    return (int64_t)(cost < most ? cost : most);
}

/* A run reads the weight and copies it into panels, which takes as long as computing some 10 rows.
 * Fewer than MOST rows are cut into an even number of blocks nevertheless: threads come in pairs.
 */
int64_t head_least(const lk_job *job, const lk_pass *pass)
{
    enum { MOST = 64, LEAST = 16 };
    const int64_t pairs = (job->rows + 2 * MOST - 1) / (2 * MOST);
    const int64_t rows = pairs > 0 ? (job->rows + 2 * pairs - 1) / (2 * pairs) : 0;
    return pass ? HEAD_CLASSES : rows > LEAST ? rows : LEAST;
}

/* Hidden states. */

/* The sum of a_k b_k, in doubles: what follows may take it away from a number nearly as large. */
static double dot(const real *a, const real *b, int64_t n)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += (double)a[k] * (double)b[k];
    return sum;
}

/* What normalises a hidden state: one over its root mean square. */
static double inverse_norm(const head *h, const real *x)
{
    const int64_t n = h->own.depth;
    return 1 / sqrt(dot(x, x, n) / (double)n + h->eps);
}

/* The hidden states of counted rows from q on, as the head multiplies them. */
static void read_hidden(const head *h, const side *s, int64_t q, int64_t count, real *to)
{
    for (int64_t r = 0; r < count; r++, to += s->depth) {
        read_reals(s->hidden, h->order[q + r] * s->depth, s->depth, to);
        if (!s->norm)
            continue;
        const double inverse = inverse_norm(h, to);
        for (int64_t k = 0; k < s->depth; k++)
            to[k] = (real)(to[k] * inverse) * s->norm[k];
    }
}

/* Make the gradient g of what the head multiplied that of the hidden state of row i, and note its
 * share in the gradient of norm_weight. `unit` is scratch for a hidden state. */
static void normalise_back(const head *h, int64_t i, real *g, real *share, real *unit)
{
    const int64_t n = h->own.depth;
    read_reals(h->own.hidden, i * n, n, unit);
    const double inverse = inverse_norm(h, unit);
    for (int64_t k = 0; share && k < n; k++)
        share[k] = (real)(g[k] * (unit[k] * inverse));
    for (int64_t k = 0; k < n; k++)
        g[k] *= h->own.norm[k];
    /* In doubles: where one component makes most of the norm, nearly nothing is left of it. */
    const double mean = dot(g, unit, n) * inverse / (double)n;
    for (int64_t k = 0; k < n; k++)
        g[k] = (real)((g[k] - unit[k] * inverse * mean) * inverse);
}

/* `count` weights from vector `first` on: whole, or by component. */
static product_side weights(const side *s, int64_t first, int64_t count, bool by_component)
{
    const int64_t size = (int64_t)lk_dtype_size(s->weight->dtype);
    product_side of = {.at = (const char *)s->weight->data + first * s->depth * size,
                       .elements = s->weight->dtype == LK_F16 || s->weight->dtype == LK_BF16,
                       .count = by_component ? s->depth : count,
                       .apart = by_component ? 1 : s->depth,
                       .step = by_component ? s->depth : 1};
    return of;
}

/* The scores of rows by `count` classes from `first` on. */
static void make_scores(const side *s, const real *hidden, int64_t rows, int64_t first,
                        int64_t count, real *x, void *products)
{
    const product_side a = product_vectors(hidden, rows, s->depth);
    const product_side b = weights(s, first, count, false);
    for (int64_t r = 0; s->bias && r < rows; r++)
        memcpy(x + r * apart(count), s->bias + first, (size_t)count * sizeof *x);
    multiply(&a, &b, s->weight->dtype, s->depth, s->bias != NULL, x, apart(count), products);
}

/* Hidden states and scores of counted rows from q on, by both heads. */
static void score(const head *h, const room *r, int64_t q, int64_t rows, int64_t first,
                  int64_t count)
{
    read_hidden(h, &h->own, q, rows, r->hidden[0]);
    make_scores(&h->own, r->hidden[0], rows, first, count, r->scores[0], r->products);
    if (!h->teacher.hidden)
        return;
    read_hidden(h, &h->teacher, q, rows, r->hidden[1]);
    make_scores(&h->teacher, r->hidden[1], rows, first, count, r->scores[1], r->products);
}

/* n scores as they are looked at. */
static void bend_scores(const head_bend *bend, const real *x, int64_t n, real *to)
{
    const vec times = v_set(bend->times), cap = v_set(bend->cap);
    const vec inverse = v_set(bend->cap > 0 ? 1 / bend->cap : 0);
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        vec u = v_read_tail(x + k, lanes, 0);
        u = times * (bend->cap > 0 ? cap * v_tanh(u * inverse) : u);
        if (lanes == LANES)
            v_write(to + k, u);
        else
            v_write_n(to + k, lanes, u);
    }
}

/* Derivatives e with respect to those scores become derivatives with respect to x. */
static void bend_back(const head_bend *bend, const real *x, int64_t n, real *e)
{
    const vec times = v_set(bend->times), inverse = v_set(bend->cap > 0 ? 1 / bend->cap : 0);
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        const vec u = v_read_tail(x + k, lanes, 0);
        vec g = v_read_tail(e + k, lanes, 0) * times;
        g = bend->cap > 0 ? g * v_tanh_slope(u * inverse) : g;
        if (lanes == LANES)
            v_write(e + k, g);
        else
            v_write_n(e + k, lanes, g);
    }
}

/* The scores of the row at place k of those computed together. */
static real *scores_at(const room *r, int of, int64_t k, int64_t classes)
{
    return r->scores[of] ? r->scores[of] + k * apart(classes) : NULL;
}

/* What counted row q leaves for its slopes. */
static void *note_at(const head *h, const room *r, int64_t q)
{
    return h->notes ? h->notes + (size_t)q * h->note : r->note;
}

/* The value of counted row q, at place k. */
static bool row_value(const head *h, const room *r, int64_t q, int64_t k, lk_block *block)
{
    const real *x[2];
    for (int of = 0; of < 2; of++) {
        x[of] = scores_at(r, of, k, h->classes);
        if (!h->bends || !x[of])
            continue;
        bend_scores(&h->bend[of], x[of], h->classes, r->bent[of]);
        x[of] = r->bent[of];
    }
    if (!h->notes)
        memset(r->note, 0, h->note);
    return h->of->value(h->job, h->order[q], x[0], x[1], block, note_at(h, r, q));
}

/* Its scores of some classes become E. */
static void row_slopes(const head *h, const room *r, int64_t q, int64_t k, int64_t first,
                       int64_t count)
{
    const void *note = note_at(h, r, q);
    real *x = scores_at(r, 0, k, count), *y = scores_at(r, 1, k, count);
    if (!h->bends) {
        h->of->slopes(h->job, h->order[q], note, first, count, x, y);
        return;
    }
    for (int64_t c = 0, n; c < count; c += n) {
        real straight[HEAD_CHUNK], beside[HEAD_CHUNK];
        n = at_most(count - c, HEAD_CHUNK);
        memcpy(straight, x + c, (size_t)n * sizeof *x);
        bend_scores(&h->bend[0], straight, n, x + c);
        if (y)
            bend_scores(&h->bend[1], y + c, n, beside);
        h->of->slopes(h->job, h->order[q], note, first + c, n, x + c, beside);
        bend_back(&h->bend[0], straight, n, x + c);
    }
}

/* The visit of the rows. */

/* What share of `whole` comes before i of `all`. */
static int64_t share_before(int64_t i, int64_t all, int64_t whole)
{
    return i == all ? whole : (int64_t)((double)i / (double)all * (double)whole);
}

/* The first counted row of the share of rows from i on: counted rows are dealt out evenly, so that
 * threads have as many of them each, wherever they are. */
static int64_t first_counted(const head *h, int64_t i)
{
    return share_before(i, h->job->rows, h->job->counted);
}

/* The first bad value of n elements of an input from `at` on. */
static void refuse_nonfinite(const head *h, int input, int64_t at, int64_t n, lk_block *block)
{
    real part[HEAD_CHUNK];
    for (int64_t end = at + n; at < end; at += HEAD_CHUNK) {
        const int64_t count = at_most(end - at, HEAD_CHUNK);
        read_reals(&h->job->in[input], at, count, part);
        const int64_t bad = elements_nonfinite(part, count);
        if (bad < 0)
            continue;
        lk_refuse(block, LK_NONFINITE_INPUT, input, at + bad, (double)part[bad]);
        return;
    }
}

/* Each block looks at its share of the parameters. */
static void check_parameters(const head *h, int64_t b, lk_block *block)
{
    const lk_job *job = h->job;
    const int64_t blocks = (job->rows + job->block_rows - 1) / job->block_rows;
    const int at[] = {h->of->side.weight, h->of->side.bias, h->of->side.norm_weight};
    for (int k = 0; k < 3; k++) {
        if (at[k] < 0 || !lk_has(job, at[k]))
            continue;
        const int64_t all = lk_tensor_count(&job->in[at[k]]);
        const int64_t first = share_before(b, blocks, all);
        refuse_nonfinite(h, at[k], first, share_before(b + 1, blocks, all) - first, block);
    }
}

/* The gradients of the hidden states of counted rows from q on, whose scores are E by now. */
static void back_rows(const head *h, const room *r, int64_t q, int64_t rows)
{
    const int hidden = h->of->side.hidden;
    const int64_t depth = h->own.depth;
    const int power = h->of->power(h->job);
    const lk_tensor *grad = &h->job->grad[hidden];
    const product_side e = product_vectors(r->scores[0], rows, apart(h->classes));
    const product_side by = weights(&h->own, 0, h->classes, true);
    multiply(&e, &by, h->own.weight->dtype, h->classes, false, r->by_vector, depth, r->products);
    for (int64_t k = 0; k < rows; k++) {
        const int64_t i = h->order[q + k];
        real *g = r->by_vector + k * depth;
        real *share = h->shares ? h->shares + (q + k) * depth : NULL;
        if (!h->live[q + k])
            memset(g, 0, (size_t)depth * sizeof *g);
        if (!h->live[q + k] && share)
            memset(share, 0, (size_t)depth * sizeof *g);
        else if (h->own.norm && h->live[q + k])
            normalise_back(h, i, g, share, r->hidden[0]);
        if (grad->data)
            write_reals(grad, i * depth, depth, power, g);
    }
}

void head_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const head h = head_of(job);
    const head_loss *of = h.of;
    const room r = visit_room(&h, scratch);
    const lk_reduce *reduce = job->options;
    const int hidden = of->side.hidden, norm = of->side.norm_weight;
    const lk_tensor *grad = &job->grad[hidden];
    const bool back = grad->data || (norm >= 0 && job->grad[norm].data);
    const bool refuse = reduce->nonfinite == LK_REFUSE_NONFINITE;
    const int64_t b0 = first / job->block_rows, end = first_counted(&h, first + count);
    const int64_t together = visit_rows(&h);
    for (int64_t i = first; i < first + count; i++) {
        lk_block *mine = block + (i / job->block_rows - b0);
        if (refuse && i % job->block_rows == 0)
            check_parameters(&h, i / job->block_rows, mine);
        if (of->counts(job, i))
            continue;
        of->ignore(job, i, mine);
        if (grad->data)
            clear(grad, i * h.own.depth, h.own.depth);
    }
    int64_t b = b0;
    for (int64_t q = first_counted(&h, first), rows; q < end; q += rows) {
        rows = at_most(end - q, together);
        score(&h, &r, q, rows, 0, h.classes);
        for (int64_t k = 0; k < rows; k++) {
            const int64_t at = h.order[q + k] * h.own.depth;
            while (q + k >= first_counted(&h, at_most((b + 1) * job->block_rows, job->rows)))
                b++;
            if (refuse)
                refuse_nonfinite(&h, hidden, at, h.own.depth, block + (b - b0));
            h.live[q + k] = row_value(&h, &r, q + k, k, block + (b - b0));
            if (back && h.live[q + k])
                row_slopes(&h, &r, q + k, k, 0, h.classes);
        }
        if (back)
            back_rows(&h, &r, q, rows);
    }
}

/* The passes over the classes. */

/* E of some counted rows from q on for some classes. A row without is not multiplied: 0 times what
 * is not finite is not 0. */
static void pass_slopes(const head *h, const room *r, int64_t q, int64_t rows, int64_t first,
                        int64_t count)
{
    const int64_t depth = h->own.depth;
    score(h, r, q, rows, first, count);
    for (int64_t k = 0; k < rows; k++) {
        if (h->live[q + k]) {
            row_slopes(h, r, q + k, k, first, count);
            continue;
        }
        memset(scores_at(r, 0, k, count), 0, (size_t)count * sizeof(real));
        memset(r->hidden[0] + k * depth, 0, (size_t)depth * sizeof(real));
    }
}

/* The gradients of weight, if `by_weight`, and of bias, for the classes of a part. */
static void back_part(const head *h, const room *r, int64_t first, int64_t count, bool by_weight)
{
    const lk_job *job = h->job;
    const int at = h->of->side.bias, power = h->of->power(job);
    const lk_tensor *bias = at < 0 ? NULL : &job->grad[at];
    const int64_t depth = h->own.depth;
    double sum[HEAD_CLASSES] = {0};
    memset(r->by_vector, 0, (size_t)(count * depth) * sizeof(real));
    for (int64_t q = 0, rows; q < job->counted; q += rows) {
        rows = at_most(job->counted - q, pass_rows(h));
        pass_slopes(h, r, q, rows, first, count);
        for (int64_t k = 0; bias && bias->data && k < rows; k++)
            for (int64_t c = 0; c < count; c++)
                sum[c] += (double)r->scores[0][k * apart(count) + c];
        const product_side e = {
            .at = r->scores[0], .count = count, .apart = 1, .step = apart(count)};
        const product_side by = {.at = r->hidden[0], .count = depth, .apart = 1, .step = depth};
        if (by_weight)
            product(&e, &by, rows, q > 0, r->by_vector, depth, r->products);
    }
    if (by_weight)
        write_reals(&job->grad[h->of->side.weight], first * depth, count * depth, power,
                    r->by_vector);
    real sums[HEAD_CLASSES];
    for (int64_t c = 0; c < count; c++)
        sums[c] = (real)sum[c];
    if (bias && bias->data)
        write_reals(bias, first, count, power, sums);
}

static void back_classes(const lk_job *job, int64_t first, int64_t count, void *scratch,
                         bool by_weight)
{
    const head h = head_of(job);
    const head_loss *of = h.of;
    const room r = pass_room(&h, scratch);
    const int at = of->side.bias;
    const int64_t last = first + count, end = at_most(last, h.classes);
    for (int64_t k = first, classes; k < end; k += classes) {
        classes = at_most(end - k, pass_classes(&h));
        back_part(&h, &r, k, classes, by_weight);
    }
    /* Classes that are not scored. */
    const int64_t rest = first > h.classes ? first : h.classes;
    if (rest < last && by_weight)
        clear(&job->grad[of->side.weight], rest * h.own.depth, (last - rest) * h.own.depth);
    if (rest < last && at >= 0 && job->grad[at].data)
        clear(&job->grad[at], rest, last - rest);
}

void head_back_weight(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    back_classes(job, first, count, scratch, true);
}

void head_back_bias(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const head_loss *of = job->loss->driver;
    if (!job->grad[of->side.weight].data)
        back_classes(job, first, count, scratch, false);
}

void head_back_norm(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const head h = head_of(job);
    const int power = h.of->power(job);
    (void)scratch;
    for (int64_t k = first; h.shares && k < first + count; k++) {
        double sum = 0;
        for (int64_t q = 0; q < job->counted; q++)
            sum += (double)h.shares[q * h.own.depth + k];
        real x = (real)sum;
        write_reals(&job->grad[h.of->side.norm_weight], k, 1, power, &x);
    }
}
