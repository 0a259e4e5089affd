/* SPDX-License-Identifier: MIT
 *
 * InfoNCE: every anchor is classified against all candidates, one of which is its positive.
 */
#include "candidates.h"
#include "rows/directed_back.h"
#include "rows/elements.h"
#include "rows/learned.h"
#include "rows/prefixes.h"
#include "rows/table.h"

enum {
    ANCHORS,
    CANDIDATES,
    POSITIVE_INDEX,
    CANDIDATE_MASK,
    TEMPERATURE,
    GROUP,
    GUIDE_ANCHORS,
    GUIDE_CANDIDATES,
    GRAD_OUTPUT
};
enum { ABSOLUTE, RELATIVE }; /* guide_margin_mode */
enum { LOSS, SLOPE_SCALE };  /* lk_block.sum */

typedef struct options {
    lk_reduce reduce;
    double temperature;
    bool normalize, symmetric;
    double label_smoothing;
    lk_list directions;
    int partition;
    double hardness;
    int hardness_set;
    double guide_margin;
    int guide_margin_mode;
    double self_margin;
    double cos_eps;
    lk_prefixes prefixes;
} options;

static const lk_field fields[] = {
    LK_REDUCE_FIELDS(options),
    PAIR_TEMPERATURE_FIELD(options, "0.05"),
    LK_FIELD(options, normalize, "true", 0, 0, 0, "cosines; false: dot products"),
    LK_FIELD(options, symmetric, "false", 0, 0, 0,
             "the mean of this and of the same with anchors and candidates exchanged (CLIP)"),
    LK_FIELD(options, label_smoothing, "0", LK_RANGED, 0, 1,
             "probability mass taken from the positive and spread over the allowed candidates"),
    LK_SEVERAL(options, directions, "query_to_doc",
               "query_to_doc|query_to_query|doc_to_query|doc_to_doc",
               "what the positive of anchor i is picked out of: all candidates; the other anchors; "
               "all anchors, by that candidate; candidates of other anchors, by that candidate"),
    LK_WORDS(options, partition, "joint", "joint|per_direction",
             "one softmax over all of them, or the mean of one each for query_to_doc and "
             "doc_to_query"),
    LK_FIELD(options, hardness, "0", LK_HOLDS | LK_RANGED, 0, (double)INFINITY,
             "adds hardness * h_i h_j, a constant, to the scores of candidates of hardness_set"),
    LK_WORDS(options, hardness_set, "in_batch", "in_batch|hard|all",
             "candidates of other anchors; the anchor's own but for the positive; both"),
    LK_FIELD(options, guide_margin, "0", 0, 0, 0,
             "what the guide finds more similar than the positive pair, less this, is left out"),
    LK_WORDS(options, guide_margin_mode, "absolute", "absolute|relative",
             "a difference, or a share of the positive's similarity"),
    LK_FIELD(options, self_margin, "off", LK_OFF | LK_RANGED, 0, (double)INFINITY,
             "what is more similar than the positive pair, and this, is left out"),
    PAIR_COS_EPS_FIELD(options),
    LK_PREFIX_FIELDS(options),
    {0},
};

static const lk_input inputs[] = {
    [ANCHORS] = PAIR_VECTORS("anchors", "B D", 0, "queries"),
    [CANDIDATES] = PAIR_VECTORS("candidates", "M D", 0, "keys, at least as many as anchors"),
    [POSITIVE_INDEX] = {.name = "positive_index",
                        .forms = {{"B", LK_INTS}},
                        .flags = LK_OPTIONAL,
                        .range = "[0,M)",
                        .help =
                            "the candidate that is right for each anchor; default the same row"},
    [CANDIDATE_MASK] = {.name = "candidate_mask",
                        .forms = {{"B M", LK_MASKS}},
                        .flags = LK_OPTIONAL,
                        .help = "0 leaves the candidate out for that anchor; default all are in"},
    [TEMPERATURE] = LEARNED_INPUT("temperature", ">0"),
    [GROUP] = {.name = "group",
               .forms = {{"M", LK_INTS}},
               .flags = LK_OPTIONAL,
               .range = "[0,B)",
               .help = "the anchor that each candidate belongs to; default j modulo B"},
    [GUIDE_ANCHORS] = {.name = "guide_anchors",
                       .forms = {{"B G", LK_FLOATS}},
                       .flags = LK_OPTIONAL,
                       .help = "the anchors as a guide sees them, whose cosines say what is left "
                               "out (GISTEmbed); one that is NaN leaves out nothing"},
    [GUIDE_CANDIDATES] = {.name = "guide_candidates",
                          .forms = {{"M G", LK_FLOATS}},
                          .flags = LK_OPTIONAL,
                          .help = "the candidates as the guide sees them"},
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {{0}};

typedef struct plan {
    pair_table t;      /* anchors by candidates */
    pair_table mirror; /* symmetric: candidates by anchors */
    directed d;        /* instead of both, if options ask for more: is_directed */
    size_t bytes;
} plan;

static unsigned directions_of(const lk_job *job)
{
    const options *o = job->options;
    unsigned set = 0;
    for (int64_t k = 0; k < o->directions.count; k++)
        set |= 1u << o->directions.value[k];
    return set;
}

/* Is there more than the softmax over candidates, whose scores alone decide what is left out? */
static bool is_directed(const lk_job *job)
{
    const options *o = job->options;
    return directions_of(job) != 1u << QUERY_TO_DOC || o->hardness > 0 || !isnan(o->self_margin) ||
           lk_has(job, GUIDE_ANCHORS);
}

static double temperature_of(const lk_job *job)
{
    const options *o = job->options;
    return learned_number(job, TEMPERATURE, o->temperature);
}

static bool allowed(const lk_job *job, int64_t i, int64_t j)
{
    const lk_tensor *m = &job->in[CANDIDATE_MASK];
    return !m->data || lk_int(m, i * job->size['M' - 'A'] + j) != 0;
}

static void exclude(const lk_job *job, int64_t i, int64_t j, int64_t count, real *s)
{
    for (int64_t k = 0; k < count; k++)
        if (!allowed(job, i, j + k))
            s[k] = -(real)INFINITY;
}

static void layout_directed(const lk_job *job, plan *p)
{
    const options *o = job->options;
    const int64_t b = job->in[ANCHORS].shape[0];
    p->d = (directed){.directions = directions_of(job),
                      .partition = o->partition,
                      .hardness_set = o->hardness_set,
                      .hardness = o->hardness,
                      .smoothing = o->label_smoothing,
                      .self_margin = o->self_margin,
                      .guide_margin = o->guide_margin,
                      .relative = o->guide_margin_mode == RELATIVE,
                      .mask = lk_has(job, CANDIDATE_MASK) ? CANDIDATE_MASK : -1,
                      .group = lk_has(job, GROUP) ? GROUP : -1,
                      .guided = lk_has(job, GUIDE_ANCHORS),
                      .moments = job->grad[TEMPERATURE].data != NULL,
                      .kept = table_wants_gradient(job),
                      .anchors = b,
                      .candidates = job->in[CANDIDATES].shape[0],
                      .block_rows = job->block_rows > 0 ? job->block_rows : 1};
    p->d.blocks = (b + p->d.block_rows - 1) / p->d.block_rows;
    p->d.model.anchors = p->t.rows;
    p->d.model.candidates = p->t.columns;
    if (p->d.guided) {
        p->d.guide.anchors = pair_units_take(job, &p->bytes, GUIDE_ANCHORS, o->cos_eps);
        p->d.guide.candidates = pair_units_take(job, &p->bytes, GUIDE_CANDIDATES, o->cos_eps);
    }
    directed_take(job, &p->bytes, &p->d);
}

/* What the shapes decide: there may be no data yet. */
static plan layout_of(const lk_job *job)
{
    const options *o = job->options;
    const double eps = o->normalize ? o->cos_eps : (double)INFINITY;
    plan p = {.bytes = 0};
    p.t.rows = p.mirror.columns = pair_units_take(job, &p.bytes, ANCHORS, eps);
    p.t.columns = p.mirror.rows = pair_units_take(job, &p.bytes, CANDIDATES, eps);
    if (is_directed(job)) {
        layout_directed(job, &p);
        return p;
    }
    p.t.mend = job->in[CANDIDATE_MASK].data ? exclude : NULL;
    table_take(job, &p.bytes, &p.t);
    if (!o->symmetric)
        return p;
    /* Only its slopes are kept: a pass reads the scores of either from the first table. */
    p.mirror.first = p.t.first;
    p.mirror.span = p.t.span;
    p.mirror.padded = padded_lanes(p.t.rows.rows);
    if (table_wants_gradient(job))
        p.mirror.by_row = p.t.by_column = table_slopes_take(job, &p.bytes, p.t.columns.rows);
    return p;
}

static plan plan_of(const lk_job *job)
{
    plan p = layout_of(job);
    /* Products of h are multiplied by this to become scores. */
    p.t.scale = p.mirror.scale =
        pair_lack(&p.t.rows) / temperature_of(job) * pair_lack(&p.t.columns);
    p.t.power = table_power(job, GRAD_OUTPUT);
    p.d.lack_a = pair_lack(&p.t.rows);
    p.d.lack_c = pair_lack(&p.t.columns);
    p.d.temperature = temperature_of(job);
    return p;
}

static size_t state(const lk_job *job)
{
    return layout_of(job).bytes;
}

static size_t scratch_size(const lk_job *job)
{
    const options *o = job->options;
    const plan p = layout_of(job);
    if (is_directed(job))
        return directed_scratch(&p.d);
    const size_t one = table_scratch(job, &p.t);
    const size_t other = o->symmetric ? table_scratch(job, &p.mirror) : 0;
    return one > other ? one : other;
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    const plan p = layout_of(job);
    const bool column = pass && pass->input == CANDIDATES;
    return table_cost(&p.t, column ? p.t.rows.rows : p.t.columns.rows);
}

/* With symmetric, nothing that gives directions otherwise. */
static lk_status check_symmetric(const lk_job *job, lk_error *error)
{
    static const char *const others[] = {"directions",   "partition",    "hardness",
                                         "hardness_set", "guide_margin", "guide_margin_mode",
                                         "self_margin"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (lk_given(job, others[i]))
            return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1, "symmetric excludes %s",
                           others[i]);
    for (int i = GROUP; i <= GUIDE_CANDIDATES; i++)
        if (lk_has(job, i))
            return lk_fail(job, error, LK_OPTION_CONFLICT, i, -1, "symmetric excludes %s",
                           job->loss->is->inputs[i].name);
    return LK_OK;
}

static lk_status check_directions(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const unsigned set = directions_of(job), first = 1u << QUERY_TO_DOC;
    if (lk_has(job, GUIDE_ANCHORS) != lk_has(job, GUIDE_CANDIDATES)) {
        const int missing = lk_has(job, GUIDE_ANCHORS) ? GUIDE_CANDIDATES : GUIDE_ANCHORS;
        return lk_fail(job, error, LK_MISSING_INPUT, missing, -1,
                       "%s is missing; a guide has guide_anchors and guide_candidates",
                       job->loss->is->inputs[missing].name);
    }
    if (lk_has(job, POSITIVE_INDEX) && !lk_has(job, GROUP) &&
        (set >> DOC_TO_DOC & 1 || o->hardness > 0))
        return lk_fail(job, error, LK_MISSING_INPUT, GROUP, -1,
                       "group is missing; with positive_index, %s needs it: the anchor that each "
                       "candidate belongs to",
                       o->hardness > 0 ? "hardness" : "doc_to_doc");
    if (o->symmetric)
        return check_symmetric(job, error);
    if (!(set & first))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "directions lacks query_to_doc, which is always one of them");
    if (o->partition == PER_DIRECTION && (set & ~(first | 1u << DOC_TO_QUERY)))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "partition=per_direction is for query_to_doc and doc_to_query only");
    if (o->label_smoothing > 0 && (set != first || o->hardness > 0))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "label_smoothing is for directions=query_to_doc without hardness only");
    return LK_OK;
}

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const lk_status directions = check_directions(job, error);
    if (directions == LK_MISSING_INPUT) /* the sizes may not be known yet */
        return directions;
    const int64_t b = job->size['B' - 'A'], m = job->size['M' - 'A'];
    if (m < b)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, CANDIDATES, -1,
                       "candidates has %lld rows; it must have at least as many as anchors, %lld",
                       (long long)m, (long long)b);
    if (job->size['D' - 'A'] == 0 && m > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, CANDIDATES, -1,
                       "candidates has vectors without components; D must be at least 1");
    lk_status status = table_check_memory(job, b, m, error);
    if (status != LK_OK)
        return status;
    if (o->symmetric && m != b)
        return lk_fail(job, error, LK_OPTION_CONFLICT, CANDIDATES, -1,
                       "symmetric needs as many candidates as anchors: %lld, not %lld",
                       (long long)b, (long long)m);
    if (o->symmetric && (lk_has(job, POSITIVE_INDEX) || lk_has(job, CANDIDATE_MASK)))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "symmetric excludes positive_index and candidate_mask");
    return check_directions(job, error);
}

static int64_t positive_of(const lk_job *job, int64_t i)
{
    return lk_candidates_positive(job, POSITIVE_INDEX, i);
}

/* Groups, which the anchors' positives must agree with. */
static lk_status check_groups(const lk_job *job, lk_error *error)
{
    const int64_t b = job->size['B' - 'A'], m = job->size['M' - 'A'];
    const lk_tensor *group = &job->in[GROUP];
    char place[LK_PLACE_MAX];
    for (int64_t j = 0; group->data && j < m; j++)
        if (lk_int(group, j) < 0 || lk_int(group, j) >= b)
            return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, GROUP, j,
                           "%s is %lld; with %lld anchors it must be in [0, %lld]",
                           lk_place(job, GROUP, j, place), (long long)lk_int(group, j),
                           (long long)b, (long long)b - 1);
    for (int64_t i = 0; group->data && i < job->rows; i++) {
        const int64_t y = positive_of(job, i);
        if (lk_int(group, y) != i)
            return lk_fail(job, error, LK_OPTION_CONFLICT, GROUP, y,
                           "%s is %lld, but that candidate is the positive of anchor %lld",
                           lk_place(job, GROUP, y, place), (long long)lk_int(group, y),
                           (long long)i);
    }
    return LK_OK;
}

/* The positives, then the temperature. */
static lk_status check_numbers(const lk_job *job, lk_error *error)
{
    const lk_status status =
        lk_candidates_check(job, POSITIVE_INDEX, job->size['M' - 'A'], "candidates", error);
    if (status != LK_OK)
        return status;
    if (temperature_of(job) <= 0)
        return lk_fail(job, error, LK_VALUE_OUT_OF_RANGE, TEMPERATURE, 0,
                       "temperature is %g; it must be greater than 0", temperature_of(job));
    return check_groups(job, error);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const plan p = layout_of(job);
    const int64_t m = job->size['M' - 'A'];
    char place[LK_PLACE_MAX];
    lk_status status;
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t y = positive_of(job, i);
        if (y >= 0 && y < m && !allowed(job, i, y))
            return lk_fail(job, error, LK_OPTION_CONFLICT, CANDIDATE_MASK, i * m + y,
                           "%s is 0, but that candidate is the positive of the anchor",
                           lk_place(job, CANDIDATE_MASK, i * m + y, place));
    }
    if ((status = check_numbers(job, error)) != LK_OK)
        return status;
    for (int64_t i = 0; i < job->rows; i++) {
        if (is_directed(job)) {
            p.d.anchor_at[i].key = positive_of(job, i);
        } else {
            p.t.first[i] = positive_of(job, i);
            p.t.span[i] = 1;
        }
    }
    if (is_directed(job))
        directed_order(&p.d);
    if ((status = pair_units_fill(job, &p.t.rows, ANCHORS, p.d.anchor_at, error)) != LK_OK ||
        (status = pair_units_fill(job, &p.t.columns, CANDIDATES, p.d.candidate_at, error)) != LK_OK)
        return status;
    if (pair_refuses(job) && !isfinite(temperature_of(job)))
        return pair_fail_nonfinite(job, TEMPERATURE, 0, error);
    if (is_directed(job)) {
        const plan filled = plan_of(job); /* which the vectors, filled by now, have a part in */
        const directed *d = &filled.d;
        if (d->guided) {
            directed_units(&d->guide.anchors, job->in[GUIDE_ANCHORS].data, d->anchor_at);
            directed_units(&d->guide.candidates, job->in[GUIDE_CANDIDATES].data, d->candidate_at);
        }
        directed_prepare(d);
    }
    return pair_prepare(job, error);
}

static double allowed_of(const lk_job *job, int64_t i)
{
    const int64_t m = job->size['M' - 'A'];
    int64_t n = m;
    for (int64_t j = 0; job->in[CANDIDATE_MASK].data && j < m; j++)
        n -= !allowed(job, i, j);
    return (double)n;
}

/* The losses of `count` rows of a table, a share of which is added to `loss`. */
static void visit(const lk_job *job, const pair_table *t, int64_t i, int64_t count, lk_block *block,
                  void *scratch, double *loss)
{
    const options *o = job->options;
    const double share = o->symmetric ? 0.5 : 1, eps = o->label_smoothing;
    const int power = table_power(job, GRAD_OUTPUT);
    const real *s = table_scores(job, t, i, count, scratch);
    for (int64_t r = 0; r < count; r++) {
        const double weight = share * pair_weight(job, GRAD_OUTPUT, i + r);
        const table_target target = {.positives = 1,
                                     .eps = eps,
                                     .allowed = eps > 0 ? allowed_of(job, i + r) : 1,
                                     .weight = ldexp(weight, -power)};
        loss[r] += share * table_softmax(t, i + r, s + r * t->padded, &target);
        if (job->grad[TEMPERATURE].data)
            block->sum[SLOPE_SCALE] += table_moment(t, i + r, s + r * t->padded);
    }
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const options *o = job->options;
    const plan p = plan_of(job);
    if (is_directed(job)) {
        for (int64_t i = first; i < first + count; i++)
            p.d.weight[i] = ldexp(pair_weight(job, GRAD_OUTPUT, p.d.anchor_at[i].at), -p.t.power);
        directed_rows(job, &p.d, first, count, scratch); /* finish has the values */
        return;
    }
    const int64_t group = table_group(&p.t);
    for (int64_t i = first, n; i < first + count; i += n) {
        double loss[TABLE_ROWS] = {0};
        n = first + count - i < group ? first + count - i : group;
        visit(job, &p.t, i, n, block, scratch, loss);
        if (o->symmetric) /* as many candidates as anchors */
            visit(job, &p.mirror, i, n, block, scratch, loss);
        for (int64_t r = 0; r < n; r++)
            pair_put(job, block, i + r, loss[r]);
    }
}

/* The gradients of vectors with several directions. */
static void back_directed(const lk_job *job, const plan *p, int input, int64_t first, int64_t count,
                          void *scratch)
{
    const pair_units *u = input == ANCHORS ? &p->t.rows : &p->t.columns;
    const pair_place *at = input == ANCHORS ? p->d.anchor_at : p->d.candidate_at;
    const double scale = ldexp(p->t.scale, p->t.power);
    elem *grad = job->grad[input].data;
    for (int64_t i = first, n; i < first + count; i += n) {
        n = first + count - i < DIRECTED_ROWS ? first + count - i : DIRECTED_ROWS;
        const real *by_h = input == ANCHORS ? directed_anchors(job, &p->d, i, n, scratch)
                                            : directed_candidates(job, &p->d, i, n, scratch);
        for (int64_t r = 0; r < n; r++)
            pair_unit_back(u, i + r, by_h + r * u->stride, scale, NULL,
                           grad + at[i + r].at * u->width);
    }
}

static void back_anchors(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    if (is_directed(job))
        back_directed(job, &p, ANCHORS, first, count, scratch);
    else
        table_back_rows(job, &p.t, ANCHORS, first, count, scratch);
}

static void back_candidates(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const plan p = plan_of(job);
    if (is_directed(job))
        back_directed(job, &p, CANDIDATES, first, count, scratch);
    else
        table_back_columns(job, &p.t, CANDIDATES, first, count, scratch);
}

/* Write the values, and return the sum of G s over all entries. */
static double finish_directed(const lk_job *job)
{
    const plan p = plan_of(job);
    double loss = 0, moment = 0;
    for (int64_t i = 0; i < job->rows; i++) {
        const directed_row r = directed_settle(&p.d, i);
        if (pair_per_row(job) && job->value.data)
            lk_put(&job->value, p.d.anchor_at[i].at, r.loss);
        loss += r.loss;
        moment += r.moment;
    }
    if (!pair_per_row(job) && job->value.data && job->scale[0] != 0)
        lk_put(&job->value, 0, isnan(loss) ? (double)NAN : loss * job->scale[0]);
    return moment;
}

static void finish(const lk_job *job, const double *sum)
{
    const double moment = is_directed(job) ? finish_directed(job) : sum[SLOPE_SCALE];
    const double slope =
        moment == 0 && isnan(temperature_of(job)) ? 0 : -moment / temperature_of(job);
    if (job->grad[TEMPERATURE].data)
        elements_fill(job->grad[TEMPERATURE].data, 1,
                      (real)ldexp(slope, table_power(job, GRAD_OUTPUT)));
}

static const char tex[] =
    "\\ell_i = -\\sum_j q_{ij}\\,\\log\\operatorname{softmax}(s_i)_j,\\quad s_{ij} = "
    "\\frac{\\cos(\\text{anchor}_i, \\text{candidate}_j)}{\\tau},\\quad q\\ \\text{one-hot at "
    "the positive, smoothed}";

LK_DESCRIBE(
    info_nce, .tex = tex, .title = "InfoNCE (multiple negatives ranking, CLIP)",
    .formula = "-sum_j q_ij log softmax(s_i)_j, s_ij = cos(anchor_i, candidate_j)/temperature, "
               "q one-hot at the positive, smoothed with label_smoothing",
    .help = "Picks each anchor's own candidate out of all of the batch. With symmetric=true "
            "each candidate picks its anchor too. directions adds other things to pick it out "
            "of, guides and self_margin leave out what is too similar to be wrong; with any of "
            "them the similarities are kept, a table of each kind and the guide's.",
    .reference = "van den Oord et al. 2018; Radford et al. 2021; sentence-transformers "
                 "MultipleNegativesRankingLoss (scale = 1/temperature), GISTEmbedLoss; Li et "
                 "al. 2023 (GTE); Solatorio 2024; Lan et al. 2025",
    .example = "{\"inputs\": {\"anchors\": [[1.0, 0.0], [1.0, 2.0]], "
               "\"candidates\": [[1.0, 1.0], [2.0, 1.0]]}, "
               "\"options\": {\"temperature\": 0.5}}",
    .traits = LK_NONNEGATIVE | LK_COUPLED, .loss_shape = "B", .inputs = inputs, .outputs = outputs,
    .options = fields);

LK_LOSS(info_nce) = {
    .is = &LK_IS(info_nce),
    .options_size = sizeof(options),
    .kind = &lk_prefixed,
    .parts = 1,
    .row_cost = row_cost,
    .least = table_least,
    .check = check,
    .state = state,
    .prepare = prepare,
    .scratch = scratch_size,
    .rows = rows,
    .passes = {{ANCHORS, back_anchors}, {CANDIDATES, back_candidates}},
    .finish = finish,
};
