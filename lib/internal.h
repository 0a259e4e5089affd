/* SPDX-License-Identifier: MIT
 *
 * What the parts of the library that are compiled once share: no kernel includes this.
 */
#ifndef LK_INTERNAL_H
#define LK_INTERNAL_H

#include "loss.h"
#include <stdatomic.h>

/* What the patterns of a call have bound so far. */
typedef struct lk_sizes {
    int lead_rank; /* -1: `*` is not bound */
    int64_t lead[LK_MAX_RANK];
    int64_t size[26]; /* -1: the letter is not bound */
} lk_sizes;

typedef enum stage { FILLING, CHECKED, PLANNED, FINISHED } stage;

typedef struct lk_composite lk_composite;

enum { MAX_WANTED = 1 + LK_MAX_INPUTS + LK_MAX_OUTPUTS };

/* Which output: `loss`, the gradient of an input, or a diagnostic. */
typedef enum kind { VALUE, GRADIENT, DIAGNOSTIC } kind;

typedef struct wanted {
    kind kind;
    int i; /* of the input or the diagnostic */
    char name[48];
    lk_tensor tensor;
    bool in_place; /* the gradient may be written over its input */
} wanted;

struct lk_call {
    lk_job job;
    const lk_loss *loss;     /* of the scalar table: the handle the caller gave */
    lk_composite *composite; /* NULL but for a call that is made of parts */
    stage stage;
    lk_tensor given[LK_MAX_INPUTS]; /* rank -1: not given */
    int primary;                    /* the input that chooses the element type */
    int wanted_count;
    wanted wanted[MAX_WANTED];
    lk_sizes sizes;
    int pass;       /* 0: the rows, k: the loss's pass k - 1 */
    int64_t blocks; /* of the rows */
    lk_block *block;
    atomic_bool starved; /* a run, on any thread, was not given the scratch it needs */
    void *converted[LK_MAX_INPUTS];
    _Alignas(16) char options[];
};

static inline bool lk_is_float(lk_dtype dtype)
{
    return LK_FLOATS >> dtype & 1;
}

/* What a call computes in. */
static inline lk_dtype lk_compute_type(const lk_call *call)
{
    return call->given[call->primary].dtype == LK_F64 ? LK_F64 : LK_F32;
}

/* error.c */

/* Fill in *error, if there is one, and return the status. The text is a printf format. */
lk_status lk_error_set(lk_error *error, lk_status status, const char *input, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));

/* LK_MISUSE with a text. */
lk_status lk_misuse(lk_error *error, const char *text);

/* field.c */

/* Every field at its default. Required fields stay zero. */
void lk_fields_default(const lk_field *fields, void *options);

/* The field of that name, or NULL. */
const lk_field *lk_field_find(const lk_field *fields, const char *name);

/* Parse `text` into the field's place: option_invalid if it does not parse. */
lk_status lk_field_parse(const lk_field *field, void *options, const char *text, lk_error *error);

/* option_out_of_range if the field's value lies outside its range. */
lk_status lk_field_check(const lk_field *field, const void *options, lk_error *error);

/* shape.c */

void lk_sizes_clear(lk_sizes *sizes);

/* Does the shape fit the pattern? If so its sizes are bound. `exact`: [1] does not pass for []. The
 * options are where `@option` looks. */
bool lk_shape_bind(const char *pattern, const lk_tensor *shape, bool exact, lk_sizes *sizes,
                   const lk_field *fields, const void *options);

/* Does the pattern have the rank, as far as it is known? */
bool lk_shape_rank(const char *pattern, int rank, const lk_sizes *sizes);

/* The shape that a pattern of bound sizes stands for. False if one is not bound. */
bool lk_shape_make(const char *pattern, const lk_sizes *sizes, const lk_field *fields,
                   const void *options, lk_tensor *shape);

enum { LK_SHAPE_TEXT = 96 };

/* "[2,5]"; and a pattern as far as its sizes are known, "[2,C]". Both return `to`. */
const char *lk_shape_text(const lk_tensor *shape, char to[LK_SHAPE_TEXT]);
const char *lk_pattern_text(const char *text, const lk_sizes *sizes, char to[LK_SHAPE_TEXT]);

/* check.c */

/* How many rows of that cost a block has: enough to be worth a trip to another thread. */
int64_t lk_block_rows(int64_t cost);

/* The shape of `loss` under the reduction chosen. */
const char *lk_loss_pattern(const lk_call *call);

/* graph.c: what lk_call_new makes of a loss that is LK_DYNAMIC, and the call's functions of it.
 */

extern const lk_loss lk_composite_loss;
lk_composite *lk_composite_new(void);
void lk_composite_free(lk_composite *c);
lk_status lk_composite_input(lk_call *call, const char *name, const lk_tensor *tensor,
                             lk_error *error);
lk_status lk_composite_want(lk_call *call, const char *output, lk_error *error);
lk_status lk_composite_check(lk_call *call, lk_error *error);
lk_tensor *lk_composite_tensor(const lk_call *call, const char *name);
lk_status lk_composite_plan(lk_call *call, lk_error *error);
int64_t lk_composite_blocks(const lk_call *call);
bool lk_composite_next(lk_call *call);
size_t lk_composite_scratch(const lk_call *call);
size_t lk_composite_memory(const lk_call *call);
void lk_composite_run(lk_call *call, int64_t first, int64_t count, void *scratch);
lk_status lk_composite_finish(lk_call *call, lk_error *error);

/* registry.c */

/* The same loss in the best variant allowed, for an element type (one of the floats). */
const lk_loss *lk_loss_variant(const lk_loss *loss, lk_dtype dtype);

/* convert.c */

/* n floats of any type to another one, rounded to nearest even. */
void lk_convert(const void *from, lk_dtype from_dtype, void *to, lk_dtype to_dtype, int64_t n);

/* One float, widened. */
double lk_real_at(const void *data, lk_dtype dtype, int64_t i);

#endif
