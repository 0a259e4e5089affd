/* SPDX-License-Identifier: MIT
 *
 * Shape patterns: such as "* C"; losskit.h defines them.
 */
#include "internal.h"

#include <stdio.h>

/* A parsed pattern. */
typedef struct pattern {
    bool spreads; /* "~": what is repeated to that shape */
    bool star;
    bool cut; /* "*-" */
    int letters;
    char letter[LK_MAX_RANK];
    int more[LK_MAX_RANK];     /* what the size has more than the letter: "B+1" */
    int64_t axis[LK_MAX_RANK]; /* of the letter, by an option; -1: in the order of the pattern */
} pattern;

/* Does "B T", and not another word, stand there? */
static bool is_sequences(const char *text)
{
    return strncmp(text, "B T", 3) == 0 && (text[3] == ' ' || text[3] == '\0');
}

/* Where sequences are packed, `*` is their positions, P, as "B T" is, and `*-` the sequences, B. */
static char packed_letter(const char *text)
{
    return is_sequences(text) ? 'P' : *text != '*' ? '\0' : text[1] == '-' ? 'B' : 'P';
}

static pattern take_apart(const char *text, bool packed, const lk_field *fields,
                          const void *options)
{
    pattern p = {0};
    while (*text != '\0') {
        size_t length = strcspn(text, " ");
        const char letter = packed ? packed_letter(text) : '\0';
        if (letter) {
            length = is_sequences(text) ? 3 : length;
            p.letter[p.letters] = letter;
            p.axis[p.letters++] = -1;
        } else if (*text == '~') {
            p.spreads = true;
        } else if (*text == '*') {
            p.star = true;
            p.cut = text[1] == '-';
        } else {
            int64_t axis = -1;
            if (length > 2 && text[1] == '@' && fields)
                for (const lk_field *f = fields; f->name; f++)
                    if (strlen(f->name) == length - 2 && memcmp(f->name, text + 2, length - 2) == 0)
                        memcpy(&axis, (const char *)options + f->offset, sizeof axis);
            p.more[p.letters] = text[1] == '+' ? text[2] - '0' : 0;
            p.letter[p.letters] = *text;
            p.axis[p.letters++] = axis;
        }
        text += length;
        text += strspn(text, " ");
    }
    return p;
}

/* The axis of letter i of a pattern in a shape of that rank, or -1 if there is none. */
static int axis_of(const pattern *p, int i, int rank)
{
    int64_t written = rank - p->letters + i;
    int64_t axis = p->axis[i] < 0 ? written : p->axis[i];
    return axis < rank ? (int)axis : -1;
}

/* The size of letter i, or -1 if it is not bound. */
static int64_t size_of(const pattern *p, int i, const lk_sizes *sizes)
{
    const int64_t size = p->letter[i] == '1' ? 1 : sizes->size[p->letter[i] - 'A'];
    return size < 0 ? -1 : size + p->more[i];
}

/* How many leading sizes the star stands for: -1 if it is not bound, -2 if there is no axis to
 * leave out. */
static int leads_of(const pattern *p, const lk_sizes *sizes)
{
    if (!p->star)
        return 0;
    return sizes->lead_rank < 0   ? -1
           : !p->cut              ? sizes->lead_rank
           : sizes->lead_rank > 0 ? sizes->lead_rank - 1
                                  : -2;
}

void lk_sizes_clear(lk_sizes *sizes)
{
    sizes->packed = false;
    sizes->lead_rank = -1;
    for (int i = 0; i < 26; i++)
        sizes->size[i] = -1;
}

bool lk_shape_rank(const char *text, int rank, const lk_sizes *sizes)
{
    pattern p = take_apart(text, sizes->packed, NULL, NULL);
    const int lead = rank - p.letters, leads = leads_of(&p, sizes);
    if (p.spreads)
        return lead <= leads;
    return leads == -1 ? lead >= 0 : lead == leads;
}

int lk_shape_misfit(const char *text, const lk_tensor *shape, const lk_sizes *sizes,
                    const lk_field *fields, const void *options, lk_tensor *to)
{
    const pattern p = take_apart(text, sizes->packed, fields, options);
    *to = (lk_tensor){.rank = 0};
    if (!p.spreads || !lk_shape_make(text, sizes, fields, options, to))
        return -1;
    const int missing = to->rank - shape->rank;
    for (int axis = 0; axis < shape->rank; axis++)
        if (missing < 0 ||
            (shape->shape[axis] != 1 && shape->shape[axis] != to->shape[missing + axis]))
            return axis;
    return shape->rank;
}

bool lk_shape_bind(const char *text, const lk_tensor *shape, bool exact, lk_sizes *sizes,
                   const lk_field *fields, const void *options)
{
    pattern p = take_apart(text, sizes->packed, fields, options);
    lk_sizes bound = *sizes;
    lk_tensor to;
    bool one = shape->rank == 1 && shape->shape[0] == 1;
    if (!exact && one && p.letters == 0 && leads_of(&p, sizes) == 0)
        return true;
    if (p.spreads)
        return lk_shape_misfit(text, shape, sizes, fields, options, &to) == shape->rank;
    if (!lk_shape_rank(text, shape->rank, sizes))
        return false;

    bool taken[LK_MAX_RANK] = {false};
    for (int i = 0; i < p.letters; i++) {
        int axis = axis_of(&p, i, shape->rank);
        if (axis < 0 || taken[axis])
            return false;
        taken[axis] = true;
        if (p.letter[i] == '1') {
            if (shape->shape[axis] != 1)
                return false;
            continue;
        }
        int64_t *size = &bound.size[p.letter[i] - 'A'], is = shape->shape[axis] - p.more[i];
        if (is < 0 || (*size >= 0 && *size != is))
            return false;
        *size = is;
    }
    int lead = 0;
    for (int axis = 0; axis < shape->rank; axis++) {
        if (taken[axis])
            continue;
        if (sizes->lead_rank >= 0 && sizes->lead[lead] != shape->shape[axis])
            return false;
        bound.lead[lead++] = shape->shape[axis];
    }
    if (p.star && !p.cut)
        bound.lead_rank = lead;
    *sizes = bound;
    return true;
}

bool lk_shape_make(const char *text, const lk_sizes *sizes, const lk_field *fields,
                   const void *options, lk_tensor *shape)
{
    pattern p = take_apart(text, sizes->packed, fields, options);
    bool taken[LK_MAX_RANK] = {false};
    int leads = leads_of(&p, sizes), lead = 0;
    if (leads < 0 || leads + p.letters > LK_MAX_RANK)
        return false;
    shape->rank = leads + p.letters;
    for (int i = 0; i < p.letters; i++) {
        int axis = axis_of(&p, i, shape->rank);
        int64_t size = size_of(&p, i, sizes);
        if (axis < 0 || taken[axis] || size < 0)
            return false;
        taken[axis] = true;
        shape->shape[axis] = size;
    }
    for (int axis = 0; axis < shape->rank; axis++)
        if (!taken[axis])
            shape->shape[axis] = sizes->lead[lead++];
    return true;
}

const char *lk_shape_text(const lk_tensor *shape, char to[LK_SHAPE_TEXT])
{
    size_t used = 0;
    if (shape->rank > LK_MAX_RANK) {
        snprintf(to, LK_SHAPE_TEXT, "of rank %d", shape->rank);
        return to;
    }
    to[used++] = '[';
    for (int i = 0; i < shape->rank && used < LK_SHAPE_TEXT - 24; i++)
        used += (size_t)snprintf(to + used, LK_SHAPE_TEXT - used, "%s%lld", i ? "," : "",
                                 (long long)shape->shape[i]);
    memcpy(to + used, "]", 2);
    return to;
}

const char *lk_pattern_text(const char *text, const lk_sizes *sizes, char to[LK_SHAPE_TEXT])
{
    pattern p = take_apart(text, sizes->packed, NULL, NULL);
    const int leads = leads_of(&p, sizes);
    size_t used = 0;
    if (leads == -2) {
        snprintf(to, LK_SHAPE_TEXT, "left out, since there is no last axis");
        return to;
    }
    to[used++] = '[';
    if (leads < 0)
        used += (size_t)snprintf(to + used, LK_SHAPE_TEXT - used, "*,");
    for (int i = 0; i < leads && used < LK_SHAPE_TEXT - 24; i++)
        used +=
            (size_t)snprintf(to + used, LK_SHAPE_TEXT - used, "%lld,", (long long)sizes->lead[i]);
    for (int i = 0; i < p.letters && used < LK_SHAPE_TEXT - 24; i++) {
        int64_t size = size_of(&p, i, sizes);
        if (size < 0 && p.more[i] > 0)
            used +=
                (size_t)snprintf(to + used, LK_SHAPE_TEXT - used, "%c+%d,", p.letter[i], p.more[i]);
        else if (size < 0)
            used += (size_t)snprintf(to + used, LK_SHAPE_TEXT - used, "%c,", p.letter[i]);
        else
            used += (size_t)snprintf(to + used, LK_SHAPE_TEXT - used, "%lld,", (long long)size);
    }
    used -= used > 1;
    memcpy(to + used, "]", 2);
    return to;
}
