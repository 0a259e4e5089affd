/* SPDX-License-Identifier: MIT
 *
 * Losses that compare every vector of one set with all vectors of another: see rows/table.h.
 */
#include "rows/table.h"

#include "rows/elements.h"
#include "rows/product.h"
#include "vector/tally.h"
#include "vector/vmath.h"
#include "vector/wide.h"

enum {
    TABLE_OTHERS = 4 * PRODUCT_TERMS, /* how many vectors a pass compares with at a time */
    TABLE_ROWS_LEAST = 8,             /* that share the work of copying the columns into panels */
    TABLE_SCRATCH = 8 << 20,          /* bytes of scores of rows that are visited together */
    TABLE_KEPT = 64 << 20,            /* bytes of a table that is kept */
};

lk_status table_check_memory(const lk_job *job, int64_t x, int64_t y, lk_error *error)
{
    const double width = (double)job->size['D' - 'A'] + 64;
    const double reals = 2 * ((double)x + 64) * ((double)y + 64) + ((double)x + (double)y) * width;
    if (reals > 0x1p58)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, 0, -1,
                       "%s has more rows than memory can hold the similarities of",
                       job->loss->is->inputs[0].name);
    return LK_OK;
}

/* Each array ends with a stride more than there are rows. */
table_slopes table_slopes_take(const lk_job *job, size_t *used, int64_t rows)
{
    const int64_t n = rows + STRIDE;
    table_slopes g;
    g.top = take(job->state, used, n, sizeof *g.top);
    g.by = take(job->state, used, n, sizeof *g.by);
    g.off = take(job->state, used, n, sizeof *g.off);
    g.pull = take(job->state, used, n, sizeof *g.pull);
    g.hit = take(job->state, used, n, sizeof *g.hit);
    g.rest = take(job->state, used, n, sizeof *g.rest);
    g.more = take(job->state, used, n, sizeof *g.more);
    return g;
}

void table_take(const lk_job *job, size_t *used, pair_table *t)
{
    const int64_t rows = t->rows.rows;
    t->padded = padded_lanes(t->columns.rows);
    t->first = take(job->state, used, rows, sizeof *t->first);
    t->span = take(job->state, used, rows, sizeof *t->span);
    if (!table_wants_gradient(job))
        return;
    if (!t->slopes)
        t->by_row = table_slopes_take(job, used, rows);
    if ((double)rows * (double)t->padded * sizeof(real) <= TABLE_KEPT)
        t->kept = take(job->state, used, rows * t->padded, sizeof *t->kept);
}

int64_t table_group(const pair_table *t)
{
    const int64_t each = t->padded * (int64_t)sizeof(real);
    const int64_t rows = each > 0 ? at_most(TABLE_SCRATCH / each, TABLE_ROWS) : TABLE_ROWS;
    return rows < TABLE_ROWS_LEAST ? TABLE_ROWS_LEAST : rows;
}

/* The most vectors on either side. */
static int64_t most_vectors(const pair_table *t)
{
    return t->rows.rows > t->columns.rows ? t->rows.rows : t->columns.rows;
}

/* Scratch begins with that of the products, each of which either compares vectors or gathers from
 * them. */
static size_t products_scratch(const pair_table *t)
{
    const int64_t rows = at_most(most_vectors(t), TABLE_OTHERS), width = t->rows.width;
    return product_scratch(rows, width > rows ? width : rows);
}

static real *after_products(const pair_table *t, void *scratch)
{
    return (real *)((char *)scratch + products_scratch(t));
}

/* In a pass there follow the scores, then G, of a part of the table, the gradients by h, and one
 * vector of doubles, for what is added to a gradient. */
static int64_t part_reals(const pair_table *t)
{
    const int64_t n = most_vectors(t);
    return padded_lanes(at_most(n, TABLE_ROWS)) * padded_lanes(at_most(n, TABLE_OTHERS));
}

size_t table_scratch(const lk_job *job, const pair_table *t)
{
    const int64_t visit = t->kept ? 0 : at_most(table_group(t), t->rows.rows) * t->padded;
    const int64_t by_h = at_most(most_vectors(t), TABLE_ROWS) * t->rows.stride;
    const int64_t pass = table_wants_gradient(job) ? part_reals(t) + by_h : 0;
    const size_t more = t->add ? (size_t)t->rows.stride * sizeof(double) : 0;
    return products_scratch(t) + (size_t)(visit > pass ? visit : pass) * sizeof(real) + more;
}

/* So many products of two numbers cost as much as to read an element and compute its exponential.
 */
int64_t table_cost(const pair_table *t, int64_t others)
{
    enum { PRODUCTS = 64 };
    return others * (1 + t->columns.width / PRODUCTS);
}

int64_t table_least(const lk_job *job, const lk_pass *pass)
{
    (void)job;
    (void)pass;
    return TABLE_ROWS;
}

/* Make scores of products: columns j.. of row i. One that is not finite becomes NaN, since -inf
 * marks excluded candidates; so is what pads the row. */
static void finish_scores(const lk_job *job, const pair_table *t, int64_t i, int64_t j,
                          int64_t count, real *s)
{
    const wide scale = w_set(t->scale);
    const vec taint = v_set(t->rows.taint[i]), none = v_set(-(real)INFINITY);
    for (int64_t k = 0; k < count; k += LANES) {
        vec x = __builtin_convertvector(scale * v_wide(v_read(s + k)), vec);
        x += taint + v_read(t->columns.taint + j + k);
        x += v_set(0) * x;
        v_write(s + k, v_select(m_first(LK_TAIL(k, count)), x, none));
    }
    for (int64_t k = (count + LANES - 1) / LANES * LANES; k < padded_lanes(count); k += LANES)
        v_write(s + k, none);
    if (t->self && i >= j && i < j + count)
        s[i - j] = -(real)INFINITY;
    if (t->mend)
        t->mend(job, i, j, count, s);
}

/* The scores of rows i.. and columns j.., `stride` apart: whole strides. */
static void compute_scores(const lk_job *job, const pair_table *t, int64_t i, int64_t rows,
                           int64_t j, int64_t columns, real *s, int64_t stride, void *room)
{
    const pair_units *u = &t->rows, *v = &t->columns;
    const product_side a = product_vectors(u->h + i * u->stride, rows, u->stride);
    const product_side b = product_vectors(v->h + j * v->stride, columns, v->stride);
    product(&a, &b, u->width, false, s, stride, room);
    for (int64_t r = 0; r < rows; r++)
        finish_scores(job, t, i + r, j, columns, s + r * stride);
}

/* Kept scores of rows i.. and columns j.. also where rows and columns are exchanged. */
static void mirror(const pair_table *t, int64_t i, int64_t rows, int64_t j, int64_t columns)
{
    enum { TILE = 16 };
    for (int64_t c = j; c < j + columns; c += TILE)
        for (int64_t r = i; r < i + rows; r += TILE)
            for (int64_t y = c; y < at_most(c + TILE, j + columns); y++)
                for (int64_t x = r; x < at_most(r + TILE, i + rows); x++)
                    t->kept[y * t->padded + x] = t->kept[x * t->padded + y];
    for (int64_t y = j; i + rows == t->columns.rows && y < j + columns; y++)
        for (int64_t x = i + rows; x < t->padded; x++)
            t->kept[y * t->padded + x] = -(real)INFINITY;
}

/* Rows are cut into groups of TABLE_ROWS. Each is compared with itself and with the half of the
 * others that follow it in a circle, so that threads have equal work. */
void table_ahead(const lk_job *job, const pair_table *t, int64_t first, int64_t count,
                 void *scratch)
{
    const int64_t n = t->rows.rows, groups = (n + TABLE_ROWS - 1) / TABLE_ROWS;
    int64_t g = (first + TABLE_ROWS - 1) / TABLE_ROWS;
    for (; t->kept && g * TABLE_ROWS < first + count; g++) {
        const int64_t i = g * TABLE_ROWS, rows = at_most(n - i, TABLE_ROWS);
        /* Of an even number one is opposite, which the first of both is compared with. */
        const int64_t end = g + (groups + 1) / 2 + (groups % 2 == 0 && g < groups / 2);
        const int64_t ends[2] = {at_most(end, groups), end - groups};
        for (int part = 0; part < 2; part++) {
            const int64_t j = part == 0 ? i : 0, last = at_most(ends[part] * TABLE_ROWS, n);
            if (j >= last)
                continue;
            compute_scores(job, t, i, rows, j, last - j, t->kept + i * t->padded + j, t->padded,
                           scratch);
            const int64_t other = part == 0 ? i + rows : 0;
            mirror(t, i, rows, other, last - other);
        }
    }
}

const real *table_scores(const lk_job *job, const pair_table *t, int64_t i, int64_t count,
                         void *scratch)
{
    real *s = t->kept ? t->kept + i * t->padded : after_products(t, scratch);
    if (!t->kept || !t->self) /* else table_ahead has computed them */
        compute_scores(job, t, i, count, 0, t->columns.rows, s, t->padded, scratch);
    return s;
}

/* The strides of a row that have positives in them, k from `low` to `high`, and where the positives
 * are. */
typedef struct positives {
    int64_t first, end, low, high;
} positives;

/* Of row i, where it has `count` columns from column j on. */
LK_INLINE positives positives_of(const pair_table *t, int64_t i, int64_t j, int64_t count)
{
    positives p = {t->first[i] - j, t->first[i] + t->span[i] - j, 0, 0};
    if (p.first < count && p.end > 0) {
        p.low = p.first > 0 ? p.first / STRIDE * STRIDE : 0;
        p.high = padded_lanes(p.end < count ? p.end : count);
    }
    return p;
}

/* The positives among the scores x from column k on. */
LK_INLINE mask positives_in(const positives *p, int64_t k, vec x)
{
    const int64_t before = p->first - k, end = p->end - k;
    return ~m_first(at_most(before, LANES)) & m_first(at_most(end, LANES)) &
           (x != v_set(-(real)INFINITY));
}

/* A lane accumulates at most this many numbers in the computing type; partial sums are then added
 * up in double. */
enum { TABLE_TERMS = 64 };

/* max s_j, ignoring NaN. */
static vec tops(const real *s, int64_t low, int64_t high, vec top)
{
    for (int64_t k = low; k < high; k += LANES)
        top = v_max(v_read(s + k), top);
    return top;
}

/* The shift that is subtracted before exp. Finite even if no score is. */
static real shift_of(vec tops)
{
    const real most = v_top(tops);
    return isinf(most) && most < 0 ? 0 : most;
}

/* sum_j e^(s_j - shift), for s_j <= shift. */
static double sum_exp(const real *s, int64_t low, int64_t high, real shift)
{
    double sum = 0;
    for (int64_t c = low; c < high; c += TABLE_TERMS * STRIDE) {
        const int64_t end = at_most(high, c + TABLE_TERMS * STRIDE);
        tally total = {0};
        for (int64_t k = c; k < end; k += LANES)
            tally_add(&total, v_exp_nonpos(v_read(s + k) - v_set(shift)));
        sum += (double)tally_sum(total);
    }
    return sum;
}

/* The sum of s_j - shift over all s_j that are not -inf. */
static double sum_scores(const real *s, int64_t padded, real shift)
{
    const vec minus_inf = v_set(-(real)INFINITY);
    double sum = 0;
    for (int64_t c = 0; c < padded; c += TABLE_TERMS * STRIDE) {
        const int64_t end = at_most(padded, c + TABLE_TERMS * STRIDE);
        tally total = {0};
        for (int64_t k = c; k < end; k += LANES)
            tally_add(&total, v_where(v_read(s + k) != minus_inf, v_read(s + k) - v_set(shift)));
        sum += (double)tally_sum(total);
    }
    return sum;
}

double table_softmax(const pair_table *t, int64_t i, const real *s, const table_target *target)
{
    const positives p = positives_of(t, i, 0, t->padded);
    const double many = target->positives, eps = target->eps;
    const real top = shift_of(tops(s, 0, t->padded, v_set(-(real)INFINITY)));
    /* The positives are left out of the sum and added last: near 1, 1 - p keeps its digits. */
    wide_tally hits = {0}, scores = {0}, others = {0};
    for (int64_t k = p.low; k < p.high; k += LANES) {
        const vec x = v_read(s + k), d = x - v_set(top), e = v_exp_nonpos(d);
        const mask positive = positives_in(&p, k, x);
        wide_add(&hits, w_parts(v_where(positive, e)));
        wide_add(&scores, w_parts(v_where(positive, d)));
        wide_add(&others, w_parts(v_where(~positive, e)));
    }
    const double hit = wide_sum(hits), mean = wide_sum(scores) / many;
    const double rest =
        sum_exp(s, 0, p.low, top) + wide_sum(others) + sum_exp(s, p.high, t->padded, top);
    const double sum = hit + rest, log_sum = lk_log1p((hit - 1) + rest);
    double loss = (1 - eps) * (log_sum - mean);
    if (eps > 0)
        loss += eps * (log_sum - sum_scores(s, t->padded, top) / target->allowed);
    if (isnan(sum))
        loss = (double)NAN;
    if (t->by_row.top && target->weight != 0) {
        const table_slopes *g = &t->by_row;
        const double off = eps > 0 ? eps / target->allowed : 0, weight = target->weight;
        g->top[i] = top;
        g->by[i] = (real)(weight / sum);
        g->off[i] = (real)(weight * off);
        /* e/sum - (1 - eps)/many - off, rewritten so that nothing cancels. */
        g->pull[i] = weight / sum;
        g->hit[i] = hit / many;
        g->rest[i] = rest / many;
        g->more[i] = weight * (eps / many - off);
    }
    return loss;
}

double table_take_positive(const pair_table *t, int64_t i)
{
    const table_slopes *g = &t->by_row;
    const double taken = g->more[i] - g->pull[i] * g->rest[i];
    g->pull[i] = g->more[i] = 0;
    return taken;
}

/* e^-|x|, and from it the sigmoid. */
LK_INLINE vec sigmoid_of(vec x, vec e)
{
    return v_select(x >= (vec){0}, v_set(1), e) / (v_set(1) + e);
}

double table_each(const pair_table *t, int64_t i, const real *s, double weight)
{
    const positives p = positives_of(t, i, 0, t->padded);
    const vec none = v_set(-(real)INFINITY);
    vec most = tops(s, p.high, t->padded, tops(s, 0, p.low, none));
    for (int64_t k = p.low; k < p.high; k += LANES) {
        const vec x = v_read(s + k);
        most = v_max(v_select(positives_in(&p, k, x), none, x), most);
    }
    const real top = shift_of(most);
    wide_tally others = {0};
    for (int64_t k = p.low; k < p.high; k += LANES) {
        const vec x = v_read(s + k);
        wide_add(&others, w_parts(v_where(~positives_in(&p, k, x), v_exp_nonpos(x - v_set(top)))));
    }
    const double sum =
        sum_exp(s, 0, p.low, top) + wide_sum(others) + sum_exp(s, p.high, t->padded, top);
    const double lse = (double)top + lk_log(sum);
    /* log(e^s_p + sum) - s_p = softplus(lse - s_p): the slope of a positive is -sigmoid of that,
     * and those of the negatives are their softmax times the sum of these. */
    wide_tally losses = {0}, pulls = {0};
    for (int64_t k = p.low; k < p.high; k += LANES) {
        const vec x = v_read(s + k);
        const vec d = __builtin_convertvector(w_set(lse) - v_wide(x), vec);
        const vec e = v_exp_nonpos(-v_abs(d));
        const mask positive = positives_in(&p, k, x);
        const vec above = v_select(d <= (vec){0}, (vec){0}, d);
        wide_add(&losses, w_parts(v_where(positive, above + v_log1p(e))));
        wide_add(&pulls, w_parts(v_where(positive, sigmoid_of(d, e))));
    }
    if (t->by_row.top && weight != 0) {
        const table_slopes *g = &t->by_row;
        g->top[i] = top;
        g->by[i] = (real)(sum == 0 ? 0 : weight * wide_sum(pulls) / sum);
        g->pull[i] = weight;
        g->hit[i] = lse;
    }
    return wide_sum(losses);
}

/* The slopes of one row, or of as many columns as there are lanes. */
typedef struct slope {
    vec top, by, off;
    wide pull, hit, rest, more;
} slope;

LK_INLINE slope slope_of_row(const table_slopes *g, int64_t i)
{
    return (slope){.top = v_set(g->top[i]),
                   .by = v_set(g->by[i]),
                   .off = v_set(g->off[i]),
                   .pull = w_set(g->pull[i]),
                   .hit = w_set(g->hit[i]),
                   .rest = w_set(g->rest[i]),
                   .more = w_set(g->more[i])};
}

LK_INLINE slope slope_of_columns(const table_slopes *g, int64_t j)
{
    return (slope){.top = v_read(g->top + j),
                   .by = v_read(g->by + j),
                   .off = v_read(g->off + j),
                   .pull = w_read(g->pull + j),
                   .hit = w_read(g->hit + j),
                   .rest = w_read(g->rest + j),
                   .more = w_read(g->more + j)};
}

/* G of scores that are not positive. */
LK_INLINE vec slope_other(const slope *p, vec x)
{
    const mask there = (p->by != (vec){0}) | (p->off != (vec){0});
    return v_where(there, v_fma(p->by, v_exp_nonpos(x - p->top), -p->off));
}

/* G of positives. */
LK_INLINE vec slope_positive(bool each, const slope *p, vec x)
{
    wide g;
    if (each) {
        const vec d = __builtin_convertvector(p->hit - v_wide(x), vec);
        g = -p->pull * v_wide(sigmoid_of(d, v_exp_nonpos(-v_abs(d))));
    } else {
        const wide e = v_wide(v_exp_nonpos(x - p->top));
        g = p->pull * ((e - p->hit) - p->rest) + p->more;
    }
    const wide_mask there = (p->pull != (wide){0}) | (p->more != (wide){0});
    return __builtin_convertvector((wide)((wide_mask)g & there), vec);
}

/* G of scores x of row i, from column j on; `both`: with a part by column. */
LK_INLINE vec slopes_at(const bool both, const pair_table *t, const slope *row, int64_t j, vec x)
{
    vec g = slope_other(row, x);
    if (both) {
        const slope column = slope_of_columns(&t->by_column, j);
        g += slope_other(&column, x);
    }
    return v_where(x != v_set(-(real)INFINITY), g);
}

/* The same where some of them are positives. */
LK_INLINE vec slopes_near(const bool both, const pair_table *t, const slope *row,
                          const positives *p, int64_t j, int64_t k, vec x)
{
    vec g = slope_positive(t->each, row, x);
    if (both) {
        const slope column = slope_of_columns(&t->by_column, j + k);
        g += slope_positive(t->each, &column, x);
    }
    return v_select(positives_in(p, k, x), g, slopes_at(both, t, row, j + k, x));
}

/* G of row i, columns j.., from their scores, which they may replace. */
LK_INLINE void slopes_of(const bool both, const pair_table *t, int64_t i, int64_t j, int64_t count,
                         const real *s, real *g)
{
    const positives p = positives_of(t, i, j, count);
    const slope row = slope_of_row(&t->by_row, i);
    for (int64_t k = 0; k < count; k += LANES) {
        const int64_t n = LK_TAIL(k, count);
        const vec x = v_read_tail(s + k, n, -(real)INFINITY);
        const bool near = k >= p.low && k < p.high;
        v_write(g + k, near ? slopes_near(both, t, &row, &p, j, k, x)
                            : slopes_at(both, t, &row, j + k, x));
    }
}

double table_moment(const pair_table *t, int64_t i, const real *s)
{
    const positives p = positives_of(t, i, 0, t->padded);
    const slope row = slope_of_row(&t->by_row, i);
    wide_tally sum = {0};
    for (int64_t k = 0; k < t->padded; k += LANES) {
        const vec x = v_read(s + k);
        const bool near = k >= p.low && k < p.high;
        const vec g =
            near ? slopes_near(false, t, &row, &p, 0, k, x) : slopes_at(false, t, &row, k, x);
        /* G of a row add up to 0, so any number may be taken from its scores. */
        wide_add(&sum, w_parts(v_where(g != (vec){0}, g * (x - row.top))));
    }
    return wide_sum(sum);
}

/* The scores of rows i.. and columns j.. become G, in `part`. */
static void part_slopes(const lk_job *job, const pair_table *t, int64_t i, int64_t rows, int64_t j,
                        int64_t columns, real *part, void *room)
{
    const int64_t stride = padded_lanes(columns);
    if (!t->kept)
        compute_scores(job, t, i, rows, j, columns, part, stride, room);
    for (int64_t r = 0; r < rows; r++) {
        const real *s = t->kept ? t->kept + (i + r) * t->padded + j : part + r * stride;
        if (t->slopes) {
            if (t->kept)
                memcpy(part + r * stride, s, (size_t)stride * sizeof *s);
            t->slopes(job, t, i + r, j, columns, part + r * stride);
        } else if (t->by_column.top)
            slopes_of(true, t, i + r, j, columns, s, part + r * stride);
        else
            slopes_of(false, t, i + r, j, columns, s, part + r * stride);
    }
}

/* Write the gradients of `count` vectors from vector i on, `by_h` the sums of G_ij h_j. */
static void write_gradients(const lk_job *job, const pair_table *t, const pair_units *u, int input,
                            int64_t i, int64_t count, real *by_h)
{
    elem *grad = job->grad[input].data;
    const double scale = ldexp(t->scale, t->power);
    double *more = NULL;
    for (int64_t r = 0; r < count; r++) {
        if (t->add) {
            more = (double *)(by_h + at_most(most_vectors(t), TABLE_ROWS) * u->stride);
            memset(more, 0, (size_t)u->stride * sizeof *more);
            t->add(job, input, i + r, more);
        }
        pair_unit_back(u, i + r, by_h + r * u->stride, scale, more,
                       grad + (t->at ? t->at[i + r].at : i + r) * u->width);
    }
}

/* The vectors of `others` from j on, as those of a product over them: by component. */
static product_side components(const pair_units *others, int64_t j)
{
    return (product_side){.at = others->h + j * others->stride,
                          .count = others->stride,
                          .apart = 1,
                          .step = others->stride};
}

/* The gradients of the vectors that are the rows, or `across` the table, the columns. */
static void back(const lk_job *job, const pair_table *t, bool across, int input, int64_t first,
                 int64_t count, void *scratch)
{
    const pair_units *own = across ? &t->columns : &t->rows;
    const pair_units *others = across ? &t->rows : &t->columns;
    real *part = after_products(t, scratch), *by_h = part + part_reals(t);
    for (int64_t i = first, n; i < first + count; i += n) {
        int64_t j = 0, m;
        n = at_most(first + count - i, TABLE_ROWS);
        do { /* once even if there are no others, for zeros */
            m = at_most(others->rows - j, TABLE_OTHERS);
            if (across)
                part_slopes(job, t, j, m, i, n, part, scratch);
            else
                part_slopes(job, t, i, n, j, m, part, scratch);
            const int64_t stride = padded_lanes(across ? n : m);
            const product_side g = {
                .at = part, .count = n, .apart = across ? 1 : stride, .step = across ? stride : 1};
            const product_side h = components(others, j);
            product(&g, &h, m, j > 0, by_h, own->stride, scratch);
            j += m;
        } while (j < others->rows);
        write_gradients(job, t, own, input, i, n, by_h);
    }
}

void table_back_rows(const lk_job *job, const pair_table *t, int input, int64_t first,
                     int64_t count, void *scratch)
{
    back(job, t, false, input, first, count, scratch);
}

void table_back_columns(const lk_job *job, const pair_table *t, int input, int64_t first,
                        int64_t count, void *scratch)
{
    back(job, t, true, input, first, count, scratch);
}
