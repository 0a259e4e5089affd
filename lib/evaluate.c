/* SPDX-License-Identifier: MIT
 *
 * lk_evaluate: a whole call in one step, on the calling thread.
 */
#include "internal.h"

#include <stdlib.h>

const char *lk_version(void)
{
    return LK_VERSION;
}

static lk_status fill(lk_call *call, const char *const *options, const lk_named *inputs,
                      const lk_named *outputs, lk_error *error)
{
    lk_status status = LK_OK;
    for (const lk_named *in = inputs; status == LK_OK && in && in->name; in++)
        status = lk_call_input(call, in->name, &in->tensor, error);
    for (const char *const *o = options; status == LK_OK && o && o[0]; o += 2)
        status = lk_call_option(call, o[0], o[1], error);
    for (const lk_named *out = outputs; status == LK_OK && out && out->name; out++)
        status = lk_call_want(call, out->name, error);
    return status;
}

static lk_status bind(lk_call *call, const lk_named *outputs, lk_error *error)
{
    for (int i = 0; i < lk_call_outputs(call); i++) {
        lk_tensor is;
        const lk_tensor *buffer = &outputs[i].tensor;
        const char *name = lk_call_output(call, i, &is);
        char has[LK_SHAPE_TEXT], needs[LK_SHAPE_TEXT];
        if (is.dtype != buffer->dtype)
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, "", "output %s is %s; it must be %s",
                                name, lk_dtype_name(buffer->dtype), lk_dtype_name(is.dtype));
        if (is.rank != buffer->rank ||
            memcmp(is.shape, buffer->shape, (size_t)is.rank * sizeof *is.shape) != 0)
            return lk_error_set(error, LK_SHAPE_MISMATCH, "",
                                "output %s has shape %s; it must be %s", name,
                                lk_shape_text(buffer, has), lk_shape_text(&is, needs));
        (void)lk_call_bind(call, i, buffer->data);
    }
    return LK_OK;
}

/* Scratch must be aligned to 64 bytes, and aligned_alloc wants a multiple of that. */
static lk_status run(lk_call *call, lk_error *error)
{
    size_t bytes = (lk_call_scratch(call) + 63) / 64 * 64;
    void *scratch = bytes ? aligned_alloc(64, bytes) : NULL;
    if (bytes && !scratch)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for scratch");
    do
        lk_call_run(call, 0, lk_call_blocks(call), scratch);
    while (lk_call_next(call));
    free(scratch);
    return lk_call_finish(call, error);
}

lk_status lk_evaluate(const char *loss, const char *const *options, const lk_named *inputs,
                      const lk_named *outputs, lk_error *error)
{
    const lk_loss *found = lk_loss_find(loss);
    if (!found)
        return lk_error_set(error, LK_UNKNOWN_LOSS, "", "there is no loss \"%.40s\"", loss);
    if (!outputs || !outputs[0].name)
        return lk_error_set(error, LK_MISUSE, "", "lk_evaluate needs an output to write to");
    lk_call *call = lk_call_new(found);
    if (!call)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for a call");
    lk_status status = fill(call, options, inputs, outputs, error);
    if (status == LK_OK)
        status = lk_call_check(call, error);
    if (status == LK_OK)
        status = bind(call, outputs, error);
    if (status == LK_OK)
        status = lk_call_plan(call, error);
    if (status == LK_OK)
        status = run(call, error);
    lk_call_free(call);
    return status;
}
