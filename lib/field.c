/* SPDX-License-Identifier: MIT
 *
 * Option tables: defaults, parsing, ranges. A value is read from and written to the place in the
 * loss's option struct that its field names.
 */
#define _GNU_SOURCE /* strtod_l: the caller's locale must not change what "0.1" means */
#include "internal.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

static double parse_real(const char *text, const char **end)
{
    /* glibc and musl return a constant for "C": nothing is allocated. */
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    char *stop = NULL;
    double x = c ? strtod_l(text, &stop, c) : strtod(text, &stop);
    if (c)
        freelocale(c);
    *end = stop;
    return x;
}

/* Decimal numbers only: strtod would also take hexadecimal, "nan", "inf" and leading spaces. */
static bool is_decimal(const char *text)
{
    if (*text == '-' || *text == '+')
        text++;
    if (!((*text >= '0' && *text <= '9') || *text == '.'))
        return false;
    return text[strspn(text, "0123456789.eE+-")] == '\0';
}

static bool parse_choice(const char *choices, const char *text, int *value)
{
    size_t length = strlen(text);
    int i = 0;
    for (const char *c = choices; *c != '\0' && length > 0; i++) {
        size_t n = strcspn(c, "|");
        if (n == length && memcmp(c, text, n) == 0) {
            *value = i;
            return true;
        }
        c += n + (c[n] == '|');
    }
    return false;
}

/* "101,102"; "off" or "" is the empty list. */
static bool parse_list(const char *text, lk_list *list)
{
    *list = (lk_list){0};
    if (*text == '\0' || strcmp(text, "off") == 0)
        return true;
    while (list->count < LK_LIST_MAX) {
        char *stop;
        errno = 0;
        if (*text != '-' && !(*text >= '0' && *text <= '9'))
            return false;
        list->value[list->count++] = strtoll(text, &stop, 10);
        if (errno != 0 || stop == text || (*stop != ',' && *stop != '\0'))
            return false;
        if (*stop == '\0')
            return true;
        text = stop + 1;
    }
    return false;
}

/* "0.5,1"; likewise. */
static bool parse_reals(const char *text, lk_reals *list)
{
    *list = (lk_reals){0};
    if (*text == '\0' || strcmp(text, "off") == 0)
        return true;
    while (list->count < LK_LIST_MAX) {
        char one[48];
        const char *stop;
        size_t length = strcspn(text, ",");
        if (length >= sizeof one)
            return false;
        memcpy(one, text, length);
        one[length] = '\0';
        if (!is_decimal(one))
            return false;
        double x = parse_real(one, &stop);
        if (*stop != '\0' || !isfinite(x))
            return false;
        list->value[list->count++] = x;
        if (text[length] == '\0')
            return true;
        text += length + 1;
    }
    return false;
}

/* "query_to_doc,doc_to_query": the numbers of different words. */
static bool parse_choices(const char *choices, const char *text, lk_list *list)
{
    *list = (lk_list){0};
    for (size_t n; list->count < LK_LIST_MAX; text += n + 1) {
        char word[48];
        int value = -1;
        n = strcspn(text, ",");
        snprintf(word, sizeof word, "%.*s", (int)n, text);
        if (n >= sizeof word || !parse_choice(choices, word, &value))
            return false;
        for (int64_t k = 0; k < list->count; k++)
            if (list->value[k] == value)
                return false;
        list->value[list->count++] = value;
        if (text[n] == '\0')
            return true;
    }
    return false;
}

static bool parse(const lk_field *field, void *place, const char *text)
{
    const char *end = text;
    char *stop;
    double real;
    bool negative = text[0] == '-';
    bool off = strcmp(text, "off") == 0 && (field->flags & LK_OFF);
    errno = 0;
    switch (field->type) {
    case LK_REAL:
        if (!off && !is_decimal(text))
            return false;
        real = off ? (double)NAN : parse_real(text, &end);
        memcpy(place, &real, sizeof real);
        return off || (*end == '\0' && isfinite(real));
    case LK_INTEGER: {
        if (!off && (!is_decimal(text) || text[0] == '+'))
            return false;
        long long value = off ? LK_OFF_INTEGER : strtoll(text, &stop, 10);
        if (!off && (*stop != '\0' || errno != 0))
            return false;
        if (!off && value == LK_OFF_INTEGER && (field->flags & LK_OFF))
            return false; /* this number means "off" (LK_OFF_INTEGER) */
        *(int64_t *)place = value;
        return true;
    }
    case LK_UNSIGNED: {
        if (negative || text[0] == '+' || !is_decimal(text))
            return false;
        unsigned long long value = strtoull(text, &stop, 10);
        *(uint64_t *)place = value;
        return *stop == '\0' && errno == 0;
    }
    case LK_FLAG:
        *(bool *)place = strcmp(text, "true") == 0;
        return strcmp(text, "true") == 0 || strcmp(text, "false") == 0;
    case LK_LIST:
        return parse_list(text, place);
    case LK_REALS:
        return parse_reals(text, place);
    case LK_CHOICES:
        return parse_choices(field->choices, text, place);
    case LK_PARTS:
        return false;
    default:
        return parse_choice(field->choices, text, place);
    }
}

static const char *expected(const lk_field *field)
{
    bool off = field->flags & LK_OFF;
    switch (field->type) {
    case LK_REAL:
        return off ? "a finite decimal number, or off" : "a finite decimal number";
    case LK_INTEGER:
        return off ? "an integer of 64 bits, or off" : "an integer of 64 bits";
    case LK_UNSIGNED:
        return "an unsigned integer of 64 bits";
    case LK_FLAG:
        return "true or false";
    case LK_LIST:
        return "at most 64 integers with commas between them";
    case LK_REALS:
        return "at most 64 decimal numbers with commas between them";
    case LK_PARTS:
        return "given part by part, with lk_call_part";
    default:
        return field->choices;
    }
}

lk_status lk_field_parse(const lk_field *field, void *options, const char *text, lk_error *error)
{
    if (parse(field, (char *)options + field->offset, text))
        return LK_OK;
    return lk_error_set(error, LK_OPTION_INVALID, "", "%s is \"%.40s%s\"; it must be %s%s",
                        field->name, text, strlen(text) > 40 ? "..." : "",
                        field->type == LK_CHOICE    ? "one of "
                        : field->type == LK_CHOICES ? "different ones of "
                                                    : "",
                        expected(field));
}

void lk_fields_default(const lk_field *fields, void *options)
{
    for (const lk_field *f = fields; f->name; f++)
        if (f->fallback)
            (void)lk_field_parse(f, options, f->fallback, NULL);
}

const lk_field *lk_field_find(const lk_field *fields, const char *name)
{
    for (const lk_field *f = fields; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

/* What a range allows: "> 0", "in [0, 1)", "in [-1, 1], and not 0". */
static const char *range_text(const lk_field *field, char to[80])
{
    const bool above = field->flags & LK_OPEN, below = field->flags & LK_OPEN_END;
    if (isinf(field->max))
        snprintf(to, 80, "%s %g", above ? ">" : ">=", field->min);
    else if (isinf(field->min))
        snprintf(to, 80, "%s %g", below ? "<" : "<=", field->max);
    else
        snprintf(to, 80, "in %c%g, %g%c%s", above ? '(' : '[', field->min, field->max,
                 below ? ')' : ']', field->flags & LK_NONZERO ? ", and not 0" : "");
    return to;
}

lk_status lk_field_check(const lk_field *field, const void *options, lk_error *error)
{
    const void *place = (const char *)options + field->offset;
    char range[80];
    double x = 0;
    if (!(field->flags & LK_RANGED))
        return LK_OK;
    if (field->type == LK_REAL)
        x = *(const double *)place;
    else if (field->type == LK_INTEGER && *(const int64_t *)place == LK_OFF_INTEGER)
        x = (double)NAN;
    else if (field->type == LK_INTEGER)
        x = (double)*(const int64_t *)place;
    else if (field->type == LK_UNSIGNED)
        x = (double)*(const uint64_t *)place;
    const bool low = field->flags & LK_OPEN ? x <= field->min : x < field->min;
    const bool high = field->flags & LK_OPEN_END ? x >= field->max : x > field->max;
    const bool zero = (field->flags & LK_NONZERO) && x == 0;
    if (isnan(x) || !(low || high || zero))
        return LK_OK;
    return lk_error_set(error, LK_OPTION_OUT_OF_RANGE, "", "%s is %g; it must be %s", field->name,
                        x, range_text(field, range));
}

bool lk_given(const lk_job *job, const char *option)
{
    const lk_field *fields = job->loss->is->options;
    const lk_field *field = lk_field_find(fields, option);
    return field && (job->options_given >> (field - fields) & 1);
}
