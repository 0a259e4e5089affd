/* SPDX-License-Identifier: MIT
 *
 * The parts of a trial: options, shapes, rows, slices of the batch.
 */
#include "tests/trial/trial.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double *new_doubles(int64_t n)
{
    return must(calloc((size_t)(n > 0 ? n : 1), sizeof(double)));
}

const char *trial_option(const trial *t, const char *name)
{
    for (int i = 0; i < t->settings; i++)
        if (strcmp(t->set[i].field->name, name) == 0)
            return t->set[i].text;
    for (const lk_field *f = t->is->options; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f->fallback;
    return NULL;
}

bool option_is(const trial *t, const char *name, const char *text)
{
    const char *has = trial_option(t, name);
    return has && strcmp(has, text) == 0;
}

/* The pattern that "loss" stands for. */
const char *loss_pattern(const trial *t)
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

/* The offsets, if the trial's sequences are packed, else NULL. */
const trial_input *trial_offsets(const trial *t)
{
    for (int i = 0; i < t->inputs; i++)
        if (t->in[i].given && (t->in[i].is->flags & LK_OFFSETS))
            return &t->in[i];
    return NULL;
}

/* The shape of a pattern with the trial's sizes: one of losskit.h, or one with single leading sizes
 * by their labels. False if there is no such shape: an option gives an axis an invalid position, or
 * sequences are packed and have no T: there `*` is the positions, P, and `*-` the sequences, B. */
bool lay_out(const trial *t, const char *pattern, layout *to)
{
    char letters[LK_MAX_RANK + 1];
    int axis[LK_MAX_RANK], more[LK_MAX_RANK], n = 0, leads = 0;
    const bool packed = trial_offsets(t);
    if (strcmp(pattern, "loss") == 0)
        pattern = loss_pattern(t);
    for (const char *p = pattern; *p;) {
        size_t length = strcspn(p, " ");
        if (*p == '*' && packed) {
            axis[n] = -1;
            more[n] = 0;
            letters[n++] = p[1] == '-' ? 'B' : 'P';
        } else if (*p == '*') {
            leads = t->lead_rank - (p[1] == '-');
        } else if (*p != '~') {
            axis[n] = -1;
            if (length > 2 && p[1] == '@') {
                char name[64];
                snprintf(name, sizeof name, "%.*s", (int)length - 2, p + 2);
                axis[n] = atoi(trial_option(t, name));
            }
            const bool joined =
                packed && strncmp(p, "B T", 3) == 0 && (p[3] == ' ' || p[3] == '\0');
            length = joined ? 3 : length;
            if (packed && !joined && *p == 'T')
                return false; /* T is no size there */
            more[n] = p[1] == '+' ? atoi(p + 2) : 0;
            letters[n++] = joined ? 'P' : *p;
        }
        p += length + strspn(p + length, " ");
    }
    *to = (layout){.rank = n + leads, .count = 1, .leading = strchr(pattern, '*') && !packed};
    if (to->rank > LK_MAX_RANK || leads < 0)
        return false;
    for (int i = 0; i < n; i++) {
        int k = axis[i] < 0 ? to->rank - n + i : axis[i];
        if (k >= to->rank || to->owner[k])
            return false;
        to->owner[k] = letters[i];
        to->shape[k] = letters[i] == '1'     ? 1
                       : islower(letters[i]) ? t->lead[letters[i] - 'a']
                                             : t->size[letters[i] - 'A'] + more[i];
    }
    for (int k = 0, lead = 0; k < to->rank; k++) {
        if (!to->owner[k]) {
            to->owner[k] = (char)('a' + lead);
            to->shape[k] = t->lead[lead++];
        }
        to->count *= to->shape[k];
    }
    return true;
}

/* The number of rows: of loss values with reduction=none. */
int64_t trial_rows(const trial *t)
{
    layout at;
    return t->is->loss_shape && lay_out(t, t->is->loss_shape, &at) ? at.count : 1;
}

void unravel(const layout *at, int64_t flat, int64_t index[LK_MAX_RANK])
{
    for (int k = at->rank - 1; k >= 0; k--) {
        index[k] = at->shape[k] > 0 ? flat % at->shape[k] : 0;
        flat /= at->shape[k] > 0 ? at->shape[k] : 1;
    }
}

int64_t ravel(const layout *at, const int64_t index[LK_MAX_RANK])
{
    int64_t flat = 0;
    for (int k = 0; k < at->rank; k++)
        flat = flat * at->shape[k] + index[k];
    return flat;
}

/* The axes of a tensor that index the rows, in the order of the loss's shape; -1 if an axis of the
 * rows is missing, or all of them where the only row has none. */
static int row_axes(const trial *t, const layout *at, int axes[LK_MAX_RANK])
{
    layout rows;
    if (!t->is->loss_shape || !lay_out(t, t->is->loss_shape, &rows))
        return -1;
    if (rows.rank == 0 && rows.leading && !at->leading)
        return -1;
    for (int k = 0; k < rows.rank; k++) {
        int found = -1;
        for (int a = 0; a < at->rank && found < 0; a++)
            if (at->owner[a] == rows.owner[k])
                found = a;
        if (found < 0)
            return -1;
        axes[k] = found;
    }
    return rows.rank;
}

/* The row that each element belongs to, or NULL if the tensor is shared by the rows. Free it. */
int64_t *rows_of(const trial *t, const layout *at)
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

void trial_free(trial *t)
{
    for (int i = 0; i < t->inputs; i++)
        free(t->in[i].x);
    t->inputs = 0;
}

trial trial_copy(const trial *t)
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

void trial_set(trial *t, const char *name, const char *text)
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

/* The axis of a tensor along which a batch can be split: the first axis of the rows, or of packed
 * sequences also theirs; or -1. */
int batch_axis(const trial *t, const layout *at)
{
    layout rows;
    if (!t->is->loss_shape || !lay_out(t, t->is->loss_shape, &rows) || rows.rank == 0)
        return -1;
    for (int k = 0; k < at->rank; k++)
        if (at->owner[k] == rows.owner[0] || (trial_offsets(t) && at->owner[k] == 'B'))
            return k;
    return -1;
}

/* The number of slices of the batch along that axis; 0 if it cannot be split. */
int64_t batch_size(const trial *t)
{
    layout rows;
    if (!t->is->loss_shape || !lay_out(t, t->is->loss_shape, &rows) || rows.rank == 0)
        return 0;
    return trial_offsets(t) ? t->size['B' - 'A'] : rows.shape[0];
}

/* The slice that index i along the batch axis of a tensor belongs to. */
int64_t batch_slice(const trial *t, const layout *at, int axis, int64_t i)
{
    const trial_input *offsets = trial_offsets(t);
    int64_t slice = 0;
    if (!offsets || at->owner[axis] != 'P')
        return i;
    while (offsets->x[slice + 1] <= (double)i)
        slice++;
    return slice;
}

/* How many positions n of the slices of packed sequences have. Stores which these are. */
static int64_t packed_positions(const trial *t, const int64_t *slices, int64_t n, int64_t *to)
{
    const double *offsets = trial_offsets(t)->x;
    int64_t positions = 0;
    for (int64_t k = 0; k < n; k++)
        for (double i = offsets[slices[k]]; i < offsets[slices[k] + 1]; i++)
            to[positions++] = (int64_t)i;
    return positions;
}

/* The offsets of n of the slices. */
static void pick_offsets(const trial_input *from, trial_input *to, const int64_t *slices, int64_t n)
{
    for (int64_t k = 0; k < n; k++)
        to->x[k + 1] = to->x[k] + from->x[slices[k] + 1] - from->x[slices[k]];
}

/* The same trial with n of its slices as the batch. */
trial trial_pick(const trial *t, const int64_t *slices, int64_t n)
{
    trial to = *t;
    layout rows;
    const bool packed = trial_offsets(t);
    int64_t *positions =
        must(calloc((size_t)t->size['P' - 'A'] * (size_t)n + 1, sizeof *positions));
    lay_out(t, t->is->loss_shape, &rows);
    if (islower(rows.owner[0]))
        to.lead[0] = n;
    else
        to.size[packed ? 'B' - 'A' : rows.owner[0] - 'A'] = n;
    if (packed)
        to.size['P' - 'A'] = packed_positions(t, slices, n, positions);
    for (int i = 0; i < t->inputs; i++) {
        const trial_input *from = &t->in[i];
        trial_input *in = &to.in[i];
        in->x = NULL;
        if (!from->given)
            continue;
        int axis = batch_axis(t, &from->at);
        lay_out(&to, in->pattern, &in->at);
        in->x = new_doubles(in->at.count);
        if (in->is->flags & LK_OFFSETS) {
            pick_offsets(from, in, slices, n);
            continue;
        }
        const int64_t *which =
            packed && axis >= 0 && in->at.owner[axis] == 'P' ? positions : slices;
        for (int64_t j = 0; j < in->at.count; j++) {
            int64_t index[LK_MAX_RANK];
            unravel(&in->at, j, index);
            if (axis >= 0)
                index[axis] = which[index[axis]];
            in->x[j] = from->x[ravel(&from->at, index)];
        }
    }
    free(positions);
    return to;
}

trial_input *trial_find(trial *t, const char *name)
{
    for (int i = 0; i < t->inputs; i++)
        if (t->in[i].given && strcmp(t->in[i].is->name, name) == 0)
            return &t->in[i];
    return NULL;
}

/* The integers by which the options of a trial may mark a row as ignored: those without a range.
 */
int sentinels(const trial *t, double to[TRIAL_OPTIONS])
{
    int n = 0;
    for (const lk_field *f = t->is->options; f->name; f++)
        if (f->type == LK_INTEGER && !(f->flags & LK_RANGED))
            to[n++] = (double)atoll(trial_option(t, f->name));
    return n;
}

/* The largest number of classes that the options allow: integers that are off or at least 1. */
int64_t option_limit(const trial *t)
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

/* The rows that are masked, or have a sentinel as their target, and so are not read. Free it. */
bool *ignored_rows(const trial *t)
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
            for (int k = 0; k < n && !trial_masks(in); k++)
                ignored[row[j]] |= in->x[j] == marks[k];
        }
        free(row);
    }
    return ignored;
}

bool trial_masks(const trial_input *in)
{
    return !(in->is->forms[0].dtypes & (LK_FLOATS | LK_INTS));
}

void trial_want(trial *t, const char *prefix, const char *name)
{
    snprintf(t->want[t->wants++], TRIAL_NAME, "%s%s", prefix, name);
}

/* Add an optional input with all elements of one value; NULL if the loss has no such input. */
trial_input *trial_add(trial *t, const char *name, lk_dtype type, double value)
{
    for (int i = 0; i < t->inputs; i++) {
        trial_input *in = &t->in[i];
        if (strcmp(in->is->name, name) != 0)
            continue;
        free(in->x);
        *in = (trial_input){.is = in->is, .given = true, .type = type};
        snprintf(in->pattern, sizeof in->pattern, "%s", in->is->forms[0].shape);
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
const char *trial_text(const trial *t, char to[1024])
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
