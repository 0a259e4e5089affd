/* SPDX-License-Identifier: MIT
 *
 * What the tests of the server share: requests made from a loss's description, evaluated once by
 * the library and once through the server's steps, and rounding done another way than there.
 */
#ifndef TESTS_HELP_H
#define TESTS_HELP_H

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "evaluate.h"
#include "tests/bytes.h"
#include "wire/wire.h"

/* The losses that requests can be drawn for from their descriptions: not those whose tensors are
 * known from their parts alone. */
#define FOR_EACH_DRAWN(l)                                                                          \
    for (int l = 0; l < lk_loss_count(); l++)                                                      \
        if (!(lk_loss_describe(lk_loss_at(l))->traits & LK_DYNAMIC))

/* Random. */

static uint64_t random_state = 20;

static uint64_t random_bits(void)
{
    random_state += 0x9E3779B97F4A7C15U;
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

/* In [0, n). */
static UNUSED int random_below(int n)
{
    return n < 1 ? 0 : (int)(random_bits() % (uint64_t)n);
}

/* In [0, 1). */
static UNUSED double random_unit(void)
{
    return (double)(random_bits() >> 11) * 0x1p-53;
}

static UNUSED bool chance(double p)
{
    return random_unit() < p;
}

/* Narrow floats, by search: the bits of a format of 16 bits are in the order of their values. */

static UNUSED double widen16(int fraction, uint16_t bits)
{
    const int top = 0x7fff >> fraction, exponent = bits >> fraction & top;
    const int mantissa = bits & ((1 << fraction) - 1), bias = top / 2;
    double x = exponent == top ? (mantissa ? (double)NAN : (double)INFINITY)
               : exponent      ? ldexp(mantissa + (1 << fraction), exponent - bias - fraction)
                               : ldexp(mantissa, 1 - bias - fraction);
    return bits & 0x8000 ? -x : x;
}

/* To nearest, ties to even: infinity counts as the number that would follow the largest. */
static UNUSED uint16_t round16(int fraction, double x)
{
    const uint16_t infinity = (uint16_t)((0x7fff >> fraction) << fraction);
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x))
        return (uint16_t)(infinity | 1 << (fraction - 1));
    x = fabs(x);
    uint16_t low = 0, high = infinity;
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if (widen16(fraction, middle) <= x)
            low = middle;
        else
            high = middle;
    }
    double below = widen16(fraction, low);
    double above =
        high == infinity ? ldexp(1, (0x7fff >> fraction) / 2 + 1) : widen16(fraction, high);
    /* Both differences are exact, or x is so large that it does not matter. */
    if (x - below > above - x || (x - below == above - x && (low & 1)))
        low = high;
    return sign | low;
}

static UNUSED double real_at(lk_dtype dtype, const void *data, int64_t i)
{
    const char *from = (const char *)data + i * (int64_t)lk_dtype_size(dtype);
    double wide;
    float single;
    uint16_t half;
    if (dtype == LK_F64)
        return memcpy(&wide, from, sizeof wide), wide;
    if (dtype == LK_F32)
        return memcpy(&single, from, sizeof single), (double)single;
    memcpy(&half, from, sizeof half);
    return widen16(dtype == LK_F16 ? 10 : 7, half);
}

static UNUSED void set_real(lk_dtype dtype, void *data, int64_t i, double x)
{
    char *to = (char *)data + i * (int64_t)lk_dtype_size(dtype);
    float single = (float)x;
    if (dtype == LK_F64) {
        memcpy(to, &x, sizeof x);
    } else if (dtype == LK_F32) {
        memcpy(to, &single, sizeof single);
    } else {
        uint16_t half = round16(dtype == LK_F16 ? 10 : 7, x);
        memcpy(to, &half, sizeof half);
    }
}

static UNUSED int64_t integer_at(lk_dtype dtype, const void *data, int64_t i)
{
    int64_t wide;
    int32_t narrow;
    if (dtype == LK_I64)
        return memcpy(&wide, (const char *)data + i * 8, 8), wide;
    if (dtype == LK_I32)
        return memcpy(&narrow, (const char *)data + i * 4, 4), (int64_t)narrow;
    return ((const unsigned char *)data)[i];
}

static UNUSED void set_integer(lk_dtype dtype, void *data, int64_t i, int64_t x)
{
    int32_t narrow = (int32_t)x;
    if (dtype == LK_I64)
        memcpy((char *)data + i * 8, &x, 8);
    else if (dtype == LK_I32)
        memcpy((char *)data + i * 4, &narrow, 4);
    else
        ((unsigned char *)data)[i] = (unsigned char)x;
}

static UNUSED bool is_real(lk_dtype dtype)
{
    return LK_FLOATS >> dtype & 1;
}

static UNUSED size_t bytes_of(const lk_tensor *t)
{
    return (size_t)lk_tensor_count(t) * lk_dtype_size(t->dtype);
}

/* A request. Its tensors own their data. */

enum { REQUEST_INPUTS = 20, REQUEST_OPTIONS = 64, REQUEST_OUTPUTS = 48 };

typedef struct request_input {
    const char *name;
    lk_tensor tensor;
} request_input;

typedef struct sample {
    const lk_loss *loss;
    lk_dtype element;
    int inputs, options, outputs;
    request_input input[REQUEST_INPUTS];
    struct {
        const char *name;
        char text[40];
    } option[REQUEST_OPTIONS];
    char output[REQUEST_OUTPUTS][48]; /* none: the defaults */
} sample;

static UNUSED void sample_free(sample *s)
{
    for (int i = 0; i < s->inputs; i++)
        free(s->input[i].tensor.data);
    s->inputs = 0;
}

/* The sizes that the letters and the star have in a request. */
typedef struct sizes {
    int leads;
    int64_t lead[LK_MAX_RANK], letter[26];
} sizes;

static UNUSED const char *option_value(const sample *s, const char *name, size_t length)
{
    for (int i = 0; i < s->options; i++)
        if (strlen(s->option[i].name) == length && memcmp(s->option[i].name, name, length) == 0)
            return s->option[i].text;
    for (const lk_field *f = lk_loss_describe(s->loss)->options; f->name; f++)
        if (strlen(f->name) == length && memcmp(f->name, name, length) == 0)
            return f->fallback ? f->fallback : "-1";
    return "-1";
}

static UNUSED void shape_of(const sample *s, const char *pattern, const sizes *z, lk_tensor *t)
{
    int64_t moved[LK_MAX_RANK];
    int fixed[LK_MAX_RANK], n = 0, letters = 0;
    bool star = false;
    for (const char *p = pattern; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        if (*p == '*') {
            star = true;
            continue;
        }
        if (*p == '1') {
            fixed[letters] = -1;
            moved[letters++] = 1;
            continue;
        }
        fixed[letters] = p[1] == '@' ? atoi(option_value(s, p + 2, strcspn(p + 2, " "))) : -1;
        moved[letters++] = z->letter[*p - 'A'];
    }
    t->rank = (star ? z->leads : 0) + letters;
    bool taken[LK_MAX_RANK] = {false};
    for (int i = 0; i < letters; i++) {
        int axis = fixed[i] >= 0 && fixed[i] < t->rank ? fixed[i] : t->rank - letters + i;
        taken[axis] = true;
        t->shape[axis] = moved[i];
    }
    for (int axis = 0; axis < t->rank; axis++)
        if (!taken[axis])
            t->shape[axis] = n < z->leads ? z->lead[n++] : 1;
}

static UNUSED lk_dtype random_dtype(unsigned set)
{
    lk_dtype d;
    do {
        d = (lk_dtype)random_below(LK_DTYPE_COUNT);
    } while (!(set >> d & 1));
    return d;
}

/* An integer of a range "[low,LETTER)", or with ], that is not the option it may leave out. */
static UNUSED int64_t random_in(const sample *s, const char *range, const sizes *z)
{
    const char *comma = range ? strchr(range, ',') : NULL;
    if (!comma || comma[1] < 'A' || comma[1] > 'Z')
        return random_below(4);
    const int64_t low = strtoll(range + 1, NULL, 10);
    const int64_t end = z->letter[comma[1] - 'A'] + (strchr(range, ']') != NULL);
    const int64_t x = low + (end > low ? random_below((int)(end - low)) : 0);
    const char *name = strstr(range, " except ");
    name = name ? name + strlen(" except ") : NULL;
    const char *text = name ? option_value(s, name, strlen(name)) : NULL;
    return !text || x != strtoll(text, NULL, 10) ? x : x > low ? x - 1 : x + 1;
}

/* Values that the range of an input allows; now and then special ones where it has no range. */
static UNUSED void fill_values(const sample *s, lk_tensor *t, const char *range, const sizes *z)
{
    const int64_t count = lk_tensor_count(t);
    t->data = malloc(bytes_of(t) ? bytes_of(t) : 1);
    assert_non_null(t->data);
    const bool mask = LK_MASKS >> t->dtype & 1;
    const bool signs = range && strncmp(range, "{-1", 3) == 0;
    const bool special = !range && chance(0.2);
    for (int64_t i = 0; i < count; i++) {
        if (is_real(t->dtype)) {
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
            set_real(t->dtype, t->data, i, x);
        } else {
            int64_t x = signs  ? (chance(0.5) ? 1 : -1)
                        : mask ? random_below(2)
                               : random_in(s, range, z);
            if (t->dtype == LK_U8 && x)
                x = 1 + random_below(255);
            set_integer(t->dtype, t->data, i, x);
        }
    }
}

/* What the values of a last axis have to do with each other: distinct, or logarithms of shares. The
 * simplest that will do: classes in turn, all shares the same. */
static UNUSED void relate_values(lk_tensor *t, const char *range, const sizes *z)
{
    const int64_t K = t->rank > 0 ? t->shape[t->rank - 1] : 0;
    for (int64_t i = 0; range && i < lk_tensor_count(t); i++) {
        if (strstr(range, ", distinct")) {
            const int64_t C = z->letter[strchr(range, ',')[1] - 'A'];
            set_integer(t->dtype, t->data, i, i % K < C ? i % K : -1);
        } else if (strstr(range, ", exp sums")) {
            set_real(t->dtype, t->data, i, -log((double)K) - 0.01 - (double)(i % 3));
        }
    }
}

static UNUSED void add_option(sample *s, const lk_field *f)
{
    char *text = s->option[s->options].text;
    const size_t room = sizeof s->option[0].text;
    double low = f->flags & LK_RANGED && isfinite(f->min) ? f->min : 0;
    double high = f->flags & LK_RANGED && isfinite(f->max) ? f->max : low + 4;
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
    } else if (f->type == LK_REAL) {
        snprintf(text, room, "%.6g", low + (high - low) * (random_unit() + 1e-3) / 1.002);
    } else {
        snprintf(text, room, "%.0f", low + floor((fmin(high, low + 8) - low + 1) * random_unit()));
    }
    s->option[s->options++].name = f->name;
}

/* The library's word on a request. */

typedef struct answer {
    lk_status status;
    lk_error error;
    int outputs;
    struct {
        char name[48];
        lk_tensor tensor; /* owns its data */
    } output[REQUEST_OUTPUTS];
} answer;

static UNUSED void answer_free(answer *a)
{
    for (int i = 0; i < a->outputs; i++)
        free(a->output[i].tensor.data);
    a->outputs = 0;
}

static UNUSED lk_status give(lk_call *call, const sample *s, lk_error *error)
{
    lk_status status = LK_OK;
    for (int i = 0; i < s->inputs && status == LK_OK; i++)
        status = lk_call_input(call, s->input[i].name, &s->input[i].tensor, error);
    for (int i = 0; i < s->options && status == LK_OK; i++)
        status = lk_call_option(call, s->option[i].name, s->option[i].text, error);
    for (int i = 0; i < s->outputs && status == LK_OK; i++)
        status = lk_call_want(call, s->output[i], error);
    return status == LK_OK ? lk_call_check(call, error) : status;
}

/* Out of place, one block after another, the last one first. */
static UNUSED lk_status ask(const sample *s, answer *a)
{
    *a = (answer){.status = LK_NO_MEMORY};
    lk_call *call = lk_call_new(s->loss);
    if (!call)
        return a->status;
    a->status = give(call, s, &a->error);
    for (int i = 0; i < lk_call_outputs(call); i++) {
        const char *name = lk_call_output(call, i, &a->output[i].tensor);
        size_t size = bytes_of(&a->output[i].tensor);
        snprintf(a->output[i].name, sizeof a->output[i].name, "%s", name);
        a->output[i].tensor.data = malloc(size ? size : 1);
        a->outputs++;
        if (!a->output[i].tensor.data) {
            a->status = LK_NO_MEMORY;
            lk_call_free(call);
            return a->status;
        }
        (void)lk_call_bind(call, i, a->output[i].tensor.data);
    }
    if (a->status == LK_OK)
        a->status = lk_call_plan(call, &a->error);
    if (a->status == LK_OK) {
        size_t size = (lk_call_scratch(call) + 63) / 64 * 64;
        void *scratch = size ? aligned_alloc(64, size) : NULL;
        if (size && !scratch) {
            a->status = LK_NO_MEMORY;
        } else {
            do
                for (int64_t b = lk_call_blocks(call); b-- > 0;)
                    lk_call_run(call, b, 1, scratch);
            while (lk_call_next(call));
            a->status = lk_call_finish(call, &a->error);
        }
        free(scratch);
    }
    lk_call_free(call);
    return a->status;
}

/* Making requests. */

enum {
    SAMPLE_OPTIONS = 1,
    SAMPLE_OUTPUTS = 2,
    SAMPLE_PLAIN = 4,
    SAMPLE_EMPTY = 8,
    SAMPLE_NEEDY = 16, /* give options that can be left out: the loss has said that it needs one */
    SAMPLE_ONE = 32,   /* one leading size, of 1: others have to do with it */
};

static UNUSED void add_input(sample *s, const lk_input *in, const sizes *z, unsigned flags)
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

static UNUSED void add_outputs(sample *s)
{
    const lk_description *is = lk_loss_describe(s->loss);
    if (!(is->traits & LK_TRANSFORM) && chance(0.8))
        snprintf(s->output[s->outputs++], 48, "loss");
    for (const lk_input *in = is->inputs; in->name; in++)
        for (int i = 0; i < s->inputs; i++)
            if (strcmp(s->input[i].name, in->name) == 0 && (in->flags & LK_DIFFERENTIABLE) &&
                is_real(s->input[i].tensor.dtype) && chance(0.7))
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

/* A request as the description allows it; every size is up to `most`, or `most` exactly where
 * that is above 100. */
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
    for (const lk_input *in = is->inputs; in->name; in++)
        if (!(in->flags & LK_OPTIONAL) || chance(0.4))
            add_input(&s, in, &z, flags);
    if (flags & SAMPLE_OUTPUTS)
        add_outputs(&s);
    *of = z;
    return s;
}

/* Most requests that are refused for what sizes, inputs and options have to do with each other are
 * drawn again. */
static UNUSED sample sample_new(const lk_loss *loss, lk_dtype element, int most, unsigned flags)
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
        relate_values(&s.input[i].tensor, in->range, &z);
    }
    return s;
}

/* Bodies. */

enum { WIRES = 3 };
static UNUSED const wire *const each[WIRES] = {&wire_json, &wire_safetensors, &wire_oip};

static UNUSED void say_number(bytes *b, const lk_tensor *t, int64_t i)
{
    if (!is_real(t->dtype)) {
        int64_t x = integer_at(t->dtype, t->data, i);
        if (t->dtype == LK_BOOL && chance(0.5))
            say(b, "%s", x ? "true" : "false");
        else
            say(b, "%" PRId64, x);
        return;
    }
    double x = real_at(t->dtype, t->data, i);
    if (isnan(x))
        say(b, "NaN");
    else if (isinf(x))
        say(b, x < 0 ? "-Infinity" : "Infinity");
    else
        say(b, "%.17g", x);
}

static UNUSED void say_nested(bytes *b, const lk_tensor *t, int axis, int64_t *i)
{
    if (axis == t->rank) {
        say_number(b, t, (*i)++);
        return;
    }
    say(b, "[");
    for (int64_t k = 0; k < t->shape[axis]; k++) {
        say(b, "%s", k == 0 ? "" : chance(0.1) ? " ,\n" : ",");
        say_nested(b, t, axis + 1, i);
    }
    say(b, "]");
}

static UNUSED void say_base64(bytes *b, const unsigned char *data, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        unsigned group = (unsigned)data[i] << 16 | (i + 1 < n ? (unsigned)data[i + 1] << 8 : 0) |
                         (i + 2 < n ? data[i + 2] : 0u);
        char out[4];
        for (int k = 0; k < 4; k++)
            out[k] = digits[group >> (18 - 6 * k) & 63];
        if (i + 1 >= n)
            out[2] = '=';
        if (i + 2 >= n)
            out[3] = '=';
        put(b, out, 4);
    }
}

/* Can bare arrays say this tensor? They carry no types, and no sizes behind a 0. */
static UNUSED bool is_bare(const sample *s, const lk_tensor *t)
{
    bool types =
        s->element == LK_F32 && (t->dtype == LK_F32 || t->dtype == LK_I64 || t->dtype == LK_BOOL);
    for (int i = 0; i + 1 < t->rank; i++)
        types = types && t->shape[i] > 0;
    return types;
}

static UNUSED void say_tensor(bytes *b, const sample *s, const lk_tensor *t)
{
    int64_t i = 0;
    if (is_bare(s, t) && chance(0.6)) {
        say_nested(b, t, 0, &i);
        return;
    }
    say(b, "{\"dtype\":\"%s\", \"shape\":[", lk_dtype_name(t->dtype));
    for (int axis = 0; axis < t->rank; axis++)
        say(b, "%s%" PRId64, axis ? "," : "", t->shape[axis]);
    if (chance(0.5)) {
        say(b, "],\"base64\":\"");
        say_base64(b, t->data, bytes_of(t));
        say(b, "\"}");
        return;
    }
    say(b, "],\"data\":");
    lk_tensor flat = {t->data, t->dtype, 1, {lk_tensor_count(t)}};
    say_nested(b, &flat, 0, &i);
    say(b, "}");
}

/* Where options and outputs go. */
enum { IN_BODY, IN_QUERY };

static UNUSED void say_json(bytes *b, const sample *s, int where)
{
    say(b, "{\"inputs\":{");
    for (int i = 0; i < s->inputs; i++) {
        say(b, "%s\"%s\":", i ? ", " : "", s->input[i].name);
        say_tensor(b, s, &s->input[i].tensor);
    }
    say(b, "}");
    for (int i = 0; where == IN_BODY && i < s->options; i++) {
        const char *text = s->option[i].text;
        bool natural = chance(0.5) && strcmp(text, "off") != 0 &&
                       (strchr("-0123456789", text[0]) || strcmp(text, "true") == 0 ||
                        strcmp(text, "false") == 0);
        const bool list = strchr(text, ',');
        say(b, "%s\"%s\":%s%s%s", i ? "," : ",\"options\":{", s->option[i].name,
            !natural ? "\""
            : list   ? "["
                     : "",
            text,
            !natural ? "\""
            : list   ? "]"
                     : "");
    }
    say(b, "%s", where == IN_BODY && s->options ? "}" : "");
    for (int i = 0; where == IN_BODY && i < s->outputs; i++)
        say(b, "%s\"%s\"", i ? "," : ",\"outputs\":[", s->output[i]);
    say(b, "%s}", where == IN_BODY && s->outputs ? "]" : "");
}

static UNUSED const char *spelt(lk_dtype dtype)
{
    static const char *const words[] = {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"};
    return words[dtype];
}

static UNUSED void say_safetensors(bytes *b, const sample *s, int where)
{
    bytes h = {0};
    size_t at = 0;
    const char *separator = "";
    say(&h, "{");
    if (where == IN_BODY && (s->options || s->outputs || chance(0.5))) {
        say(&h, "\"__metadata__\":{\"format\":\"pt\"");
        for (int i = 0; i < s->options; i++)
            say(&h, ",\"%s\":\"%s\"", s->option[i].name, s->option[i].text);
        for (int i = 0; i < s->outputs; i++)
            say(&h, "%s%s", i ? "," : ",\"outputs\":\"", s->output[i]);
        say(&h, "%s}", s->outputs ? "\"" : "");
        separator = ",";
    }
    for (int i = 0; i < s->inputs; i++) {
        const lk_tensor *t = &s->input[i].tensor;
        say(&h, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", separator, s->input[i].name,
            spelt(t->dtype));
        for (int axis = 0; axis < t->rank; axis++)
            say(&h, "%s%" PRId64, axis ? "," : "", t->shape[axis]);
        say(&h, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes_of(t));
        at += bytes_of(t);
        separator = ",";
    }
    say(&h, "}");
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)h.size >> (8 * i) & 0xff);
    put(b, length, 8);
    put(b, h.data, h.size);
    for (int i = 0; i < s->inputs; i++)
        put(b, s->input[i].tensor.data, bytes_of(&s->input[i].tensor));
    free(h.data);
}

/* The length of the JSON of the last body of the Open Inference Protocol, which a header tells. */
static uint64_t said_head;

static UNUSED const char *oip_spelt(lk_dtype dtype)
{
    static const char *const words[] = {"FP64",  "FP32",  "FP16",  "BF16",
                                        "INT64", "INT32", "UINT8", "BOOL"};
    return words[dtype];
}

static UNUSED bool is_half(lk_dtype dtype)
{
    return dtype == LK_F16 || dtype == LK_BF16;
}

/* Tensors in the JSON and behind it, as it comes; what JSON cannot say behind it. */
static UNUSED void say_oip(bytes *b, const sample *s, int where)
{
    bytes raw = {0};
    const bool all = is_half(s->element) || chance(0.5);
    put(&raw, "", 0);
    say(b, "{\"id\":\"%d\",\"parameters\":{\"binary_data_output\":%s", s->inputs,
        all ? "true" : "false");
    for (int i = 0; where == IN_BODY && i < s->options; i++)
        say(b, ",\"%s\":\"%s\"", s->option[i].name, s->option[i].text);
    say(b, "},\"inputs\":[");
    for (int i = 0; i < s->inputs; i++) {
        const lk_tensor *t = &s->input[i].tensor;
        lk_tensor flat = {t->data, t->dtype, 1, {lk_tensor_count(t)}};
        bool nested = chance(0.3);
        int64_t k = 0;
        for (int axis = 0; axis < t->rank; axis++)
            nested = nested && t->shape[axis] > 0;
        say(b, "%s{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":[", i ? "," : "", s->input[i].name,
            oip_spelt(t->dtype));
        for (int axis = 0; axis < t->rank; axis++)
            say(b, "%s%" PRId64, axis ? "," : "", t->shape[axis]);
        if (is_half(t->dtype) || chance(0.5)) {
            say(b, "],\"parameters\":{\"binary_data_size\":%zu}}", bytes_of(t));
            put(&raw, t->data, bytes_of(t));
            continue;
        }
        say(b, "],\"data\":");
        say_nested(b, nested && t->rank > 0 ? t : &flat, 0, &k);
        say(b, "}");
    }
    say(b, "]");
    for (int i = 0; where == IN_BODY && i < s->outputs; i++) {
        say(b, "%s{\"name\":\"%s\"", i ? "," : ",\"outputs\":[", s->output[i]);
        if (!all || chance(0.5))
            say(b, ",\"parameters\":{\"binary_data\":%s}",
                is_half(s->element) || chance(0.5) ? "true" : "false");
        say(b, "}");
    }
    say(b, "%s}", where == IN_BODY && s->outputs ? "]" : "");
    said_head = b->size;
    put(b, raw.data, raw.size);
    free(raw.data);
}

static UNUSED void say_body(bytes *b, const sample *s, const wire *w, int where)
{
    if (w == &wire_json)
        say_json(b, s, where);
    else if (w == &wire_oip)
        say_oip(b, s, where);
    else
        say_safetensors(b, s, where);
}

static UNUSED void say_query(bytes *b, const sample *s)
{
    put(b, "", 0);
    for (int i = 0; i < s->options; i++) {
        say(b, "%s%s=", b->size ? "&" : "", s->option[i].name);
        for (const char *c = s->option[i].text; *c; c++)
            say(b, chance(0.3) || *c == '+' ? "%%%02x" : "%c", (unsigned char)*c);
    }
    for (int i = 0; i < s->outputs; i++)
        say(b, "%s%s", i ? "," : b->size ? "&outputs=" : "outputs=", s->output[i]);
}

/* The server's steps in a row. */

typedef struct outcome {
    problem problem;
    int shards;
    bytes reply;
    uint64_t head;      /* of a reply of the Open Inference Protocol: its JSON; 0: all of it */
    size_t need, taken; /* as promised after open, and as found at the end */
} outcome;

static UNUSED void outcome_free(outcome *o)
{
    free(o->reply.data);
    o->reply = (bytes){0};
}

/* What a request's head would have said beside the body. */
static UNUSED void tell_head(evaluation *e)
{
    if (e->in == &wire_oip)
        e->oip.head = said_head;
    else
        e->oip.raw_default = true;
}

/* `query` NULL: none. The body is copied to memory of exactly its size. False with a problem. */
static UNUSED bool evaluate(const lk_loss *loss, const wire *in, const wire *out, const void *body,
                            size_t size, const char *query, int shards, outcome *o)
{
    char *copy = exactly(body, size);
    *o = (outcome){.shards = 0};
    evaluation *e = evaluation_new(loss, in, out, (span){copy, size});
    if (!e)
        problem_set(&o->problem, 503, "no_memory", "no memory");
    else
        tell_head(e);
    bool ok = e && evaluation_open(e, query ? query : "", shards, &o->problem) &&
              evaluation_fill(e, &o->problem);
    if (ok) {
        do
            for (int i = e->shards; i-- > 0;)
                evaluation_run(e, i);
        while (evaluation_next(e));
        ok = evaluation_close(e, &o->problem);
    }
    if (e) {
        o->shards = e->shards;
        o->head = e->oip.reply_head;
        o->need = e->need;
        o->taken = e->arena_size + e->text.capacity + lk_call_memory(e->call);
        if (e->arena_used > e->arena_size)
            fail_msg("%zu bytes used of an arena of %zu", e->arena_used, e->arena_size);
    }
    for (int i = 0; ok && i < e->pieces; i++)
        put(&o->reply, e->piece[i].data, e->piece[i].size);
    evaluation_free(e);
    free(copy);
    return ok;
}

#endif
