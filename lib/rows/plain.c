/* SPDX-License-Identifier: MIT
 *
 * The fast path for rows of class scores: see rows/plain.h.
 */
#include "rows/plain.h"

#include "vector/tally.h"
#include "vector/vmath.h"

/* Scores of at most this magnitude are "calm": their exponentials, 2^-58 to 2^58, and the sum of a
 * chunk of them neither overflow nor underflow in f32. */
enum { CALM = 40 };

/* How many classes precede the first whole cache line of a gradient row, so that streaming stores
 * write whole lines. 0 where pairs are reordered (v_pair_place), or elements are not aligned to
 * their own size. */
LK_INLINE int64_t plain_ahead(const elem *grad)
{
    const uintptr_t off = (uintptr_t)grad % LK_LINE;
    if (v_pair_place(1) != 1 || off % sizeof(elem) != 0)
        return 0;
    return (int64_t)((LK_LINE - off) % LK_LINE / sizeof(elem));
}

/* A piece of a pending gradient, at most a chunk, that is written while a chunk of the next row is
 * read. */
typedef struct plain_part {
    elem *to;
    const real *e; /* the exponentials */
    int64_t n;     /* classes */
    double by;     /* the factor of the exponentials */
    int64_t place; /* the target's position in e, or -1 if it is not in this part */
    real at;       /* the target's gradient */
    bool stream;
} plain_part;

/* The position of class k of n in the order of pairs (v_pair_place). */
LK_INLINE int64_t plain_place(int64_t k, int64_t n)
{
    const int64_t pair = k / (2 * STRIDE) * (2 * STRIDE);
    return pair + 2 * STRIDE <= n ? pair + v_pair_place(k - pair) : k;
}

/* The mask of the lane `place - k`: the target's, in a vector that begins at k. */
LK_INLINE mask plain_lane(int64_t place, int64_t k)
{
    const int64_t lane = place - k; /* may be more than a lane holds */
    return m_iota() == m_set(lane >= 0 && lane < LANES ? (ilane)lane : -1);
}

/* The factor of a part, split into a high and a low real where the element type is precise enough
 * to show the difference: rounding it to one real would cost every class half an ulp. */
typedef struct plain_slope {
    vec a, rest;
} plain_slope;

LK_INLINE plain_slope plain_slope_by(double by)
{
    const vec a = v_set((real)by); /* may be infinite, and inf - inf is NaN */
    return (plain_slope){a, v_set(isinf(a[0]) ? 0 : (real)(by - (double)a[0]))};
}

/* A vector of the gradient, from i on. */
LK_INLINE vec plain_slopes(const plain_part *part, plain_slope s, int64_t i, const bool has_target)
{
    const vec e = v_read(part->e + i);
    const vec g = sizeof(elem) == 4 ? v_fma(s.a, e, s.rest * e) : s.a * e;
    return has_target ? v_select(plain_lane(part->place, i), v_set(part->at), g) : g;
}

PARTS_INLINE void plain_write_pair(const plain_part *part, plain_slope s, int64_t i,
                                   const bool has_target)
{
    PARTS_UNROLLED
    for (int k = 0; k < PARTS; k++) {
        const vec u = plain_slopes(part, s, i + k * LANES, has_target);
        const vec w = plain_slopes(part, s, i + STRIDE + k * LANES, has_target);
        if (part->stream)
            v_stream_pair(part->to + i, k, u, w);
        else
            v_store_pair(part->to + i, k, u, w);
    }
}

/* Half of a pair, which is a line where elements are reals. */
PARTS_INLINE void plain_write_line(const plain_part *part, plain_slope s, int64_t i)
{
    PARTS_UNROLLED
    for (int k = 0; k < PARTS; k++)
        v_stream(part->to + i + k * LANES, plain_slopes(part, s, i + k * LANES, true));
}

/* Write the gradient of a part, from element `i` on. */
static void plain_write(const plain_part *given, int64_t i)
{
    const plain_part part = *given;
    const plain_slope s = plain_slope_by(part.by);
    const int64_t pairs = isnan(part.by) ? i : part.n;
    for (; i + 2 * STRIDE <= pairs; i += 2 * STRIDE)
        plain_write_pair(&part, s, i, true);
    for (; part.stream && sizeof(elem) == sizeof(real) && i + STRIDE <= pairs; i += STRIDE)
        plain_write_line(&part, s, i);
    for (; i < part.n; i += LANES)
        v_store_tail(part.to + i, LK_TAIL(i, part.n), plain_slopes(&part, s, i, true));
}

/* A vector that was loaded. gcc, short of registers, would read it from memory as often as it is
 * used. */
LK_INLINE vec plain_once(vec x)
{
#if LK_VECTOR_BYTES == 32
    __asm__("" : "+x"(x));
#endif
    return x;
}

/* Four vectors of scores are computed in turn, in one pair or two. Maxima are taken in several
 * chains where registers are left for them. */
enum { PAIRS = PARTS == 1 ? 2 : 1, STEP = PAIRS * 2 * STRIDE, CHAINS = PARTS == 1 ? 4 : 1 };

/* e^z of a pair, added to the sums; keeps the largest |z|. */
PARTS_INLINE void plain_pair(const elem *x, real *e, vec scale, const bool scaled, tally *sum,
                             vec *most)
{
    PARTS_UNROLLED
    for (int k = 0; k < PARTS; k++) {
        vec u, w;
        v_load_pair(x, k, &u, &w);
        u = scaled ? scale * u : plain_once(u);
        w = scaled ? scale * w : plain_once(w);
        most[0] = v_max_abs(u, most[0]);
        most[1 % CHAINS] = v_max_abs(w, most[1 % CHAINS]);
        u = v_exp_small(u);
        w = v_exp_small(w);
        v_write(e + k * LANES, u);
        v_write(e + STRIDE + k * LANES, w);
        tally_add(&sum[0], u);
        tally_add(&sum[1], w);
    }
}

/* e^z of n classes and their sum. True if all scores are calm; otherwise the results are of no use.
 * If a part is given, as many of its classes are written in the same loop, except for a remainder
 * of less than a step. */
LK_INLINE bool plain_calm_of(const elem *x, int64_t n, real by, real *e, double *total,
                             const bool scaled, const plain_part *given, const bool has_target)
{
    const plain_part part = given ? *given : (plain_part){0}; /* a copy: no store aliases it */
    const vec scale = v_set(by);
    const plain_slope slope = plain_slope_by(part.by);
    tally sum[2] = {{.added = 0}, {.added = 0}}; /* more would not fit into AVX2's registers */
    vec most[4] = {{0}, {0}, {0}, {0}};
    int64_t k = 0;
    for (; k + STEP <= n; k += STEP) {
        for (size_t i = 0; i < STEP; i += LK_LINE / sizeof(elem))
            v_fetch(x + k + i);
        UNROLLED
        for (int64_t i = 0; i < PAIRS; i++) {
            const int64_t at = k + i * 2 * STRIDE;
            plain_pair(x + at, e + at, scale, scaled, sum, most + i * 2 % CHAINS);
        }
        UNROLLED
        for (int64_t i = 0; given && i < PAIRS; i++)
            plain_write_pair(&part, slope, k + i * 2 * STRIDE, has_target);
    }
    for (; k + 2 * STRIDE <= n; k += 2 * STRIDE)
        plain_pair(x + k, e + k, scale, scaled, sum, most);
    for (; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        vec u = v_load_tail(x + k, lanes, 0);
        u = scaled ? scale * u : u;
        most[0] = v_max_abs(u, most[0]);
        u = v_where(m_first(lanes), v_exp_small(u));
        v_write(e + k, u);
        tally_add(&sum[0], u);
    }
    for (const int64_t padded = padded_lanes(n); PARTS > 1 && k < padded; k += LANES)
        v_write(e + k, v_set(0));
    *total = tally_sum_wide(tally_both(sum[0], sum[1]));
    return v_top(v_max(v_max(most[0], most[1]), v_max(most[2], most[3]))) <= CALM;
}

static bool plain_calm(const class_plan *p, const elem *x, int64_t n, real *e, double *total)
{
    return p->scale == 1 ? plain_calm_of(x, n, 1, e, total, false, NULL, false)
                         : plain_calm_of(x, n, (real)p->scale, e, total, true, NULL, false);
}

/* How many classes of a part can be written in the loop over a chunk of n; 0 where the scores are
 * scaled. */
LK_INLINE int64_t plain_beside(const class_plan *p, int64_t n, const plain_part *part)
{
    const int64_t whole = n / STEP * STEP;
    return p->scale == 1 && part->n >= whole && !isnan(part->by) ? whole : 0;
}

/* plain_calm that also writes a part. */
static bool plain_calm_beside(const elem *x, int64_t n, real *e, double *total,
                              const plain_part *part)
{
    return part->place < 0 ? plain_calm_of(x, n, 1, e, total, false, part, false)
                           : plain_calm_of(x, n, 1, e, total, false, part, true);
}

/* The scaled scores in the order of pairs, in whole strides, padded with -inf. Returns their
 * maximum. */
static real plain_scores(const class_plan *p, const elem *x, int64_t n, real *z)
{
    const vec scale = v_set((real)p->scale), lowest = v_set(-(real)INFINITY);
    vec a = lowest, b = a;
    int64_t k = 0;
    for (; k + 2 * STRIDE <= n; k += 2 * STRIDE) {
        PARTS_UNROLLED
        for (int i = 0; i < PARTS; i++) {
            vec u, w;
            v_load_pair(x + k, i, &u, &w);
            u = scale * u;
            w = scale * w;
            v_write(z + k + i * LANES, u);
            v_write(z + k + STRIDE + i * LANES, w);
            a = v_max(u, a);
            b = v_max(w, b);
        }
    }
    for (; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        vec u = scale * v_load_tail(x + k, lanes, 0);
        u = v_select(m_first(lanes), u, lowest);
        v_write(z + k, u);
        a = v_max(u, a);
    }
    for (const int64_t padded = padded_lanes(n); PARTS > 1 && k < padded; k += LANES)
        v_write(z + k, lowest);
    return v_top(v_max(a, b));
}

/* The sum of n reals, in whole strides, without the one at `place`, which may be nearly the whole
 * sum. That one is masked out rather than overwritten with 0: loading a vector just after a scalar
 * store into it stalls (no store forwarding). */
LK_INLINE double plain_sum_others(const real *e, int64_t n, int64_t place)
{
    tally a = {.added = 0}, b = a;
    int64_t k = 0;
    for (; k + 2 * STRIDE <= n; k += 2 * STRIDE) {
        PARTS_UNROLLED
        for (int i = 0; i < PARTS; i++) {
            const int64_t u = k + i * LANES, w = u + STRIDE;
            tally_add(&a, v_where(~plain_lane(place, u), v_read(e + u)));
            tally_add(&b, v_where(~plain_lane(place, w), v_read(e + w)));
        }
    }
    for (; k < n; k += LANES)
        tally_add(&a, v_where(~plain_lane(place, k), v_read(e + k)));
    return tally_sum_wide(tally_both(a, b));
}

/* Whether to try the calm path on the next chunk: after a failure it is skipped for a while. */
typedef struct calm_trial {
    int64_t calm_from; /* the calm path is not tried before this class */
    int64_t pause;     /* how many classes the next failure skips */
} calm_trial;

/* Computes the exponentials of one chunk into e and adds them to the row's sums; writes a part
 * meanwhile. */
LK_INLINE void plain_chunk(const class_plan *p, const class_row *row, int64_t k, int64_t n, real *e,
                           calm_trial *trial, class_norm *r, const plain_part *part)
{
    int64_t written = 0;
    real shift = 0;
    double sum;
    bool calm = false;
    if (k >= trial->calm_from) {
        written = part ? plain_beside(p, n, part) : 0;
        calm = written > 0 ? plain_calm_beside(row->x + k, n, e, &sum, part)
                           : plain_calm(p, row->x + k, n, e, &sum);
        if (!calm) {
            trial->calm_from = k + trial->pause;
            trial->pause *= 2;
        }
    }
    real reference = 0;
    if (!calm) {
        const real top = plain_scores(p, row->x + k, n, e);
        reference = top > r->top ? top : r->top;
        shift = isinf(reference) && reference < 0 ? 0 : reference; /* nothing finite yet */
        sum = (double)class_exps(e, padded_lanes(n), shift);
    }
    if (reference > r->top) {
        if (r->rest > 0)
            r->rest *= lk_exp((double)r->top - (double)reference);
        r->top = reference;
    }
    if (row->y >= k && row->y < k + n) {
        const int64_t place = plain_place(row->y - k, n);
        if (4 * (double)e[place] <= sum) /* the subtraction loses almost nothing */
            sum -= (double)e[place];
        else
            sum = plain_sum_others(e, padded_lanes(n), place);
    }
    if (row->shift)
        row->shift[k / CHUNK] = shift;
    if (shift < r->top)
        sum *= lk_exp((double)shift - (double)r->top);
    r->rest += sum;
    if (part && written < part->n)
        plain_write(part, written);
}

/* The factor of a chunk's exponentials, without 2^*power, by which they are multiplied separately:
 * the whole factor may overflow f32 or double where the product does not. */
LK_INLINE double plain_factor(const plain_gradient *g, real shift, int *power)
{
    const double limit = 0x1p60;
    *power = 0;
    if (shift > g->top) /* no finite score so far: all exponentials are 0 */
        return isnan(g->a) ? g->a : 0;
    const double half = shift < g->top ? lk_exp(((double)shift - (double)g->top) / 2) : 1;
    const double factor = g->a * half * half;
    if (fabs(factor) > limit)
        *power = 60;
    else if (fabs(factor) < 1 / limit)
        *power = -60;
    return *power == 0 ? factor : ldexp(g->a * half, -*power) * half;
}

/* The part of a pending gradient for the classes from..end-1, which share one shift. `again` is
 * scratch for a chunk whose exponentials were not kept. If the shift is 0, calm chunks may stand
 * beside others; all scores are then at most 40. */
static plain_part plain_take(const class_plan *p, const plain_gradient *g, int64_t from,
                             int64_t end, real *again)
{
    const class_row *row = g->row;
    const int64_t n = end - from;
    const real shift = row->shift[from / CHUNK];
    plain_part part = {.to = row->grad_x + from, .n = n, .place = -1, .at = g->at};
    part.e = row->kept ? row->kept + from : again;
    double sum;
    if (!row->kept && (shift != 0 || !plain_calm(p, row->x + from, n, again, &sum))) {
        (void)plain_scores(p, row->x + from, n, again);
        (void)class_exps(again, padded_lanes(n), shift);
    }
    int power;
    part.by = plain_factor(g, shift, &power);
    if (power != 0) {
        for (int64_t i = 0; i < n; i += LANES)
            v_write(again + i, v_set((real)(power > 0 ? 0x1p60 : 0x1p-60)) * v_read(part.e + i));
        part.e = again;
    }
    part.stream = p->stream && (uintptr_t)part.to % LK_LINE == 0;
    if (row->y >= from && row->y < end)
        part.place = plain_place(row->y - from, n);
    return part;
}

/* The part of a pending gradient that is written during the chunk k..k+n-1 of the next row: as many
 * classes, aligned to whole cache lines. */
LK_INLINE plain_part plain_part_beside(const class_plan *p, const plain_gradient *g, int64_t k,
                                       int64_t n, real *again)
{
    if (!g->row)
        return (plain_part){0};
    const int64_t next = k + n;
    int64_t from = k > 0 ? k + g->ahead : 0, end = next + g->ahead;
    if (end > p->classes)
        end = p->classes;
    if (from == 0 && g->ahead > 0 && g->ahead < end) {
        const plain_part first = plain_take(p, g, 0, g->ahead, again);
        plain_write(&first, 0);
        from = g->ahead;
    }
    if (from < next && next < end && g->row->shift[k / CHUNK] != g->row->shift[next / CHUNK]) {
        const plain_part first = plain_take(p, g, from, next, again);
        plain_write(&first, 0);
        from = next;
    }
    return from < end ? plain_take(p, g, from, end, again) : (plain_part){0};
}

LK_INLINE int64_t plain_chunk_size(const class_plan *p, int64_t k)
{
    return p->classes - k < CHUNK ? p->classes - k : CHUNK;
}

LK_INLINE void plain_written(const class_plan *p, plain_gradient *g)
{
    if (p->width > p->classes)
        memset(g->row->grad_x + p->classes, 0, (size_t)(p->width - p->classes) * sizeof(elem));
    g->row = NULL;
}

void plain_settle(const class_plan *p, plain_gradient *g)
{
    real again[CHUNK] __attribute__((aligned(LK_LINE)));
    for (int64_t k = 0; g->row && k < p->classes; k += CHUNK) {
        const plain_part part = plain_part_beside(p, g, k, plain_chunk_size(p, k), again);
        plain_write(&part, 0);
    }
    if (g->row)
        plain_written(p, g);
    if (p->stream)
        v_fence();
}

LK_INLINE void plain_begin(const class_plan *p, const class_row *row, class_norm *r)
{
    *r = (class_norm){.top = -(real)INFINITY};
    r->at = (real)p->scale * r_load(row->x + row->y);
}

/* Sweep 1 of a row, without the last step (class_close). Writes the pending gradient meanwhile. */
static void plain_normalise(const class_plan *p, const class_row *row, plain_gradient *before,
                            class_norm *r)
{
    calm_trial trial = {.pause = 4 * CHUNK};
    real chunk[CHUNK] __attribute__((aligned(LK_LINE)));
    real again[CHUNK] __attribute__((aligned(LK_LINE)));
    plain_begin(p, row, r);
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        const int64_t n = plain_chunk_size(p, k);
        const plain_part part = plain_part_beside(p, before, k, n, again);
        plain_chunk(p, row, k, n, row->kept ? row->kept + k : chunk, &trial, r, &part);
    }
    if (before->row)
        plain_written(p, before);
}

/* The row's value; its gradient becomes the pending one. */
static void plain_conclude(const class_plan *p, class_row *row, const class_norm *r,
                           plain_gradient *g)
{
    const class_slope slope = class_conclude(p, row, r);
    /* The entropy is close to 0 for a peaked row: exact only relative to the true maximum. */
    if (p->want_entropy) {
        const class_row alone = {.x = row->x, .y = row->y};
        const class_norm norm = class_normalise(p, &alone);
        double gap;
        row->entropy = (real)class_entropy(p, row, &norm, &gap);
    }
    if (row->grad_x && row->rho == 0 && row->zeta == 0) {
        memset(row->grad_x, 0, (size_t)p->width * sizeof(elem));
    } else if (row->grad_x) {
        g->row = row;
        g->a = slope.a * p->scale;
        g->at = (real)(slope.at * p->scale);
        g->top = r->top;
        g->ahead = plain_ahead(row->grad_x);
    }
}

void plain_compute(const class_plan *p, class_row *const *rows, int count, plain_gradient *g)
{
    class_norm norms[CLASS_TOGETHER];
    real chunk[CHUNK] __attribute__((aligned(LK_LINE)));
    if (class_together(p->width) == 1) {
        for (int i = 0; i < count; i++) {
            plain_normalise(p, rows[i], g, &norms[i]);
            class_close(&norms[i], rows[i]);
            plain_conclude(p, rows[i], &norms[i], g);
        }
        return;
    }
    /* Short rows are one chunk each: their steps are interleaved, to hide the latency of one row's
     * maximum, sum and logarithm behind the others. */
    for (int i = 0; i < count; i++) {
        calm_trial trial = {.pause = 4 * CHUNK};
        plain_begin(p, rows[i], &norms[i]);
        plain_chunk(p, rows[i], 0, p->classes, rows[i]->kept ? rows[i]->kept : chunk, &trial,
                    &norms[i], NULL);
    }
    for (int i = 0; i < count; i++)
        class_close(&norms[i], rows[i]);
    for (int i = 0; i < count; i++) {
        plain_conclude(p, rows[i], &norms[i], g);
        if (!g->row)
            continue;
        const plain_part part = plain_take(p, g, 0, p->classes, chunk);
        plain_write(&part, 0);
        plain_written(p, g);
    }
}
