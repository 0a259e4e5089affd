/* SPDX-License-Identifier: MIT
 *
 * All checks of a call that need no data: missing inputs, element types, shapes, ranges of options,
 * and the types and shapes of the outputs.
 */
#include "single.h"

enum { BLOCK_ELEMENTS = 64 * 1024 }; /* minimum work of a block, in elements */

int lk_single_input(const lk_loss *loss, const char *name)
{
    for (int i = 0; loss->is->inputs[i].name; i++)
        if (strcmp(loss->is->inputs[i].name, name) == 0)
            return i;
    return -1;
}

unsigned lk_single_dtypes(const lk_call *call, const char *name)
{
    const int i = lk_single_input(call->loss, name);
    return i < 0 ? 0 : lk_input_dtypes(&call->loss->is->inputs[i]);
}

lk_status lk_single_want(const lk_call *call, const char *output, lk_wanted *wanted,
                         lk_error *error)
{
    const lk_description *is = call->loss->is;
    const bool transform = is->traits & LK_TRANSFORM;
    char names[LK_NAMES_TEXT];
    wanted->i = -1;
    if (strcmp(output, "loss") == 0 && !transform) {
        wanted->role = VALUE;
        wanted->i = 0;
    } else if (strncmp(output, "grad.", 5) == 0) {
        wanted->role = GRADIENT;
        wanted->i = lk_single_input(call->loss, output + 5);
        if (wanted->i >= 0 && !(is->inputs[wanted->i].flags & LK_DIFFERENTIABLE))
            return lk_error_set(error, LK_UNKNOWN_OUTPUT, output + 5,
                                "there is no output \"%s\": %s is not differentiable", output,
                                output + 5);
    } else {
        wanted->role = DIAGNOSTIC;
        for (int i = 0; is->outputs[i].name; i++)
            if (strcmp(is->outputs[i].name, output) == 0)
                wanted->i = i;
    }
    if (wanted->i >= 0)
        return LK_OK;
    return lk_error_set(error, LK_UNKNOWN_OUTPUT, "", "there is no output \"%.40s\"; %s has %s%s%s",
                        output, is->name, transform ? "" : "loss, grad.<input>",
                        transform || !is->outputs[0].name ? "" : ", ",
                        lk_names_text(is->outputs, sizeof *is->outputs, names));
}

static bool has_gradient(const single *s, int i)
{
    return (s->call.loss->is->inputs[i].flags & LK_DIFFERENTIABLE) && s->given[i].rank >= 0;
}

static lk_status check_missing(const single *s, lk_error *error)
{
    const lk_description *is = s->call.loss->is;
    for (int i = 0; is->inputs[i].name; i++)
        if (s->given[i].rank < 0 && !(is->inputs[i].flags & LK_OPTIONAL))
            return lk_error_set(error, LK_MISSING_INPUT, is->inputs[i].name,
                                "%s is missing; %s needs it: %s", is->inputs[i].name, is->name,
                                is->inputs[i].help);
    for (int i = 0; is->options[i].name; i++)
        if (!is->options[i].fallback && !(s->job.options_given >> i & 1))
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

static lk_status check_dtypes(single *s, lk_error *error)
{
    const lk_input *inputs = s->call.loss->is->inputs;
    char list[80];
    for (int i = 0; inputs[i].name; i++) {
        unsigned all = lk_input_dtypes(&inputs[i]);
        lk_dtype dtype = s->given[i].dtype;
        if (s->given[i].rank >= 0 && dtype != LK_ANY && !(all >> dtype & 1))
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, inputs[i].name,
                                "%s is %s; it must be %s", inputs[i].name, lk_dtype_name(dtype),
                                dtype_list(all, list));
    }
    s->primary = 0;
    while (inputs[s->primary].name && !has_gradient(s, s->primary))
        s->primary++;
    if (!inputs[s->primary].name) {
        if (!(s->call.loss->is->traits & LK_TRANSFORM))
            return lk_error_set(error, LK_MISSING_INPUT, inputs[0].name,
                                "%s needs an input that it can differentiate",
                                s->call.loss->is->name);
        s->primary = 0;
        return LK_OK;
    }
    if (s->given[s->primary].dtype == LK_ANY)
        s->given[s->primary].dtype = LK_F32;
    return LK_OK;
}

/* The type of an input that was given without one: that of what is differentiated, and where
 * nothing is, f32, whatever types the others have. */
static lk_dtype default_dtype(const single *s, unsigned dtypes)
{
    lk_dtype primary = s->given[s->primary].dtype;
    if (dtypes & LK_FLOATS)
        return has_gradient(s, s->primary) && lk_is_float(primary) ? primary : LK_F32;
    return dtypes & LK_INTS ? LK_I64 : LK_BOOL;
}

const char *lk_single_loss_pattern(const single *s)
{
    const lk_reduce *reduce = s->job.options;
    const lk_loss *loss = s->call.loss;
    if (!loss->is->loss_shape)
        return "";
    if (loss->is->loss_shapes)
        return loss->is->loss_shapes[reduce->reduction];
    return reduce->reduction == LK_NONE ? loss->is->loss_shape : "";
}

/* Store the shape patterns that an input may have. Returns how many. */
static int patterns(const single *s, const lk_input *input, const char *pattern[3])
{
    int forms = 0;
    for (; forms < 3 && input->forms[forms].shape; forms++) {
        pattern[forms] = input->forms[forms].shape;
        if (strcmp(pattern[forms], "loss") == 0)
            pattern[forms] = lk_single_loss_pattern(s);
    }
    return forms;
}

/* The option that selects an axis of the first input (class_dim), or NULL. */
static const lk_field *axis_option(const lk_description *is)
{
    const char *at = strchr(is->inputs[0].forms[0].shape, '@');
    return at ? lk_field_find(is->options, at + 1) : NULL;
}

/* "with class_dim=1 ", for messages about shapes that depend on that option. */
static const char *axis_text(const single *s, char to[64])
{
    const lk_field *axis = axis_option(s->call.loss->is);
    int64_t value;
    to[0] = '\0';
    if (axis && s->given[0].rank > 2) {
        memcpy(&value, (const char *)s->call.options + axis->offset, sizeof value);
        snprintf(to, 64, "with %s=%lld ", axis->name, (long long)value);
    }
    return to;
}

/* The error of an input that does not broadcast. LK_OK: it need not. */
static lk_status check_spread(const single *s, int i, lk_error *error)
{
    const lk_description *is = s->call.loss->is;
    const lk_tensor *t = &s->given[i];
    lk_tensor to;
    char shape[LK_SHAPE_TEXT], all[LK_SHAPE_TEXT];
    const int axis = lk_shape_misfit(is->inputs[i].forms[0].shape, t, &s->sizes, is->options,
                                     s->call.options, &to);
    if (axis < 0 || axis == t->rank)
        return LK_OK;
    const char *const name = is->inputs[i].name;
    if (t->rank > to.rank)
        return lk_error_set(error, LK_RANK_MISMATCH, name,
                            "%s has shape %s; it must broadcast to %s, which has fewer axes", name,
                            lk_shape_text(t, shape), lk_shape_text(&to, all));
    const int64_t size = to.shape[to.rank - t->rank + axis];
    char sizes[32] = "1";
    if (size != 1)
        snprintf(sizes, sizeof sizes, "1 or %lld", (long long)size);
    return lk_error_set(error, LK_SHAPE_MISMATCH, name,
                        "%s has shape %s; to broadcast to %s, its axis %d must be %s", name,
                        lk_shape_text(t, shape), lk_shape_text(&to, all), axis, sizes);
}

/* The error of an input that has one for each sequence (`*-`, in a loss that takes offsets) where
 * `*` is a single axis, and so none: its own shape could only be []. LK_OK: it is none of these. */
static lk_status check_sequences(const single *s, int i, lk_error *error)
{
    const lk_input *inputs = s->call.loss->is->inputs;
    const char *rows = inputs[0].forms[0].shape, *offsets = NULL;
    char is[LK_SHAPE_TEXT], all[LK_SHAPE_TEXT], sequences[32];
    lk_sizes none;
    for (int k = 0; inputs[k].name; k++)
        offsets = inputs[k].flags & LK_OFFSETS ? inputs[k].name : offsets;
    if (!offsets || s->sizes.packed || s->sizes.lead_rank != 1 || *rows != '*' ||
        strcmp(inputs[i].forms[0].shape, "*-") != 0)
        return LK_OK;
    lk_sizes_clear(&none);
    snprintf(sequences, sizeof sequences, "B T%s", rows + 1);
    return lk_error_set(error, LK_RANK_MISMATCH, inputs[i].name,
                        "%s needs sequences, which %s of shape %s has not; it must have %s, or "
                        "there must be %s",
                        inputs[i].name, inputs[0].name, lk_shape_text(&s->given[0], is),
                        lk_pattern_text(sequences, &none, all), offsets);
}

static lk_status no_form(const single *s, int i, lk_error *error)
{
    const lk_input *input = &s->call.loss->is->inputs[i];
    const lk_tensor *t = &s->given[i];
    const char *pattern[3];
    int forms = patterns(s, input, pattern), by_rank = -1;
    lk_status status;
    if ((status = check_spread(s, i, error)) != LK_OK ||
        (status = check_sequences(s, i, error)) != LK_OK)
        return status;
    char list[80], is[LK_SHAPE_TEXT], one[LK_SHAPE_TEXT], all[3 * LK_SHAPE_TEXT] = "", axis[64];
    for (int f = forms - 1; f >= 0; f--)
        if (lk_shape_rank(pattern[f], t->rank, &s->sizes))
            by_rank = f;
    if (by_rank >= 0 && t->dtype != LK_ANY && !(input->forms[by_rank].dtypes >> t->dtype & 1))
        return lk_error_set(error, LK_DTYPE_UNSUPPORTED, input->name,
                            "%s is %s with shape %s; with that shape it must be %s", input->name,
                            lk_dtype_name(t->dtype), lk_shape_text(t, is),
                            dtype_list(input->forms[by_rank].dtypes, list));
    for (int f = 0; f < forms; f++) {
        size_t used = strlen(all);
        if (by_rank < 0 || lk_shape_rank(pattern[f], t->rank, &s->sizes))
            snprintf(all + used, sizeof all - used, "%s%s", used ? " or " : "",
                     lk_pattern_text(pattern[f], &s->sizes, one));
    }
    return lk_error_set(error, by_rank < 0 ? LK_RANK_MISMATCH : LK_SHAPE_MISMATCH, input->name,
                        "%s has shape %s; %sit must be %s", input->name, lk_shape_text(t, is),
                        axis_text(s, axis), all);
}

/* Choose the form of an input: the first one that its shape and type match, exactly if possible,
 * else leniently. */
static lk_status choose_form(single *s, int i, lk_error *error)
{
    const lk_input *input = &s->call.loss->is->inputs[i];
    lk_tensor *t = &s->given[i];
    const char *pattern[3];
    int forms = patterns(s, input, pattern);
    for (int pass = 0; pass < 2; pass++) {
        for (int f = 0; f < forms; f++) {
            unsigned dtypes = input->forms[f].dtypes;
            if (t->dtype != LK_ANY && !(dtypes >> t->dtype & 1))
                continue;
            if (!lk_shape_bind(pattern[f], t, pass == 0, &s->sizes, s->call.loss->is->options,
                               s->call.options))
                continue;
            s->job.form[i] = f;
            if (t->dtype == LK_ANY)
                t->dtype = default_dtype(s, dtypes);
            return LK_OK;
        }
    }
    return no_form(s, i, error);
}

/* An option that selects an axis must be in range before shapes can be checked. */
static lk_status check_axes(const single *s, lk_error *error)
{
    const lk_field *axis = axis_option(s->call.loss->is);
    return axis ? lk_field_check(axis, s->call.options, error) : LK_OK;
}

static lk_status check_shapes(single *s, lk_error *error)
{
    const lk_input *inputs = s->call.loss->is->inputs;
    lk_status status;
    lk_sizes_clear(&s->sizes);
    s->sizes.packed = s->job.offsets >= 0;
    /* First how many sequences there are: what has one for each must have as many. */
    if (s->sizes.packed && (status = choose_form(s, s->job.offsets, error)) != LK_OK)
        return status;
    for (int i = 0; inputs[i].name; i++) {
        if (s->given[i].rank < 0 || i == s->job.offsets)
            continue;
        if ((status = choose_form(s, i, error)) != LK_OK)
            return status;
        lk_dtype primary = s->given[s->primary].dtype, dtype = s->given[i].dtype;
        if (!(inputs[i].flags & LK_DIFFERENTIABLE) || !lk_is_float(dtype) || dtype == primary)
            continue;
        if (!(inputs[i].flags & LK_OWN_TYPE))
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, inputs[i].name,
                                "%s is %s; it must be %s, as %s is", inputs[i].name,
                                lk_dtype_name(dtype), lk_dtype_name(primary),
                                inputs[s->primary].name);
        if (dtype == LK_F64 || primary == LK_F64)
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, inputs[i].name,
                                "%s is %s; it must be %s, since %s is %s", inputs[i].name,
                                lk_dtype_name(dtype),
                                primary == LK_F64 ? "f64" : "f32, f16 or bf16",
                                inputs[s->primary].name, lk_dtype_name(primary));
    }
    return LK_OK;
}

static bool by_default(const single *s, int i)
{
    const lk_loss *loss = s->job.loss;
    return has_gradient(s, i) && (loss->is->inputs[i].flags & LK_GRADIENT) &&
           lk_is_float(s->given[i].dtype) &&
           (!loss->default_gradient || loss->default_gradient(&s->job, i));
}

static bool output_by_default(const single *s, int i)
{
    const lk_loss *loss = s->job.loss;
    if (loss->default_output)
        return loss->default_output(&s->job, i);
    return i < 0 ? !(loss->is->traits & LK_TRANSFORM)
                 : (loss->is->outputs[i].flags & LK_DEFAULT) != 0;
}

static void default_outputs(single *s)
{
    const lk_description *is = s->call.loss->is;
    char name[48];
    if (output_by_default(s, -1))
        (void)lk_wanted_add(&s->call, "loss", VALUE, 0);
    for (int i = 0; is->inputs[i].name; i++) {
        snprintf(name, sizeof name, "grad.%s", is->inputs[i].name);
        if (by_default(s, i))
            (void)lk_wanted_add(&s->call, name, GRADIENT, i);
    }
    for (int i = 0; is->outputs[i].name; i++)
        if (output_by_default(s, i))
            (void)lk_wanted_add(&s->call, is->outputs[i].name, DIAGNOSTIC, i);
}

/* May the gradient be computed in place of the input? Not if another input shares its memory. */
static bool may_overwrite(const single *s, int i)
{
    const void *data = s->given[i].data;
    if (!(s->call.loss->is->inputs[i].flags & LK_ROW_LOCAL))
        return false;
    for (int k = 0; k < LK_MAX_INPUTS; k++)
        if (k != i && s->given[k].rank >= 0 && data && s->given[k].data == data)
            return false;
    return true;
}

/* Refuse gradients that cannot exist, as far as is known before element types are chosen: names are
 * checked before types and shapes. */
static lk_status check_wanted(const single *s, lk_error *error)
{
    for (int k = 0; k < s->call.wanted_count; k++) {
        const lk_wanted *w = &s->call.wanted[k];
        if (w->role != GRADIENT)
            continue;
        const lk_tensor *t = &s->given[w->i];
        const char *name = s->call.loss->is->inputs[w->i].name;
        if (t->rank < 0)
            return lk_error_set(error, LK_UNKNOWN_OUTPUT, name,
                                "there is no output \"%s\": %s was not given", w->name, name);
        if (t->dtype != LK_ANY && !lk_is_float(t->dtype))
            return lk_error_set(error, LK_UNKNOWN_OUTPUT, name,
                                "there is no output \"%s\": %s holds integers", w->name, name);
    }
    return LK_OK;
}

static lk_status check_outputs(single *s, lk_error *error)
{
    const lk_description *is = s->call.loss->is;
    lk_dtype real = single_real(s);
    s->job.out_wanted = s->job.grad_wanted = 0;
    if (s->call.wanted_count == 0)
        default_outputs(s);
    for (int k = 0; k < s->call.wanted_count; k++) {
        lk_wanted *w = &s->call.wanted[k];
        w->tensor = (lk_tensor){.dtype = real};
        const char *pattern = lk_single_loss_pattern(s);
        if (w->role == GRADIENT) {
            w->tensor = s->given[w->i];
            w->tensor.data = NULL;
            s->job.grad[w->i] = w->tensor;
            s->job.grad_wanted |= 1u << w->i;
            w->over = may_overwrite(s, w->i) ? &s->given[w->i] : NULL;
            continue;
        }
        if (w->role == DIAGNOSTIC) {
            const lk_output *output = &is->outputs[w->i];
            s->job.out_wanted |= 1u << w->i;
            const int like = output->like ? lk_single_input(s->call.loss, output->like) : -1;
            w->tensor.dtype = output->dtype != LK_ANY                 ? output->dtype
                              : like >= 0 && s->given[like].rank >= 0 ? s->given[like].dtype
                                                                      : real;
            if (strcmp(output->shape, "loss") != 0)
                pattern = output->shape;
        }
        if (!lk_shape_make(pattern, &s->sizes, is->options, s->call.options, &w->tensor))
            return lk_misuse(error, "an output's shape has a size that no input binds");
    }
    return LK_OK;
}

int64_t lk_single_block_rows(const lk_job *job, const lk_pass *pass, int64_t cost)
{
    const int64_t rows = cost >= BLOCK_ELEMENTS ? 1 : BLOCK_ELEMENTS / (cost > 0 ? cost : 1);
    const int64_t least = job->loss->least ? job->loss->least(job, pass) : 1;
    return rows > least ? rows : least;
}

/* If there are no rows, an empty tensor may have other sizes so large that what is computed from
 * them, such as the size of the scratch, would overflow. So the sizes in the job are limited to
 * those of the largest tensor with elements, or to what an empty one may have after a first size
 * other than 0. */
static void bound_claims(single *s)
{
    lk_job *job = &s->job;
    s->most = LK_EMPTY_ROWS;
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        if (s->given[i].rank >= 0 && lk_tensor_count(&s->given[i]) > s->most)
            s->most = lk_tensor_count(&s->given[i]);
    for (int i = 0; i < LK_MAX_RANK; i++)
        job->lead[i] = job->lead[i] < s->most ? job->lead[i] : s->most;
    for (int i = 0; i < 26; i++)
        job->size[i] = job->size[i] < s->most ? job->size[i] : s->most;
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        if (job->given >> i & 1)
            job->in[i] = lk_single_shown(s, i);
}

lk_tensor lk_single_shown(const single *s, int i)
{
    lk_tensor t = s->given[i];
    for (int axis = 0; axis < t.rank; axis++)
        t.shape[axis] = t.shape[axis] < s->most ? t.shape[axis] : s->most;
    return t;
}

/* What is known before types and shapes: which inputs are given, and which outputs requested. */
static void note_names(single *s)
{
    lk_job *job = &s->job;
    job->given = job->out_wanted = job->grad_wanted = 0; /* check may be called again */
    job->offsets = -1;
    for (int i = 0; i < LK_MAX_INPUTS; i++) {
        if (s->given[i].rank < 0)
            continue;
        job->given |= 1u << i;
        if (job->loss->is->inputs[i].flags & LK_OFFSETS)
            job->offsets = i;
    }
    for (int k = 0; k < s->call.wanted_count; k++) {
        const lk_wanted *w = &s->call.wanted[k];
        if (w->role == DIAGNOSTIC)
            job->out_wanted |= 1u << w->i;
        else if (w->role == GRADIENT)
            job->grad_wanted |= 1u << w->i;
        else
            job->out_wanted |= 1u << LK_MAX_OUTPUTS; /* `loss`: no diagnostic has that bit */
    }
    job->lead_rank = 0;
    job->rows = 0;
    memset(job->lead, 0, sizeof job->lead);
    memset(job->size, 0, sizeof job->size);
    memset(job->form, 0, sizeof job->form);
}

/* What the loss itself finds, of faults that come in the order up to `last`. */
static lk_status check_own(const single *s, int last, lk_error *error)
{
    lk_error found;
    const lk_status status = s->call.loss->check ? s->call.loss->check(&s->job, &found) : LK_OK;
    if (status == LK_OK || lk_status_order(status) > last)
        return LK_OK;
    if (error)
        *error = found;
    return status;
}

/* Fill in the shapes and inputs that the kernels see. */
static lk_status fill_job(single *s, lk_error *error)
{
    lk_job *job = &s->job;
    const lk_input *inputs = s->call.loss->is->inputs;
    const char *pattern =
        s->call.loss->rows_shape ? s->call.loss->rows_shape : s->call.loss->is->loss_shape;
    lk_tensor rows = {0};
    for (int i = 0; inputs[i].name; i++)
        if (job->given >> i & 1)
            job->in[i] = s->given[i];
    job->lead_rank = s->sizes.lead_rank < 0 ? 0 : s->sizes.lead_rank;
    memcpy(job->lead, s->sizes.lead, sizeof job->lead);
    memcpy(job->size, s->sizes.size, sizeof job->size);
    if (pattern && !lk_shape_make(pattern, &s->sizes, NULL, NULL, &rows))
        return lk_misuse(error, "the shape of the rows has a size that no input binds");
    job->rows = lk_tensor_count(&rows);
    if (job->rows < 0)
        return lk_error_set(error, LK_SHAPE_MISMATCH, "", "more rows than memory can hold");
    s->most = INT64_MAX;
    if (job->rows == 0)
        bound_claims(s);
    return LK_OK;
}

/* Divide the rows into blocks, and choose the variant that computes them. */
static void plan_blocks(single *s)
{
    lk_job *job = &s->job;
    const int64_t elements = lk_tensor_count(&s->given[s->primary]);
    const lk_dtype primary = s->given[s->primary].dtype;
    job->loss = lk_loss_variant(s->call.loss, lk_is_float(primary) ? primary : LK_F32);
    s->each = job->rows > 0 ? elements / job->rows : 1;
    if (job->loss->row_cost)
        s->each = job->loss->row_cost(job, NULL);
    job->block_rows = lk_single_block_rows(job, NULL, s->each);
    if (job->loss->light > 0)
        job->block_rows *= job->loss->light;
    s->blocks = (job->rows + job->block_rows - 1) / job->block_rows;
}

static lk_status check_options(const single *s, lk_error *error)
{
    const lk_field *fields = s->call.loss->is->options;
    const lk_reduce *reduce = s->job.options;
    lk_status status;
    for (const lk_field *f = fields; f->name; f++)
        if ((status = lk_field_check(f, s->call.options, error)) != LK_OK)
            return status;
    if (s->call.loss->is->loss_shape && lk_field_find(fields, "num_items") &&
        reduce->reduction != LK_MEAN && !isnan(reduce->num_items))
        return lk_error_set(
            error, LK_OPTION_CONFLICT, "",
            "num_items replaces the denominator of reduction=mean; leave it out with "
            "another reduction");
    return LK_OK;
}

/* An option may be given by the input of its name, but not by both. */
static lk_status check_twice(const single *s, lk_error *error)
{
    for (const lk_input *in = s->call.loss->is->inputs; in->name; in++)
        if (lk_has(&s->job, (int)(in - s->call.loss->is->inputs)) && lk_given(&s->job, in->name))
            return lk_error_set(error, LK_OPTION_CONFLICT, in->name,
                                "%s is given as an option and as an input; leave one of them out",
                                in->name);
    return LK_OK;
}

/* The options, by their table and by the loss. */
static lk_status check_settings(const single *s, lk_error *error)
{
    lk_error first = {0}, twice = {0}, own;
    (void)check_options(s, &first);
    if (check_twice(s, &twice) != LK_OK)
        lk_error_keep(&first, &twice);
    if (check_own(s, LK_OF_DATA, &own) != LK_OK)
        lk_error_keep(&first, &own);
    if (error && first.status != LK_OK)
        *error = first;
    return first.status;
}

lk_status lk_single_check(lk_call *call, lk_error *error)
{
    single *s = single_of(call);
    lk_status status;
    s->job.options_given = call->options_given;
    note_names(s);
    if ((status = check_missing(s, error)) != LK_OK || (status = check_wanted(s, error)) != LK_OK ||
        (status = check_own(s, LK_OF_NAMES, error)) != LK_OK ||
        (status = check_dtypes(s, error)) != LK_OK || (status = check_axes(s, error)) != LK_OK ||
        (status = check_shapes(s, error)) != LK_OK ||
        (status = check_wanted(s, error)) != LK_OK || /* again, now that types are chosen */
        (status = fill_job(s, error)) != LK_OK || (status = check_settings(s, error)) != LK_OK)
        return status;
    plan_blocks(s);
    return check_outputs(s, error);
}
