/* SPDX-License-Identifier: MIT
 *
 * Late interaction (ColBERT's MaxSim): a query and a document are sets of vectors, one a token, and
 * the score of the two is the sum, over the query's tokens, of the greatest similarity to a token
 * of the document.
 *
 * The similarities of all tokens are never there together: a product computes them for some rows
 * and columns, the greatest of each document is taken, and where it was is kept for the gradients.
 */
#include "candidates.h"
#include "rows/elements.h"
#include "rows/prefixes.h"
#include "rows/product.h"
#include "rows/table.h"
#include "vector/wide.h"

enum {
    QUERIES,
    DOCUMENTS,
    QUERY_MASK,
    DOCUMENT_MASK,
    CANDIDATE_MASK,
    POSITIVE_INDEX,
    TEACHER_SCORES,
    GRAD_OUTPUT
};
enum { SCORES };                           /* outputs */
enum { CONTRASTIVE, DISTILL, MARGIN_MSE }; /* form */

typedef struct options {
    lk_reduce reduce;
    int form;
    double scale, teacher_temperature;
    bool length_normalize, normalize;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    LK_WORDS(options, form, "contrastive", "contrastive|distill|margin_mse",
             "softmax over the documents, KL from a teacher's softmax, or the teacher's margins"),
    LK_FIELD(options, scale, "1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "the scores are multiplied with it: 1/temperature; not margin_mse"),
    LK_FIELD(options, teacher_temperature, "1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,
             "divides teacher_scores; distill"),
    LK_FIELD(options, length_normalize, "false", 0, 0, 0,
             "divide a score by the number of the query's tokens"),
    LK_FIELD(options, normalize, "false", 0, 0, 0,
             "compare by cosines; false: the vectors as they are"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    {0},
};

#define TOKEN_MASK(name_, shape_)                                                                  \
    {                                                                                              \
        .name = (name_), .forms = {{(shape_), LK_MASKS}}, .flags = LK_OPTIONAL,                    \
        .help = "tokens with 0 are padding and not read; default all are there"                    \
    }

static const lk_input inputs[] = {
    [QUERIES] = PAIR_VECTORS("queries", "B T D", 0, "the tokens of each query"),
    [DOCUMENTS] = PAIR_VECTORS("documents", "M U D", 0, "the tokens of each document"),
    [QUERY_MASK] = TOKEN_MASK("query_mask", "B T"),
    [DOCUMENT_MASK] = TOKEN_MASK("document_mask", "M U"),
    [CANDIDATE_MASK] = {.name = "candidate_mask",
                        .forms = {{"B M", LK_MASKS}},
                        .flags = LK_OPTIONAL,
                        .help = "0 leaves the document out for that query; default all are in"},
    [POSITIVE_INDEX] = {.name = "positive_index",
                        .forms = {{"B", LK_INTS}},
                        .flags = LK_OPTIONAL,
                        .range = "[0,M)",
                        .help = "the document that is right for each query; default the same row; "
                                "distill has none"},
    [TEACHER_SCORES] = {.name = "teacher_scores",
                        .forms = {{"B M", LK_FLOATS}},
                        .flags = LK_OPTIONAL,
                        .help = "what a teacher gives every document; distill and margin_mse"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    [SCORES] = LK_OUTPUT("scores", "B M", LK_ANY, "of each query and document; 0 where excluded"),
    {0},
};

static int64_t size(const lk_job *job, char letter)
{
    return job->size[letter - 'A'];
}

static bool is_there(const lk_job *job, int input, int64_t i)
{
    return !job->in[input].data || lk_int(&job->in[input], i) != 0;
}

/* State. */

typedef struct plan {
    pair_units queries, documents; /* by token */
    double *taint;                 /* [M] NaN: a document has a token that is not finite */
    bool *empty;                   /* [M] no token at all */
    bool *left_out;                /* [B] queries that are not counted */
    /* For the gradients: */
    int32_t *best;  /* [B T M] the token of the document that is nearest to that of the query */
    double *slopes; /* [B M] dL/dS, without the factor 2^power; length_normalize is in it. Those of
                       excluded documents stay 0, as the state begins */
    double scale;   /* products of h are multiplied with it to become similarities */
    int power;      /* see elements_power */
    size_t bytes;
} plan;

/* What the shapes decide: there may be no data yet. */
static plan layout_of(const lk_job *job)
{
    const options *o = job->options;
    const double eps = o->normalize ? o->cos_eps : (double)INFINITY;
    const int64_t B = size(job, 'B'), M = size(job, 'M');
    plan p = {.bytes = 0};
    p.queries = pair_units_take(job, &p.bytes, QUERIES, eps);
    p.documents = pair_units_take(job, &p.bytes, DOCUMENTS, eps);
    p.queries.mask = &job->in[QUERY_MASK];
    p.documents.mask = &job->in[DOCUMENT_MASK];
    p.taint = take(job->state, &p.bytes, M, sizeof *p.taint);
    p.empty = take(job->state, &p.bytes, M, sizeof *p.empty);
    p.left_out = take(job->state, &p.bytes, B, sizeof *p.left_out);
    if (table_wants_gradient(job)) {
        p.best = take(job->state, &p.bytes, p.queries.rows * M, sizeof *p.best);
        p.slopes = take(job->state, &p.bytes, B * M, sizeof *p.slopes);
    }
    return p;
}

static plan plan_of(const lk_job *job)
{
    plan p = layout_of(job);
    p.scale = pair_lack(&p.queries) * pair_lack(&p.documents);
    p.power = table_power(job, GRAD_OUTPUT);
    return p;
}

static size_t state(const lk_job *job)
{
    return layout_of(job).bytes;
}

/* Checks. */

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const int64_t B = size(job, 'B'), M = size(job, 'M');
    lk_status status;
    if (o->form != CONTRASTIVE && !lk_has(job, TEACHER_SCORES))
        return lk_fail(job, error, LK_MISSING_INPUT, TEACHER_SCORES, -1,
                       "teacher_scores is missing; form=distill and margin_mse need it");
    if ((status = pair_check_width(job, error)) != LK_OK)
        return status;
    if (o->form != DISTILL && !lk_has(job, POSITIVE_INDEX) && M < B)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, DOCUMENTS, -1,
                       "documents has %lld rows; without positive_index it must have at least as "
                       "many as queries, %lld",
                       (long long)M, (long long)B);
    if (size(job, 'U') > INT32_MAX)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, DOCUMENTS, -1,
                       "documents has more tokens in each than %d", INT32_MAX);
    return table_check_memory(job, B * size(job, 'T'), M * size(job, 'U'), error);
}

static bool allowed(const lk_job *job, const plan *p, int64_t i, int64_t j)
{
    return !p->empty[j] && is_there(job, CANDIDATE_MASK, i * size(job, 'M') + j);
}

static int64_t positive_of(const lk_job *job, int64_t i)
{
    return lk_candidates_positive(job, POSITIVE_INDEX, i);
}

static int64_t tokens_of(const lk_job *job, int64_t i)
{
    const int64_t T = size(job, 'T');
    int64_t n = 0;
    for (int64_t t = i * T; t < (i + 1) * T; t++)
        n += is_there(job, QUERY_MASK, t);
    return n;
}

/* What documents there are. */
static void fill_documents(const lk_job *job, const plan *p)
{
    const int64_t M = size(job, 'M'), U = size(job, 'U');
    for (int64_t j = 0; j < M; j++) {
        p->empty[j] = true;
        for (int64_t u = j * U; u < (j + 1) * U; u++) {
            const bool there = is_there(job, DOCUMENT_MASK, u);
            p->taint[j] += there ? (double)p->documents.taint[u] : 0;
            p->empty[j] = p->empty[j] && !there;
        }
    }
}

/* Which queries are counted; an error for a positive that is excluded. */
static lk_status fill_queries(lk_job *job, const plan *p, lk_error *error)
{
    const options *o = job->options;
    const int64_t M = size(job, 'M');
    char place[LK_PLACE_MAX];
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t y = positive_of(job, i);
        int64_t others = 0;
        p->left_out[i] = tokens_of(job, i) == 0;
        if (o->form != DISTILL && !p->left_out[i] && !allowed(job, p, i, y))
            return p->empty[y] ? lk_fail(job, error, LK_OPTION_CONFLICT,
                                         lk_has(job, DOCUMENT_MASK) ? DOCUMENT_MASK : DOCUMENTS, -1,
                                         "documents[%lld] has no token, but is the positive of "
                                         "queries[%lld]",
                                         (long long)y, (long long)i)
                               : lk_fail(job, error, LK_OPTION_CONFLICT, CANDIDATE_MASK, i * M + y,
                                         "%s is 0, but that document is the positive of the query",
                                         lk_place(job, CANDIDATE_MASK, i * M + y, place));
        for (int64_t j = 0; o->form == MARGIN_MSE && j < M; j++)
            others += j != y && allowed(job, p, i, j);
        p->left_out[i] = p->left_out[i] || (o->form == MARGIN_MSE && others == 0);
        job->counted += !p->left_out[i];
    }
    job->denominator[0] = (double)job->counted;
    return LK_OK;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const plan p = plan_of(job);
    lk_status status = LK_OK;
    if (o->form != DISTILL)
        status = lk_candidates_check(job, POSITIVE_INDEX, size(job, 'M'), "documents", error);
    if (status != LK_OK ||
        (status = pair_units_fill(job, &p.queries, QUERIES, NULL, error)) != LK_OK ||
        (status = pair_units_fill(job, &p.documents, DOCUMENTS, NULL, error)) != LK_OK)
        return status;
    fill_documents(job, &p);
    return fill_queries(job, &p, error);
}

/* Scratch. */

/* Tokens of documents and of queries that are multiplied together: each side shares the work of
 * copying the other into panels, and their products stay in the second-level cache. */
enum { DOCUMENTS_MOST = 240, QUERIES_MOST = 256 };

enum { BESIDE = 4 }; /* vectors of queries' tokens that are compared side by side */

enum { AHEAD = 4 }; /* vectors that are fetched before they are added */

/* How many queries are compared at a time. */
static int64_t together(const lk_job *job)
{
    const int64_t T = size(job, 'T');
    return T > 0 && T < QUERIES_MOST ? QUERIES_MOST / T : 1;
}

typedef struct room {
    void *product;
    real *s;        /* products of some tokens of documents with some of queries */
    int64_t stride; /* of s: whole vectors, BESIDE each other */
    real *top;      /* of each token of the queries: the greatest similarity in a document */
    ilane *at;      /* and which token of it that is */
    double *scores; /* [queries M] S of the queries that are compared together */
    /* [M] of one query, without excluded documents: */
    double *score, *teacher, *slope;
    int64_t *which; /* the documents these are */
    double *sums;   /* [U D] or [D] a gradient by h */
    bool *summed;   /* [U] is there one for the token? */
    real *g;        /* [D] the same, rounded */
} room;

static room room_of(const lk_job *job, const plan *p, void *scratch, size_t *used)
{
    const int64_t M = size(job, 'M'), U = size(job, 'U');
    const int64_t queries = at_most(together(job), size(job, 'B'));
    const int64_t tokens = at_most(queries * size(job, 'T'), QUERIES_MOST);
    const int64_t others = at_most(p->documents.rows, DOCUMENTS_MOST);
    const int64_t sums = table_wants_gradient(job) ? (U > 1 ? U : 1) * p->queries.stride : 0;
    room r = {.stride = (tokens + BESIDE * STRIDE - 1) / (BESIDE * STRIDE) * BESIDE * STRIDE};
    *used = 0;
    r.product = take(scratch, used, 1, product_scratch(others, p->queries.width));
    r.s = take(scratch, used, others * r.stride, sizeof *r.s);
    r.top = take(scratch, used, r.stride, sizeof *r.top);
    r.at = take(scratch, used, r.stride, sizeof *r.at);
    r.scores = take(scratch, used, queries * M, sizeof *r.scores);
    r.score = take(scratch, used, M, sizeof *r.score);
    r.teacher = take(scratch, used, M, sizeof *r.teacher);
    r.slope = take(scratch, used, M, sizeof *r.slope);
    r.which = take(scratch, used, M, sizeof *r.which);
    r.sums = take(scratch, used, sums, sizeof *r.sums);
    r.summed = take(scratch, used, U, sizeof *r.summed);
    r.g = take(scratch, used, p->queries.stride, sizeof *r.g);
    return r;
}

static size_t scratch_size(const lk_job *job)
{
    const plan p = layout_of(job);
    size_t used;
    (void)room_of(job, &p, NULL, &used);
    return used;
}

/* Scores. */

/* Of products with `count` tokens of a document, from its token u on, which is `first` of all:
 * those greater than the greatest so far, and where they are. Of equal ones the first counts. */
static void take_greatest(const lk_job *job, const room *r, const real *s, int64_t tokens,
                          int64_t first, int64_t u, int64_t count)
{
    for (int64_t t = 0; t < tokens; t += BESIDE * LANES) {
        vec top[BESIDE];
        mask at[BESIDE];
        memcpy(top, r->top + t, sizeof top);
        memcpy(at, r->at + t, sizeof at);
        for (int64_t k = 0; k < count; k++) {
            if (!is_there(job, DOCUMENT_MASK, first + k))
                continue;
            UNROLLED
            for (int b = 0; b < BESIDE; b++) {
                const vec x = v_read(s + k * r->stride + t + b * LANES);
                const mask more = x > top[b];
                top[b] = v_select(more, x, top[b]);
                at[b] = m_select(more, m_set((ilane)(u + k)), at[b]);
            }
        }
        memcpy(r->top + t, top, sizeof top);
        memcpy(r->at + t, at, sizeof at);
    }
}

/* The vectors of documents are far apart, in an order that processors do not foresee. */
LK_INLINE void fetch(const real *h, int64_t stride)
{
    for (int64_t k = 0; k < stride; k += LK_LINE / (int64_t)sizeof *h)
        __builtin_prefetch((const void *)((uintptr_t)h + (uintptr_t)k * sizeof *h));
}

/* The product of two tokens' h, summed in double: it is `found` but for its rounding errors, which
 * would add up in a score. */
LK_INLINE double similarity(const plan *p, int64_t token, int64_t other, real found)
{
    const int64_t stride = p->queries.stride;
    const real *a = p->queries.h + token * stride, *b = p->documents.h + other * stride;
    wide_sums sum = {0};
    for (int64_t k = 0; k < stride && sizeof(real) < sizeof(double); k += STRIDE) {
        const wide_stride x = w_read_stride(a + k), y = w_read_stride(b + k);
        w_add_products(&sum, &x, &y);
    }
    return sizeof(real) < sizeof(double) ? w_sum(sum) : (double)found;
}

/* What `tokens` tokens of queries, from `first` on, add to the scores of document j, whose nearest
 * tokens are known. Query i is row 0 of r->scores. */
static void add_scores(const lk_job *job, const plan *p, const room *r, int64_t i, int64_t first,
                       int64_t tokens, int64_t j)
{
    const int64_t T = size(job, 'T'), U = size(job, 'U'), M = size(job, 'M');
    const int64_t stride = p->documents.stride;
    for (int64_t t = 0; t < tokens && !p->empty[j]; t++) {
        const int64_t token = first + t, other = j * U + r->at[t];
        if (t + AHEAD < tokens)
            fetch(p->documents.h + (j * U + r->at[t + AHEAD]) * stride, stride);
        if (is_there(job, QUERY_MASK, token))
            r->scores[(token / T - i) * M + j] +=
                p->scale * similarity(p, token, other, r->top[t]) +
                (double)p->queries.taint[token] + p->taint[j];
        if (p->best)
            p->best[token * M + j] = (int32_t)r->at[t];
    }
}

/* The nearest tokens of every document, and what they add to the scores. What is multiplied at a
 * time may begin and end within documents. */
static void compare(const lk_job *job, const plan *p, const room *r, int64_t i, int64_t first,
                    int64_t tokens)
{
    const pair_units *q = &p->queries, *d = &p->documents;
    const int64_t U = size(job, 'U');
    const product_side b = product_vectors(q->h + first * q->stride, tokens, q->stride);
    for (int64_t c = 0, others; c < d->rows; c += others) {
        others = at_most(d->rows - c, DOCUMENTS_MOST);
        const product_side a = product_vectors(d->h + c * d->stride, others, d->stride);
        product(&a, &b, q->width, false, r->s, r->stride, r->product);
        for (int64_t k = 0, n; k < others; k += n) {
            const int64_t j = (c + k) / U, u = (c + k) % U;
            n = at_most(U - u, others - k);
            for (int64_t t = 0; u == 0 && t < r->stride; t++) {
                r->top[t] = -(real)INFINITY;
                r->at[t] = 0;
            }
            take_greatest(job, r, r->s + k * r->stride, tokens, c + k, u, n);
            if (u + n == U)
                add_scores(job, p, r, i, first, tokens, j);
        }
    }
}

/* The loss of query i, from its scores; its slopes are noted. */
static double one_query(const lk_job *job, const plan *p, const room *r, int64_t i, double *scores)
{
    const options *o = job->options;
    const int64_t M = size(job, 'M'), y = o->form == DISTILL ? -1 : positive_of(job, i);
    const int64_t tokens = tokens_of(job, i);
    const double share = o->length_normalize && tokens > 0 ? 1 / (double)tokens : 1;
    int64_t positive = -1;
    lk_candidates c = {.score = r->score, .teacher = r->teacher, .slope = r->slope};
    for (int64_t j = 0; j < M; j++) {
        scores[j] = allowed(job, p, i, j) ? share * scores[j] : 0;
        if (job->out[SCORES].data)
            lk_put(&job->out[SCORES], i * M + j, scores[j]);
        if (!allowed(job, p, i, j))
            continue;
        positive = j == y ? c.n : positive;
        r->score[c.n] = scores[j];
        r->teacher[c.n] = o->form == CONTRASTIVE ? 0 : pair_number(job, TEACHER_SCORES, i * M + j);
        r->which[c.n++] = j;
    }
    if (p->left_out[i])
        return 0;
    const double loss = o->form == CONTRASTIVE ? lk_candidates_contrast(&c, positive, o->scale)
                        : o->form == DISTILL
                            ? lk_candidates_distil(&c, o->teacher_temperature, o->scale)
                            : lk_candidates_margins(&c, positive);
    const double weight = share * ldexp(pair_weight(job, GRAD_OUTPUT, i), -p->power);
    for (int64_t k = 0; p->slopes && weight != 0 && k < c.n; k++)
        p->slopes[i * M + r->which[k]] = weight * c.slope[k];
    return loss;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const plan p = plan_of(job);
    size_t used;
    const room r = room_of(job, &p, scratch, &used);
    const int64_t T = size(job, 'T'), M = size(job, 'M');
    for (int64_t i = first, n; i < first + count; i += n) {
        n = at_most(first + count - i, together(job));
        memset(r.scores, 0, (size_t)(n * M) * sizeof *r.scores);
        for (int64_t t = i * T, tokens; t < (i + n) * T; t += tokens) {
            tokens = at_most((i + n) * T - t, QUERIES_MOST);
            compare(job, &p, &r, i, t, tokens);
        }
        for (int64_t k = 0; k < n; k++)
            pair_put(job, block, i + k, one_query(job, &p, &r, i + k, r.scores + k * M));
    }
}

/* Gradients. */

/* sum += g h. */
static void add_vector(double *sum, double g, const real *h, int64_t stride)
{
    const wide_half by = half_set(g);
    for (int64_t k = 0; k < stride; k += HALF_LANES)
        half_write(sum + k, half_read(sum + k) + by * w_read_half(h + k));
}

/* The gradient of vector i from its sum of G h; NULL: it is 0. */
static void write_gradient(const lk_job *job, const plan *p, const room *r, int input,
                           const pair_units *u, int64_t i, const double *sum)
{
    elem *grad = (elem *)job->grad[input].data + i * u->width;
    if (!sum || pair_unit_masked(u, i)) {
        elements_fill(grad, u->width, 0);
        return;
    }
    if (isnan(sum[0])) {
        elements_fill(grad, u->width, (real)NAN);
        return;
    }
    for (int64_t k = 0; k < u->stride; k++)
        r->g[k] = (real)sum[k];
    pair_unit_back(u, i, r->g, ldexp(p->scale, p->power), NULL, grad);
}

static void back_queries(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    size_t used;
    const room r = room_of(job, &p, scratch, &used);
    const int64_t T = size(job, 'T'), U = size(job, 'U'), M = size(job, 'M');
    const int64_t stride = p.queries.stride;
    for (int64_t token = first * T; token < (first + count) * T; token++) {
        const double *slopes = p.slopes + token / T * M;
        const int32_t *best = p.best + token * M;
        memset(r.sums, 0, (size_t)stride * sizeof *r.sums);
        for (int64_t j = 0; is_there(job, QUERY_MASK, token) && j < M; j++) {
            if (j + AHEAD < M)
                fetch(p.documents.h + ((j + AHEAD) * U + best[j + AHEAD]) * stride, stride);
            if (slopes[j] != 0)
                add_vector(r.sums, slopes[j], p.documents.h + (j * U + best[j]) * stride, stride);
        }
        write_gradient(job, &p, &r, QUERIES, &p.queries, token, r.sums);
    }
}

static void back_documents(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    size_t used;
    const room r = room_of(job, &p, scratch, &used);
    const int64_t T = size(job, 'T'), U = size(job, 'U'), M = size(job, 'M');
    const int64_t stride = p.documents.stride;
    for (int64_t j = first; j < first + count; j++) {
        bool spoilt = false; /* by a token that is not finite, in a score that counts */
        memset(r.summed, 0, (size_t)U * sizeof *r.summed);
        for (int64_t token = 0; token < p.queries.rows; token++) {
            const double slope = p.slopes[token / T * M + j];
            const int32_t u = p.best[token * M + j];
            if (slope == 0 || !is_there(job, QUERY_MASK, token))
                continue;
            spoilt = spoilt || isnan(p.taint[j]);
            if (!r.summed[u])
                memset(r.sums + u * stride, 0, (size_t)stride * sizeof *r.sums);
            r.summed[u] = true;
            add_vector(r.sums + u * stride, slope, p.queries.h + token * stride, stride);
        }
        for (int64_t u = 0; u < U; u++) {
            if (spoilt)
                r.sums[u * stride] = (double)NAN;
            write_gradient(job, &p, &r, DOCUMENTS, &p.documents, j * U + u,
                           r.summed[u] || spoilt ? r.sums + u * stride : NULL);
        }
    }
}

/* A block has no fewer queries than share the work of copying the documents into panels. */
static int64_t least(const lk_job *job, const lk_pass *pass)
{
    return pass ? 1 : together(job);
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    enum { PRODUCTS = 64, SUMS = 4 };
    const double tokens = (double)size(job, 'T') * (double)size(job, 'M');
    const double width = (double)size(job, 'D');
    const double compare = tokens * (double)size(job, 'U') * (1 + width / PRODUCTS);
    const double sums =
        (pass && pass->input == DOCUMENTS ? (double)size(job, 'B') * (double)size(job, 'T')
                                          : tokens) *
        (1 + width / SUMS);
    const double cost = pass ? sums : compare;
    return cost < 0x1p40 ? (int64_t)cost : (int64_t)1 << 40;
}

static const char tex[] =
    "\\ell_i = -\\log\\operatorname{softmax}_j(s\\,S_{ij})_{\\text{positive}},\\quad S_{ij} = "
    "\\sum_t \\max_u\\ q_{it} \\cdot d_{ju}";

LK_DESCRIBE(late_interaction, .tex = tex, .title = "Late interaction (ColBERT, MaxSim)",
            .formula =
                "S_ij = sum_t max_u query_it . document_ju; contrastive: -log "
                "softmax_j(scale S_i) of the positive; distill: KL(softmax(teacher_i / "
                "teacher_temperature) || softmax(scale S_i)) / scale^2; margin_mse: mean over "
                "the others of ((S_i,pos - S_ij) - (teacher_i,pos - teacher_ij))^2",
            .help = "Queries and documents are sets of token vectors, which meet only in the end. "
                    "Padding and excluded documents take no part at all. The similarities of all "
                    "tokens are not stored: besides copies of the vectors a call needs 4 bytes for "
                    "each token of a query and document, and 8 for each query and document.",
            .reference = "Khattab, Zaharia 2020; sentence-transformers multi_vector_encoder losses",
            .example = "{\"inputs\": {\"queries\": [[[1.6, -0.6], [-0.5, -1.1]], [[0.9, -2.3], "
                       "[1.7, -0.8]]], \"documents\": [[[0.3, -0.2], [1.5, -2.1]], "
                       "[[-0.3, -0.4], [1.1, -1.1]], [[-0.2, -0.9], [0.0, 0.6]]]}}",
            .traits = LK_NONNEGATIVE | LK_COUPLED, .loss_shape = "B", .inputs = inputs,
            .outputs = outputs, .options = fields);

LK_LOSS(late_interaction) = {
    .is = &LK_IS(late_interaction),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .row_cost = row_cost,
    .least = least,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
    .passes = {{QUERIES, back_queries}, {DOCUMENTS, back_documents}},
};
