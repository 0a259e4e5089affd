/* SPDX-License-Identifier: MIT
 *
 * One row of class scores: see rows/class_row.h.
 */
#include "rows/class_row.h"

#include "rows/class_terms.h"
#include "vector/tally.h"
#include "vector/vmath.h"

bool class_streams(const elem *grad, int64_t rows, int64_t width)
{
    enum { LONG = 2048 };
    const int64_t row = width * (int64_t)sizeof(elem);
    return rows * row >= LK_STREAM_MIN && (uintptr_t)grad % sizeof(elem) == 0 &&
           (row >= LONG || (row % LK_LINE == 0 && (uintptr_t)grad % LK_LINE == 0));
}

class_plan class_plan_make(const lk_job *job, const class_options *o, int64_t width)
{
    class_plan p = {.width = width, .inner = 1};
    double eps = o->label_smoothing;
    p.classes = o->vocab_size > 0 ? o->vocab_size : p.width;
    p.total_weight = job->total_weight;
    p.weightless = job->weightless;
    p.smoothing = eps;
    if (o->smoothing_mode == CLASS_UNIFORM) {
        p.off = p.classes > 0 ? eps / (double)p.classes : 0;
        p.on = 1 - eps + p.off;
    } else {
        p.off = p.classes > 1 ? eps / (double)(p.classes - 1) : 0;
        p.on = 1 - eps;
    }
    p.scale = class_clamp(o->logit_scale);
    p.cap = o->softcap > 0 ? (real)class_clamp(o->softcap) : 0;
    p.z_loss = o->z_loss;
    p.gamma = o->focal_gamma;
    p.poly1 = o->poly1;
    p.target_scaling = o->target_scaling;
    p.minus_entropy = o->subtract_entropy;
    return p;
}

/* Reals of a row, aligned or not: weights. */
LK_INLINE real class_weight(const class_plan *p, int64_t k)
{
    real w = 1;
    if (p->weight)
        memcpy(&w, p->weight + k, sizeof w);
    return w;
}

/* The maximum over the lanes; 0, not -0, where it is a zero: of zeros of both signs it depends on
 * the number of lanes which one is found, and then on that the sign of z - top. */
LK_INLINE real class_top(vec x)
{
    return v_top(x) + 0;
}

/* z of the classes k..k+n-1 (n <= CHUNK), in whole strides, padded with -inf, which changes neither
 * a maximum nor a sum of exponentials. Returns the maximum, ignoring NaN. */
LK_INLINE real class_scores_of(const class_plan *p, const elem *x, int64_t n, real *z,
                               const bool capped)
{
    const vec scale = v_set((real)p->scale), cap = v_set(p->cap);
    const vec inverse = v_set(capped ? 1 / p->cap : 0);
    vec a = v_set(-(real)INFINITY), b = a;
    int64_t k = 0;
    for (; k + 2 * LANES <= n; k += 2 * LANES) {
        vec u = v_load(x + k), w = v_load(x + k + LANES);
        /* Prefetch the next chunk while this one's exponentials are computed. A prefetch never
         * faults. */
        __builtin_prefetch((const char *)(x + k) + CHUNK * sizeof(elem));
        if (LANES * sizeof(elem) >= 64)
            __builtin_prefetch((const char *)(x + k + LANES) + CHUNK * sizeof(elem));
        u = scale * (capped ? cap * v_tanh(u * inverse) : u);
        w = scale * (capped ? cap * v_tanh(w * inverse) : w);
        v_write(z + k, u);
        v_write(z + k + LANES, w);
        a = v_max(u, a);
        b = v_max(w, b);
    }
    for (; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        vec u = v_load_tail(x + k, lanes, 0);
        u = v_select(m_first(lanes), scale * (capped ? cap * v_tanh(u * inverse) : u),
                     v_set(-(real)INFINITY));
        v_write(z + k, u);
        a = v_max(u, a);
    }
    for (const int64_t padded = padded_lanes(n); PARTS > 1 && k < padded; k += LANES)
        v_write(z + k, v_set(-(real)INFINITY));
    return class_top(v_max(a, b));
}

real class_scores(const class_plan *p, const elem *x, int64_t n, real *z)
{
    return p->cap > 0 ? class_scores_of(p, x, n, z, true) : class_scores_of(p, x, n, z, false);
}

real class_max(const real *z, int64_t n)
{
    vec a = v_set(-(real)INFINITY), b = a, c = a, d = a;
    int64_t k = 0;
    for (; k + 4 * LANES <= n; k += 4 * LANES) {
        a = v_max(v_read(z + k), a);
        b = v_max(v_read(z + k + LANES), b);
        c = v_max(v_read(z + k + 2 * LANES), c);
        d = v_max(v_read(z + k + 3 * LANES), d);
    }
    for (; k < n; k += LANES)
        a = v_max(v_read(z + k), a);
    return class_top(v_max(v_max(a, b), v_max(c, d)));
}

/* e^(z - shift) of a vector at z; with `keep` it replaces z. Returns what it adds to the sum; with
 * `tops`, elements equal to the shift are left out and counted there. */
LK_INLINE vec class_exp(real *z, vec shift, const bool keep, vec *tops)
{
    const vec u = v_read(z), e = v_exp_nonpos(u - shift);
    if (keep)
        v_write(z, e);
    if (!tops)
        return e;
    const mask top = u == shift;
    *tops += v_where(top, v_set(1));
    return v_where(~top, e);
}

/* The sum of e^(z - shift) of whole strides; with `keep` the exponentials replace z. With `apart`,
 * elements equal to the shift are counted in *tops instead of summed. */
LK_INLINE real class_exps_of(real *z, int64_t n, real shift, const bool keep, const bool apart,
                             double *tops)
{
    const vec s = v_set(shift);
    tally sum[2] = {{.added = 0}, {.added = 0}}; /* more would not fit into AVX2's registers */
    vec count = {0};
    int64_t k = 0;
    for (; k + 2 * STRIDE <= n; k += 2 * STRIDE) {
        PARTS_UNROLLED
        for (int i = 0; i < 2 * PARTS; i++) {
            vec *tops_of = apart ? &count : NULL;
            tally_add(&sum[i / PARTS], class_exp(z + k + i * LANES, s, keep, tops_of));
        }
    }
    for (; k < n; k += LANES)
        tally_add(&sum[0], class_exp(z + k, s, keep, apart ? &count : NULL));
    if (apart)
        *tops += v_count(count);
    return tally_sum(tally_both(sum[0], sum[1]));
}

real class_exps(real *z, int64_t n, real shift)
{
    return class_exps_of(z, n, shift, true, false, NULL);
}

real class_sum_exp(real *z, int64_t n, real shift)
{
    return class_exps_of(z, n, shift, false, false, NULL);
}

/* Add one chunk of a row to its sums, in whole strides; with a shift of its own, the exponentials
 * are kept in z. */
static __attribute__((noinline)) void class_add_exps(class_norm *r, const class_row *row, real *z,
                                                     int64_t n, real shift)
{
    const bool apart = row->y < 0, keep = row->kept != NULL;
    r->rest += (double)(apart && keep ? class_exps_of(z, n, shift, true, true, &r->own)
                        : apart       ? class_exps_of(z, n, shift, false, true, &r->own)
                        : keep        ? class_exps_of(z, n, shift, true, false, NULL)
                                      : class_exps_of(z, n, shift, false, false, NULL));
}

static int class_slots(int64_t width)
{
    return width <= CHUNK ? CLASS_TOGETHER : 2;
}

/* The scratch of a row: its exponentials, unless the row is so long that they would not stay in
 * cache, and its shifts. In whole cache lines; the exponentials are padded by LANES, since their
 * last vector may begin anywhere. */
LK_INLINE int64_t class_whole_lines(int64_t reals)
{
    enum { LINE = LK_LINE / (int)sizeof(real) };
    return (reals + LINE - 1) / LINE * LINE;
}

static int64_t class_kept_reals(int64_t width)
{
    enum { MOST = (1 << 20) / (int)sizeof(real) };
    return width <= MOST ? class_whole_lines(width + LANES) : 0;
}

static int64_t class_slot_reals(int64_t width)
{
    return class_kept_reals(width) + class_whole_lines((width + CHUNK - 1) / CHUNK);
}

size_t class_kept_size(int64_t width)
{
    return (size_t)(class_slot_reals(width) * class_slots(width)) * sizeof(real);
}

void class_keep(const class_plan *p, class_row *row, void *scratch, int k)
{
    enum { LONG = (1 << 19) / (int)sizeof(elem) };
    if (!scratch)
        return;
    const int64_t kept = class_kept_reals(p->width);
    real *slot = (real *)scratch + k * class_slot_reals(p->width);
    const bool stays = p->plain && row->grad_x == row->x && p->width > LONG;
    row->kept = kept > 0 && !stays ? slot : NULL;
    row->shift = slot + kept;
}

/* 0 until a finite score is seen: e^(-inf - 0) is 0, e^(NaN - 0) is NaN. */
LK_INLINE real class_shift(const class_norm *r)
{
    return isinf(r->top) && r->top < 0 ? 0 : r->top;
}

/* Take the target, at z[y], out of the sum. */
LK_INLINE void class_set_apart(class_norm *r, real *z, int64_t y)
{
    r->at = z[y];
    z[y] = -(real)INFINITY;
}

class_norm class_normalise(const class_plan *p, const class_row *row)
{
    class_norm r = {.top = -(real)INFINITY, .at = 0};
    real chunk[CHUNK] __attribute__((aligned(LK_LINE)));
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        int64_t n = p->classes - k < CHUNK ? p->classes - k : CHUNK, padded = padded_lanes(n);
        real *z = row->kept ? row->kept + k : chunk;
        const real top = class_scores(p, row->x + k, n, z);
        if (row->y >= k && row->y < k + n)
            class_set_apart(&r, z, row->y - k);
        if (top > r.top) {
            if (r.rest + r.own > 0)
                r.rest = (r.rest + r.own) * lk_exp((double)r.top - (double)top);
            r.own = 0;
            r.top = top;
        }
        const real shift = class_shift(&r);
        if (row->kept)
            row->shift[k / CHUNK] = shift;
        class_add_exps(&r, row, z, padded, shift);
    }
    class_close(&r, row);
    return r;
}

/* The same for several rows of one chunk each: each step is done for all rows before the next
 * step. */
static void class_normalise_together(const class_plan *p, class_row *const *rows, int count,
                                     class_norm *norms)
{
    for (int i = 0; i < count; i++) {
        const class_row *row = rows[i];
        norms[i] = (class_norm){.top = class_scores(p, row->x, p->classes, row->kept)};
        if (row->y >= 0)
            class_set_apart(&norms[i], row->kept, row->y);
        row->shift[0] = class_shift(&norms[i]);
    }
    for (int i = 0; i < count; i++)
        class_add_exps(&norms[i], rows[i], rows[i]->kept, padded_lanes(p->classes),
                       rows[i]->shift[0]);
    for (int i = 0; i < count; i++)
        class_close(&norms[i], rows[i]);
}

/* Sweep 2: sums over the classes, as the form and the options need them. */
typedef struct class_sums {
    double off_scores; /* index: sum over k != y of w_k (z_k - top), where w_k > 0 */
    double cross;      /* probability: sum w q (z - top) */
    double others;     /* probability: sum w q of the classes below the maximum */
    double tops;       /* and of those at it */
    int64_t leader;    /* the last of those */
    double excess;     /* probability, with subtract_entropy: sum w q (log q - l) */
    bool weighs;       /* as in class_totals */
} class_sums;

LK_INLINE vec class_weights(const class_plan *p, int64_t k, int64_t n)
{
    return p->weight ? v_read_tail(p->weight + k, n, 0) : v_where(m_first(n), v_set(1));
}

/* q_k = (1 - eps) t_k + eps/C. */
LK_INLINE vec class_q(const class_plan *p, const elem *t, int64_t n)
{
    return v_fma(v_load_tail(t, n, 0), v_set((real)(1 - p->smoothing)), v_set((real)p->off));
}

/* Index form: the sum of w_k (z_k - top) over a chunk, where w_k > 0. */
LK_INLINE double class_off_scores(const class_plan *p, int64_t k, int64_t n, const real *z, vec top,
                                  const bool weighted)
{
    const vec zero = {0};
    tally sum = {.added = 0};
#define ADD(i, lanes)                                                                              \
    do {                                                                                           \
        const vec d = v_read(z + (i)) - top;                                                       \
        const vec w = weighted ? v_read_tail(p->weight + k + (i), lanes, 0) : zero;                \
        tally_add(&sum, weighted ? v_where(w != zero, w * d) : v_where(m_tail(lanes), d));         \
    } while (0)
    TALLY_EACH(n, ADD);
#undef ADD
    return (double)tally_sum(sum);
}

static class_sums class_sweep_index(const class_plan *p, const class_row *row, const class_norm *r)
{
    class_sums s = {.weighs = true};
    real z[CHUNK] __attribute__((aligned(LK_LINE)));
    const vec top = v_set(r->top);
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        const int64_t n = p->classes - k < CHUNK ? p->classes - k : CHUNK;
        class_scores(p, row->x + k, n, z);
        if (row->y >= k && row->y < k + n)
            z[row->y - k] = r->top; /* nothing of the target */
        s.off_scores += p->weight ? class_off_scores(p, k, n, z, top, true)
                                  : class_off_scores(p, k, n, z, top, false);
    }
    return s;
}

/* Probability form: add a chunk to the sums. */
LK_INLINE void class_soft_sums(const class_plan *p, const class_row *row, const class_norm *r,
                               int64_t k, int64_t n, const real *z, class_sums *s,
                               const bool weighted, const bool minus_entropy)
{
    const vec top = v_set(r->top), log_sum = v_set((real)r->log_sum), zero = {0};
    const vec step = v_set(LANES);
    tally cross = {.added = 0}, others = cross, tops = cross, excess = cross;
    vec lane = __builtin_convertvector(m_iota(), vec), leader = v_set(-1);
    mask weighs = m_set(0);
#define ADD(i, lanes)                                                                              \
    do {                                                                                           \
        const vec d = v_read(z + (i)) - top, q = class_q(p, row->t + k + (i), lanes);              \
        v_fetch(row->t + k + (i));                                                                 \
        const vec w = weighted ? v_read_tail(p->weight + k + (i), lanes, 0) : v_set(1);            \
        const vec wq = v_where(m_tail(lanes), weighted ? w * q : q);                               \
        const mask here = d == zero, counts = wq != zero;                                          \
        weighs |= counts;                                                                          \
        tally_add(&cross, v_where(counts, wq *d));                                                 \
        tally_add(&others, v_where(~here, wq));                                                    \
        tally_add(&tops, v_where(here, wq));                                                       \
        leader = v_select(here, lane, leader);                                                     \
        lane += step;                                                                              \
        if (minus_entropy)                                                                         \
            tally_add(&excess, v_where(counts, wq *(v_log(q) - (d - log_sum))));                   \
    } while (0)
    TALLY_EACH(n, ADD);
#undef ADD
    s->cross += (double)tally_sum(cross);
    s->others += (double)tally_sum(others);
    s->tops += (double)tally_sum(tops);
    s->excess += minus_entropy ? (double)tally_sum(excess) : 0;
    s->leader = r->own == 1 && v_top(leader) >= 0 ? k + (int64_t)v_top(leader) : s->leader;
    s->weighs = s->weighs || !weighted || !m_none(weighs);
}

static class_sums class_sweep_soft(const class_plan *p, const class_row *row, const class_norm *r)
{
    class_sums s = {0};
    real z[CHUNK] __attribute__((aligned(LK_LINE)));
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        const int64_t n = p->classes - k < CHUNK ? p->classes - k : CHUNK;
        class_scores(p, row->x + k, n, z);
        if (p->minus_entropy)
            class_soft_sums(p, row, r, k, n, z, &s, p->weight, true);
        else if (p->weight)
            class_soft_sums(p, row, r, k, n, z, &s, true, false);
        else
            class_soft_sums(p, row, r, k, n, z, &s, false, false);
    }
    return s;
}

static class_sums class_sweep(const class_plan *p, const class_row *row, const class_norm *r)
{
    return row->t       ? class_sweep_soft(p, row, r)
           : p->off > 0 ? class_sweep_index(p, row, r)
                        : (class_sums){.weighs = true};
}

/* The sums of a row's entropy: over e^d of d, over the classes below the maximum of e^d, and the
 * number of those at it; d is z - top. */
typedef struct class_heat {
    double heat, others, tops;
} class_heat;

/* Add a chunk, whose scores are in z; `direct`: they are the logits, scaled. */
LK_INLINE void class_add_heat(const class_plan *p, const elem *x, int64_t n, const real *z, vec top,
                              class_heat *to, const bool direct)
{
    const vec zero = {0}, scale = v_set((real)p->scale), least = v_set(VM_EXP_LEAST);
    tally heat = {.added = 0}, others = heat;
    mask tops = {0};
#define ADD(i, lanes)                                                                              \
    do { /* padding adds nothing: e is 0 */                                                        \
        const vec u =                                                                              \
            direct ? scale * v_load_tail(x + (i), lanes, -(real)INFINITY) : v_read(z + (i));       \
        const vec d = u - top, e = v_exp_nonpos(d);                                                \
        const mask here = d == zero;                                                               \
        tally_add(&heat, e *v_max(least, d)); /* 0 where e is, also for -inf */                    \
        tally_add(&others, v_where(~here, e));                                                     \
        tops -= here;                                                                              \
    } while (0)
    TALLY_EACH(n, ADD);
#undef ADD
    to->heat += (double)tally_sum(heat);
    to->others += (double)tally_sum(others);
    to->tops += v_count(__builtin_convertvector(tops, vec));
}

double class_entropy(const class_plan *p, const class_row *row, const class_norm *r, double *gap)
{
    real z[CHUNK] __attribute__((aligned(LK_LINE)));
    const vec top = v_set(r->top);
    class_heat sums = {0};
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        const int64_t n = p->classes - k < CHUNK ? p->classes - k : CHUNK;
        if (p->cap > 0) {
            class_scores(p, row->x + k, n, z);
            class_add_heat(p, row->x + k, n, z, top, &sums, false);
        } else {
            class_add_heat(p, row->x + k, n, z, top, &sums, true);
        }
    }
    *gap = -sums.heat / (sums.tops + sums.others);
    return class_log_sum(sums.tops, sums.others) + *gap;
}

/* Sweep 3. Templates: `plain` has neither weights nor softcap nor probabilities, `kept` has the
 * exponentials. */
LK_INLINE vec class_slope_at(const class_plan *p, const class_row *row, int64_t k, int64_t n, vec a,
                             vec b, vec top, const bool plain, const bool kept)
{
    const vec scale = v_set((real)p->scale);
    const vec x = plain && kept ? scale : v_load_tail(row->x + k, n, 0);
    vec e, z;
    if (plain) {
        e = kept ? v_read(row->kept + k) : v_exp_nonpos(scale * x - top);
        return v_fma(a, e, -b);
    }
    const bool capped = p->cap > 0;
    const vec inverse = v_set(capped ? 1 / p->cap : 0);
    z = scale * (capped ? v_set(p->cap) * v_tanh(x * inverse) : x);
    vec wq = class_weights(p, k, n) * b;
    if (row->t)
        wq = wq * class_q(p, row->t + k, n);
    e = kept ? v_read(row->kept + k) : v_exp_nonpos(z - top);
    return v_fma(a, e, -wq) * scale * (capped ? v_tanh_slope(x * inverse) : v_set(1));
}

/* The same vector with the target's gradient, which is computed separately. */
LK_INLINE vec class_put_target(vec slopes, int64_t k, int64_t y, real at)
{
    if ((uint64_t)(y - k) < (uint64_t)LANES)
        return v_select(m_iota() == m_set((ilane)(y - k)), v_set(at), slopes);
    return slopes;
}

LK_INLINE void class_gradient_of(const class_plan *plan, const class_row *given,
                                 const class_norm *r, const class_slope *g, const bool plain,
                                 const bool kept)
{
    /* Copies, which no store of a gradient can change. */
    const class_plan here = *plan, *p = &here;
    const class_row at_row = *given, *row = &at_row;
    const double by = plain ? p->scale : 1; /* J is constant there: fold it in */
    const vec top = v_set(r->top), b = v_set((real)((row->t ? g->b : g->b * p->off) * by));
    const int64_t classes = p->classes;
    elem *to = row->grad_x;
    const uintptr_t off = (uintptr_t)to % (LANES * sizeof(elem));
    const bool stream = p->stream;
    /* The elements before the first aligned vector. */
    const int64_t head = stream ? (LANES - (int64_t)(off / sizeof(elem))) % LANES : 0;
    const int64_t y = g->y;
    real at = 0;
    if (y >= 0) {
        double slope = p->scale;
        if (p->cap > 0)
            slope *= (double)v_tanh_slope(v_set(r_load(row->x + y) * (1 / p->cap)))[0];
        at = (real)(g->at * slope);
    }
#define LK_SLOPES(k, n)                                                                            \
    class_put_target(class_slope_at(p, row, k, n, a, b, top, plain, kept), k, y, at)
    for (int64_t k = 0, end; k < classes; k = end) {
        double factor = g->a * by;
        end = classes;
        if (kept) { /* up to the end of the chunk: its exponentials have one shift */
            const real shift = row->shift[k / CHUNK];
            for (end = k; end < classes && row->shift[end / CHUNK] == shift; end += CHUNK)
                continue;
            end = end < classes ? end : classes;
            /* No finite score so far: the exponentials are 0 or NaN. */
            if (shift != r->top)
                factor *= shift < r->top ? lk_exp((double)shift - (double)r->top) : 0;
        }
        const vec a = v_set((real)factor);
        int64_t n = ((head - k) % LANES + LANES) % LANES;
        if (n > 0 && stream) {
            n = n < end - k ? n : end - k;
            v_store_n(to + k, n, LK_SLOPES(k, n));
            k += n;
        }
        for (; stream && k + LANES <= end; k += LANES)
            v_stream(to + k, LK_SLOPES(k, LANES));
        for (; k + LANES <= end; k += LANES)
            v_store(to + k, LK_SLOPES(k, LANES));
        if (k < end)
            v_store_n(to + k, end - k, LK_SLOPES(k, end - k));
    }
#undef LK_SLOPES
}

void class_gradient(const class_plan *p, const class_row *row, const class_norm *r,
                    const class_slope *g)
{
    const bool plain = !row->t && !p->weight && !(p->cap > 0);
    if (plain && row->kept)
        class_gradient_of(p, row, r, g, true, true);
    else if (plain)
        class_gradient_of(p, row, r, g, true, false);
    else if (row->kept)
        class_gradient_of(p, row, r, g, false, true);
    else
        class_gradient_of(p, row, r, g, false, false);
    if (p->width > p->classes)
        memset(row->grad_x + p->classes, 0, (size_t)(p->width - p->classes) * sizeof(elem));
}

void class_gradient_logprob(const class_plan *p, const class_row *row, const class_norm *r,
                            double g_l, double g_h, double gap)
{
    const vec top = v_set(r->top), zero = {0};
    const vec by_p = v_set((real)(-g_l / r->sum)), by_l = v_set((real)(-g_h / r->sum));
    const vec mean = v_set((real)gap), scale = v_set((real)p->scale);
    const vec inverse = v_set(p->cap > 0 ? 1 / p->cap : 0);
    const real x_y = row->y >= 0 ? r_load(row->x + row->y) : 0;
    real z[CHUNK] __attribute__((aligned(LK_LINE)));
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        int64_t n = p->classes - k < CHUNK ? p->classes - k : CHUNK;
        class_scores(p, row->x + k, n, z);
        for (int64_t i = 0; i < n; i += LANES) {
            const int64_t lanes = LK_TAIL(i, n);
            const vec d = v_read(z + i) - top, e = v_exp_nonpos(d);
            const vec j =
                p->cap > 0 ? scale * v_tanh_slope(v_load_tail(row->x + k + i, lanes, 0) * inverse)
                           : scale;
            const vec g = e * v_fma(by_l, d + mean, by_p) * j; /* l + H is d + gap */
            v_store_tail(row->grad_x + k + i, lanes, v_where(e != zero, g));
        }
    }
    if (row->y < 0)
        return;
    /* 1 - p_y is rest/sum, without cancellation. */
    const double p_y = lk_exp((double)r->at - (double)r->top) / r->sum;
    double g_y = g_l * (r->rest / r->sum);
    if (p_y > 0)
        g_y -= g_h * p_y * (((double)r->at - (double)r->top) + gap);
    double j_y = p->scale;
    if (p->cap > 0)
        j_y *= (double)v_tanh_slope(v_set(x_y * (1 / p->cap)))[0];
    r_store(row->grad_x + row->y, (real)(g_y * j_y));
}

/* The gradient with respect to the target probabilities: rho (1-eps) w_k (-l_k), and with
 * subtract_entropy rho (1-eps) w_k (1 + log q_k - l_k). */
static void class_gradient_t(const class_plan *p, const class_row *row, const class_norm *r)
{
    const vec c = v_set((real)(row->rho * (1 - p->smoothing))), zero = {0}, one = v_set(1);
    const vec top = v_set(r->top), log_sum = v_set((real)r->log_sum);
    real z[CHUNK] __attribute__((aligned(LK_LINE)));
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        int64_t chunk = p->classes - k < CHUNK ? p->classes - k : CHUNK;
        class_scores(p, row->x + k, chunk, z);
        for (int64_t i = 0; i < chunk; i += LANES) {
            int64_t n = LK_TAIL(i, chunk);
            const vec q = class_q(p, row->t + k + i, n);
            vec minus_l = log_sum - (v_read(z + i) - top);
            vec cw = c * class_weights(p, k + i, n);
            if (p->minus_entropy) { /* the derivative of q log q at 0 is taken to be 0, as in
                                     * kl_div */
                minus_l += one + v_log(q);
                cw = v_where(q != zero, cw);
            }
            v_store_tail(row->grad_t + k + i, n, v_where(cw != zero, cw * minus_l));
        }
    }
    if (p->width > p->classes)
        memset(row->grad_t + p->classes, 0, (size_t)(p->width - p->classes) * sizeof(elem));
}

/* The first class with the highest score, or with NaN. */
static int64_t class_argmax(const class_plan *p, const class_row *row, const class_norm *r)
{
    real z[CHUNK] __attribute__((aligned(LK_LINE))), top = -(real)INFINITY;
    int64_t at = 0;
    for (int64_t k = 0; k < p->classes; k += CHUNK) {
        const int64_t n = p->classes - k < CHUNK ? p->classes - k : CHUNK;
        const real most = class_scores(p, row->x + k, n, z);
        const bool nan = isnan(r->sum); /* there may be a NaN among the scores */
        if (!(most > top) && !nan)
            continue;
        for (int64_t i = 0; i < n; i++) {
            if (nan && isnan(z[i]))
                return k + i;
            if (z[i] > top) {
                at = k + i;
                top = z[i];
            }
        }
    }
    return at;
}

/* A plain row whose loss is -log p_y alone, which is the usual one: in scalars what
 * class_index_terms has in lanes. */
LK_INLINE class_slope class_conclude_bare(const class_plan *p, class_row *row, const class_norm *r)
{
    const double nll = class_nll(r), inverse = 1 / r->sum, miss = r->rest * inverse;
    const double w = (double)class_weight(p, row->y);
    row->main = isnan(r->sum) ? r->sum : w != 0 ? w * nll : 0;
    row->z_part = 0;
    row->weighs = true;
    row->nll = (real)nll;
    row->lse = (real)((double)r->top + r->log_sum);
    return (class_slope){
        .a = row->rho * (w * inverse), .at = row->rho * (-w * miss), .y = row->y, .b = 0};
}

static class_slope class_conclude_all(const class_plan *p, class_row *row, const class_norm *r)
{
    const bool soft = row->t != NULL;
    const double lse = (double)r->top + r->log_sum, nll = soft ? 0 : class_nll(r);
    const class_sums s = class_sweep(p, row, r);
    const int64_t y = !soft ? row->y : r->own == 1 ? s.leader : -1;
    const class_totals t = {.rest = half_set(r->rest),
                            .own = half_set(r->own),
                            .sum = half_set(r->sum),
                            .inverse = half_set(1 / r->sum),
                            .log_sum = half_set(r->log_sum),
                            .lse = half_set(lse),
                            .nll = half_set(nll),
                            .weight = half_set(soft ? 0 : (double)class_weight(p, row->y)),
                            .off_scores = half_set(s.off_scores),
                            .cross = half_set(s.cross),
                            .others = half_set(s.others),
                            .tops = half_set(s.tops),
                            .excess = half_set(s.excess),
                            .weighs = (half_mask){0} - (int)s.weighs};
    const half_mask apart = (half_mask){0} - (y >= 0);
    const class_terms c =
        class_terms_of(p, &t, soft, apart, half_set(row->rho), half_set(row->zeta), 1);
    row->main = c.main[0];
    row->z_part = c.z_part[0];
    row->weighs = s.weighs;
    row->nll = (real)nll;
    row->lse = (real)lse;
    return (class_slope){.a = c.a[0], .b = c.b[0], .y = y, .at = c.at[0]};
}

class_slope class_conclude(const class_plan *p, class_row *row, const class_norm *r)
{
    const bool shaped = p->gamma > 0 || p->poly1 != 0 || p->target_scaling > 0;
    const bool bare = p->plain && p->on == 1 && !shaped && p->z_loss == 0 && !p->minus_entropy;
    const class_slope slope = bare ? class_conclude_bare(p, row, r) : class_conclude_all(p, row, r);
    if (p->want_argmax)
        row->argmax = class_argmax(p, row, r);
    return slope;
}

static void class_write_gradients(const class_plan *p, const class_row *row, const class_norm *r,
                                  const class_slope *slope)
{
    const size_t size = (size_t)p->width * sizeof(elem);
    if (row->grad_t && row->rho != 0)
        class_gradient_t(p, row, r);
    else if (row->grad_t)
        memset(row->grad_t, 0, size);
    if (row->grad_x && ((row->weighs && row->rho != 0) || row->zeta != 0))
        class_gradient(p, row, r, slope);
    else if (row->grad_x)
        memset(row->grad_x, 0, size);
}

void class_compute(const class_plan *p, class_row *const *rows, int count)
{
    class_norm norms[CLASS_TOGETHER];
    if (p->width <= CHUNK && count > 0 && rows[0]->kept)
        class_normalise_together(p, rows, count, norms);
    else
        for (int i = 0; i < count; i++)
            norms[i] = class_normalise(p, rows[i]);
    for (int i = 0; i < count; i++) {
        const class_slope slope = class_conclude(p, rows[i], &norms[i]);
        double gap;
        if (p->want_entropy)
            rows[i]->entropy = (real)class_entropy(p, rows[i], &norms[i], &gap);
        class_write_gradients(p, rows[i], &norms[i], &slope);
    }
}
