/* SPDX-License-Identifier: MIT
 *
 * losskit: loss functions of Transformer models, with their gradients.
 *
 * A loss is an operator with named input tensors, named options and named outputs: `loss`,
 * `grad.<input>` for every differentiable input, then diagnostics. The description of a loss
 * (lk_loss_describe) lists its inputs, options and outputs; nothing in this header depends on a
 * particular loss.
 *
 * There are two ways to evaluate: lk_evaluate() in one step, or an lk_call, whose blocks may be run
 * by any number of threads. The same inputs and options give the same bits, on every processor,
 * instruction set and operating system, whatever the threads, the alignment, the split of a batch
 * over calls, and the other outputs that are requested.
 *
 * The library starts no threads, does no I/O, never prints, never exits, and reads no environment
 * variables. Every function may be called from any thread. An object may be used by only one thread
 * at a time, unless its comment says otherwise.
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

/* Status codes: X(NAME, word). The word is stable, and lossd sends it as `code`. */
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
    X(GRAPH_INVALID, graph_invalid)                                                                \
    X(WEIGHT_INVALID, weight_invalid)                                                              \
    X(OFFSETS_INVALID, offsets_invalid)                                                            \
    X(LENGTH_OUT_OF_RANGE, length_out_of_range)                                                    \
    X(TARGET_OUT_OF_RANGE, target_out_of_range)                                                    \
    X(TARGET_UNREACHABLE, target_unreachable)                                                      \
    X(VALUE_OUT_OF_RANGE, value_out_of_range)                                                      \
    X(NONFINITE_INPUT, nonfinite_input)                                                            \
    X(NO_MEMORY, no_memory)                                                                        \
    X(MISUSE, misuse) /* functions were called in an order that this header does not allow */

#define LK_STATUS_ENUM(NAME, word) LK_##NAME,
typedef enum lk_status { LK_STATUSES(LK_STATUS_ENUM) LK_STATUS_COUNT } lk_status;
#undef LK_STATUS_ENUM

/* The word of a status; "unknown_status" for any other number. Never NULL. */
const char *lk_status_name(lk_status status);

#define LK_MAX_RANK 8

/* What was wrong, where, and what would be valid. The function that returned `status` fills it in,
 * without allocating. Every function that takes an lk_error accepts NULL. */
typedef struct lk_error {
    lk_status status;
    char input[32]; /* the input concerned; "" if none */
    int rank;       /* how many entries of `index` are set; 0 if no element is concerned */
    int64_t index[LK_MAX_RANK]; /* the element concerned */
    char text[240];             /* one sentence, UTF-8, without a full stop */
} lk_error;

/* Tensors. */

/* Element types: X(NAME, word, bytes). In a mask of BOOL or U8 any byte that is not 0 is true;
 * class indices in U8 are numbers. */
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

/* A view of data that the caller owns: dense, row-major, native byte order, any alignment. Rank 0
 * is a single number. A size of 0 is allowed and makes the tensor empty. */
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

/* Types of options. Every option has one text form: a decimal number; true or false; the word of a
 * choice; integers, decimal numbers or different words of a choice, separated by commas; `off` if
 * the option can be unset. Only LK_PARTS has no text form: parts are added with lk_call_part. */
typedef enum lk_type {
    LK_REAL,
    LK_INTEGER,
    LK_UNSIGNED,
    LK_FLAG,
    LK_CHOICE,
    LK_LIST,
    LK_REALS,
    LK_CHOICES,
    LK_PARTS
} lk_type;

enum {
    LK_OPEN = 1 << 0,     /* lk_field.flags: the range excludes min */
    LK_OFF = 1 << 1,      /* `off` is allowed and means "not used" */
    LK_RANGED = 1 << 2,   /* min and max bound the value */
    LK_HOLDS = 1 << 3,    /* but for the default, gradients take some values as constants */
    LK_COUPLES = 1 << 4,  /* but for the default, a row's value may depend on other rows */
    LK_OPEN_END = 1 << 5, /* the range excludes max */
    LK_NONZERO = 1 << 6   /* and 0 */
};

typedef struct lk_field {
    const char *name;
    lk_type type;
    unsigned flags;
    size_t offset;        /* for the library's own use */
    const char *fallback; /* the default in text form; NULL: the option is required */
    double min, max;
    const char *choices; /* "none|sum|mean"; NULL unless type is LK_CHOICE(S) */
    const char *help;
} lk_field;

/* Sets of element types, as bits 1 << dtype. */
#define LK_FLOATS  (1u << LK_F64 | 1u << LK_F32 | 1u << LK_F16 | 1u << LK_BF16)
#define LK_INTS    (1u << LK_I64 | 1u << LK_I32)
#define LK_INDICES (LK_INTS | 1u << LK_U8)
#define LK_MASKS   (1u << LK_BOOL | 1u << LK_U8)

enum {
    LK_OPTIONAL = 1 << 0,       /* lk_input.flags: may be left out */
    LK_DIFFERENTIABLE = 1 << 1, /* grad.<name> can be requested if the input has floats */
    LK_GRADIENT = 1 << 2,       /* grad.<name> is among the default outputs */
    LK_ROW_LOCAL = 1 << 3,      /* its gradient may be computed in place */
    LK_WEIGHTS = 1 << 4,        /* every element must be finite */
    LK_IGNORES = 1 << 5,        /* a mask: rows where it is 0 are ignored, and not read */
    LK_COTANGENT = 1 << 6,      /* grad_X is the upstream gradient of output X; default zeros.
                                   If one is given, the default of grad_output is 0 as well */
    LK_HISTORY = 1 << 7,        /* an ignored row is read if a later row along the last axis of
                                   the loss is not ignored */
    LK_OFFSETS = 1 << 8,        /* sequence b is positions offsets[b] to offsets[b+1] - 1 of P that
                                   follow each other: integers from 0 to P that do not decrease.
                                   Where it is given, `B T` and `*` are one axis P in every
                                   pattern, and `*-` is B */
    LK_OWN_TYPE = 1 << 9,       /* its element type is its own: f64 if the call computes in f64,
                                   else f32, f16 or bf16, whatever other inputs have */
};

/* A shape pattern is a list of words. A letter is one size, the same in every tensor of the call
 * that has the letter. `*` is any number of leading sizes, the same in every tensor that has it. A
 * letter with `@option` is an axis whose position is the value of that integer option (-1: the
 * position in the pattern). `1` is a size of 1, `B+1` one more than B. "" is a single number; shape
 * [1] is accepted too. `*-` is `*` without its last axis. Where an input with LK_OFFSETS is
 * given, `B T` and `*` are one axis, P, the positions, and `*-` is B, the sequences. "~ *" is any
 * shape that broadcasts to that of `*`: axes are aligned from the right, each size is 1 or that of
 * `*`, and missing axes count as 1. "loss" is the shape of the output `loss`. */
typedef struct lk_form {
    const char *shape;
    unsigned dtypes;
} lk_form;

typedef struct lk_input {
    const char *name;
    lk_form forms[3]; /* in order of preference; ends with a NULL shape if there are fewer */
    unsigned flags;
    /* Valid values: "[0,C)", "[0,1]", "{-1,1}", ">=0", "finite"; NULL: any. "*": the last size of
     * `*`. In "[0,V+o)" the upper end grows by the value of option o; if o is off, the loss defines
     * it. Suffixes: " except o": all but the value of option o; " unless o": if option o is false;
     * ", distinct": the values along the last axis that are not negative are distinct; ", exp sums
     * to <=1": the exponentials along the last axis sum to at most 1. */
    const char *range;
    const char *help;
} lk_input;

enum { LK_DEFAULT = 1 << 0 }; /* lk_output.flags: returned if the request names no outputs */

/* An output other than `loss` and the gradients. dtype LK_ANY: that of the input `like`; without
 * `like`, f64 if the call computes in f64, else f32. */
typedef struct lk_output {
    const char *name;
    const char *shape; /* a pattern with letters of the inputs' patterns */
    lk_dtype dtype;
    const char *help;
    unsigned flags;
    const char *like;
} lk_output;

enum {
    LK_NONNEGATIVE = 1 << 0, /* lk_description.traits: no loss value is below 0 */
    LK_COUPLED = 1 << 1,     /* a row's value depends on other rows, or on its position */
    LK_SHIFT_FREE = 1 << 2,  /* with default options, adding a constant to a row changes nothing */
    LK_TRANSFORM = 1 << 3,   /* no loss and no gradient: only the outputs it lists */
    LK_ROWWISE = 1 << 4,     /* row i reads row i of every input that has rows, and no other */
    LK_HELD = 1 << 5,        /* the gradient treats some values as constants (stop-gradient) */
    LK_DYNAMIC = 1 << 6,     /* made of parts, whose inputs and outputs it has */
};

/* The description of a loss: a constant that is never freed. The arrays end with an entry whose
 * name is NULL. */
typedef struct lk_description {
    const char *name;
    const char *title;
    const char *formula; /* in plain text */
    const char *tex;     /* the same in LaTeX, of which pages make MathML; NULL: formula alone */
    const char *help;
    const char *reference;
    const char *example; /* the JSON body of a valid request */
    unsigned traits;
    const char
        *loss_shape; /* pattern of one loss per row; NULL: always one number, no `reduction` */
    const char *const *loss_shapes; /* one for each choice of `reduction`; NULL: loss_shape for the
                                       first choice, one number for the others */
    const lk_input *inputs;
    const lk_output *outputs;
    const lk_field *options;
} lk_description;

typedef struct lk_loss lk_loss;

/* The losses, in alphabetical order. lk_loss_at(i) is NULL outside 0..lk_loss_count()-1. */
int lk_loss_count(void);
const lk_loss *lk_loss_at(int i);

/* The loss with that name, or NULL. */
const lk_loss *lk_loss_find(const char *name);

/* The description of a loss. Never NULL. */
const lk_description *lk_loss_describe(const lk_loss *loss);

/* Instruction sets. They differ in speed, not in results; but of a NaN nothing is promised, except
 * that it is one. */

/* The instruction sets that this build was compiled for, fastest first. The last one is "scalar",
 * which runs everywhere and is the reference. lk_isa_name(i) is NULL outside 0..lk_isa_count()-1.
 */
int lk_isa_count(void);
const char *lk_isa_name(int i);

/* Whether this processor supports instruction set i. */
bool lk_isa_runs(int i);

/* Select the instruction set for calls that are planned from now on; "auto", the default, is the
 * fastest that this processor supports. Returns false, and changes nothing, if the name is unknown
 * or the processor does not support it. */
bool lk_isa_use(const char *name);

/* The name of the selected instruction set. */
const char *lk_isa_used(void);

/* Whether this processor has fused multiply-adds. Without them the results are the same, but take
 * many times as long. */
bool lk_isa_fuses(void);

/* Calls. */

/* A call is one evaluation. The order of functions is: new; input, option and want in any order;
 * check; bind; plan; run; finish; where gradients are deferred backward, run and finish; free.
 * Functions that are called out of order return LK_MISUSE. */
typedef struct lk_call lk_call;

/* A call with all options at their defaults; NULL if memory is exhausted. */
lk_call *lk_call_new(const lk_loss *loss);

/* Accepts NULL. The library never frees the data of tensors. */
void lk_call_free(lk_call *call);

/* Set an input. The view is copied; its data belongs to the caller and must stay valid until the
 * call is freed. data may be NULL until lk_call_data; dtype may be LK_ANY. */
lk_status lk_call_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error);

/* Set an option from its text form. Setting an option twice is an error. */
lk_status lk_call_option(lk_call *call, const char *name, const char *text, lk_error *error);

/* For a loss with the trait LK_DYNAMIC: add a part, another loss, with its weight in the sum. At
 * most 16. Without a weight: 1; or, if another part reads one of its outputs, and for a transform,
 * 0, and then the part does not enter the loss. The loss of a part that does is one number. */
lk_status lk_call_part(lk_call *call, const char *loss, double weight, lk_error *error);
lk_status lk_call_part_unweighted(lk_call *call, const char *loss, lk_error *error);

/* For the part that was added last: give it a name (letters, digits and _, at most 31, not all
 * digits); set one of its options; or make its input `input` use the call's input `tensor`, instead
 * of the one with the same name. NULL: the part has no such input. "part.<k>.<output>" or
 * "part.<name>.<output>" instead of a tensor: the input reads that output of another part, which
 * may be added later. Gradients flow back through `loss` and through the outputs that have an
 * upstream gradient among their part's inputs (grad_<output>); other outputs are constants. */
lk_status lk_call_part_name(lk_call *call, const char *name, lk_error *error);
lk_status lk_call_part_option(lk_call *call, const char *name, const char *text, lk_error *error);
lk_status lk_call_part_input(lk_call *call, const char *input, const char *tensor, lk_error *error);

/* Request an output. Outputs are numbered in the order of the requests. The default, if none is
 * requested, is `loss` and the default gradients of the inputs that are set. No call has more than
 * LK_OUTPUTS_MAX. */
#define LK_OUTPUTS_MAX 114
lk_status lk_call_want(lk_call *call, const char *output, lk_error *error);

/* Compute the gradients after the values, from upstream gradients that need not be known before:
 * the passes up to finish compute all other outputs, those between lk_call_backward and a second
 * finish the gradients. Until then the inputs must not change, except grad_output and the upstream
 * gradients of other outputs, whose memory may be filled in between. Not for a composite. */
lk_status lk_call_defer(lk_call *call, lk_error *error);

/* Check everything except the data: names, element types, shapes, options, outputs. Afterwards,
 * element types given as LK_ANY are resolved, and the types and shapes of the outputs are known. */
lk_status lk_call_check(lk_call *call, lk_error *error);

/* The element types that an input of that name may have, as a set like LK_FLOATS; 0 if there is no
 * such input. With parts: what all of those that are there and use it accept. */
unsigned lk_call_dtypes(const lk_call *call, const char *name);

/* After check: an input with its resolved type; NULL if it was not set. */
const lk_tensor *lk_call_tensor(const lk_call *call, const char *name);

/* Set the data of an input that was set without it. Inputs whose data is set in this way must not
 * overlap. */
lk_status lk_call_data(lk_call *call, const char *name, void *data);

/* After check: the number of outputs, and the name, type and shape of the i-th (data is what was
 * bound). `out` may be NULL; the name is valid until the call is freed. */
int lk_call_outputs(const lk_call *call);
const char *lk_call_output(const lk_call *call, int i, lk_tensor *out);

/* After check: the input that the i-th output may overwrite (bind the input's data), or NULL. */
const lk_tensor *lk_call_in_place(const lk_call *call, int i);

/* Set the memory of the i-th output: its whole size, any alignment. It must not overlap any other
 * tensor, except that it may be exactly the data of the input that lk_call_in_place returns. */
lk_status lk_call_bind(lk_call *call, int i, void *data);

/* Check the data (weights, lengths, targets) and compute what all rows share. All data must be set
 * and all outputs bound. From here on only run, next and finish may change the call. */
lk_status lk_call_plan(lk_call *call, lk_error *error);

/* After plan: the number of blocks of this pass, which depends on shapes only; 0 if there is
 * nothing to do. A block is so much work that another thread for it pays: a call of one block, such
 * as mse of up to half a million elements, is best run where it is. */
int64_t lk_call_blocks(const lk_call *call);

/* When every block of a pass has run: start the next pass. Returns false if there is none; then
 * call finish. Most losses have one pass; gradients that gather from all rows have a pass of their
 * own. */
bool lk_call_next(lk_call *call);

/* After check: the size of the scratch buffer that run needs, and the bytes that plan allocates. */
size_t lk_call_scratch(const lk_call *call);
size_t lk_call_memory(const lk_call *call);

/* After check: roughly how many elements run will process, over all passes: a nanosecond each,
 * within a factor of a few, on one thread of a processor with vectors. It tells small calls from
 * those that are worth handing to another thread. */
int64_t lk_call_cost(const lk_call *call);

/* Compute blocks first..first+count-1. Different threads may run different blocks of a call at the
 * same time, each with its own scratch buffer, aligned to 64 bytes (NULL if lk_call_scratch is 0).
 * Cannot fail: finish reports invalid values and missing scratch buffers. */
void lk_call_run(lk_call *call, int64_t first, int64_t count, void *scratch);

/* After every block of every pass has run exactly once: write `loss` and the scalar diagnostics, or
 * report the invalid value with the lowest index, in which case the outputs are unspecified. */
lk_status lk_call_finish(lk_call *call, lk_error *error);

/* After plan or finish: the call is again as it was after check, for other data of the same types
 * and shapes: the data of every input and output must be set anew. False, and nothing has changed,
 * for a composite, a call with deferred gradients, and before plan. */
bool lk_call_again(lk_call *call);

/* After the finish of a call with deferred gradients: start the passes that compute them. */
lk_status lk_call_backward(lk_call *call, lk_error *error);

/* In one step. */

typedef struct lk_named {
    const char *name;
    lk_tensor tensor;
} lk_named;

/* Evaluate on the calling thread. `options` is a NULL-terminated list of name, text, name, text, or
 * NULL; `inputs` and `outputs` end with an entry whose name is NULL. The type and shape of each
 * output must be those of the loss (otherwise dtype_unsupported or shape_mismatch); its data is
 * overwritten. */
lk_status lk_evaluate(const char *loss, const char *const *options, const lk_named *inputs,
                      const lk_named *outputs, lk_error *error);

#ifdef __cplusplus
}
#endif

#endif
