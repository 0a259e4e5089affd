/* SPDX-License-Identifier: MIT
 *
 * Random evaluations of any loss (trials), drawn from its description alone: options, sizes, input
 * forms and values; and their evaluation, with tensors placed in memory as a check requires. A
 * trial holds its values as doubles, so that they can be shifted, split into rows and converted to
 * every element type.
 */
#ifndef TESTS_TRIAL_H
#define TESTS_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "losskit.h"
#include "tests/bytes.h"
#include "tests/element.h"
#include "tests/random.h"

enum { TRIAL_INPUTS = 20, TRIAL_OPTIONS = 64, TRIAL_OUTPUTS = 48, TRIAL_NAME = 48 };

/* Trials: trial.c. */

/* A shape whose axes are labelled by the pattern: its letters, and for a leading size `a`, `b`, ...
 */
typedef struct layout {
    int rank;
    int64_t shape[LK_MAX_RANK];
    char owner[LK_MAX_RANK];
    int64_t count;
    bool leading; /* the pattern has leading axes, perhaps none of them */
} layout;

typedef struct trial_input {
    const lk_input *is;
    bool given;
    lk_dtype type;
    char pattern[TRIAL_NAME];
    layout at;
    double *x;
} trial_input;

typedef struct setting {
    const lk_field *field;
    char text[40];
} setting;

typedef struct trial {
    const lk_loss *loss;
    const lk_description *is;
    lk_dtype element;
    int inputs;
    trial_input in[TRIAL_INPUTS]; /* in the description's order */
    int settings;
    setting set[TRIAL_OPTIONS];
    int wants;
    char want[TRIAL_OUTPUTS][TRIAL_NAME];
    int lead_rank;
    int64_t lead[LK_MAX_RANK];
    int64_t size[26];
} trial;

/* What a check requires of the trials that it draws. */
typedef struct wish {
    lk_dtype element;
    const char *reduction; /* NULL: any */
    bool plain;            /* default options except the reduction */
    bool smooth;           /* values inside their ranges, not near the ends */
    bool small;            /* few elements */
    bool huge;             /* so many elements that there are several blocks */
    bool nonfinite;        /* some NaN and infinities among the differentiable inputs */
    bool one_lead;         /* exactly one size for `*` */
    bool sloped;           /* no option that makes a gradient another than the value's slope */
    bool valued;           /* not one that gives diagnostics alone: a part's first call */
    bool single;           /* no option that makes a row depend on others */
    bool aligned;          /* no integer option that could shift rows against their targets */
    bool needy;            /* the loss reported that it needs an option that is usually optional */
} wish;

double *new_doubles(int64_t n);
trial trial_copy(const trial *t);
void trial_free(trial *t);
/* The trial on one line, for reports. */
const char *trial_text(const trial *t, char to[1024]);

/* Options: the text of one, as set or by default; NULL if the loss has no such option. */
const char *trial_option(const trial *t, const char *name);
bool option_is(const trial *t, const char *name, const char *text);
void trial_set(trial *t, const char *name, const char *text);
int sentinels(const trial *t, double to[TRIAL_OPTIONS]);
int64_t option_limit(const trial *t);

/* Inputs and outputs. */
trial_input *trial_find(trial *t, const char *name);
trial_input *trial_add(trial *t, const char *name, lk_dtype type, double value);
bool trial_masks(const trial_input *in); /* is it a mask, whatever the bytes it is given in? */
void trial_want(trial *t, const char *prefix, const char *name);

/* Shapes and indices. */
const char *loss_pattern(const trial *t);
bool lay_out(const trial *t, const char *pattern, layout *to);
void unravel(const layout *at, int64_t flat, int64_t index[LK_MAX_RANK]);
int64_t ravel(const layout *at, const int64_t index[LK_MAX_RANK]);

/* Rows, and the slices of the batch along their first axis. */
int64_t trial_rows(const trial *t);
int64_t *rows_of(const trial *t, const layout *at);
bool *ignored_rows(const trial *t);
int batch_axis(const trial *t, const layout *at);
int64_t batch_size(const trial *t);
int64_t batch_slice(const trial *t, const layout *at, int axis, int64_t i);
const trial_input *trial_offsets(const trial *t);
trial trial_pick(const trial *t, const int64_t *slices, int64_t n);

/* Drawing: draw.c. */

trial trial_draw(const lk_loss *loss, const wish *wanted, lk_error *error);

/* Evaluating: evaluate.c. */

typedef enum place { HEAP, PAGE_BEHIND, PAGE_BEFORE } place;
typedef enum order { AT_ONCE, SHUFFLED, THREADS } order;

typedef struct how {
    const char *isa;
    order order;
    place place;
    int offset; /* of the first tensor within 64 bytes; the next ones go on from there */
    bool in_place;
    bool deferred; /* gradients after the values, with upstream gradients that come in between */
    unsigned char poison;
} how;

typedef struct answer {
    lk_status status;
    lk_error error;
    const char *broken; /* what the evaluation did that it must not, or NULL */
    int count;
    struct {
        char name[TRIAL_NAME];
        lk_tensor tensor; /* its data is this answer's own */
    } out[TRIAL_OUTPUTS];
} answer;

/* The answer's status tells how it went; free the answer either way. */
answer evaluate(const trial *t, const how *h);
void answer_free(answer *a);
const lk_tensor *answer_find(const answer *a, const char *name);
double answer_value(const answer *a, const char *name, int64_t i);

#endif
