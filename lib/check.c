/* SPDX-License-Identifier: MIT
 *
 * Everything about a call that needs no numbers: what is missing, element types, shapes, ranges of
 * options, and which outputs there will be.
 */
#include "internal.h"

#include <stdio.h>

enum { BLOCK_ELEMENTS = 64 * 1024 }; /* what a block should at least compute */

static bool has_gradient(const lk_call *call, int i)
{
    return (call->loss->is.inputs[i].flags & LK_DIFFERENTIABLE) && call->given[i].rank >= 0;
}

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
        unsigned all =
            inputs[i].forms[0].dtypes | inputs[i].forms[1].dtypes | inputs[i].forms[2].dtypes;
        lk_dtype dtype = call->given[i].dtype;
        if (call->given[i].rank >= 0 && dtype != LK_ANY && !(all >> dtype & 1))
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, inputs[i].name,
                                "%s is %s; it must be %s", inputs[i].name, lk_dtype_name(dtype),
                                dtype_list(all, list));
    }
    call->primary = 0;
    while (inputs[call->primary].name && !has_gradient(call, call->primary))
        call->primary++;
    if (!inputs[call->primary].name) {
        if (!(call->loss->is.traits & LK_TRANSFORM))
            return lk_error_set(error, LK_MISSING_INPUT, inputs[0].name,
                                "%s needs an input that it can differentiate", call->loss->is.name);
        call->primary = 0;
        return LK_OK;
    }
    if (call->given[call->primary].dtype == LK_ANY)
        call->given[call->primary].dtype = LK_F32;
    return LK_OK;
}

/* The type of an input that was given without one. */
static lk_dtype default_dtype(const lk_call *call, unsigned dtypes)
{
    lk_dtype primary = call->given[call->primary].dtype;
    if (dtypes & LK_FLOATS)
        return lk_is_float(primary) ? primary : LK_F32;
    return dtypes & LK_INTS ? LK_I64 : LK_BOOL;
}

const char *lk_loss_pattern(const lk_call *call)
{
    const lk_reduce *reduce = call->job.options;
    const lk_loss *loss = call->loss;
    if (!loss->is.loss_shape)
        return "";
    if (loss->is.loss_shapes)
        return loss->is.loss_shapes[reduce->reduction];
    return reduce->reduction == LK_NONE ? loss->is.loss_shape : "";
}

/* The patterns an input may have; how many. */
static int patterns(const lk_call *call, const lk_input *input, const char *pattern[3])
{
    int forms = 0;
    for (; forms < 3 && input->forms[forms].shape; forms++) {
        pattern[forms] = input->forms[forms].shape;
        if (strcmp(pattern[forms], "loss") == 0)
            pattern[forms] = lk_loss_pattern(call);
    }
    return forms;
}

static lk_status no_form(const lk_call *call, int i, lk_error *error)
{
    const lk_input *input = &call->loss->is.inputs[i];
    const lk_tensor *t = &call->given[i];
    const char *pattern[3];
    int forms = patterns(call, input, pattern), by_rank = -1;
    char list[80], is[LK_SHAPE_TEXT], one[LK_SHAPE_TEXT], all[3 * LK_SHAPE_TEXT] = "";
    for (int f = forms - 1; f >= 0; f--)
        if (lk_shape_rank(pattern[f], t->rank, &call->sizes))
            by_rank = f;
    if (by_rank >= 0 && t->dtype != LK_ANY && !(input->forms[by_rank].dtypes >> t->dtype & 1))
        return lk_error_set(error, LK_DTYPE_UNSUPPORTED, input->name,
                            "%s is %s with shape %s; with that shape it must be %s", input->name,
                            lk_dtype_name(t->dtype), lk_shape_text(t, is),
                            dtype_list(input->forms[by_rank].dtypes, list));
    for (int f = 0; f < forms; f++) {
        size_t used = strlen(all);
        if (by_rank < 0 || f == by_rank)
            snprintf(all + used, sizeof all - used, "%s%s", used ? " or " : "",
                     lk_pattern_text(pattern[f], &call->sizes, one));
    }
    return lk_error_set(error, by_rank < 0 ? LK_RANK_MISMATCH : LK_SHAPE_MISMATCH, input->name,
                        "%s has shape %s; it must be %s", input->name, lk_shape_text(t, is), all);
}

/* Which form an input has: the first one that its shape and type fit, exactly before leniently. */
static lk_status choose_form(lk_call *call, int i, lk_error *error)
{
    const lk_input *input = &call->loss->is.inputs[i];
    lk_tensor *t = &call->given[i];
    const char *pattern[3];
    int forms = patterns(call, input, pattern);
    for (int pass = 0; pass < 2; pass++) {
        for (int f = 0; f < forms; f++) {
            unsigned dtypes = input->forms[f].dtypes;
            if (t->dtype != LK_ANY && !(dtypes >> t->dtype & 1))
                continue;
            if (!lk_shape_bind(pattern[f], t, pass == 0, &call->sizes, call->loss->is.options,
                               call->options))
                continue;
            call->job.form[i] = f;
            if (t->dtype == LK_ANY)
                t->dtype = default_dtype(call, dtypes);
            return LK_OK;
        }
    }
    return no_form(call, i, error);
}

/* Options that say where an axis stands are needed in range before shapes can be told. */
static lk_status check_axes(const lk_call *call, lk_error *error)
{
    const lk_description *is = &call->loss->is;
    lk_status status = LK_OK;
    for (const lk_field *f = is->options; f->name && status == LK_OK; f++) {
        const char *at = strchr(is->inputs[0].forms[0].shape, '@');
        if (at && strcmp(at + 1, f->name) == 0)
            status = lk_field_check(f, call->options, error);
    }
    return status;
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
        if ((inputs[i].flags & LK_DIFFERENTIABLE) && lk_is_float(dtype) && dtype != primary)
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, inputs[i].name,
                                "%s is %s; it must be %s, as %s is", inputs[i].name,
                                lk_dtype_name(dtype), lk_dtype_name(primary),
                                inputs[call->primary].name);
    }
    return LK_OK;
}

static bool by_default(const lk_call *call, int i)
{
    const lk_loss *loss = call->job.loss;
    return has_gradient(call, i) && (loss->is.inputs[i].flags & LK_GRADIENT) &&
           lk_is_float(call->given[i].dtype) &&
           (!loss->default_gradient || loss->default_gradient(&call->job, i));
}

static void default_outputs(lk_call *call)
{
    const lk_description *is = &call->loss->is;
    (void)lk_call_want(call, "loss", NULL); /* not there for a transform */
    for (int i = 0; is->inputs[i].name; i++) {
        if (!by_default(call, i))
            continue;
        char name[48];
        snprintf(name, sizeof name, "grad.%s", is->inputs[i].name);
        (void)lk_call_want(call, name, NULL);
    }
    for (int i = 0; is->outputs[i].name; i++)
        if (is->outputs[i].flags & LK_DEFAULT)
            (void)lk_call_want(call, is->outputs[i].name, NULL);
}

/* Is the input's memory its gradient's to take? Not if another input was given the same. */
static bool may_overwrite(const lk_call *call, int i)
{
    const void *data = call->given[i].data;
    if (!(call->loss->is.inputs[i].flags & LK_ROW_LOCAL))
        return false;
    for (int k = 0; k < LK_MAX_INPUTS; k++)
        if (k != i && call->given[k].rank >= 0 && data && call->given[k].data == data)
            return false;
    return true;
}

static lk_status check_outputs(lk_call *call, lk_error *error)
{
    const lk_description *is = &call->loss->is;
    lk_dtype real = lk_compute_type(call);
    call->job.out_wanted = 0;
    if (call->wanted_count == 0)
        default_outputs(call);
    for (int k = 0; k < call->wanted_count; k++) {
        wanted *w = &call->wanted[k];
        w->tensor = (lk_tensor){.dtype = real};
        const char *pattern = lk_loss_pattern(call);
        if (w->kind == GRADIENT) {
            const char *name = is->inputs[w->i].name;
            if (call->given[w->i].rank < 0)
                return lk_error_set(error, LK_UNKNOWN_OUTPUT, name,
                                    "there is no output \"%s\": %s was not given", w->name, name);
            if (!lk_is_float(call->given[w->i].dtype))
                return lk_error_set(error, LK_UNKNOWN_OUTPUT, name,
                                    "there is no output \"%s\": %s holds integers", w->name, name);
            w->tensor = call->given[w->i];
            w->tensor.data = NULL;
            call->job.grad[w->i] = w->tensor;
            w->in_place = may_overwrite(call, w->i);
            continue;
        }
        if (w->kind == DIAGNOSTIC) {
            const lk_output *output = &is->outputs[w->i];
            call->job.out_wanted |= 1u << w->i;
            const lk_tensor *like = output->like ? lk_call_tensor(call, output->like) : NULL;
            w->tensor.dtype = output->dtype != LK_ANY ? output->dtype : like ? like->dtype : real;
            if (strcmp(output->shape, "loss") != 0)
                pattern = output->shape;
        }
        if (!lk_shape_make(pattern, &call->sizes, is->options, call->options, &w->tensor))
            return lk_misuse(error, "an output's shape has a size that no input binds");
    }
    return LK_OK;
}

int64_t lk_block_rows(int64_t cost)
{
    return cost >= BLOCK_ELEMENTS ? 1 : BLOCK_ELEMENTS / (cost > 0 ? cost : 1);
}

/* What the kernels see of shapes and inputs. */
static lk_status fill_job(lk_call *call, lk_error *error)
{
    lk_job *job = &call->job;
    const lk_input *inputs = call->loss->is.inputs;
    const char *pattern =
        call->loss->rows_shape ? call->loss->rows_shape : call->loss->is.loss_shape;
    lk_tensor rows = {0};
    job->given = 0; /* a check may come again */
    for (int i = 0; inputs[i].name; i++) {
        if (call->given[i].rank < 0)
            continue;
        job->in[i] = call->given[i];
        job->given |= 1u << i;
    }
    job->lead_rank = call->sizes.lead_rank < 0 ? 0 : call->sizes.lead_rank;
    memcpy(job->lead, call->sizes.lead, sizeof job->lead);
    memcpy(job->size, call->sizes.size, sizeof job->size);
    if (pattern && !lk_shape_make(pattern, &call->sizes, NULL, NULL, &rows))
        return lk_misuse(error, "the shape of the rows has a size that no input binds");
    job->rows = lk_tensor_count(&rows);
    if (job->rows < 0)
        return lk_error_set(error, LK_SHAPE_MISMATCH, "", "more rows than memory can hold");
    int64_t elements = lk_tensor_count(&call->given[call->primary]);
    int64_t cost = job->rows > 0 ? elements / job->rows : 1;
    if (call->loss->row_cost)
        cost = call->loss->row_cost(job, NULL);
    job->block_rows = lk_block_rows(cost);
    call->blocks = (job->rows + job->block_rows - 1) / job->block_rows;
    lk_dtype primary = call->given[call->primary].dtype;
    job->loss = lk_loss_variant(call->loss, lk_is_float(primary) ? primary : LK_F32);
    return LK_OK;
}

static lk_status check_options(const lk_call *call, lk_error *error)
{
    const lk_field *fields = call->loss->is.options;
    const lk_reduce *reduce = call->job.options;
    lk_status status;
    for (const lk_field *f = fields; f->name; f++)
        if ((status = lk_field_check(f, call->options, error)) != LK_OK)
            return status;
    if (call->loss->is.loss_shape && lk_field_find(fields, "num_items") &&
        reduce->reduction != LK_MEAN && !isnan(reduce->num_items))
        return lk_error_set(
            error, LK_OPTION_CONFLICT, "",
            "num_items replaces the denominator of reduction=mean; leave it out with "
            "another reduction");
    return LK_OK;
}

static lk_status check_all(lk_call *call, lk_error *error)
{
    lk_status status;
    if ((status = check_missing(call, error)) != LK_OK ||
        (status = check_dtypes(call, error)) != LK_OK ||
        (status = check_axes(call, error)) != LK_OK ||
        (status = check_shapes(call, error)) != LK_OK ||
        (status = check_options(call, error)) != LK_OK ||
        (status = fill_job(call, error)) != LK_OK || (status = check_outputs(call, error)) != LK_OK)
        return status;
    return call->job.loss->check ? call->job.loss->check(&call->job, error) : LK_OK;
}

lk_status lk_call_check(lk_call *call, lk_error *error)
{
    const int wanted_count = call->wanted_count;
    if (call->stage >= CHECKED)
        return call->stage == CHECKED ? LK_OK : lk_misuse(error, "the call is planned already");
    lk_status status = call->composite ? lk_composite_check(call, error) : check_all(call, error);
    if (status == LK_OK)
        call->stage = CHECKED;
    else
        call->wanted_count = wanted_count; /* the default outputs were not asked for */
    return status;
}
