/* SPDX-License-Identifier: MIT
 *
 * What the parts of a linear head (rows/head.h) have in common. A call has a plan, the head, which
 * says where everything is and how many rows and classes are computed together; a run has a room,
 * its scratch. From hidden states to scores and back is one part, which the visit of the rows
 * (head_visit.c) uses for some rows and all classes, and a pass over the classes (head_classes.c)
 * for some classes and all rows, some at a time.
 *
 * Counted rows are counted from 0, as q; k is the place of a row among those computed together.
 */
#ifndef LK_HEAD_PARTS_H
#define LK_HEAD_PARTS_H

#include "rows/head.h"
#include "rows/reals.h"
#include "rows/room.h"

/* Each variant has its own copy, under its own names. */
#define head_of           LK_PASTE(LK_VARIANT, head_of)
#define head_visit_rows   LK_PASTE(LK_VARIANT, head_visit_rows)
#define head_visit_room   LK_PASTE(LK_VARIANT, head_visit_room)
#define head_pass_rows    LK_PASTE(LK_VARIANT, head_pass_rows)
#define head_pass_classes LK_PASTE(LK_VARIANT, head_pass_classes)
#define head_pass_room    LK_PASTE(LK_VARIANT, head_pass_room)
#define head_make_scores  LK_PASTE(LK_VARIANT, head_make_scores)
#define head_score        LK_PASTE(LK_VARIANT, head_score)
#define head_value        LK_PASTE(LK_VARIANT, head_value)
#define head_slopes       LK_PASTE(LK_VARIANT, head_slopes)
#define head_weights      LK_PASTE(LK_VARIANT, head_weights)
#define head_norm_back    LK_PASTE(LK_VARIANT, head_norm_back)

enum {
    HEAD_CLASSES = 512, /* of a block of a pass */
    HEAD_CHUNK = 512,   /* reals that are looked at together */
};

/* One head of a call. */
typedef struct head_one {
    const lk_tensor *hidden, *weight;
    int64_t depth;
    real *bias, *norm; /* as reals; or NULL */
} head_one;

typedef struct head {
    const lk_job *job;
    const head_loss *of;
    head_one own, teacher; /* teacher.hidden is NULL if there is none */
    int64_t classes;
    double eps;
    bool bends; /* are scores looked at as they are, or: */
    head_bend bend[2];
    int64_t *order;  /* the counted rows */
    bool *live;      /* of each of them: is its E other than 0? */
    bool ahead;      /* are scores made ahead of the visit? */
    real *scores[2]; /* then those of counted rows, by both heads */
    char *notes;     /* of each of them, of as many bytes; NULL: no pass asks for them */
    size_t note;
    real *shares; /* of each of them, in the gradient of norm_weight; NULL: not wanted */
    size_t bytes; /* of the whole state */
} head;

/* The arrays that rows are computed in. */
typedef struct head_room {
    void *products;
    real *hidden[2], *scores[2]; /* of both heads */
    real *by_vector;             /* gradients of hidden states, or of weights */
    real *bent[2];               /* scores of a row */
    void *note;                  /* of a row, where none are kept */
    size_t bytes;
} head_room;

LK_DRIVER head head_of(const lk_job *job);

/* How many rows are visited together; how many rows and classes a pass takes at a time. */
LK_DRIVER int64_t head_visit_rows(const head *h);
LK_DRIVER int64_t head_pass_rows(const head *h);
LK_DRIVER int64_t head_pass_classes(const head *h);

LK_DRIVER head_room head_visit_room(const head *h, void *scratch);
LK_DRIVER head_room head_pass_room(const head *h, void *scratch);

/* From row to row of scores, in reals: whole lines. */
LK_INLINE int64_t head_apart(int64_t classes)
{
    return (int64_t)(whole_lines((size_t)classes * sizeof(real)) / sizeof(real));
}

/* The scores of the row at place k, of so many classes; of the teacher, if there is none: NULL. */
LK_INLINE real *head_scores_at(const head_room *r, int of, int64_t k, int64_t classes)
{
    return r->scores[of] ? r->scores[of] + k * head_apart(classes) : NULL;
}

/* Hidden states of counted rows from q on, and the scores of `count` classes from `first` on, by
 * both heads; from row to row of scores `apart` reals. */
LK_DRIVER void head_make_scores(const head *h, const head_room *r, int64_t q, int64_t rows,
                                int64_t first, int64_t count, real *const to[2], int64_t apart);

/* The same to the room's scores. */
LK_DRIVER void head_score(const head *h, const head_room *r, int64_t q, int64_t rows, int64_t first,
                          int64_t count);

/* The value of counted row q, which has scores of all classes. Returns whether it is live. */
LK_DRIVER bool head_value(const head *h, const head_room *r, int64_t q, int64_t k, lk_block *block);

/* The scores of a row that is live become E, of `count` classes from `first` on. */
LK_DRIVER void head_slopes(const head *h, const head_room *r, int64_t q, int64_t k, int64_t first,
                           int64_t count);

/* The weights of `count` classes from `first` on, as vectors; or, by component, across. */
LK_DRIVER product_side head_weights(const head_one *s, int64_t first, int64_t count,
                                    bool by_component);

/* Make the gradient g of what the head multiplied that of the hidden state of row i, and note its
 * share in the gradient of norm_weight. `unit` is scratch for a hidden state. */
LK_DRIVER void head_norm_back(const head *h, int64_t i, real *g, real *share, real *unit);

#endif
