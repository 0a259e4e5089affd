/* SPDX-License-Identifier: MIT
 *
 * What a loss is: a description, and kernels compiled once per variant (ISA, element type). A loss
 * file in lib/losses/ includes this header and the vector headers, and exports one constant.
 *
 * The row rule: a row may read anything and writes only its own value; a gradient row may read
 * anything and writes only its own gradient row. So blocks of rows need no locks, any thread may
 * run any block, and the bits of a result depend on nothing but inputs, options and the variant.
 */
#ifndef LK_LOSS_H
#define LK_LOSS_H

#include <losskit.h>
#include <math.h>
#include <string.h>

#include "vector/double.h"

enum {
    LK_MAX_INPUTS = 16,
    LK_MAX_OUTPUTS = 24, /* diagnostics */
    LK_MAX_PARTS = 2,    /* parts of a loss with separate denominators */
    LK_MAX_SUMS = 8,     /* the parts, then the sums for diagnostics */
    LK_MAX_PASSES = 3,   /* besides the rows */
    LK_LIST_MAX = 64,
};

/* A function of a driver that is compiled separately (in lib/rows/), once for each variant. Its
 * header renames it to LK_PASTE(LK_VARIANT, name), so that each variant calls its own. Not exported
 * by the library. */
#define LK_DRIVER __attribute__((visibility("hidden")))

/* A static function in a driver header, which some losses that include it do not call. */
#define LK_STATIC static __attribute__((unused))

/* The sums of one block, and the first bad value in it: one that makes the call fail. */
typedef struct lk_block {
    double sum[LK_MAX_SUMS];
    lk_status bad; /* LK_OK: none */
    int bad_input;
    int64_t bad_index; /* flat */
    double bad_value; /* set with LK_VALUE_OUT_OF_RANGE, because the input may have been overwritten
                         in place */
} lk_block;

/* Record a bad value. Of several in a block, the first by (input, index) is kept. */
static inline void lk_refuse(lk_block *block, lk_status status, int input, int64_t index,
                             double value)
{
    if (block->bad != LK_OK &&
        (block->bad_input < input || (block->bad_input == input && block->bad_index <= index)))
        return;
    block->bad = status;
    block->bad_input = input;
    block->bad_index = index;
    block->bad_value = value;
}

/* What an option holds that is off: an integer this, the lowest there is; a real NaN. */
#define LK_OFF_INTEGER INT64_MIN

/* The value of an option of type LK_LIST, and of type LK_CHOICES: the words' numbers. */
typedef struct lk_list {
    int64_t count;
    int64_t value[LK_LIST_MAX];
} lk_list;

/* The value of an option of type LK_REALS. */
typedef struct lk_reals {
    int64_t count;
    double value[LK_LIST_MAX];
} lk_reals;

/* The first member of every option struct, even if the loss does not offer all of it as options. */
typedef struct lk_reduce {
    int reduction;
    int empty_mean;
    int nonfinite;
    double num_items; /* NaN: off */
} lk_reduce;

enum { LK_NONE, LK_SUM, LK_MEAN };          /* lk_reduce.reduction */
enum { LK_EMPTY_ZERO, LK_EMPTY_NAN };       /* lk_reduce.empty_mean */
enum { LK_PROPAGATE, LK_REFUSE_NONFINITE }; /* lk_reduce.nonfinite */

/* A planned call as the kernels see it: read-only while blocks run. */
typedef struct lk_job {
    const lk_loss *loss;
    const void *options;
    uint64_t options_given; /* a bit for each field of the table; see lk_given */
    /* data is NULL for inputs that were not given, and for gradients and diagnostics that were not
     * requested. Float inputs that are not differentiable are converted to the computing type; see
     * lk_loss.reals too. */
    lk_tensor in[LK_MAX_INPUTS];
    lk_tensor grad[LK_MAX_INPUTS];
    lk_tensor out[LK_MAX_OUTPUTS];
    lk_tensor value; /* `loss` */
    int form[LK_MAX_INPUTS];
    uint32_t given;       /* a bit for each input; known before check, when there is no data yet */
    uint32_t grad_wanted; /* a bit for each input whose gradient is wanted; likewise */
    uint32_t out_wanted;  /* a bit for each diagnostic; likewise */
    int offsets;          /* the input with LK_OFFSETS; -1: none was given */

    int lead_rank; /* the sizes that `*` stands for */
    int64_t lead[LK_MAX_RANK];
    int64_t size[26]; /* by letter, 'A' first */

    int64_t rows;
    int64_t block_rows;

    /* Set by prepare. A denominator that it does not set is 1. */
    int64_t counted;
    double denominator[LK_MAX_PARTS];
    double total_weight; /* sum of the class weights */
    bool weightless;     /* all class weights are 0 */
    void *state;         /* private to the loss, for the lifetime of the call; see lk_loss.state */
    void *kept; /* see lk_loss.kept; NULL unless the gradients are computed after the values */

    /* The factor of a row's value, for each part: 1/denominator with a mean or where the loss has
     * no reduction option, else 1. 0 where the denominator is 0: the empty mean, whose gradients
     * are 0. */
    double scale[LK_MAX_PARTS];
} lk_job;

/* A gradient that depends on all rows of the loss: a separate pass, over the first axis of the
 * input, which runs after all rows of the loss. Skipped if the gradient is not requested. Or what
 * rows have in common: see lk_loss.ahead. */
typedef struct lk_pass {
    int input;
    void (*rows)(const lk_job *job, int64_t first, int64_t count, void *scratch);
} lk_pass;

struct lk_loss {
    const lk_description *is;
    size_t options_size;

    /* What evaluates it. NULL: a single evaluation (lib/single.c), with the members below. */
    const struct lk_kind *kind;

    int parts;

    /* The shape whose product is the number of rows. NULL: is->loss_shape, or a single row. */
    const char *rows_shape;

    /* The cost of a row of the loss (pass NULL) or of a pass, in elements processed; it determines
     * how many rows make a block. NULL: the elements of the row in the primary input, or in the
     * pass's input. */
    int64_t (*row_cost)(const lk_job *job, const lk_pass *pass);

    /* How many rows a block has at least, whatever they cost: a run of fewer would mostly do what
     * it does for any number of rows. NULL: one. */
    int64_t (*least)(const lk_job *job, const lk_pass *pass);

    /* Rows that are less than an element's work: how many parts of one their cost is counted in,
     * and how many a block has at least. 0: one. */
    int light;

    /* Are integers in inputs that may hold floats converted as floats are? */
    bool reals;

    /* Does prepare refuse weights (inputs with LK_WEIGHTS) that are not finite, because it reads
     * them anyway? */
    bool checks_weights;

    /* Checks that tables cannot express and that need no data: options that exclude each other,
     * outputs that a form of an input does not have. May be NULL. Faults are looked for in the
     * order of lk_status_order. Called first with all sizes 0, for what is missing, then with the
     * sizes; options may be outside their ranges. */
    lk_status (*check)(const lk_job *job, lk_error *error);

    /* Is the gradient of that input, which has LK_GRADIENT, among the default outputs of this call?
     * NULL: always. */
    bool (*default_gradient)(const lk_job *job, int input);

    /* Is a diagnostic, or `loss` (-1), among the default outputs of this call? NULL: `loss` is, and
     * diagnostics with LK_DEFAULT. */
    bool (*default_output)(const lk_job *job, int output);

    /* Bytes of job->state, which is zeroed before prepare. NULL: none. */
    size_t (*state)(const lk_job *job);

    /* Bytes of job->kept: what the passes of the values leave to those of the gradients, if these
     * are deferred (lk_call_defer). Any alignment that malloc gives. NULL: none. */
    size_t (*kept)(const lk_job *job);

    /* Called once per call, when the data is there (once more before deferred gradients): checks
     * targets and lengths, and sets the members of lk_job that are "set by prepare". */
    lk_status (*prepare)(lk_job *job, lk_error *error);

    /* Bytes of scratch that one run needs. NULL: none. */
    size_t (*scratch)(const lk_job *job);

    /* Values and, where asked, gradients of rows first..first+count-1, in one visit. If `loss` has
     * more than one element, the rows (or finish) write it; otherwise they add to
     * block->sum[part]. */
    void (*rows)(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch);

    /* If true, `rows` is called once for all blocks of a run instead of once for each: `first` is
     * the first row of the first block, `block` points to that one, and the others follow. */
    bool whole_runs;

    /* Runs before the rows, whether or not the gradient of its input is requested. NULL: nothing.
     */
    lk_pass ahead;

    /* Ends with an entry whose `rows` is NULL. */
    lk_pass passes[LK_MAX_PASSES + 1];

    /* Last, after all passes: what is made of the sums over all blocks. Diagnostics, gradients of
     * single numbers, or the loss itself. NULL: nothing. */
    void (*finish)(const lk_job *job, const double *sum);

    /* What the loss tells its driver. */
    const void *driver;
};

#define LK_PASTE_(variant, name) lk_##variant##_##name
#define LK_PASTE(variant, name)  LK_PASTE_(variant, name)

/* LK_DESCRIBE(name, .title = ..., ...) is the description of a loss, which all variants share: it
 * is compiled into one, the only one that every loss has, and merely checked in the others. Their
 * tables, which nothing else names, are left out with it. */
#define LK_IS(name) lk_is_##name
#if defined(LK_DESCRIBES)
#define LK_DESCRIBE(name_, ...)                                                                    \
    LK_DRIVER extern const lk_description LK_IS(name_);                                            \
    const lk_description LK_IS(name_) = {.name = #name_, __VA_ARGS__}
#else
#define LK_DESCRIBE(name_, ...)                                                                    \
    LK_STATIC const lk_description *checked_description(void)                                      \
    {                                                                                              \
        static const lk_description is = {.name = #name_, __VA_ARGS__};                            \
        return &is;                                                                                \
    }                                                                                              \
    LK_DRIVER extern const lk_description LK_IS(name_)
#endif

/* LK_LOSS(name) = {...} defines the loss of this variant, the only symbol that its file exports
 * but for the description. */
#define LK_LOSS(name)                                                                              \
    extern const lk_loss LK_PASTE(LK_VARIANT, name);                                               \
    const lk_loss LK_PASTE(LK_VARIANT, name)

/* An option. Its type and offset are derived from the struct's member, so a table cannot get them
 * wrong. LK_FIELD(struct, member, default, flags, min, max, help); choices are LK_WORDS(struct,
 * member, ...). */
#define LK_TYPE_OF(member)                                                                         \
    _Generic((member), double                                                                      \
             : LK_REAL, int64_t                                                                    \
             : LK_INTEGER, uint64_t                                                                \
             : LK_UNSIGNED, bool                                                                   \
             : LK_FLAG, lk_list                                                                    \
             : LK_LIST, lk_reals                                                                   \
             : LK_REALS)
#define LK_FIELD(st, member, fallback_, flags_, min_, max_, help_)                                 \
    {                                                                                              \
        .name = #member, .type = LK_TYPE_OF(((st *)0)->member), .flags = (flags_),                 \
        .offset = offsetof(st, member), .fallback = (fallback_), .min = (min_), .max = (max_),     \
        .help = (help_)                                                                            \
    }
#define LK_WORDS(st, member, fallback_, choices_, help_)                                           \
    {                                                                                              \
        .name = #member, .type = LK_CHOICE, .offset = offsetof(st, member),                        \
        .fallback = (fallback_), .choices = (choices_), .help = (help_)                            \
    }

#define LK_SEVERAL(st, member, fallback_, choices_, help_)                                         \
    {                                                                                              \
        .name = #member, .type = LK_CHOICES, .offset = offsetof(st, member),                       \
        .fallback = (fallback_), .choices = (choices_), .help = (help_)                            \
    }

/* The options of lk_reduce, for the top of a loss's table. A loss with other reductions writes the
 * first entry itself. */
#define LK_REDUCTION_FIELD(st, fallback_, choices_, help_)                                         \
    {                                                                                              \
        .name = "reduction", .type = LK_CHOICE, .offset = offsetof(st, reduce.reduction),          \
        .fallback = (fallback_), .choices = (choices_), .help = (help_)                            \
    }
#define LK_EMPTY_MEAN_FIELD(st)                                                                    \
    {                                                                                              \
        .name = "empty_mean", .type = LK_CHOICE, .offset = offsetof(st, reduce.empty_mean),        \
        .fallback = "zero", .choices = "zero|nan",                                                 \
        .help = "the mean of no rows, or of rows whose weights are all 0"                          \
    }
#define LK_NONFINITE_FIELD(st)                                                                     \
    {                                                                                              \
        .name = "nonfinite", .type = LK_CHOICE, .offset = offsetof(st, reduce.nonfinite),          \
        .fallback = "propagate", .choices = "propagate|error",                                     \
        .help = "refuse the request at the first NaN or +inf in a counted row, or compute with it" \
    }
#define LK_NUM_ITEMS_FIELD(st)                                                                     \
    {                                                                                              \
        .name = "num_items", .type = LK_REAL, .flags = LK_OFF | LK_RANGED, .min = 0,               \
        .max = (double)INFINITY, .offset = offsetof(st, reduce.num_items), .fallback = "off",      \
        .help = "replaces every denominator of the mean, so that the losses of micro-batches add " \
                "up; 0: the empty mean"                                                            \
    }
#define LK_REDUCE_FIELDS(st)                                                                       \
    LK_REDUCTION_FIELD(st, "mean", "none|sum|mean", "one loss per row, their sum, or their mean"), \
        LK_NUM_ITEMS_FIELD(st), LK_EMPTY_MEAN_FIELD(st), LK_NONFINITE_FIELD(st)

/* A diagnostic. */
#define LK_OUTPUT(name_, shape_, dtype_, help_)                                                    \
    {                                                                                              \
        .name = (name_), .shape = (shape_), .dtype = (dtype_), .help = (help_)                     \
    }

/* The input that every loss takes. */
#define LK_GRAD_OUTPUT                                                                             \
    {                                                                                              \
        .name = "grad_output", .forms = {{"loss", LK_FLOATS}}, .flags = LK_OPTIONAL,               \
        .help = "upstream gradient: gradients are those of sum(grad_output * loss); default ones"  \
    }

/* log(1 + e^x); -log sigmoid(x) is softplus(-x). */
static inline double lk_softplus(double x)
{
    return (x > 0 ? x : 0) + lk_log1p(lk_exp(-fabs(x)));
}

/* Element i of an integer input, or of a mask (0: false). Most are i64, of which there is one a
 * row: they are told first, and without a jump. */
static inline int64_t lk_int(const lk_tensor *t, int64_t i)
{
    const char *data = t->data;
    int64_t wide;
    int32_t narrow;
    if (__builtin_expect(t->dtype == LK_I64, 1)) {
        memcpy(&wide, data + i * 8, sizeof wide);
        return wide;
    }
    switch (t->dtype) {
    case LK_I32:
        memcpy(&narrow, data + i * 4, sizeof narrow);
        return narrow;
    case LK_U8:
        return (unsigned char)data[i];
    default:
        return data[i] != 0;
    }
}

/* Sequences of positions: [B,T], or one after another, [P], where there are offsets. */

/* The first position of sequence b; of B: the number of positions. */
static inline int64_t lk_sequence(const lk_job *job, int64_t b)
{
    return job->offsets < 0 ? b * job->size['T' - 'A'] : lk_int(&job->in[job->offsets], b);
}

/* The sequence of position i. */
static inline int64_t lk_sequence_of(const lk_job *job, int64_t i)
{
    int64_t low = 0, high = job->size['B' - 'A'];
    if (job->offsets < 0)
        return i / job->size['T' - 'A'];
    while (high - low > 1) { /* the last one that begins at i or before: others there are empty */
        const int64_t middle = low + (high - low) / 2;
        if (lk_sequence(job, middle) <= i)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The input `offsets` of losses of such sequences. */
#define LK_OFFSETS_INPUT                                                                           \
    {                                                                                              \
        .name = "offsets", .forms = {{"B+1", LK_INTS}}, .flags = LK_OPTIONAL | LK_OFFSETS,         \
        .range = "[0,P], not decreasing",                                                          \
        .help = "packed sequences: what has [B,T] elsewhere has [P], and sequence b is positions " \
                "offsets[b] to offsets[b+1] - 1 of it"                                             \
    }

/* Store element i of an output: f32, f64 or i64. */
static inline void lk_put(const lk_tensor *t, int64_t i, double x)
{
    char *data = t->data;
    float narrow = (float)x;
    int64_t whole = t->dtype == LK_I64 ? (int64_t)x : 0;
    if (t->dtype == LK_F64)
        memcpy(data + i * 8, &x, sizeof x);
    else if (t->dtype == LK_I64)
        memcpy(data + i * 8, &whole, sizeof whole);
    else
        memcpy(data + i * 4, &narrow, sizeof narrow);
}

/* How a tensor is repeated to the shape of another one. Neighbouring axes of that shape along which
 * both are dense, or along which it is repeated, are one axis here. */
typedef struct lk_spread {
    const void *data;                               /* NULL: not given */
    size_t width;                                   /* bytes of an element */
    int axes;                                       /* the last one of the shape first */
    int64_t size[LK_MAX_RANK], stride[LK_MAX_RANK]; /* of the shape; in elements of the tensor */
} lk_spread;

/* Its axes are aligned with the last ones of `to`, or with the first ones if it `leads`. */
lk_spread lk_spread_of(const lk_tensor *t, const lk_tensor *to, bool leads);

/* n of the repeated elements, from i on: where they are in the tensor, or copied to `room`. */
const void *lk_spread_read(const lk_spread *spread, int64_t i, int64_t n, void *room);

/* Report an error: `input` is an index into the loss's inputs, or -1; `index` is flat, or -1.
 * Returns the status. The text is a printf format. */
lk_status lk_fail(const lk_job *job, lk_error *error, lk_status status, int input, int64_t index,
                  const char *format, ...) __attribute__((format(printf, 6, 7)));

/* LK_TARGET_OUT_OF_RANGE: the target of that flat index is neither one of the classes nor to be
 * ignored. */
lk_status lk_refuse_target(const lk_job *job, lk_error *error, int input, int64_t index,
                           int64_t classes, int64_t ignore_index);

/* LK_WEIGHT_INVALID: the weight of that flat index is w, which is not finite. */
lk_status lk_refuse_weight(const lk_job *job, lk_error *error, int input, int64_t index, double w);

/* Was the input given? */
static inline bool lk_has(const lk_job *job, int input)
{
    return job->given >> input & 1;
}

/* Was the option set, as opposed to left at its default? */
bool lk_given(const lk_job *job, const char *option);

/* "targets[3]", "logits[2][17]": the name of an element, for texts. Returns `to`. */
enum { LK_PLACE_MAX = 256 };
const char *lk_place(const lk_job *job, int input, int64_t index, char to[LK_PLACE_MAX]);

#endif
