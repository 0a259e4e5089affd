/* SPDX-License-Identifier: MIT
 *
 * Advantages of sampled answers by their rewards within a group, the answers to the same question.
 * A transform: prepare finds the groups and their statistics, a row is an answer.
 */
#include "ranks.h"
#include "rows/numbers.h"

enum { REWARDS, GROUP_IDS, MASK };
enum { ADVANTAGES, GROUP_MEAN, GROUP_STD };
enum { MEAN, LEAVE_ONE_OUT, NO_BASELINE }; /* baseline */
enum { BY_GROUP, BY_BATCH, UNSCALED };     /* scale */

typedef struct options {
    lk_reduce reduce;
    int64_t group_size, ddof;
    int baseline, scale;
    double eps;
} options;

static const lk_field fields[] = {
    LK_FIELD(options, group_size, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,
             "answers of a group, which follow each other; instead of group_ids"),
    LK_WORDS(options, baseline, "mean", "mean|leave_one_out|none",
             "what is subtracted: the mean of the group (GRPO), of its other answers (RLOO), or "
             "nothing"),
    LK_WORDS(options, scale, "group", "group|batch|none",
             "divided by the standard deviation of the group, of all rewards, or not (Dr. GRPO)"),
    LK_FIELD(options, ddof, "1", LK_RANGED, 0, 1,
             "the standard deviation divides by the number of rewards less this"),
    LK_FIELD(options, eps, "1e-4", LK_RANGED, 0, (double)INFINITY,
             "added to the standard deviation"),
    {0},
};

static const lk_input inputs[] = {
    [REWARDS] = {.name = "rewards", .forms = {{"N", LK_FLOATS}}, .help = "reward of each answer"},
    [GROUP_IDS] = {.name = "group_ids",
                   .forms = {{"N", LK_INTS}},
                   .flags = LK_OPTIONAL,
                   .help = "answers with the same number, whatever it is, are a group; or give "
                           "group_size"},
    [MASK] = {.name = "mask",
              .forms = {{"N", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "answers with 0 are ignored and not read; default all counted"},
    {0},
};

static const lk_output outputs[] = {
    [ADVANTAGES] = {.name = "advantages",
                    .shape = "N",
                    .dtype = LK_ANY,
                    .flags = LK_DEFAULT,
                    .help = "rewards less the baseline, scaled; 0 where ignored"},
    [GROUP_MEAN] = {.name = "group_mean",
                    .shape = "N",
                    .dtype = LK_ANY,
                    .flags = LK_DEFAULT,
                    .help = "mean reward of the answer's group; 0 where ignored"},
    [GROUP_STD] = {.name = "group_std",
                   .shape = "N",
                   .dtype = LK_ANY,
                   .flags = LK_DEFAULT,
                   .help = "their standard deviation; 0 where ignored"},
    {0},
};

static lk_status check(const lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const bool sized = o->group_size != LK_OFF_INTEGER;
    if (!lk_has(job, GROUP_IDS) && !sized)
        return lk_fail(job, error, LK_MISSING_INPUT, GROUP_IDS, -1,
                       "group_ids is missing; which answers are a group is told by it or by the "
                       "option group_size");
    if (!lk_has(job, GROUP_IDS) && o->group_size > 0 && job->rows % o->group_size != 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, REWARDS, -1,
                       "rewards has %lld elements; with group_size=%lld it must be a multiple of "
                       "that",
                       (long long)job->rows, (long long)o->group_size);
    if (lk_has(job, GROUP_IDS) && sized)
        return lk_fail(job, error, LK_OPTION_CONFLICT, GROUP_IDS, -1,
                       "group_ids and group_size exclude each other");
    return LK_OK;
}

/* A group: its statistics over the counted rewards. */
typedef struct group {
    double n, mean, std;
} group;

/* What prepare leaves: the group of each answer, the groups, and one of all answers. The answers
 * are sorted by group in `order` or `room`. */
typedef struct groups {
    lk_rank *order, *room;
    int64_t *of;
    group *each, *all;
} groups; /* one after another in job->state, the greatest alignment first */

static groups groups_of(const lk_job *job)
{
    groups g = {.order = job->state};
    g.room = g.order + job->rows;
    g.of = (int64_t *)(g.room + job->rows);
    g.each = (group *)(g.of + job->rows);
    g.all = g.each + job->rows;
    return g;
}

static size_t state_size(const lk_job *job)
{
    return (size_t)job->rows * (2 * sizeof(lk_rank) + sizeof(int64_t) + sizeof(group)) +
           sizeof(group);
}

static double reward(const lk_job *job, int64_t i)
{
    return numbers_constant(job, REWARDS, i, 0);
}

/* The statistics of n answers in that order. */
static group measure(const lk_job *job, const lk_rank *order, int64_t n)
{
    const options *o = job->options;
    group g = {0};
    double rounding = 0, squares = 0;
    for (int64_t k = 0; k < n; k++) {
        g.n += numbers_marked(job, MASK, order[k].at);
        g.mean += numbers_marked(job, MASK, order[k].at) ? reward(job, order[k].at) : 0;
    }
    g.mean /= g.n > 0 ? g.n : 1;
    for (int64_t k = 0; k < n; k++)
        rounding += numbers_marked(job, MASK, order[k].at) ? reward(job, order[k].at) - g.mean : 0;
    if (isfinite(
            rounding)) /* a second pass takes it out of the mean: of equal rewards it is these */
        g.mean += rounding / (g.n > 0 ? g.n : 1);
    for (int64_t k = 0; k < n; k++) {
        const double off =
            numbers_marked(job, MASK, order[k].at) ? reward(job, order[k].at) - g.mean : 0;
        squares += off * off;
    }
    g.std = g.n > (double)o->ddof ? sqrt(squares / (g.n - (double)o->ddof)) : 0;
    return g;
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    const options *o = job->options;
    const groups g = groups_of(job);
    const int64_t n = job->rows;
    (void)error;
    for (int64_t i = 0; i < n; i++) {
        g.order[i].at = i;
        g.order[i].key = (uint64_t)(job->in[GROUP_IDS].data ? lk_int(&job->in[GROUP_IDS], i)
                                                            : i / o->group_size);
    }
    *g.all = measure(job, g.order, n);
    const lk_rank *sorted = lk_ranks_sort(g.order, g.room, n);
    for (int64_t first = 0, end, k = 0; first < n; first = end, k++) {
        for (end = first; end < n && sorted[end].key == sorted[first].key; end++)
            g.of[sorted[end].at] = k;
        g.each[k] = measure(job, sorted + first, end - first);
    }
    return LK_OK;
}

static double advantage(const options *o, const group *own, const group *all, double r)
{
    const double above = o->baseline == NO_BASELINE ? r : r - own->mean;
    /* Above the mean of the others is more than above the mean of all by this. */
    const double more = o->baseline == LEAVE_ONE_OUT ? own->n / (own->n - 1) : 1;
    const double std = o->scale == BY_GROUP ? own->std : all->std;
    const double by = o->scale == UNSCALED ? 1 : std + o->eps;
    return above == 0 || by == 0 ? 0 : more * above / by;
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const groups g = groups_of(job);
    const group nothing = {0};
    (void)block;
    (void)scratch;
    for (int64_t i = first; i < first + count; i++) {
        const bool counts = numbers_marked(job, MASK, i);
        const group *own = counts ? &g.each[g.of[i]] : &nothing;
        numbers_put(job, ADVANTAGES, i,
                    counts ? advantage(job->options, own, g.all, reward(job, i)) : 0);
        numbers_put(job, GROUP_MEAN, i, own->mean);
        numbers_put(job, GROUP_STD, i, own->std);
    }
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)job;
    (void)pass;
    return 64; /* sorting */
}

static const char tex[] =
    "A_i = \\frac{r_i - b_i}{s_i + \\varepsilon},\\qquad b_i = \\bar r_{g(i)} \\text{ or } "
    "\\frac{n \\bar r_{g(i)} - r_i}{n - 1},\\quad s_i = \\text{standard deviation}";

LK_DESCRIBE(
    group_advantages, .tex = tex, .title = "Advantages of answers within their group (GRPO, RLOO)",
    .formula = "(rewards - base) / (std + eps); base: mean of the group, or of its other "
               "answers; std: of the group, or of all; scale=none: rewards - base",
    .help = "Advantages for policy_gradient: how much better an answer is than the others to "
            "the same question. An answer that is alone in its group has advantage 0.",
    .reference = "Shao et al. 2024; Ahmadian et al. 2024 (RLOO); Liu et al. 2025 (Dr. GRPO); "
                 "TRL grpo_trainer.py; verl core_algos.py",
    .example = "{\"inputs\": {\"rewards\": [1.0, 0, 0.5, 2.0, 2.0, 2.0]}, \"options\": "
               "{\"group_size\": 3}}",
    .traits = LK_TRANSFORM | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(group_advantages) = {
    .is = &LK_IS(group_advantages),
    .options_size = sizeof(options),
    .parts = 1,
    .rows_shape = "N",
    .row_cost = row_cost,
    .check = check,
    .state = state_size,
    .prepare = prepare,
    .rows = rows,
};
