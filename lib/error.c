/* SPDX-License-Identifier: MIT
 *
 * Errors: their text, and the input and index that they are about.
 */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *lk_status_name(lk_status status)
{
#define WORD(NAME, word) #word,
    static const char *const words[] = {LK_STATUSES(WORD)};
#undef WORD
    return (unsigned)status < LK_STATUS_COUNT ? words[status] : "unknown_status";
}

static lk_status set_error(lk_error *error, lk_status status, const char *input, const char *format,
                           va_list args)
{
    if (error) {
        *error = (lk_error){.status = status};
        snprintf(error->input, sizeof error->input, "%s", input);
        vsnprintf(error->text, sizeof error->text, format, args);
    }
    return status;
}

lk_status lk_error_set(lk_error *error, lk_status status, const char *input, const char *format,
                       ...)
{
    va_list args;
    va_start(args, format);
    set_error(error, status, input, format, args);
    va_end(args);
    return status;
}

/* The coordinates of a flat index. */
static void unravel(const lk_tensor *t, int64_t flat, int64_t index[LK_MAX_RANK])
{
    for (int axis = t->rank - 1; axis >= 0; axis--) {
        index[axis] = flat % t->shape[axis];
        flat /= t->shape[axis];
    }
}

lk_status lk_fail(const lk_job *job, lk_error *error, lk_status status, int input, int64_t index,
                  const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_error(error, status, input < 0 ? "" : job->loss->is->inputs[input].name, format, args);
    va_end(args);
    if (error && input >= 0 && index >= 0) {
        error->rank = job->in[input].rank;
        unravel(&job->in[input], index, error->index);
    }
    return status;
}

const char *lk_place(const lk_job *job, int input, int64_t index, char to[LK_PLACE_MAX])
{
    const lk_tensor *t = &job->in[input];
    int64_t at[LK_MAX_RANK];
    unravel(t, index, at);
    size_t used = (size_t)snprintf(to, LK_PLACE_MAX, "%s", job->loss->is->inputs[input].name);
    for (int axis = 0; axis < t->rank && used < LK_PLACE_MAX; axis++)
        used += (size_t)snprintf(to + used, LK_PLACE_MAX - used, "[%lld]", (long long)at[axis]);
    return to;
}

lk_status lk_refuse_target(const lk_job *job, lk_error *error, int input, int64_t index,
                           int64_t classes, int64_t ignore_index)
{
    char place[LK_PLACE_MAX];
    return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, input, index,
                   "%s is %lld; with %lld classes it must be in [0, %lld] or ignore_index (%lld)",
                   lk_place(job, input, index, place), (long long)lk_int(&job->in[input], index),
                   (long long)classes, (long long)classes - 1, (long long)ignore_index);
}

const char *lk_number_text(double x, char to[LK_NUMBER_TEXT])
{
    const bool narrow = (double)(float)x == x;
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(to, LK_NUMBER_TEXT, "%.*g", digits, x);
        const double back = strtod(to, NULL);
        if (back == x || (narrow && (float)back == (float)x))
            break;
    }
    return to;
}

lk_status lk_misuse(lk_error *error, const char *text)
{
    return lk_error_set(error, LK_MISUSE, "", "%s", text);
}

int lk_status_order(lk_status status)
{
    const bool at_once =
        status == LK_OPTION_INVALID || status == LK_GRAPH_INVALID || status >= LK_NO_MEMORY;
    return at_once                          ? LK_AT_ONCE
           : status < LK_OPTION_INVALID     ? LK_OF_NAMES
           : status == LK_DTYPE_UNSUPPORTED ? LK_OF_TYPES
           : status <= LK_SHAPE_MISMATCH    ? LK_OF_SHAPES
           : status <= LK_OPTION_CONFLICT   ? LK_OF_OPTIONS
                                            : LK_OF_DATA;
}

void lk_error_keep(lk_error *first, const lk_error *found)
{
    if (found->status != LK_OK &&
        (first->status == LK_OK || lk_status_order(found->status) < lk_status_order(first->status)))
        *first = *found;
}

const char *lk_names_text(const void *table, size_t entry, char to[LK_NAMES_TEXT])
{
    size_t used = 0;
    to[0] = '\0';
    for (const char *p = table; *(const char *const *)(const void *)p; p += entry) {
        const char *name = *(const char *const *)(const void *)p;
        if (used + strlen(name) + 8 > LK_NAMES_TEXT) {
            memcpy(to + used, ", ...", 6);
            break;
        }
        used += (size_t)snprintf(to + used, LK_NAMES_TEXT - used, "%s%s", used ? ", " : "", name);
    }
    return to;
}
