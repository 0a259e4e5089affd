/* SPDX-License-Identifier: MIT */
#include "catalogue/models.h"

#include "catalogue/trees.h"
#include "oip.h"
#include "region.h"
#include "tell/metrics.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char platform[] = "losskit";

static const char *name_of(const lk_loss *loss)
{
    return lk_loss_describe(loss)->name;
}

void models_server(const lk_loss *all, buffer *to)
{
    (void)all;
    json_t *extensions = json_pack("[s,s,s,s]", "binary_tensor_data", "model_configuration",
                                   "model_repository", "statistics");
    if (region_shm_offered())
        json_array_append_new(extensions, json_string("system_shared_memory"));
    trees_write(json_pack("{s:s, s:s, s:o}", "name", "lossd", "version", lk_version(), "extensions",
                          extensions),
                false, to);
}

void models_list(const lk_loss *all, buffer *to)
{
    (void)all;
    json_t *names = json_array();
    for (int i = 0; i < lk_loss_count(); i++)
        json_array_append_new(names, json_string(name_of(lk_loss_at(i))));
    trees_write(json_pack("{s:o}", "models", names), false, to);
}

void models_index(const lk_loss *all, buffer *to)
{
    (void)all;
    json_t *index = json_array();
    for (int i = 0; i < lk_loss_count(); i++)
        json_array_append_new(index,
                              json_pack("{s:s, s:s, s:s, s:s}", "name", name_of(lk_loss_at(i)),
                                        "version", OIP_VERSION, "state", "READY", "reason", ""));
    trees_write(index, false, to);
}

void models_ready(const lk_loss *loss, buffer *to)
{
    trees_write(json_pack("{s:s, s:b}", "name", name_of(loss), "ready", 1), false, to);
}

/* Tensors. The protocol gives each tensor one type and one shape, where a loss accepts several:
 * floats are reported as FP32, and the first shape is reported. */

static lk_dtype typical(unsigned dtypes)
{
    return dtypes & LK_FLOATS ? LK_F32 : dtypes & LK_INTS ? LK_I64 : LK_BOOL;
}

static lk_dtype input_type(const lk_description *is, const char *name)
{
    for (const lk_input *in = is->inputs; in->name; in++)
        if (strcmp(in->name, name) == 0)
            return typical(in->forms[0].dtypes);
    return LK_F32;
}

static lk_dtype output_type(const lk_description *is, const lk_output *out)
{
    return out->dtype != LK_ANY ? out->dtype : out->like ? input_type(is, out->like) : LK_F32;
}

/* A size for each word of a pattern: 1 for "1", else variable (-1). */
static json_t *dims(const lk_description *is, const char *pattern)
{
    json_t *sizes = json_array();
    if (strcmp(pattern, "loss") == 0)
        pattern = is->loss_shape ? is->loss_shape : "";
    for (const char *word = pattern; *word != '\0';) {
        const size_t length = strcspn(word, " ");
        if (*word != '~') /* any shape that broadcasts to what follows */
            json_array_append_new(sizes, json_integer(length == 1 && *word == '1' ? 1 : -1));
        word += length + (word[length] == ' ');
    }
    return sizes;
}

/* X(list, name, dtype, pattern, optional): adds one tensor to a list. */
typedef void add_tensor(json_t *list, const char *name, lk_dtype dtype, json_t *dims,
                        bool optional);

static void for_each_input(const lk_description *is, json_t *list, add_tensor *add)
{
    for (const lk_input *in = is->inputs; in->name; in++)
        add(list, in->name, typical(in->forms[0].dtypes), dims(is, in->forms[0].shape),
            (in->flags & LK_OPTIONAL) != 0);
}

static void for_each_output(const lk_description *is, json_t *list, add_tensor *add)
{
    char name[64];
    if (!(is->traits & LK_TRANSFORM))
        add(list, "loss", LK_F32, dims(is, "loss"), false);
    for (const lk_input *in = is->inputs; in->name; in++) {
        const lk_form *form = &in->forms[in->forms[0].dtypes & LK_FLOATS ? 0 : 1];
        if (!(in->flags & LK_DIFFERENTIABLE))
            continue;
        snprintf(name, sizeof name, "grad.%s", in->name);
        add(list, name, LK_F32, dims(is, form->shape), false);
    }
    for (const lk_output *out = is->outputs; out->name; out++)
        add(list, out->name, output_type(is, out), dims(is, out->shape), false);
}

static void add_metadata(json_t *list, const char *name, lk_dtype dtype, json_t *sizes,
                         bool optional)
{
    (void)optional;
    json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", name, "datatype",
                                          oip_spelling(dtype), "shape", sizes));
}

void models_metadata(const lk_loss *loss, buffer *to)
{
    const lk_description *is = lk_loss_describe(loss);
    json_t *inputs = json_array(), *outputs = json_array();
    for_each_input(is, inputs, add_metadata);
    for_each_output(is, outputs, add_metadata);
    trees_write(json_pack("{s:s, s:[s], s:s, s:o, s:o}", "name", is->name, "versions", OIP_VERSION,
                          "platform", platform, "inputs", inputs, "outputs", outputs),
                false, to);
}

static void add_config(json_t *list, const char *name, lk_dtype dtype, json_t *sizes, bool optional)
{
    json_t *tensor = json_pack("{s:s, s:o, s:o}", "name", name, "data_type",
                               json_sprintf("TYPE_%s", oip_spelling(dtype)), "dims", sizes);
    if (optional)
        json_object_set_new(tensor, "optional", json_true());
    json_array_append_new(list, tensor);
}

void models_config(const lk_loss *loss, buffer *to)
{
    const lk_description *is = lk_loss_describe(loss);
    json_t *inputs = json_array(), *outputs = json_array();
    for_each_input(is, inputs, add_config);
    for_each_output(is, outputs, add_config);
    trees_write(json_pack("{s:s, s:s, s:s, s:i, s:o, s:o}", "name", is->name, "platform", platform,
                          "backend", platform, "max_batch_size", 0, "input", inputs, "output",
                          outputs),
                false, to);
}

/* Statistics. */

static json_t *duration(uint64_t count, double seconds)
{
    return json_pack("{s:I, s:I}", "count", (json_int_t)count, "ns", (json_int_t)(seconds * 1e9));
}

static json_t *stats(int loss)
{
    const tally t = metrics_tally(loss);
    json_t *batches = json_array();
    if (t.success > 0) /* the server forms no batches: every request counts as one of size 1 */
        json_array_append_new(batches,
                              json_pack("{s:i, s:o, s:o, s:o}", "batch_size", 1, "compute_input",
                                        duration(t.success, t.sum.decode), "compute_infer",
                                        duration(t.success, t.sum.compute), "compute_output",
                                        duration(t.success, t.sum.encode)));
    json_t *inference = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "success", duration(t.success, t.sum.total),
        "fail", duration(t.fail, t.fail_time), "queue", duration(t.success, t.sum.queue),
        "compute_input", duration(t.success, t.sum.decode), "compute_infer",
        duration(t.success, t.sum.compute), "compute_output", duration(t.success, t.sum.encode),
        "cache_hit", duration(0, 0), "cache_miss", duration(0, 0));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:{}, s:o, s:[]}", "name",
                     name_of(lk_loss_at(loss)), "version", OIP_VERSION, "last_inference",
                     (json_int_t)t.last_ms, "inference_count", (json_int_t)t.success,
                     "execution_count", (json_int_t)t.success, "inference_stats", inference,
                     "response_stats", "batch_stats", batches, "memory_usage");
}

void models_stats(const lk_loss *loss, buffer *to)
{
    json_t *all = json_array();
    for (int i = 0; i < lk_loss_count(); i++)
        if (!loss || lk_loss_at(i) == loss)
            json_array_append_new(all, stats(i));
    trees_write(json_pack("{s:o}", "model_stats", all), false, to);
}
