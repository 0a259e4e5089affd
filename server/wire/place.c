/* SPDX-License-Identifier: MIT */
#include "wire/place.h"

#include "wire/inputs.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { PLACES = EVALUATION_INPUTS + LK_OUTPUTS_MAX };

place place_new(const char *name, place_side side)
{
    place made = {.side = side, .size = UINT64_MAX, .is = {.dtype = LK_ANY, .rank = -1}};
    snprintf(made.name, sizeof made.name, "%s", name);
    return made;
}

/* Reading. */

bool place_type(place *to, const char *what, const char *dtype, problem *p)
{
    for (int type = 0; dtype && type < LK_DTYPE_COUNT; type++)
        if (strcmp(lk_dtype_name((lk_dtype)type), dtype) == 0) {
            to->is.dtype = (lk_dtype)type;
            return true;
        }
    return problem_set(p, 422, "dtype_unsupported",
                       "%s.dtype must be the name of an element type, such as f32 or bf16", what);
}

static bool read_word(const json_t *value, char *to, size_t room)
{
    const char *text = json_string_value(value);
    if (!text || *text == '\0' || strlen(text) >= room)
        return false;
    snprintf(to, room, "%s", text);
    return true;
}

static bool read_shape(const json_t *value, lk_tensor *t)
{
    size_t i;
    const json_t *size;
    if (!json_is_array(value) || json_array_size(value) > LK_MAX_RANK)
        return false;
    t->rank = (int)json_array_size(value);
    json_array_foreach(value, i, size)
    {
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return false;
        t->shape[i] = json_integer_value(size);
    }
    return true;
}

static bool read_member(place *to, const char *what, const char *name, const json_t *value,
                        problem *p)
{
    if (strcmp(name, "region") == 0)
        return read_word(value, to->region, sizeof to->region) ||
               problem_set(p, 422, "region_invalid",
                           "%s.region must be a name, of less than %d bytes", what, REGION_NAME);
    if (strcmp(name, "offset") == 0) {
        to->offset = (uint64_t)json_integer_value(value);
        return (json_is_integer(value) && json_integer_value(value) >= 0) ||
               problem_set(p, 422, "region_invalid", "%s.offset must be an integer >= 0", what);
    }
    if (strcmp(name, "dtype") == 0)
        return place_type(to, what, json_string_value(value), p);
    if (strcmp(name, "shape") == 0)
        return read_shape(value, &to->is) ||
               problem_set(p, 422, "region_invalid",
                           "%s.shape must be an array of at most %d integers >= 0", what,
                           LK_MAX_RANK);
    if (strcmp(name, "name") == 0 && to->side == PLACE_OUTPUT)
        return read_word(value, to->name, sizeof to->name) ||
               problem_set(p, 400, "malformed_body", "%s.name must be the name of an output", what);
    return problem_set(p, 400, "malformed_body",
                       "%s has a member \"%.40s\"; there are %sregion, offset, dtype and shape",
                       what, name, to->side == PLACE_OUTPUT ? "name, " : "");
}

bool place_read(const json_t *object, const char *what, place *to, problem *p)
{
    const char *name;
    json_t *value;
    if (!json_is_object(object))
        return problem_set(p, 400, "malformed_body", "%s must be an object", what);
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        if (!read_member(to, what, name, value, p))
            return false;
    }
    if (to->side == PLACE_OUTPUT ? to->name[0] == '\0' : to->region[0] == '\0')
        return problem_set(p, 400, "malformed_body", "%s needs a %s", what,
                           to->side == PLACE_OUTPUT ? "name" : "region");
    return true;
}

/* Adding. */

static place *add(evaluation *e, const place *said, problem *p)
{
    if (!e->place)
        e->place = malloc(PLACES * sizeof *e->place);
    if (!e->place) {
        problem_set(p, 503, "no_memory", "no memory for regions; try again later");
        return NULL;
    }
    if (e->places == PLACES) {
        problem_set(p, 413, "too_large", "more than %d tensors in regions", PLACES);
        return NULL;
    }
    e->place[e->places] = *said;
    return &e->place[e->places++];
}

bool place_text(evaluation *e, const char *name, const char *text, problem *p)
{
    char what[96];
    json_error_t syntax = {0};
    place said = place_new(name, PLACE_ANY);
    snprintf(what, sizeof what, PLACE_PREFIX "%.64s", name);
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &syntax);
    if (!object && syntax.text[0] == '\0') /* jansson gives no message when out of memory */
        return problem_set(p, 503, "no_memory", "no memory for %s; try again later", what);
    if (!object)
        return problem_set(p, 400, "malformed_body", "%s, at byte %d: %s", what, syntax.position,
                           syntax.text);
    const bool ok = place_read(object, what, &said, p) && add(e, &said, p);
    json_decref(object);
    return ok;
}

/* Find the region, and where in it a tensor of that many bytes lies. */
static bool find(place *at, size_t bytes, problem *p)
{
    if (at->view.region && region_broken(at->view.region))
        return problem_input(p, 422, "region_invalid", at->name,
                             "the memory of %s's region is gone: its file was made shorter",
                             at->name);
    if (at->offset > at->view.size || bytes > at->view.size - at->offset)
        return problem_input(p, 422, "region_invalid", at->name,
                             "%s needs bytes %llu to %llu of its region, which has %zu", at->name,
                             (unsigned long long)at->offset,
                             (unsigned long long)at->offset + (unsigned long long)bytes,
                             at->view.size);
    at->at = at->view.at + at->offset;
    return true;
}

static bool same_shape(const lk_tensor *a, const lk_tensor *b)
{
    bool same = a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++)
        same = a->shape[i] == b->shape[i];
    return same;
}

/* The type and shape of an input: those of the tensor in the region, or those that the request
 * says. */
static bool settle(const place *at, lk_tensor *t, problem *p)
{
    const lk_tensor *own = &at->view.tensor;
    *t = at->is;
    if (own->dtype != LK_ANY) {
        if (at->is.dtype != LK_ANY && at->is.dtype != own->dtype)
            return problem_input(p, 422, "region_invalid", at->name,
                                 "%s is %s in its region, not %s", at->name,
                                 lk_dtype_name(own->dtype), lk_dtype_name(at->is.dtype));
        t->dtype = own->dtype;
        if (at->is.rank < 0)
            *t = *own;
    }
    if (t->dtype == LK_ANY || t->rank < 0)
        return problem_input(p, 422, "region_invalid", at->name,
                             "%s needs a dtype and a shape: its region has bytes alone", at->name);
    const int64_t count = lk_tensor_count(t);
    if (count < 0)
        return problem_input(p, 422, "region_invalid", at->name,
                             "%s has a shape whose size overflows", at->name);
    if (at->size != UINT64_MAX && at->size != (uint64_t)count * lk_dtype_size(t->dtype))
        return problem_input(p, 422, "region_invalid", at->name,
                             "%s has %llu bytes in its region; its dtype and shape need %llu",
                             at->name, (unsigned long long)at->size,
                             (unsigned long long)count * lk_dtype_size(t->dtype));
    return true;
}

static bool take_input(evaluation *e, place *at, problem *p)
{
    lk_tensor t;
    at->side = PLACE_INPUT;
    if (!region_find(at->region, &e->asker, &at->view, p)) {
        snprintf(p->input, sizeof p->input, "%.31s", at->name);
        return false;
    }
    if (!settle(at, &t, p))
        return false;
    const size_t bytes = (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype);
    if (!find(at, bytes, p))
        return false;
    t.data = NULL;
    if (!wire_view(e, at->name, &t, (span){at->at, bytes}, p))
        return false;
    e->source[e->sources - 1].place = at;
    return true;
}

bool place_input(evaluation *e, const place *said, problem *p)
{
    place *at = add(e, said, p);
    return at && take_input(e, at, p);
}

static place *output_of(const evaluation *e, const char *name)
{
    for (int i = 0; i < e->places; i++)
        if (e->place[i].side == PLACE_OUTPUT && strcmp(e->place[i].name, name) == 0)
            return &e->place[i];
    return NULL;
}

/* A type may be said in the list of outputs, and the region elsewhere. */
static bool merge(place *into, const place *said, problem *p)
{
    if ((into->region[0] != '\0' && said->region[0] != '\0') ||
        (into->is.dtype != LK_ANY && said->is.dtype != LK_ANY))
        return problem_set(p, 422, "duplicate_option", "of output %s %s is said twice", said->name,
                           said->is.dtype != LK_ANY ? "the dtype" : "the region");
    const place before = *into;
    *into = said->region[0] != '\0' ? *said : before;
    into->side = PLACE_OUTPUT;
    into->is.dtype = said->is.dtype != LK_ANY ? said->is.dtype : before.is.dtype;
    return true;
}

bool place_output(evaluation *e, const place *said, problem *p)
{
    place *there = output_of(e, said->name);
    return there ? merge(there, said, p) : add(e, said, p) != NULL;
}

bool place_inputs(evaluation *e, problem *p)
{
    for (int i = 0; i < e->places; i++) {
        place *at = &e->place[i];
        if (at->side != PLACE_ANY)
            continue;
        if (lk_call_dtypes(e->call, at->name) != 0) {
            if (!take_input(e, at, p))
                return false;
            continue;
        }
        place *there = output_of(e, at->name);
        if (there && !merge(there, at, p))
            return false;
        if (!there)
            at->side = PLACE_OUTPUT;
    }
    return true;
}

/* Outputs. */

static bool is_float(lk_dtype dtype)
{
    return dtype < LK_DTYPE_COUNT && (LK_FLOATS >> dtype & 1) != 0;
}

static bool check_type(const place *at, const lk_tensor *t, problem *p)
{
    const bool ok = at->is.dtype == LK_ANY || at->is.dtype == t->dtype ||
                    (is_float(at->is.dtype) && is_float(t->dtype) &&
                     lk_dtype_size(at->is.dtype) < lk_dtype_size(t->dtype));
    return ok || problem_set(p, 422, "dtype_unsupported",
                             "output %s is %s and cannot come as %s: only as a narrower float",
                             at->name, lk_dtype_name(t->dtype), lk_dtype_name(at->is.dtype));
}

/* May the output be computed where this input lies? */
static bool in_place(const evaluation *e, const source *s, const place *at, int output)
{
    lk_tensor t;
    (void)lk_call_output(e->call, output, &t);
    return lk_call_in_place(e->call, output) == lk_call_tensor(e->call, s->name) &&
           s->text.data == at->at && (at->is.dtype == LK_ANY || at->is.dtype == t.dtype);
}

/* No memory that is written may be read or written as anything else. */
static bool check_overlaps(const evaluation *e, const place *at, int output, size_t bytes,
                           problem *p)
{
    for (int i = 0; i < e->sources; i++) {
        const source *s = &e->source[i];
        if (s->place && !in_place(e, s, at, output) &&
            region_overlap(at->view.region, at->at, bytes, s->place->view.region, s->text.data,
                           s->text.size))
            return problem_set(p, 422, "region_invalid",
                               "output %s overlaps input %s; it may lie exactly over the input "
                               "whose gradient it is, if that can be computed in place",
                               at->name, s->name);
    }
    for (const place *other = e->place; other < at; other++) {
        lk_tensor t;
        int i = 0;
        if (other->side != PLACE_OUTPUT || !other->at)
            continue;
        while (strcmp(lk_call_output(e->call, i, NULL), other->name) != 0)
            i++;
        (void)place_result(e, i, &t);
        const size_t its = (size_t)lk_tensor_count(&t) * lk_dtype_size(t.dtype);
        if (region_overlap(at->view.region, at->at, bytes, other->view.region, other->at, its))
            return problem_set(p, 422, "region_invalid", "outputs %s and %s overlap", at->name,
                               other->name);
    }
    return true;
}

static bool check_output(evaluation *e, place *at, int output, problem *p)
{
    lk_tensor t;
    (void)lk_call_output(e->call, output, &t);
    if (!check_type(at, &t, p))
        return false;
    if (at->region[0] == '\0')
        return true;
    if (at->is.rank >= 0 && !same_shape(&at->is, &t))
        return problem_set(p, 422, "region_invalid", "output %s has another shape than its region",
                           at->name);
    if (!region_find(at->region, &e->asker, &at->view, p))
        return false;
    if (!at->view.writable)
        return problem_set(p, 422, "region_invalid",
                           "output %s cannot be written: its region is read-only", at->name);
    const lk_dtype dtype = at->is.dtype == LK_ANY ? t.dtype : at->is.dtype;
    const size_t bytes = (size_t)lk_tensor_count(&t) * lk_dtype_size(dtype);
    if (bytes > at->size)
        return problem_set(p, 422, "region_invalid",
                           "output %s has %zu bytes; %llu are set aside for it", at->name, bytes,
                           (unsigned long long)at->size);
    return find(at, bytes, p) && check_overlaps(e, at, output, bytes, p);
}

bool place_outputs(evaluation *e, problem *p)
{
    const int outputs = lk_call_outputs(e->call);
    for (int k = 0; k < e->places; k++) {
        place *at = &e->place[k];
        int i = 0;
        if (at->side != PLACE_OUTPUT)
            continue;
        while (i < outputs && strcmp(lk_call_output(e->call, i, NULL), at->name) != 0)
            i++;
        if (i == outputs)
            return problem_set(p, 422, "unknown_output",
                               "\"%.60s\" is neither an input nor among the outputs that are asked "
                               "for",
                               at->name);
        if (!check_output(e, at, i, p))
            return false;
    }
    return true;
}

bool place_shared(const evaluation *e)
{
    bool any = false;
    for (int i = 0; i < e->places; i++)
        any = any || e->place[i].view.region;
    return any;
}

bool place_whole(const evaluation *e, problem *p)
{
    for (int i = 0; i < e->places; i++) {
        const place *at = &e->place[i];
        if (at->view.region && region_broken(at->view.region))
            return problem_set(p, 422, "region_invalid",
                               "the memory of %s's region went away during the evaluation: its "
                               "file was made shorter",
                               at->name);
    }
    return true;
}

const char *place_result(const evaluation *e, int i, lk_tensor *to)
{
    const char *name = lk_call_output(e->call, i, to);
    const place *at = e->places > 0 ? output_of(e, name) : NULL;
    if (at && at->is.dtype != LK_ANY)
        to->dtype = at->is.dtype;
    if (at && at->at)
        to->data = at->at;
    return name;
}

const place *place_region(const evaluation *e, int i)
{
    const place *at = e->places > 0 ? output_of(e, lk_call_output(e->call, i, NULL)) : NULL;
    return at && at->region[0] != '\0' ? at : NULL;
}

void place_free(evaluation *e)
{
    for (int i = 0; i < e->places; i++)
        region_release(e->place[i].view.region);
    free(e->place);
}
