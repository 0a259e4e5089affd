/* SPDX-License-Identifier: MIT
 *
 * Evaluates a request with the library alone.
 */
#include "tests/request/request.h"

#include <stdio.h>
#include <stdlib.h>

void expected_free(expected *a)
{
    for (int i = 0; i < a->outputs; i++)
        free(a->output[i].tensor.data);
    a->outputs = 0;
}

lk_status give(lk_call *call, const sample *s, lk_error *error)
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

/* Out of place, one block after another, from the last to the first. */
lk_status ask(const sample *s, expected *a)
{
    *a = (expected){.status = LK_NO_MEMORY};
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
    a->cost = lk_call_cost(call);
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
