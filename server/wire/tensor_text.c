/* SPDX-License-Identifier: MIT */
#include "wire/tensor_text.h"

#include "block.h"
#include "wire/element.h"
#include "wire/number.h"
#include "wire/walk.h"

#include <stdio.h>

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

/* The state of a walk for the shape: how many elements each open array has so far. */
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
        n->rank = n->depth; /* an empty array is innermost */
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

/* A problem for a token that is neither a number nor an array. null gets its own message, since
 * JavaScript writes it for NaN and Infinity. */
static bool bad_token(nest *n, char byte, bool null)
{
    char name[PLACE_MAX];
    place(n->input, n->at, n->depth, name);
    const char *is = null          ? "null"
                     : byte == '"' ? "a string"
                     : byte == '{' ? "an object"
                     : byte == 'n' ? "a word"
                     : byte == 0   ? "cut off"
                                   : "not JSON";
    const char *why =
        null          ? "; JavaScript writes NaN, Infinity and -Infinity so: send them bare, or "
                        "the tensor as bytes"
        : byte == '{' ? "; " TENSOR_TEXT_TYPED_ARRAY
                      : "";
    problem_input(n->p, 400, "malformed_body", n->input, "%s is %s; it must be a number%s", name,
                  is, why);
    return at_place(n->p, n->at, n->depth);
}

/* Can a number, NaN, Infinity, true or false begin with this character? The rest is validated when
 * the numbers are read. */
static bool begins_number(char c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == 'N' || c == 'I' || c == 't' || c == 'f';
}

static bool ends_token(char c)
{
    static const bool ends[256] = {
        [','] = true,  [']'] = true, [' '] = true, ['\n'] = true, ['\r'] = true,
        ['\t'] = true, ['['] = true, ['"'] = true, ['{'] = true,  ['}'] = true};
    return ends[(unsigned char)c];
}

/* The end of the token that contains `p`; sixteen characters at a time, for the lengths of numbers
 * differ, and a loop over each would be mispredicted at its end. */
static const char *end_of_token(const char *p, const char *end)
{
    block bytes;
    while (block_next(p, (size_t)(end - p), &bytes)) {
        /* [ ] { } and a few letters that are not in numbers differ in these bits alone. */
        const size_t before = block_first((block)(bytes <= ' ') | (block)(bytes == ',') |
                                          (block)(bytes == '"') | (block)((bytes & 0xd9) == 0x59));
        p += before;
        if (before < sizeof bytes && ends_token(*p))
            return p;
        p += before < sizeof bytes;
    }
    while (p < end && !ends_token(*p))
        p++;
    return p;
}

/* Skip a number and, in an array, those that follow it. The array then has one more than is counted
 * in `n`. Returns whether any of them is a word. */
static bool skip_numbers(cursor *c, nest *n)
{
    const char *p = c->p, *const end = c->end;
    bool words = false;
    for (;;) {
        words |= *p == 't' || *p == 'f';
        p = end_of_token(p, end);
        if (n->depth == 0 || p == end || *p != ',')
            break;
        const char *next = p + (end - p > 2 && p[1] == ' ' ? 2 : 1);
        if (next == end || !begins_number(*next))
            break;
        n->at[n->depth - 1]++;
        p = next;
    }
    c->p = p;
    return words;
}

bool tensor_text_walk(cursor *c, const char *input, lk_tensor *t, problem *p)
{
    nest n = {.input = input, .rank = -1, .p = p};
    bool words = false;
    for (int i = 0; i < LK_MAX_RANK; i++)
        n.shape[i] = -1;
    do {
        /* A value. */
        cursor_space(c);
        char byte = cursor_peek(c);
        if (byte == '[') {
            c->p++;
            if (!open_array(&n))
                return false;
            if (!cursor_accept(c, ']'))
                continue;
            if (!close_array(&n))
                return false;
        } else if (begins_number(byte)) {
            if (n.rank >= 0 && n.depth != n.rank)
                return ragged(&n, n.depth, "a number", -1, "an array");
            n.rank = n.depth;
            words |= skip_numbers(c, &n);
        } else {
            return bad_token(&n, byte, span_is((span){c->p, cursor_left(c) < 4 ? 0 : 4}, "null"));
        }
        /* Close the arrays that end here. */
        while (n.depth > 0) {
            n.at[n.depth - 1]++;
            if (!cursor_accept(c, ']'))
                break;
            if (!close_array(&n))
                return false;
        }
        if (n.depth > 0 && !cursor_accept(c, ','))
            return bad_token(&n, cursor_left(c) ? '?' : 0, false);
    } while (n.depth > 0);
    if (words && t->dtype == LK_ANY)
        t->dtype = LK_BOOL;
    t->rank = n.rank;
    memcpy(t->shape, n.shape, sizeof t->shape);
    return true;
}

bool tensor_text_shape(span text, const char *input, lk_tensor *t, problem *p)
{
    cursor c = cursor_new(text);
    if (!tensor_text_walk(&c, input, t, p))
        return false;
    cursor_space(&c);
    return !cursor_left(&c) ||
           problem_input(p, 400, "malformed_body", input, "inputs.%s: text after the value", input);
}

/* Numbers. */

/* The state of reading a tensor's numbers: element i is next. */
typedef struct reader {
    const char *input;
    const lk_tensor *t;
    int64_t i;
    char *to; /* where it goes */
    cursor c;
    problem *p;
} reader;

/* A problem for the token at the cursor, which is not valid for element i. */
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
    element_put(r->t->dtype, r->to, x);
    r->c.p = next;
    return true;
}

/* Read true or false as 1 or 0. Returns its end, or NULL. */
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
    if (!next && number_read(r->c.p, r->c.end, &real))
        return bad_number(r, 422, "dtype_unsupported", "an integer");
    if (!next)
        return bad_number(r, 400, "malformed_body", "an integer");
    if (!fits)
        return bad_number(r, 422, "value_out_of_range", "an integer of 64 bits");
    if (r->t->dtype == LK_I64) {
        memcpy(r->to, &x, sizeof x);
    } else {
        int32_t narrow = (int32_t)x;
        if (narrow != x)
            return bad_number(r, 422, "value_out_of_range", "an integer of 32 bits");
        memcpy(r->to, &narrow, sizeof narrow);
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
    *r->to = (char)x;
    r->c.p = next;
    return true;
}

/* Is it a separator of numbers? tensor_text_shape has checked that separators are well-formed. */
static bool is_between(char c)
{
    static const bool between[256] = {['['] = true,  [']'] = true,  [','] = true, [' '] = true,
                                      ['\n'] = true, ['\r'] = true, ['\t'] = true};
    return between[(unsigned char)c];
}

bool tensor_text_read(span text, const char *input, const lk_tensor *t, problem *p)
{
    reader r = {.input = input, .t = t, .to = t->data, .c = cursor_new(text), .p = p};
    const int64_t count = lk_tensor_count(t);
    const size_t size = lk_dtype_size(t->dtype);
    const bool integers = t->dtype == LK_I64 || t->dtype == LK_I32;
    const bool masks = t->dtype == LK_BOOL || t->dtype == LK_U8;
    for (; r.i < count; r.i++, r.to += size) {
        /* A number must end where the walk for the shape found the end of its token; otherwise the
         * token is not a number. */
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

bool tensor_text_sizes(span value, const char *input, lk_tensor *t, problem *p)
{
    int64_t sizes[LK_MAX_RANK];
    const int rank = walk_integers(value, sizes, LK_MAX_RANK);
    if (rank < 0)
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s.shape is %.*s; it must be an array of integers", input,
                             (int)(value.size < 40 ? value.size : 40), value.data);
    if (rank > LK_MAX_RANK)
        return problem_input(p, 413, "too_large", input,
                             "inputs.%s.shape has %d sizes; tensors have at most %d axes", input,
                             rank, LK_MAX_RANK);
    t->rank = rank;
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

bool tensor_text_fits(span text, const char *input, lk_tensor *t, problem *p)
{
    lk_tensor is = {.dtype = t->dtype};
    if (text.size == 0 || text.data[0] != '[')
        return problem_input(p, 400, "malformed_body", input,
                             "inputs.%s.data is %.*s; it must be an array of numbers%s", input,
                             (int)(text.size < 40 ? text.size : 40), text.data,
                             text.size > 0 && text.data[0] == '{' ? "; " TENSOR_TEXT_TYPED_ARRAY
                                                                  : "");
    if (!tensor_text_shape(text, input, &is, p))
        return false;
    if (is.rank > 1 &&
        (is.rank != t->rank || memcmp(is.shape, t->shape, (size_t)t->rank * sizeof *t->shape) != 0))
        return problem_input(p, 400, "ragged_tensor", input,
                             "inputs.%s.data is nested, but not as its shape says", input);
    if (lk_tensor_count(&is) != lk_tensor_count(t))
        return problem_input(p, 400, "ragged_tensor", input,
                             "inputs.%s.data has %lld values; its shape needs %lld", input,
                             (long long)lk_tensor_count(&is), (long long)lk_tensor_count(t));
    t->dtype = is.dtype;
    return true;
}

/* Writing. */

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

/* Every number with its comma at maximum length, two brackets and a comma for every possible row,
 * and at the end the room that writing a number needs. Memory pages that are never written cost
 * nothing. */
size_t tensor_text_bound(const lk_tensor *t)
{
    const int64_t count = lk_tensor_count(t);
    size_t brackets = 2, rows = 1;
    for (int axis = 0; count > 0 && axis < t->rank; axis++) {
        brackets += 3 * rows;
        rows *= (size_t)t->shape[axis];
    }
    if ((uint64_t)count > (uint64_t)1 << 48)
        return SIZE_MAX / 256;
    return brackets + (size_t)count * (longest(t->dtype) + 1) + NUMBER_ROOM;
}

/* The number at `from`. */
static inline char *write_number(char *to, lk_dtype dtype, const char *from, bool strict)
{
    double wide;
    float single;
    uint16_t half;
    int64_t whole;
    int32_t narrow;
    char *end;
    switch (dtype) {
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
        end = dtype == LK_F16 ? number_write_f16(to, half) : number_write_bf16(to, half);
        break;
    case LK_I64:
        memcpy(&whole, from, sizeof whole);
        return number_write_i64(to, whole);
    case LK_I32:
        memcpy(&narrow, from, sizeof narrow);
        return number_write_i64(to, narrow);
    default:
        return number_write_i64(to, (unsigned char)*from);
    }
    bool finite = end[-1] >= '0' && end[-1] <= '9';
    return strict && !finite ? (char *)memcpy(to, "null", 4) + 4 : end;
}

/* Numbers from element `i` on, with commas between them. */
static char *write_numbers(char *to, const lk_tensor *t, int64_t i, int64_t count, bool strict)
{
    const size_t size = lk_dtype_size(t->dtype);
    const char *from = (const char *)t->data + (size_t)i * size;
    for (int64_t k = 0; k < count; k++, from += size) {
        to = write_number(to, t->dtype, from, strict);
        *to++ = ',';
    }
    return count > 0 ? to - 1 : to;
}

/* Row by row without recursion: `left` has how many rows of each axis are to come. */
char *tensor_text_nested(char *to, const lk_tensor *t, bool strict)
{
    const int64_t count = lk_tensor_count(t), row = t->rank > 0 ? t->shape[t->rank - 1] : 1;
    int64_t left[LK_MAX_RANK];
    for (int axis = 0; axis < t->rank; axis++) {
        left[axis] = t->shape[axis];
        *to++ = '[';
    }
    for (int64_t i = 0; i < count; i += row) {
        int open = t->rank;
        to = write_numbers(to, t, i, row, strict);
        while (open > 0) {
            *to++ = ']';
            open--;
            if (open == 0 || --left[open - 1] > 0)
                break;
            left[open - 1] = t->shape[open - 1];
        }
        if (i + row == count)
            break;
        for (*to++ = ','; open < t->rank; open++)
            *to++ = '[';
    }
    if (count == 0)
        *to++ = ']';
    return to;
}

char *tensor_text_flat(char *to, const lk_tensor *t, bool strict)
{
    *to++ = '[';
    to = write_numbers(to, t, 0, lk_tensor_count(t), strict);
    *to++ = ']';
    return to;
}

void tensor_text_write_sizes(buffer *to, const lk_tensor *t)
{
    buffer_text(to, "[");
    for (int axis = 0; axis < t->rank; axis++) {
        buffer_text(to, axis ? "," : "");
        buffer_integer(to, t->shape[axis]);
    }
    buffer_text(to, "]");
}
