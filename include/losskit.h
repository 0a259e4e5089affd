/* SPDX-License-Identifier: MIT
 *
 * losskit: loss functions of Transformer models, with their gradients.
 *
 * A loss is an operator with named input tensors, named options and named outputs: `loss`,
 * `grad.<input>` for every differentiable input, then diagnostics. What a loss takes and gives is
 * told by its description (lk_loss_describe); nothing in this header knows a loss by name.
 *
 * Two ways to evaluate: lk_evaluate() in one step, or an lk_call, whose blocks any number of
 * threads may run. Both give the same bits, whatever the threads, the alignment, and which other
 * outputs are asked for.
 *
 * The library starts no threads, does no I/O, never prints, never exits, and reads no environment.
 * Every function may be called from any thread; an object is used by one thread at a time unless
 * its comment says otherwise.
 */
#ifndef LOSSKIT_H
#define LOSSKIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LK_VERSION "0.2.0"

/* The version of the library that is linked, as "major.minor.patch"; LK_VERSION is the header's. */
const char *lk_version(void);

/* Status. */

/* What can go wrong: X(NAME, word). The word is stable and is what lossd sends as `code`. */
#define LK_STATUSES(X)                                                                             \
    X(OK, ok)                                                                                      \
    X(MISSING_INPUT, missing_input)                                                                \
    X(UNKNOWN_INPUT, unknown_input)                                                                \
    X(MISSING_OPTION, missing_option)                                                              \
    X(UNKNOWN_OPTION, unknown_option)                                                              \
    X(DUPLICATE_OPTION, duplicate_option)                                                          \
    X(UNKNOWN_OUTPUT, unknown_output)                                                              \
    X(UNKNOWN_LOSS, unknown_loss)                                                                  \
    X(OPTION_INVALID, option_invalid)                                                              \
    X(DTYPE_UNSUPPORTED, dtype_unsupported)                                                        \
    X(RANK_MISMATCH, rank_mismatch)                                                                \
    X(SHAPE_MISMATCH, shape_mismatch)                                                              \
    X(OPTION_OUT_OF_RANGE, option_out_of_range)                                                    \
    X(OPTION_CONFLICT, option_conflict)                                                            \
    X(WEIGHT_INVALID, weight_invalid)                                                              \
    X(LENGTH_OUT_OF_RANGE, length_out_of_range)                                                    \
    X(TARGET_OUT_OF_RANGE, target_out_of_range)                                                    \
    X(TARGET_UNREACHABLE, target_unreachable)                                                      \
    X(VALUE_OUT_OF_RANGE, value_out_of_range)                                                      \
    X(NONFINITE_INPUT, nonfinite_input)                                                            \
    X(NO_MEMORY, no_memory)                                                                        \
    X(MISUSE, misuse) /* the calls came in an order this header does not allow */

#define LK_STATUS_ENUM(NAME, word) LK_##NAME,
typedef enum lk_status { LK_STATUSES(LK_STATUS_ENUM) LK_STATUS_COUNT } lk_status;
#undef LK_STATUS_ENUM

/* The status's word, "unknown_status" for a number that is none. Never NULL. */
const char *lk_status_name(lk_status status);

#define LK_MAX_RANK 8

/* What was wrong, where, and what would be right. Filled in by the function that returned `status`,
 * never allocated. Every function that takes an lk_error takes NULL for "do not tell me". */
typedef struct lk_error {
    lk_status status;
    char input[32];             /* the input concerned; "" where none is */
    int rank;                   /* how many of `index` count; 0 where no element is concerned */
    int64_t index[LK_MAX_RANK]; /* the element concerned */
    char text[240];             /* one sentence, UTF-8, without a full stop */
} lk_error;

/* Tensors. */

/* Element types: X(NAME, word, bytes). BOOL and U8 are masks: any non-zero byte is true. */
#define LK_DTYPES(X)                                                                               \
    X(F64, f64, 8)                                                                                 \
    X(F32, f32, 4)                                                                                 \
    X(F16, f16, 2)                                                                                 \
    X(BF16, bf16, 2)                                                                               \
    X(I64, i64, 8)                                                                                 \
    X(I32, i32, 4)                                                                                 \
    X(U8, u8, 1)                                                                                   \
    X(BOOL, bool, 1)

#define LK_DTYPE_ENUM(NAME, word, bytes) LK_##NAME,
/* LK_ANY, in a tensor given to lk_call_input, leaves the choice to lk_call_check. */
typedef enum lk_dtype { LK_DTYPES(LK_DTYPE_ENUM) LK_DTYPE_COUNT, LK_ANY = LK_DTYPE_COUNT } lk_dtype;
#undef LK_DTYPE_ENUM

/* Bytes of one element; 0 for LK_ANY. */
size_t lk_dtype_size(lk_dtype dtype);

/* "f32" and so on; "any" for LK_ANY. Never NULL. */
const char *lk_dtype_name(lk_dtype dtype);

/* A view of numbers that somebody else owns: dense, row-major, native byte order, of any alignment.
 * Rank 0 is a single number. A size of 0 is legal and makes the tensor empty. */
typedef struct lk_tensor {
    void *data;
    lk_dtype dtype;
    int rank;
    int64_t shape[LK_MAX_RANK];
} lk_tensor;

/* Number of elements, or -1 if a size is negative, the rank is outside 0..LK_MAX_RANK, or the bytes
 * of the tensor would not fit in an int64_t. */
int64_t lk_tensor_count(const lk_tensor *tensor);

/* Views of rank 0, 1 and 2. */
static inline lk_tensor lk_scalar(lk_dtype dtype, void *data)
{
    lk_tensor t = {data, dtype, 0, {0}};
    return t;
}

static inline lk_tensor lk_vector(lk_dtype dtype, void *data, int64_t n)
{
    lk_tensor t = {data, dtype, 1, {n}};
    return t;
}

static inline lk_tensor lk_matrix(lk_dtype dtype, void *data, int64_t rows, int64_t columns)
{
    lk_tensor t = {data, dtype, 2, {rows, columns}};
    return t;
}

/* Descriptions. */

/* Types of options. Every option has one text form: a decimal number, true or false, the choice's
 * word, integers or decimal numbers with commas between them; `off` where an option can be unset.
 * LK_PARTS alone has none: parts are added with lk_call_part. */
typedef enum lk_type {
    LK_REAL,
    LK_INTEGER,
    LK_UNSIGNED,
    LK_FLAG,
    LK_CHOICE,
    LK_LIST,
    LK_REALS,
    LK_PARTS
} lk_type;

enum {
    LK_OPEN = 1 << 0,   /* lk_field.flags: min itself is outside the range */
    LK_OFF = 1 << 1,    /* `off` is allowed and means "not used" */
    LK_RANGED = 1 << 2, /* min and max bound the value */
};

typedef struct lk_field {
    const char *name;
    lk_type type;
    unsigned flags;
    size_t offset;        /* for the library's own use */
    const char *fallback; /* the default in text form; NULL: the option is required */
    double min, max;
    const char *choices; /* "none|sum|mean"; NULL unless type is LK_CHOICE */
    const char *help;
} lk_field;

/* Sets of element types, as bits 1 << dtype. */
#define LK_FLOATS (1u << LK_F64 | 1u << LK_F32 | 1u << LK_F16 | 1u << LK_BF16)
#define LK_INTS   (1u << LK_I64 | 1u << LK_I32)
#define LK_MASKS  (1u << LK_BOOL | 1u << LK_U8)

enum {
    LK_OPTIONAL = 1 << 0,       /* lk_input.flags: may be left out */
    LK_DIFFERENTIABLE = 1 << 1, /* grad.<name> can be asked for, for floats */
    LK_GRADIENT = 1 << 2,       /* and is among the default outputs */
    LK_ROW_LOCAL = 1 << 3,      /* its gradient may be written over it */
    LK_WEIGHTS = 1 << 4,        /* every element must be finite */
    LK_IGNORES = 1 << 5,        /* a mask: where it is 0, nothing else is read */
    LK_COTANGENT = 1 << 6,      /* grad_X is the upstream gradient of output X; default zeros.
                                   Where one is given, grad_output's default is 0 as well */
    LK_HISTORY = 1 << 7,        /* rows that do not count are read where a later one, further along
                                   the last axis of the loss, does */
};

/* A shape pattern is a list of words. A letter is one size, the same wherever the letter stands in
 * the call. `*` is any number of leading sizes, the same wherever it stands. A letter with
 * `@option` is an axis that stands where that integer option says (-1: where it is written).
 * `1` is a size of 1. "" is one number, for which [1] is accepted too. "loss" is the shape of the
 * output `loss`. */
typedef struct lk_form {
    const char *shape;
    unsigned dtypes;
} lk_form;

typedef struct lk_input {
    const char *name;
    lk_form forms[3]; /* in order of preference; ends with a NULL shape if there are fewer */
    unsigned flags;
    /* Legal values: "[0,C)", "[0,1]", "{-1,1}", ">=0"; NULL: any. "[0,V+o)" goes further by the
     * value of option o, or where o is off, as the loss says. After it " except o": all but the
     * value of option o; ", distinct": those of the last axis that are not negative differ; ", exp
     * sums to <=1": along the last axis. */
    const char *range;
    const char *help;
} lk_input;

enum { LK_DEFAULT = 1 << 0 }; /* lk_output.flags: given when the request names no outputs */

/* An output beside `loss` and gradients. dtype LK_ANY: that of the input `like`, else f32, or f64
 * where the call computes in f64. */
typedef struct lk_output {
    const char *name;
    const char *shape; /* a pattern of the letters that the inputs bound */
    lk_dtype dtype;
    const char *help;
    unsigned flags;
    const char *like;
} lk_output;

enum {
    LK_NONNEGATIVE = 1 << 0, /* lk_description.traits: no loss value is below 0 */
    LK_COUPLED = 1 << 1,     /* a row's value depends on the other rows, or its place among them */
    LK_SHIFT_FREE = 1 << 2,  /* with default options, adding a constant to a row changes nothing */
    LK_TRANSFORM = 1 << 3,   /* no loss and no gradient: only the outputs it lists */
    LK_ROWWISE = 1 << 4,     /* row i reads row i of every input that has rows, and no other */
    LK_HELD = 1 << 5,        /* the gradient holds some values constant that the loss depends on */
    LK_DYNAMIC = 1 << 6, /* made of parts: takes the inputs, and gives the outputs, that they do */
};

/* All that is known of a loss. Constant, valid for ever; the arrays end with an entry whose name is
 * NULL. */
typedef struct lk_description {
    const char *name;
    const char *title;
    const char *formula;
    const char *help;
    const char *reference;
    const char *example; /* a request as JSON that can be sent as it is */
    unsigned traits;
    const char
        *loss_shape; /* pattern of one loss per row; NULL: always one number, no `reduction` */
    const char *const *loss_shapes; /* by choice of `reduction`; NULL: loss_shape under the first
                                       one, one number under the others */
    const lk_input *inputs;
    const lk_output *outputs;
    const lk_field *options;
} lk_description;

typedef struct lk_loss lk_loss;

/* The losses, in alphabetical order; lk_loss_at(i) for 0 <= i < lk_loss_count(), else NULL. */
int lk_loss_count(void);
const lk_loss *lk_loss_at(int i);

/* The loss of that name, or NULL. */
const lk_loss *lk_loss_find(const char *name);

/* Never NULL. */
const lk_description *lk_loss_describe(const lk_loss *loss);

/* ISAs. */

/* The instruction sets this build was compiled for, best first; the last one is "scalar", which
 * runs everywhere and is the reference. lk_isa_name(i) is NULL outside 0..lk_isa_count()-1. */
int lk_isa_count(void);
const char *lk_isa_name(int i);

/* Does this processor have it? */
bool lk_isa_runs(int i);

/* Choose by name what calls planned from now on use, "auto" for the best that runs (the default).
 * False, and nothing changes, if there is no such name or this processor lacks it. */
bool lk_isa_use(const char *name);

/* The name of the one in use. */
const char *lk_isa_used(void);

/* One call. */

/* One evaluation. In this order: new, then inputs, options and wanted outputs in any order, then
 * check, bind, plan, run, finish, free. Functions called out of order return LK_MISUSE. */
typedef struct lk_call lk_call;

/* All options at their defaults; NULL without memory. */
lk_call *lk_call_new(const lk_loss *loss);

/* Takes NULL. The tensors' data is never freed by the library. */
void lk_call_free(lk_call *call);

/* Give an input. The view is copied, its data stays the caller's and must live until the call is
 * freed. data may be NULL until lk_call_data; dtype may be LK_ANY. */
lk_status lk_call_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error);

/* Set an option from its text form. Twice the same option is an error. */
lk_status lk_call_option(lk_call *call, const char *name, const char *text, lk_error *error);

/* For a loss with the trait LK_DYNAMIC: add a part, which is another loss with a value of one
 * number and counts `weight` times. At most 16. */
lk_status lk_call_part(lk_call *call, const char *loss, double weight, lk_error *error);

/* For the part added last: set one of its options; have its input `input` read the tensor that is
 * given to the call as `tensor`, instead of the one of the same name; NULL: read none. */
lk_status lk_call_part_option(lk_call *call, const char *name, const char *text, lk_error *error);
lk_status lk_call_part_input(lk_call *call, const char *input, const char *tensor, lk_error *error);

/* Ask for an output. The outputs are numbered in the order asked for. Without any: `loss` and the
 * default gradients of the inputs given. */
lk_status lk_call_want(lk_call *call, const char *output, lk_error *error);

/* Check everything that needs no numbers: names, element types, shapes, options, outputs. After it
 * element types left to LK_ANY are chosen, and the outputs' types and shapes are known. */
lk_status lk_call_check(lk_call *call, lk_error *error);

/* After check: an input as resolved; NULL if it was not given. */
const lk_tensor *lk_call_tensor(const lk_call *call, const char *name);

/* Where an input's numbers are, if they were not there when it was given. Inputs whose numbers come
 * this way do not overlap. */
lk_status lk_call_data(lk_call *call, const char *name, void *data);

/* After check: how many outputs, and the name, type and shape of the i-th (data is what was bound).
 * `out` may be NULL; the name lives as long as the call. */
int lk_call_outputs(const lk_call *call);
const char *lk_call_output(const lk_call *call, int i, lk_tensor *out);

/* After check: the input whose memory the i-th output may overwrite (bind its data), or NULL. */
const lk_tensor *lk_call_in_place(const lk_call *call, int i);

/* Where the i-th output goes: its whole size, of any alignment, not overlapping any other tensor
 * but, exactly, the one lk_call_in_place names. */
lk_status lk_call_bind(lk_call *call, int i, void *data);

/* Check the numbers (weights, lengths, targets) and compute what all rows share. Needs all data and
 * all outputs bound. From here on the call is read-only for everybody but run and finish. */
lk_status lk_call_plan(lk_call *call, lk_error *error);

/* After plan: into how many blocks the pass is cut, by shapes alone; 0 where there is nothing to
 * do. */
int64_t lk_call_blocks(const lk_call *call);

/* When every block of a pass has run: go on to the next one. False if there is none, and it is time
 * to finish. Most losses have one pass; gradients that gather from all rows have one of their own.
 */
bool lk_call_next(lk_call *call);

/* After check: the bytes of scratch that a run needs, and the bytes that plan will allocate. */
size_t lk_call_scratch(const lk_call *call);
size_t lk_call_memory(const lk_call *call);

/* Compute blocks first..first+count-1. Different threads may run different blocks of a call at
 * once, each with scratch of its own, aligned to 64 bytes; NULL where lk_call_scratch is 0. Cannot
 * fail: a bad value, or scratch that is missing, is noted and reported by finish. */
void lk_call_run(lk_call *call, int64_t first, int64_t count, void *scratch);

/* After every block of every pass has run exactly once: write `loss` and the scalar diagnostics, or
 * report the bad value with the lowest index; then the outputs are unspecified. */
lk_status lk_call_finish(lk_call *call, lk_error *error);

/* In one step. */

typedef struct lk_named {
    const char *name;
    lk_tensor tensor;
} lk_named;

/* Evaluate on the calling thread. `options` is a NULL-terminated list of name, text, name, text, or
 * NULL; `inputs` and `outputs` end with an entry whose name is NULL. Each output's type and shape
 * must be the ones the loss gives (shape_mismatch, dtype_unsupported otherwise); its data is
 * written. */
lk_status lk_evaluate(const char *loss, const char *const *options, const lk_named *inputs,
                      const lk_named *outputs, lk_error *error);

#ifdef __cplusplus
}
#endif

#endif
