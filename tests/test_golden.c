/* SPDX-License-Identifier: MIT
 *
 * Compares every loss with numbers that were computed independently: the files of tests/golden, one
 * case per line. Each case is evaluated by every instruction set that this processor supports, in
 * every element type, twice: all blocks at once, out of place; and block by block, last first, in
 * place.
 *
 * usage: test_golden [directory [loss]]
 *
 * The file edges.jsonl holds cases of all losses, with bounds of their own; drawn.jsonl graphs that
 * were drawn at random; other files hold cases of options that several losses have.
 */
#include "tests/help.h"

#include <jansson.h>

#include "losskit.h"
#include "tests/element.h"
#include "wire/options.h"

enum { MAX_TENSORS = 64 };

static const char *directory = "tests/golden";
static const lk_dtype elements[] = {LK_F64, LK_F32, LK_F16, LK_BF16};

/* The number of comparisons of the whole run. */
static long compared;
static long values_compared;
static int isas_used;

/* One case being evaluated. */
typedef struct trial {
    const json_t *json;
    const char *name;
    const char *isa;
    lk_dtype element;
    bool failed;
} trial;

/* A tensor with its name and memory of exactly its size. */
typedef struct held {
    const char *name;
    lk_tensor tensor;
} held;

/* Report a failure of a case, with its name. */
static void complain(trial *t, const char *format, ...)
{
    t->failed = true;
    va_list args;
    va_start(args, format);
    char text[400];
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    print_error("%s [%s, %s]: %s\n", t->name, lk_dtype_name(t->element), t->isa, text);
}

/* ---------------------------------------------------------------------------------- numbers -- */

/* A number of the file: "nan", "inf" and "-inf" are words. */
static double number_of(const json_t *json)
{
    const char *word = json_string_value(json);
    if (word == NULL)
        return json_is_boolean(json) ? (double)json_is_true(json) : json_number_value(json);
    return strcmp(word, "nan") == 0   ? (double)NAN
           : strcmp(word, "inf") == 0 ? (double)INFINITY
                                      : -(double)INFINITY;
}

static int64_t whole_of(const json_t *json)
{
    return json_is_boolean(json) ? json_is_true(json) : json_integer_value(json);
}

/* -------------------------------------------------------------------------------- tolerance -- */

/* The kinds of numbers, which have different tolerances. */
typedef enum kind {
    VALUE,      /* a loss or a diagnostic, computed and kept in f32 (f64) */
    PERPLEXITY, /* the exponential of a mean of row losses */
    GRADIENT,   /* rounded to the element type at the end */
} kind;

/* How far `got` may be from `expected`. `z` is Z, the largest finite score of the row, 0 for losses
 * without rows; `peak` is the largest |gradient| of the row; `terms` is the number of row losses
 * with a factor of 1 that were added up, and `z` the sum of their Zs.
 *
 * F64: 1e-12 (1 + |expected|), or 1e-10 if the oracle has an epsilon of its own.
 * F32, row losses: 2e-6 (1 + |loss|) + 2^-23 Z. For a sum of rows the bounds of the rows add up.
 * A perplexity exp(x) has the bound of x times its slope, and rounds once more.
 * F32, gradients: (1e-6 + 2^-22 Z) peak + 2 ulp of F32.
 * F16 and BF16: the computation is the one of F32, so losses and diagnostics have its bounds;
 * gradients may be off by the last rounding as well, half an ulp of the type. */
static double tolerance(kind what, lk_dtype element, bool exact, double expected, double got,
                        double z, double peak, double terms)
{
    double size = fabs(expected);
    if (element == LK_F64)
        return (exact ? 1e-12 : 1e-10) * (1 + size);
    if (what == VALUE)
        return 2e-6 * (terms + size) + ldexp(z, -23);
    if (what == PERPLEXITY)
        return size * expm1(2e-6 * (1 + fabs(log(size))) + ldexp(z, -23)) + ulp(LK_F32, size);
    double bound = (1e-6 + ldexp(z, -22)) * peak + 2 * ulp(LK_F32, expected);
    if (element != LK_F32)
        bound += ulp(element, fmax(size, fabs(got))) / 2;
    return bound;
}

/* --------------------------------------------------------------------------------- reading --- */

static bool is_whole(lk_dtype type)
{
    return ((LK_INTS >> type) & 1u) != 0;
}

/* The element type the file states, or the one under test for "float". */
static lk_dtype dtype_of(const char *word, lk_dtype element)
{
    for (int i = 0; i < LK_DTYPE_COUNT; i++)
        if (strcmp(word, lk_dtype_name((lk_dtype)i)) == 0)
            return (lk_dtype)i;
    return strcmp(word, "float") == 0 ? element : LK_ANY;
}

static bool read_shape(const json_t *json, lk_tensor *out)
{
    const json_t *shape = json_object_get(json, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > LK_MAX_RANK)
        return false;
    out->rank = (int)json_array_size(shape);
    for (int i = 0; i < out->rank; i++)
        out->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
    return lk_tensor_count(out) == (int64_t)json_array_size(json_object_get(json, "data"));
}

/* Memory for a tensor, of exactly its size, filled with a value that no result has by accident. */
static bool allocate(lk_tensor *tensor)
{
    size_t size = bytes_of(tensor);
    tensor->data = malloc(size);
    if (tensor->data == NULL && size > 0)
        return false;
    if (size > 0)
        memset(tensor->data, 0xa5, size);
    return true;
}

static void release(held *tensors, int count)
{
    for (int i = 0; i < count; i++)
        free(tensors[i].tensor.data);
}

/* The inputs of a case. A case whose first input has a float type of its own is for that type
 * alone; -1 says that the case is not for this one. */
static int read_inputs(trial *t, held *out)
{
    const json_t *inputs = json_object_get(t->json, "inputs");
    int count = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)inputs, name, value)
    {
        lk_tensor *tensor = &out[count].tensor;
        memset(tensor, 0, sizeof *tensor);
        const char *word = json_string_value(json_object_get(value, "dtype"));
        tensor->dtype = dtype_of(word ? word : "", t->element);
        /* Cases without floats are evaluated once. */
        if (count == 0 && tensor->dtype != t->element &&
            (!is_whole(tensor->dtype) || t->element != LK_F64))
            return -1;
        out[count].name = name;
        if (count == MAX_TENSORS - 1 || tensor->dtype == LK_ANY || !read_shape(value, tensor) ||
            !allocate(tensor)) {
            complain(t, "cannot read input %s", name);
            release(out, count);
            return 0;
        }
        count++;
        const json_t *data = json_object_get(value, "data");
        for (int64_t i = 0; i < lk_tensor_count(tensor); i++) {
            const json_t *one = json_array_get(data, (size_t)i);
            if (!is_float(tensor->dtype)) {
                store_int(tensor->data, tensor->dtype, i, whole_of(one));
                continue;
            }
            double x = number_of(one);
            store(tensor->data, tensor->dtype, i, x);
            double back = load(tensor->data, tensor->dtype, i);
            if (back != x && !(isnan(back) && isnan(x)))
                complain(t, "%s[%" PRId64 "] = %.17g has no exact place", name, i, x);
        }
    }
    return count;
}

/* -------------------------------------------------------------------------------- evaluating - */

/* Evaluate the case into `outputs`, freshly allocated, the wanted ones in order; returns how many,
 * 0 after a failure that has been reported. With `in_place`, outputs go over the inputs where that
 * is offered, and the blocks run one by one from the last to the first. */
/* The call's names go with the call; those of the case stay. */
static const char *lasting_name(const trial *t, const char *name)
{
    void *at = json_object_iter_at(json_object_get(t->json, "outputs"), name);
    return at ? json_object_iter_key(at) : NULL;
}

static int evaluate(trial *t, held *inputs, int n_inputs, held *outputs, bool in_place)
{
    lk_error error = {0};
    const char *loss = json_string_value(json_object_get(t->json, "loss"));
    const lk_loss *found = loss ? lk_loss_find(loss) : NULL;
    lk_call *call = found ? lk_call_new(found) : NULL;
    if (call == NULL) {
        complain(t, "no loss %s", loss ? loss : "(unnamed)");
        return 0;
    }
    int count = 0;
    lk_status status = LK_OK;
    const char *name;
    json_t *value;
    void *scratch = NULL;
    evaluation given = {.loss = found,
                        .call = call}; /* the parts of a composite are JSON as text */
    for (int i = 0; i < n_inputs && status == LK_OK; i++)
        status = lk_call_input(call, inputs[i].name, &inputs[i].tensor, &error);
    json_object_foreach(json_object_get(t->json, "options"), name, value)
    {
        problem p;
        if (status == LK_OK && !wire_option(&given, name, json_string_value(value), &p)) {
            status = LK_OPTION_INVALID;
            snprintf(error.text, sizeof error.text, "%.200s", p.detail);
        }
    }
    json_object_foreach(json_object_get(t->json, "outputs"), name, value)
    {
        if (status == LK_OK)
            status = lk_call_want(call, name, &error);
    }
    if (status == LK_OK)
        status = lk_call_check(call, &error);
    if (status != LK_OK)
        goto done;

    bool over[MAX_TENSORS] = {false};
    for (; count < lk_call_outputs(call) && count < MAX_TENSORS; count++) {
        held *out = &outputs[count];
        out->name = lasting_name(t, lk_call_output(call, count, &out->tensor));
        if (lk_tensor_count(&out->tensor) < 0 || !allocate(&out->tensor)) {
            complain(t, "output %s has no size", out->name ? out->name : "(unnamed)");
            release(outputs, count);
            count = 0;
            goto done;
        }
        void *data = out->tensor.data;
        const lk_tensor *under = in_place ? lk_call_in_place(call, count) : NULL;
        for (int i = 0; under != NULL && i < n_inputs; i++) {
            if (inputs[i].tensor.data == under->data && !over[i]) {
                over[i] = true;
                data = under->data;
                break;
            }
        }
        if (status == LK_OK)
            status = lk_call_bind(call, count, data);
    }
    if (status == LK_OK)
        status = lk_call_plan(call, &error);
    if (status == LK_OK) {
        size_t need = lk_call_scratch(call);
        /* aligned_alloc wants a multiple; the end of the memory still is where it is asked for */
        if (need > 0) {
            scratch = aligned_alloc(64, (need + 63) / 64 * 64);
            if (scratch == NULL)
                status = LK_NO_MEMORY;
        }
    }
    if (status == LK_OK) {
        do {
            int64_t blocks = lk_call_blocks(call);
            for (int64_t i = blocks; in_place && i-- > 0;)
                lk_call_run(call, i, 1, scratch);
            if (!in_place && blocks > 0)
                lk_call_run(call, 0, blocks, scratch);
        } while (lk_call_next(call));
        status = lk_call_finish(call, &error);
    }
    for (int i = 0; in_place && status == LK_OK && i < count; i++) {
        const lk_tensor *under = lk_call_in_place(call, i);
        lk_tensor now;
        lk_call_output(call, i, &now);
        if (under != NULL && now.data == under->data && now.data != outputs[i].tensor.data)
            memcpy(outputs[i].tensor.data, now.data,
                   (size_t)lk_tensor_count(&now) * lk_dtype_size(now.dtype));
    }
done:
    if (status != LK_OK) {
        complain(t, "%s: %s (input \"%s\")", lk_status_name(status), error.text, error.input);
        release(outputs, count);
        count = 0;
    }
    free(scratch);
    lk_call_free(call);
    return count;
}

/* -------------------------------------------------------------------------------- comparing -- */

/* The rows of a case, as far as the tolerances need them. */
typedef struct rows {
    const json_t *scale; /* Z of every row, or one for all; NULL for losses without rows */
    double count;
    double largest, total; /* of the Zs */
    double items;          /* num_items; 0 without */
    int class_dim;
    const char *reduction;
} rows;

static double scale_of(const rows *r, int64_t row)
{
    if (json_is_number(r->scale))
        return json_number_value(r->scale);
    return r->scale ? json_number_value(json_array_get(r->scale, (size_t)row)) : 0;
}

static const char *option_of(const trial *t, const char *name)
{
    return json_string_value(json_object_get(json_object_get(t->json, "options"), name));
}

static rows rows_of(const trial *t, const held *inputs)
{
    rows r = {0};
    r.scale = json_object_get(t->json, "scale");
    r.count = (double)lk_tensor_count(&inputs[0].tensor);
    if (json_is_number(r.scale)) {
        r.count = inputs[0].tensor.rank > 0 ? (double)inputs[0].tensor.shape[0] : 1;
        r.largest = json_number_value(r.scale);
        r.total = r.largest * r.count;
    } else if (r.scale) {
        r.count = (double)json_array_size(r.scale);
    }
    for (int64_t i = 0; r.scale && i < (int64_t)json_array_size(r.scale); i++) {
        r.largest = fmax(r.largest, scale_of(&r, i));
        r.total += scale_of(&r, i);
    }
    const char *items = option_of(t, "num_items"), *dim = option_of(t, "class_dim");
    const char *reduction = option_of(t, "reduction");
    r.items = items && strcmp(items, "off") != 0 ? strtod(items, NULL) : 0;
    r.class_dim = dim ? atoi(dim) : -1;
    r.reduction = reduction ? reduction : "mean";
    return r;
}

/* The bound of a number that is reduced as the loss is: of one row, of a sum of rows, of a mean of
 * rows. A share of a larger batch (num_items) is a sum of rows by items. */
static double reduced(const trial *t, const rows *r, bool exact, double expected, int64_t i)
{
    double z, terms = 1;
    if (strcmp(r->reduction, "none") == 0) {
        z = scale_of(r, i);
    } else if (strcmp(r->reduction, "sum") == 0) {
        z = r->total;
        terms = fmax(1, r->count);
    } else {
        z = r->largest;
        if (r->items > 0) {
            terms = fmax(1, r->count / r->items);
            z = fmax(z, r->total / r->items);
        }
    }
    return tolerance(VALUE, t->element, exact, expected, 0, z, 0, terms);
}

/* The largest finite |gradient| of the row that element i is in, and the row's number. A loss
 * without rows has one for every element. */
static double row_peak(const rows *r, const lk_tensor *tensor, const json_t *data, int64_t i,
                       int64_t *row)
{
    *row = i;
    if (r->scale == NULL || tensor->rank == 0) {
        double x = fabs(number_of(json_array_get(data, (size_t)i)));
        return isfinite(x) ? x : 0;
    }
    int dim = tensor->rank == 1 || r->class_dim < 0 ? tensor->rank - 1 : r->class_dim;
    int64_t step = 1, width = tensor->shape[dim];
    for (int k = dim + 1; k < tensor->rank; k++)
        step *= tensor->shape[k];
    int64_t outer = i / (step * width), inner = i % step;
    *row = outer * step + inner;
    double peak = 0;
    for (int64_t k = 0; k < width; k++) {
        size_t at = (size_t)((outer * width + k) * step + inner);
        double x = fabs(number_of(json_array_get(data, at)));
        if (isfinite(x))
            peak = fmax(peak, x);
    }
    return peak;
}

/* The largest finite number on the last axis through element i. */
static double last_axis_peak(const lk_tensor *tensor, const json_t *data, int64_t i)
{
    const int64_t width = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1;
    double peak = 0;
    for (int64_t k = i / width * width; k < i / width * width + width; k++) {
        double x = fabs(number_of(json_array_get(data, (size_t)k)));
        peak = isfinite(x) ? fmax(peak, x) : peak;
    }
    return peak;
}

static double bound_of(const trial *t, const rows *r, const held *out, const json_t *data,
                       int64_t i, double expected, double got)
{
    const char *name = out->name;
    bool exact = json_is_true(json_object_get(t->json, "exact"));
    const json_t *relative = json_object_get(t->json, "relative");
    if (relative) {
        double peak = strncmp(name, "grad.", 5) == 0 ? last_axis_peak(&out->tensor, data, i) : 0;
        return json_number_value(relative) * fmax(fabs(expected), peak) + ulp(t->element, expected);
    }
    if (strncmp(name, "grad.", 5) == 0) {
        int64_t row;
        double peak = row_peak(r, &out->tensor, data, i, &row);
        double bound =
            tolerance(GRADIENT, out->tensor.dtype, exact, expected, got, scale_of(r, row), peak, 1);
        /* The largest term that cancels in it, where the case has one for each element. */
        const json_t *terms = json_object_get(t->json, "terms");
        if (terms)
            bound += 2 * ulp(t->element == LK_F64 ? LK_F64 : LK_F32,
                             number_of(json_array_get(terms, (size_t)i)));
        return bound;
    }
    if (strcmp(name, "loss") == 0 || strcmp(name, "z_loss") == 0)
        return reduced(t, r, exact, expected, i);
    if (strcmp(name, "perplexity") == 0)
        return tolerance(PERPLEXITY, t->element, exact, expected, got, r->largest, 0, 1);
    bool per_row = out->tensor.rank > 0 || json_is_number(r->scale);
    return tolerance(VALUE, t->element, exact, expected, got, per_row ? scale_of(r, i) : 0, 0, 1);
}

/* The element type the contract gives an output: gradients their input's, integers as integers. */
static lk_dtype type_of_output(const trial *t, const held *inputs, int n_inputs, const char *name)
{
    const char *loss = json_string_value(json_object_get(t->json, "loss"));
    const char *like = strncmp(name, "grad.", 5) == 0 ? name + 5 : NULL;
    lk_dtype type = t->element == LK_F64 ? LK_F64 : LK_F32;
    for (const lk_output *o = lk_loss_describe(lk_loss_find(loss))->outputs; o->name; o++) {
        if (strcmp(o->name, name) != 0)
            continue;
        type = o->dtype != LK_ANY ? o->dtype : type;
        like = o->like;
    }
    for (int i = 0; like && i < n_inputs; i++)
        if (strcmp(like, inputs[i].name) == 0)
            return inputs[i].tensor.dtype;
    return type;
}

static void compare(trial *t, const held *inputs, int n_inputs, const held *out, const json_t *json)
{
    rows r = rows_of(t, inputs);
    lk_tensor like = {0};
    if (!read_shape(json, &like)) {
        complain(t, "%s: cannot read the expected shape", out->name);
        return;
    }
    lk_dtype type = type_of_output(t, inputs, n_inputs, out->name);
    if (out->tensor.dtype != type) {
        complain(t, "%s is %s, expected %s", out->name, lk_dtype_name(out->tensor.dtype),
                 lk_dtype_name(type));
        return;
    }
    bool same_shape = like.rank == out->tensor.rank;
    for (int i = 0; same_shape && i < like.rank; i++)
        same_shape = like.shape[i] == out->tensor.shape[i];
    if (!same_shape) {
        complain(t, "%s has the wrong shape", out->name);
        return;
    }
    const json_t *data = json_object_get(json, "data");
    int64_t count = lk_tensor_count(&like), bad = 0, worst = -1;
    double worst_excess = 0, worst_bound = 0;
    for (int64_t i = 0; i < count; i++) {
        double expected = number_of(json_array_get(data, (size_t)i));
        double got = is_whole(type) ? NAN : load(out->tensor.data, type, i), bound = 0;
        bool fine;
        values_compared++;
        if (is_whole(type)) {
            fine = load_int(out->tensor.data, type, i) == whole_of(json_array_get(data, (size_t)i));
        } else if (!isfinite(expected) || !isfinite(got)) {
            fine = isnan(expected) ? isnan(got) : got == expected;
        } else {
            bound = bound_of(t, &r, out, data, i, expected, got);
            fine = fabs(got - expected) <= bound;
        }
        if (fine)
            continue;
        double excess = (double)INFINITY;
        if (isfinite(expected - got) && bound > 0)
            excess = fabs(got - expected) / bound;
        if (bad++ == 0 || excess > worst_excess) {
            worst = i;
            worst_excess = excess;
            worst_bound = bound;
        }
    }
    if (bad > 0)
        complain(t,
                 "%s: %" PRId64 " of %" PRId64 " values are off; [%" PRId64
                 "] is %.17g, expected %.17g, bound %.3g (off by %.3g bounds)",
                 out->name, bad, count, worst, load(out->tensor.data, type, worst),
                 number_of(json_array_get(data, (size_t)worst)), worst_bound, worst_excess);
}

/* Evaluate a case in both ways and compare; false if the case is not for this element type. */
static bool try_case(trial *t)
{
    held inputs[MAX_TENSORS], first[MAX_TENSORS], second[MAX_TENSORS];
    int n_inputs = read_inputs(t, inputs);
    if (n_inputs < 0)
        return false;
    if (n_inputs == 0)
        return true;
    int n = evaluate(t, inputs, n_inputs, first, false);
    const json_t *expected = json_object_get(t->json, "outputs");
    if (n > 0 && n != (int)json_object_size(expected))
        complain(t, "%d outputs, asked for %zu", n, json_object_size(expected));
    for (int i = 0; i < n; i++) {
        const json_t *one = first[i].name ? json_object_get(expected, first[i].name) : NULL;
        if (one == NULL)
            complain(t, "output %d was not asked for", i);
        else
            compare(t, inputs, n_inputs, &first[i], one);
    }
    /* The inputs were only read so far, and are read again: this time they may be overwritten. */
    int m = n > 0 ? evaluate(t, inputs, n_inputs, second, true) : 0;
    for (int i = 0; i < n && i < m; i++) {
        size_t size =
            (size_t)lk_tensor_count(&first[i].tensor) * lk_dtype_size(first[i].tensor.dtype);
        if (size > 0 && memcmp(first[i].tensor.data, second[i].tensor.data, size) != 0)
            complain(t, "%s: not the same bits in place, block by block", first[i].name);
    }
    release(second, m);
    release(first, n);
    release(inputs, n_inputs);
    return true;
}

/* ------------------------------------------------------------------------------------ tests -- */

typedef struct golden {
    const char *file; /* a loss's name */
    lk_dtype element;
} golden;

/* The next line of the file as JSON; NULL at its end. */
static json_t *next_case(FILE *file, const char *path)
{
    int c;
    do
        c = fgetc(file);
    while (c == '\n' || c == '\r' || c == ' ');
    if (c == EOF)
        return NULL;
    ungetc(c, file);
    json_error_t error;
    json_t *json = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error);
    if (json == NULL)
        fail_msg("%s: %s", path, error.text);
    return json;
}

static void test_file(void **state)
{
    const golden *g = *state;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.jsonl", directory, g->file);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail_msg("there is no %s: a loss needs golden numbers", path);
    int failed = 0, cases = 0;
    json_t *json;
    while ((json = next_case(file, path)) != NULL) {
        const char *name = json_string_value(json_object_get(json, "case"));
        for (int i = 0; i < lk_isa_count(); i++) {
            if (!lk_isa_runs(i) || !lk_isa_use(lk_isa_name(i)))
                continue;
            trial t = {.json = json,
                       .name = name ? name : "(unnamed)",
                       .isa = lk_isa_name(i),
                       .element = g->element};
            if (!try_case(&t))
                continue;
            cases++;
            compared++;
            if (t.failed)
                failed++;
        }
        json_decref(json);
    }
    fclose(file);
    lk_isa_use("auto");
    if (failed > 0)
        fail_msg("%d of %d evaluations of %s as %s failed", failed, cases, g->file,
                 lk_dtype_name(g->element));
    if (g->element == LK_F64)
        assert_true(cases > 0);
}

int main(int argc, char **argv)
{
    enum { ELEMENTS = sizeof elements / sizeof elements[0], MOST = 96 * ELEMENTS };
    static golden goldens[MOST];
    static char names[MOST][64];
    struct CMUnitTest tests[MOST];
    int count = 0;
    const char *only = argc > 2 ? argv[2] : NULL;
    if (argc > 1)
        directory = argv[1];
    for (int i = 0; i < lk_isa_count(); i++)
        isas_used += lk_isa_runs(i);
    static const char *const shared[] = {"edges", "diffusion",  "distilled",
                                         "drawn", "embeddings", "packed"};
    const int files = lk_loss_count() + (int)(sizeof shared / sizeof *shared);
    for (int i = 0; i < files * (int)ELEMENTS && count < MOST; i++) {
        const int k = i / (int)ELEMENTS, other = k - lk_loss_count();
        const char *file = other < 0 ? lk_loss_describe(lk_loss_at(k))->name : shared[other];
        if (only && strcmp(only, file) != 0)
            continue;
        goldens[count].file = file;
        goldens[count].element = elements[i % (int)ELEMENTS];
        snprintf(names[count], sizeof names[count], "%s as %s", file,
                 lk_dtype_name(goldens[count].element));
        tests[count] = (struct CMUnitTest){
            .name = names[count], .test_func = test_file, .initial_state = &goldens[count]};
        count++;
    }
    int failures = _cmocka_run_group_tests("golden", tests, (size_t)count, NULL, NULL);
    printf("%ld evaluations (cases x element types x instruction sets), %d instruction sets, "
           "%ld values\n",
           compared, isas_used, values_compared);
    return failures;
}
