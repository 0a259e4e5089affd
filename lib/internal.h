/* SPDX-License-Identifier: MIT
 *
 * Functions shared by the parts of the library that are compiled once, not for every variant.
 * Kernels do not include this header.
 */
#ifndef LK_INTERNAL_H
#define LK_INTERNAL_H

#include "loss.h"
#include "vector/convert.h"

/* The sizes that shape patterns of a call have bound so far. */
typedef struct lk_sizes {
    int lead_rank; /* -1: `*` is not bound */
    int64_t lead[LK_MAX_RANK];
    int64_t size[26]; /* -1: the letter is not bound */
    bool packed;      /* there are offsets: `B T` is P */
} lk_sizes;

static inline bool lk_is_float(lk_dtype dtype)
{
    return LK_FLOATS >> dtype & 1;
}

/* The element types of an input in any of its forms. */
static inline unsigned lk_input_dtypes(const lk_input *input)
{
    return input->forms[0].dtypes | input->forms[1].dtypes | input->forms[2].dtypes;
}

/* error.c */

/* Fill in *error, if there is one, and return the status. The text is a printf format. */
lk_status lk_error_set(lk_error *error, lk_status status, const char *input, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));

/* LK_MISUSE with a text. */
lk_status lk_misuse(lk_error *error, const char *text);

/* The order in which faults are reported if there are several: of names, of element types, of
 * shapes, of options. */
enum { LK_AT_ONCE, LK_OF_NAMES, LK_OF_TYPES, LK_OF_SHAPES, LK_OF_OPTIONS, LK_OF_DATA };
int lk_status_order(lk_status status);

/* Of two faults keep the one that is reported first: `first`, unless it is none or comes later. */
void lk_error_keep(lk_error *first, const lk_error *found);

enum { LK_NAMES_TEXT = 160 };

/* The names in a table as "logits, targets, ...", for messages. A table ends with an entry whose
 * name is NULL; `entry` is the size of an entry, which begins with its name. Returns `to`. */
const char *lk_names_text(const void *table, size_t entry, char to[LK_NAMES_TEXT]);

enum { LK_NUMBER_TEXT = 32 };

/* A number with the digits that distinguish it from others of its type, at least six (f32 if it is
 * one, else f64). Returns `to`. */
const char *lk_number_text(double x, char to[LK_NUMBER_TEXT]);

/* field.c */

/* Set every field to its default. Required fields stay zero. */
void lk_fields_default(const lk_field *fields, void *options);

/* The field of that name, or NULL. */
const lk_field *lk_field_find(const lk_field *fields, const char *name);

/* Parse `text` into the field's place: option_invalid if it does not parse. */
lk_status lk_field_parse(const lk_field *field, void *options, const char *text, lk_error *error);

/* option_out_of_range if the field's value lies outside its range. */
lk_status lk_field_check(const lk_field *field, const void *options, lk_error *error);

/* shape.c */

void lk_sizes_clear(lk_sizes *sizes);

/* Does the shape match the pattern? If so, its sizes are bound. `exact`: [1] does not match [].
 * `@option` in a pattern is looked up in the options. */
bool lk_shape_bind(const char *pattern, const lk_tensor *shape, bool exact, lk_sizes *sizes,
                   const lk_field *fields, const void *options);

/* Of a pattern that begins with `~`: the first axis of the shape that does not broadcast to what
 * the pattern stands for, or the rank if all do. Fills in `to`, that shape. -1: no such pattern, or
 * a size of it is not bound. */
int lk_shape_misfit(const char *text, const lk_tensor *shape, const lk_sizes *sizes,
                    const lk_field *fields, const void *options, lk_tensor *to);

/* Can the pattern have that rank, with what is bound so far? */
bool lk_shape_rank(const char *pattern, int rank, const lk_sizes *sizes);

/* The shape that a pattern stands for. False if one of its sizes is not bound. */
bool lk_shape_make(const char *pattern, const lk_sizes *sizes, const lk_field *fields,
                   const void *options, lk_tensor *shape);

enum { LK_SHAPE_TEXT = 96 };

/* A shape as text, "[2,5]"; and a pattern, with the sizes that are bound, "[2,C]". Both return
 * `to`. */
const char *lk_shape_text(const lk_tensor *shape, char to[LK_SHAPE_TEXT]);
const char *lk_pattern_text(const char *text, const lk_sizes *sizes, char to[LK_SHAPE_TEXT]);

/* tensor.c */

/* How many rows a tensor without elements may have. */
enum { LK_EMPTY_ROWS = 4096 };

/* Check what holds for the type and shape of any input: shape_mismatch or dtype_unsupported. */
lk_status lk_tensor_check(const char *name, const lk_tensor *tensor, lk_error *error);

/* isa.c */

/* The single losses (not composites) in the scalar table: by index, in alphabetical order, and by
 * name (NULL: there is none). */
const lk_loss *lk_isa_loss_at(int i);
const lk_loss *lk_isa_loss(const char *name);

/* The same loss in the best variant allowed, for a float element type. */
const lk_loss *lk_loss_variant(const lk_loss *loss, lk_dtype dtype);

/* graph.c */

extern const lk_loss lk_graph_loss;

#endif
