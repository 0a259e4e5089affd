/* SPDX-License-Identifier: MIT
 *
 * Random evaluations of any loss, drawn from its description alone: sizes, forms, values, options;
 * and their evaluation with tensors placed wherever a check wants them. A trial keeps its numbers
 * as doubles, so that they can be shifted, cut into rows and given in every element type.
 */
#ifndef TRIAL_H
#define TRIAL_H

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "losskit.h"

enum { TRIAL_INPUTS = 20, TRIAL_OPTIONS = 64, TRIAL_OUTPUTS = 48, TRIAL_NAME = 48 };

/* ------------------------------------------------------------------------------------ random - */

static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state += 0x9E3779B97F4A7C15U;
    uint64_t z = rng_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

/* Of lo..hi. */
static int64_t rng_int(int64_t lo, int64_t hi)
{
    return lo + (int64_t)(rng() % (uint64_t)(hi - lo + 1));
}

/* Of (0, 1). */
static double rng_unit(void)
{
    return ((double)(rng() >> 12) + 0.5) * 0x1p-52;
}

static bool rng_chance(double p)
{
    return rng_unit() < p;
}

static double rng_normal(void)
{
    return sqrt(-2 * log(rng_unit())) * cos(6.283185307179586 * rng_unit());
}

/* ------------------------------------------------------------------------------ element types  */

static bool is_float(lk_dtype type)
{
    return (unsigned)type < LK_DTYPE_COUNT && ((LK_FLOATS >> type) & 1u) != 0;
}

static bool is_mask(lk_dtype type)
{
    return (unsigned)type < LK_DTYPE_COUNT && ((LK_MASKS >> type) & 1u) != 0;
}

/* How many bits follow the leading one, and the exponents of the smallest and greatest numbers. */
static void float_format(lk_dtype type, int *digits, int *lowest, int *highest)
{
    *digits = type == LK_F64 ? 52 : type == LK_F32 ? 23 : type == LK_F16 ? 10 : 7;
    *lowest = type == LK_F64 ? -1022 : type == LK_F16 ? -14 : -126;
    *highest = type == LK_F64 ? 1023 : type == LK_F16 ? 15 : 127;
}

/* The distance of neighbouring numbers of a float type around x. */
static double ulp(lk_dtype type, double x)
{
    int digits, lowest, highest;
    float_format(type, &digits, &lowest, &highest);
    if (!isfinite(x))
        return 0;
    int e = x == 0 ? lowest : ilogb(x);
    return ldexp(1, (e < lowest ? lowest : e) - digits);
}

/* x rounded to a float type, ties to even. */
static double round_to(lk_dtype type, double x)
{
    int digits, lowest, highest;
    float_format(type, &digits, &lowest, &highest);
    if (!isfinite(x) || type == LK_F64)
        return x;
    double unit = ulp(type, x), rounded = rint(x / unit) * unit;
    return fabs(rounded) >= ldexp(2, highest) ? copysign((double)INFINITY, x) : rounded;
}

/* The bits of a number of a 16-bit type that has a place there, and back. */
static uint16_t half_bits(lk_dtype type, double x)
{
    int digits, lowest, highest;
    float_format(type, &digits, &lowest, &highest);
    uint32_t sign = signbit(x) ? 0x8000 : 0, top = 0x7fffu >> digits << digits;
    if (isnan(x))
        return (uint16_t)(sign | top | 1u << (digits - 1));
    if (isinf(x))
        return (uint16_t)(sign | top);
    x = fabs(x);
    if (x < ldexp(1, lowest))
        return (uint16_t)(sign | (uint32_t)ldexp(x, digits - lowest));
    int e = ilogb(x);
    uint32_t fraction = (uint32_t)ldexp(x, digits - e) - (1u << digits);
    return (uint16_t)(sign | (uint32_t)(e - lowest + 1) << digits | fraction);
}

static double half_value(lk_dtype type, uint16_t bits)
{
    int digits, lowest, highest;
    float_format(type, &digits, &lowest, &highest);
    int e = (bits & 0x7fff) >> digits, fraction = bits & ((1 << digits) - 1);
    double x = e == 0 ? ldexp(fraction, lowest - digits)
               : e == highest - lowest + 2
                   ? (fraction ? (double)NAN : (double)INFINITY)
                   : ldexp((1 << digits) + fraction, lowest + e - 1 - digits);
    return bits & 0x8000 ? -x : x;
}

/* Element i of memory of any alignment. True masks get any byte that is not 0. */
static void store(void *data, lk_dtype type, int64_t i, double x)
{
    char *at = (char *)data + (size_t)i * lk_dtype_size(type);
    float narrow;
    uint16_t half;
    int64_t whole;
    int32_t word;
    switch (type) {
    case LK_F64:
        memcpy(at, &x, sizeof x);
        return;
    case LK_F32:
        narrow = (float)x;
        memcpy(at, &narrow, sizeof narrow);
        return;
    case LK_F16:
    case LK_BF16:
        half = half_bits(type, round_to(type, x));
        memcpy(at, &half, sizeof half);
        return;
    case LK_I64:
        whole = (int64_t)x;
        memcpy(at, &whole, sizeof whole);
        return;
    case LK_I32:
        word = (int32_t)x;
        memcpy(at, &word, sizeof word);
        return;
    default:
        *(unsigned char *)at = (unsigned char)(x == 0 ? 0 : 1 + i % 3 * 127);
        return;
    }
}

static double load(const void *data, lk_dtype type, int64_t i)
{
    const char *at = (const char *)data + (size_t)i * lk_dtype_size(type);
    double wide;
    float narrow;
    uint16_t half;
    int64_t whole;
    int32_t word;
    switch (type) {
    case LK_F64:
        memcpy(&wide, at, sizeof wide);
        return wide;
    case LK_F32:
        memcpy(&narrow, at, sizeof narrow);
        return (double)narrow;
    case LK_F16:
    case LK_BF16:
        memcpy(&half, at, sizeof half);
        return half_value(type, half);
    case LK_I64:
        memcpy(&whole, at, sizeof whole);
        return (double)whole;
    case LK_I32:
        memcpy(&word, at, sizeof word);
        return word;
    default:
        return *at != 0;
    }
}

static void *must(void *memory)
{
    if (!memory) {
        fprintf(stderr, "no memory\n");
        abort();
    }
    return memory;
}

static double *new_doubles(int64_t n)
{
    return must(calloc((size_t)(n > 0 ? n : 1), sizeof(double)));
}

/* ------------------------------------------------------------------------------------- trials  */

/* A tensor whose axes are known by what they stand for: '*' or a letter. */
typedef struct layout {
    int rank;
    int64_t shape[LK_MAX_RANK];
    char owner[LK_MAX_RANK];
    int64_t count;
} layout;

typedef struct trial_input {
    const lk_input *is;
    bool given;
    lk_dtype type;
    const char *pattern;
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

/* What a check wants of the trials it draws. */
typedef struct wish {
    lk_dtype element;
    const char *reduction; /* NULL: any */
    bool plain;            /* default options but for the reduction */
    bool smooth;           /* values inside their ranges, away from the ends */
    bool small;            /* few elements */
    bool huge;             /* many of them: several blocks */
    bool nonfinite;        /* some NaN and infinities among the differentiable inputs */
    bool one_lead;         /* exactly one size for `*` */
    bool aligned;          /* no integer option that could move rows against their targets */
    bool needy;            /* the loss has said that it needs an option that can be left out */
} wish;

static const char *trial_option(const trial *t, const char *name)
{
    for (int i = 0; i < t->settings; i++)
        if (strcmp(t->set[i].field->name, name) == 0)
            return t->set[i].text;
    for (const lk_field *f = t->is->options; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f->fallback;
    return NULL;
}

static bool option_is(const trial *t, const char *name, const char *text)
{
    const char *has = trial_option(t, name);
    return has && strcmp(has, text) == 0;
}

/* The pattern that "loss" stands for. */
static const char *loss_pattern(const trial *t)
{
    int choice = 0;
    if (!t->is->loss_shape)
        return "";
    if (!t->is->loss_shapes)
        return option_is(t, "reduction", "none") ? t->is->loss_shape : "";
    for (const lk_field *f = t->is->options; f->name; f++) {
        const char *words = strcmp(f->name, "reduction") == 0 ? f->choices : "";
        for (size_t n; *words; words += n + (words[n] == '|'), choice++) {
            char word[64];
            n = strcspn(words, "|");
            snprintf(word, sizeof word, "%.*s", (int)n, words);
            if (option_is(t, "reduction", word))
                return t->is->loss_shapes[choice];
        }
    }
    return "";
}

/* Lay a pattern out with the trial's sizes. False where an option puts an axis where none is. */
static bool lay_out(const trial *t, const char *pattern, layout *to)
{
    char letters[LK_MAX_RANK + 1];
    int axis[LK_MAX_RANK], n = 0;
    bool star = false;
    if (strcmp(pattern, "loss") == 0)
        pattern = loss_pattern(t);
    for (const char *p = pattern; *p;) {
        size_t length = strcspn(p, " ");
        if (*p == '*') {
            star = true;
        } else {
            axis[n] = -1;
            if (length > 2 && p[1] == '@') {
                char name[64];
                snprintf(name, sizeof name, "%.*s", (int)length - 2, p + 2);
                axis[n] = atoi(trial_option(t, name));
            }
            letters[n++] = *p;
        }
        p += length + strspn(p + length, " ");
    }
    *to = (layout){.rank = n + (star ? t->lead_rank : 0), .count = 1};
    if (to->rank > LK_MAX_RANK)
        return false;
    for (int i = 0; i < n; i++) {
        int k = axis[i] < 0 ? to->rank - n + i : axis[i];
        if (k >= to->rank || to->owner[k])
            return false;
        to->owner[k] = letters[i];
        to->shape[k] = letters[i] == '1' ? 1 : t->size[letters[i] - 'A'];
    }
    for (int k = 0, lead = 0; k < to->rank; k++) {
        if (!to->owner[k]) {
            to->owner[k] = '*';
            to->shape[k] = t->lead[lead++];
        }
        to->count *= to->shape[k];
    }
    return true;
}

/* How many rows: values under reduction=none. */
static int64_t trial_rows(const trial *t)
{
    layout at;
    return t->is->loss_shape && lay_out(t, t->is->loss_shape, &at) ? at.count : 1;
}

static void unravel(const layout *at, int64_t flat, int64_t index[LK_MAX_RANK])
{
    for (int k = at->rank - 1; k >= 0; k--) {
        index[k] = at->shape[k] > 0 ? flat % at->shape[k] : 0;
        flat /= at->shape[k] > 0 ? at->shape[k] : 1;
    }
}

static int64_t ravel(const layout *at, const int64_t index[LK_MAX_RANK])
{
    int64_t flat = 0;
    for (int k = 0; k < at->rank; k++)
        flat = flat * at->shape[k] + index[k];
    return flat;
}

/* The axes of a tensor that tell its rows apart, in the order of the loss's shape; -1 if an axis
 * of the rows is missing. */
static int row_axes(const trial *t, const layout *at, int axes[LK_MAX_RANK])
{
    layout rows;
    int lead = 0;
    if (!t->is->loss_shape || !lay_out(t, t->is->loss_shape, &rows))
        return -1;
    for (int k = 0; k < rows.rank; k++) {
        int found = -1, skip = rows.owner[k] == '*' ? lead++ : 0;
        for (int a = 0; a < at->rank && found < 0; a++)
            if (at->owner[a] == rows.owner[k] && skip-- == 0)
                found = a;
        if (found < 0)
            return -1;
        axes[k] = found;
    }
    return rows.rank;
}

/* The row that each element belongs to, or NULL if the tensor is shared by the rows. Free it. */
static int64_t *rows_of(const trial *t, const layout *at)
{
    int64_t index[LK_MAX_RANK];
    int axes[LK_MAX_RANK], n = row_axes(t, at, axes);
    if (n < 0)
        return NULL;
    int64_t *rows = must(calloc((size_t)at->count + 1, sizeof *rows));
    for (int64_t i = 0; i < at->count; i++) {
        unravel(at, i, index);
        for (int k = 0; k < n; k++)
            rows[i] = rows[i] * at->shape[axes[k]] + index[axes[k]];
    }
    return rows;
}

static void trial_free(trial *t)
{
    for (int i = 0; i < t->inputs; i++)
        free(t->in[i].x);
    t->inputs = 0;
}

static trial trial_copy(const trial *t)
{
    trial copy = *t;
    for (int i = 0; i < t->inputs; i++) {
        if (!t->in[i].given)
            continue;
        copy.in[i].x = new_doubles(t->in[i].at.count);
        memcpy(copy.in[i].x, t->in[i].x, (size_t)t->in[i].at.count * sizeof(double));
    }
    return copy;
}

static void trial_set(trial *t, const char *name, const char *text)
{
    for (int i = 0; i < t->settings; i++) {
        if (strcmp(t->set[i].field->name, name) == 0) {
            snprintf(t->set[i].text, sizeof t->set[i].text, "%s", text);
            return;
        }
    }
    for (const lk_field *f = t->is->options; f->name; f++) {
        if (strcmp(f->name, name) == 0) {
            t->set[t->settings].field = f;
            snprintf(t->set[t->settings].text, sizeof t->set->text, "%s", text);
            t->settings++;
        }
    }
}

/* The first axis of the rows in a tensor, or -1: along it a batch can be cut. */
static int batch_axis(const trial *t, const layout *at)
{
    layout rows;
    if (!t->is->loss_shape || !lay_out(t, t->is->loss_shape, &rows) || rows.rank == 0)
        return -1;
    for (int k = 0; k < at->rank; k++)
        if (at->owner[k] == rows.owner[0])
            return k;
    return -1;
}

/* How many slices the batch has along that axis; 0 where it cannot be cut. */
static int64_t batch_size(const trial *t)
{
    layout rows;
    if (!t->is->loss_shape || !lay_out(t, t->is->loss_shape, &rows) || rows.rank == 0)
        return 0;
    return rows.shape[0];
}

/* The same trial with n of its slices as the batch. */
static trial trial_pick(const trial *t, const int64_t *slices, int64_t n)
{
    trial to = *t;
    layout rows;
    lay_out(t, t->is->loss_shape, &rows);
    if (rows.owner[0] == '*')
        to.lead[0] = n;
    else
        to.size[rows.owner[0] - 'A'] = n;
    for (int i = 0; i < t->inputs; i++) {
        const trial_input *from = &t->in[i];
        trial_input *in = &to.in[i];
        in->x = NULL;
        if (!from->given)
            continue;
        int axis = batch_axis(t, &from->at);
        lay_out(&to, in->pattern, &in->at);
        in->x = new_doubles(in->at.count);
        for (int64_t j = 0; j < in->at.count; j++) {
            int64_t index[LK_MAX_RANK];
            unravel(&in->at, j, index);
            if (axis >= 0)
                index[axis] = slices[index[axis]];
            in->x[j] = from->x[ravel(&from->at, index)];
        }
    }
    return to;
}

static trial_input *trial_find(trial *t, const char *name)
{
    for (int i = 0; i < t->inputs; i++)
        if (t->in[i].given && strcmp(t->in[i].is->name, name) == 0)
            return &t->in[i];
    return NULL;
}

/* The integers by which the options of a trial may mark a row as ignored: those without a range.
 */
static int sentinels(const trial *t, double to[TRIAL_OPTIONS])
{
    int n = 0;
    for (const lk_field *f = t->is->options; f->name; f++)
        if (f->type == LK_INTEGER && !(f->flags & LK_RANGED))
            to[n++] = (double)atoll(trial_option(t, f->name));
    return n;
}

/* The greatest number of classes that an option leaves: integers that are off or at least 1. */
static int64_t option_limit(const trial *t)
{
    int64_t limit = INT64_MAX;
    for (const lk_field *f = t->is->options; f->name; f++) {
        const char *text = trial_option(t, f->name);
        if (f->type == LK_INTEGER && (f->flags & LK_OFF) && (f->flags & LK_RANGED) && f->min >= 1 &&
            text && strcmp(text, "off") != 0 && atoll(text) < limit)
            limit = atoll(text);
    }
    return limit;
}

/* Which rows are masked out, or have a sentinel as their target: those are not read. Free it. */
static bool *ignored_rows(const trial *t)
{
    double marks[TRIAL_OPTIONS];
    int n = sentinels(t, marks);
    int64_t rows = trial_rows(t);
    bool *ignored = must(calloc((size_t)rows + 1, sizeof *ignored));
    for (int i = 0; i < t->inputs; i++) {
        const trial_input *in = &t->in[i];
        if (!in->given || is_float(in->type) || in->at.count != rows)
            continue;
        int64_t *row = rows_of(t, &in->at);
        for (int64_t j = 0; row && j < in->at.count; j++) {
            ignored[row[j]] |= (in->is->flags & LK_IGNORES) && in->x[j] == 0;
            for (int k = 0; k < n && !is_mask(in->type); k++)
                ignored[row[j]] |= in->x[j] == marks[k];
        }
        free(row);
    }
    return ignored;
}

/* ------------------------------------------------------------------------------------ drawing  */

static void draw_real(const lk_field *f, char to[40])
{
    static const double at_will[] = {0.01, 0.25, 0.5, 1, 1.5, 2, 4};
    double lo = f->flags & LK_RANGED ? f->min : -4, hi = f->flags & LK_RANGED ? f->max : 4;
    double x;
    if (isfinite(lo) && isfinite(hi))
        x = rng_chance(0.2) && !(f->flags & LK_OPEN) ? lo
            : rng_chance(0.1)                        ? hi
                                                     : lo + (hi - lo) * rng_unit();
    else
        x = (isfinite(lo) ? lo : 0) + (rng_chance(0.5) ? at_will[rng_int(0, 6)] : 4 * rng_unit());
    if (!(f->flags & (LK_OPEN | LK_RANGED)) && rng_chance(0.1))
        x = 0;
    snprintf(to, 40, "%.17g", x);
}

/* Does a pattern of the loss have an axis that this option places? */
static bool places_axis(const trial *t, const lk_field *f)
{
    char word[64];
    snprintf(word, sizeof word, "@%s", f->name);
    for (const lk_input *in = t->is->inputs; in->name; in++)
        for (int i = 0; i < 3 && in->forms[i].shape; i++)
            if (strstr(in->forms[i].shape, word))
                return true;
    return false;
}

static void draw_option(trial *t, const lk_field *f)
{
    setting *s = &t->set[t->settings++];
    s->field = f;
    char *to = s->text;
    if ((f->flags & LK_OFF) && rng_chance(0.3)) {
        snprintf(to, sizeof s->text, "off");
        return;
    }
    switch (f->type) {
    case LK_REAL:
        draw_real(f, to);
        return;
    case LK_INTEGER: {
        double lo = f->flags & LK_RANGED ? f->min : -3, hi = f->flags & LK_RANGED ? f->max : 5;
        hi = hi > lo + 20 ? lo + (rng_chance(0.5) ? 2 : 20) : hi;
        lo += f->flags & LK_OPEN ? 1 : 0;
        int64_t x = rng_int((int64_t)lo, (int64_t)hi);
        /* Another value far from all others, where every integer is legal. */
        snprintf(to, sizeof s->text, "%" PRId64, f->flags & LK_RANGED || rng_chance(0.7) ? x : -77);
        return;
    }
    case LK_UNSIGNED: {
        double lo = f->flags & LK_RANGED ? f->min : 0, hi = f->flags & LK_RANGED ? f->max : 1e6;
        snprintf(to, sizeof s->text, "%" PRId64,
                 rng_int((int64_t)lo, (int64_t)(hi > lo + 20 ? lo + 20 : hi)));
        return;
    }
    case LK_LIST:
        to[0] = '\0';
        for (int64_t i = rng_int(0, 3), used = 0; i >= 0; i--)
            used += snprintf(to + used, sizeof s->text - (size_t)used, "%s%" PRId64,
                             used ? "," : "", rng_int(0, 5));
        return;
    case LK_FLAG:
        snprintf(to, sizeof s->text, "%s", rng_chance(0.5) ? "true" : "false");
        return;
    default: {
        int words = 1;
        for (const char *c = f->choices; *c; c++)
            words += *c == '|';
        const char *c = f->choices;
        for (int64_t i = rng_int(0, words - 1); i > 0; i--)
            c += strcspn(c, "|") + 1;
        snprintf(to, sizeof s->text, "%.*s", (int)strcspn(c, "|"), c);
        return;
    }
    }
}

static void draw_options(trial *t, const wish *w)
{
    bool any = !w->plain && rng_chance(0.75);
    t->settings = 0;
    for (const lk_field *f = t->is->options; f->name; f++) {
        bool reduction = strcmp(f->name, "reduction") == 0;
        if (w->aligned && f->fallback && f->type == LK_INTEGER && (f->flags & LK_RANGED) &&
            !(f->flags & LK_OFF) && !places_axis(t, f))
            continue;
        if (reduction && w->reduction)
            trial_set(t, f->name, w->reduction);
        else if (!f->fallback || (any && rng_chance(0.25)) || (reduction && rng_chance(0.6)) ||
                 (w->needy && f->type == LK_INTEGER && (f->flags & LK_OFF) && rng_chance(0.7)))
            draw_option(t, f);
    }
}

/* Sizes: the last letter of the loss, or the last of the leading sizes where there is no letter,
 * sweeps over numbers around those of lanes, the others are small. */
static void draw_sizes(trial *t, const wish *w)
{
    static const int64_t sweep[] = {1,  2,  3,  7,  8,  9,   15,  16,  17,
                                    31, 32, 33, 63, 65, 127, 513, 1031};
    const char *pattern = t->is->inputs[0].forms[0].shape, *last = NULL, *other = NULL;
    int letters = 0;
    bool star = false;
    for (const char *p = pattern; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        star = star || *p == '*';
        last = *p == '*' ? last : p;
        if (*p != '*' && rng_int(0, letters++) == 0)
            other = p;
    }
    if (!star && letters > 1 && !w->huge && rng_chance(0.3))
        last = other; /* many rows, or long ones, of few */
    int64_t swept = w->small ? rng_int(1, 9) : sweep[rng_int(0, 16)];
    int64_t few = swept > 100 ? 3 : 6;
    t->lead_rank = w->one_lead || w->huge ? 1 : (int)rng_int(0, 3);
    for (int k = 0; k < t->lead_rank; k++)
        t->lead[k] = rng_chance(0.03) && !w->smooth ? 0 : rng_int(1, t->lead_rank == 3 ? 3 : few);
    for (int i = 0; i < 26; i++)
        t->size[i] = rng_int(1, 4);
    if (w->huge) {
        int64_t classes = rng_chance(0.4) ? rng_int(2, 40) : rng_int(1, 3) * 3001;
        t->lead[0] = last ? 140000 / classes : 140001;
        if (last)
            t->size[*last - 'A'] = classes;
    } else if (last && t->lead_rank > 0 && rng_chance(0.15)) {
        t->lead[0] = swept; /* many rows of few */
    } else if (last) {
        t->size[*last - 'A'] = swept;
    } else if (t->lead_rank > 0) {
        t->lead[t->lead_rank - 1] = swept;
    }
}

/* What the values of a last axis have to do with each other: distinct, or logarithms of shares. */
static void relate_values(const trial *t, trial_input *in)
{
    const char *range = in->is->range ? in->is->range : "", *letter = strchr(range, ',');
    const int64_t K = in->at.rank > 0 ? in->at.shape[in->at.rank - 1] : 0;
    const bool distinct = strstr(range, ", distinct"), shares = strstr(range, ", exp sums");
    for (int64_t i = 0; i < in->at.count && (distinct || shares); i++) {
        if (shares) {
            in->x[i] = round_to(in->type, in->x[i] - log((double)K) - 0.01);
            continue;
        }
        const int64_t C = t->size[letter[1] - 'A'], row = i / K * K;
        for (int64_t tries = 0, k = row; k < i; k++) {
            if (in->x[k] != in->x[i] || in->x[i] < 0)
                continue;
            in->x[i] = ++tries > 3 * C ? -1 : (double)rng_int(0, C - 1);
            k = row - 1;
        }
    }
}

/* The value that the range of an input takes out: "[0,C) except option". */
static bool range_exception(const trial *t, const char *range, double *x)
{
    const char *name = range ? strstr(range, " except ") : NULL;
    const char *text = name ? trial_option(t, name + strlen(" except ")) : NULL;
    *x = text ? atof(text) : 0;
    return text;
}

/* What an option adds to the top of a range, "[0,V+option)": where it is off, the values of the
 * first input with that range decide, and those after it have to be among them. */
static int64_t range_spare(const trial *t, const char *top)
{
    const char *text = *top && top[1] == '+' ? trial_option(t, top + 2) : NULL;
    return !text ? 0 : strcmp(text, "off") == 0 ? rng_int(0, 3) : atoll(text);
}

/* The input before this one that has such a range too. */
static const trial_input *range_twin(const trial *t, const trial_input *in)
{
    const char *range = in->is->range;
    if (!range || !strchr(range, '+'))
        return NULL;
    for (const trial_input *k = t->in; k < in; k++)
        if (k->given && k->is->range && strcmp(k->is->range, range) == 0)
            return k;
    return NULL;
}

/* A value that the twin has in the slice of the batch where element i of an input is, or -1. */
static double twin_value(const trial_input *twin, const trial_input *in, int64_t i)
{
    const int64_t batch = in->at.shape[0], width = twin->at.count / batch;
    return width > 0 ? twin->x[i / (in->at.count / batch) * width + rng_int(0, width - 1)] : -1;
}

/* The values of an input, by its range. False if they cannot be drawn. */
static bool draw_values(trial *t, trial_input *in, double scale, const wish *w)
{
    const char *range = in->is->range;
    bool real = is_float(in->type);
    double marks[TRIAL_OPTIONS];
    const trial_input *twin = range_twin(t, in);
    /* What targets are compared with is no target. */
    int n_marks = range && strchr(range, '+') && !twin ? 0 : sentinels(t, marks);
    int64_t n = in->at.count;
    double lo = 0, hi = 1;
    char opening = 0, closing = 0, top[32] = "";
    in->x = new_doubles(n);
    if (range && sscanf(range, "%c%lf,%31[^])}]%c", &opening, &lo, top, &closing) == 4 &&
        opening != '{') {
        char *end;
        bool letter = top[0] >= 'A' && top[0] <= 'Z' && (!top[1] || top[1] == '+');
        hi = letter ? (double)t->size[top[0] - 'A'] : strtod(top, &end);
        if (!twin)
            hi += (double)range_spare(t, top);
        if (letter && real)
            hi = 1, lo = 0; /* the float form of an index: a share of each class */
        if (letter && !real && hi > (double)option_limit(t))
            hi = (double)option_limit(t);
        if (!real)
            hi -= closing == ')';
        if (!real && (lo > hi && n > 0))
            return false;
    } else if (range && opening != '{' && opening != '<' && opening != '>') {
        return false;
    }
    double exception;
    bool excepts = range_exception(t, range, &exception);
    if (excepts && lo == hi && lo == exception && n > 0)
        return false;
    double inside = w->smooth || opening == '(' || closing == ')' ? 0.02 : 0;
    for (int64_t i = 0; i < n; i++) {
        double x = scale * rng_normal();
        if (is_mask(in->type))
            x = rng_chance(0.75);
        else if (!range && !real)
            x = (double)rng_int(-3, 3);
        else if (range && opening == '{')
            x = rng_chance(0.5) ? lo : strtod(top, NULL);
        else if (range && opening && !strchr("<>", opening))
            x = real ? lo + (hi - lo) * (inside + (1 - 2 * inside) * rng_unit())
                     : (double)rng_int((int64_t)lo, (int64_t)hi);
        else if (range && !real)
            x = atof(range + 2) + (double)(rng_chance(0.1) ? rng_int(0, 3000) : rng_int(0, 6));
        else if (range)
            x = (*range == '<' ? -1 : 1) * (inside + fabs(rng_normal()));
        if (range && real && range[1] == '=' && !w->smooth && rng_chance(0.1))
            x = 0;
        if (range && opening == '[' && real && !w->smooth && rng_chance(0.05))
            x = lo;
        if (range && !real && closing == ')' && n_marks > 0 && rng_chance(0.15))
            x = marks[rng_int(0, n_marks - 1)];
        if (twin && x >= 0 && rng_chance(0.5))
            x = fmax(x, twin_value(twin, in, i));
        while (excepts && x == exception)
            x = (double)rng_int((int64_t)lo, (int64_t)hi);
        in->x[i] = real ? round_to(in->type, x) : x;
    }
    relate_values(t, in);
    return true;
}

static lk_dtype draw_dtype(unsigned dtypes)
{
    lk_dtype type = (lk_dtype)rng_int(0, LK_DTYPE_COUNT - 1);
    while (!((dtypes >> type) & 1u))
        type = (lk_dtype)rng_int(0, LK_DTYPE_COUNT - 1);
    return type;
}

/* Would a call with these inputs, options and outputs pass the check? */
static lk_status try_check(const trial *t, lk_error *error)
{
    lk_call *call = must(lk_call_new(t->loss));
    lk_status status = LK_OK;
    for (int i = 0; i < t->inputs && status == LK_OK; i++) {
        lk_tensor tensor = {NULL, t->in[i].type, t->in[i].at.rank, {0}};
        memcpy(tensor.shape, t->in[i].at.shape, sizeof tensor.shape);
        if (t->in[i].given)
            status = lk_call_input(call, t->in[i].is->name, &tensor, error);
    }
    for (int i = 0; i < t->settings && status == LK_OK; i++)
        status = lk_call_option(call, t->set[i].field->name, t->set[i].text, error);
    for (int i = 0; i < t->wants && status == LK_OK; i++)
        status = lk_call_want(call, t->want[i], error);
    if (status == LK_OK)
        status = lk_call_check(call, error);
    lk_call_free(call);
    return status;
}

/* Give input i, if it is to be given, a form. */
static bool draw_form(trial *t, int i)
{
    trial_input *in = &t->in[i];
    int forms = 1;
    if ((in->is->flags & LK_OPTIONAL) && rng_chance(0.6))
        return true;
    in->given = true;
    while (forms < 3 && in->is->forms[forms].shape)
        forms++;
    int64_t form = rng_int(0, forms - 1);
    in->pattern = in->is->forms[form].shape;
    unsigned dtypes = in->is->forms[form].dtypes;
    bool follows = (in->is->flags & LK_DIFFERENTIABLE) && ((dtypes >> t->element) & 1u);
    in->type = follows ? t->element : draw_dtype(dtypes);
    return lay_out(t, in->pattern, &in->at);
}

/* And values. */
static bool draw_input(trial *t, trial_input *in, double scale, const wish *w)
{
    bool follows = (in->is->flags & LK_DIFFERENTIABLE) && is_float(in->type);
    bool own_scale = !follows && is_float(in->type);
    if (!draw_values(t, in, own_scale ? 1 : scale, w))
        return false;
    for (int64_t j = 0; w->nonfinite && follows && j < in->at.count; j++)
        if (rng_chance(fmin(0.1, 3.0 / (double)in->at.count)))
            /* An infinity is legal nowhere that has a range, such as a probability. */
            in->x[j] = in->is->range || rng_chance(0.3) ? (double)NAN
                       : rng_chance(0.3)                ? (double)INFINITY
                                                        : -(double)INFINITY;
    return true;
}

/* All inputs: what the check says of them and of the options. */
static lk_status draw_inputs(trial *t, const wish *w, lk_error *error)
{
    double scale = rng_chance(0.5) ? 1 : 1 + 9 * rng_unit();
    for (int i = 0; t->is->inputs[i].name; i++, t->inputs++)
        t->in[i] = (trial_input){.is = &t->is->inputs[i]};
    for (int i = 0; i < t->inputs; i++)
        if (!draw_form(t, i))
            return LK_OPTION_CONFLICT;
    lk_status status = try_check(t, error);
    for (int i = 0; i < t->inputs && status == LK_OK; i++)
        if (t->in[i].given && !draw_input(t, &t->in[i], scale, w))
            status = LK_OPTION_CONFLICT;
    return status;
}

/* ---------------------------------------------------------------------------------- evaluating */

typedef enum place { HEAP, PAGE_BEHIND, PAGE_BEFORE } place;
typedef enum order { AT_ONCE, SHUFFLED, THREADS } order;

typedef struct how {
    const char *isa;
    order order;
    place place;
    int offset; /* of the first tensor within 64 bytes; the next ones go on from there */
    bool in_place;
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

static void answer_free(answer *a)
{
    for (int i = 0; i < a->count; i++)
        free(a->out[i].tensor.data);
    a->count = 0;
}

static const lk_tensor *answer_find(const answer *a, const char *name)
{
    for (int i = 0; i < a->count; i++)
        if (strcmp(a->out[i].name, name) == 0)
            return &a->out[i].tensor;
    return NULL;
}

static double answer_value(const answer *a, const char *name, int64_t i)
{
    const lk_tensor *t = answer_find(a, name);
    return t ? load(t->data, t->dtype, i) : (double)NAN;
}

/* Memory of exactly `bytes` bytes, with something on either side that shows or stops a step
 * outside. */
typedef struct plot {
    char *base;
    size_t whole; /* bytes mapped or allocated */
    char *data;
    size_t bytes;
    place place;
} plot;

enum { FENCE = 64 };
static const unsigned char fence_byte = 0xd7;

static plot plot_new(size_t bytes, place where, int offset)
{
    plot p = {.bytes = bytes, .place = where};
    if (where == HEAP) {
        p.whole = (bytes + 4 * FENCE) / 64 * 64;
        p.base = must(aligned_alloc(64, p.whole));
        memset(p.base, fence_byte, p.whole);
        p.data = p.base + FENCE + offset % 64;
        return p;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + page - 1) / page * page;
    p.whole = room + page;
    p.base = mmap(NULL, p.whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p.base == MAP_FAILED)
        must(NULL);
    char *forbidden = where == PAGE_BEHIND ? p.base + room : p.base;
    if (mprotect(forbidden, page, PROT_NONE) != 0)
        must(NULL);
    p.data = where == PAGE_BEHIND ? p.base + room - bytes : p.base + page;
    return p;
}

/* Was the fence left alone? */
static bool plot_intact(const plot *p)
{
    if (p->place != HEAP)
        return true; /* the processor watches */
    for (const char *c = p->base; c < p->base + p->whole; c++)
        if ((c < p->data || c >= p->data + p->bytes) && (unsigned char)*c != fence_byte)
            return false;
    return true;
}

static void plot_free(plot *p)
{
    if (p->place == HEAP)
        free(p->base);
    else
        munmap(p->base, p->whole);
}

typedef struct share {
    lk_call *call;
    int64_t first, step, blocks;
    void *scratch;
} share;

static void *run_share(void *argument)
{
    const share *s = argument;
    for (int64_t b = s->first; b < s->blocks; b += s->step)
        lk_call_run(s->call, b, 1, s->scratch);
    return NULL;
}

enum { WORKERS = 4 };

/* The blocks of one pass. */
static void run_blocks(lk_call *call, const how *h, answer *a)
{
    int64_t blocks = lk_call_blocks(call);
    size_t need = (lk_call_scratch(call) + 63) / 64 * 64;
    plot scratch[WORKERS];
    int workers = h->order == THREADS ? WORKERS : 1;
    for (int i = 0; i < workers; i++) {
        scratch[i] = plot_new(need, h->place, 0);
        memset(scratch[i].data, h->poison, need);
    }
#define SCRATCH(i) (need ? scratch[i].data : NULL)
    if (h->order == AT_ONCE) {
        lk_call_run(call, 0, blocks, SCRATCH(0));
    } else if (h->order == SHUFFLED) {
        int64_t *ticket = must(calloc((size_t)blocks + 1, sizeof *ticket));
        for (int64_t b = 0; b < blocks; b++) {
            int64_t k = rng_int(0, b);
            ticket[b] = ticket[k];
            ticket[k] = b;
        }
        for (int64_t b = 0; b < blocks; b++)
            lk_call_run(call, ticket[b], 1, SCRATCH(0));
        free(ticket);
    } else {
        pthread_t thread[WORKERS];
        share shares[WORKERS];
        for (int i = 0; i < WORKERS; i++) {
            shares[i] = (share){call, i, WORKERS, blocks, SCRATCH(i)};
            if (pthread_create(&thread[i], NULL, run_share, &shares[i]) != 0)
                must(NULL);
        }
        for (int i = 0; i < WORKERS; i++)
            pthread_join(thread[i], NULL);
    }
#undef SCRATCH
    for (int i = 0; i < workers; i++) {
        if (!plot_intact(&scratch[i]))
            a->broken = "wrote outside its scratch";
        plot_free(&scratch[i]);
    }
}

/* Evaluate a trial. The answer's status tells how it went; free the answer either way. */
static answer evaluate(const trial *t, const how *h)
{
    answer a = {0};
    plot in[TRIAL_INPUTS], out[TRIAL_OUTPUTS];
    void *image[TRIAL_INPUTS];
    bool over[TRIAL_INPUTS] = {false};
    int at = h->offset;
    if (h->isa)
        lk_isa_use(h->isa);
    lk_call *call = must(lk_call_new(t->loss));
    for (int i = 0; i < t->inputs; i++) {
        const trial_input *from = &t->in[i];
        if (!from->given)
            continue;
        in[i] = plot_new((size_t)from->at.count * lk_dtype_size(from->type), h->place, at);
        at += 7;
        for (int64_t j = 0; j < from->at.count; j++)
            store(in[i].data, from->type, j, from->x[j]);
        image[i] = must(malloc(in[i].bytes + 1));
        memcpy(image[i], in[i].data, in[i].bytes);
        lk_tensor tensor = {in[i].data, from->type, from->at.rank, {0}};
        memcpy(tensor.shape, from->at.shape, sizeof tensor.shape);
        if (a.status == LK_OK)
            a.status = lk_call_input(call, from->is->name, &tensor, &a.error);
    }
    for (int i = 0; i < t->settings && a.status == LK_OK; i++)
        a.status = lk_call_option(call, t->set[i].field->name, t->set[i].text, &a.error);
    for (int i = 0; i < t->wants && a.status == LK_OK; i++)
        a.status = lk_call_want(call, t->want[i], &a.error);
    if (a.status == LK_OK)
        a.status = lk_call_check(call, &a.error);
    for (; a.status == LK_OK && a.count < lk_call_outputs(call); a.count++) {
        lk_tensor *tensor = &a.out[a.count].tensor;
        snprintf(a.out[a.count].name, TRIAL_NAME, "%s", lk_call_output(call, a.count, tensor));
        const lk_tensor *under = h->in_place ? lk_call_in_place(call, a.count) : NULL;
        size_t bytes = (size_t)lk_tensor_count(tensor) * lk_dtype_size(tensor->dtype);
        out[a.count] = plot_new(bytes, h->place, at);
        at += 7;
        memset(out[a.count].data, h->poison, bytes);
        tensor->data = must(malloc(bytes + 1));
        for (int i = 0; under && i < t->inputs; i++)
            if (t->in[i].given && in[i].data == (char *)under->data)
                over[i] = true;
        lk_call_bind(call, a.count, under ? under->data : out[a.count].data);
    }
    if (a.status == LK_OK)
        a.status = lk_call_plan(call, &a.error);
    if (a.status == LK_OK) {
        do
            run_blocks(call, h, &a);
        while (lk_call_next(call));
        a.status = lk_call_finish(call, &a.error);
    }
    for (int i = 0; i < a.count; i++) {
        lk_tensor now;
        lk_call_output(call, i, &now);
        if (a.status == LK_OK && now.data)
            memcpy(a.out[i].tensor.data, now.data, out[i].bytes);
        if (!plot_intact(&out[i]))
            a.broken = "wrote outside an output";
        plot_free(&out[i]);
    }
    for (int i = 0; i < t->inputs; i++) {
        if (!t->in[i].given)
            continue;
        if (!over[i] && memcmp(image[i], in[i].data, in[i].bytes) != 0)
            a.broken = "wrote to an input";
        free(image[i]);
        if (!plot_intact(&in[i]))
            a.broken = "wrote outside an input";
        plot_free(&in[i]);
    }
    lk_call_free(call);
    if (h->isa)
        lk_isa_use("auto");
    return a;
}

/* ------------------------------------------------------------------------------------ outputs  */

static void trial_want(trial *t, const char *prefix, const char *name)
{
    snprintf(t->want[t->wants++], TRIAL_NAME, "%s%s", prefix, name);
}

/* Every output that there is: some exist for one form of an input only, or with an option. */
static void want_all(trial *t)
{
    t->wants = 0;
    if (!(t->is->traits & LK_TRANSFORM))
        trial_want(t, "", "loss");
    for (int i = 0; i < t->inputs; i++)
        if (t->in[i].given && (t->in[i].is->flags & LK_DIFFERENTIABLE) && is_float(t->in[i].type))
            trial_want(t, "grad.", t->in[i].is->name);
    for (const lk_output *o = t->is->outputs; o->name; o++) {
        trial_want(t, "", o->name);
        if (try_check(t, NULL) == LK_UNKNOWN_OUTPUT)
            t->wants--;
    }
}

/* Is it refused for numbers that exclude each other? Only masks that choose among other things than
 * rows can. */
static bool numbers_conflict(const trial *t)
{
    bool chooses = false;
    for (int i = 0; i < t->inputs; i++)
        chooses = chooses ||
                  (t->in[i].given && is_mask(t->in[i].type) && !(t->in[i].is->flags & LK_IGNORES));
    if (!chooses)
        return false;
    answer a = evaluate(t, &(how){.isa = "scalar"});
    lk_status status = a.status;
    answer_free(&a);
    return status == LK_OPTION_CONFLICT;
}

/* Targets that nothing reaches become ones that something does. */
static void mend_targets(trial *t)
{
    bool may = false;
    for (int i = 0; i < t->inputs; i++)
        may = may || range_twin(t, &t->in[i]);
    for (int tries = 0; may; tries++) {
        answer a = evaluate(t, &(how){.isa = "scalar"});
        trial_input *in = a.status == LK_TARGET_UNREACHABLE ? trial_find(t, a.error.input) : NULL;
        for (int64_t i = 0; in && i < in->at.count; i++)
            if (tries == 8 || i == ravel(&in->at, a.error.index))
                in->x[i] = 0;
        may = in;
        answer_free(&a);
    }
}

/* A trial as wished, with all outputs. Draws that the loss refuses, by options that exclude each
 * other or do not fit the sizes, are drawn again; anything else that is refused is an error, which
 * *error then tells. */
static trial trial_draw(const lk_loss *loss, const wish *wanted, lk_error *error)
{
    trial t;
    wish w = *wanted;
    int tries = 0;
    for (; tries < 20000; tries++) {
        t = (trial){.loss = loss, .is = lk_loss_describe(loss), .element = w.element};
        *error = (lk_error){0};
        draw_options(&t, &w);
        draw_sizes(&t, &w);
        lk_status status = draw_inputs(&t, &w, error);
        if (status == LK_OK)
            mend_targets(&t);
        if (status == LK_OK)
            want_all(&t);
        if (status != LK_OPTION_CONFLICT && status != LK_OPTION_OUT_OF_RANGE &&
            status != LK_MISSING_INPUT && status != LK_MISSING_OPTION &&
            status != LK_SHAPE_MISMATCH && status != LK_RANK_MISMATCH &&
            !(status == LK_OK && numbers_conflict(&t)))
            return t;
        w.needy = w.needy || status == LK_MISSING_OPTION;
        w.huge = w.huge && tries < 1000; /* sizes that hang together may not allow it */
        trial_free(&t);
    }
    *error = (lk_error){.status = LK_MISUSE};
    snprintf(error->text, sizeof error->text, "%d draws, and not one is legal", tries);
    return t;
}

/* Give an optional input a part in the trial that is all of one value; NULL if it has no such
 * input. */
static trial_input *trial_add(trial *t, const char *name, lk_dtype type, double value)
{
    for (int i = 0; i < t->inputs; i++) {
        trial_input *in = &t->in[i];
        if (strcmp(in->is->name, name) != 0)
            continue;
        free(in->x);
        *in = (trial_input){.is = in->is, .given = true, .type = type};
        in->pattern = in->is->forms[0].shape;
        if (!lay_out(t, in->pattern, &in->at))
            in->at = (layout){0};
        in->x = new_doubles(in->at.count);
        for (int64_t j = 0; j < in->at.count; j++)
            in->x[j] = value;
        return in;
    }
    return NULL;
}

/* The trial on one line, for reports. */
static const char *trial_text(const trial *t, char to[1024])
{
    size_t used = 0;
#define ADD(...)                                                                                   \
    (used += used < 900 ? (size_t)snprintf(to + used, 1024 - used, __VA_ARGS__) : (size_t)0)
    ADD("%s %s", t->is->name, lk_dtype_name(t->element));
    for (int i = 0; i < t->inputs; i++) {
        if (!t->in[i].given)
            continue;
        ADD(" %s:%s[", t->in[i].is->name, lk_dtype_name(t->in[i].type));
        for (int k = 0; k < t->in[i].at.rank; k++)
            ADD("%s%" PRId64, k ? "," : "", t->in[i].at.shape[k]);
        ADD("]");
    }
    for (int i = 0; i < t->settings; i++)
        ADD(" %s=%s", t->set[i].field->name, t->set[i].text);
#undef ADD
    return to;
}

#endif
