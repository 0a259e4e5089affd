/* SPDX-License-Identifier: MIT
 *
 * A student's divergence from a teacher: see rows/divergence.h.
 */
#include "rows/divergence.h"

divergence_row divergence_row_of(const divergence_plan *plan, int given)
{
    divergence_row r = {.classes = plan->classes, .given = given, .divergence = plan->divergence};
    const bool mixed = plan->divergence == JSD || plan->divergence == SKEW_FORWARD_KL;
    if (mixed && plan->beta == 0)
        r.divergence = FORWARD_KL;
    else if (plan->divergence == JSD && plan->beta == 1)
        r.divergence = REVERSE_KL;
    r.scale = r.teacher_scale = (real)plan->scale;
    r.beta = (real)plan->beta;
    r.rest = (real)(1 - plan->beta);
    r.log_beta = (real)lk_log(plan->beta);
    r.log_rest = (real)lk_log1p(-plan->beta);
    return r;
}

/* If a class has more than this share of the student's mass, slopes are computed relative to that
 * class's: they would nearly cancel against their mean otherwise. */
static const real leading = (real)0.75;

/* LANES classes of a row. */
typedef struct lanes {
    vec x, y;
    vec l, p, lq, q; /* logs and values of both distributions */
    vec d;           /* l - lq */
    vec bend;        /* (e^d - 1 - d)/d^2 where d is small */
    mask near;       /* where it is */
} lanes;

/* Beside 1, e^-u is nothing for u from this on. */
static const real far_apart = sizeof(real) == sizeof(double) ? 40 : 20;

/* e^u - 1 - u over u^2 is a polynomial for |u| up to this. */
static const real small = (real)0.34;

/* a*b, but 0 where a is 0, whatever b is. */
LK_INLINE vec times(vec a, vec b)
{
    const vec zero = {0};
    return v_where(a != zero, a * b);
}

/* Without care there is only a teacher that gives logits (is_sure). */
LK_INLINE lanes lanes_of(const divergence_row *r, int64_t k, int64_t n, const bool careful)
{
    const int given = careful ? r->given : TEACHER_LOGITS;
    lanes a = {.x = v_load_tail(r->x + k, n, 0), .y = v_read_tail(r->y + k, n, 0)};
    a.l = (a.x * r->scale - v_set(r->student.top)) - v_set((real)r->student.log_sum);
    a.p = v_exp_nonpos(a.l);
    if (given == TEACHER_PROBS) {
        a.q = a.y;
        a.lq = v_log(a.y);
    } else {
        a.lq = a.y;
        if (given == TEACHER_LOGITS)
            a.lq =
                (a.y * r->teacher_scale - v_set(r->teacher.top)) - v_set((real)r->teacher.log_sum);
        a.q = v_exp_nonpos(a.lq);
    }
    a.d = a.l - a.lq;
    if (!careful)
        return a;
    if (r->close && given == TEACHER_LOGITS && r->scale == r->teacher_scale)
        a.d = ((a.x - a.y) * r->scale - v_set(r->base)) - v_set(r->apart);
    else if (r->close)
        a.d = ((a.x * r->scale - (given == TEACHER_LOGITS ? a.y * r->teacher_scale : a.lq)) -
               v_set(r->base)) -
              v_set(r->apart);
    a.near = v_abs(a.d) < v_set(small);
    a.bend = vm_exp_poly(a.d);
    return a;
}

/* p - q; with `careful`, without cancellation where the two are close. */
LK_INLINE vec difference(const lanes *a, const bool careful)
{
    if (!careful)
        return a->p - a->q;
    return v_select(a->near, a->q * v_fma(a->d * a->d, a->bend, a->d), a->p - a->q);
}

/* q (e^u - 1 - u) where M is q e^u. */
LK_INLINE vec excess(vec q, vec u, vec m)
{
    return v_select(v_abs(u) < v_set(small), q * (u * u * vm_exp_poly(u)), (m - q) - times(q, u));
}

/* The mixture M = beta q + (1-beta) p. */
LK_INLINE vec mixture(const divergence_row *r, const lanes *a)
{
    return v_fma(v_set(r->beta), a->q, v_set(r->rest) * a->p);
}

/* log(c e^u + 1 - c), which is c u where u is small; `other` is 1 - c. */
LK_INLINE vec mixed_log(real c, real other, vec u)
{
    const vec zero = {0}, one = v_set(1), half = v_set((real)0.5);
    const vec share = v_set(c), left = v_set(other), e = v_exp_nonpos(-v_abs(u));
    const mask up = u > zero;
    const vec grown = v_select(v_abs(u) < v_set(small), v_fma(u * u, vm_exp_poly(u), u),
                               v_select(up, (one - e) / e, e - one));
    const vec w = share * grown;
    const mask mild = (w > -half) & (w < one);
    const vec wild = v_select(up, v_fma(left, e, share), v_fma(share, e, left));
    const vec s = v_select(mild, one + w, wild);
    const vec lost = v_where(mild, (w - (s - one)) / s); /* of w, when 1 was added */
    return (v_log(s) + lost) + v_where(up & ~mild, u);
}

/* log(M/q) and log(M/p), where q, p are not 0. */
LK_INLINE vec by_teacher(const divergence_row *r, const lanes *a)
{
    return v_max(v_set(r->log_beta), mixed_log(r->rest, r->beta, a->d));
}

LK_INLINE vec by_student(const divergence_row *r, const lanes *a)
{
    return mixed_log(r->beta, r->rest, -a->d);
}

/* Both. Careful: for the side with the larger share of M the ratio is nearer to 1 and matters less:
 * it is computed from the other one and d, which is precise enough unless d is large, as where one
 * side has a class masked by -1e9 or -inf: then M is the other side's share alone. */
typedef struct ratios {
    vec teacher, student;
} ratios;

LK_INLINE ratios ratios_of(const divergence_row *r, const lanes *a, const bool careful)
{
    const vec far = v_set(far_apart), zero = {0};
    ratios u;
    if (!careful) { /* the log of M over the greater of p and q, and d for the other one */
        const vec beta = v_set(r->beta), rest = v_set(r->rest), e = v_exp_nonpos(-v_abs(a->d));
        const mask up = a->d > zero;
        const vec near = v_log(v_select(up, v_fma(beta, e, rest), v_fma(rest, e, beta)));
        u.teacher = near + v_where(up, a->d);
        u.student = near - v_where(~up, a->d);
    } else if (r->beta > r->rest) {
        u.student = by_student(r, a);
        u.teacher = v_select(a->d > -far, u.student + a->d, v_set(r->log_beta));
    } else {
        u.teacher = by_teacher(r, a);
        u.student = v_select(a->d < far, u.teacher - a->d, v_set(r->log_rest));
    }
    return u;
}

/* What a class adds to the row's value. */
LK_INLINE vec plain_value(const divergence_row *r, const lanes *a, const int divergence)
{
    const vec half = v_set((real)0.5), gap = a->x - a->y;
    switch (divergence) {
    case FORWARD_KL:
        return times(a->q, -a->d);
    case REVERSE_KL:
        return times(a->p, a->d);
    case JSD: {
        const ratios u = ratios_of(r, a, false);
        return -v_set(r->beta) * times(a->q, u.teacher) - v_set(r->rest) * times(a->p, u.student);
    }
    case TVD:
        return half * v_abs(difference(a, false));
    default: /* what both sides exclude is equal */
        return v_where(a->x != a->y, gap * gap);
    }
}

/* The same without cancellation: no term is negative, and a term is 0 where both sides are equal.
 * Each class adds p - q to q (log q - log p), and the sum of p - q over all classes is 0, except
 * for `over`. */
LK_INLINE vec careful_value(const divergence_row *r, const lanes *a, const int divergence)
{
    const vec half = v_set((real)0.5);
    switch (divergence) {
    case FORWARD_KL:
        return v_select(a->near, a->q * (a->d * a->d * a->bend), (a->p - a->q) - times(a->q, a->d));
    case REVERSE_KL:
        return v_select(a->near, a->p * (a->d * a->d * vm_exp_poly(-a->d)),
                        times(a->p, a->d) - (a->p - a->q));
    case JSD: {
        const ratios u = ratios_of(r, a, true);
        const vec m = mixture(r, a);
        return v_set(r->beta) * excess(a->q, u.teacher, m) +
               v_set(r->rest) * excess(a->p, u.student, m);
    }
    case TVD:
        return half * v_abs(difference(a, true));
    default:
        return excess(a->q, by_teacher(r, a), mixture(r, a));
    }
}

/* The multiple of `over` by which the sum of these must be corrected. */
static double overs(const divergence_row *r)
{
    return r->divergence == FORWARD_KL        ? 1
           : r->divergence == REVERSE_KL      ? -1
           : r->divergence == SKEW_FORWARD_KL ? (double)r->rest
                                              : 0;
}

/* The slopes r of the divergences whose gradient is p_k (r_k - sum p r). A class that the teacher
 * excludes, which makes reverse_kl infinite and the row one for care, has no part in it. */
LK_INLINE vec slope_of(const divergence_row *r, const lanes *a, const int divergence,
                       const bool careful)
{
    const vec zero = {0}, most = v_set((real)INFINITY);
    if (divergence == REVERSE_KL)
        return careful ? v_where((a->p != zero) & (a->d != most), a->d) : a->d;
    if (divergence == JSD)
        return v_where(a->p != zero, -v_set(r->rest) * (careful ? by_student(r, a)
                                                                : ratios_of(r, a, false).student));
    /* -(1-beta) q/M up to a constant, which cancels against the mean. */
    const vec m = mixture(r, a); /* may be 0 though p is not: then p r is nothing */
    return v_where((a->p != zero) & (m != zero) & (v_set(r->rest) != zero),
                   v_set(r->rest * r->rest) * (difference(a, true) / m));
}

LK_INLINE bool has_mean(const int divergence)
{
    return divergence == REVERSE_KL || divergence == JSD || divergence == SKEW_FORWARD_KL;
}

/* Add the mass of some classes; of a leading one its excess over 1, and it is counted. */
LK_INLINE void add_mass(const divergence_row *r, int64_t k, int64_t n, wide_tally *over, vec *leads)
{
    const vec one = v_set(1), y = v_read_tail(r->y + k, n, 0);
    const bool probs = r->given == TEACHER_PROBS;
    vec mass = v_where(m_tail(n), probs ? y : v_exp_nonpos(y));
    const mask leader = mass > v_set(leading);
    if (__builtin_expect(!m_none(leader), 0)) { /* one vector of a row, if any */
        mass = v_select(leader, probs ? y - one : v_expm1(y), mass);
        *leads += v_where(leader, one);
    }
    wide_add(over, w_parts(mass));
}

/* The excess over 1 of the mass of a teacher that gives probabilities or log-probabilities,
 * computed without cancellation. */
static double over_of(const divergence_row *r)
{
    wide_tally over = {0};
    vec leads = {0};
    if (r->given == TEACHER_LOGITS)
        return 0;
#define ADD(k, n) add_mass(r, k, n, &over, &leads)
    TALLY_EACH(r->classes, ADD);
#undef ADD
    return wide_sum(over) + (v_count(leads) - 1);
}

/* For distributions that are close everywhere: log p - log q without the terms that are common to
 * the row, using sum p = 1. The teacher's largest class is the origin. */
static void draw_near(divergence_row *r)
{
    wide_tally apart = {0};
    int64_t origin = 0;
    real most = -(real)INFINITY;
    for (int64_t k = 0; k < r->classes; k++) {
        real y; /* of any alignment */
        memcpy(&y, r->y + k, sizeof y);
        origin = y > most ? k : origin;
        most = y > most ? y : most;
    }
    r->close = true;
    r->apart = 0;
    r->base = 0;
    r->base = lanes_of(r, origin, 1, true).d[0];
    for (int64_t k = 0; k < r->classes; k += LANES) {
        const mask inside = m_first(LK_TAIL(k, r->classes));
        const lanes a = lanes_of(r, k, LK_TAIL(k, r->classes), true);
        wide_add(&apart, w_parts(v_where(inside, times(a.q, v_expm1(a.d)))));
    }
    r->apart = (real)lk_log1p(r->over + wide_sum(apart));
}

/* sign(p-q) minus its mean under p. These nearly cancel where one sign has most of the mass, so the
 * difference is computed from the mass of the others. */
LK_INLINE vec away_from_mean(const divergence_row *r, vec d)
{
    const vec zero = {0}, above = v_set((real)(2 * r->minus + r->even));
    const vec below = v_set((real)(-2 * r->plus - r->even));
    const vec even = v_set((real)(r->minus - r->plus));
    return v_select(d > zero, above, v_select(d < zero, below, even));
}

LK_INLINE vec gradient_of(const divergence_row *r, const lanes *a, const int divergence,
                          const bool careful)
{
    const vec half = v_set((real)0.5), gap = a->x - a->y, most = v_set((real)INFINITY);
    switch (divergence) {
    case FORWARD_KL:
        return v_fma(a->p, v_set((real)r->over), difference(a, careful));
    case MSE_LOGITS: /* a class that one side excludes has no slope */
        return v_where(v_abs(gap) < most, gap + gap);
    case TVD:
        return half * a->p * away_from_mean(r, difference(a, careful));
    default: {
        const vec slope = slope_of(r, a, divergence, careful), sum = v_set((real)r->sum);
        return times(a->p, (careful ? slope - v_set((real)r->anchor) : slope) - sum);
    }
    }
}

/* What the classes of a chunk add up to: the value, and what the gradient needs. */
typedef struct sums {
    tally value, slope, anchor, plus, minus, even;
    vec leads;            /* how many classes lead */
    vec far;              /* max |d| over the classes of either side */
    vec top, teacher_top; /* MSE_LOGITS: of the scaled scores */
    int64_t written;      /* of the gradient */
} sums;

/* `grad`: where the gradient is written as well, or NULL. */
LK_INLINE void add_classes(const divergence_row *r, int64_t k, int64_t n, const int divergence,
                           const bool careful, const bool slopes, elem *grad, sums *to)
{
    const vec zero = {0};
    const mask inside = m_tail(n);
    const lanes a = lanes_of(r, k, n, careful);
    tally_add(&to->value, v_where(inside, careful ? careful_value(r, &a, divergence)
                                                  : plain_value(r, &a, divergence)));
    if (divergence == MSE_LOGITS) {
        const vec lowest = v_set(-(real)INFINITY);
        to->top = v_max(v_select(inside, a.x * r->scale, lowest), to->top);
        to->teacher_top = v_max(v_select(inside, a.y * r->teacher_scale, lowest), to->teacher_top);
    }
    if (careful)
        to->far = v_max(v_where(inside & ((a.p != zero) | (a.q != zero)), v_abs(a.d)), to->far);
    if (grad && !m_none(to->far >= v_set(small))) {
        v_store_tail(grad + k, n, v_set(r->weight) * gradient_of(r, &a, divergence, careful));
        to->written += n;
    }
    if (slopes && divergence == TVD) {
        const vec p = v_where(inside, a.p), d = difference(&a, careful);
        tally_add(&to->plus, v_where(d > zero, p));
        tally_add(&to->minus, v_where(d < zero, p));
        tally_add(&to->even, v_where(d == zero, p));
    } else if (slopes && divergence == JSD && !careful) {
        tally_add(&to->slope, v_where(inside, a.p * slope_of(r, &a, divergence, false)));
    } else if (slopes && has_mean(divergence) && careful) {
        const mask leads = inside & (a.p > v_set(leading));
        const vec by = slope_of(r, &a, divergence, careful);
        tally_add(&to->slope, v_where(inside & ~leads, a.p * by));
        tally_add(&to->anchor, v_where(leads, by));
        to->leads += v_where(leads, v_set(1));
    }
}

/* Computes the value, the sums that the gradient needs, and max |d| over the classes of either
 * side. The gradient of forward_kl needs no sums: into `grad`, if it is not NULL, it is written as
 * soon as it is known that the row need not be drawn near. */
LK_INLINE double sweep_values(divergence_row *r, const int divergence, const bool careful,
                              const bool slopes, elem *grad, real *widest)
{
    const divergence_row here = *r; /* which no store of a gradient can change */
    const vec lowest = v_set(-(real)INFINITY);
    double total = 0, led = 0;
    sums s = {.top = lowest, .teacher_top = lowest};
    r->anchor = r->sum = r->plus = r->minus = r->even = 0;
    for (int64_t c = 0; c < r->classes; c += CHUNK) {
        const int64_t count = r->classes - c < CHUNK ? r->classes - c : CHUNK;
        s = (sums){.far = s.far, .top = s.top, .teacher_top = s.teacher_top};
#define ADD(i, n) add_classes(&here, c + (i), n, divergence, careful, slopes, grad, &s)
        TALLY_EACH(count, ADD);
#undef ADD
        total += (double)tally_sum(s.value);
        r->sum += (double)tally_sum(s.slope);
        r->anchor += (double)tally_sum(s.anchor);
        led += v_count(s.leads);
        r->plus += (double)tally_sum(s.plus);
        r->minus += (double)tally_sum(s.minus);
        r->even += (double)tally_sum(s.even);
        r->written += s.written;
    }
    if (led > 0)
        r->sum -= r->student.others / r->student.sum * r->anchor;
    if (divergence == REVERSE_KL && !careful)
        r->sum = total; /* no class leads */
    /* Scores without a softmax have no distance either. */
    if (divergence == MSE_LOGITS &&
        (isnan(total) || !isfinite(v_top(s.top)) || !isfinite(v_top(s.teacher_top))))
        return (double)NAN;
    *widest = v_top(s.far);
    return total;
}

LK_INLINE void sweep_gradient(const divergence_row *given, elem *grad, const int divergence,
                              const bool careful)
{
    const divergence_row here = *given, *r = &here; /* which no store of a gradient can change */
    const vec weight = v_set(r->weight);
    const int64_t end = r->classes - r->written;
    for (int64_t k = 0; k < end; k += LANES) {
        const int64_t n = LK_TAIL(k, end);
        const lanes a = lanes_of(r, k, n, careful);
        v_store_tail(grad + k, n, weight * gradient_of(r, &a, divergence, careful));
    }
}

/* Must the row be computed carefully, whatever its plain value is? Careful computation is not
 * needed if no class has most of the mass of either side, and the plain value (is_close) shows that
 * the two differ so much that hardly anything cancels. */
LK_INLINE bool is_sure(const divergence_row *r, const int divergence)
{
    return r->given != TEACHER_LOGITS || r->student.sum < 2 || r->teacher.sum < 2 ||
           divergence == SKEW_FORWARD_KL;
}

LK_INLINE bool is_close(const divergence_row *r, double value, const int divergence)
{
    if (isinf(value))
        return true;
    if (divergence == JSD)
        return r->beta < (real)0.125 || r->rest < (real)0.125 || !(value > 0.125);
    return !(value > (divergence == TVD ? 0.125 : 0.5));
}

/* One function for all divergences: a test per vector costs little compared with the logarithms and
 * exponentials, and a template for each would be much code. */
static __attribute__((noinline)) double careful_row(divergence_row *r, bool slopes, elem *grad)
{
    const double rounding = sizeof(real) == sizeof(double) ? 0x1p-47 : 0x1p-18;
    real widest = 0;
    double value = r->divergence == FORWARD_KL
                       ? sweep_values(r, FORWARD_KL, true, slopes, grad, &widest)
                       : sweep_values(r, r->divergence, true, slopes, NULL, &widest);
    if (widest < small && !r->close) {
        draw_near(r);
        return careful_row(r, slopes, grad);
    }
    value += overs(r) * r->over;
    /* A divergence is never negative: a negative value comes from rounding in the teacher's
     * probabilities. */
    return value < 0 && fabs(r->over) < rounding ? 0 : value;
}

static __attribute__((noinline)) void careful_gradient(const divergence_row *r, elem *grad)
{
    sweep_gradient(r, grad, r->divergence, true);
}

/* Value and gradient: a template for each divergence. */
LK_INLINE double value_of(divergence_row *r, const bool slopes, elem *grad, const int divergence)
{
    real widest = 0;
    r->careful = divergence != MSE_LOGITS && is_sure(r, divergence);
    double value = r->careful ? 0 : sweep_values(r, divergence, false, slopes, NULL, &widest);
    if (divergence != MSE_LOGITS && (r->careful || is_close(r, value, divergence))) {
        r->careful = true;
        value = careful_row(r, slopes, r->weight != 0 ? grad : NULL);
    }
    r->none = isnan(value);
    return value;
}

LK_INLINE void write_gradient(const divergence_row *r, elem *grad, const int divergence)
{
    if (r->weight == 0)
        elements_fill(grad, r->classes, 0);
    else if (r->none)
        elements_fill(grad, r->classes, (real)NAN);
    else if (r->careful || divergence == SKEW_FORWARD_KL)
        careful_gradient(r, grad);
    else
        sweep_gradient(r, grad, divergence, false);
}

#define DIVERGENCES(DO)                                                                            \
    DO(FORWARD_KL) DO(REVERSE_KL) DO(JSD) DO(TVD) DO(SKEW_FORWARD_KL) DO(MSE_LOGITS)

double divergence_value(divergence_row *r, bool slopes, elem *grad)
{
    r->close = false;
    r->written = 0;
    r->over = over_of(r);
    switch (r->divergence) {
#define VALUE(d)                                                                                   \
    case d:                                                                                        \
        return value_of(r, slopes, grad, d);
        DIVERGENCES(VALUE)
    }
    return 0;
}

void divergence_gradient(const divergence_row *r, elem *grad)
{
    switch (r->divergence) {
#define GRADIENT(d)                                                                                \
    case d:                                                                                        \
        write_gradient(r, grad, d);                                                                \
        break;
        DIVERGENCES(GRADIENT)
    }
}
