/* SPDX-License-Identifier: MIT
 *
 * One evaluation: inputs, options and outputs by name, checks, the plan, blocks, reductions. It
 * reads descriptions and knows no loss; the losses know no reduction.
 */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    BLOCK_ELEMENTS = 64 * 1024, /* what a block should at least compute */
    MAX_WANTED = 1 + LK_MAX_INPUTS + LK_MAX_OUTPUTS,
};

typedef enum stage { FILLING, CHECKED, PLANNED, FINISHED } stage;

/* Which output: `loss`, the gradient of an input, or a diagnostic. */
typedef enum kind { VALUE, GRADIENT, DIAGNOSTIC } kind;

typedef struct wanted {
    kind kind;
    int i; /* of the input or the diagnostic */
    char name[48];
    lk_tensor tensor;
} wanted;

struct lk_call {
    lk_job job;
    const lk_loss *loss; /* of the scalar table: the handle the caller gave */
    stage stage;
    lk_tensor given[LK_MAX_INPUTS]; /* rank -1: not given */
    int primary;                    /* the input that chooses the element type */
    int wanted_count;
    wanted wanted[MAX_WANTED];
    lk_sizes sizes;
    int64_t blocks;
    lk_block *block;
    void *converted[LK_MAX_INPUTS];
    _Alignas(16) char options[];
};

/* Errors. */

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
    set_error(error, status, input < 0 ? "" : job->loss->is.inputs[input].name, format, args);
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
    size_t used = (size_t)snprintf(to, LK_PLACE_MAX, "%s", job->loss->is.inputs[input].name);
    for (int axis = 0; axis < t->rank && used < LK_PLACE_MAX; axis++)
        used += (size_t)snprintf(to + used, LK_PLACE_MAX - used, "[%lld]", (long long)at[axis]);
    return to;
}

bool lk_given(const lk_job *job, const char *option)
{
    const lk_field *fields = job->loss->is.options;
    const lk_field *field = lk_field_find(fields, option);
    return field && (job->options_given >> (field - fields) & 1);
}

static lk_status misuse(lk_error *error, const char *text)
{
    return lk_error_set(error, LK_MISUSE, "", "%s", text);
}

/* Tensors. */

size_t lk_dtype_size(lk_dtype dtype)
{
#define BYTES(NAME, word, bytes) bytes,
    static const unsigned char sizes[] = {LK_DTYPES(BYTES)};
#undef BYTES
    return (unsigned)dtype < LK_DTYPE_COUNT ? sizes[dtype] : 0;
}

const char *lk_dtype_name(lk_dtype dtype)
{
#define WORD(NAME, word, bytes) #word,
    static const char *const words[] = {LK_DTYPES(WORD)};
#undef WORD
    return (unsigned)dtype < LK_DTYPE_COUNT ? words[dtype] : "any";
}

int64_t lk_tensor_count(const lk_tensor *tensor)
{
    int64_t count = 1, bytes;
    bool empty = false;
    if (tensor->rank < 0 || tensor->rank > LK_MAX_RANK)
        return -1;
    for (int axis = 0; axis < tensor->rank; axis++) {
        if (tensor->shape[axis] < 0)
            return -1;
        if (tensor->shape[axis] == 0)
            empty = true;
        else if (__builtin_mul_overflow(count, tensor->shape[axis], &count))
            return -1;
    }
    if (__builtin_mul_overflow(count, (int64_t)8, &bytes))
        return -1;
    return empty ? 0 : count;
}

static bool is_float(lk_dtype dtype)
{
    return LK_FLOATS >> dtype & 1;
}

static lk_dtype compute_type(const lk_call *call)
{
    return call->given[call->primary].dtype == LK_F64 ? LK_F64 : LK_F32;
}

/* New, inputs, options, outputs. */

lk_call *lk_call_new(const lk_loss *loss)
{
    lk_call *call = calloc(1, sizeof *call + loss->options_size);
    if (!call)
        return NULL;
    call->loss = loss;
    call->job.loss = loss;
    call->job.options = call->options;
    lk_fields_default(loss->is.options, call->options);
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        call->given[i].rank = -1;
    return call;
}

void lk_call_free(lk_call *call)
{
    if (!call)
        return;
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        free(call->converted[i]);
    free(call->block);
    free(call);
}

static int input_find(const lk_loss *loss, const char *name)
{
    for (int i = 0; loss->is.inputs[i].name; i++)
        if (strcmp(loss->is.inputs[i].name, name) == 0)
            return i;
    return -1;
}

/* "logits, targets, ...": the names in a table, for texts. Each entry begins with its name. */
static const char *name_list(const void *table, size_t entry, char to[160])
{
    size_t used = 0;
    to[0] = '\0';
    for (const char *p = table; *(const char *const *)(const void *)p; p += entry) {
        const char *name = *(const char *const *)(const void *)p;
        if (used + strlen(name) + 8 > 160) {
            memcpy(to + used, ", ...", 6);
            break;
        }
        used += (size_t)snprintf(to + used, 160 - used, "%s%s", used ? ", " : "", name);
    }
    return to;
}

static lk_status unknown(lk_error *error, lk_status status, const char *what, const char *name,
                         const char *loss, const char *known)
{
    return lk_error_set(error, status, "", "there is no %s \"%.40s\"; %s has %s", what, name, loss,
                        known);
}

lk_status lk_call_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error)
{
    if (call->stage != FILLING)
        return misuse(error, "inputs are given before the check");
    int i = input_find(call->loss, name);
    char names[160];
    if (i < 0)
        return unknown(error, LK_UNKNOWN_INPUT, "input", name, call->loss->is.name,
                       name_list(call->loss->is.inputs, sizeof(lk_input), names));
    if (lk_tensor_count(tensor) < 0)
        return lk_error_set(error, LK_SHAPE_MISMATCH, name,
                            "%s has no possible shape: up to %d sizes that are >= 0 and a product "
                            "that memory can hold",
                            name, LK_MAX_RANK);
    call->given[i] = *tensor;
    return LK_OK;
}

lk_status lk_call_option(lk_call *call, const char *name, const char *text, lk_error *error)
{
    if (call->stage != FILLING)
        return misuse(error, "options are set before the check");
    const lk_field *fields = call->loss->is.options;
    const lk_field *field = lk_field_find(fields, name);
    char names[160];
    if (!field)
        return unknown(error, LK_UNKNOWN_OPTION, "option", name, call->loss->is.name,
                       name_list(fields, sizeof(lk_field), names));
    uint64_t bit = (uint64_t)1 << (field - fields);
    if (call->job.options_given & bit)
        return lk_error_set(error, LK_DUPLICATE_OPTION, "", "option %s is set twice", name);
    call->job.options_given |= bit;
    return lk_field_parse(field, call->options, text, error);
}

static bool has_gradient(const lk_call *call, int i)
{
    return (call->loss->is.inputs[i].flags & LK_DIFFERENTIABLE) && call->given[i].rank >= 0;
}

lk_status lk_call_want(lk_call *call, const char *output, lk_error *error)
{
    if (call->stage != FILLING)
        return misuse(error, "outputs are asked for before the check");
    const lk_description *is = &call->loss->is;
    wanted w = {.kind = VALUE, .i = -1};
    char names[160];
    if (strcmp(output, "loss") == 0) {
        w.i = 0;
    } else if (strncmp(output, "grad.", 5) == 0) {
        w.kind = GRADIENT;
        w.i = input_find(call->loss, output + 5);
        if (w.i >= 0 && !(is->inputs[w.i].flags & LK_DIFFERENTIABLE))
            return lk_error_set(error, LK_UNKNOWN_OUTPUT, is->inputs[w.i].name,
                                "there is no output \"%s\": %s is not differentiable", output,
                                output + 5);
    } else {
        w.kind = DIAGNOSTIC;
        for (int i = 0; is->outputs[i].name; i++)
            if (strcmp(is->outputs[i].name, output) == 0)
                w.i = i;
    }
    if (w.i < 0)
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                            "there is no output \"%.40s\"; %s has loss, grad.<input>, %s", output,
                            is->name, name_list(is->outputs, sizeof(lk_output), names));
    for (int k = 0; k < call->wanted_count; k++)
        if (call->wanted[k].kind == w.kind && call->wanted[k].i == w.i)
            return lk_error_set(error, LK_DUPLICATE_OPTION, "", "output %s is asked for twice",
                                output);
    snprintf(w.name, sizeof w.name, "%s", output);
    call->wanted[call->wanted_count++] = w;
    return LK_OK;
}

/* Check. */

static lk_status check_missing(const lk_call *call, lk_error *error)
{
    const lk_description *is = &call->loss->is;
    for (int i = 0; is->inputs[i].name; i++)
        if (call->given[i].rank < 0 && !(is->inputs[i].flags & LK_OPTIONAL))
            return lk_error_set(error, LK_MISSING_INPUT, is->inputs[i].name,
                                "%s is missing; %s needs it: %s", is->inputs[i].name, is->name,
                                is->inputs[i].help);
    for (int i = 0; is->options[i].name; i++)
        if (!is->options[i].fallback && !(call->job.options_given >> i & 1))
            return lk_error_set(error, LK_MISSING_OPTION, "",
                                "option %s is missing; %s needs it: %s", is->options[i].name,
                                is->name, is->options[i].help);
    return LK_OK;
}

/* "f64, f32, f16 or bf16". */
static const char *dtype_list(unsigned dtypes, char to[80])
{
    size_t used = 0;
    int left = __builtin_popcount(dtypes);
    for (int d = 0; d < LK_DTYPE_COUNT; d++) {
        if (!(dtypes >> d & 1))
            continue;
        const char *separator = used == 0 ? "" : left == 1 ? " or " : ", ";
        used +=
            (size_t)snprintf(to + used, 80 - used, "%s%s", separator, lk_dtype_name((lk_dtype)d));
        left--;
    }
    return to;
}

static lk_status check_dtypes(lk_call *call, lk_error *error)
{
    const lk_input *inputs = call->loss->is.inputs;
    char list[80];
    for (int i = 0; inputs[i].name; i++) {
        unsigned all = inputs[i].forms[0].dtypes | inputs[i].forms[1].dtypes;
        lk_dtype dtype = call->given[i].dtype;
        if (call->given[i].rank >= 0 && dtype != LK_ANY && !(all >> dtype & 1))
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, inputs[i].name,
                                "%s is %s; it must be %s", inputs[i].name, lk_dtype_name(dtype),
                                dtype_list(all, list));
    }
    call->primary = 0;
    while (inputs[call->primary].name && !has_gradient(call, call->primary))
        call->primary++;
    if (!inputs[call->primary].name)
        return misuse(error, "a loss needs a differentiable input");
    if (call->given[call->primary].dtype == LK_ANY)
        call->given[call->primary].dtype = LK_F32;
    return LK_OK;
}

/* The type of an input that was given without one. */
static lk_dtype default_dtype(const lk_call *call, unsigned dtypes)
{
    lk_dtype primary = call->given[call->primary].dtype;
    if (dtypes >> primary & 1)
        return primary;
    return dtypes & LK_INTS ? LK_I64 : LK_BOOL;
}

/* Which form an input has: the first one that its shape and type fit, else an error about the form
 * that its rank speaks for. */
static lk_status choose_form(lk_call *call, int i, lk_error *error)
{
    const lk_input *input = &call->loss->is.inputs[i];
    lk_tensor *t = &call->given[i];
    const lk_field *fields = call->loss->is.options;
    bool grad_output = strcmp(input->forms[0].shape, "loss") == 0;
    int forms = input->forms[1].shape ? 2 : 1, by_rank = -1;
    const char *pattern[2] = {input->forms[0].shape, input->forms[1].shape};
    if (grad_output) {
        const lk_reduce *reduce = (const lk_reduce *)(const void *)call->options;
        bool per_row = call->loss->is.loss_shape && reduce->reduction == LK_NONE;
        pattern[0] = per_row ? call->loss->is.loss_shape : "";
    }
    for (int pass = 0; pass < 2; pass++) {
        for (int f = 0; f < forms; f++) {
            unsigned dtypes = input->forms[f].dtypes;
            if (t->dtype != LK_ANY && !(dtypes >> t->dtype & 1))
                continue;
            if (!lk_shape_bind(pattern[f], t, pass == 0, &call->sizes, fields, call->options))
                continue;
            call->job.form[i] = f;
            if (t->dtype == LK_ANY)
                t->dtype = default_dtype(call, dtypes);
            return LK_OK;
        }
    }
    for (int f = forms - 1; f >= 0; f--)
        if (lk_shape_rank(pattern[f], t->rank, &call->sizes))
            by_rank = f;
    char list[80], is[LK_SHAPE_TEXT], first[LK_SHAPE_TEXT], second[LK_SHAPE_TEXT];
    if (by_rank >= 0 && t->dtype != LK_ANY && !(input->forms[by_rank].dtypes >> t->dtype & 1))
        return lk_error_set(error, LK_DTYPE_UNSUPPORTED, input->name,
                            "%s is %s with shape %s; with that shape it must be %s", input->name,
                            lk_dtype_name(t->dtype), lk_shape_text(t, is),
                            dtype_list(input->forms[by_rank].dtypes, list));
    lk_pattern_text(pattern[by_rank < 0 ? 0 : by_rank], &call->sizes, first);
    bool both = forms == 2 && by_rank < 0;
    return lk_error_set(error, by_rank < 0 ? LK_RANK_MISMATCH : LK_SHAPE_MISMATCH, input->name,
                        "%s has shape %s; it must be %s%s%s", input->name, lk_shape_text(t, is),
                        first, both ? " or " : "",
                        both ? lk_pattern_text(pattern[1], &call->sizes, second) : "");
}

static lk_status check_shapes(lk_call *call, lk_error *error)
{
    const lk_input *inputs = call->loss->is.inputs;
    lk_status status;
    lk_sizes_clear(&call->sizes);
    for (int i = 0; inputs[i].name; i++) {
        if (call->given[i].rank < 0)
            continue;
        if ((status = choose_form(call, i, error)) != LK_OK)
            return status;
        lk_dtype primary = call->given[call->primary].dtype, dtype = call->given[i].dtype;
        if ((inputs[i].flags & LK_DIFFERENTIABLE) && is_float(dtype) && dtype != primary)
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, inputs[i].name,
                                "%s is %s; it must be %s, as %s is", inputs[i].name,
                                lk_dtype_name(dtype), lk_dtype_name(primary),
                                inputs[call->primary].name);
    }
    return LK_OK;
}

static const char *loss_pattern(const lk_call *call)
{
    const lk_reduce *reduce = call->job.options;
    bool per_row = call->loss->is.loss_shape && reduce->reduction == LK_NONE;
    return per_row ? call->loss->is.loss_shape : "";
}

static lk_status default_outputs(lk_call *call)
{
    const lk_input *inputs = call->loss->is.inputs;
    if (call->wanted_count > 0)
        return LK_OK;
    (void)lk_call_want(call, "loss", NULL);
    for (int i = 0; inputs[i].name; i++) {
        char name[48];
        snprintf(name, sizeof name, "grad.%s", inputs[i].name);
        if (has_gradient(call, i) && (inputs[i].flags & LK_GRADIENT) &&
            is_float(call->given[i].dtype))
            (void)lk_call_want(call, name, NULL);
    }
    return LK_OK;
}

static lk_status check_outputs(lk_call *call, lk_error *error)
{
    const lk_description *is = &call->loss->is;
    lk_dtype real = compute_type(call);
    default_outputs(call);
    for (int k = 0; k < call->wanted_count; k++) {
        wanted *w = &call->wanted[k];
        w->tensor = (lk_tensor){.dtype = real};
        const char *pattern = loss_pattern(call);
        if (w->kind == GRADIENT) {
            const char *name = is->inputs[w->i].name;
            if (call->given[w->i].rank < 0)
                return lk_error_set(error, LK_UNKNOWN_OUTPUT, name,
                                    "there is no output \"%s\": %s was not given", w->name, name);
            if (!is_float(call->given[w->i].dtype))
                return lk_error_set(error, LK_UNKNOWN_OUTPUT, name,
                                    "there is no output \"%s\": %s holds integers", w->name, name);
            w->tensor = call->given[w->i];
            w->tensor.data = NULL;
            call->job.grad[w->i] = w->tensor;
            continue;
        }
        if (w->kind == DIAGNOSTIC) {
            const lk_output *output = &is->outputs[w->i];
            call->job.out_wanted |= 1u << w->i;
            w->tensor.dtype = output->dtype == LK_ANY ? real : output->dtype;
            if (strcmp(output->shape, "loss") != 0)
                pattern = output->shape;
        }
        if (!lk_shape_make(pattern, &call->sizes, is->options, call->options, &w->tensor))
            return misuse(error, "an output's shape has a size that no input binds");
    }
    return LK_OK;
}

/* What the kernels see of shapes and inputs. */
static void fill_job(lk_call *call)
{
    lk_job *job = &call->job;
    const lk_input *inputs = call->loss->is.inputs;
    int64_t width = 1;
    for (int i = 0; inputs[i].name; i++)
        if (call->given[i].rank >= 0)
            job->in[i] = call->given[i];
    job->lead_rank = call->sizes.lead_rank < 0 ? 0 : call->sizes.lead_rank;
    memcpy(job->lead, call->sizes.lead, sizeof job->lead);
    memcpy(job->size, call->sizes.size, sizeof job->size);
    job->rows = 1;
    if (call->loss->is.loss_shape) {
        lk_tensor rows = {0};
        if (lk_shape_make(call->loss->is.loss_shape, &call->sizes, NULL, NULL, &rows))
            job->rows = lk_tensor_count(&rows);
    }
    if (job->rows > 0)
        width = lk_tensor_count(&call->given[call->primary]) / job->rows;
    job->block_rows = width >= BLOCK_ELEMENTS ? 1 : BLOCK_ELEMENTS / (width ? width : 1);
    call->blocks = (job->rows + job->block_rows - 1) / job->block_rows;
}

lk_status lk_call_check(lk_call *call, lk_error *error)
{
    const lk_description *is = &call->loss->is;
    lk_status status;
    if (call->stage >= CHECKED)
        return call->stage == CHECKED ? LK_OK : misuse(error, "the call is planned already");
    if ((status = check_missing(call, error)) != LK_OK ||
        (status = check_dtypes(call, error)) != LK_OK ||
        (status = check_shapes(call, error)) != LK_OK)
        return status;
    for (const lk_field *f = is->options; f->name; f++)
        if ((status = lk_field_check(f, call->options, error)) != LK_OK)
            return status;
    fill_job(call);
    if ((status = check_outputs(call, error)) != LK_OK)
        return status;
    call->job.loss = lk_loss_variant(call->loss, call->given[call->primary].dtype);
    if (call->job.loss->check && (status = call->job.loss->check(&call->job, error)) != LK_OK)
        return status;
    call->stage = CHECKED;
    return LK_OK;
}

const lk_tensor *lk_call_tensor(const lk_call *call, const char *name)
{
    int i = input_find(call->loss, name);
    return i < 0 || call->given[i].rank < 0 ? NULL : &call->given[i];
}

lk_status lk_call_data(lk_call *call, const char *name, void *data)
{
    int i = input_find(call->loss, name);
    if (call->stage != CHECKED || i < 0 || call->given[i].rank < 0)
        return LK_MISUSE;
    call->given[i].data = data;
    return LK_OK;
}

int lk_call_outputs(const lk_call *call)
{
    return call->stage >= CHECKED ? call->wanted_count : 0;
}

const char *lk_call_output(const lk_call *call, int i, lk_tensor *out)
{
    if (i < 0 || i >= lk_call_outputs(call))
        return NULL;
    if (out)
        *out = call->wanted[i].tensor;
    return call->wanted[i].name;
}

const lk_tensor *lk_call_in_place(const lk_call *call, int i)
{
    if (i < 0 || i >= lk_call_outputs(call) || call->wanted[i].kind != GRADIENT)
        return NULL;
    int input = call->wanted[i].i;
    if (!(call->loss->is.inputs[input].flags & LK_ROW_LOCAL))
        return NULL;
    for (int k = 0; k < LK_MAX_INPUTS; k++)
        if (k != input && call->given[k].rank >= 0 && call->given[k].data &&
            call->given[k].data == call->given[input].data)
            return NULL;
    return &call->given[input];
}

lk_status lk_call_bind(lk_call *call, int i, void *data)
{
    if (call->stage != CHECKED || i < 0 || i >= call->wanted_count)
        return LK_MISUSE;
    call->wanted[i].tensor.data = data;
    return LK_OK;
}

/* Plan. */

/* Tensors as the job shows them. An empty one gets a place that is never read or written, so that
 * "data is NULL" means "not there" and nothing else. */
static lk_status take_data(lk_call *call, lk_error *error)
{
    const lk_input *inputs = call->loss->is.inputs;
    void *nothing = call->options;
    for (int i = 0; inputs[i].name; i++) {
        lk_tensor *t = &call->job.in[i];
        if (call->given[i].rank < 0)
            continue;
        *t = call->given[i];
        if (lk_tensor_count(t) == 0)
            t->data = nothing;
        else if (!t->data)
            return misuse(error, "an input has no data");
    }
    for (int k = 0; k < call->wanted_count; k++) {
        wanted *w = &call->wanted[k];
        lk_tensor *t = w->kind == VALUE      ? &call->job.value
                       : w->kind == GRADIENT ? &call->job.grad[w->i]
                                             : &call->job.out[w->i];
        *t = w->tensor;
        if (lk_tensor_count(t) == 0)
            t->data = nothing;
        else if (!t->data)
            return misuse(error, "an output is not bound");
    }
    return LK_OK;
}

static bool must_convert(const lk_call *call, int i)
{
    return call->given[i].rank >= 0 && is_float(call->given[i].dtype) &&
           !(call->loss->is.inputs[i].flags & LK_DIFFERENTIABLE) &&
           call->given[i].dtype != compute_type(call);
}

size_t lk_call_memory(const lk_call *call)
{
    size_t bytes = (size_t)call->blocks * sizeof(lk_block);
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        if (must_convert(call, i))
            bytes += (size_t)lk_tensor_count(&call->given[i]) * lk_dtype_size(compute_type(call));
    return bytes;
}

static lk_status convert_inputs(lk_call *call, lk_error *error)
{
    lk_dtype real = compute_type(call);
    for (int i = 0; i < LK_MAX_INPUTS; i++) {
        lk_tensor *t = &call->job.in[i];
        int64_t count = must_convert(call, i) ? lk_tensor_count(t) : 0;
        if (count == 0)
            continue;
        call->converted[i] = malloc((size_t)count * lk_dtype_size(real));
        if (!call->converted[i])
            return lk_error_set(error, LK_NO_MEMORY, call->loss->is.inputs[i].name,
                                "no memory to convert %s", call->loss->is.inputs[i].name);
        lk_convert(t->data, t->dtype, call->converted[i], real, count);
        t->data = call->converted[i];
        t->dtype = real;
    }
    return LK_OK;
}

static lk_status check_weights(const lk_call *call, lk_error *error)
{
    const lk_job *job = &call->job;
    for (int i = 0; call->loss->is.inputs[i].name; i++) {
        if (!(call->loss->is.inputs[i].flags & LK_WEIGHTS) || !job->in[i].data)
            continue;
        int64_t count = lk_tensor_count(&job->in[i]);
        for (int64_t k = 0; k < count; k++) {
            double w = lk_real_at(job->in[i].data, job->in[i].dtype, k);
            char place[LK_PLACE_MAX];
            if (!(w >= 0) || isinf(w))
                return lk_fail(job, error, LK_WEIGHT_INVALID, i, k,
                               "%s is %g; a weight must be finite and not negative",
                               lk_place(job, i, k, place), w);
        }
    }
    return LK_OK;
}

lk_status lk_call_plan(lk_call *call, lk_error *error)
{
    lk_job *job = &call->job;
    lk_status status = lk_call_check(call, error);
    if (status != LK_OK || (status = take_data(call, error)) != LK_OK ||
        (status = convert_inputs(call, error)) != LK_OK ||
        (status = check_weights(call, error)) != LK_OK)
        return status;

    if ((status = job->loss->prepare(job, error)) != LK_OK)
        return status;
    const lk_reduce *reduce = job->options;
    bool mean = call->loss->is.loss_shape && reduce->reduction > LK_SUM;
    for (int part = 0; part < LK_MAX_PARTS; part++) {
        if (!isnan(reduce->num_items) && mean)
            job->denominator[part] = reduce->num_items;
        double d = job->denominator[part];
        job->scale[part] = !mean ? 1 : d > 0 ? 1 / d : 0;
    }
    if (call->blocks > 0) {
        call->block = calloc((size_t)call->blocks, sizeof *call->block);
        if (!call->block)
            return lk_error_set(error, LK_NO_MEMORY, "", "no memory for %lld blocks",
                                (long long)call->blocks);
    }
    call->stage = PLANNED;
    return LK_OK;
}

int64_t lk_call_blocks(const lk_call *call)
{
    return call->stage >= PLANNED ? call->blocks : 0;
}

size_t lk_call_scratch(const lk_call *call)
{
    const lk_loss *loss = call->job.loss;
    return call->stage >= CHECKED && loss->scratch ? loss->scratch(&call->job) : 0;
}

/* Run and finish. */

void lk_call_run(lk_call *call, int64_t first, int64_t count, void *scratch)
{
    const lk_job *job = &call->job;
    if (call->stage != PLANNED)
        return;
    for (int64_t b = first; b < first + count && b < call->blocks; b++) {
        int64_t row = b * job->block_rows;
        int64_t rows = job->rows - row < job->block_rows ? job->rows - row : job->block_rows;
        job->loss->rows(job, row, rows, &call->block[b], scratch);
    }
}

/* The lowest bad value by (input, index), whatever the blocks' order. */
static lk_status report_bad(const lk_call *call, lk_error *error)
{
    const lk_block *worst = NULL;
    for (int64_t b = 0; b < call->blocks; b++) {
        const lk_block *block = &call->block[b];
        if (block->bad != LK_OK &&
            (!worst || block->bad_input < worst->bad_input ||
             (block->bad_input == worst->bad_input && block->bad_index < worst->bad_index)))
            worst = block;
    }
    if (!worst)
        return LK_OK;
    const lk_input *input = &call->loss->is.inputs[worst->bad_input];
    char place[LK_PLACE_MAX];
    lk_place(&call->job, worst->bad_input, worst->bad_index, place);
    if (worst->bad == LK_NONFINITE_INPUT)
        return lk_fail(&call->job, error, worst->bad, worst->bad_input, worst->bad_index,
                       "%s is NaN or +inf; with nonfinite=error it must be finite or -inf", place);
    return lk_fail(&call->job, error, worst->bad, worst->bad_input, worst->bad_index,
                   "%s is outside %s", place, input->range ? input->range : "its range");
}

static void write_value(const lk_call *call, const double *sum)
{
    const lk_job *job = &call->job;
    const lk_reduce *reduce = job->options;
    double value = 0;
    if (!job->value.data || (job->loss->is.loss_shape && reduce->reduction == LK_NONE))
        return;
    for (int part = 0; part < job->loss->parts; part++) {
        bool empty = reduce->reduction > LK_SUM && !(job->denominator[part] > 0);
        if (!empty)
            value += sum[part] * job->scale[part];
        else if (reduce->empty_mean == LK_EMPTY_NAN)
            value = (double)NAN;
    }
    lk_put(&job->value, 0, value);
}

lk_status lk_call_finish(lk_call *call, lk_error *error)
{
    double sum[LK_MAX_SUMS] = {0};
    lk_status status;
    if (call->stage != PLANNED)
        return misuse(error, "finish comes once, after plan and run");
    call->stage = FINISHED;
    if ((status = report_bad(call, error)) != LK_OK)
        return status;
    for (int64_t b = 0; b < call->blocks; b++)
        for (int i = 0; i < LK_MAX_SUMS; i++)
            sum[i] += call->block[b].sum[i];
    write_value(call, sum);
    if (call->job.loss->finish)
        call->job.loss->finish(&call->job, sum);
    return LK_OK;
}
