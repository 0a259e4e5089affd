/* SPDX-License-Identifier: MIT
 *
 * Generalised advantage estimation: advantages and returns of sampled sequences, from the last
 * position of each to the first. A transform: a row is a sequence.
 */
#include "lengths.h"
#include "rows/numbers.h"

enum { REWARDS, VALUES, MASK, LENGTHS, OFFSETS, DONES, LAST_VALUES };
enum { ADVANTAGES, RETURNS };

typedef struct options {
    lk_reduce reduce;
    double gamma, lambda;
    bool whiten;
} options;

static const lk_field fields[] = {
    LK_FIELD(options, gamma, "1", LK_RANGED, 0, 1, "discount of what comes one position later"),
    LK_FIELD(options, lambda, "0.95", LK_RANGED, 0, 1,
             "0: the error of one step; 1: the sum of all that follow, with more variance"),
    LK_FIELD(options, whiten, "false", 0, 0, 0,
             "advantages less their mean, over their standard deviation; of all counted positions"),
    {0},
};

static const lk_input inputs[] = {
    [REWARDS] = {.name = "rewards",
                 .forms = {{"B T", LK_FLOATS}},
                 .help = "reward at each position"},
    [VALUES] = {.name = "values",
                .forms = {{"B T", LK_FLOATS}},
                .help = "what the value model predicts before each position"},
    [MASK] = {.name = "mask",
              .forms = {{"B T", LK_MASKS}},
              .flags = LK_OPTIONAL | LK_IGNORES,
              .help = "positions with 0 are skipped and not read; default all counted"},
    [LENGTHS] = {.name = "lengths",
                 .forms = {{"B", LK_INTS}},
                 .flags = LK_OPTIONAL,
                 .range = "[0,T]",
                 .help = "positions of each sequence; what follows is skipped; default T"},
    [OFFSETS] = LK_OFFSETS_INPUT,
    [DONES] = {.name = "dones",
               .forms = {{"B T", LK_MASKS}},
               .flags = LK_OPTIONAL,
               .help = "an episode ends with these positions: nothing later counts for them; "
                       "default none"},
    [LAST_VALUES] = {.name = "last_values",
                     .forms = {{"B", LK_FLOATS}},
                     .flags = LK_OPTIONAL,
                     .help = "the value after the last counted position of each sequence; default "
                             "0"},
    {0},
};

static const lk_output outputs[] = {
    [ADVANTAGES] = {.name = "advantages",
                    .shape = "B T",
                    .dtype = LK_ANY,
                    .flags = LK_DEFAULT,
                    .help = "discounted sum of the errors of the values; 0 where skipped"},
    [RETURNS] = {.name = "returns",
                 .shape = "B T",
                 .dtype = LK_ANY,
                 .flags = LK_DEFAULT,
                 .help = "advantages, before whiten, + values; 0 where skipped"},
    {0},
};

static lk_status check(const lk_job *job, lk_error *error)
{
    if (lk_has(job, OFFSETS) && lk_has(job, LENGTHS))
        return lk_fail(job, error, LK_OPTION_CONFLICT, LENGTHS, -1,
                       "lengths and offsets exclude each other: offsets tell the lengths");
    return LK_OK;
}

static int64_t positions(const lk_job *job)
{
    return job->offsets < 0 ? job->size['B' - 'A'] * job->size['T' - 'A'] : job->size['P' - 'A'];
}

/* With whiten: every advantage, until all are known. */
static size_t state_size(const lk_job *job)
{
    const options *o = job->options;
    return o->whiten && job->rows > 0 ? (size_t)positions(job) * sizeof(double) : 0;
}

/* One more than the last position of a sequence. */
static int64_t end_of(const lk_job *job, int64_t b)
{
    return job->in[LENGTHS].data ? lk_sequence(job, b) + lk_int(&job->in[LENGTHS], b)
                                 : lk_sequence(job, b + 1);
}

static lk_status prepare(lk_job *job, lk_error *error)
{
    return lk_check_lengths(job, LENGTHS, 0, job->size['T' - 'A'], error);
}

static void one_sequence(const lk_job *job, int64_t b)
{
    const options *o = job->options;
    double *kept = job->state;
    const int64_t end = end_of(job, b), first = lk_sequence(job, b);
    double value = numbers_constant(job, LAST_VALUES, b, 0), advantage = 0; /* of what follows */
    for (int64_t i = lk_sequence(job, b + 1); i-- > first;) {
        const bool counts = i < end && numbers_marked(job, MASK, i);
        double now = 0;
        if (counts) {
            if (job->in[DONES].data && lk_int(&job->in[DONES], i) != 0)
                value = advantage = 0;
            const double r = numbers_constant(job, REWARDS, i, 0);
            now = numbers_constant(job, VALUES, i, 0);
            advantage = r + o->gamma * value - now + o->gamma * o->lambda * advantage;
            value = now;
        }
        if (kept)
            kept[i] = counts ? advantage : 0;
        numbers_put(job, ADVANTAGES, i, counts ? advantage : 0);
        numbers_put(job, RETURNS, i, counts ? advantage + now : 0);
    }
}

static void rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    (void)block;
    (void)scratch;
    for (int64_t b = first; b < first + count; b++)
        one_sequence(job, b);
}

/* Sum of (advantage - centre)^power over the counted positions; their number is added to *n. */
static double moment(const lk_job *job, double centre, int power, int64_t *n)
{
    const double *kept = job->state;
    double sum = 0;
    *n = 0;
    for (int64_t b = 0; b < job->rows; b++) {
        for (int64_t i = lk_sequence(job, b); i < end_of(job, b); i++) {
            const double off = kept[i] - centre;
            if (!numbers_marked(job, MASK, i))
                continue;
            sum += power == 1 ? off : off * off;
            ++*n;
        }
    }
    return sum;
}

/* Whiten. */
static void finish(const lk_job *job, const double *sum)
{
    const options *o = job->options;
    const double *kept = job->state;
    int64_t n;
    (void)sum;
    if (!o->whiten || !kept || !job->out[ADVANTAGES].data)
        return;
    const double mean = moment(job, 0, 1, &n) / (double)n;
    const double var = n > 1 ? moment(job, mean, 2, &n) / (double)(n - 1) : 0;
    for (int64_t b = 0; b < job->rows; b++)
        for (int64_t i = lk_sequence(job, b); i < end_of(job, b); i++)
            if (numbers_marked(job, MASK, i))
                lk_put(&job->out[ADVANTAGES], i, n > 1 ? (kept[i] - mean) / sqrt(var + 1e-8) : 0);
}

static int64_t row_cost(const lk_job *job, const lk_pass *pass)
{
    (void)pass;
    return job->rows > 0 ? positions(job) / job->rows * 8 + 1 : 1;
}

static const char tex[] =
    "\\begin{aligned} \\delta_t &= r_t + \\gamma V_{t+1} - V_t \\\\ A_t &= \\delta_t + "
    "\\gamma\\lambda A_{t+1},\\qquad R_t = A_t + V_t \\end{aligned}";

LK_DESCRIBE(
    gae, .tex = tex, .title = "Generalised advantage estimation",
    .formula = "d_t = rewards_t + gamma values_(t+1) - values_t; advantages_t = d_t + gamma "
               "lambda advantages_(t+1); returns = advantages + values",
    .help = "For PPO: advantages go to policy_gradient, returns to value_clip. Positions that "
            "are not counted are skipped, so that what follows a counted position is the "
            "next counted one. Sequences are rows of [B,T], or packed with offsets.",
    .reference = "Schulman et al. 2016; verl core_algos.py compute_gae_advantage_return",
    .example = "{\"inputs\": {\"rewards\": [[0, 0, 1.0]], \"values\": [[0.5, 0.6, 0.7]]}, "
               "\"options\": {\"gamma\": 0.9, \"lambda\": 0.8}}",
    .traits = LK_TRANSFORM | LK_COUPLED, .inputs = inputs, .outputs = outputs, .options = fields);

LK_LOSS(gae) = {
    .is = &LK_IS(gae),
    .options_size = sizeof(options),
    .parts = 1,
    .rows_shape = "B",
    .row_cost = row_cost,
    .check = check,
    .state = state_size,
    .prepare = prepare,
    .rows = rows,
    .finish = finish,
};
