/* SPDX-License-Identifier: MIT
 *
 * Knowledge distillation from the most likely classes of a teacher, where only those are given.
 */
#include "rows/teacher.h"

enum { STUDENT, TEACHER_IDS, TEACHER_LOGPROBS, MASK, GRAD_OUTPUT };
enum { RENORMALIZE, TRUNCATED, CONDITIONAL, TAIL }; /* tail */

enum { TOPK_FORWARD, TOPK_REVERSE, TOPK_JSD, TOPK_MIXED }; /* divergence */

typedef struct options {
    teacher_options common;
    int tail, divergence;
    double beta, logprob_floor;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(teacher_options),
    LK_WORDS(options, tail, "renormalize", "renormalize|truncated|conditional|tail",
             "what becomes of the teacher's mass that it has not told of: scaled away, left out, "
             "left out on both sides, or one class of its own"),
    LK_WORDS(options, divergence, "forward_kl", "forward_kl|reverse_kl|jsd|mixed",
             "how far the student is from the teacher; mixed: beta forward_kl + (1 - beta) "
             "reverse_kl; all but forward_kl with tail=conditional or tail"),
    LK_FIELD(options, beta, "0.5", LK_RANGED, 0, 1, "jsd, mixed: the teacher's share"),
    LK_FIELD(options, logprob_floor, "off", LK_OFF, 0, 0,
             "log-probabilities of the student below this count as this, and have no slope; with "
             "tail=renormalize or truncated"),
    TEACHER_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [STUDENT] = {.name = "student_logits",
                 .forms = {{"* V", LK_FLOATS}},
                 .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
                 .help = "the student's scores of all classes"},
    [TEACHER_IDS] = {.name = "teacher_ids",
                     .forms = {{"* K", LK_INDICES}},
                     .range = "[-1,V), distinct",
                     .help = "distinct classes; -1: absent"},
    [TEACHER_LOGPROBS] = {.name = "teacher_logprobs",
                          .forms = {{"* K", LK_FLOATS}},
                          .range = "<=0, exp sums to <=1",
                          .help = "their log-probabilities, which add up to at most 1"},
    [MASK] = {.name = "mask",
              .forms = {{"*", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "rows with 0 are ignored and not read; default all counted"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

static int64_t id_at(const lk_job *job, int64_t i, int64_t k)
{
    return lk_int(&job->in[TEACHER_IDS], i * job->size['K' - 'A'] + k);
}

static double logprob_at(const lk_job *job, int64_t i, int64_t k)
{
    const char *data = job->in[TEACHER_LOGPROBS].data;
    real x;
    memcpy(&x, data + (i * job->size['K' - 'A'] + k) * (int64_t)sizeof x, sizeof x);
    return (double)x;
}

static bool counts(const lk_job *job, int64_t i)
{
    return !job->in[MASK].data || lk_int(&job->in[MASK], i) != 0;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    if (job->size['V' - 'A'] == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, STUDENT, -1,
                       "student_logits has no classes; the last axis must have at least 1");
    const options *o = job->options;
    const bool open = o->tail == RENORMALIZE || o->tail == TRUNCATED;
    if (o->logprob_floor >= 0)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "logprob_floor is %g; it must be < 0", o->logprob_floor);
    if (o->divergence != TOPK_FORWARD && open)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "divergences other than forward_kl need tail=conditional or tail=tail");
    if (!isnan(o->logprob_floor) && !open)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "logprob_floor needs tail=renormalize or tail=truncated");
    return LK_OK;
}

/* job->state: a bit for each class, to find classes that are listed twice in a row. */
static size_t state(const lk_job *job)
{
    return job->rows > 0 ? (size_t)job->size['V' - 'A'] / 8 + 1 : 0; /* no rows, any V */
}

static lk_status check_ids(const lk_job *job, int64_t i, lk_error *error)
{
    const int64_t V = job->size['V' - 'A'], K = job->size['K' - 'A'];
    unsigned char *seen = job->state;
    char place[LK_PLACE_MAX];
    lk_status status = LK_OK;
    for (int64_t k = 0; k < K && status == LK_OK; k++) {
        const int64_t id = id_at(job, i, k);
        if (id < -1 || id >= V)
            status = lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, TEACHER_IDS, i * K + k,
                             "%s is %lld; with %lld classes it must be in [0, %lld], or -1",
                             lk_place(job, TEACHER_IDS, i * K + k, place), (long long)id,
                             (long long)V, (long long)V - 1);
        else if (id >= 0 && (seen[id / 8] >> (id % 8) & 1))
            status = lk_fail(job, error, LK_OPTION_CONFLICT, TEACHER_IDS, i * K + k,
                             "%s is %lld, which its row has already; the ids of a row must be "
                             "distinct",
                             lk_place(job, TEACHER_IDS, i * K + k, place), (long long)id);
        else if (id >= 0)
            seen[id / 8] |= (unsigned char)(1 << id % 8);
    }
    for (int64_t k = 0; k < K; k++)
        if (id_at(job, i, k) >= 0 && id_at(job, i, k) < V)
            seen[id_at(job, i, k) / 8] = 0;
    return status;
}

/* The probability mass Q of the classes that the teacher lists, and its excess over 1. The largest
 * probability is kept apart, so that a small remainder keeps full precision. */
typedef struct teacher_mass {
    double mass, over;
    double top, log_sum; /* log of the mass, as the log of the largest probability and the log of
                            the ratio */
} teacher_mass;

static teacher_mass mass_of(const lk_job *job, int64_t i)
{
    const int64_t K = job->size['K' - 'A'];
    teacher_mass m = {.over = -1, .top = -(double)INFINITY};
    int64_t most = -1;
    double others = 0, ratio = 0;
    for (int64_t k = 0; k < K; k++)
        if (id_at(job, i, k) >= 0 && (most < 0 || logprob_at(job, i, k) > m.top))
            m.top = logprob_at(job, i, most = k);
    for (int64_t k = 0; k < K; k++) {
        if (id_at(job, i, k) < 0 || k == most)
            continue;
        others += lk_exp(logprob_at(job, i, k));
        ratio += lk_exp(logprob_at(job, i, k) - m.top);
    }
    m.log_sum = lk_log1p(ratio);
    m.mass = lk_exp(m.top) + others;
    m.over = lk_expm1(m.top) + others;
    return m;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const int64_t K = job->size['K' - 'A'];
    char place[LK_PLACE_MAX];
    for (int64_t i = 0; i < job->rows; i++) {
        if (!counts(job, i))
            continue;
        lk_status status = check_ids(job, i, error);
        if (status != LK_OK)
            return status;
        const double mass = mass_of(job, i).mass;
        if (mass > 1.001)
            return lk_fail(job, error, LK_VALUE_OUT_OF_RANGE, TEACHER_LOGPROBS, i * K,
                           "the probabilities of the row of %s add up to %g; it must be at most 1",
                           lk_place(job, TEACHER_LOGPROBS, i * K, place), mass);
        job->counted++;
    }
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

static size_t listed_size(int64_t classes)
{
    return (size_t)(classes + 63) / 64 * sizeof(uint64_t);
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
    const lk_job *job;
    int64_t i;
    const elem *x;
    real scale;
    bool covered; /* are all classes listed, so that there is no rest? */
    teacher_mass teacher;
    double log_mass;      /* log Q */
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
    const int64_t K = r->job->size['K' - 'A'];
    int64_t most = -1;
    for (int64_t k = 0; k < K; k++) {
        const int64_t id = id_at(r->job, r->i, k);
        if (id >= 0 && (most < 0 || score(r, id) > r->listed.top)) {
            most = id;
            r->listed.top = score(r, id);
        }
    }
    if (most < 0 || r->listed.top == -(double)INFINITY)
        r->listed.top = 0;
    for (int64_t k = 0; k < K; k++)
        if (id_at(r->job, r->i, k) >= 0 && id_at(r->job, r->i, k) != most)
            r->listed.sum += lk_exp(score(r, id_at(r->job, r->i, k)) - r->listed.top);
    const double own = most < 0 ? 0 : lk_exp(score(r, most) - r->listed.top);
    r->log_listed = own == 1 ? lk_log1p(r->listed.sum) : lk_log(own + r->listed.sum);
    r->listed.sum += own;
}

/* The same over the other classes. A bit for each class marks the listed ones, so that the cost is
 * O(V + K). */
static void sum_rest(listed_row *r, const class_plan *plan, uint64_t *is_listed)
{
    const int64_t K = r->job->size['K' - 'A'];
    real z[CHUNK], top = -(real)INFINITY;
    int64_t ids = 0;
    memset(is_listed, 0, listed_size(plan->classes));
    for (int64_t k = 0; k < K; k++) {
        const int64_t id = id_at(r->job, r->i, k);
        ids += id >= 0;
        if (id >= 0)
            is_listed[id / 64] |= UINT64_C(1) << id % 64;
    }
    r->covered = ids == plan->classes;
    for (int64_t c = 0; c < plan->classes; c += CHUNK) {
        const int64_t n = plan->classes - c < CHUNK ? plan->classes - c : CHUNK;
        class_scores(plan, r->x + c, n, z);
        for (int64_t word = 0; word < n; word += 64)
            for (uint64_t bits = is_listed[(c + word) / 64]; bits; bits &= bits - 1)
                z[word + __builtin_ctzll(bits)] = -(real)INFINITY;
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

static void row_fill(listed_row *r, const class_plan *plan, uint64_t *is_listed)
{
    r->teacher = mass_of(r->job, r->i);
    const double mass = r->teacher.mass, over = r->teacher.over;
    r->log_unlisted = mass < 0.5 ? lk_log1p(-mass) : over < 0 ? lk_log(-over) : -(double)INFINITY;
    sum_listed(r);
    sum_rest(r, plan, is_listed);
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

/* q (log q - log p) + p - q, which is never negative, and 0 where p is q. */
static double divergence(double lq, double lp)
{
    const double gap = lq - lp;
    double term = gap * gap / 2, sum = term;
    if (lq == -(double)INFINITY)
        return lk_exp(lp);
    if (!(fabs(gap) < 0.1))
        return lk_exp(lq) * (gap + lk_expm1(-gap));
    for (int n = 3; n < 14; n++)
        sum += term *= -gap / n;
    return lk_exp(lq) * sum;
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
    const double lq = logprob_at(r->job, r->i, k);
    if (tail == TRUNCATED || tail == TAIL)
        return lq;
    return (lq - r->teacher.top) - r->teacher.log_sum;
}

/* The sum of the divergences of the classes, corrected by the sum of p - q over them. */
static double value_of(const listed_row *r, int tail)
{
    const double over = r->teacher.over, mass = r->teacher.mass;
    double value = 0;
    if (mass == 0 && (tail == RENORMALIZE || tail == CONDITIONAL))
        return 0; /* a teacher without mass gives no loss */
    for (int64_t k = 0; k < r->job->size['K' - 'A']; k++) {
        const int64_t id = id_at(r->job, r->i, k);
        if (id >= 0)
            value += divergence(log_q(r, k, tail),
                                tail == CONDITIONAL ? log_share(r, id) : log_p(r, id));
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

/* The gradient of the unlisted classes, relative to each one's share of the rest. */
static double off(const listed_row *r, int tail)
{
    switch (tail) {
    case RENORMALIZE:
        return r->teacher.mass > 0 ? lk_exp(r->beyond) : 0;
    case TRUNCATED:
        return r->teacher.mass * lk_exp(r->beyond);
    case CONDITIONAL:
        return 0;
    default:
        return difference(r->beyond, r->log_unlisted);
    }
}

static double at_id(const listed_row *r, int tail, int64_t id, double lq)
{
    const double lp = log_p(r, id);
    if (tail == CONDITIONAL)
        return r->teacher.mass > 0 ? difference(log_share(r, id), lq) : 0;
    if (tail == RENORMALIZE && !(r->teacher.mass > 0))
        return 0;
    return difference(lp, lq) + (tail == TRUNCATED ? r->teacher.over * lk_exp(lp) : 0);
}

/* With logprob_floor: sum_K q (log q - max(log p, floor)), and the mass of the classes above it. */

static bool is_above(const listed_row *r, int64_t id)
{
    const options *o = r->job->options;
    return !(log_p(r, id) < o->logprob_floor);
}

static double floored_value(const listed_row *r, int tail, double *mass)
{
    const options *o = r->job->options;
    double value = 0;
    *mass = 0;
    for (int64_t k = 0; k < r->job->size['K' - 'A'] && r->teacher.mass > 0; k++) {
        const int64_t id = id_at(r->job, r->i, k);
        const double lq = id < 0 ? 0 : log_q(r, k, tail), q = lk_exp(lq);
        if (id < 0 || q == 0)
            continue;
        value += q * (lq - (is_above(r, id) ? log_p(r, id) : o->logprob_floor));
        *mass += is_above(r, id) ? q : 0;
    }
    return value;
}

/* The other divergences compare cells: the listed classes and, with tail=tail, the rest. */

static double cell_log_p(const listed_row *r, int tail, int64_t id)
{
    return tail == CONDITIONAL ? log_share(r, id) : log_p(r, id);
}

/* log(beta q + (1 - beta) p). */
static double log_mixture(double beta, double lq, double lp)
{
    const double a = lk_log(beta) + lq, b = lk_log1p(-beta) + lp;
    const double top = a > b ? a : b, low = a > b ? b : a;
    return top == -(double)INFINITY ? top : top + lk_log1p(lk_exp(low - top));
}

/* The divergence of a cell, which is never negative: those of all add up, since both sides do to
 * 1. */
static double cell_value(int kind, double beta, double lq, double lp)
{
    if (kind == TOPK_MIXED)
        return beta * divergence(lq, lp) + (1 - beta) * divergence(lp, lq);
    if (kind == TOPK_REVERSE)
        return divergence(lp, lq);
    const double lm = log_mixture(beta, lq, lp);
    return beta * divergence(lq, lm) + (1 - beta) * divergence(lp, lm);
}

/* The slope r of a cell in p (r - sum p r), of the part of the divergence that has such slopes. */
static double cell_slope(int kind, double beta, double lq, double lp)
{
    if (lp == -(double)INFINITY)
        return 0;
    if (kind == TOPK_JSD)
        return (1 - beta) * (lp - log_mixture(beta, lq, lp));
    return (kind == TOPK_MIXED ? 1 - beta : 1) * (lp - lq);
}

typedef struct cells {
    int kind; /* of the divergence: jsd at the ends of beta's range is another one */
    double beta, value, mean; /* mean: the sum of p r */
} cells;

static cells cells_of(const listed_row *r, int tail)
{
    const options *o = r->job->options;
    cells c = {.kind = o->divergence, .beta = o->beta};
    if (c.kind == TOPK_JSD && (c.beta == 0 || c.beta == 1)) {
        c.kind = TOPK_MIXED;
        c.beta = 1 - c.beta;
    }
    if (r->teacher.mass == 0 && tail == CONDITIONAL)
        return c; /* a teacher without mass gives no loss */
    for (int64_t k = -(tail == TAIL && !r->covered); k < r->job->size['K' - 'A']; k++) {
        const int64_t id = k < 0 ? -1 : id_at(r->job, r->i, k);
        if (k >= 0 && id < 0)
            continue;
        const double lq = k < 0 ? r->log_unlisted : log_q(r, k, tail);
        const double lp = k < 0 ? r->beyond : cell_log_p(r, tail, id);
        c.value += cell_value(c.kind, c.beta, lq, lp);
        c.mean += lp == -(double)INFINITY ? 0 : lk_exp(lp) * cell_slope(c.kind, c.beta, lq, lp);
    }
    return c;
}

static double cell_gradient(const cells *c, double lq, double lp)
{
    const double slope = cell_slope(c->kind, c->beta, lq, lp);
    const double own = lp == -(double)INFINITY ? 0 : lk_exp(lp) * (slope - c->mean);
    return own + (c->kind == TOPK_MIXED ? c->beta * difference(lp, lq) : 0);
}

/* What a row is computed as: its value, and how its gradient is. */
typedef struct row_kind {
    int tail;
    bool floored, celled;
    double above; /* floored: the mass of the classes above the floor */
    cells cells;
} row_kind;

static double kind_value(const listed_row *r, row_kind *kind)
{
    if (kind->floored)
        return floored_value(r, kind->tail, &kind->above);
    if (!kind->celled)
        return value_of(r, kind->tail);
    kind->cells = cells_of(r, kind->tail);
    return kind->cells.value;
}

/* The gradient of the unlisted classes, relative to each one's share of the rest. */
static double kind_off(const listed_row *r, const row_kind *kind)
{
    if (kind->floored)
        return kind->above * lk_exp(r->beyond);
    if (!kind->celled)
        return off(r, kind->tail);
    return kind->tail == TAIL ? cell_gradient(&kind->cells, r->log_unlisted, r->beyond) : 0;
}

static double kind_at(const listed_row *r, const row_kind *kind, int64_t k, int64_t id)
{
    const double lq = log_q(r, k, kind->tail);
    if (kind->floored) {
        const double q = r->teacher.mass > 0 && is_above(r, id) ? lk_exp(lq) : 0;
        return kind->above * lk_exp(log_p(r, id)) - q;
    }
    if (!kind->celled)
        return at_id(r, kind->tail, id, lq);
    if (kind->tail == CONDITIONAL && !(r->teacher.mass > 0))
        return 0;
    return cell_gradient(&kind->cells, lq, cell_log_p(r, kind->tail, id));
}

/* The gradient may be in place of the scores: so the entries that are written last are computed
 * first. */
static void gradient(const listed_row *r, const class_plan *plan, const row_kind *kind,
                     double weight, elem *grad, double *at)
{
    const int64_t K = r->job->size['K' - 'A'];
    const double by = r->rest.sum > 0 ? weight * kind_off(r, kind) / r->rest.sum : 0;
    const vec c = v_set((real)by), top = v_set((real)r->rest.top);
    for (int64_t k = 0; k < K; k++) {
        const int64_t id = id_at(r->job, r->i, k);
        at[k] = id < 0 ? 0 : weight * kind_at(r, kind, k, id);
    }
    for (int64_t k = 0; k < plan->classes; k += LANES) {
        const int64_t n = LK_TAIL(k, plan->classes);
        const vec z = v_load_tail(r->x + k, n, 0) * r->scale;
        v_store_tail(grad + k, n, c * v_exp_nonpos(z - top));
    }
    for (int64_t k = 0; k < K; k++)
        if (id_at(r->job, r->i, k) >= 0)
            r_store(grad + id_at(r->job, r->i, k), (real)at[k]);
}

static size_t scratch_size(const lk_job *job)
{
    const size_t K = (size_t)job->size['K' - 'A'];
    return job->rows > 0 ? K * sizeof(double) + listed_size(job->size['V' - 'A']) : 0;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const bool per_row = o->common.reduce.reduction == LK_NONE;
    const int64_t V = job->size['V' - 'A'];
    const double factor = teacher_factor(&o->common);
    const real *up = job->in[GRAD_OUTPUT].data;
    const class_options scores = {.logit_scale = 1 / o->common.temperature};
    const class_plan plan = class_plan_make(job, &scores, V);
    double *at = scratch;
    uint64_t *is_listed = (uint64_t *)(at + job->size['K' - 'A']);
    for (int64_t i = first; i < first + count; i++) {
        elem *grad = job->grad[STUDENT].data ? (elem *)job->grad[STUDENT].data + i * V : NULL;
        real upstream = 1;
        double value = 0;
        if (counts(job, i)) {
            listed_row r = {.job = job, .i = i, .scale = (real)plan.scale};
            r.x = (const elem *)job->in[STUDENT].data + i * V;
            if (up)
                memcpy(&upstream, up + (per_row ? i : 0), sizeof upstream);
            const int64_t bad =
                o->common.reduce.nonfinite == LK_REFUSE_NONFINITE ? elements_nonfinite(r.x, V) : -1;
            if (bad >= 0)
                lk_refuse(block, LK_NONFINITE_INPUT, STUDENT, i * V + bad,
                          (double)r_load(r.x + bad));
            row_fill(&r, &plan, is_listed);
            /* If all classes are listed there is no tail. */
            row_kind kind = {.tail = o->tail, .floored = !isnan(o->logprob_floor)};
            kind.celled = o->divergence != TOPK_FORWARD;
            if (kind.tail == TAIL && r.covered && !kind.celled)
                kind.tail = TRUNCATED;
            value = isnan(r.here) ? (double)NAN : factor * kind_value(&r, &kind);
            const double whole = job->scale[0] * (double)upstream * factor * plan.scale;
            const int power = elements_power(whole);
            const double weight = ldexp(whole, -power);
            if (grad && weight == 0)
                elements_fill(grad, V, 0);
            else if (grad && isnan(value))
                elements_fill(grad, V, (real)NAN);
            else if (grad)
                gradient(&r, &plan, &kind, weight, grad, at);
            if (grad && power != 0)
                elements_scale(grad, V, power);
        } else if (grad) {
            memset(grad, 0, (size_t)V * sizeof(elem));
        }
        block->sum[0] += value;
        if (per_row && job->value.data)
            lk_put(&job->value, i, value);
    }
}

static const char tex[] =
    "\\begin{aligned} q&\\ \\text{the teacher's of}\\ K\\ \\text{classes},\\quad Q = \\sum_K "
    "q,\\quad p = \\operatorname{softmax}(\\text{student}/T) \\\\ "
    "\\text{renormalize} &= T^2\\operatorname{KL}(q/Q \\parallel p) \\\\ "
    "\\text{truncated} &= T^2\\sum_K q\\,(\\log q - \\log p) \\\\ "
    "\\text{conditional} &= T^2\\operatorname{KL}(q/Q \\parallel p_K) \\\\ "
    "\\text{tail} &= \\text{truncated} + T^2(1 - Q)\\left(\\log(1 - Q) - \\log\\left(1 - \\sum_K "
    "p\\right)\\right) \\end{aligned}";

LK_LOSS(topk_distillation) = {
    .is =
        {
            .name = "topk_distillation",
            .tex = tex,
            .title = "Distillation from a teacher's most likely classes",
            .formula =
                "q the teacher's probabilities of K classes, Q their sum, p = softmax(student/T). "
                "renormalize: KL(q/Q | p); truncated: sum_K q (log q - log p); conditional: "
                "KL(q/Q | p restricted to K); tail: truncated with one more class of the masses "
                "1-Q and 1-sum_K p. All times T^2",
            .help = "For teachers that are stored, or served with their best log-probabilities "
                    "alone. divergence compares the same cells in other ways: the listed classes "
                    "and, with tail=tail, the rest.",
            .reference = "TRL self-distillation (conditional, tail); DistillKit (renormalize); "
                         "NeMo-RL (mixed); verl (a floor)",
            .example = "{\"inputs\": {\"student_logits\": [[1.2, -0.8, -0.5]], "
                       "\"teacher_ids\": [[0, 1]], \"teacher_logprobs\": [[-0.73, -1.13]]}}",
            .traits = LK_SHIFT_FREE | LK_ROWWISE,
            .loss_shape = "*",
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(options),
    .parts = 1,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
};
