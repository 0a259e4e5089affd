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

enum {
    LK_MAX_INPUTS = 16,
    LK_MAX_OUTPUTS = 24, /* diagnostics */
    LK_MAX_PARTS = 2,    /* parts of a loss that have denominators of their own */
    LK_MAX_SUMS = 8,     /* parts first, then whatever the diagnostics need */
    LK_MAX_PASSES = 3,   /* beside the rows themselves */
    LK_LIST_MAX = 64,
};

/* A function of a driver, which is an object of its own: for the losses of its variant, so that its
 * header gives it the name LK_PASTE(LK_VARIANT, name), and for nobody outside the library. */
#define LK_DRIVER __attribute__((visibility("hidden")))

/* A function of a driver header, which not every loss that includes it calls. */
#define LK_STATIC static __attribute__((unused))

/* What one block adds up, and the first value in it that the loss must refuse. */
typedef struct lk_block {
    double sum[LK_MAX_SUMS];
    lk_status bad; /* LK_OK: none */
    int bad_input;
    int64_t bad_index; /* flat */
    double bad_value;  /* set with LK_VALUE_OUT_OF_RANGE: the input may be written over by now */
} lk_block;

/* Note a bad value: of several in a block the first by (input, index). */
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

/* The value of an option of type LK_LIST. */
typedef struct lk_list {
    int64_t count;
    int64_t value[LK_LIST_MAX];
} lk_list;

/* The value of an option of type LK_REALS. */
typedef struct lk_reals {
    int64_t count;
    double value[LK_LIST_MAX];
} lk_reals;

/* The first member of every option struct, whether all of it can be set or not. */
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
    uint64_t options_given; /* by the place of the field in the table; see lk_given */
    /* data is NULL where an input was not given, a gradient or a diagnostic not asked for. Floats
     * that are not differentiable are presented in the type that the call computes in. */
    lk_tensor in[LK_MAX_INPUTS];
    lk_tensor grad[LK_MAX_INPUTS];
    lk_tensor out[LK_MAX_OUTPUTS];
    lk_tensor value; /* `loss` */
    int form[LK_MAX_INPUTS];
    uint32_t given;      /* by input; known when check is called, when no data is there yet */
    uint32_t out_wanted; /* by diagnostic; likewise */

    int lead_rank; /* the sizes that `*` stands for */
    int64_t lead[LK_MAX_RANK];
    int64_t size[26]; /* by letter */

    int64_t rows;
    int64_t block_rows;

    /* Set by prepare. A denominator that it leaves alone is 1. */
    int64_t counted;
    double denominator[LK_MAX_PARTS];
    double total_weight; /* of the classes */
    void *state;         /* the loss's own, as long as the call lives; see lk_loss.state */

    /* What a row's value (by part) is multiplied with: 1/denominator under a mean and where there
     * is no reduction to choose, else 1. */
    double scale[LK_MAX_PARTS];
} lk_job;

/* A gradient that gathers from all rows: its own rows, those of the input's first axis, are
 * computed when all rows of the loss are done. Left out where the gradient is not asked for. */
typedef struct lk_pass {
    int input;
    void (*rows)(const lk_job *job, int64_t first, int64_t count, void *scratch);
} lk_pass;

struct lk_loss {
    lk_description is;
    size_t options_size;

    /* What evaluates it. NULL: a single evaluation (lib/single.c), by all that follows. */
    const struct lk_kind *kind;

    int parts;

    /* The shape whose product is the number of rows. NULL: is.loss_shape, or a single row. */
    const char *rows_shape;

    /* How many elements a row works through, of the loss (pass NULL) or of a pass: it decides how
     * many of them make a block. NULL: the row's share of the primary input, or of the pass's. */
    int64_t (*row_cost)(const lk_job *job, const lk_pass *pass);

    /* What tables cannot say and needs no numbers: options that exclude each other, outputs that a
     * form does not have. May be NULL. */
    lk_status (*check)(const lk_job *job, lk_error *error);

    /* Is the gradient of that input, which has LK_GRADIENT, among the default outputs of this call?
     * NULL: always. */
    bool (*default_gradient)(const lk_job *job, int input);

    /* Bytes of job->state, which is zero when prepare begins. NULL: none. */
    size_t (*state)(const lk_job *job);

    /* Once per call, when numbers are there: check targets and lengths, set what is "set by
     * prepare". */
    lk_status (*prepare)(lk_job *job, lk_error *error);

    /* Bytes of scratch that one run needs. NULL: none. */
    size_t (*scratch)(const lk_job *job);

    /* Values and, where asked, gradients of rows first..first+count-1, in one visit. Where `loss`
     * has more than one number the rows (or finish) write it; otherwise they add to
     * block->sum[part]. */
    void (*rows)(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch);

    /* Are rows given all blocks of a run at once? Then `first` begins the first of them, `block`
     * points to it, and the others follow. */
    bool whole_runs;

    /* Ends with one whose rows are NULL. */
    lk_pass passes[LK_MAX_PASSES + 1];

    /* Diagnostics from the sums over all blocks. NULL: there is nothing to do. */
    void (*finish)(const lk_job *job, const double *sum);
};

/* LK_LOSS(name) = {...}: the loss of this variant, the one object its file exports. */
#define LK_PASTE_(variant, name) lk_##variant##_##name
#define LK_PASTE(variant, name)  LK_PASTE_(variant, name)
#define LK_LOSS(name)                                                                              \
    extern const lk_loss LK_PASTE(LK_VARIANT, name);                                               \
    const lk_loss LK_PASTE(LK_VARIANT, name)

/* An option: its type and place come from the struct's member, so a row cannot be wrong about them.
 * LK_FIELD(struct, member, default, flags, min, max, help); choices are LK_WORDS(struct, member,
 * ...). */
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

/* The four options of lk_reduce, for the top of a loss's table. A loss with other reductions spells
 * the first one itself. */
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

/* An element of an integer input, or of a mask: not 0 where it holds. */
static inline int64_t lk_int(const lk_tensor *t, int64_t i)
{
    const char *data = t->data;
    int64_t wide;
    int32_t narrow;
    switch (t->dtype) {
    case LK_I64:
        memcpy(&wide, data + i * 8, sizeof wide);
        return wide;
    case LK_I32:
        memcpy(&narrow, data + i * 4, sizeof narrow);
        return narrow;
    case LK_U8:
        return (unsigned char)data[i];
    default:
        return data[i] != 0;
    }
}

/* Element i of an output: f32, f64 or i64. */
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

/* Report an error: `input` as an index into the loss's inputs, or -1; `index` flat, or -1. Returns
 * the status. The text is a printf format. */
lk_status lk_fail(const lk_job *job, lk_error *error, lk_status status, int input, int64_t index,
                  const char *format, ...) __attribute__((format(printf, 6, 7)));

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
