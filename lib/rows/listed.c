/* SPDX-License-Identifier: MIT
 *
 * Rows beside a teacher that lists some classes: see rows/listed.h.
 */
#include "rows/listed.h"

#include "ranks.h"

static int64_t listed_by(const listed_plan *plan)
{
    return plan->job->size['K' - 'A'];
}

static int64_t id_at(const listed_plan *plan, int64_t i, int64_t k)
{
    return lk_int(&plan->job->in[plan->ids], i * listed_by(plan) + k);
}

static double logprob_at(const listed_plan *plan, int64_t i, int64_t k)
{
    const char *data = plan->job->in[plan->logprobs].data;
    real x;
    memcpy(&x, data + (i * listed_by(plan) + k) * (int64_t)sizeof x, sizeof x);
    return (double)x;
}

lk_status listed_check(const lk_job *job, const listed_options *o, lk_error *error)
{
    if (!isnan(o->logprob_floor) && o->tail != RENORMALIZE && o->tail != TRUNCATED)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "logprob_floor needs tail=renormalize or tail=truncated");
    return LK_OK;
}

static lk_status check_ids(const listed_plan *plan, int64_t i, unsigned char *seen, lk_error *error)
{
    const lk_job *job = plan->job;
    const int64_t K = listed_by(plan), classes = plan->classes;
    char place[LK_PLACE_MAX];
    lk_status status = LK_OK;
    for (int64_t k = 0; k < K && status == LK_OK; k++) {
        const int64_t id = id_at(plan, i, k);
        if (id < -1 || id >= classes)
            status = lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, plan->ids, i * K + k,
                             "%s is %lld; with %lld classes it must be in [0, %lld], or -1",
                             lk_place(job, plan->ids, i * K + k, place), (long long)id,
                             (long long)classes, (long long)classes - 1);
        else if (id >= 0 && (seen[id / 8] >> (id % 8) & 1))
            status = lk_fail(job, error, LK_OPTION_CONFLICT, plan->ids, i * K + k,
                             "%s is %lld, which its row has already; the ids of a row must be "
                             "distinct",
                             lk_place(job, plan->ids, i * K + k, place), (long long)id);
        else if (id >= 0)
            seen[id / 8] |= (unsigned char)(1 << id % 8);
    }
    for (int64_t k = 0; k < K; k++)
        if (id_at(plan, i, k) >= 0 && id_at(plan, i, k) < classes)
            seen[id_at(plan, i, k) / 8] = 0;
    return status;
}

/* The probability mass Q of the classes that the teacher lists, and its excess over 1. The largest
 * probability is kept apart, so that a small remainder keeps full precision. */
typedef struct teacher_mass {
    double mass, over;
    double top, log_sum; /* log of the largest probability, and of the mass over that */
} teacher_mass;

static teacher_mass mass_of(const listed_plan *plan, int64_t i)
{
    const int64_t K = listed_by(plan);
    teacher_mass m = {.over = -1, .top = -(double)INFINITY};
    int64_t most = -1;
    double others = 0, ratio = 0;
    for (int64_t k = 0; k < K; k++)
        if (id_at(plan, i, k) >= 0 && (most < 0 || logprob_at(plan, i, k) > m.top))
            m.top = logprob_at(plan, i, most = k);
    for (int64_t k = 0; k < K; k++) {
        if (id_at(plan, i, k) < 0 || k == most)
            continue;
        others += lk_exp(logprob_at(plan, i, k));
        ratio += lk_exp(logprob_at(plan, i, k) - m.top);
    }
    m.log_sum = lk_log1p(ratio);
    m.mass = lk_exp(m.top) + others;
    m.over = lk_expm1(m.top) + others;
    return m;
}

lk_status listed_check_row(const listed_plan *plan, int64_t i, unsigned char *seen, lk_error *error)
{
    const int64_t first = i * listed_by(plan);
    char place[LK_PLACE_MAX];
    const lk_status status = check_ids(plan, i, seen, error);
    if (status != LK_OK)
        return status;
    const double mass = mass_of(plan, i).mass;
    if (mass > 1.001)
        return lk_fail(plan->job, error, LK_VALUE_OUT_OF_RANGE, plan->logprobs, first,
                       "the probabilities of the row of %s add up to %g; it must be at most 1",
                       lk_place(plan->job, plan->logprobs, first, place), mass);
    return LK_OK;
}

/* What the derivatives of a row need. */
typedef struct listed_note {
    double value;
    double rest_slope, rest_sum; /* of the rest: its derivative, relative to each class's share of
                                    it, and the sum of e^(z - top) */
    real scale, top;
    int64_t count, room;
    lk_rank classes[]; /* the listed ones, ascending, and their places in the list, of `room`; then
                          as much room, where their derivatives are */
} listed_note;

size_t listed_note_size(int64_t listed)
{
    return sizeof(listed_note) + 2 * (size_t)listed * sizeof(lk_rank);
}

/* The log of a sum of e^z, as its largest z and the sum relative to that. */
typedef struct log_sum {
    double top, sum;
} log_sum;

static double log_of(log_sum l)
{
    return l.sum > 0 || isnan(l.sum) ? l.top + lk_log(l.sum) : -(double)INFINITY;
}

/* One counted row. All values are computed from the listed classes, the rest, and the odds between
 * the two: no mass is subtracted from 1, so nothing cancels. */
typedef struct listed_row {
    const listed_plan *plan;
    int64_t i;
    const elem *x;
    real scale;
    bool covered; /* are all classes listed, so that there is no rest? */
    teacher_mass teacher;
    double log_unlisted;  /* log(1 - Q) */
    log_sum listed, rest; /* of the student's scores */
    double log_listed;    /* log of listed.sum */
    double here, beyond;  /* log of the student's mass on the listed classes, and on the rest */
} listed_row;

static double score(const listed_row *r, int64_t id)
{
    return (double)r_load(r->x + id) * (double)r->scale;
}

/* The sum over the student's scores of the listed classes. */
static void sum_listed(listed_row *r)
{
    const int64_t K = listed_by(r->plan);
    int64_t most = -1;
    for (int64_t k = 0; k < K; k++) {
        const int64_t id = id_at(r->plan, r->i, k);
        if (id >= 0 && (most < 0 || score(r, id) > r->listed.top)) {
            most = id;
            r->listed.top = score(r, id);
        }
    }
    if (most < 0 || r->listed.top == -(double)INFINITY)
        r->listed.top = 0;
    for (int64_t k = 0; k < K; k++)
        if (id_at(r->plan, r->i, k) >= 0 && id_at(r->plan, r->i, k) != most)
            r->listed.sum += lk_exp(score(r, id_at(r->plan, r->i, k)) - r->listed.top);
    const double own = most < 0 ? 0 : lk_exp(score(r, most) - r->listed.top);
    r->log_listed = own == 1 ? lk_log1p(r->listed.sum) : lk_log(own + r->listed.sum);
    r->listed.sum += own;
}

/* The present classes of the list, ascending: in what follows they are met one after another, so
 * that the cost is O(V + K) but for sorting them. */
static void sort_listed(const listed_row *r, listed_note *n)
{
    const int64_t K = listed_by(r->plan);
    n->count = 0;
    for (int64_t k = 0; k < K; k++) {
        const int64_t id = id_at(r->plan, r->i, k);
        if (id >= 0)
            n->classes[n->count++] = (lk_rank){(uint64_t)id, k};
    }
    const lk_rank *sorted = lk_ranks_sort(n->classes, n->classes + K, n->count);
    if (sorted != n->classes)
        memcpy(n->classes, sorted, (size_t)n->count * sizeof *sorted);
}

/* The same sum over the other classes. */
static void sum_rest(listed_row *r, const listed_note *listed)
{
    const int64_t classes = r->plan->classes;
    const class_plan scores = {
        .classes = classes, .width = classes, .inner = 1, .scale = r->plan->scale};
    real z[CHUNK], top = -(real)INFINITY;
    r->covered = listed->count == classes;
    for (int64_t c = 0, k = 0; c < classes; c += CHUNK) {
        const int64_t n = classes - c < CHUNK ? classes - c : CHUNK;
        class_scores(&scores, r->x + c, n, z);
        for (; k < listed->count && (int64_t)listed->classes[k].key < c + n; k++)
            z[(int64_t)listed->classes[k].key - c] = -(real)INFINITY;
        const real most = class_max(z, padded_lanes(n));
        if (most > top) {
            if (r->rest.sum > 0)
                r->rest.sum *= lk_exp((double)top - (double)most);
            top = most;
        }
        r->rest.sum += (double)class_sum_exp(z, padded_lanes(n), isinf(top) && top < 0 ? 0 : top);
    }
    r->rest.top = isinf(top) && top < 0 ? 0 : (double)top;
}

static void row_fill(listed_row *r, const listed_note *listed)
{
    r->teacher = mass_of(r->plan, r->i);
    const double mass = r->teacher.mass, over = r->teacher.over;
    r->log_unlisted = mass < 0.5 ? lk_log1p(-mass) : over < 0 ? lk_log(-over) : -(double)INFINITY;
    sum_listed(r);
    sum_rest(r, listed);
    const double odds = log_of(r->listed) - log_of(r->rest);
    r->here = -lk_softplus(-odds);
    r->beyond = -lk_softplus(odds);
}

/* log p of a listed class, and log p restricted to the listed classes. */
static double log_share(const listed_row *r, int64_t id)
{
    return (score(r, id) - r->listed.top) - r->log_listed;
}

static double log_p(const listed_row *r, int64_t id)
{
    return r->listed.sum > 0 || isnan(r->listed.sum) ? log_share(r, id) + r->here
                                                     : -(double)INFINITY;
}

/* q (log q - log p) + p - q, which is never negative, and 0 where p is q. A q of 0 has no part in
 * it, also if it is the logarithm of a mask such as -1e9 instead of -inf. */
static double divergence(double lq, double lp)
{
    const double gap = lq - lp, q = lk_exp(lq);
    double term = gap * gap / 2, sum = term;
    if (q == 0)
        return lk_exp(lp);
    if (gap < -30) /* p / q may be too large */
        return lk_exp(lp) + q * (gap - 1);
    if (!(fabs(gap) < 0.1))
        return q * (gap + lk_expm1(-gap));
    for (int n = 3; n < 14; n++)
        sum += term *= -gap / n;
    return q * sum;
}

/* p - q. */
static double difference(double lp, double lq)
{
    if (!(fabs(lp - lq) < 1))
        return lk_exp(lp) - lk_exp(lq);
    return lk_exp(lq) * lk_expm1(lp - lq);
}

/* log q of a listed class, over all classes or restricted to the listed ones. */
static double log_q(const listed_row *r, int64_t k, int tail)
{
    const double lq = logprob_at(r->plan, r->i, k);
    if (tail == TRUNCATED || tail == TAIL)
        return lq;
    return (lq - r->teacher.top) - r->teacher.log_sum;
}

/* A row is computed in one of three ways. Each has a value, the gradient of a listed class, and
 * the gradient of the rest: of an unlisted class, relative to its share of the rest. */

/* forward_kl. */

/* log p of a listed class as tail=conditional or the others compare it. */
static double compared_log_p(const listed_row *r, int tail, int64_t id)
{
    return tail == CONDITIONAL ? log_share(r, id) : log_p(r, id);
}

/* The sum of the divergences of the classes, corrected by the sum of p - q over them. */
static double kl_value(const listed_row *r, int tail)
{
    const double over = r->teacher.over, mass = r->teacher.mass;
    double value = 0;
    for (int64_t k = 0; k < listed_by(r->plan); k++) {
        const int64_t id = id_at(r->plan, r->i, k);
        if (id >= 0)
            value += divergence(log_q(r, k, tail), compared_log_p(r, tail, id));
    }
    switch (tail) {
    case RENORMALIZE:
        return value + lk_exp(r->beyond);
    case CONDITIONAL:
        return value;
    case TRUNCATED:
        return value + (mass < 0.5 ? mass - lk_exp(r->here) : lk_exp(r->beyond) + over);
    default:
        return value + divergence(r->log_unlisted, r->beyond) + (over > 0 ? over : 0);
    }
}

static double kl_id_gradient(const listed_row *r, int tail, int64_t id, double lq)
{
    return difference(compared_log_p(r, tail, id), lq) +
           (tail == TRUNCATED ? r->teacher.over * lk_exp(log_p(r, id)) : 0);
}

static double kl_rest_gradient(const listed_row *r, int tail)
{
    switch (tail) {
    case RENORMALIZE:
        return lk_exp(r->beyond);
    case TRUNCATED:
        return r->teacher.mass * lk_exp(r->beyond);
    case CONDITIONAL:
        return 0;
    default:
        return difference(r->beyond, r->log_unlisted);
    }
}

/* forward_kl with logprob_floor: sum_K q (log q - max(log p, floor)). */

static bool is_above(const listed_row *r, int64_t id)
{
    return !(log_p(r, id) < r->plan->options.logprob_floor);
}

/* `above`: the teacher's mass of the classes above the floor. */
static double floored_value(const listed_row *r, int tail, double *above)
{
    const double floor = r->plan->options.logprob_floor;
    double value = 0;
    *above = 0;
    for (int64_t k = 0; k < listed_by(r->plan); k++) {
        const int64_t id = id_at(r->plan, r->i, k);
        const double lq = id < 0 ? 0 : log_q(r, k, tail), q = lk_exp(lq);
        if (id < 0 || q == 0)
            continue;
        value += q * (lq - (is_above(r, id) ? log_p(r, id) : floor));
        *above += is_above(r, id) ? q : 0;
    }
    return value;
}

static double floored_id_gradient(const listed_row *r, double above, int64_t id, double lq)
{
    return above * lk_exp(log_p(r, id)) - (is_above(r, id) ? lk_exp(lq) : 0);
}

static double floored_rest_gradient(const listed_row *r, double above)
{
    return above * lk_exp(r->beyond);
}

/* The other divergences, of cells: the listed classes and, with tail=tail, the rest. */

/* log(beta q + (1 - beta) p), 0 < beta < 1. */
static double log_mixture(double beta, double lq, double lp)
{
    const double a = lk_log(beta) + lq, b = lk_log1p(-beta) + lp;
    const double top = a > b ? a : b, low = a > b ? b : a;
    return top == -(double)INFINITY ? top : top + lk_log1p(lk_exp(low - top));
}

/* The divergence of a cell, which is never negative: those of all add up where both sides do to
 * 1. */
static double cell_value(int kind, double beta, double lq, double lp)
{
    if (kind == LISTED_MIXED)
        return beta * divergence(lq, lp) + (1 - beta) * divergence(lp, lq);
    if (kind == LISTED_REVERSE)
        return divergence(lp, lq);
    const double lm = log_mixture(beta, lq, lp);
    return beta * divergence(lq, lm) + (1 - beta) * divergence(lp, lm);
}

/* The slope r of a cell in p (r - sum p r), of the part of the divergence that has such slopes. A
 * cell that the teacher excludes, which makes reverse_kl infinite, has no part in it. */
static double cell_slope(int kind, double beta, double lq, double lp)
{
    if (lp == -(double)INFINITY)
        return 0;
    if (kind == LISTED_JSD)
        return (1 - beta) * (lp - log_mixture(beta, lq, lp));
    if (lq == -(double)INFINITY)
        return 0;
    return (kind == LISTED_MIXED ? 1 - beta : 1) * (lp - lq);
}

typedef struct cells {
    int kind;                 /* of the divergence */
    double beta, value, mean; /* mean: the sum of p r */
    double over;              /* excess of the teacher's mass over 1, where there is no rest */
} cells;

static void add_cell(cells *c, double lq, double lp)
{
    c->value += cell_value(c->kind, c->beta, lq, lp);
    c->mean += lp == -(double)INFINITY ? 0 : lk_exp(lp) * cell_slope(c->kind, c->beta, lq, lp);
}

static cells cells_of(const listed_row *r, int kind, int tail)
{
    cells c = {.kind = kind, .beta = r->plan->beta};
    if (tail == TAIL && !r->covered)
        add_cell(&c, r->log_unlisted, r->beyond);
    else if (tail == TAIL)
        c.over = r->teacher.over;
    for (int64_t k = 0; k < listed_by(r->plan); k++) {
        const int64_t id = id_at(r->plan, r->i, k);
        if (id >= 0)
            add_cell(&c, log_q(r, k, tail), compared_log_p(r, tail, id));
    }
    /* Each cell adds p - q for what of forward_kl there is, and takes it away for reverse_kl. */
    if (kind != LISTED_JSD)
        c.value += (kind == LISTED_MIXED ? 2 * c.beta - 1 : -1) * c.over;
    return c;
}

static double cell_gradient(const cells *c, double lq, double lp)
{
    const double slope = cell_slope(c->kind, c->beta, lq, lp);
    const double own = lp == -(double)INFINITY ? 0 : lk_exp(lp) * (slope - c->mean);
    const double forward = difference(lp, lq) + c->over * lk_exp(lp); /* Q p - q */
    return own + (c->kind == LISTED_MIXED ? c->beta * forward : 0);
}

/* The choice between the three. */

enum { NO_TEACHER, KL, FLOORED, CELLS };

typedef struct row_way {
    int way;
    int divergence, tail;
    double above; /* FLOORED */
    cells cells;  /* CELLS */
} row_way;

/* The divergence that it is: one of two sides alone at the ends of beta's range. */
static int divergence_of(const listed_plan *plan)
{
    const double forward_at = plan->divergence == LISTED_JSD ? 0 : 1; /* jsd: a convention */
    const bool mixes = plan->divergence == LISTED_JSD || plan->divergence == LISTED_MIXED;
    if (!mixes || (plan->beta > 0 && plan->beta < 1))
        return plan->divergence;
    return plan->beta == forward_at ? LISTED_FORWARD : LISTED_REVERSE;
}

static row_way way_of(const listed_row *r)
{
    row_way w = {.way = CELLS, .divergence = divergence_of(r->plan), .tail = r->plan->options.tail};
    if (r->teacher.mass == 0 && (w.tail == RENORMALIZE || w.tail == CONDITIONAL))
        w.way = NO_TEACHER; /* whose mass could be scaled: no loss */
    else if (!isnan(r->plan->options.logprob_floor))
        w.way = FLOORED;
    else if (w.divergence == LISTED_FORWARD)
        w.way = KL;
    /* If all classes are listed there is no tail; of cells, cells_of leaves it out. */
    if (w.way == KL && w.tail == TAIL && r->covered)
        w.tail = TRUNCATED;
    return w;
}

static double row_value(const listed_row *r, row_way *w)
{
    switch (w->way) {
    case NO_TEACHER:
        return 0;
    case KL:
        return kl_value(r, w->tail);
    case FLOORED:
        return floored_value(r, w->tail, &w->above);
    default:
        w->cells = cells_of(r, w->divergence, w->tail);
        return w->cells.value;
    }
}

/* Of item k of the list, which is class `id`. */
static double row_id_gradient(const listed_row *r, const row_way *w, int64_t k, int64_t id)
{
    const double lq = log_q(r, k, w->tail);
    switch (w->way) {
    case NO_TEACHER:
        return 0;
    case KL:
        return kl_id_gradient(r, w->tail, id, lq);
    case FLOORED:
        return floored_id_gradient(r, w->above, id, lq);
    default:
        return cell_gradient(&w->cells, lq, compared_log_p(r, w->tail, id));
    }
}

static double row_rest_gradient(const listed_row *r, const row_way *w)
{
    switch (w->way) {
    case NO_TEACHER:
        return 0;
    case KL:
        return kl_rest_gradient(r, w->tail);
    case FLOORED:
        return floored_rest_gradient(r, w->above);
    default:
        return w->tail == TAIL ? cell_gradient(&w->cells, r->log_unlisted, r->beyond) : 0;
    }
}

/* Note what the derivatives are made of. */
static void note_slopes(const listed_row *r, const row_way *way, listed_note *n)
{
    double *slope = (double *)(n->classes + listed_by(r->plan));
    n->rest_slope = r->rest.sum > 0 ? row_rest_gradient(r, way) : 0;
    n->rest_sum = r->rest.sum > 0 ? r->rest.sum : 1;
    n->top = (real)r->rest.top;
    n->scale = r->scale;
    n->room = listed_by(r->plan);
    for (int64_t j = 0; j < n->count; j++)
        slope[j] = row_id_gradient(r, way, n->classes[j].at, (int64_t)n->classes[j].key);
}

double listed_value(const listed_plan *plan, int64_t i, const elem *x, void *note)
{
    listed_note *n = note;
    listed_row r = {.plan = plan, .i = i, .x = x, .scale = (real)plan->scale};
    sort_listed(&r, n);
    row_fill(&r, n);
    row_way way = way_of(&r);
    n->value = isnan(r.here) ? (double)NAN : row_value(&r, &way);
    if (plan->slopes)
        note_slopes(&r, &way, n);
    return n->value;
}

/* The place of the first listed class that is not before `first`. */
static int64_t place_from(const listed_note *n, int64_t first)
{
    int64_t low = 0, high = n->count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if ((int64_t)n->classes[middle].key < first)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void listed_slopes(const void *note, double weight, int64_t first, int64_t count, const elem *x,
                   elem *to)
{
    const listed_note *n = note;
    const double *slope = (const double *)(n->classes + n->room);
    if (weight == 0 || isnan(n->value)) {
        elements_fill(to, count, weight == 0 ? 0 : (real)NAN);
        return;
    }
    const vec c = v_set((real)(weight * n->rest_slope / n->rest_sum)), top = v_set(n->top);
    for (int64_t k = 0; k < count; k += LANES) {
        const int64_t lanes = LK_TAIL(k, count);
        const vec z = v_load_tail(x + k, lanes, 0) * n->scale;
        v_store_tail(to + k, lanes, c * v_exp_nonpos(z - top));
    }
    for (int64_t j = place_from(n, first); j < n->count; j++) {
        const int64_t id = (int64_t)n->classes[j].key;
        if (id >= first + count)
            break;
        r_store(to + (id - first), (real)(weight * slope[j]));
    }
}
