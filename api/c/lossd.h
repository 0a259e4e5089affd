/* SPDX-License-Identifier: MIT
 *
 * A client of lossd in one file, over libcurl (7.84 or later) and jansson. Include it where it is
 * used; in one source file, before that:
 *
 *     #define LOSSD_IMPLEMENTATION
 *
 * A client is for one thread at a time; different ones may be used by different threads. Call
 * curl_global_init before the first thread starts.
 */
#ifndef LOSSD_H
#define LOSSD_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOSSD_MAX_RANK 8

/* Element types. BOOL is a byte each, F16 and BF16 are two bytes of bits. */
typedef enum lossd_dtype {
    LOSSD_F64,
    LOSSD_F32,
    LOSSD_F16,
    LOSSD_BF16,
    LOSSD_I64,
    LOSSD_I32,
    LOSSD_U8,
    LOSSD_BOOL
} lossd_dtype;

/* A dense, row-major tensor that somebody else holds. data may be NULL where it has no elements. */
typedef struct lossd_tensor {
    const char *name;
    lossd_dtype dtype;
    int rank; /* 0: one number */
    int64_t shape[LOSSD_MAX_RANK];
    const void *data;
} lossd_tensor;

/* An option as text: "0.1", "true", "none", "off", "101,102". */
typedef struct lossd_option {
    const char *name, *value;
} lossd_option;

/* What went wrong, and where. Never allocated. */
typedef struct lossd_error {
    long status;                   /* of HTTP; 0 where no reply came, or one that is not lossd's */
    char code[64];                 /* a stable word for programs, such as target_out_of_range */
    char detail[512];              /* what was wrong, where, and what would be right */
    char input[80];                /* the tensor that it is about, or "" */
    int64_t index[LOSSD_MAX_RANK]; /* where in it */
    int indices;                   /* how many of these there are */
    char request_id[160];          /* what lossd's log calls the request */
} lossd_error;

/* The outputs in the order of the reply. They live until lossd_result_free. */
typedef struct lossd_result {
    lossd_tensor *tensors;
    int count;
    void *memory, *aligned, *header; /* what holds them */
} lossd_result;

typedef struct lossd_settings {
    const char *api_key; /* sent as Authorization: Bearer; NULL for none */
    long timeout_ms;     /* of a whole call, tries included; 0 is 30,000 */
    int retries;         /* how often a call is tried again where lossd is full; -1 is 4 */
    size_t max_reply;    /* bytes; 0 is 4 GiB */
} lossd_settings;

typedef struct lossd_client lossd_client;

/* A client of http://host:port, https://host:port or unix:/path; nothing is sent yet. The texts are
 * copied. settings may be NULL. NULL without memory, or where curl knows no such thing. */
lossd_client *lossd_open(const char *url, const lossd_settings *settings);

/* Takes NULL. */
void lossd_close(lossd_client *client);

/* curl's own handle, for what is not here: certificates, proxies. */
CURL *lossd_curl(lossd_client *client);

/* Evaluate a loss. Inputs and options end with an entry without name; outputs are those to reply
 * with and end with NULL. options and outputs may be NULL. True with the result, which the caller
 * frees; false with the error, and nothing to free. Nothing is copied that is sent. */
bool lossd_evaluate(lossd_client *client, const char *loss, const lossd_tensor *inputs,
                    const lossd_option *options, const char *const *outputs, lossd_result *result,
                    lossd_error *error);

/* The same of what has no loss: mask_tokens. */
bool lossd_transform(lossd_client *client, const char *name, const lossd_tensor *inputs,
                     const lossd_option *options, const char *const *outputs, lossd_result *result,
                     lossd_error *error);

/* Memory that lossd reaches, too: inputs that lie in it are not sent. With a unix: URL, on Linux.
 * Elsewhere, or where lossd does not offer it, this is ordinary memory, the same calls send what
 * lies in it, and *why, unless `why` is NULL, says why; otherwise *why is NULL. NULL without memory
 * at all. It is zeroed, and lives until lossd_unshare, or until the client is closed. */
void *lossd_share(lossd_client *client, size_t size, const char **why);
void lossd_unshare(lossd_client *client, void *memory);

/* Where an output shall be written: `size` bytes at `data`, in memory of lossd_share if it is not
 * to be sent; exactly over an input for a gradient in place. */
typedef struct lossd_place {
    const char *name;
    void *data;
    size_t size;
} lossd_place;

/* As lossd_evaluate, with places for outputs; these end with an entry without name. */
bool lossd_evaluate_into(lossd_client *client, const char *loss, const lossd_tensor *inputs,
                         const lossd_option *options, const char *const *outputs,
                         const lossd_place *places, lossd_result *result, lossd_error *error);

/* Let lossd keep tensors, which end with an entry without name, until they are forgotten or it
 * ends. The option {"region.class_weight", "{\"region\":\"head/w\"}"} makes tensor w of `head` an
 * input. */
bool lossd_keep(lossd_client *client, const char *name, const lossd_tensor *tensors, bool replace,
                lossd_error *error);
bool lossd_forget(lossd_client *client, const char *name, lossd_error *error);

/* An output, aligned for its type; NULL if it is not there. */
const lossd_tensor *lossd_output(const lossd_result *result, const char *name);

/* Elements of a tensor; -1 if its rank or a size is negative, or there are too many. */
int64_t lossd_count(const lossd_tensor *tensor);

/* Element i as a double, which has every value but those of large I64. */
double lossd_get(const lossd_tensor *tensor, int64_t i);

/* Takes a result that was freed, or never filled in but zeroed. */
void lossd_result_free(lossd_result *result);

/* Does lossd welcome requests? */
bool lossd_ready(lossd_client *client);

#endif

#ifdef LOSSD_IMPLEMENTATION

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LOSSD_MAX_INPUTS = 64, LOSSD_BUFFER = 512 * 1024 };

static const struct {
    const char *word;
    size_t width;
} lossd_types[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2},
                   {"I64", 8}, {"I32", 4}, {"U8", 1},  {"BOOL", 1}};
enum { LOSSD_TYPES = sizeof lossd_types / sizeof *lossd_types };

/* Bytes on their way out: piece after piece, from `done` on. */
typedef struct lossd_body {
    struct {
        const char *data;
        size_t size;
    } piece[LOSSD_MAX_INPUTS + 1];
    int pieces;
    size_t size, done;
    char *header; /* the first piece, owned */
} lossd_body;

/* A block of memory of lossd_share: mapped from `file` and handed over on `line`; with neither it
 * is ordinary memory. */
typedef struct lossd_block {
    struct lossd_block *next;
    char *at;
    size_t size;
    int file, line;
    pid_t process; /* a process that is forked off has none of its parent's */
    char name[64];
} lossd_block;

struct lossd_client {
    CURL *curl;
    char *path; /* of the Unix socket, or NULL */
    lossd_block *blocks;
    char *base, *authorization; /* the URL without a slash; a header or NULL */
    long timeout_ms;
    int retries;
    size_t max_reply;
    /* Of the call under way. */
    const char *method; /* other than GET and POST, or NULL */
    const char *query;  /* with its ?, or "" */
    char *reply;
    size_t size, capacity;
    char said[CURL_ERROR_SIZE];
};

static bool lossd_fail(lossd_error *error, long status, const char *code, const char *detail)
{
    *error = (lossd_error){.status = status};
    snprintf(error->code, sizeof error->code, "%s", code);
    snprintf(error->detail, sizeof error->detail, "%s", detail);
    return false;
}

/* Tensors. */

int64_t lossd_count(const lossd_tensor *tensor)
{
    int64_t count = 1;
    if (tensor->rank < 0 || tensor->rank > LOSSD_MAX_RANK)
        return -1;
    for (int i = 0; i < tensor->rank; i++) {
        const int64_t size = tensor->shape[i];
        if (size < 0 || (size > 0 && count > INT64_MAX / 8 / size))
            return -1;
        count *= size;
    }
    return count;
}

static double lossd_half(unsigned bits)
{
    const int exponent = (int)(bits >> 10 & 31);
    const double fraction = bits & 1023;
    double x = ldexp(exponent > 0 ? 1024 + fraction : fraction, (exponent > 0 ? exponent : 1) - 25);
    if (exponent == 31)
        x = fraction > 0 ? (double)NAN : (double)INFINITY;
    return bits >> 15 & 1 ? -x : x;
}

double lossd_get(const lossd_tensor *tensor, int64_t i)
{
    const char *at = (const char *)tensor->data + i * (int64_t)lossd_types[tensor->dtype].width;
    union {
        double f64;
        float f32;
        int64_t i64;
        int32_t i32;
        uint16_t bits;
        uint8_t u8;
        uint32_t widened;
    } x;
    memcpy(&x, at, lossd_types[tensor->dtype].width);
    switch (tensor->dtype) {
    case LOSSD_F64:
        return x.f64;
    case LOSSD_F32:
        return (double)x.f32;
    case LOSSD_F16:
        return lossd_half(x.bits);
    case LOSSD_BF16:
        x.widened = (uint32_t)x.bits << 16;
        return (double)x.f32;
    case LOSSD_I64:
        return (double)x.i64;
    case LOSSD_I32:
        return x.i32;
    case LOSSD_U8:
    case LOSSD_BOOL:
        break;
    }
    return x.u8;
}

/* What is sent: a length, a JSON header, the tensors. */

static void lossd_add_piece(lossd_body *body, const void *data, size_t size)
{
    if (size > 0) {
        body->piece[body->pieces].data = data;
        body->piece[body->pieces++].size = size;
        body->size += size;
    }
}

/* The block that memory lies in and that lossd has, or NULL. */
static const lossd_block *lossd_block_of(const lossd_client *client, const void *data, size_t size)
{
    const uintptr_t at = (uintptr_t)data;
    for (const lossd_block *b = client->blocks; b; b = b->next) {
        const uintptr_t begin = (uintptr_t)b->at;
        if (b->line >= 0 && b->process == getpid() && at >= begin && at - begin <= b->size &&
            size <= b->size - (at - begin))
            return b;
    }
    return NULL;
}

/* Name memory of a block instead of sending it; `t` NULL: for an output. */
static void lossd_name_memory(json_t *metadata, const char *name, const lossd_block *block,
                              const void *data, const lossd_tensor *t)
{
    static const char *const words[] = {"f64", "f32", "f16", "bf16", "i64", "i32", "u8", "bool"};
    json_t *said = json_pack("{s:s, s:I}", "region", block->name, "offset",
                             (json_int_t)((const char *)data - block->at));
    json_t *shape = json_array();
    for (int i = 0; t && i < t->rank; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    if (t) {
        json_object_set_new(said, "dtype", json_string(words[t->dtype]));
        json_object_set(said, "shape", shape);
    }
    json_decref(shape);
    char *text = json_dumps(said, JSON_COMPACT);
    json_t *key = json_sprintf("region.%s", name);
    json_object_set_new(metadata, json_string_value(key), json_string(text));
    json_decref(key);
    json_decref(said);
    free(text);
}

static json_t *lossd_metadata(const lossd_client *client, const lossd_option *options,
                              const char *const *outputs, const lossd_place *places)
{
    json_t *metadata = json_object();
    for (; places && places->name; places++) {
        const lossd_block *block = lossd_block_of(client, places->data, places->size);
        if (block)
            lossd_name_memory(metadata, places->name, block, places->data, NULL);
    }
    for (; options && options->name; options++)
        json_object_set_new(metadata, options->name, json_string(options->value));
    if (outputs && *outputs) {
        json_t *list = json_string(*outputs);
        while (*++outputs) {
            json_t *longer = json_sprintf("%s,%s", json_string_value(list), *outputs);
            json_decref(list);
            list = longer;
        }
        json_object_set_new(metadata, "outputs", list);
    }
    return metadata;
}

/* The widest types first: then each tensor is aligned if the first is. */
static bool lossd_describe_inputs(const lossd_client *client, json_t *header,
                                  const lossd_tensor *inputs, lossd_body *body, lossd_error *error)
{
    json_t *metadata = json_object_get(header, "__metadata__");
    size_t offset = 0;
    int named = 0, added = 0, shared = 0;
    for (size_t width = 8; width > 0; width /= 2)
        for (const lossd_tensor *t = inputs; t->name; t++) {
            const int64_t count = lossd_count(t);
            if (count < 0 || (unsigned)t->dtype >= LOSSD_TYPES)
                return lossd_fail(error, 0, "bad_tensor", "a tensor's shape or type is none");
            if (lossd_types[t->dtype].width != width)
                continue;
            if (++added > LOSSD_MAX_INPUTS)
                return lossd_fail(error, 0, "bad_tensor", "a request has at most 64 tensors");
            const size_t size = (size_t)count * width;
            const lossd_block *block = metadata ? lossd_block_of(client, t->data, size) : NULL;
            if (block) {
                lossd_name_memory(metadata, t->name, block, t->data, t);
                shared++;
                continue;
            }
            json_t *shape = json_array();
            for (int i = 0; i < t->rank; i++)
                json_array_append_new(shape, json_integer(t->shape[i]));
            json_object_set_new(
                header, t->name,
                json_pack("{s:s, s:o, s:[I,I]}", "dtype", lossd_types[t->dtype].word, "shape",
                          shape, "data_offsets", (json_int_t)offset, (json_int_t)(offset + size)));
            lossd_add_piece(body, t->data, size);
            offset += size;
        }
    for (const lossd_tensor *t = inputs; t->name; t++)
        named++;
    const int members =
        (int)json_object_size(header) - (json_object_get(header, "__metadata__") != NULL);
    if (members + shared != named)
        return lossd_fail(error, 0, "bad_tensor", "two tensors have one name, or no memory");
    return true;
}

/* True with body->header, which the caller frees either way. Takes `metadata`; NULL: none, and all
 * tensors are sent. */
static bool lossd_write_body(lossd_body *body, const lossd_client *client, json_t *metadata,
                             const lossd_tensor *inputs, lossd_error *error)
{
    json_t *header = json_object();
    *body = (lossd_body){.pieces = 1};
    if (metadata)
        json_object_set_new(header, "__metadata__", metadata);
    const bool ok = lossd_describe_inputs(client, header, inputs, body, error);
    char *text = ok ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!ok)
        return false;
    const size_t length = text ? strlen(text) : 0, padded = (length + 7) / 8 * 8;
    body->header = text ? malloc(8 + padded) : NULL;
    if (body->header) {
        for (int i = 0; i < 8; i++)
            body->header[i] = (char)(padded >> (8 * i) & 0xff);
        memcpy(body->header + 8, text, length);
        memset(body->header + 8 + length, ' ', padded - length);
        body->piece[0].data = body->header;
        body->piece[0].size = 8 + padded;
        body->size += 8 + padded;
    }
    free(text);
    return body->header || lossd_fail(error, 0, "no_memory", "no memory for the request");
}

static size_t lossd_read(char *to, size_t size, size_t times, void *cls)
{
    lossd_body *body = cls;
    size_t at = body->done, taken = 0;
    for (int i = 0; i < body->pieces && taken < size * times; i++) {
        if (at >= body->piece[i].size) {
            at -= body->piece[i].size;
            continue;
        }
        const size_t room = size * times - taken, left = body->piece[i].size - at;
        const size_t n = left < room ? left : room;
        memcpy(to + taken, body->piece[i].data + at, n);
        taken += n;
        at = 0;
    }
    body->done += taken;
    return taken;
}

/* curl sends a request again whose kept connection was closed under it. */
static int lossd_seek(void *cls, curl_off_t offset, int origin)
{
    lossd_body *body = cls;
    if (origin != SEEK_SET || offset < 0 || (size_t)offset > body->size)
        return CURL_SEEKFUNC_FAIL;
    body->done = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* What comes. */

static size_t lossd_write(char *data, size_t size, size_t times, void *cls)
{
    lossd_client *client = cls;
    const size_t more = size * times;
    curl_off_t length = 0;
    if (more > client->max_reply - client->size)
        return 0;
    if (client->size + more > client->capacity) {
        size_t capacity = client->capacity * 2;
        curl_easy_getinfo(client->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
        if (length > 0 && (uint64_t)length <= client->max_reply)
            capacity = (size_t)length;
        capacity = capacity > client->size + more ? capacity : client->size + more;
        char *grown = realloc(client->reply, capacity);
        if (!grown)
            return 0;
        client->reply = grown;
        client->capacity = capacity;
    }
    memcpy(client->reply + client->size, data, more);
    client->size += more;
    return more;
}

static bool lossd_bad_reply(lossd_error *error, const char *why)
{
    return lossd_fail(error, 0, "bad_reply", why);
}

static bool lossd_read_type(const char *name, const json_t *entry, lossd_tensor *t)
{
    const char *word = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape");
    int dtype = 0;
    while (word && dtype < LOSSD_TYPES && strcmp(lossd_types[dtype].word, word) != 0)
        dtype++;
    if (!word || dtype == LOSSD_TYPES || !json_is_array(shape) ||
        json_array_size(shape) > LOSSD_MAX_RANK)
        return false;
    *t = (lossd_tensor){
        .name = name, .dtype = (lossd_dtype)dtype, .rank = (int)json_array_size(shape)};
    for (int i = 0; i < t->rank; i++)
        t->shape[i] = json_is_integer(json_array_get(shape, (size_t)i))
                          ? json_integer_value(json_array_get(shape, (size_t)i))
                          : -1;
    return true;
}

/* An entry of the reply's header; `data` are the bytes behind that. */
static bool lossd_read_tensor(const char *name, const json_t *entry, const char *data, size_t size,
                              lossd_tensor *t, lossd_error *error)
{
    const json_t *place = json_object_get(entry, "data_offsets");
    const json_int_t begin = json_integer_value(json_array_get(place, 0));
    const json_int_t end = json_integer_value(json_array_get(place, 1));
    if (!lossd_read_type(name, entry, t) || json_array_size(place) != 2)
        return lossd_bad_reply(error, "an output of the reply has no type, shape or place");
    const int64_t count = lossd_count(t);
    if (count < 0 || begin < 0 || end < begin || (uint64_t)end > size ||
        (uint64_t)(end - begin) != (uint64_t)count * lossd_types[t->dtype].width)
        return lossd_bad_reply(error, "an output of the reply is not where it says");
    t->data = data + begin;
    return true;
}

/* A pointer to a float must be a multiple of 4: what is not lies in a copy. */
static bool lossd_align(lossd_result *r, lossd_error *error)
{
    size_t need = 0;
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0;
        for (int i = 0; i < r->count; i++) {
            lossd_tensor *t = &r->tensors[i];
            const size_t width = lossd_types[t->dtype].width;
            const size_t size = (size_t)lossd_count(t) * width;
            if ((uintptr_t)t->data % width == 0)
                continue;
            if (pass == 1)
                t->data = memcpy((char *)r->aligned + at, t->data, size);
            at += (size + 7) / 8 * 8;
        }
        need = pass == 0 ? at : need;
        if (pass == 0 && need > 0 && !(r->aligned = malloc(need)))
            return lossd_fail(error, 0, "no_memory", "no memory for the reply");
        if (need == 0)
            break;
    }
    return true;
}

const lossd_tensor *lossd_output(const lossd_result *result, const char *name)
{
    for (int i = 0; i < result->count; i++)
        if (strcmp(result->tensors[i].name, name) == 0)
            return &result->tensors[i];
    return NULL;
}

/* The outputs that lossd wrote where it was told to. */
static bool lossd_read_places(const lossd_place *places, const json_t *metadata, lossd_result *r,
                              lossd_error *error)
{
    for (; places && places->name; places++) {
        char key[128], word[8] = "";
        snprintf(key, sizeof key, "region.%s", places->name);
        const char *text = json_string_value(json_object_get(metadata, key));
        if (!text)
            continue;
        json_t *said = json_loads(text, 0, NULL);
        const char *dtype = json_string_value(json_object_get(said, "dtype"));
        for (size_t i = 0; dtype && dtype[i] != '\0' && i < sizeof word - 1; i++)
            word[i] = (char)(dtype[i] >= 'a' ? dtype[i] - 'a' + 'A' : dtype[i]);
        json_t *entry = json_pack("{s:s, s:O, s:[i,I]}", "dtype", word, "shape",
                                  json_object_get(said, "shape"), "data_offsets", 0, (json_int_t)0);
        lossd_tensor *t = &r->tensors[r->count];
        bool ok = lossd_read_type(places->name, entry, t) && lossd_count(t) >= 0 &&
                  (size_t)lossd_count(t) * lossd_types[t->dtype].width <= places->size;
        json_decref(entry);
        json_decref(said);
        if (!ok)
            return lossd_bad_reply(error, "an output of the reply is not where it should be");
        t->data = places->data;
        r->count++;
    }
    return true;
}

/* The outputs that were sent although they have a place: where there is no shared memory. */
static bool lossd_copy_places(const lossd_place *places, lossd_result *r, lossd_error *error)
{
    for (; places && places->name; places++) {
        lossd_tensor *t = (lossd_tensor *)(uintptr_t)lossd_output(r, places->name);
        if (!t || t->data == places->data)
            continue;
        const size_t size = (size_t)lossd_count(t) * lossd_types[t->dtype].width;
        if (size > places->size)
            return lossd_fail(error, 0, "bad_place", "an output is larger than its place");
        if (size > 0)
            memcpy(places->data, t->data, size);
        t->data = places->data;
    }
    return true;
}

/* Takes the reply over. */
static bool lossd_read_reply(lossd_client *client, const lossd_place *places, lossd_result *r,
                             lossd_error *error)
{
    const size_t size = client->size;
    uint64_t length = 0;
    const char *name;
    json_t *entry;
    *r = (lossd_result){.memory = client->reply};
    client->reply = NULL;
    const char *bytes = r->memory;
    for (int i = 7; i >= 0 && size >= 8; i--)
        length = length << 8 | (unsigned char)bytes[i];
    if (size < 8 || length > size - 8)
        return lossd_bad_reply(error, "the reply is no safetensors file, or cut off");
    r->header = json_loadb(bytes + 8, (size_t)length, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object((json_t *)r->header))
        return lossd_bad_reply(error, "the reply's header is no JSON object");
    const json_t *metadata = json_object_get(r->header, "__metadata__");
    r->tensors =
        calloc(json_object_size(r->header) + json_object_size(metadata) + 1, sizeof *r->tensors);
    if (!r->tensors)
        return lossd_fail(error, 0, "no_memory", "no memory for the reply");
    json_object_foreach((json_t *)r->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if (!lossd_read_tensor(name, entry, bytes + 8 + length, size - 8 - (size_t)length,
                               &r->tensors[r->count], error))
            return false;
        r->count++;
    }
    return lossd_align(r, error) && lossd_read_places(places, metadata, r, error) &&
           lossd_copy_places(places, r, error);
}

void lossd_result_free(lossd_result *result)
{
    free(result->tensors);
    free(result->aligned);
    free(result->memory);
    json_decref(result->header);
    *result = (lossd_result){0};
}

/* A refusal: problem+json, or the words of somebody between. */
static bool lossd_refused(lossd_client *client, long status, lossd_error *error)
{
    json_t *problem = json_loadb(client->reply ? client->reply : "", client->size, 0, NULL);
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    const char *code = json_string_value(json_object_get(problem, "code"));
    const char *input = json_string_value(json_object_get(problem, "input"));
    const json_t *index = json_object_get(problem, "index");
    struct curl_header *id = NULL;
    lossd_fail(error, status, code ? code : "", detail ? detail : "");
    if (!detail && client->reply)
        snprintf(error->detail, sizeof error->detail, "%.*s",
                 (int)(client->size < 200 ? client->size : 200), client->reply);
    snprintf(error->input, sizeof error->input, "%s", input ? input : "");
    for (size_t i = 0; i < json_array_size(index) && i < LOSSD_MAX_RANK; i++)
        error->index[error->indices++] = json_integer_value(json_array_get(index, i));
    if (curl_easy_header(client->curl, "X-Request-Id", 0, CURLH_HEADER, -1, &id) == CURLHE_OK)
        snprintf(error->request_id, sizeof error->request_id, "%s", id->value);
    json_decref(problem);
    return false;
}

/* Calls. */

static int64_t lossd_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A large body through a Unix socket with 208 KiB of buffer takes twice as long. */
static int lossd_on_socket(void *cls, curl_socket_t fd, curlsocktype purpose)
{
    const lossd_client *client = cls;
    const int size = LOSSD_BUFFER;
    if (client->path && purpose == CURLSOCKTYPE_IPCXN)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return CURL_SOCKOPT_OK;
}

static char *lossd_join(const char *a, const char *b)
{
    const size_t size = strlen(a) + strlen(b) + 1;
    char *joined = malloc(size);
    if (joined)
        snprintf(joined, size, "%s%s", a, b);
    return joined;
}

lossd_client *lossd_open(const char *url, const lossd_settings *settings)
{
    const lossd_settings none = {.retries = -1}, *s = settings ? settings : &none;
    lossd_client *client = calloc(1, sizeof *client);
    if (!client)
        return NULL;
    client->curl = curl_easy_init();
    const bool local = strncmp(url, "unix:", 5) == 0;
    client->path = local ? lossd_join(url + 5, "") : NULL;
    client->base = lossd_join(local ? "http://localhost" : url, "");
    client->authorization = s->api_key ? lossd_join("Authorization: Bearer ", s->api_key) : NULL;
    client->timeout_ms = s->timeout_ms > 0 ? s->timeout_ms : 30000;
    client->retries = s->retries >= 0 ? s->retries : 4;
    client->query = "";
    client->max_reply = s->max_reply > 0 ? s->max_reply : (size_t)1 << 32;
    if (!client->curl || !client->base || (s->api_key && !client->authorization) ||
        (local && (!client->path || curl_easy_setopt(client->curl, CURLOPT_UNIX_SOCKET_PATH,
                                                     client->path) != CURLE_OK))) {
        lossd_close(client);
        return NULL;
    }
    while (client->base[0] != '\0' && client->base[strlen(client->base) - 1] == '/')
        client->base[strlen(client->base) - 1] = '\0';
    curl_easy_setopt(client->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(client->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(client->curl, CURLOPT_BUFFERSIZE, (long)LOSSD_BUFFER);
    curl_easy_setopt(client->curl, CURLOPT_UPLOAD_BUFFERSIZE, (long)LOSSD_BUFFER);
    curl_easy_setopt(client->curl, CURLOPT_SOCKOPTFUNCTION, lossd_on_socket);
    curl_easy_setopt(client->curl, CURLOPT_SOCKOPTDATA, client);
    curl_easy_setopt(client->curl, CURLOPT_READFUNCTION, lossd_read);
    curl_easy_setopt(client->curl, CURLOPT_SEEKFUNCTION, lossd_seek);
    curl_easy_setopt(client->curl, CURLOPT_WRITEFUNCTION, lossd_write);
    curl_easy_setopt(client->curl, CURLOPT_WRITEDATA, client);
    curl_easy_setopt(client->curl, CURLOPT_ERRORBUFFER, client->said);
    return client;
}

void lossd_close(lossd_client *client)
{
    if (!client)
        return;
    while (client->blocks)
        lossd_unshare(client, client->blocks->at);
    curl_easy_cleanup(client->curl);
    free(client->path);
    free(client->base);
    free(client->authorization);
    free(client->reply);
    free(client);
}

CURL *lossd_curl(lossd_client *client)
{
    return client->curl;
}

static struct curl_slist *lossd_headers(const lossd_client *client, const lossd_body *body,
                                        int64_t left_ms)
{
    char limit[64];
    struct curl_slist *all = NULL;
    snprintf(limit, sizeof limit, "X-Request-Timeout: %lld", (long long)left_ms);
    const char *const lines[] = {limit, client->authorization,
                                 body ? "Content-Type: application/x-safetensors" : NULL,
                                 body ? "Accept: application/x-safetensors" : NULL,
                                 body ? "Expect:" : NULL}; /* no waiting for leave to send */
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (lines[i]) {
            struct curl_slist *longer = curl_slist_append(all, lines[i]);
            if (!longer) {
                curl_slist_free_all(all);
                return NULL;
            }
            all = longer;
        }
    return all;
}

/* One try: the status, or 0 with the error. */
static long lossd_try(lossd_client *client, const char *url, lossd_body *body, int64_t left_ms,
                      lossd_error *error)
{
    struct curl_slist *headers = lossd_headers(client, body, left_ms);
    long status = 0;
    client->size = 0;
    client->said[0] = '\0';
    if (!headers) {
        lossd_fail(error, 0, "no_memory", "no memory for the request");
        return 0;
    }
    curl_easy_setopt(client->curl, CURLOPT_URL, url);
    curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(client->curl, CURLOPT_TIMEOUT_MS, (long)left_ms);
    curl_easy_setopt(client->curl, CURLOPT_CUSTOMREQUEST, client->method);
    if (body) {
        body->done = 0;
        curl_easy_setopt(client->curl, CURLOPT_POST, 1L);
        curl_easy_setopt(client->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->size);
        curl_easy_setopt(client->curl, CURLOPT_READDATA, body);
        curl_easy_setopt(client->curl, CURLOPT_SEEKDATA, body);
    } else {
        curl_easy_setopt(client->curl, CURLOPT_HTTPGET, 1L);
    }
    const CURLcode sent = curl_easy_perform(client->curl);
    curl_slist_free_all(headers);
    if (sent == CURLE_OK)
        curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    else
        lossd_fail(error, 0, sent == CURLE_OPERATION_TIMEDOUT ? "timeout" : "no_reply",
                   sent == CURLE_WRITE_ERROR ? "the reply is longer than max_reply, or no memory"
                   : client->said[0] != '\0' ? client->said
                                             : curl_easy_strerror(sent));
    return status;
}

static int64_t lossd_wait_ms(lossd_client *client)
{
    struct curl_header *after = NULL;
    if (curl_easy_header(client->curl, "Retry-After", 0, CURLH_HEADER, -1, &after) != CURLHE_OK)
        return 1000;
    const size_t digits = strspn(after->value, "0123456789");
    const bool number = digits > 0 && digits < 9 && after->value[digits] == '\0';
    return number ? 1000 * (int64_t)atol(after->value) : 1000; /* or a date, of a proxy */
}

/* True if the reply is a success; body NULL: GET. */
static bool lossd_call(lossd_client *client, const char *path, const char *name, lossd_body *body,
                       int retries, lossd_error *error)
{
    const int64_t end = lossd_now_ms() + client->timeout_ms;
    char *word = curl_easy_escape(client->curl, name, 0), *all = NULL, *url = NULL;
    if (word && (all = lossd_join(client->base, path)))
        url = lossd_join(all, word);
    free(all);
    all = url;
    url = all ? lossd_join(all, client->query) : NULL;
    curl_free(word);
    free(all);
    if (!url)
        return lossd_fail(error, 0, "no_memory", "no memory for the request");
    long status;
    for (int left = retries;; left--) {
        const int64_t left_ms = end - lossd_now_ms();
        status = lossd_try(client, url, body, left_ms > 1 ? left_ms : 1, error);
        const int64_t wait = status == 503 ? lossd_wait_ms(client) : 0;
        if (status != 503 || left <= 0 || lossd_now_ms() + wait >= end)
            break;
        nanosleep(&(struct timespec){.tv_sec = wait / 1000, .tv_nsec = wait % 1000 * 1000000},
                  NULL);
    }
    free(url);
    if (status / 100 == 2)
        return true;
    return status == 0 ? false : lossd_refused(client, status, error);
}

static void lossd_drop_reply(lossd_client *client)
{
    free(client->reply);
    client->reply = NULL;
    client->size = client->capacity = 0;
}

/* Shared memory. */

/* Read a line's or a head's end: what comes until `end`. False if the connection ends before. */
static bool lossd_receive(int line, const char *end, char *to, size_t room)
{
    size_t size = 0;
    to[0] = '\0';
    while (!strstr(to, end)) {
        const ssize_t got = size < room - 1 ? recv(line, to + size, 1, 0) : 0;
        if (got <= 0)
            return false;
        size += (size_t)got;
        to[size] = '\0';
    }
    return true;
}

static int lossd_dial(const lossd_client *client)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char text[1024], reply[4096];
    const struct timeval patience = {.tv_sec = client->timeout_ms / 1000 + 1};
    const int size = snprintf(text, sizeof text,
                              "GET /v1/regions HTTP/1.1\r\nHost: localhost\r\n"
                              "Connection: Upgrade\r\nUpgrade: losskit-region/1\r\n%s%s\r\n",
                              client->authorization ? client->authorization : "",
                              client->authorization ? "\r\n" : "");
    const int line = strlen(client->path) < sizeof to.sun_path && size < (int)sizeof text
                         ? socket(AF_UNIX, SOCK_STREAM, 0)
                         : -1;
    if (line < 0)
        return -1;
    fcntl(line, F_SETFD, FD_CLOEXEC);
    setsockopt(line, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    snprintf(to.sun_path, sizeof to.sun_path, "%s", client->path);
    if (connect(line, (const struct sockaddr *)&to, sizeof to) == 0 &&
        send(line, text, (size_t)size, MSG_NOSIGNAL) == size &&
        lossd_receive(line, "\r\n\r\n", reply, sizeof reply) &&
        strncmp(reply, "HTTP/1.1 101", 12) == 0)
        return line;
    close(line);
    return -1;
}

/* Hand a block over to the lossd that answers now. False with a sentence. */
static bool lossd_hand_over(const lossd_client *client, lossd_block *b, const char **why)
{
    char message[16] = {0}, answer[4096];
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec piece = {message, sizeof message};
    struct msghdr all = {.msg_iov = &piece,
                         .msg_iovlen = 1,
                         .msg_control = control.room,
                         .msg_controllen = sizeof control.room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&all);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &b->file, sizeof b->file);
    for (int i = 0; i < 8; i++)
        message[i] = (char)(b->size >> (8 * i) & 0xff);
    if (b->line >= 0)
        close(b->line);
    b->line = lossd_dial(client);
    *why = "lossd does not offer shared memory";
    if (b->line < 0)
        return false;
    const bool answered = sendmsg(b->line, &all, MSG_NOSIGNAL) == (ssize_t)sizeof message &&
                          lossd_receive(b->line, "\n", answer, sizeof answer);
    json_t *said = answered ? json_loads(answer, 0, NULL) : NULL;
    const char *name = json_string_value(json_object_get(said, "region"));
    snprintf(b->name, sizeof b->name, "%s", name ? name : "");
    json_decref(said);
    if (name)
        return true;
    *why = "lossd did not take the memory: it has no budget for more, or no room";
    close(b->line);
    b->line = -1;
    return false;
}

#ifdef __linux__
int memfd_create(const char *name, unsigned flags); /* the C library hides it in strict C */

static int lossd_sealed_file(size_t size)
{
    enum { CLOEXEC = 1, ALLOW_SEALING = 2, ADD_SEALS = 1033, SEAL = 1, SHRINK = 2 };
    const int file = memfd_create("lossd", CLOEXEC | ALLOW_SEALING);
    if (file >= 0 &&
        (ftruncate(file, (off_t)size) != 0 || fcntl(file, ADD_SEALS, SEAL | SHRINK) != 0)) {
        close(file);
        return -1;
    }
    return file;
}
#else
static int lossd_sealed_file(size_t size)
{
    (void)size;
    return -1;
}
#endif

void *lossd_share(lossd_client *client, size_t size, const char **why)
{
    const char *ignored;
    lossd_block *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    why = why ? why : &ignored;
    *why = client->path ? "this system has no sealed memory" : "shared memory is for unix: URLs";
    b->size = size > 0 ? size : 1;
    b->process = getpid();
    b->line = -1;
    b->file = client->path ? lossd_sealed_file(b->size) : -1;
    if (b->file >= 0) {
        b->at = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_SHARED, b->file, 0);
        if (b->at == MAP_FAILED) {
            close(b->file);
            free(b);
            return NULL;
        }
        if (lossd_hand_over(client, b, why))
            *why = NULL;
    } else if (!(b->at = calloc(1, b->size))) {
        free(b);
        return NULL;
    }
    b->next = client->blocks;
    client->blocks = b;
    return b->at;
}

void lossd_unshare(lossd_client *client, void *memory)
{
    lossd_block **at = &client->blocks;
    while (*at && (*at)->at != memory)
        at = &(*at)->next;
    lossd_block *b = *at;
    if (!b)
        return;
    *at = b->next;
    if (b->line >= 0)
        close(b->line);
    if (b->file >= 0) {
        munmap(b->at, b->size);
        close(b->file);
    } else {
        free(b->at);
    }
    free(b);
}

/* After lossd did not know a region: hand over anew what it forgot, since it was started again. */
static bool lossd_renew(lossd_client *client)
{
    bool renewed = false;
    for (lossd_block *b = client->blocks; b; b = b->next) {
        char byte;
        const char *why;
        if (b->line >= 0 && recv(b->line, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
            renewed = lossd_hand_over(client, b, &why) || renewed;
    }
    return renewed;
}

static bool lossd_post(lossd_client *client, const char *path, const char *name,
                       const lossd_tensor *inputs, const lossd_option *options,
                       const char *const *outputs, const lossd_place *places, lossd_result *result,
                       lossd_error *error)
{
    bool ok, again;
    *result = (lossd_result){0};
    do {
        lossd_body body;
        json_t *metadata = lossd_metadata(client, options, outputs, places);
        ok = lossd_write_body(&body, client, metadata, inputs, error) &&
             lossd_call(client, path, name, &body, client->retries, error);
        again = !ok && strcmp(error->code, "region_invalid") == 0 && lossd_renew(client);
        ok = ok && lossd_read_reply(client, places, result, error);
        free(body.header);
        lossd_drop_reply(client);
    } while (again);
    if (!ok)
        lossd_result_free(result);
    return ok;
}

bool lossd_evaluate_into(lossd_client *client, const char *loss, const lossd_tensor *inputs,
                         const lossd_option *options, const char *const *outputs,
                         const lossd_place *places, lossd_result *result, lossd_error *error)
{
    return lossd_post(client, "/v1/losses/", loss, inputs, options, outputs, places, result, error);
}

bool lossd_evaluate(lossd_client *client, const char *loss, const lossd_tensor *inputs,
                    const lossd_option *options, const char *const *outputs, lossd_result *result,
                    lossd_error *error)
{
    return lossd_evaluate_into(client, loss, inputs, options, outputs, NULL, result, error);
}

bool lossd_transform(lossd_client *client, const char *name, const lossd_tensor *inputs,
                     const lossd_option *options, const char *const *outputs, lossd_result *result,
                     lossd_error *error)
{
    return lossd_post(client, "/v1/transforms/", name, inputs, options, outputs, NULL, result,
                      error);
}

/* Resident tensors. */

static bool lossd_other(lossd_client *client, const char *method, const char *name,
                        const char *query, lossd_body *body, lossd_error *error)
{
    client->method = method;
    client->query = query;
    const bool ok = lossd_call(client, "/v1/regions/", name, body, client->retries, error);
    client->method = NULL;
    client->query = "";
    lossd_drop_reply(client);
    return ok;
}

bool lossd_keep(lossd_client *client, const char *name, const lossd_tensor *tensors, bool replace,
                lossd_error *error)
{
    lossd_body body;
    const bool ok = lossd_write_body(&body, client, NULL, tensors, error) &&
                    lossd_other(client, "PUT", name, replace ? "?replace=true" : "", &body, error);
    free(body.header);
    return ok;
}

bool lossd_forget(lossd_client *client, const char *name, lossd_error *error)
{
    return lossd_other(client, "DELETE", name, "", NULL, error);
}

bool lossd_ready(lossd_client *client)
{
    lossd_error error;
    const bool ready = lossd_call(client, "/", "readyz", NULL, 0, &error);
    lossd_drop_reply(client);
    return ready;
}

#endif
