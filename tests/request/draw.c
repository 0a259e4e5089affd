/* SPDX-License-Identifier: MIT
 *
 * Draws a request from a loss's description: options, then inputs and outputs, then values.
 */
#include "tests/request/request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sample_free(sample *s)
{
    for (int i = 0; i < s->inputs; i++)
        free(s->input[i].tensor.data);
    s->inputs = 0;
}

/* The sizes of the letters and the star in a request. */
typedef struct sizes {
    int leads;
    int64_t lead[LK_MAX_RANK], letter[26];
    bool packed; /* there are offsets */
} sizes;

static const char *option_value(const sample *s, const char *name, size_t length)
{
    for (int i = 0; i < s->options; i++)
        if (strlen(s->option[i].name) == length && memcmp(s->option[i].name, name, length) == 0)
            return s->option[i].text;
    for (const lk_field *f = lk_loss_describe(s->loss)->options; f->name; f++)
        if (strlen(f->name) == length && memcmp(f->name, name, length) == 0)
            return f->fallback ? f->fallback : "-1";
    return "-1";
}

static void shape_of(const sample *s, const char *pattern, const sizes *z, lk_tensor *t)
{
    int64_t moved[LK_MAX_RANK];
    int fixed[LK_MAX_RANK], n = 0, letters = 0;
    int leads = 0;
    for (const char *p = pattern; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        if (*p == '~')
            continue;
        if (*p == '*' && z->packed) {
            fixed[letters] = -1;
            moved[letters++] = z->letter[p[1] == '-' ? 'B' - 'A' : 'P' - 'A'];
            continue;
        }
        if (*p == '*') {
            leads = z->leads - (p[1] == '-' && z->leads > 0);
            continue;
        }
        if (*p == '1') {
            fixed[letters] = -1;
            moved[letters++] = 1;
            continue;
        }
        if (z->packed && strncmp(p, "B T", 3) == 0 && (p[3] == ' ' || p[3] == '\0')) {
            fixed[letters] = -1;
            moved[letters++] = z->letter['P' - 'A'];
            p += strlen("B ");
            continue;
        }
        fixed[letters] = p[1] == '@' ? atoi(option_value(s, p + 2, strcspn(p + 2, " "))) : -1;
        moved[letters++] = z->letter[*p - 'A'] + (p[1] == '+' ? atoi(p + 2) : 0);
    }
    t->rank = leads + letters;
    bool taken[LK_MAX_RANK] = {false};
    for (int i = 0; i < letters; i++) {
        int axis = fixed[i] >= 0 && fixed[i] < t->rank ? fixed[i] : t->rank - letters + i;
        taken[axis] = true;
        t->shape[axis] = moved[i];
    }
    for (int axis = 0; axis < t->rank; axis++)
        if (!taken[axis])
            t->shape[axis] = n < z->leads ? z->lead[n++] : 1;
    const int missing =
        *pattern == '~' && t->rank > 0 && chance(0.5) ? random_below(t->rank + 1) : 0;
    t->rank -= missing;
    for (int axis = 0; *pattern == '~' && axis < t->rank; axis++)
        t->shape[axis] = chance(0.3) ? 1 : t->shape[axis + missing];
}

static lk_dtype random_dtype(unsigned set)
{
    lk_dtype d;
    do {
        d = (lk_dtype)random_below(LK_DTYPE_COUNT);
    } while (!(set >> d & 1));
    return d;
}

/* An integer in a range "[low,LETTER)", "[low,LETTER]", except the value that the range excludes,
 * or
 * "{0,1}". */
static int64_t random_in(const sample *s, const char *range, const sizes *z)
{
    const char *comma = range ? strchr(range, ',') : NULL;
    if (range && strcmp(range, "{0,1}") == 0)
        return random_below(2);
    if (!comma || comma[1] < 'A' || comma[1] > 'Z')
        return random_below(4);
    const int64_t low = strtoll(range + 1, NULL, 10);
    const int64_t last = z->leads > 0 ? z->lead[z->leads - 1] : 0;
    const int64_t top = comma[1] == '*' ? last : z->letter[comma[1] - 'A'];
    const int64_t end = top + (strchr(range, ']') != NULL);
    const int64_t x = low + (end > low ? random_below((int)(end - low)) : 0);
    const char *name = strstr(range, " except ");
    name = name ? name + strlen(" except ") : NULL;
    const char *text = name ? option_value(s, name, strlen(name)) : NULL;
    return !text || x != strtoll(text, NULL, 10) ? x : x > low ? x - 1 : x + 1;
}

/* Values within the range of an input; sometimes special values if it has no range. */
static void fill_values(const sample *s, lk_tensor *t, const char *range, const sizes *z)
{
    const int64_t count = lk_tensor_count(t);
    t->data = malloc(bytes_of(t) ? bytes_of(t) : 1);
    assert_non_null(t->data);
    const bool mask = t->dtype == LK_BOOL || (t->dtype == LK_U8 && !range);
    const bool signs = range && strncmp(range, "{-1", 3) == 0;
    const bool special = !range && chance(0.2);
    for (int64_t i = 0; i < count; i++) {
        if (is_float(t->dtype)) {
            double x = (random_unit() + random_unit() + random_unit() - 1.5) * 4;
            if (signs)
                x = chance(0.5) ? 1 : -1;
            else if (range && strncmp(range, "<=0", 3) == 0)
                x = -fabs(x);
            else if (range && strncmp(range, ">=", 2) == 0)
                x = strtod(range + 2, NULL) + fabs(x);
            else if (range)
                x = random_unit();
            if (special && chance(0.1)) {
                const double odd[] = {(double)NAN,
                                      (double)INFINITY,
                                      -(double)INFINITY,
                                      -0.0,
                                      0,
                                      1e-320,
                                      1e30,
                                      -7e-6,
                                      65504,
                                      1e-40};
                x = odd[random_below(10)];
            }
            store(t->data, t->dtype, i, x);
        } else {
            int64_t x = signs  ? (chance(0.5) ? 1 : -1)
                        : mask ? random_below(2)
                               : random_in(s, range, z);
            if (mask && t->dtype == LK_U8 && x)
                x = 1 + random_below(255);
            store_int(t->data, t->dtype, i, x);
        }
    }
}

/* Constraints among the values of a last axis: distinct, or logarithms of probabilities. Simple
 * choices are enough: consecutive classes, nearly equal probabilities. */
static void relate_values(lk_tensor *t, const char *range, const sizes *z)
{
    const int64_t K = t->rank > 0 ? t->shape[t->rank - 1] : 0;
    for (int64_t i = 0; range && i < lk_tensor_count(t); i++) {
        if (strstr(range, ", distinct")) {
            const int64_t C = z->letter[strchr(range, ',')[1] - 'A'];
            store_int(t->data, t->dtype, i, i % K < C ? i % K : -1);
        } else if (strstr(range, ", exp sums")) {
            store(t->data, t->dtype, i, -at_least_log(K) - 0.01 - (double)(i % 3));
        }
    }
}

static void add_option(sample *s, const lk_field *f)
{
    char *text = s->option[s->options].text;
    const size_t room = sizeof s->option[0].text;
    const bool ranged = f->flags & LK_RANGED;
    double low = !ranged ? 0 : isfinite(f->min) ? f->min : f->max - 4;
    double high = ranged && isfinite(f->max) ? f->max : low + 4;
    if ((f->flags & LK_OFF) && chance(0.3)) {
        snprintf(text, room, "off");
    } else if (f->type == LK_FLAG) {
        snprintf(text, room, "%s", chance(0.5) ? "true" : "false");
    } else if (f->type == LK_CHOICE) {
        int words = 1;
        for (const char *c = f->choices; *c; c++)
            words += *c == '|';
        const char *c = f->choices;
        for (int k = random_below(words); k > 0; k--)
            c += strcspn(c, "|") + 1;
        snprintf(text, room, "%.*s", (int)strcspn(c, "|"), c);
    } else if (f->type == LK_LIST) {
        snprintf(text, room, "%d,%d", random_below(5), 5 + random_below(5));
    } else if (f->type == LK_REALS) {
        snprintf(text, room, "%.3g,%.3g", random_unit(), random_unit() - 0.5);
    } else if (f->type == LK_CHOICES) {
        snprintf(text, room, "%.*s", (int)strcspn(f->choices, "|"), f->choices);
    } else if (f->type == LK_REAL) {
        snprintf(text, room, "%.6g", low + (high - low) * (random_unit() + 1e-3) / 1.002);
    } else {
        snprintf(text, room, "%.0f", low + floor((fmin(high, low + 8) - low + 1) * random_unit()));
    }
    s->option[s->options++].name = f->name;
}

static void add_input(sample *s, const lk_input *in, const sizes *z, unsigned flags)
{
    int forms = 1;
    while (forms < 3 && in->forms[forms].shape)
        forms++;
    int form = chance(0.5) ? 0 : random_below(forms);
    unsigned set = in->forms[form].dtypes;
    lk_tensor t = {.rank = 0};
    const bool same = (in->flags & LK_DIFFERENTIABLE) || (flags & SAMPLE_PLAIN) || chance(0.5);
    t.dtype = !(set & LK_FLOATS)
                  ? (flags & SAMPLE_PLAIN) ? (set & LK_INTS ? LK_I64 : LK_BOOL) : random_dtype(set)
              : same ? s->element
                     : random_dtype(set & LK_FLOATS);
    if (strcmp(in->forms[0].shape, "loss") == 0) {
        lk_call *call = lk_call_new(s->loss);
        if (give(call, s, NULL) != LK_OK) {
            lk_call_free(call);
            return;
        }
        lk_tensor loss;
        for (int i = 0; i < lk_call_outputs(call); i++)
            if (strcmp(lk_call_output(call, i, &loss), "loss") == 0) {
                t.rank = loss.rank;
                memcpy(t.shape, loss.shape, sizeof t.shape);
            }
        lk_call_free(call);
    } else {
        shape_of(s, in->forms[form].shape, z, &t);
    }
    s->input[s->inputs++] = (request_input){in->name, t};
}

static void add_outputs(sample *s)
{
    const lk_description *is = lk_loss_describe(s->loss);
    if (!(is->traits & LK_TRANSFORM) && chance(0.8))
        snprintf(s->output[s->outputs++], 48, "loss");
    for (const lk_input *in = is->inputs; in->name; in++)
        for (int i = 0; i < s->inputs; i++)
            if (strcmp(s->input[i].name, in->name) == 0 && (in->flags & LK_DIFFERENTIABLE) &&
                is_float(s->input[i].tensor.dtype) && chance(0.7))
                snprintf(s->output[s->outputs++], 48, "grad.%s", in->name);
    for (const lk_output *out = is->outputs; out->name; out++)
        if (chance(0.4))
            snprintf(s->output[s->outputs++], 48, "%s", out->name);
    for (int i = s->outputs; i > 1; i--) { /* in any order */
        int k = random_below(i);
        char name[48];
        memcpy(name, s->output[i - 1], sizeof name);
        memcpy(s->output[i - 1], s->output[k], sizeof name);
        memcpy(s->output[k], name, sizeof name);
    }
}

/* A request that follows the description. Every size is at most `most`; if `most` is above 100,
 * every size is exactly `most`. */
static sample sample_draw(const lk_loss *loss, lk_dtype element, int most, unsigned flags,
                          sizes *of)
{
    sample s = {.loss = loss, .element = element};
    const lk_description *is = lk_loss_describe(loss);
    const bool large = most > 100;
    sizes z = {.leads = large ? 1 : random_below(3)};
    for (int i = 0; i < 26; i++)
        z.letter[i] = large ? most : 2 + random_below(most - 1);
    for (int i = 0; i < LK_MAX_RANK; i++)
        z.lead[i] = large ? most : 1 + random_below(most);
    if (large)
        z.leads = 2 - (strchr(is->inputs[0].forms[0].shape, ' ') != NULL);
    if (flags & SAMPLE_ONE)
        z.lead[0] = z.leads = 1;
    if (flags & SAMPLE_EMPTY) {
        z.leads += z.leads == 0;
        z.lead[random_below(z.leads)] = 0;
        if (chance(0.3))
            z.letter[random_below(26)] = 0;
    }
    for (const lk_field *f = is->options; f->name; f++)
        if (!f->fallback || ((flags & SAMPLE_OPTIONS) && chance(0.12)) ||
            ((flags & SAMPLE_NEEDY) && f->type == LK_INTEGER && (f->flags & LK_OFF) && chance(0.7)))
            add_option(&s, f);
    const bool packs = chance(0.4); /* decided first: it changes the other shapes */
    for (const lk_input *in = is->inputs; in->name; in++)
        z.packed = z.packed || (packs && (in->flags & LK_OFFSETS));
    for (const lk_input *in = is->inputs; in->name; in++)
        if (in->flags & LK_OFFSETS ? z.packed : !(in->flags & LK_OPTIONAL) || chance(0.4))
            add_input(&s, in, &z, flags);
    if (flags & SAMPLE_OUTPUTS)
        add_outputs(&s);
    *of = z;
    return s;
}

/* Most requests that are refused because their sizes, inputs and options do not fit together are
 * drawn again. */
sample sample_new(const lk_loss *loss, lk_dtype element, int most, unsigned flags)
{
    sizes z;
    const int most_tries = chance(0.1) ? 0 : 5000;
    sample s = sample_draw(loss, element, most, flags, &z);
    for (int tries = 0; tries < most_tries; tries++) {
        lk_call *call = lk_call_new(loss);
        assert_non_null(call);
        lk_status status = give(call, &s, NULL);
        lk_call_free(call);
        if (status == LK_OK)
            break;
        flags |= status == LK_MISSING_OPTION ? SAMPLE_NEEDY : 0;
        flags |= status == LK_SHAPE_MISMATCH || status == LK_RANK_MISMATCH ? SAMPLE_ONE : 0;
        s = sample_draw(loss, element, most, flags, &z);
    }
    for (int i = 0; i < s.inputs; i++) {
        const lk_input *in = lk_loss_describe(loss)->inputs;
        while (strcmp(in->name, s.input[i].name) != 0)
            in++;
        fill_values(&s, &s.input[i].tensor, in->range, &z);
        for (int64_t b = 0; (in->flags & LK_OFFSETS) && b <= z.letter['B' - 'A']; b++)
            store_int(s.input[i].tensor.data, s.input[i].tensor.dtype, b,
                      b * z.letter['P' - 'A'] /
                          (z.letter['B' - 'A'] > 0 ? z.letter['B' - 'A'] : 1));
        relate_values(&s.input[i].tensor, in->range, &z);
    }
    return s;
}
