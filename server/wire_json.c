/* SPDX-License-Identifier: MIT
 *
 * JSON bodies. The envelope is walked with a cursor; option values and escaped strings are
 * jansson's; the numbers of tensors go from text straight into memory, without a tree in between. A
 * tensor is walked twice: once for its shape, so that everything can be checked and its memory
 * asked for, then for its numbers.
 */
#include "number.h"
#include "wire.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

enum {
    NAME_MAX_ = 64,       /* longer names are cut; none that long is known */
    TREE_MAX = 64 * 1024, /* text for jansson */
};

static bool malformed(problem *p, const char *what)
{
    return problem_set(p, 400, "malformed_body", "%s", what);
}

/* Walking. */

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* A string token, quotes included, as it stands in the text. */
static bool take_string(cursor *c, span *s)
{
    cursor_space(c);
    const char *start = c->p;
    if (cursor_peek(c) != '"')
        return false;
    for (c->p++; c->p < c->end && *c->p != '"'; c->p++)
        if (*c->p == '\\' && c->p + 1 < c->end)
            c->p++;
    if (c->p >= c->end)
        return false;
    c->p++;
    *s = (span){start, (size_t)(c->p - start)};
    return true;
}

/* Any value, as it stands in the text: its brackets are counted, no more. */
static bool take_value(cursor *c, span *s)
{
    size_t depth = 0;
    cursor_space(c);
    const char *start = c->p;
    while (c->p < c->end) {
        span string;
        char byte = *c->p;
        if (byte == '"') {
            if (!take_string(c, &string))
                return false;
            if (depth == 0)
                break;
            continue;
        }
        if (byte == '[' || byte == '{') {
            depth++;
        } else if (byte == ']' || byte == '}') {
            if (depth == 0)
                break;
            if (--depth == 0) {
                c->p++;
                break;
            }
        } else if (depth == 0 && (byte == ',' || is_space(byte))) {
            break;
        }
        c->p++;
    }
    *s = (span){start, (size_t)(c->p - start)};
    return depth == 0 && s->size > 0;
}

static json_t *tree(span s, json_error_t *error)
{
    /* jansson needs some forty bytes for one of text: what it is given must be short. */
    if (s.size > TREE_MAX)
        return NULL;
    return json_loadb(s.data, s.size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, error);
}

/* A string token's text, cut to fit. False if it is not a string of valid UTF-8. */
static bool string_text(span s, char to[NAME_MAX_])
{
    bool simple = s.size >= 2 && s.data[0] == '"' && s.data[s.size - 1] == '"';
    for (size_t i = 0; i < s.size; i++)
        if (s.data[i] == '\\' || (unsigned char)s.data[i] < 0x20 || (unsigned char)s.data[i] > 0x7e)
            simple = false;
    if (simple) {
        snprintf(to, NAME_MAX_, "%.*s", (int)(s.size - 2 < 63 ? s.size - 2 : 63), s.data + 1);
        return true;
    }
    json_t *string = tree(s, NULL);
    bool ok = json_is_string(string);
    if (ok)
        snprintf(to, NAME_MAX_, "%s", json_string_value(string));
    json_decref(string);
    return ok;
}

/* The next member of an object, after its '{' or the last member: 1, 0 at the '}', -1 if malformed.
 */
static int take_member(cursor *c, bool first, char name[NAME_MAX_], span *value)
{
    span key;
    if (cursor_accept(c, '}'))
        return first ? 0 : -1;
    bool ok = take_string(c, &key) && string_text(key, name) && cursor_accept(c, ':') &&
              take_value(c, value);
    return ok ? 1 : -1;
}

/* After a member: 1 if another follows, 0 if the object ends, -1 if malformed. */
static int after_member(cursor *c)
{
    if (cursor_accept(c, ','))
        return 1;
    return cursor_accept(c, '}') ? 0 : -1;
}

/* Shapes. */

/* "inputs.logits[3][1]" */
enum { PLACE_MAX = 224 };

static const char *place(const char *input, const int64_t *index, int rank, char to[PLACE_MAX])
{
    size_t used = (size_t)snprintf(to, PLACE_MAX, "inputs.%s", input);
    for (int i = 0; i < rank && used < PLACE_MAX; i++)
        used += (size_t)snprintf(to + used, PLACE_MAX - used, "[%lld]", (long long)index[i]);
    return to;
}

static bool at_place(problem *p, const int64_t *index, int rank)
{
    p->rank = rank < LK_MAX_RANK ? rank : LK_MAX_RANK;
    memcpy(p->index, index, (size_t)p->rank * sizeof *index);
    return false;
}

/* Nested arrays being walked for their shape: how many elements each open array has so far. */
typedef struct nest {
    const char *input;
    int depth, rank; /* rank -1: no innermost array seen yet */
    int64_t at[LK_MAX_RANK + 1], shape[LK_MAX_RANK];
    problem *p;
} nest;

static bool ragged(nest *n, int rank, const char *is, int64_t value, const char *first)
{
    char name[PLACE_MAX];
    place(n->input, n->at, rank, name);
    if (value >= 0)
        problem_input(n->p, 400, "ragged_tensor", n->input, "%s: %lld values, row 0 has %s", name,
                      (long long)value, first);
    else
        problem_input(n->p, 400, "ragged_tensor", n->input, "%s is %s; at that depth row 0 has %s",
                      name, is, first);
    return at_place(n->p, n->at, rank);
}

static bool open_array(nest *n)
{
    if (n->rank >= 0 && n->depth == n->rank)
        return ragged(n, n->depth, "an array", -1, "a number");
    if (n->depth == LK_MAX_RANK)
        return problem_input(n->p, 413, "too_large", n->input,
                             "inputs.%s is nested deeper than %d; tensors have at most %d axes",
                             n->input, LK_MAX_RANK, LK_MAX_RANK);
    n->at[n->depth++] = 0;
    return true;
}

static bool close_array(nest *n)
{
    int axis = n->depth - 1;
    if (n->rank < 0)
        n->rank = n->depth; /* an empty array is an innermost one */
    int64_t size = n->at[axis];
    if (n->shape[axis] < 0)
        n->shape[axis] = size;
    if (n->shape[axis] != size) {
        char first[24];
        snprintf(first, sizeof first, "%lld", (long long)n->shape[axis]);
        return ragged(n, axis, "", size, first);
    }
    n->depth--;
    return true;
}

static bool bad_token(nest *n, char byte)
{
    char name[PLACE_MAX];
    place(n->input, n->at, n->depth, name);
    const char *what = byte == '"'   ? "a string"
                       : byte == '{' ? "an object"
                       : byte == 'n' ? "null or another word"
                       : byte == 0   ? "cut off"
                                     : "not JSON";
    problem_input(n->p, 400, "malformed_body", n->input, "%s is %s; it must be a number", name,
                  what);
    return at_place(n->p, n->at, n->depth);
}

/* A number, NaN, Infinity, true or false begins so; the rest is looked at when it is read. */
static bool begins_number(char c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == 'N' || c == 'I' || c == 't' || c == 'f';
}

static bool ends_token(char c)
{
    return c == ',' || c == ']' || is_space(c) || c == '[' || c == '"' || c == '{' || c == '}';
}

static bool scan_shape(span text, const char *input, lk_tensor *t, problem *p)
{
    nest n = {.input = input, .rank = -1, .p = p};
    cursor c = cursor_new(text);
    for (int i = 0; i < LK_MAX_RANK; i++)
        n.shape[i] = -1;
    do {
        /* A value. */
        cursor_space(&c);
        char byte = cursor_peek(&c);
        if (byte == '[') {
            c.p++;
            if (!open_array(&n))
                return false;
            if (!cursor_accept(&c, ']'))
                continue;
            if (!close_array(&n))
                return false;
        } else if (begins_number(byte)) {
            if (n.rank >= 0 && n.depth != n.rank)
                return ragged(&n, n.depth, "a number", -1, "an array");
            n.rank = n.depth;
            while (c.p < c.end && !ends_token(*c.p))
                c.p++;
        } else {
            return bad_token(&n, byte);
        }
        /* What ends with it. */
        while (n.depth > 0) {
            n.at[n.depth - 1]++;
            if (!cursor_accept(&c, ']'))
                break;
            if (!close_array(&n))
                return false;
        }
        if (n.depth > 0 && !cursor_accept(&c, ','))
            return bad_token(&n, cursor_left(&c) ? '?' : 0);
    } while (n.depth > 0);
    cursor_space(&c);
    if (cursor_left(&c))
        return problem_input(p, 400, "malformed_body", input, "inputs.%s: text after the value",
                             input);
    t->rank = n.rank;
    memcpy(t->shape, n.shape, sizeof t->shape);
    return true;
}

/* Numbers. */

/* A tensor's numbers being read: element i is next. */
typedef struct reader {
    const char *input;
    const lk_tensor *t;
    int64_t i;
    cursor c;
    bool words; /* an integer may be true or false: the input also takes masks */
    problem *p;
} reader;

/* The token at the cursor is not what element i must be. */
static bool bad_number(const reader *r, int status, const char *code, const char *must)
{
    char name[PLACE_MAX];
    int64_t index[LK_MAX_RANK], flat = r->i;
    int size = 0;
    while (size < 40 && r->c.p + size < r->c.end && !ends_token(r->c.p[size]))
        size++;
    for (int axis = r->t->rank - 1; axis >= 0; axis--) {
        index[axis] = flat % r->t->shape[axis];
        flat /= r->t->shape[axis];
    }
    place(r->input, index, r->t->rank, name);
    problem_input(r->p, status, code, r->input, "%s is %.*s; it must be %s", name, size, r->c.p,
                  must);
    return at_place(r->p, index, r->t->rank);
}

static bool read_float(reader *r)
{
    double x;
    const char *next = number_read(r->c.p, r->c.end, &x);
    if (!next)
        return bad_number(r, 400, "malformed_body", "a JSON number, NaN, Infinity or -Infinity");
    wire_put_real(r->t->dtype, r->t->data, r->i, x);
    r->c.p = next;
    return true;
}

/* true or false as 1 or 0; where it ends, or NULL. */
static const char *read_word(const reader *r, int64_t *x)
{
    for (int word = 0; word < 2; word++) {
        const char *text = word ? "true" : "false";
        size_t size = strlen(text);
        if (cursor_left(&r->c) >= size && memcmp(r->c.p, text, size) == 0 &&
            (cursor_left(&r->c) == size || ends_token(r->c.p[size]))) {
            *x = word;
            return r->c.p + size;
        }
    }
    return NULL;
}

static bool read_integer(reader *r)
{
    int64_t x;
    double real;
    bool fits;
    const char *next = number_read_integer(r->c.p, r->c.end, &x, &fits);
    if (!next && r->words && (next = read_word(r, &x)))
        fits = true;
    if (!next && number_read(r->c.p, r->c.end, &real))
        return bad_number(r, 422, "dtype_unsupported", "an integer");
    if (!next)
        return bad_number(r, 400, "malformed_body", "an integer");
    if (!fits)
        return bad_number(r, 422, "value_out_of_range", "an integer of 64 bits");
    if (r->t->dtype == LK_I64) {
        memcpy((char *)r->t->data + r->i * 8, &x, sizeof x);
    } else {
        int32_t narrow = (int32_t)x;
        if (narrow != x)
            return bad_number(r, 422, "value_out_of_range", "an integer of 32 bits");
        memcpy((char *)r->t->data + r->i * 4, &narrow, sizeof narrow);
    }
    r->c.p = next;
    return true;
}

static bool read_mask(reader *r)
{
    const bool wide = r->t->dtype == LK_U8;
    int64_t x = 0;
    bool fits = true;
    const char *next = number_read_integer(r->c.p, r->c.end, &x, &fits);
    if (!next)
        next = read_word(r, &x);
    if (!next)
        return bad_number(r, 400, "malformed_body", "true, false, 1 or 0");
    if (!fits || x < 0 || x > (wide ? 255 : 1))
        return bad_number(r, 422, "value_out_of_range",
                          wide ? "in [0, 255]" : "true, false, 1 or 0");
    ((char *)r->t->data)[r->i] = (char)x;
    r->c.p = next;
    return true;
}

/* What may stand between two numbers, since scan_shape has seen that it is well-formed. */
static bool is_between(char c)
{
    return c == '[' || c == ']' || c == ',' || is_space(c);
}

/* All numbers of a text whose brackets scan_shape has seen to be in order. */
static bool read_numbers(span text, const char *input, const lk_tensor *t, bool words, problem *p)
{
    reader r = {.input = input, .t = t, .c = cursor_new(text), .words = words, .p = p};
    const int64_t count = lk_tensor_count(t);
    const bool integers = t->dtype == LK_I64 || t->dtype == LK_I32;
    const bool masks = t->dtype == LK_BOOL || t->dtype == LK_U8;
    for (r.i = 0; r.i < count; r.i++) {
        /* A token of the walk for the shape ends where a number does, or it is not one. */
        while (r.c.p < r.c.end && is_between(*r.c.p))
            r.c.p++;
        cursor token = r.c;
        if (!(integers ? read_integer(&r) : masks ? read_mask(&r) : read_float(&r)))
            return false;
        if (cursor_left(&r.c) && !is_between(*r.c.p)) {
            r.c = token;
            return bad_number(&r, 400, "malformed_body", "one JSON value");
        }
    }
    return true;
}

/* Base64, RFC 4648: white space is not allowed, padding may be left out. Escaped slashes are taken,
 * since some JSON writers escape them. */
static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* The digits between the quotes, and how many bytes they hold. */
static span base64_digits(span text, uint64_t *bytes)
{
    size_t escapes = 0;
    text = (span){text.data + 1, text.size - 2};
    for (int padding = 0; padding < 2 && text.size > 0 && text.data[text.size - 1] == '=';
         padding++)
        text.size--;
    for (size_t i = 0; i < text.size; i++)
        escapes += text.data[i] == '\\';
    *bytes = (uint64_t)(text.size - escapes) * 6 / 8;
    return text;
}

/* Is there as much of it as the shape needs? Asked before any memory is, since the shape is the
 * client's word. Without a dtype the widest that fits is assumed to come later and is checked
 * again. */
static bool base64_fits(span text, const char *input, const lk_tensor *t, problem *p)
{
    uint64_t bytes, count = (uint64_t)lk_tensor_count(t);
    (void)base64_digits(text, &bytes);
    uint64_t width = lk_dtype_size(t->dtype), need = count * (width ? width : 1);
    if (width ? bytes == need : bytes >= need && bytes / 8 <= count)
        return true;
    return problem_input(p, 400, "ragged_tensor", input,
                         "inputs.%s.base64 holds %llu bytes; its shape and dtype need %llu", input,
                         (unsigned long long)bytes, (unsigned long long)need);
}

static bool read_base64(const source *s, const lk_tensor *t, problem *p)
{
    uint64_t size = (uint64_t)lk_tensor_count(t) * lk_dtype_size(t->dtype), used = 0, bytes;
    unsigned bits = 0, have = 0;
    span text = base64_digits(s->text, &bytes);
    if (!base64_fits(s->text, s->name, t, p))
        return false;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] == '\\' && i + 1 < text.size && text.data[i + 1] == '/')
            continue;
        int digit = base64_digit(text.data[i]);
        if (digit < 0)
            return problem_input(p, 400, "malformed_body", s->name,
                                 "inputs.%s.base64 has a byte at %zu that is not base64", s->name,
                                 i);
        bits = bits << 6 | (unsigned)digit;
        have += 6;
        if (have >= 8) {
            have -= 8;
            if (used < size)
                ((unsigned char *)t->data)[used] = (unsigned char)(bits >> have);
            used++;
        }
    }
    if (have == 6)
        return problem_input(p, 400, "malformed_body", s->name,
                             "inputs.%s.base64 is cut off: its last digit stands alone", s->name);
    return true;
}

/* The envelope. */

static bool tensor_dtype(span value, const char *input, lk_tensor *t, problem *p)
{
    char word[NAME_MAX_];
    if (!string_text(value, word))
        return problem_input(p, 400, "malformed_body", input, "inputs.%s.dtype must be a string",
                             input);
    for (int d = 0; d < LK_DTYPE_COUNT; d++) {
        if (strcmp(lk_dtype_name((lk_dtype)d), word) == 0) {
            t->dtype = (lk_dtype)d;
            return true;
        }
    }
    return problem_input(p, 422, "dtype_unsupported", input,
                         "inputs.%s.dtype is \"%s\"; it must be f64, f32, f16, bf16, i64, i32, u8 "
                         "or bool",
                         input, word);
}

static bool tensor_shape(span value, const char *input, lk_tensor *t, problem *p)
{
    lk_tensor list = {.dtype = LK_I64};
    int64_t sizes[LK_MAX_RANK];
    if (!scan_shape(value, input, &list, p))
        return false;
    if (list.rank != 1)
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s.shape must be an array of sizes", input);
    if (list.shape[0] > LK_MAX_RANK)
        return problem_input(p, 413, "too_large", input,
                             "inputs.%s.shape has %lld sizes; tensors have at most %d axes", input,
                             (long long)list.shape[0], LK_MAX_RANK);
    list.data = sizes;
    if (!read_numbers(value, input, &list, false, p)) {
        *p = (problem){0};
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s.shape must be an array of integers", input);
    }
    t->rank = (int)list.shape[0];
    for (int axis = 0; axis < t->rank; axis++) {
        t->shape[axis] = sizes[axis];
        if (sizes[axis] < 0)
            return problem_input(p, 400, "malformed_body", input,
                                 "inputs.%s.shape[%d] is %lld; a size must be >= 0", input, axis,
                                 (long long)sizes[axis]);
    }
    if (lk_tensor_count(t) < 0)
        return problem_input(p, 413, "too_large", input,
                             "inputs.%s has more elements than memory can hold", input);
    return true;
}

/* {"shape": ..., "data" or "base64": ..., "dtype": ...} */
static bool tensor_object(evaluation *e, const char *input, span text, problem *p)
{
    cursor c = cursor_new(text);
    char name[NAME_MAX_];
    span value, shape = {0}, data = {0}, base64 = {0}, dtype = {0};
    lk_tensor t = {.dtype = LK_ANY};
    int more = cursor_accept(&c, '{') ? 1 : -1;
    for (bool first = true; more == 1; first = false) {
        more = take_member(&c, first, name, &value);
        if (more != 1)
            break;
        span *known = strcmp(name, "shape") == 0    ? &shape
                      : strcmp(name, "data") == 0   ? &data
                      : strcmp(name, "base64") == 0 ? &base64
                      : strcmp(name, "dtype") == 0  ? &dtype
                                                    : NULL;
        if (!known)
            return problem_input(
                p, 400, "malformed_body", input,
                "inputs.%s has a member \"%s\"; a tensor has shape, data or base64, "
                "and dtype",
                input, name);
        if (known->size > 0)
            return problem_input(p, 400, "duplicate_name", input, "inputs.%s.%s comes twice", input,
                                 name);
        *known = value;
        more = after_member(&c);
    }
    if (more < 0)
        return problem_input(p, 400, "malformed_body", input, "inputs.%s is not a JSON object",
                             input);
    if (shape.size == 0 || (data.size > 0) == (base64.size > 0))
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s must have shape and exactly one of data and base64", input);
    if (!tensor_shape(shape, input, &t, p) ||
        (dtype.size > 0 && !tensor_dtype(dtype, input, &t, p)))
        return false;
    if (base64.size > 0) {
        if (base64.data[0] != '"')
            return problem_input(p, 400, "malformed_body", input,
                                 "inputs.%s.base64 must be a string", input);
        if (!base64_fits(base64, input, &t, p) || !wire_input(e, input, &t, base64, p))
            return false;
        e->source[e->sources - 1].base64 = true;
        return true;
    }
    lk_tensor flat = {.dtype = LK_ANY};
    if (!scan_shape(data, input, &flat, p))
        return false;
    if (flat.rank > 1 &&
        (flat.rank != t.rank || memcmp(flat.shape, t.shape, (size_t)t.rank * sizeof *t.shape) != 0))
        return problem_input(p, 400, "ragged_tensor", input,
                             "inputs.%s.data is nested, but not as its shape says", input);
    if (flat.rank < 1 || lk_tensor_count(&flat) != lk_tensor_count(&t))
        return problem_input(p, 400, "ragged_tensor", input,
                             "inputs.%s.data has %lld values; its shape needs %lld", input,
                             (long long)(flat.rank < 1 ? 1 : lk_tensor_count(&flat)),
                             (long long)lk_tensor_count(&t));
    return wire_input(e, input, &t, data, p);
}

static bool open_inputs(evaluation *e, span text, problem *p)
{
    cursor c = cursor_new(text);
    char name[NAME_MAX_];
    span value;
    int more = cursor_accept(&c, '{') ? 1 : -1, tensors = 0;
    if (more < 0)
        return malformed(p, "inputs must be an object of tensors by name");
    for (bool first = true; more == 1; first = false) {
        more = take_member(&c, first, name, &value);
        if (more != 1)
            break;
        if (++tensors > WIRE_TENSORS)
            return problem_set(p, 413, "too_large", "more than %d tensors in inputs", WIRE_TENSORS);
        lk_tensor t = {.dtype = LK_ANY};
        if (value.data[0] == '{') {
            if (!tensor_object(e, name, value, p))
                return false;
        } else if (!scan_shape(value, name, &t, p) || !wire_input(e, name, &t, value, p)) {
            return false;
        }
        more = after_member(&c);
    }
    cursor_space(&c);
    return (more == 0 && !cursor_left(&c)) ||
           problem_set(p, 400, "malformed_body", "inputs is not a JSON object, at byte %zu",
                       (size_t)(c.p - e->body.data));
}

static bool json_problem(const json_error_t *error, span text, const char *body, const char *what,
                         problem *p)
{
    if (json_error_code(error) == json_error_duplicate_key)
        return problem_set(p, 422, "duplicate_option", "%s: %s", what, error->text);
    if (error->text[0] == '\0') /* jansson is silent where memory ran out */
        return problem_set(p, 503, "no_memory", "no memory for %s; try again later", what);
    return problem_set(p, 400, "malformed_body", "%s, at byte %zu: %s", what,
                       (size_t)(text.data - body) +
                           (size_t)(error->position > 0 ? error->position : 0),
                       error->text);
}

static bool open_options(evaluation *e, span text, problem *p)
{
    json_error_t syntax = {0};
    json_t *options = tree(text, &syntax);
    const char *name;
    json_t *value;
    bool ok = true;
    if (text.size > TREE_MAX)
        return problem_set(p, 413, "too_large", "options takes more than %d bytes", TREE_MAX);
    if (!options)
        return json_problem(&syntax, text, e->body.data, "options", p);
    if (!json_is_object(options))
        ok = malformed(p, "options must be an object");
    else
        json_object_foreach(options, name, value)
        {
            ok = ok && wire_option_json(e, name, value, p);
        }
    json_decref(options);
    return ok;
}

static bool open_outputs(evaluation *e, span text, problem *p)
{
    json_error_t syntax = {0};
    json_t *outputs = tree(text, &syntax);
    size_t i;
    json_t *value;
    bool ok = true;
    if (text.size > TREE_MAX)
        return problem_set(p, 413, "too_large", "outputs takes more than %d bytes", TREE_MAX);
    if (!outputs)
        return json_problem(&syntax, text, e->body.data, "outputs", p);
    e->outputs_named = true;
    if (!json_is_array(outputs))
        ok = malformed(p, "outputs must be an array of names");
    else
        json_array_foreach(outputs, i, value)
        {
            lk_error error;
            if (ok && !json_is_string(value))
                ok = problem_set(p, 400, "malformed_body", "outputs[%zu] must be a string", i);
            if (ok && lk_call_want(e->call, json_string_value(value), &error) != LK_OK)
                ok = problem_from(p, &error);
        }
    json_decref(outputs);
    return ok;
}

static bool json_open(evaluation *e, problem *p)
{
    cursor c = cursor_new(e->body);
    char name[NAME_MAX_];
    span value, inputs = {0}, options = {0}, outputs = {0};
    if (!cursor_accept(&c, '{'))
        return malformed(p, cursor_left(&c) ? "the body is not a JSON object"
                                            : "the body is empty; it must be a JSON object");
    int more = 1;
    for (bool first = true; more == 1; first = false) {
        more = take_member(&c, first, name, &value);
        if (more != 1)
            break;
        span *known = strcmp(name, "inputs") == 0    ? &inputs
                      : strcmp(name, "options") == 0 ? &options
                      : strcmp(name, "outputs") == 0 ? &outputs
                                                     : NULL;
        if (!known)
            return problem_set(p, 400, "malformed_body",
                               "the body has a member \"%s\"; a request has inputs, options and "
                               "outputs",
                               name);
        if (known->size > 0)
            return problem_set(p, known == &outputs ? 422 : 400,
                               known == &outputs ? "duplicate_option" : "duplicate_name",
                               "%s is given twice", name);
        *known = value;
        more = after_member(&c);
    }
    cursor_space(&c);
    if (more < 0)
        return problem_set(p, 400, "malformed_body", "the body is not JSON, at byte %zu",
                           (size_t)(c.p - e->body.data));
    if (cursor_left(&c))
        return problem_set(p, 400, "malformed_body", "text after the JSON object, at byte %zu",
                           (size_t)(c.p - e->body.data));
    return (inputs.size == 0 || open_inputs(e, inputs, p)) &&
           (options.size == 0 || open_options(e, options, p)) &&
           (outputs.size == 0 || open_outputs(e, outputs, p));
}

static bool takes_masks(const evaluation *e, const char *name)
{
    unsigned dtypes = 0;
    for (const lk_input *in = lk_loss_describe(e->loss)->inputs; in->name; in++)
        for (int f = 0; f < 3 && strcmp(in->name, name) == 0; f++)
            dtypes |= in->forms[f].dtypes;
    return (dtypes & LK_MASKS) != 0;
}

static bool json_fill(evaluation *e, problem *p)
{
    for (int i = 0; i < e->sources; i++) {
        const source *s = &e->source[i];
        const lk_tensor *t = lk_call_tensor(e->call, s->name);
        if (!(s->base64 ? read_base64(s, t, p)
                        : read_numbers(s->text, s->name, t, takes_masks(e, s->name), p)))
            return false;
    }
    return true;
}

/* Replies. */

static size_t longest(lk_dtype dtype)
{
    switch (dtype) {
    case LK_F64:
        return NUMBER_F64_MAX;
    case LK_F32:
        return NUMBER_F32_MAX;
    case LK_BF16:
        return NUMBER_BF16_MAX;
    case LK_F16:
        return NUMBER_F16_MAX;
    default:
        return NUMBER_I64_MAX;
    }
}

/* Room for every number and its comma at their longest, for two brackets and a comma for every row
 * there can be, and for the names. Pages that are not written cost nothing. */
static size_t json_bound(const evaluation *e)
{
    size_t bytes = 128;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        bytes += strlen(lk_call_output(e->call, i, &t)) + 64 + 24 * LK_MAX_RANK;
        size_t brackets = 0, rows = 1;
        for (int axis = 0; lk_tensor_count(&t) > 0 && axis < t.rank; axis++) {
            brackets += 3 * rows;
            rows *= (size_t)t.shape[axis];
        }
        /* A size that is absurd stays absurd instead of wrapping around. */
        if ((uint64_t)lk_tensor_count(&t) > (uint64_t)1 << 48)
            return SIZE_MAX / 2;
        bytes += brackets + (size_t)lk_tensor_count(&t) * (longest(t.dtype) + 1);
    }
    return bytes;
}

static char *write_number(char *to, const lk_tensor *t, int64_t i, bool strict)
{
    const char *from = (const char *)t->data + i * (int64_t)lk_dtype_size(t->dtype);
    double wide;
    float single;
    uint16_t half;
    int64_t whole;
    char *end;
    switch (t->dtype) {
    case LK_F64:
        memcpy(&wide, from, sizeof wide);
        end = number_write_f64(to, wide);
        break;
    case LK_F32:
        memcpy(&single, from, sizeof single);
        end = number_write_f32(to, single);
        break;
    case LK_F16:
    case LK_BF16:
        memcpy(&half, from, sizeof half);
        end = t->dtype == LK_F16 ? number_write_f16(to, half) : number_write_bf16(to, half);
        break;
    default:
        memcpy(&whole, from, sizeof whole);
        return number_write_i64(to, whole);
    }
    bool finite = end[-1] >= '0' && end[-1] <= '9';
    return strict && !finite ? (char *)memcpy(to, "null", 4) + 4 : end;
}

/* Nested arrays, row by row without recursion: after element i, as many brackets close as sizes of
 * trailing axes divide i + 1. The text has room for all of it (json_bound). */
static char *write_nested(char *to, const lk_tensor *t, bool strict)
{
    int64_t count = lk_tensor_count(t), row[LK_MAX_RANK], left[LK_MAX_RANK];
    int64_t product = 1;
    for (int axis = t->rank - 1; axis >= 0; axis--) {
        product *= t->shape[axis];
        row[axis] = left[axis] = product;
    }
    for (int axis = 0; axis < t->rank; axis++)
        *to++ = '[';
    for (int64_t i = 0; i < count; i++) {
        int closed = 0;
        to = write_number(to, t, i, strict);
        for (int axis = t->rank - 1; axis >= 0; axis--) {
            left[axis]--;
            if (left[axis] == 0) {
                left[axis] = row[axis];
                closed++;
                *to++ = ']';
            }
        }
        if (i + 1 < count)
            *to++ = ',';
        for (int k = 0; k < closed && i + 1 < count; k++)
            *to++ = '[';
    }
    if (count == 0)
        *to++ = ']';
    return to;
}

static void write_empty(buffer *b, const lk_tensor *t)
{
    buffer_text(b, "{\"shape\":[");
    for (int axis = 0; axis < t->rank; axis++)
        buffer_printf(b, "%s%lld", axis ? "," : "", (long long)t->shape[axis]);
    buffer_text(b, "],\"data\":[]}");
}

static bool json_encode(evaluation *e, problem *p)
{
    buffer *b = &e->text;
    (void)p;
    buffer_printf(b, "{\"loss\":\"%s\",\"outputs\":{", lk_loss_describe(e->loss)->name);
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        buffer_printf(b, "%s\"%s\":", i ? "," : "", lk_call_output(e->call, i, &t));
        if (lk_tensor_count(&t) == 0 && t.rank > 1)
            write_empty(b, &t);
        else
            b->size = (size_t)(write_nested(b->data + b->size, &t, e->strict_json) - b->data);
    }
    buffer_text(b, "}}\n");
    e->piece[e->pieces++] = (span){b->data, b->size};
    return true;
}

static const char *const media[] = {"application/json", "application/x-www-form-urlencoded", NULL};

const wire wire_json = {
    .name = "json",
    .media = media,
    .copies = true,
    .open = json_open,
    .fill = json_fill,
    .bound = json_bound,
    .encode = json_encode,
};
