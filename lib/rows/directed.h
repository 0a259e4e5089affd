/* SPDX-License-Identifier: MIT
 *
 * InfoNCE in several directions: what a softmax of anchor i compares its positive with, besides all
 * candidates. There are three tables of similarities: anchors by candidates, anchors by anchors,
 * and positives by candidates. A row of the loss reads a row of each, and the column of the first
 * that its positive has. The tables are kept for the gradients.
 *
 * Inside, candidates that are positives come before the others, and anchors are sorted by them; so
 * where no two anchors have the same positive, as all have that ask for the third table, it is the
 * row's own. What compares a set with itself is the same both ways and is computed once: a row
 * meets the entries from its chunk on, and those before by columns. Blocks of rows add up their
 * parts of the columns, which are joined once all rows have been visited.
 *
 * The entries of row i, whose positive is candidate pos(i); S is a cosine over the temperature:
 *
 *     query_to_doc    S(anchor i, candidate j)           every j that the mask allows
 *     query_to_query  S(anchor i, anchor k)              k != i
 *     doc_to_query    S(anchor k, candidate pos(i))      every k
 *     doc_to_doc      S(candidate j, candidate pos(i))   j of another anchor's group
 *
 * So the positive is twice in a joint sum with doc_to_query. The mask acts on query_to_doc alone.
 * So does hardness, which multiplies a score by 1 + hardness temperature, the addition being a
 * constant for the gradient.
 *
 * All of it is computed with reals, whatever the elements: the variants of 16 bits call that of
 * f32.
 */
#ifndef LK_DIRECTED_H
#define LK_DIRECTED_H

#include "rows/units.h"

#ifdef LK_ELEMENT_F64
#define DIRECTED_VARIANT DIRECTED_JOIN(LK_ISA, F64)
#else
#define DIRECTED_VARIANT DIRECTED_JOIN(LK_ISA, F32)
#endif
#define DIRECTED_JOIN_(isa, type) isa##_##type
#define DIRECTED_JOIN(isa, type)  DIRECTED_JOIN_(isa, type)

#define directed_order          LK_PASTE(DIRECTED_VARIANT, directed_order)
#define directed_units          LK_PASTE(DIRECTED_VARIANT, directed_units)
#define directed_take           LK_PASTE(DIRECTED_VARIANT, directed_take)
#define directed_prepare        LK_PASTE(DIRECTED_VARIANT, directed_prepare)
#define directed_rows           LK_PASTE(DIRECTED_VARIANT, directed_rows)
#define directed_settle         LK_PASTE(DIRECTED_VARIANT, directed_settle)
#define directed_line           LK_PASTE(DIRECTED_VARIANT, directed_line)
#define directed_candidate_line LK_PASTE(DIRECTED_VARIANT, directed_candidate_line)
#define directed_column_line    LK_PASTE(DIRECTED_VARIANT, directed_column_line)
#define directed_visit_products LK_PASTE(DIRECTED_VARIANT, directed_visit_products)

enum { QUERY_TO_DOC, QUERY_TO_QUERY, DOC_TO_QUERY, DOC_TO_DOC };
enum { JOINT, PER_DIRECTION };
enum { HARD_IN_BATCH, HARD_OWN, HARD_ALL };

/* How many rows, or vectors that the gradients are given of, are computed at a time: a chunk. */
enum { DIRECTED_ROWS = 128 };

/* A table of scores, and those of the guide, or NULL. What is no entry of any row is -inf. */
typedef struct directed_table {
    real *s, *g;
    int64_t stride;
} directed_table;

/* Vectors of one kind, the model's or the guide's. */
typedef struct directed_side {
    pair_units anchors, candidates;
} directed_side;

typedef struct directed {
    unsigned directions; /* bits */
    int partition, hardness_set;
    double temperature, hardness, smoothing;
    double self_margin, guide_margin; /* self_margin NaN: off */
    bool relative;
    int mask, group; /* inputs; -1: not given */
    bool guided;
    bool moments; /* is the gradient of the temperature asked for? */
    bool kept;    /* are those of vectors? */
    int64_t anchors, candidates, blocks, block_rows;
    directed_side model, guide;
    double lack_a, lack_c;     /* see pair_lack */
    directed_table ac, aa, cc; /* without s: not needed */
    pair_place *anchor_at;     /* what is where: the anchor's positive (key), and the anchor */
    pair_place *candidate_at;  /* the candidate (at) */
    int64_t *positive;         /* of each row */
    int64_t *start;            /* of each positive, where its rows begin; ends with all */
    real *s;                   /* of each row and its positive */
    real *most, *most_guide;   /* similarities above these are excluded */
    double *weight;            /* of each row's gradient */
    /* Of each row, besides its positive: the greatest score; the sum of e^(score - top); the same
     * times score - s; with label smoothing the number of scores, and their sum less s. */
    real *top;
    double *rest, *moment, *allowed, *sum;
    /* The first three of what rows meet by columns: the part that each block of rows has; by block,
     * then row. */
    real *column_top;
    double *column_rest, *column_moment;
    void *room; /* for a product of two vectors */
} directed;

/* What all entries of a row have in common. A pool is what one softmax has: pool 0 all entries, or
 * with per_direction the row's, and then pool 1 the column's. G of an entry with score x is
 * by[pool] e^(x - top[pool]) - off, off being label smoothing's; that of the positive is pull. */
typedef struct directed_row {
    double loss, moment, pull, off;
    double by[2], top[2];
} directed_row;

/* Take what a call needs of job->state. The options, sizes, inputs and the units of model.anchors
 * and model.candidates are there. */
LK_DRIVER void directed_take(const lk_job *job, size_t *used, directed *p);

/* Once anchor_at[i].key are the positives of anchors i: the order. */
LK_DRIVER void directed_order(const directed *p);

/* Fill in units that are normalised, from reals, in that order. */
LK_DRIVER void directed_units(const pair_units *u, const real *v, const pair_place *at);

/* Once the units are filled. */
LK_DRIVER void directed_prepare(const directed *p);

/* Visit a block of rows. */
LK_DRIVER void directed_rows(const lk_job *job, const directed *p, int64_t first, int64_t count,
                             void *scratch);

/* Row i, when all rows have been visited. */
LK_DRIVER directed_row directed_settle(const directed *p, int64_t i);

/* Parts of it, for the gradients (rows/directed_back.h). Lines are entries' scores, where -inf is
 * what is excluded or no entry. */

LK_INLINE bool has(const directed *p, int direction)
{
    return p->directions >> direction & 1;
}

/* How many candidates are positives. */
LK_INLINE int64_t positives_of(const directed *p)
{
    return p->anchors > 0 ? p->positive[p->anchors - 1] + 1 : 0;
}

/* Room of a run: lines, then what else it needs. */
typedef struct lines {
    real *ac, *aa, *cc, *room;
    real *after;
} lines;

LK_INLINE lines lines_of(const directed *p, void *scratch, size_t products)
{
    const int64_t b = padded_lanes(p->anchors), m = padded_lanes(p->candidates);
    lines l;
    l.ac = (real *)((char *)scratch + products);
    l.aa = l.ac + m;
    l.cc = l.aa + b;
    l.room = l.cc + m;
    l.after = l.room + 2 * b;
    return l;
}

LK_INLINE int64_t lines_reals(const directed *p)
{
    return 2 * padded_lanes(p->candidates) + 3 * padded_lanes(p->anchors);
}

/* `n` entries of a table from place `at` on, in x or where they are; those excluded that are above
 * the limits of row i, or (step 1) of the rows from i on, one after another. */
LK_DRIVER const real *directed_line(const directed *p, const directed_table *t, int64_t at,
                                    int64_t i, int64_t step, int64_t n, real *x);

/* Entries of query_to_doc of row i, candidates j..j+n-1, but for the positive. */
LK_DRIVER void directed_candidate_line(const lk_job *job, const directed *p, int64_t i, int64_t j,
                                       int64_t n, real *x);

/* Entries of doc_to_query with the anchor of row i, of the rows k..k+n-1, but for itself. `room`
 * has twice as many reals as there are rows. */
LK_DRIVER void directed_column_line(const directed *p, int64_t i, int64_t k, int64_t n, real *x,
                                    real *room);

/* Bytes of the products of a visit, whole lines. */
LK_DRIVER size_t directed_visit_products(const directed *p);

#endif
