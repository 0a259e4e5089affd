/* SPDX-License-Identifier: MIT
 *
 * One evaluation: inputs, options and outputs by name, checks, the plan, blocks, reductions. It
 * reads descriptions and knows no loss; the losses know no reduction.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

/* New, inputs, options, outputs. */

lk_call *lk_call_new(const lk_loss *loss)
{
    lk_call *call = calloc(1, sizeof *call + loss->options_size);
    if (!call)
        return NULL;
    call->loss = loss;
    call->job.loss = loss;
    call->job.options = call->options;
    if ((loss->is.traits & LK_DYNAMIC) && !(call->composite = lk_composite_new())) {
        free(call);
        return NULL;
    }
    lk_fields_default(loss->is.options, call->options);
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        call->given[i].rank = -1;
    return call;
}

/* What a plan has left, if only the first part of one: a caller whose numbers were refused may mend
 * them and plan again. */
static void clear_plan(lk_call *call)
{
    for (int i = 0; i < LK_MAX_INPUTS; i++) {
        free(call->converted[i]);
        call->converted[i] = NULL;
    }
    free(call->job.state);
    free(call->block);
    call->job.state = NULL;
    call->block = NULL;
    call->job.counted = 0;
    call->job.total_weight = 0;
}

void lk_call_free(lk_call *call)
{
    if (!call)
        return;
    clear_plan(call);
    lk_composite_free(call->composite);
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

/* An empty tensor costs its sender nothing, whatever its other sizes are, and loops over rows would
 * run all the same: without numbers only few rows can be claimed. */
static bool claims_too_much(const lk_tensor *t)
{
    enum { MOST = 4096 };
    int64_t product = 1;
    if (lk_tensor_count(t) != 0 || t->shape[0] == 0)
        return false;
    for (int i = 0; i < t->rank && product <= MOST; i++)
        if (t->shape[i] > 0)
            product = t->shape[i] > MOST ? MOST + 1 : product * t->shape[i];
    return product > MOST;
}

lk_status lk_call_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error)
{
    if (call->stage != FILLING)
        return lk_misuse(error, "inputs are given before the check");
    int i = input_find(call->loss, name);
    char names[160];
    if (i < 0 && !call->composite)
        return unknown(error, LK_UNKNOWN_INPUT, "input", name, call->loss->is.name,
                       name_list(call->loss->is.inputs, sizeof(lk_input), names));
    if (lk_tensor_count(tensor) < 0)
        return lk_error_set(error, LK_SHAPE_MISMATCH, name,
                            "%s has no possible shape: up to %d sizes that are >= 0 and a product "
                            "that memory can hold",
                            name, LK_MAX_RANK);
    if (claims_too_much(tensor))
        return lk_error_set(error, LK_SHAPE_MISMATCH, name,
                            "%s has no elements, but more than 4096 rows of none", name);
    if ((unsigned)tensor->dtype > LK_ANY)
        return lk_error_set(error, LK_DTYPE_UNSUPPORTED, name, "%s has no known element type",
                            name);
    if (call->composite)
        return lk_composite_input(call, name, tensor, error);
    call->given[i] = *tensor;
    return LK_OK;
}

lk_status lk_call_option(lk_call *call, const char *name, const char *text, lk_error *error)
{
    if (call->stage != FILLING)
        return lk_misuse(error, "options are set before the check");
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

lk_status lk_call_want(lk_call *call, const char *output, lk_error *error)
{
    if (call->stage != FILLING)
        return lk_misuse(error, "outputs are asked for before the check");
    if (call->composite)
        return lk_composite_want(call, output, error);
    const lk_description *is = &call->loss->is;
    wanted w = {.kind = VALUE, .i = -1};
    char names[160];
    if (strcmp(output, "loss") == 0 && !(is->traits & LK_TRANSFORM)) {
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
                            "there is no output \"%.40s\"; %s has %s%s%s", output, is->name,
                            is->traits & LK_TRANSFORM ? "" : "loss, grad.<input>",
                            is->traits & LK_TRANSFORM || !is->outputs[0].name ? "" : ", ",
                            name_list(is->outputs, sizeof(lk_output), names));
    for (int k = 0; k < call->wanted_count; k++)
        if (call->wanted[k].kind == w.kind && call->wanted[k].i == w.i)
            return lk_error_set(error, LK_DUPLICATE_OPTION, "", "output %s is asked for twice",
                                output);
    snprintf(w.name, sizeof w.name, "%s", output);
    call->wanted[call->wanted_count++] = w;
    return LK_OK;
}

const lk_tensor *lk_call_tensor(const lk_call *call, const char *name)
{
    if (call->composite)
        return lk_composite_tensor(call, name);
    int i = input_find(call->loss, name);
    return i < 0 || call->given[i].rank < 0 ? NULL : &call->given[i];
}

lk_status lk_call_data(lk_call *call, const char *name, void *data)
{
    int i = input_find(call->loss, name);
    lk_tensor *t = i >= 0 && call->given[i].rank >= 0 ? &call->given[i] : NULL;
    if (call->composite)
        t = lk_composite_tensor(call, name);
    if (call->stage != CHECKED || !t)
        return LK_MISUSE;
    t->data = data;
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
    if (i < 0 || i >= lk_call_outputs(call) || !call->wanted[i].in_place)
        return NULL;
    return &call->given[call->wanted[i].i];
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
            return lk_misuse(error, "an input has no data");
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
            return lk_misuse(error, "an output is not bound");
    }
    return LK_OK;
}

static bool must_convert(const lk_call *call, int i)
{
    return call->given[i].rank >= 0 && lk_is_float(call->given[i].dtype) &&
           !(call->loss->is.inputs[i].flags & LK_DIFFERENTIABLE) &&
           call->given[i].dtype != lk_compute_type(call);
}

size_t lk_call_memory(const lk_call *call)
{
    const lk_loss *loss = call->job.loss;
    if (call->composite)
        return lk_composite_memory(call);
    size_t bytes = (size_t)call->blocks * sizeof(lk_block);
    if (call->stage >= CHECKED && loss->state)
        bytes += loss->state(&call->job);
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        if (must_convert(call, i))
            bytes +=
                (size_t)lk_tensor_count(&call->given[i]) * lk_dtype_size(lk_compute_type(call));
    return bytes;
}

static lk_status convert_inputs(lk_call *call, lk_error *error)
{
    lk_dtype real = lk_compute_type(call);
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

static void *allocate(size_t bytes, const char *what, lk_error *error)
{
    void *memory = calloc(1, bytes);
    if (!memory)
        (void)lk_error_set(error, LK_NO_MEMORY, "", "no memory for %s (%zu bytes)", what, bytes);
    return memory;
}

static void set_scales(lk_job *job)
{
    const lk_reduce *reduce = job->options;
    bool chosen = job->loss->is.loss_shape != NULL;
    for (int part = 0; part < LK_MAX_PARTS; part++) {
        if (chosen && reduce->reduction == LK_MEAN && reduce->num_items > 0)
            job->denominator[part] = reduce->num_items;
        double d = job->denominator[part];
        bool divides = !chosen || reduce->reduction > LK_SUM;
        job->scale[part] = !divides ? 1 : d > 0 ? 1 / d : 0;
    }
}

lk_status lk_call_plan(lk_call *call, lk_error *error)
{
    lk_job *job = &call->job;
    lk_status status = lk_call_check(call, error);
    if (status != LK_OK)
        return status;
    if (call->composite)
        return lk_composite_plan(call, error);
    clear_plan(call);
    if ((status = take_data(call, error)) != LK_OK ||
        (status = convert_inputs(call, error)) != LK_OK ||
        (status = check_weights(call, error)) != LK_OK)
        return status;

    size_t state = job->loss->state ? job->loss->state(job) : 0;
    if (state > 0 && !(job->state = allocate(state, "the plan", error)))
        return LK_NO_MEMORY;
    size_t blocks = (size_t)call->blocks * sizeof *call->block;
    if (blocks > 0 && !(call->block = allocate(blocks, "the blocks", error)))
        return LK_NO_MEMORY;
    for (int part = 0; part < LK_MAX_PARTS; part++)
        job->denominator[part] = 1;
    if ((status = job->loss->prepare(job, error)) != LK_OK)
        return status;
    set_scales(job);
    call->stage = PLANNED;
    return LK_OK;
}

/* Passes, blocks and finish. */

static const lk_pass *pass_of(const lk_call *call)
{
    return call->pass > 0 ? &call->job.loss->passes[call->pass - 1] : NULL;
}

static int64_t pass_rows(const lk_call *call)
{
    const lk_pass *pass = pass_of(call);
    const lk_tensor *t = pass ? &call->job.in[pass->input] : NULL;
    return !t ? call->job.rows : t->rank > 0 ? t->shape[0] : 1;
}

static int64_t pass_block(const lk_call *call)
{
    const lk_pass *pass = pass_of(call);
    int64_t rows = pass_rows(call);
    if (!pass || rows == 0)
        return call->job.block_rows;
    if (call->loss->row_cost)
        return lk_block_rows(call->loss->row_cost(&call->job, pass));
    return lk_block_rows(lk_tensor_count(&call->job.in[pass->input]) / rows);
}

int64_t lk_call_blocks(const lk_call *call)
{
    if (call->stage < PLANNED)
        return 0;
    if (call->composite)
        return lk_composite_blocks(call);
    int64_t block = pass_block(call);
    return (pass_rows(call) + block - 1) / block;
}

size_t lk_call_scratch(const lk_call *call)
{
    const lk_loss *loss = call->job.loss;
    if (call->composite)
        return lk_composite_scratch(call);
    return call->stage >= CHECKED && loss->scratch ? loss->scratch(&call->job) : 0;
}

bool lk_call_next(lk_call *call)
{
    if (call->stage != PLANNED)
        return false;
    if (call->composite)
        return lk_composite_next(call);
    do {
        if (call->pass == LK_MAX_PASSES || !call->job.loss->passes[call->pass].rows)
            return false;
        call->pass++;
    } while (!call->job.grad[pass_of(call)->input].data);
    return true;
}

void lk_call_run(lk_call *call, int64_t first, int64_t count, void *scratch)
{
    const lk_job *job = &call->job;
    const lk_pass *pass = pass_of(call);
    if (call->stage != PLANNED)
        return;
    if (call->composite) {
        lk_composite_run(call, first, count, scratch);
        return;
    }
    if (!job->loss->scratch)
        scratch = NULL; /* what is there is somebody else's, and of any size */
    const int64_t all = pass_rows(call), block = pass_block(call), blocks = lk_call_blocks(call);
    const int64_t end = count < blocks - first ? first + count : blocks;
    const int64_t step = !pass && job->loss->whole_runs ? end - first : 1;
    if (!scratch && lk_call_scratch(call) > 0) {
        atomic_store(&call->starved, true);
        return;
    }
    for (int64_t b = first; b < end; b += step) {
        int64_t row = b * block, rows = all - row < block * step ? all - row : block * step;
        if (pass)
            pass->rows(job, row, rows, scratch);
        else
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
    if (!job->value.data || lk_loss_pattern(call)[0] != '\0' ||
        (job->loss->is.loss_shape && reduce->reduction == LK_NONE))
        return;
    for (int part = 0; part < job->loss->parts; part++) {
        if (job->scale[part] > 0)
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
        return lk_misuse(error, "finish comes once, after plan and run");
    call->stage = FINISHED;
    if (call->composite)
        return lk_composite_finish(call, error);
    if (atomic_load(&call->starved))
        return lk_misuse(error, "a run was given no scratch; see lk_call_scratch");
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
