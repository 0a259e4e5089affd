/* SPDX-License-Identifier: MIT
 *
 * The scores of a linear head, and their way back: see rows/head_parts.h.
 */
#include "rows/head_parts.h"

#include "vector/vmath.h"

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
static void read_hidden(const head *h, const head_one *s, int64_t q, int64_t count, real *to)
{
    for (int64_t r = 0; r < count; r++, to += s->depth) {
        reals_read(s->hidden, h->order[q + r] * s->depth, s->depth, to);
        if (!s->norm)
            continue;
        const double inverse = inverse_norm(h, to);
        for (int64_t k = 0; k < s->depth; k++)
            to[k] = (real)(to[k] * inverse) * s->norm[k];
    }
}

void head_norm_back(const head *h, int64_t i, real *g, real *share, real *unit)
{
    const int64_t n = h->own.depth;
    reals_read(h->own.hidden, i * n, n, unit);
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

/* Scores. */

product_side head_weights(const head_one *s, int64_t first, int64_t count, bool by_component)
{
    const int64_t size = (int64_t)lk_dtype_size(s->weight->dtype);
    product_side of = {.at = (const char *)s->weight->data + first * s->depth * size,
                       .elements = s->weight->dtype == LK_F16 || s->weight->dtype == LK_BF16,
                       .count = by_component ? s->depth : count,
                       .apart = by_component ? 1 : s->depth,
                       .step = by_component ? s->depth : 1};
    return of;
}

/* Scores by one head. */
static void make_scores(const head_one *s, const real *hidden, int64_t rows, int64_t first,
                        int64_t count, real *x, int64_t apart, void *products)
{
    const product_side a = product_vectors(hidden, rows, s->depth);
    const product_side b = head_weights(s, first, count, false);
    for (int64_t r = 0; s->bias && r < rows; r++)
        memcpy(x + r * apart, s->bias + first, (size_t)count * sizeof *x);
    reals_product(&a, &b, s->weight->dtype, s->depth, s->bias != NULL, x, apart, products);
}

void head_make_scores(const head *h, const head_room *r, int64_t q, int64_t rows, int64_t first,
                      int64_t count, real *const to[2], int64_t apart)
{
    const head_one *heads[] = {&h->own, &h->teacher};
    for (int of = 0; of < 2 && heads[of]->hidden; of++) {
        read_hidden(h, heads[of], q, rows, r->hidden[of]);
        make_scores(heads[of], r->hidden[of], rows, first, count, to[of], apart, r->products);
    }
}

void head_score(const head *h, const head_room *r, int64_t q, int64_t rows, int64_t first,
                int64_t count)
{
    head_make_scores(h, r, q, rows, first, count, r->scores, head_apart(count));
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

/* What counted row q leaves for its slopes. */
static void *note_at(const head *h, const head_room *r, int64_t q)
{
    return h->notes ? h->notes + (size_t)q * h->note : r->note;
}

bool head_value(const head *h, const head_room *r, int64_t q, int64_t k, lk_block *block)
{
    const real *x[2];
    for (int of = 0; of < 2; of++) {
        x[of] = head_scores_at(r, of, k, h->classes);
        if (!h->bends || !x[of])
            continue;
        bend_scores(&h->bend[of], x[of], h->classes, r->bent[of]);
        x[of] = r->bent[of];
    }
    if (!h->notes)
        memset(r->note, 0, h->note);
    return h->of->value(h->job, h->order[q], x[0], x[1], block, note_at(h, r, q));
}

void head_slopes(const head *h, const head_room *r, int64_t q, int64_t k, int64_t first,
                 int64_t count)
{
    const void *note = note_at(h, r, q);
    real *x = head_scores_at(r, 0, k, count), *y = head_scores_at(r, 1, k, count);
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
