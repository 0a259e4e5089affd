/* SPDX-License-Identifier: MIT */
#include "wire/inputs.h"

#include "wire/tensor_text.h"

#include <stdio.h>

bool wire_input(evaluation *e, const char *name, const lk_tensor *tensor, span text, problem *p)
{
    lk_error error;
    for (int i = 0; i < e->sources; i++)
        if (strcmp(e->source[i].name, name) == 0)
            return problem_input(p, 400, "duplicate_name", name, "input %s comes twice", name);
    if (lk_call_input(e->call, name, tensor, &error) != LK_OK)
        return problem_from(p, &error);
    source *s = &e->source[e->sources++];
    *s = (source){.text = text};
    snprintf(s->name, sizeof s->name, "%s", name);
    return true;
}

bool wire_view(evaluation *e, const char *name, const lk_tensor *tensor, span bytes, problem *p)
{
    if (!wire_input(e, name, tensor, bytes, p))
        return false;
    e->source[e->sources - 1].raw = true;
    return true;
}

/* Does an input take masks too? Then true and false are integers. */
static bool takes_masks(const evaluation *e, const char *name)
{
    unsigned dtypes = 0;
    for (const lk_input *in = lk_loss_describe(e->loss)->inputs; in->name; in++)
        for (int f = 0; f < 3 && strcmp(in->name, name) == 0; f++)
            dtypes |= in->forms[f].dtypes;
    return (dtypes & LK_MASKS) != 0;
}

bool wire_read_text(const evaluation *e, const source *s, const lk_tensor *t, problem *p)
{
    return tensor_text_read(s->text, s->name, t, takes_masks(e, s->name), p);
}
