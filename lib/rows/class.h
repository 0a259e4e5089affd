/* SPDX-License-Identifier: MIT
 *
 * Losses whose rows are class scores against a class or a distribution: their inputs and outputs,
 * checks, the loop over rows and the diagnostics. A loss supplies its tables, a function that
 * returns the targets and weights of rows (class_targets_of), and a `prepare`. The arithmetic of
 * one row is in rows/class_row.h.
 */
#ifndef LK_CLASS_H
#define LK_CLASS_H

#include "rows/plain.h"

/* Each variant has its own copy, under its own names; defined in rows/class.c. */
#define classwise_check        LK_PASTE(LK_VARIANT, classwise_check)
#define classwise_no_class     LK_PASTE(LK_VARIANT, classwise_no_class)
#define classwise_total_weight LK_PASTE(LK_VARIANT, classwise_total_weight)
#define classwise_scratch      LK_PASTE(LK_VARIANT, classwise_scratch)
#define classwise_rows         LK_PASTE(LK_VARIANT, classwise_rows)
#define classwise_finish       LK_PASTE(LK_VARIANT, classwise_finish)
#define classwise_factors      LK_PASTE(LK_VARIANT, classwise_factors)
#define classwise_put          LK_PASTE(LK_VARIANT, classwise_put)
#define class_refuse           LK_PASTE(LK_VARIANT, class_refuse)
#define weighted_prepare       LK_PASTE(LK_VARIANT, weighted_prepare)
#define weighted_rows          LK_PASTE(LK_VARIANT, weighted_rows)

/* The first inputs of every such loss; the loss's own inputs follow. */
enum { LOGITS, TARGETS, MASK, GRAD_OUTPUT, CLASS_WEIGHT, CLASSWISE_INPUTS };
enum { INDEX, PROBABILITY }; /* forms of TARGETS */

/* The first outputs, and the sums that the blocks accumulate. */
enum {
    NLL,
    LSE,
    ENTROPY,
    PREDICTED,
    ACCURACY,
    COUNT,
    PERPLEXITY,
    Z_LOSS,
    DENOMINATOR,
    CLASSWISE_OUTPUTS
};
enum { MAIN, Z, SUM_NLL, SUM_RIGHT, CLASSWISE_SUMS };

/* The first member of such a loss's option struct. */
typedef struct classwise_options {
    lk_reduce reduce;
    class_options row;
    int64_t class_dim; /* 1: the classes of a row are not contiguous */
} classwise_options;

/* The row options as rows of a loss's table. */
#define CLASS_FIELD(member, fallback_, flags_, min_, max_, help_)                                  \
    {                                                                                              \
        .name = #member, .type = LK_TYPE_OF(((classwise_options *)0)->row.member),                 \
        .flags = (flags_), .offset = offsetof(classwise_options, row.member),                      \
        .fallback = (fallback_), .min = (min_), .max = (max_), .help = (help_)                     \
    }
#define CLASS_VOCAB_SIZE                                                                           \
    CLASS_FIELD(vocab_size, "off", LK_OFF | LK_RANGED, 1, (double)INFINITY,                        \
                "classes from this one on are padding: as if absent")
#define CLASS_IGNORE_INDEX                                                                         \
    CLASS_FIELD(ignore_index, "-100", 0, 0, 0,                                                     \
                "rows with this target are not read; index targets only")
#define CLASS_LABEL_SMOOTHING                                                                      \
    CLASS_FIELD(label_smoothing, "0", LK_RANGED, 0, 1,                                             \
                "probability mass taken from the target and spread over the classes")
#define CLASS_LOGIT_SCALE                                                                          \
    CLASS_FIELD(logit_scale, "1", LK_RANGED | LK_OPEN, 0, (double)INFINITY,                        \
                "the logits are multiplied with it: 1/temperature")
#define CLASS_SOFTCAP                                                                              \
    CLASS_FIELD(softcap, "off", LK_OFF | LK_RANGED | LK_OPEN, 0, (double)INFINITY,                 \
                "c*tanh(x/c) bounds the logits to (-c, c) before they are scaled")
#define CLASS_Z_LOSS                                                                               \
    CLASS_FIELD(z_loss, "0", LK_RANGED, 0, (double)INFINITY,                                       \
                "weight of the square of logsumexp, which keeps it near 0")
#define CLASS_FIELDS                                                                               \
    CLASS_VOCAB_SIZE, CLASS_IGNORE_INDEX, CLASS_LABEL_SMOOTHING,                                   \
        {.name = "smoothing_mode",                                                                 \
         .type = LK_CHOICE,                                                                        \
         .offset = offsetof(classwise_options, row.smoothing_mode),                                \
         .fallback = "uniform",                                                                    \
         .choices = "uniform|others",                                                              \
         .help = "spread it over all classes, or over all but the target"},                        \
        CLASS_LOGIT_SCALE, CLASS_SOFTCAP, CLASS_Z_LOSS,                                            \
        CLASS_FIELD(focal_gamma, "0", LK_RANGED, 0, (double)INFINITY,                              \
                    "rows count (1-p)^gamma: hard ones more; index targets, no smoothing"),        \
        CLASS_FIELD(poly1, "0", 0, 0, 0,                                                           \
                    "weight of 1-p, PolyLoss's first term; index targets, no smoothing"),          \
        CLASS_FIELD(target_scaling, "0", LK_RANGED | LK_HOLDS, 0, (double)INFINITY,                \
                    "rows count p^target_scaling of their target, a constant: sure ones more (1: " \
                    "dynamic fine-tuning); index targets, no smoothing, focal_gamma or poly1"),    \
        CLASS_FIELD(subtract_entropy, "false", 0, 0, 0,                                            \
                    "subtract the targets' entropy: KL(q||p) instead of the cross entropy")

#define CLASSWISE_CLASS_WEIGHT(letter)                                                             \
    {                                                                                              \
        .name = "class_weight", .forms = {{letter, LK_FLOATS}}, .flags = LK_OPTIONAL | LK_WEIGHTS, \
        .range = "finite", .help = "weight of each class; default ones"                            \
    }
#define CLASSWISE_MASK(shape)                                                                      \
    {                                                                                              \
        .name = "mask", .forms = {{shape, LK_MASKS}}, .flags = LK_OPTIONAL | LK_IGNORES,           \
        .help = "positions with 0 are ignored and not read; default all counted"                   \
    }
#define CLASSWISE_DIAGNOSTICS(shape)                                                               \
    [NLL] = LK_OUTPUT("nll", shape, LK_ANY,                                                        \
                      "-log p of the target, without weight or smoothing; index targets"),         \
    [LSE] = LK_OUTPUT("lse", shape, LK_ANY, "logsumexp of the scaled scores"),                     \
    [ENTROPY] = LK_OUTPUT("entropy", shape, LK_ANY, "entropy of softmax"),                         \
    [PREDICTED] =                                                                                  \
        LK_OUTPUT("predicted", shape, LK_I64, "the class of the highest score; -1 where ignored"), \
    [ACCURACY] = LK_OUTPUT("accuracy", "", LK_ANY,                                                 \
                           "share of counted rows whose predicted class is the target"),           \
    [COUNT] = LK_OUTPUT("count", "", LK_I64, "number of counted rows"),                            \
    [PERPLEXITY] = LK_OUTPUT("perplexity", "", LK_ANY, "exp of the mean nll of the counted rows"), \
    [Z_LOSS] = LK_OUTPUT("z_loss", "loss", LK_ANY, "the part of the loss that z_loss adds"),       \
    [DENOMINATOR] = LK_OUTPUT("denominator", "", LK_ANY, "what the mean divides by")

/* The target of a row, and the weights of the two parts of its loss before the reduction. */
typedef struct class_target {
    bool counts;
    int64_t y;  /* target class; -1: probability targets */
    int64_t up; /* index of the row's element of grad_output */
    double main, z;
} class_target;

/* The targets of some rows. The weights are 0 where a row does not count. */
enum { CLASS_GROUP = 64 };
typedef struct class_targets {
    _Alignas(LK_LINE) int64_t counts[CLASS_GROUP]; /* 0 or -1 */
    int64_t y[CLASS_GROUP], up[CLASS_GROUP];       /* up: where there is a grad_output */
    double main[CLASS_GROUP], z[CLASS_GROUP];
} class_targets;

LK_INLINE void class_put_target(class_targets *to, int k, class_target t)
{
    to->counts[k] = t.counts ? -1 : 0;
    to->y[k] = t.y;
    to->up[k] = t.up;
    to->main[k] = t.counts ? t.main : 0;
    to->z[k] = t.counts ? t.z : 0;
}

/* Has a class other than y a weight? */
LK_INLINE bool class_others_weigh(const class_plan *p, int64_t y)
{
    real w = 0;
    for (int64_t k = 0; w == 0 && k < p->classes; k++)
        if (k != y)
            memcpy(&w, p->weight + k, sizeof w);
    return w != 0;
}

/* The weight of the main part of a row: 0 if the class weights of all its terms are, whatever the
 * row holds. Of a row of probabilities, which are yet to be read, class_totals tells the same. */
LK_INLINE double class_main(const class_plan *p, int64_t y, double main)
{
    real w = 1;
    if (p->weight && p->off == 0 && y >= 0)
        memcpy(&w, p->weight + y, sizeof w);
    if (p->weight && p->on == 0 && y >= 0)
        w = class_others_weigh(p, y);
    return w == 0 || p->weightless ? 0 : main;
}

/* Fills in the targets of rows first..first+count-1; `count` is at most CLASS_GROUP. */
typedef void (*class_targets_of)(const lk_job *job, int64_t first, int count, class_targets *to);

LK_INLINE int64_t classwise_classes(const lk_job *job)
{
    const classwise_options *o = job->options;
    return o->row.vocab_size > 0 ? o->row.vocab_size : job->size['C' - 'A'];
}

/* Element i of an input that was converted to reals, or 1 where it was not given. */
LK_INLINE double real_or_one(const lk_job *job, int input, int64_t i)
{
    real x = 1;
    if (job->in[input].data)
        memcpy(&x, (const char *)job->in[input].data + i * (int64_t)sizeof x, sizeof x);
    return (double)x;
}

LK_INLINE void put_row(const lk_job *job, int output, int64_t i, double x)
{
    if (job->out[output].data)
        lk_put(&job->out[output], i, x);
}

/* Store the two parts of a row's loss, where they are wanted. */
LK_INLINE void put_parts(const lk_job *job, double *value, int64_t i, double main, double z)
{
    const classwise_options *o = job->options;
    if (value) {
        value[2 * i] = main;
        value[2 * i + 1] = z;
    }
    if (o->reduce.reduction != LK_NONE)
        return;
    if (job->value.data)
        lk_put(&job->value, i, main + z);
    put_row(job, Z_LOSS, i, z);
}

/* Does position `i` of mask and targets, where there are any, count, or is it ignored? */
LK_INLINE bool classwise_counts(const lk_job *job, int64_t i)
{
    const classwise_options *o = job->options;
    if (job->in[MASK].data && lk_int(&job->in[MASK], i) == 0)
        return false;
    return !job->in[TARGETS].data || job->form[TARGETS] == PROBABILITY ||
           lk_int(&job->in[TARGETS], i) != o->row.ignore_index;
}

LK_DRIVER lk_status classwise_check(const lk_job *job, lk_error *error);

/* The error for element i of an input, which is not a valid class. */
LK_DRIVER lk_status classwise_no_class(const lk_job *job, int input, int64_t i, lk_error *error);

/* Check that element i of an input, which is not ignored, is a valid class. */
LK_INLINE lk_status classwise_check_target(const lk_job *job, int input, int64_t i, lk_error *error)
{
    const int64_t y = lk_int(&job->in[input], i);
    return y >= 0 && y < classwise_classes(job) ? LK_OK : classwise_no_class(job, input, i, error);
}

LK_DRIVER void classwise_total_weight(lk_job *job);

/* Does a row of an input have a NaN or +inf among its classes? If so, the first one is noted in the
 * block as a bad value. */
LK_DRIVER bool class_refuse(const class_plan *p, int input, int64_t row, const elem *x,
                            lk_block *block);

LK_DRIVER size_t classwise_scratch(const lk_job *job);

/* `value`: where the main and z parts of each row are stored; NULL: they are not. */
LK_DRIVER void classwise_rows(const lk_job *job, class_targets_of targets_of, double *value,
                              int64_t first, int64_t count, lk_block *block, void *scratch);

LK_DRIVER void classwise_finish(const lk_job *job, const double *sum);

/* Set the factors of the gradients. One of a whole call may be beyond the range of reals. */
LK_DRIVER void classwise_factors(const lk_job *job, class_plan *p);

/* Store the results of row i, and add them to the sums of its block. `value` as in classwise_rows.
 */
LK_DRIVER void classwise_put(const lk_job *job, int64_t i, double main_weight, double z_weight,
                             const class_row *row, double *value, lk_block *block);

/* Losses with an optional weight for each row: cross_entropy and masked_lm. */

enum { SAMPLE_WEIGHT = CLASSWISE_INPUTS };

LK_DRIVER lk_status weighted_prepare(lk_job *job, lk_error *error);

LK_DRIVER void weighted_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                             void *scratch);

#endif
