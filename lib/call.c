/* SPDX-License-Identifier: MIT
 *
 * The public functions of calls: they check the order of steps, set options, and list the outputs
 * by number. Everything else is done by the call's kind (lk_kind).
 */
#include "call.h"

#include <stdlib.h>

static const lk_kind *kind_of(const lk_loss *loss)
{
    return loss->kind ? loss->kind : &lk_single;
}

/* New. */

static size_t aligned(size_t size)
{
    enum { ALIGNMENT = 16 };
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

lk_call *lk_call_new(const lk_loss *loss)
{
    const lk_kind *kind = kind_of(loss);
    const size_t size = aligned(kind->size), options = aligned(loss->options_size);
    lk_call *call = calloc(1, size + options + (size_t)kind->outputs * sizeof *call->wanted);
    if (!call)
        return NULL;
    call->loss = loss;
    call->kind = kind;
    call->options = (char *)call + size;
    call->wanted = (lk_wanted *)(void *)((char *)call + size + options);
    lk_fields_default(loss->is->options, call->options);
    if (kind->start)
        kind->start(call);
    return call;
}

void lk_call_free(lk_call *call)
{
    if (!call)
        return;
    call->kind->free(call);
    free(call);
}

/* Inputs, options, outputs. */

lk_status lk_call_input(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error)
{
    if (call->stage != FILLING)
        return lk_misuse(error, "inputs are given before the check");
    return call->kind->input(call, name, tensor, error);
}

lk_status lk_call_option(lk_call *call, const char *name, const char *text, lk_error *error)
{
    if (call->stage != FILLING)
        return lk_misuse(error, "options are set before the check");
    const lk_field *fields = call->loss->is->options;
    const lk_field *field = lk_field_find(fields, name);
    char names[LK_NAMES_TEXT];
    if (!field)
        return lk_error_set(error, LK_UNKNOWN_OPTION, "", "there is no option \"%.40s\"; %s has %s",
                            name, call->loss->is->name,
                            lk_names_text(fields, sizeof *fields, names));
    const uint64_t bit = (uint64_t)1 << (field - fields);
    if (call->options_given & bit)
        return lk_error_set(error, LK_DUPLICATE_OPTION, "", "option %s is set twice", name);
    call->options_given |= bit;
    return lk_field_parse(field, call->options, text, error);
}

lk_status lk_call_want(lk_call *call, const char *output, lk_error *error)
{
    lk_wanted w = {.role = VALUE};
    if (call->stage != FILLING)
        return lk_misuse(error, "outputs are asked for before the check");
    lk_status status = call->kind->want(call, output, &w, error);
    if (status != LK_OK)
        return status;
    for (int k = 0; k < call->wanted_count; k++)
        if (strcmp(call->wanted[k].name, output) == 0)
            return lk_error_set(error, LK_DUPLICATE_OPTION, "", "output %s is asked for twice",
                                output);
    if (!lk_wanted_add(call, output, w.role, w.i))
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "", "more than %d outputs",
                            call->kind->outputs);
    return LK_OK;
}

lk_status lk_call_defer(lk_call *call, lk_error *error)
{
    if (!call->kind->backward || call->stage != FILLING)
        return lk_misuse(error, "gradients are deferred before the check, and not by a composite");
    call->phase = VALUES;
    return LK_OK;
}

/* Parts. */

static bool takes_parts(const lk_call *call, lk_error *error)
{
    if (call->kind->part && call->stage == FILLING)
        return true;
    (void)lk_misuse(error, "parts are added to a loss that is made of parts, before the check");
    return false;
}

lk_status lk_call_part(lk_call *call, const char *loss, double weight, lk_error *error)
{
    return takes_parts(call, error) ? call->kind->part(call, loss, &weight, error) : LK_MISUSE;
}

lk_status lk_call_part_unweighted(lk_call *call, const char *loss, lk_error *error)
{
    return takes_parts(call, error) ? call->kind->part(call, loss, NULL, error) : LK_MISUSE;
}

lk_status lk_call_part_name(lk_call *call, const char *name, lk_error *error)
{
    return takes_parts(call, error) ? call->kind->part_name(call, name, error) : LK_MISUSE;
}

lk_status lk_call_part_option(lk_call *call, const char *name, const char *text, lk_error *error)
{
    return takes_parts(call, error) ? call->kind->part_option(call, name, text, error) : LK_MISUSE;
}

lk_status lk_call_part_input(lk_call *call, const char *input, const char *tensor, lk_error *error)
{
    return takes_parts(call, error) ? call->kind->part_input(call, input, tensor, error)
                                    : LK_MISUSE;
}

/* Check. */

lk_status lk_call_check(lk_call *call, lk_error *error)
{
    const int wanted_count = call->wanted_count;
    if (call->stage >= CHECKED)
        return call->stage == CHECKED ? LK_OK : lk_misuse(error, "the call is planned already");
    lk_status status = call->kind->check(call, error);
    if (status == LK_OK)
        call->stage = CHECKED;
    else
        call->wanted_count = wanted_count; /* without the default outputs again */
    return status;
}

unsigned lk_call_dtypes(const lk_call *call, const char *name)
{
    return call->kind->dtypes(call, name);
}

const lk_tensor *lk_call_tensor(const lk_call *call, const char *name)
{
    return call->kind->tensor(call, name);
}

lk_status lk_call_data(lk_call *call, const char *name, void *data)
{
    lk_tensor *t = (lk_tensor *)(uintptr_t)call->kind->tensor(call, name);
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
    return i >= 0 && i < lk_call_outputs(call) ? call->wanted[i].over : NULL;
}

lk_status lk_call_bind(lk_call *call, int i, void *data)
{
    if (call->stage != CHECKED || i < 0 || i >= call->wanted_count)
        return LK_MISUSE;
    call->wanted[i].tensor.data = data;
    return LK_OK;
}

/* Plan, run, finish. */

lk_status lk_call_plan(lk_call *call, lk_error *error)
{
    lk_status status = lk_call_check(call, error);
    if (status == LK_OK)
        status = call->kind->plan(call, error);
    if (status == LK_OK)
        call->stage = PLANNED;
    return status;
}

size_t lk_call_scratch(const lk_call *call)
{
    return call->stage >= CHECKED ? call->kind->scratch(call) : 0;
}

size_t lk_call_memory(const lk_call *call)
{
    return call->stage >= CHECKED ? call->kind->memory(call) : 0;
}

int64_t lk_call_cost(const lk_call *call)
{
    return call->stage >= CHECKED ? call->kind->cost(call) : 0;
}

int64_t lk_call_blocks(const lk_call *call)
{
    return call->stage >= PLANNED ? call->kind->blocks(call) : 0;
}

bool lk_call_next(lk_call *call)
{
    return call->stage == PLANNED && call->kind->next(call);
}

void lk_call_run(lk_call *call, int64_t first, int64_t count, void *scratch)
{
    if (call->stage == PLANNED)
        call->kind->run(call, first, count, scratch);
}

lk_status lk_call_finish(lk_call *call, lk_error *error)
{
    if (call->stage != PLANNED)
        return lk_misuse(error, "finish comes once, after plan and run");
    call->stage = FINISHED;
    lk_status status = call->kind->finish(call, error);
    if (status != LK_OK)
        call->phase = TOGETHER; /* there will be no gradients */
    return status;
}

bool lk_call_again(lk_call *call)
{
    if (call->stage < PLANNED || call->phase != TOGETHER || !call->kind->again)
        return false;
    call->kind->again(call);
    call->stage = CHECKED;
    return true;
}

lk_status lk_call_backward(lk_call *call, lk_error *error)
{
    if (call->stage != FINISHED || call->phase != VALUES)
        return lk_misuse(error, "backward comes once, after the values of a call that defers");
    call->phase = GRADIENTS;
    lk_status status = call->kind->backward(call, error);
    if (status == LK_OK)
        call->stage = PLANNED;
    return status;
}
