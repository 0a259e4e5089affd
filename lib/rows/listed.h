/* SPDX-License-Identifier: MIT
 *
 * Rows of class scores against a teacher that tells of some classes alone: their indices, and their
 * log-probabilities. Symbols: q the teacher's probabilities of the listed classes, Q their sum, p
 * the softmax of the scaled scores; the rest are the classes that are not listed.
 *
 * The value of a row is made of all its scores; the derivatives of some of them, of these and of
 * what the value has noted. So a row may be computed in place, and its derivatives in parts.
 */
#ifndef LK_LISTED_H
#define LK_LISTED_H

#include "rows/teacher.h"

enum { RENORMALIZE, TRUNCATED, CONDITIONAL, TAIL };                /* tail */
enum { LISTED_FORWARD, LISTED_REVERSE, LISTED_JSD, LISTED_MIXED }; /* divergence */

/* What such a loss's option struct has as its member `listed`. */
typedef struct listed_options {
    int tail;
    double logprob_floor; /* NaN: off */
} listed_options;

#define LISTED_TAIL(st)                                                                            \
    {                                                                                              \
        .name = "tail", .type = LK_CHOICE, .offset = offsetof(st, listed.tail),                    \
        .fallback = "renormalize", .choices = "renormalize|truncated|conditional|tail",            \
        .help = "what becomes of the teacher's mass that it has not told of: scaled away, left "   \
                "out, left out on both sides, or one class of its own"                             \
    }
#define LISTED_FLOOR(st)                                                                           \
    {                                                                                              \
        .name = "logprob_floor", .type = LK_REAL, .flags = LK_OFF | LK_RANGED | LK_OPEN_END,       \
        .min = -(double)INFINITY, .max = 0, .offset = offsetof(st, listed.logprob_floor),          \
        .fallback = "off",                                                                         \
        .help = "log-probabilities of the student below this count as this, and have no slope; "   \
                "with tail=renormalize or truncated"                                               \
    }

/* letter: of the number of classes. */
#define LISTED_IDS(flags_, letter, help_)                                                          \
    {                                                                                              \
        .name = "teacher_ids", .forms = {{"* K", LK_INDICES}}, .flags = (flags_),                  \
        .range = "[-1," letter "), distinct", .help = (help_)                                      \
    }
#define LISTED_LOGPROBS(flags_, help_)                                                             \
    {                                                                                              \
        .name = "teacher_logprobs", .forms = {{"* K", LK_FLOATS}}, .flags = (flags_),              \
        .range = "<=0, exp sums to <=1", .help = (help_)                                           \
    }

/* What a call's rows are compared with, and how. */
typedef struct listed_plan {
    const lk_job *job;
    int ids, logprobs; /* inputs */
    int64_t classes;   /* that are scored */
    listed_options options;
    int divergence;
    double beta, scale; /* scale: what the scores are multiplied by */
    bool slopes;        /* will derivatives be asked for? */
} listed_plan;

/* Each variant has its own copy, under its own names; defined in rows/listed.c. */
#define listed_check     LK_PASTE(LK_VARIANT, listed_check)
#define listed_check_row LK_PASTE(LK_VARIANT, listed_check_row)
#define listed_note_size LK_PASTE(LK_VARIANT, listed_note_size)
#define listed_value     LK_PASTE(LK_VARIANT, listed_value)
#define listed_slopes    LK_PASTE(LK_VARIANT, listed_slopes)

/* What tables cannot say of the options. */
LK_DRIVER lk_status listed_check(const lk_job *job, const listed_options *o, lk_error *error);

/* Are the classes that row i lists distinct ones of the plan, and their probabilities at most 1?
 * `seen`: zeros, a bit for each class, which are zeros again afterwards. */
LK_DRIVER lk_status listed_check_row(const listed_plan *plan, int64_t i, unsigned char *seen,
                                     lk_error *error);
LK_INLINE size_t listed_seen_size(int64_t classes)
{
    return (size_t)classes / 8 + 1;
}

/* Bytes of the note of a row of which a teacher lists that many classes; any number of notes lie
 * one after another. */
LK_DRIVER size_t listed_note_size(int64_t listed);

/* The divergence of a row of scores x from row i of the teacher; NaN if the row has no softmax. */
LK_DRIVER double listed_value(const listed_plan *plan, int64_t i, const elem *x, void *note);

/* Write `weight` times the derivatives, with respect to the scaled scores, of `count` classes from
 * `first` on, whose scores are x; `to` may be x. */
LK_DRIVER void listed_slopes(const void *note, double weight, int64_t first, int64_t count,
                             const elem *x, elem *to);

#endif
