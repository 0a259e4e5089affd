/* SPDX-License-Identifier: MIT */
#include "evaluate.h"

#include "catalogue/describe.h"
#include "catalogue/trees.h"
#include "percent.h"
#include "wire/element.h"
#include "wire/options.h"
#include "wire/place.h"
#include "wire/wire.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    ALIGNMENT = 64,
    SHARD_WORK = 128 * 1024, /* ns: less than this is not worth a trip to another thread */
    /* A reply of one piece is sent in one system call with its head: up to this size, joining the
     * pieces takes less time than a second call. */
    JOINED = 64 * 1024,
};

/* The edit distance of two names: insertions, deletions and changes. Long names are cut. */
static int distance(const char *a, const char *b)
{
    enum { MOST = 40 };
    int row[MOST + 1], n = (int)strnlen(b, MOST);
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 0; a[i] != '\0' && i < MOST; i++) {
        int corner = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            int change = corner + (a[i] != b[j]), best = row[j] < row[j + 1] ? row[j] : row[j + 1];
            corner = row[j + 1];
            row[j + 1] = change < best + 1 ? change : best + 1;
        }
    }
    return row[n];
}

const lk_loss *evaluation_loss(const char *name, problem *p)
{
    const lk_loss *loss = lk_loss_find(name);
    char close[160] = "";
    size_t used = 0;
    if (loss)
        return loss;
    for (int i = 0; i < lk_loss_count(); i++) {
        const char *other = lk_loss_describe(lk_loss_at(i))->name;
        bool near = distance(name, other) <= (int)strlen(other) / 3 + 1 ||
                    (strlen(name) >= 3 && strstr(other, name));
        if (near && used + strlen(other) + 4 < sizeof close)
            used += (size_t)snprintf(close + used, sizeof close - used, "%s%s", used ? ", " : "",
                                     other);
    }
    problem_set(p, 404, "unknown_loss", "there is no loss \"%.60s\"%s%s%s", name,
                used ? "; did you mean " : "; GET /v1/losses or /v2/models lists them", close,
                used ? "?" : "");
    return NULL;
}

const lk_loss *evaluation_at(const char *kind, const char *name, problem *p)
{
    const lk_loss *loss = evaluation_loss(name, p);
    if (!loss || strcmp(describe_kind(loss), kind) == 0)
        return loss;
    problem_set(p, 404, "unknown_loss", "%s is not one of the %s; it is at /v1/%s/%s", name, kind,
                describe_kind(loss), name);
    return NULL;
}

evaluation *evaluation_new(const lk_loss *loss, const wire *in, const wire *out, span body)
{
    evaluation *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    *e = (evaluation){.in = in, .out = out, .loss = loss, .body = body, .oip.head = OIP_ALL};
    e->call = lk_call_new(loss);
    if (!e->call) {
        free(e);
        return NULL;
    }
    return e;
}

void evaluation_free(evaluation *e)
{
    if (!e)
        return;
    lk_call_free(e->call);
    buffer_free(&e->text);
    place_free(e);
    free(e->arena);
    free(e);
}

static bool query_pair(evaluation *e, const char *name, const char *value, bool *strict, problem *p)
{
    if (strcmp(name, "outputs") == 0)
        return wire_outputs(e, value, p);
    if (strcmp(name, "strict_json") == 0) {
        if (*strict)
            return problem_set(p, 422, "duplicate_option", "strict_json is set twice");
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return problem_set(p, 422, "option_invalid",
                               "strict_json is \"%.40s\"; it must be true or false", value);
        *strict = true;
        e->strict_json = strcmp(value, "true") == 0;
        return true;
    }
    if (strncmp(name, PLACE_PREFIX, strlen(PLACE_PREFIX)) == 0)
        return place_text(e, name + strlen(PLACE_PREFIX), value, p);
    return wire_option(e, name, value, p);
}

static bool read_query(evaluation *e, const char *query, problem *p)
{
    char name[96], value[4096];
    bool strict = false;
    while (*query != '\0') {
        size_t length = strcspn(query, "&"), cut = strcspn(query, "=&");
        span left = {query, cut}, right = {query + cut, 0};
        if (cut < length)
            right = (span){query + cut + 1, length - cut - 1};
        if (length > 0 && (!percent_decode(left, true, name, sizeof name) ||
                           !percent_decode(right, true, value, sizeof value)))
            return problem_set(p, 400, "malformed_query",
                               "query part \"%.*s\" is too long or not percent-encoded",
                               (int)(length < 60 ? length : 60), query);
        if (length > 0 && !query_pair(e, name, value, &strict, p))
            return false;
        query += length;
        query += *query == '&';
    }
    return true;
}

/* Memory. */

static size_t aligned(size_t size)
{
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Sizes come from the client: sums saturate at this value, and are then refused. */
static const size_t TOO_MUCH = (size_t)1 << 56;

static void add(size_t *sum, size_t size)
{
    *sum = size > TOO_MUCH || *sum + aligned(size) > TOO_MUCH ? TOO_MUCH : *sum + aligned(size);
}

/* NULL if evaluation_open did not account for it, which is a bug. */
static void *arena_take(evaluation *e, size_t size)
{
    if (size > e->arena_size - e->arena_used)
        return NULL;
    void *p = e->arena ? e->arena + e->arena_used : NULL;
    e->arena_used += aligned(size);
    return p;
}

static size_t tensor_bytes(const lk_tensor *t)
{
    return (size_t)lk_tensor_count(t) * lk_dtype_size(t->dtype);
}

/* Is the data of an input used where it is? What is not floats is checked, or used as an index, so
 * in a region it is copied first: there it may change at any time. Of floats that change only the
 * numbers of the reply become wrong. */
static bool is_viewed(const source *s, const lk_tensor *t)
{
    return s->raw && (!s->place || (LK_FLOATS >> t->dtype & 1));
}

/* Is output i computed in the memory of its input, which belongs to the request? */
static bool is_over(const evaluation *e, int i)
{
    const lk_tensor *over = lk_call_in_place(e->call, i);
    for (int k = 0; over && k < e->sources; k++)
        if (e->source[k].place && lk_call_tensor(e->call, e->source[k].name) == over)
            return false;
    return over;
}

/* Where in a region output i is computed; NULL: not in one. */
static void *home_of(const evaluation *e, int i)
{
    lk_tensor is, result;
    (void)lk_call_output(e->call, i, &is);
    (void)place_result(e, i, &result);
    return place_region(e, i) && is.dtype == result.dtype ? result.data : NULL;
}

/* Which tensors the bound of the reply's text has already, only the format knows. */
static void set_room(evaluation *e)
{
    size_t all = e->bound = e->out->bound(e);
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        (void)place_result(e, i, &t);
        add(&all, place_region(e, i) ? 0 : tensor_bytes(&t));
    }
    e->joined = all <= JOINED;
    e->room = e->joined ? all : e->bound;
}

/* Add up what fill and close will allocate. Sizes were checked: each tensor's size fits in an
 * int64_t, and there are at most 64 inputs. */
static void add_up(evaluation *e, int shards)
{
    for (int i = 0; i < e->sources; i++) {
        const lk_tensor *t = lk_call_tensor(e->call, e->source[i].name);
        if (t && lk_tensor_count(t) > e->elements)
            e->elements = lk_tensor_count(t);
        if (t && !is_viewed(&e->source[i], t))
            add(&e->arena_size, tensor_bytes(t));
    }
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        (void)lk_call_output(e->call, i, &t);
        if (!home_of(e, i) && !is_over(e, i))
            add(&e->arena_size, tensor_bytes(&t));
    }
    const int64_t most = lk_call_cost(e->call) / SHARD_WORK;
    e->shards = most < 1 ? 1 : most < shards ? (int)most : shards;
    e->scratch_each = aligned(lk_call_scratch(e->call));
    for (int i = 0; i < e->shards; i++)
        add(&e->arena_size, e->scratch_each);
    e->need = e->arena_size;
    add(&e->need, lk_call_memory(e->call));
    set_room(e);
    add(&e->need, e->room);
}

/* Time. */

/* What the steps take besides the blocks: reading text, and writing it, where the bound is of the
 * longest numbers. */
enum { NS_READ = 4, NS_WRITE = 1 };

size_t evaluation_text(const evaluation *e)
{
    return e->in->text ? e->in->text(e) : e->body.size;
}

int64_t evaluation_reading(const evaluation *e)
{
    const size_t text = evaluation_text(e);
    return NS_READ * (int64_t)(text < TOO_MUCH ? text : TOO_MUCH);
}

static void add_time(evaluation *e)
{
    const size_t text = e->bound < TOO_MUCH ? e->bound : TOO_MUCH;
    e->work = lk_call_cost(e->call) + NS_WRITE * (int64_t)text;
}

/* The steps. */

bool evaluation_open(evaluation *e, const char *query, int shards, problem *p)
{
    lk_error error;
    (void)trees_starved();
    if (!e->in->open(e, p) || !read_query(e, query, p) || !place_inputs(e, p))
        return trees_starved() ? problem_set(p, 503, "no_memory", "no memory; try again later")
                               : false;
    if (lk_call_check(e->call, &error) != LK_OK)
        return problem_from(p, &error);
    if (!place_outputs(e, p))
        return false;
    if (e->out->accept && !e->out->accept(e, p))
        return false;
    add_up(e, shards);
    if (e->need >= TOO_MUCH)
        return problem_set(p, 413, "too_large", "the request needs more memory than there is");
    add_time(e);
    return true;
}

static bool no_memory(problem *p, size_t size)
{
    return problem_set(p, 503, "no_memory", "no memory for %zu bytes; try again later", size);
}

/* The text of the reply begins, with what is that of an equal request's. */
static bool begin_text(evaluation *e, problem *p)
{
    e->text.max = e->room;
    e->text.size = e->framing;
    return buffer_reserve(&e->text, e->room - e->framing) || no_memory(p, e->room);
}

/* Where output i is computed. If what frames the tensors is known, and they are joined to it, that
 * is where they go: `behind` is the end of those before. */
static void *place_of(evaluation *e, int i, const lk_tensor *t, char **behind)
{
    void *data = home_of(e, i);
    if (!data && *behind) {
        data = *behind;
        *behind += tensor_bytes(t);
    }
    if (!data)
        data = is_over(e, i) ? lk_call_in_place(e->call, i)->data : arena_take(e, tensor_bytes(t));
    return data;
}

static bool fill_source(evaluation *e, const source *s, problem *p)
{
    const lk_tensor *t = lk_call_tensor(e->call, s->name);
    const bool viewed = is_viewed(s, t);
    void *data = viewed ? (void *)(uintptr_t)s->text.data : arena_take(e, tensor_bytes(t));
    if (!data && tensor_bytes(t) > 0)
        return problem_set(p, 500, "internal", "an input outgrew its reservation");
    (void)lk_call_data(e->call, s->name, data);
    if (s->raw && !viewed && data)
        memcpy(data, s->text.data, s->text.size);
    return s->raw || e->in->read(e, s, t, p);
}

bool evaluation_fill(evaluation *e, problem *p)
{
    lk_error error;
    if (e->arena_size > 0 && !e->arena) {
        e->arena = aligned_alloc(ALIGNMENT, e->arena_size);
        if (!e->arena)
            return no_memory(p, e->arena_size);
    }
    for (int i = 0; i < e->sources; i++)
        if (!fill_source(e, &e->source[i], p))
            return false;
    if (e->framing > 0 && !begin_text(e, p))
        return false;
    char *behind = e->framing > 0 && e->joined ? e->text.data + e->framing : NULL;
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor t;
        (void)lk_call_output(e->call, i, &t);
        void *data = place_of(e, i, &t, &behind);
        if (!data && tensor_bytes(&t) > 0)
            return problem_set(p, 500, "internal", "an output outgrew its reservation");
        (void)lk_call_bind(e->call, i, data);
    }
    if (e->scratch_each > 0)
        e->scratch = arena_take(e, e->scratch_each * (size_t)e->shards);
    if (lk_call_plan(e->call, &error) != LK_OK)
        return problem_from(p, &error);
    return true;
}

bool evaluation_run_some(evaluation *e, int shard, int64_t most, int64_t *done)
{
    const int64_t blocks = lk_call_blocks(e->call);
    const int64_t first = blocks * shard / e->shards + *done;
    const int64_t left = blocks * (shard + 1) / e->shards - first,
                  count = most < left ? most : left;
    void *scratch = e->scratch ? e->scratch + e->scratch_each * (size_t)shard : NULL;
    if (count > 0)
        lk_call_run(e->call, first, count, scratch);
    *done += count;
    return count < left;
}

void evaluation_run(evaluation *e, int shard)
{
    int64_t done = 0;
    (void)evaluation_run_some(e, shard, INT64_MAX, &done);
}

bool evaluation_next(evaluation *e)
{
    return lk_call_next(e->call);
}

/* Round the outputs that are to come in a narrower type: into their region, or where they are. */
static void narrow_outputs(evaluation *e)
{
    for (int i = 0; i < lk_call_outputs(e->call); i++) {
        lk_tensor is, result;
        (void)lk_call_output(e->call, i, &is);
        (void)place_result(e, i, &result);
        if (is.dtype != result.dtype)
            element_narrow(&is, &result);
    }
}

/* Put the tensors behind the text that frames them, where they are not there already. */
static void join_pieces(evaluation *e)
{
    if (e->pieces < 2 || e->piece[0].size < e->text.size || !e->joined)
        return;
    for (int i = 1; i < e->pieces; i++) {
        const span *piece = &e->piece[i];
        if (piece->data == e->text.data + e->text.size)
            e->text.size += piece->size;
        else
            buffer_append(&e->text, piece->data, piece->size);
    }
    e->piece[0] = (span){e->text.data, e->text.size};
    e->pieces = 1;
}

bool evaluation_close(evaluation *e, problem *p)
{
    lk_error error;
    const lk_status status = lk_call_finish(e->call, &error);
    if (!place_whole(e, p))
        return false;
    if (status != LK_OK)
        return problem_from(p, &error);
    if (e->places > 0)
        narrow_outputs(e);
    if (!begin_text(e, p))
        return false;
    e->media = e->out->media[0];
    if (!e->out->encode(e, p))
        return false;
    if (e->text.failed)
        return problem_set(p, 500, "internal", "the reply is longer than its bound");
    join_pieces(e);
    return true;
}

/* All inputs must be tensors of the body whose places are known for another body, too. */
bool evaluation_renewable(evaluation *e)
{
    const uintptr_t begin = (uintptr_t)e->body.data;
    if (e->places > 0) /* each request finds its regions anew */
        return false;
    for (int i = 0; i < e->sources; i++) {
        const source *s = &e->source[i];
        if (s->base64 || s->raw == (e->in->outline != NULL) ||
            (uintptr_t)s->text.data - begin > e->body.size)
            return false;
    }
    return lk_call_again(e->call);
}

/* Move a part of the former body, which may have been freed, to the new one. */
static void move_span(span *part, const evaluation *e, span body)
{
    if (part->size > 0)
        part->data = body.data + ((uintptr_t)part->data - (uintptr_t)e->body.data);
}

void evaluation_renew(evaluation *e, span body, const span *tensors)
{
    for (int i = 0; i < e->sources; i++)
        if (tensors)
            e->source[i].text = tensors[i];
        else
            move_span(&e->source[i].text, e, body);
    move_span(&e->oip.id, e, body);
    e->body = body;
    e->arena_used = 0;
    e->pieces = 0;
    e->oip.reply_head = 0;
}
