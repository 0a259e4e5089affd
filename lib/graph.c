/* SPDX-License-Identifier: MIT
 *
 * A loss that is made of others: each part is a call of its own on the tensors that it names, its
 * upstream gradient is its weight, and gradients with respect to the same tensor are added up in
 * the order of the parts. The only file that looks other losses up.
 *
 * Tensors of 16 bits are widened once and for all, so that a sum of gradients is rounded once.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { PARTS_MAX = 16, TENSORS_MAX = 64, NAME_SIZE = 32, ADD_BLOCK = 64 * 1024 };
enum { WEIGHTED_SUM, UNCERTAINTY }; /* combine */
enum { WEIGHTS, LOG_VARS, UPSTREAM, RESERVED };

typedef struct options {
    int combine;
    lk_reals scales;
} options;

static const lk_input inputs[] = {
    [WEIGHTS] = {.name = "weights",
                 .forms = {{"K", LK_FLOATS}},
                 .flags = LK_OPTIONAL | LK_DIFFERENTIABLE,
                 .help = "multiplies the parts' own weights; weighted_sum only"},
    [LOG_VARS] = {.name = "log_vars",
                  .forms = {{"K", LK_FLOATS}},
                  .flags = LK_OPTIONAL | LK_DIFFERENTIABLE,
                  .help = "log of the variance of each part's noise; uncertainty only"},
    [UPSTREAM] = LK_GRAD_OUTPUT,
    {0},
};

static const lk_output outputs[] = {
    {.name = "parts",
     .shape = "K",
     .dtype = LK_ANY,
     .flags = LK_DEFAULT,
     .help = "the value of each part, unweighted"},
    {0},
};

static const lk_field fields[] = {
    {.name = "parts",
     .type = LK_PARTS,
     .help = "the parts, each {\"loss\": NAME, \"weight\": 1, \"inputs\": {...}, \"options\": "
             "{...}}; inputs maps an input of the part to a tensor of the request, or to null"},
    LK_WORDS(options, combine, "weighted_sum", "weighted_sum|uncertainty",
             "how the parts' values become one"),
    LK_FIELD(options, scales, "", 0, 0, 0,
             "uncertainty: a of each part, 1 for classification, 0.5 for regression; default ones"),
    {0},
};

const lk_loss lk_composite_loss = {
    .is =
        {
            .name = "composite",
            .title = "Several losses as one",
            .formula = "weighted_sum: sum_k w_k L_k; "
                       "uncertainty: sum_k a_k exp(-s_k) L_k + s_k/2, s = log_vars",
            .help = "Parts that name the same tensor share it, and its gradient is the sum of "
                    "theirs. part.<k>.<output> asks for an output of part k, counted from 0.",
            .reference = "uncertainty weights: Kendall, Gal, Cipolla 2018",
            .example = "{\"inputs\": {\"logits\": [[0.2, 0.4, 0.4]], \"targets\": [2], "
                       "\"a\": [0.5, 3.0], \"b\": [0.0, 0.0]}, \"options\": {\"parts\": "
                       "[{\"loss\": \"cross_entropy\"}, {\"loss\": \"huber\", \"weight\": 0.5}]}}",
            .traits = LK_DYNAMIC | LK_COUPLED,
            .inputs = inputs,
            .outputs = outputs,
            .options = fields,
        },
    .options_size = sizeof(options),
};

/* A tensor of the call. */
typedef struct named {
    char name[NAME_SIZE];
    lk_tensor is;
    bool used;       /* by a part, or by the composite itself */
    int gradient;    /* its place among the wanted outputs, or -1 */
    bool has_sum;    /* when planning: a part has written its gradient already */
    void *wide, *to; /* widened numbers; where gradients are summed: the output, or wide too */
} named;

typedef struct part {
    lk_call *call;
    double weight;
    char source[LK_MAX_INPUTS][NAME_SIZE]; /* "": the tensor of the same name */
    bool none[LK_MAX_INPUTS];
    int tensor[LK_MAX_INPUTS]; /* -1: none */
    double upstream;           /* its grad_output */
    char value[sizeof(double)];
} part;

/* What a pass of the composite is: a pass of a part, the addition of what it left aside, or a sum's
 * rounding to 16 bits. */
typedef enum step_kind { RUN, ADD, ROUND } step_kind;
typedef struct step {
    step_kind kind;
    int part;
    named *tensor;
    const void *from; /* ADD */
} step;

struct lk_composite {
    int tensors, parts;
    lk_dtype primary, real;
    named tensor[TENSORS_MAX];
    part part[PARTS_MAX];
    char *arena;
    size_t arena_used, arena_size;
    int steps, at;
    step *step;
    lk_error bad; /* of the first part that could not be finished */
};

static lk_dtype real_of(lk_dtype dtype)
{
    return dtype == LK_F64 ? LK_F64 : LK_F32;
}

static bool is_half(lk_dtype dtype)
{
    return dtype == LK_F16 || dtype == LK_BF16;
}

static size_t bytes_of(const lk_tensor *t, lk_dtype dtype)
{
    return (size_t)lk_tensor_count(t) * lk_dtype_size(dtype);
}

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Filling. */

lk_composite *lk_composite_new(void)
{
    return calloc(1, sizeof(lk_composite));
}

void lk_composite_free(lk_composite *c)
{
    if (!c)
        return;
    for (int k = 0; k < c->parts; k++)
        lk_call_free(c->part[k].call);
    free(c->arena);
    free(c->step);
    free(c);
}

static named *find(const lk_composite *c, const char *name)
{
    for (int i = 0; i < c->tensors; i++)
        if (strcmp(c->tensor[i].name, name) == 0)
            return (named *)(uintptr_t)&c->tensor[i];
    return NULL;
}

static bool is_reserved(const char *name)
{
    for (int i = 0; i < RESERVED; i++)
        if (strcmp(inputs[i].name, name) == 0)
            return true;
    return false;
}

/* Names go into replies as they are: letters, digits and what joins them. */
static bool is_word(const char *name)
{
    const size_t length = strlen(name);
    return length > 0 && length < NAME_SIZE &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:") ==
               length;
}

lk_status lk_composite_input(lk_call *call, const char *name, const lk_tensor *tensor,
                             lk_error *error)
{
    lk_composite *c = call->composite;
    named *t = find(c, name);
    if (!is_word(name))
        return lk_error_set(
            error, LK_UNKNOWN_INPUT, "",
            "\"%.40s\" is no name of a tensor: 1 to %d letters, digits or _ - . / :", name,
            NAME_SIZE - 1);
    if (!t && c->tensors == TENSORS_MAX)
        return lk_error_set(error, LK_UNKNOWN_INPUT, name, "more than %d tensors", TENSORS_MAX);
    if (!t)
        t = &c->tensor[c->tensors++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->is = *tensor;
    return LK_OK;
}

lk_status lk_call_part(lk_call *call, const char *loss, double weight, lk_error *error)
{
    lk_composite *c = call->composite;
    const lk_loss *found = lk_loss_find(loss);
    if (!c || call->stage != FILLING)
        return lk_misuse(error,
                         "parts are added to a loss that is made of parts, before the check");
    const int k = c->parts;
    if (k == PARTS_MAX)
        return lk_error_set(error, LK_OPTION_OUT_OF_RANGE, "", "parts has more than %d entries",
                            PARTS_MAX);
    if (!found)
        return lk_error_set(error, LK_OPTION_INVALID, "",
                            "parts[%d].loss is \"%.40s\"; there is no "
                            "such loss",
                            k, loss);
    if (found->is.traits & (LK_DYNAMIC | LK_TRANSFORM))
        return lk_error_set(error, LK_OPTION_CONFLICT, "",
                            "parts[%d].loss is %s; a part must be a loss of its own", k, loss);
    if (!isfinite(weight))
        return lk_error_set(error, LK_OPTION_INVALID, "",
                            "parts[%d].weight is %g; it must be finite", k, weight);
    part *p = &c->part[k];
    *p = (part){.call = lk_call_new(found), .weight = weight};
    if (!p->call)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for a call");
    c->parts++;
    return LK_OK;
}

/* An error of part k, told as one of the composite's. */
static lk_status part_error(const lk_composite *c, int k, lk_error *error)
{
    if (!error)
        return LK_OK;
    lk_error was = *error;
    const lk_description *is = &c->part[k].call->loss->is;
    snprintf(error->text, sizeof error->text, "parts[%d]: %.220s", k, was.text);
    for (int i = 0; is->inputs[i].name; i++)
        if (strcmp(is->inputs[i].name, was.input) == 0 && c->part[k].source[i][0])
            snprintf(error->input, sizeof error->input, "%s", c->part[k].source[i]);
    return was.status;
}

static part *last_part(lk_call *call)
{
    lk_composite *c = call->composite;
    return c && c->parts > 0 && call->stage == FILLING ? &c->part[c->parts - 1] : NULL;
}

lk_status lk_call_part_option(lk_call *call, const char *name, const char *text, lk_error *error)
{
    part *p = last_part(call);
    if (!p)
        return lk_misuse(error, "there is no part yet");
    p->call->stage = FILLING; /* also after a check that failed */
    lk_status status = lk_call_option(p->call, name, text, error);
    if (status != LK_OK)
        (void)part_error(call->composite, call->composite->parts - 1, error);
    return status;
}

lk_status lk_call_part_input(lk_call *call, const char *input, const char *tensor, lk_error *error)
{
    part *p = last_part(call);
    if (!p)
        return lk_misuse(error, "there is no part yet");
    const lk_description *is = &p->call->loss->is;
    const int k = call->composite->parts - 1;
    int i = 0;
    while (is->inputs[i].name && strcmp(is->inputs[i].name, input) != 0)
        i++;
    if (!is->inputs[i].name)
        return lk_error_set(error, LK_UNKNOWN_INPUT, "",
                            "parts[%d].inputs: %s has no input \"%.40s\"", k, is->name, input);
    if (is_reserved(input) || (tensor && is_reserved(tensor)))
        return lk_error_set(error, LK_OPTION_CONFLICT, "",
                            "parts[%d].inputs maps %s; weights, log_vars and grad_output are the "
                            "composite's own",
                            k, input);
    if (tensor && !is_word(tensor))
        return lk_error_set(
            error, LK_UNKNOWN_INPUT, "",
            "parts[%d].inputs.%s is \"%.40s\", which is no name of a tensor: 1 to %d "
            "letters, digits or _ - . / :",
            k, input, tensor, NAME_SIZE - 1);
    if (!tensor && !(is->inputs[i].flags & LK_OPTIONAL))
        return lk_error_set(error, LK_MISSING_INPUT, "",
                            "parts[%d].inputs.%s is null; %s cannot do without it", k, input,
                            is->name);
    p->none[i] = !tensor;
    snprintf(p->source[i], NAME_SIZE, "%s", tensor ? tensor : "");
    return LK_OK;
}

lk_status lk_composite_want(lk_call *call, const char *output, lk_error *error)
{
    wanted *w = &call->wanted[call->wanted_count];
    for (int k = 0; k < call->wanted_count; k++)
        if (strcmp(call->wanted[k].name, output) == 0)
            return lk_error_set(error, LK_DUPLICATE_OPTION, "", "output %s is asked for twice",
                                output);
    if (call->wanted_count == MAX_WANTED)
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "", "more than %d outputs", MAX_WANTED);
    if (strlen(output) >= sizeof w->name)
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "", "there is no output \"%.60s\"", output);
    *w = (wanted){.kind = VALUE};
    snprintf(w->name, sizeof w->name, "%s", output);
    call->wanted_count++;
    return LK_OK;
}

/* Check. */

/* Which tensor each input of each part reads. */
static lk_status connect(lk_composite *c, lk_error *error)
{
    for (int k = 0; k < c->parts; k++) {
        part *p = &c->part[k];
        const lk_input *in = p->call->loss->is.inputs;
        for (int i = 0; in[i].name; i++) {
            const bool mapped = p->source[i][0] != '\0';
            named *t = p->none[i] || is_reserved(in[i].name)
                           ? NULL
                           : find(c, mapped ? p->source[i] : in[i].name);
            if (mapped && !t)
                return lk_error_set(error, LK_MISSING_INPUT, p->source[i],
                                    "%s is missing; parts[%d].inputs maps %s to it", p->source[i],
                                    k, in[i].name);
            p->tensor[i] = t ? (int)(t - c->tensor) : -1;
            if (t)
                t->used = true;
        }
    }
    return LK_OK;
}

/* The first input of the first part that can be differentiated chooses the element type. */
static lk_status choose_primary(lk_composite *c, lk_error *error)
{
    for (int k = 0; k < c->parts; k++) {
        const lk_input *in = c->part[k].call->loss->is.inputs;
        for (int i = 0; in[i].name; i++) {
            named *t = c->part[k].tensor[i] < 0 ? NULL : &c->tensor[c->part[k].tensor[i]];
            if (!t || !(in[i].flags & LK_DIFFERENTIABLE))
                continue;
            if (t->is.dtype == LK_ANY)
                t->is.dtype = LK_F32;
            c->primary = t->is.dtype;
            c->real = real_of(c->primary);
            return LK_OK;
        }
    }
    return lk_error_set(error, LK_MISSING_INPUT, "",
                        "none of the parts has an input that it can differentiate");
}

static lk_status ask_part(lk_call *call, int k, lk_error *error)
{
    lk_composite *c = call->composite;
    part *p = &c->part[k];
    const lk_input *in = p->call->loss->is.inputs;
    char name[64];
    if (call->wanted_count == 0)
        return LK_OK; /* the part's defaults */
    lk_status status = lk_call_want(p->call, "loss", error);
    for (int w = 0; w < call->wanted_count && status == LK_OK; w++) {
        const char *wants = call->wanted[w].name;
        const bool gradient = strncmp(wants, "grad.", 5) == 0;
        for (int i = 0; gradient && in[i].name && status == LK_OK; i++) {
            if (p->tensor[i] < 0 || !(in[i].flags & LK_DIFFERENTIABLE) ||
                strcmp(c->tensor[p->tensor[i]].name, wants + 5) != 0)
                continue;
            snprintf(name, sizeof name, "grad.%s", in[i].name);
            status = lk_call_want(p->call, name, error);
        }
        snprintf(name, sizeof name, "part.%d.", k);
        const char *own = wants + strlen(name); /* check_output refuses what no part tells */
        if (strncmp(wants, name, strlen(name)) == 0 && strcmp(own, "loss") != 0)
            status = lk_call_want(p->call, own, error);
    }
    return status;
}

static lk_status check_part(lk_call *call, int k, lk_error *error)
{
    lk_composite *c = call->composite;
    part *p = &c->part[k];
    const lk_description *is = &p->call->loss->is;
    lk_status status = LK_OK;
    if (lk_loss_pattern(p->call)[0] != '\0')
        return lk_error_set(error, LK_OPTION_CONFLICT, "",
                            "parts[%d] gives a loss for each row; the loss of a part must be one "
                            "number",
                            k);
    for (int i = 0; is->inputs[i].name && status == LK_OK; i++) {
        lk_tensor t = lk_scalar(LK_F64, NULL);
        if (p->tensor[i] >= 0)
            t = c->tensor[p->tensor[i]].is;
        else if (strcmp(is->inputs[i].name, inputs[UPSTREAM].name) != 0)
            continue;
        t.data = NULL;
        if (t.dtype == LK_ANY && (is->inputs[i].flags & LK_DIFFERENTIABLE) &&
            !(is->inputs[i].forms[0].dtypes & LK_INTS))
            t.dtype = c->primary;
        if (is_half(c->primary) && is_half(t.dtype))
            t.dtype = LK_F32;
        status = lk_call_input(p->call, is->inputs[i].name, &t, error);
    }
    if (status == LK_OK)
        status = ask_part(call, k, error);
    if (status == LK_OK)
        status = lk_call_check(p->call, error);
    if (status != LK_OK) {
        (void)part_error(c, k, error);
        return status;
    }
    for (int i = 0; is->inputs[i].name; i++) {
        if (p->tensor[i] < 0)
            continue;
        named *t = &c->tensor[p->tensor[i]];
        const lk_dtype resolved = lk_call_tensor(p->call, is->inputs[i].name)->dtype;
        if (t->is.dtype == LK_ANY)
            t->is.dtype = lk_is_float(resolved) && is_half(c->primary) ? c->primary : resolved;
        if ((is->inputs[i].flags & LK_DIFFERENTIABLE) && lk_is_float(t->is.dtype) &&
            t->is.dtype != c->primary)
            return lk_error_set(error, LK_DTYPE_UNSUPPORTED, t->name,
                                "%s is %s; it must be %s, as all that the parts differentiate",
                                t->name, lk_dtype_name(t->is.dtype), lk_dtype_name(c->primary));
    }
    return LK_OK;
}

/* weights, log_vars and grad_output: [K], [K], []. */
static lk_status check_reserved(lk_composite *c, int which, lk_error *error)
{
    named *t = find(c, inputs[which].name);
    if (!t)
        return LK_OK;
    t->used = true;
    const bool one = lk_tensor_count(&t->is) == 1 && t->is.rank <= 1;
    const bool all = t->is.rank == 1 && t->is.shape[0] == c->parts;
    if (t->is.dtype == LK_ANY)
        t->is.dtype = c->primary;
    if (!lk_is_float(t->is.dtype) || (which != UPSTREAM && t->is.dtype != c->primary))
        return lk_error_set(error, LK_DTYPE_UNSUPPORTED, t->name, "%s is %s; it must be %s",
                            t->name, lk_dtype_name(t->is.dtype),
                            which == UPSTREAM ? "a float" : lk_dtype_name(c->primary));
    char has[LK_SHAPE_TEXT];
    if (which == UPSTREAM && !one)
        return lk_error_set(error, LK_SHAPE_MISMATCH, t->name, "%s has shape %s; it must be []",
                            t->name, lk_shape_text(&t->is, has));
    if (which != UPSTREAM && !all)
        return lk_error_set(error, LK_SHAPE_MISMATCH, t->name, "%s has shape %s; it must be [%d]",
                            t->name, lk_shape_text(&t->is, has), c->parts);
    return LK_OK;
}

static lk_status check_combine(const lk_call *call, lk_error *error)
{
    const lk_composite *c = call->composite;
    const options *o = call->job.options;
    const bool uncertain = o->combine == UNCERTAINTY;
    if (find(c, "weights") && uncertain)
        return lk_error_set(error, LK_OPTION_CONFLICT, "weights",
                            "combine=uncertainty excludes weights; log_vars takes its place");
    if (find(c, "log_vars") && !uncertain)
        return lk_error_set(error, LK_OPTION_CONFLICT, "log_vars",
                            "log_vars needs combine=uncertainty");
    if (!find(c, "log_vars") && uncertain)
        return lk_error_set(error, LK_MISSING_INPUT, "log_vars",
                            "log_vars is missing; combine=uncertainty needs it");
    if (o->scales.count > 0 && !uncertain)
        return lk_error_set(error, LK_OPTION_CONFLICT, "", "scales needs combine=uncertainty");
    if (o->scales.count > 0 && o->scales.count != c->parts)
        return lk_error_set(error, LK_OPTION_OUT_OF_RANGE, "",
                            "scales has %lld numbers; it must have one for each of the %d parts",
                            (long long)o->scales.count, c->parts);
    for (int k = 0; k < c->parts; k++)
        if (uncertain && c->part[k].weight != 1)
            return lk_error_set(error, LK_OPTION_CONFLICT, "",
                                "parts[%d].weight is %g; with combine=uncertainty it must be 1", k,
                                c->part[k].weight);
    for (int i = 0; i < c->tensors; i++)
        if (!c->tensor[i].used)
            return lk_error_set(error, LK_UNKNOWN_INPUT, c->tensor[i].name,
                                "no part uses the tensor %s", c->tensor[i].name);
    return LK_OK;
}

/* Does a part give the gradient of that tensor? */
static bool is_differentiated(const lk_composite *c, const named *t)
{
    if (is_reserved(t->name))
        return strcmp(t->name, inputs[UPSTREAM].name) != 0;
    for (int k = 0; k < c->parts; k++) {
        const part *p = &c->part[k];
        for (int o = 0; o < p->call->wanted_count; o++) {
            const wanted *w = &p->call->wanted[o];
            if (w->kind == GRADIENT && p->tensor[w->i] == (int)(t - c->tensor))
                return true;
        }
    }
    return false;
}

static lk_status default_outputs(lk_call *call, lk_error *error)
{
    lk_composite *c = call->composite;
    char name[48];
    (void)lk_composite_want(call, "loss", NULL);
    lk_status status = LK_OK;
    for (int i = 0; i < c->tensors && status == LK_OK; i++) {
        snprintf(name, sizeof name, "grad.%s", c->tensor[i].name);
        if (!is_reserved(c->tensor[i].name) && is_differentiated(c, &c->tensor[i]))
            status = lk_composite_want(call, name, error);
    }
    return status == LK_OK ? lk_composite_want(call, "parts", error) : status;
}

/* The output of a part that "part.<k>.<output>" names, or NULL. */
static wanted *part_output(const lk_composite *c, const char *name)
{
    char shown[64];
    for (int k = 0; k < c->parts; k++) {
        lk_call *call = c->part[k].call;
        for (int o = 0; o < call->wanted_count; o++) {
            snprintf(shown, sizeof shown, "part.%d.%s", k, call->wanted[o].name);
            if (call->wanted[o].kind == DIAGNOSTIC && strcmp(shown, name) == 0)
                return &call->wanted[o];
        }
    }
    return NULL;
}

static lk_status check_output(lk_composite *c, wanted *w, int place, lk_error *error)
{
    w->tensor = (lk_tensor){.dtype = c->real};
    if (strcmp(w->name, "loss") == 0) {
        w->kind = VALUE;
        return LK_OK;
    }
    w->kind = DIAGNOSTIC;
    if (strcmp(w->name, "parts") == 0) {
        w->tensor = lk_vector(c->real, NULL, c->parts);
        return LK_OK;
    }
    if (strncmp(w->name, "part.", 5) == 0) {
        const wanted *of_part = part_output(c, w->name);
        if (!of_part)
            return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                                "there is no output \"%s\"; part.<k>.<output> names an output of "
                                "part k that is neither loss nor gradient",
                                w->name);
        w->tensor = of_part->tensor;
        return LK_OK;
    }
    named *t = strncmp(w->name, "grad.", 5) == 0 ? find(c, w->name + 5) : NULL;
    if (!t || !is_differentiated(c, t))
        return lk_error_set(error, LK_UNKNOWN_OUTPUT, "",
                            "there is no output \"%s\"; there are loss, parts, part.<k>.<output> "
                            "and grad.<tensor> of what the parts differentiate",
                            w->name);
    w->kind = GRADIENT;
    w->i = (int)(t - c->tensor);
    w->tensor = t->is;
    w->tensor.data = NULL;
    t->gradient = place;
    return LK_OK;
}

/* A check may come again after one that failed. */
static void begin_check(lk_composite *c)
{
    for (int i = 0; i < c->tensors; i++) {
        c->tensor[i].gradient = -1;
        c->tensor[i].used = false;
    }
    for (int k = 0; k < c->parts; k++) {
        lk_call *call = c->part[k].call;
        call->stage = FILLING;
        call->wanted_count = 0;
        memset(call->job.in, 0, sizeof call->job.in);
        memset(call->job.grad, 0, sizeof call->job.grad);
        for (int i = 0; i < LK_MAX_INPUTS; i++)
            call->given[i].rank = -1;
    }
}

lk_status lk_composite_check(lk_call *call, lk_error *error)
{
    lk_composite *c = call->composite;
    lk_error ignored;
    lk_status status;
    error = error ? error : &ignored;
    if (c->parts == 0)
        return lk_error_set(error, LK_MISSING_OPTION, "", "option parts is missing: %s",
                            fields[0].help);
    begin_check(c);
    if ((status = connect(c, error)) != LK_OK || (status = choose_primary(c, error)) != LK_OK)
        return status;
    for (int k = 0; k < c->parts; k++)
        if ((status = check_part(call, k, error)) != LK_OK)
            return status;
    for (int i = 0; i < RESERVED; i++)
        if ((status = check_reserved(c, i, error)) != LK_OK)
            return status;
    if ((status = check_combine(call, error)) != LK_OK)
        return status;
    if (call->wanted_count == 0 && (status = default_outputs(call, error)) != LK_OK)
        return status;
    for (int k = 0; k < call->wanted_count; k++)
        if ((status = check_output(c, &call->wanted[k], k, error)) != LK_OK)
            return status;
    return LK_OK;
}

lk_tensor *lk_composite_tensor(const lk_call *call, const char *name)
{
    named *t = find(call->composite, name);
    return t ? &t->is : NULL;
}

/* Plan. */

/* Outputs of a part that nobody outside sees, and gradients that wait to be added. */
static size_t aside(const part *p)
{
    size_t bytes = 0;
    for (int o = 0; o < p->call->wanted_count; o++)
        if (p->call->wanted[o].kind != VALUE)
            bytes += aligned(bytes_of(&p->call->wanted[o].tensor, p->call->wanted[o].tensor.dtype));
    return bytes;
}

/* Is the tensor computed with in another type than it has? */
static bool is_widened(const lk_composite *c, const named *t)
{
    return is_half(c->primary) && is_half(t->is.dtype) && !is_reserved(t->name);
}

static size_t arena_bytes(const lk_call *call)
{
    const lk_composite *c = call->composite;
    size_t bytes = 0, most = 0;
    for (int i = 0; i < c->tensors; i++) {
        const size_t wide = aligned(bytes_of(&c->tensor[i].is, LK_F32));
        if (is_widened(c, &c->tensor[i]))
            bytes += c->tensor[i].gradient >= 0 ? 2 * wide : wide;
    }
    for (int k = 0; k < c->parts; k++)
        most = aside(&c->part[k]) > most ? aside(&c->part[k]) : most;
    return bytes + most + 64;
}

size_t lk_composite_memory(const lk_call *call)
{
    const lk_composite *c = call->composite;
    if (call->stage < CHECKED)
        return 0;
    size_t bytes =
        sizeof *c + arena_bytes(call) + (PARTS_MAX * LK_MAX_INPUTS + TENSORS_MAX) * sizeof(step);
    for (int k = 0; k < c->parts; k++)
        bytes += sizeof *c->part[k].call + lk_call_memory(c->part[k].call);
    return bytes;
}

size_t lk_composite_scratch(const lk_call *call)
{
    const lk_composite *c = call->composite;
    size_t most = 0;
    for (int k = 0; k < c->parts; k++) {
        const size_t one = lk_call_scratch(c->part[k].call);
        most = one > most ? one : most;
    }
    return most;
}

static double number_at(const lk_composite *c, const char *name, int64_t i, double fallback)
{
    const named *t = find(c, name);
    return t ? lk_real_at(t->is.data, t->is.dtype, i) : fallback;
}

static double scale_of(const lk_call *call, int k)
{
    const options *o = call->job.options;
    return o->scales.count > 0 ? o->scales.value[k] : 1;
}

/* What the value of part k is multiplied with. */
static double factor_of(const lk_call *call, int k)
{
    const lk_composite *c = call->composite;
    const options *o = call->job.options;
    if (o->combine == UNCERTAINTY)
        return scale_of(call, k) * exp(-number_at(c, "log_vars", k, 0));
    return c->part[k].weight * number_at(c, "weights", k, 1);
}

static double upstream_of(const lk_composite *c)
{
    return number_at(c, inputs[UPSTREAM].name, 0, 1);
}

static void *take(lk_composite *c, size_t bytes)
{
    void *at = c->arena + c->arena_used;
    c->arena_used += aligned(bytes);
    return at;
}

static lk_status check_data(const lk_call *call, lk_error *error)
{
    const lk_composite *c = call->composite;
    for (int i = 0; i < c->tensors; i++)
        if (!c->tensor[i].is.data && lk_tensor_count(&c->tensor[i].is) > 0)
            return lk_misuse(error, "an input has no data");
    for (int k = 0; k < call->wanted_count; k++)
        if (!call->wanted[k].tensor.data && lk_tensor_count(&call->wanted[k].tensor) > 0)
            return lk_misuse(error, "an output is not bound");
    return LK_OK;
}

static lk_status make_room(lk_call *call, lk_error *error)
{
    lk_composite *c = call->composite;
    const size_t bytes = arena_bytes(call);
    free(c->arena);
    free(c->step);
    c->steps = c->at = 0;
    c->arena_used = 0;
    c->bad = (lk_error){.status = LK_OK};
    c->step = calloc(PARTS_MAX * LK_MAX_INPUTS + TENSORS_MAX, sizeof *c->step);
    c->arena = bytes > INT64_MAX ? NULL : aligned_alloc(64, aligned(bytes));
    if (!c->step || !c->arena)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for the parts (%zu bytes)", bytes);
    return LK_OK;
}

/* The tensors as the parts will see them, and where their gradients will be summed. */
static void present_tensors(lk_call *call)
{
    lk_composite *c = call->composite;
    for (int i = 0; i < c->tensors; i++) {
        named *t = &c->tensor[i];
        const bool wide = is_widened(c, t);
        t->has_sum = false;
        t->wide = wide ? take(c, bytes_of(&t->is, LK_F32)) : NULL;
        if (wide)
            lk_convert(t->is.data, t->is.dtype, t->wide, LK_F32, lk_tensor_count(&t->is));
        if (t->gradient >= 0)
            t->to =
                wide ? take(c, bytes_of(&t->is, LK_F32)) : call->wanted[t->gradient].tensor.data;
    }
}

/* The place of one output of a part; what has to be added afterwards gets a step. */
static void bind_output(lk_call *call, int k, int o, bool counts)
{
    lk_composite *c = call->composite;
    part *p = &c->part[k];
    wanted *w = &p->call->wanted[o];
    char shown[64];
    if (w->kind == VALUE) {
        w->tensor.data = p->value;
        return;
    }
    snprintf(shown, sizeof shown, "part.%d.%s", k, w->name);
    for (int i = 0; w->kind == DIAGNOSTIC && i < call->wanted_count; i++) {
        if (strcmp(call->wanted[i].name, shown) == 0) {
            w->tensor.data = call->wanted[i].tensor.data;
            return;
        }
    }
    named *t = w->kind == GRADIENT ? &c->tensor[p->tensor[w->i]] : NULL;
    counts = counts && t && t->gradient >= 0;
    if (counts && !t->has_sum) {
        t->has_sum = true;
        w->tensor.data = t->to;
        return;
    }
    w->tensor.data = take(c, bytes_of(&w->tensor, w->tensor.dtype));
    if (counts)
        c->step[c->steps++] = (step){.kind = ADD, .tensor = t, .from = w->tensor.data};
}

static lk_status plan_part(lk_call *call, int k, lk_error *error)
{
    lk_composite *c = call->composite;
    part *p = &c->part[k];
    const lk_input *in = p->call->loss->is.inputs;
    const double factor = factor_of(call, k);
    const size_t mark = c->arena_used;
    p->upstream = factor * upstream_of(c);
    p->call->stage = CHECKED; /* a plan may come again after one that was refused */
    for (int i = 0; in[i].name; i++) {
        named *t = p->tensor[i] < 0 ? NULL : &c->tensor[p->tensor[i]];
        if (t)
            p->call->given[i].data = t->wide ? t->wide : t->is.data;
        else if (p->call->given[i].rank >= 0)
            p->call->given[i].data = &p->upstream;
    }
    c->step[c->steps++] = (step){.kind = RUN, .part = k};
    for (int o = 0; o < p->call->wanted_count; o++)
        bind_output(call, k, o, factor != 0);
    c->arena_used = mark; /* the next part's, when this one's gradients are added */
    lk_status status = lk_call_plan(p->call, error);
    if (status != LK_OK)
        (void)part_error(c, k, error);
    return status;
}

lk_status lk_composite_plan(lk_call *call, lk_error *error)
{
    lk_composite *c = call->composite;
    lk_error ignored;
    error = error ? error : &ignored;
    lk_status status = check_data(call, error);
    if (status == LK_OK)
        status = make_room(call, error);
    if (status != LK_OK)
        return status;
    present_tensors(call);
    for (int k = 0; k < c->parts; k++)
        if ((status = plan_part(call, k, error)) != LK_OK)
            return status;
    for (int i = 0; i < c->tensors; i++) {
        named *t = &c->tensor[i];
        if (t->gradient >= 0 && t->has_sum && t->wide)
            c->step[c->steps++] = (step){.kind = ROUND, .tensor = t};
        else if (t->gradient >= 0 && !t->has_sum && lk_tensor_count(&t->is) > 0)
            memset(call->wanted[t->gradient].tensor.data, 0, bytes_of(&t->is, t->is.dtype));
    }
    call->stage = PLANNED;
    return LK_OK;
}

/* Run. */

int64_t lk_composite_blocks(const lk_call *call)
{
    const lk_composite *c = call->composite;
    const step *s = &c->step[c->at];
    if (s->kind == RUN)
        return lk_call_blocks(c->part[s->part].call);
    return (lk_tensor_count(&s->tensor->is) + ADD_BLOCK - 1) / ADD_BLOCK;
}

/* A part is finished before its gradients are added: some are known only then. */
static void finish_part(lk_composite *c, int k)
{
    lk_error error;
    if (c->part[k].call->stage != PLANNED || lk_call_finish(c->part[k].call, &error) == LK_OK)
        return;
    (void)part_error(c, k, &error);
    if (c->bad.status == LK_OK)
        c->bad = error;
}

bool lk_composite_next(lk_call *call)
{
    lk_composite *c = call->composite;
    const step *s = &c->step[c->at];
    if (s->kind == RUN && lk_call_next(c->part[s->part].call))
        return true;
    if (s->kind == RUN)
        finish_part(c, s->part);
    if (c->at + 1 == c->steps)
        return false;
    c->at++;
    return true;
}

static void add(void *to, const void *from, lk_dtype real, int64_t first, int64_t end)
{
    double wide, more_wide;
    float narrow, more_narrow;
    for (int64_t i = first; i < end; i++) {
        if (real == LK_F64) { /* outputs have any alignment */
            memcpy(&wide, (char *)to + i * 8, sizeof wide);
            memcpy(&more_wide, (const char *)from + i * 8, sizeof wide);
            wide += more_wide;
            memcpy((char *)to + i * 8, &wide, sizeof wide);
        } else {
            memcpy(&narrow, (char *)to + i * 4, sizeof narrow);
            memcpy(&more_narrow, (const char *)from + i * 4, sizeof narrow);
            narrow += more_narrow;
            memcpy((char *)to + i * 4, &narrow, sizeof narrow);
        }
    }
}

void lk_composite_run(lk_call *call, int64_t first, int64_t count, void *scratch)
{
    const lk_composite *c = call->composite;
    const step *s = &c->step[c->at];
    if (s->kind == RUN) {
        lk_call_run(c->part[s->part].call, first, count, scratch);
        return;
    }
    const named *t = s->tensor;
    const int64_t all = lk_tensor_count(&t->is);
    const int64_t from = first * ADD_BLOCK < all ? first * ADD_BLOCK : all;
    const int64_t most = all - from < count * ADD_BLOCK ? all - from : count * ADD_BLOCK;
    if (s->kind == ADD) {
        add(t->to, s->from, c->real, from, from + most);
        return;
    }
    char *out = call->wanted[t->gradient].tensor.data;
    lk_convert((const char *)t->to + from * 4, LK_F32,
               out + from * (int64_t)lk_dtype_size(t->is.dtype), t->is.dtype, most);
}

/* Finish. */

/* The gradients of the numbers that the parts are combined with. */
static void reserved_gradients(const lk_call *call, const char *name, const double *gradient)
{
    const lk_composite *c = call->composite;
    const named *t = find(c, name);
    if (t && t->gradient >= 0)
        lk_convert(gradient, LK_F64, call->wanted[t->gradient].tensor.data, t->is.dtype, c->parts);
}

static void write_outputs(const lk_call *call, const double *value)
{
    const lk_composite *c = call->composite;
    const options *o = call->job.options;
    const double upstream = upstream_of(c);
    double total = 0, by_weight[PARTS_MAX], by_log_var[PARTS_MAX];
    for (int k = 0; k < c->parts; k++) {
        const double factor = factor_of(call, k), share = factor == 0 ? 0 : factor * value[k];
        total += share;
        by_weight[k] = upstream * c->part[k].weight * value[k];
        by_log_var[k] = upstream * (0.5 - share);
        if (o->combine == UNCERTAINTY)
            total += 0.5 * number_at(c, "log_vars", k, 0);
    }
    reserved_gradients(call, "weights", by_weight);
    reserved_gradients(call, "log_vars", by_log_var);
    for (int i = 0; i < call->wanted_count; i++) {
        const wanted *w = &call->wanted[i];
        if (w->kind == VALUE)
            lk_put(&w->tensor, 0, total);
        for (int k = 0; strcmp(w->name, "parts") == 0 && k < c->parts; k++)
            lk_put(&w->tensor, k, value[k]);
    }
}

lk_status lk_composite_finish(lk_call *call, lk_error *error)
{
    lk_composite *c = call->composite;
    double value[PARTS_MAX];
    for (int k = 0; k < c->parts; k++) {
        finish_part(c, k); /* unless it is */
        value[k] = lk_real_at(c->part[k].value, c->real, 0);
    }
    if (c->bad.status != LK_OK) {
        if (error)
            *error = c->bad;
        return c->bad.status;
    }
    write_outputs(call, value);
    return LK_OK;
}
