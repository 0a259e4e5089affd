/* SPDX-License-Identifier: MIT
 *
 * Graphs: every byte is a choice - how many parts, which losses, with or without a weight or a
 * name, what each input reads (a tensor of a fixed pool, an output of any part, nothing), which
 * outputs are asked for. A graph that is accepted must have the same bits however it is run, and in
 * place; one that is refused must say why.
 */
#include "fuzz.h"

#include "losskit.h"

#include <stdbool.h>

enum { POOL = 12, PARTS = 16, OUTPUTS = 128, ELEMENTS = 24 };

typedef struct choices {
    const uint8_t *data;
    size_t left;
} choices;

/* A number below n; 0 when the bytes are used up. */
static int choose(choices *c, int n)
{
    if (c->left == 0 || n < 1)
        return 0;
    c->left--;
    return *c->data++ % n;
}

/* Tensors for most inputs of most losses: B = N = 2, T = 3, C = 4. */
static const struct {
    lk_dtype dtype;
    int rank;
    int64_t shape[3];
} pool[POOL] = {
    {LK_F32, 3, {2, 3, 4}}, {LK_F32, 3, {2, 3, 4}}, {LK_F32, 2, {2, 3}}, {LK_F32, 2, {2, 3}},
    {LK_F32, 1, {2}},       {LK_F32, 1, {2}},       {LK_F32, 0, {0}},    {LK_F64, 1, {2}},
    {LK_BF16, 2, {2, 3}},   {LK_I64, 2, {2, 3}},    {LK_I64, 1, {2}},    {LK_BOOL, 2, {2, 3}},
};

static void fill(int t, unsigned char to[ELEMENTS * 8])
{
    for (int i = 0; i < ELEMENTS; i++) {
        const float x = (float)((i * 7 + t * 3) % 11 - 5) / 4;
        const double wide = (double)x;
        const int64_t whole = (i + t) % 3;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        const uint16_t half = (uint16_t)(bits >> 16);
        switch (pool[t].dtype) {
        case LK_F32:
            memcpy(to + i * 4, &x, sizeof x);
            break;
        case LK_F64:
            memcpy(to + i * 8, &wide, sizeof wide);
            break;
        case LK_BF16:
            memcpy(to + i * 2, &half, sizeof half);
            break;
        case LK_I64:
            memcpy(to + i * 8, &whole, sizeof whole);
            break;
        default:
            to[i] = i % 3 != 0;
            break;
        }
    }
}

/* "part.<k>.<output>" of any part; now and then of none. */
static void choose_output(choices *c, int parts, const lk_description *const *is, char to[64])
{
    const int k = choose(c, parts + 1);
    const lk_description *of = is[k < parts ? k : 0];
    int outputs = 0;
    while (of->outputs[outputs].name)
        outputs++;
    const int o = choose(c, outputs + 1);
    const bool named = choose(c, 4) == 0;
    snprintf(to, 64, named ? "part.p%d.%s" : "part.%d.%s", k,
             o < outputs ? of->outputs[o].name : "loss");
}

static lk_status add_part(lk_call *call, choices *c, int k, int parts,
                          const lk_description *const *is, bool used[POOL], lk_error *error)
{
    char text[64];
    lk_status status = choose(c, 3) == 0 ? lk_call_part(call, is[k]->name, choose(c, 5) - 2, error)
                                         : lk_call_part_unweighted(call, is[k]->name, error);
    snprintf(text, sizeof text, "p%d", k);
    if (status == LK_OK && choose(c, 2) == 0)
        status = lk_call_part_name(call, text, error);
    if (status == LK_OK && is[k]->loss_shape && choose(c, 2) == 0)
        status = lk_call_part_option(call, "reduction", "none", error);
    for (const lk_input *in = is[k]->inputs; in->name && status == LK_OK; in++) {
        const int what = choose(c, 4), t = choose(c, POOL);
        if (strcmp(in->name, "grad_output") == 0)
            continue;
        if (what == 3 && (in->flags & LK_OPTIONAL)) {
            status = lk_call_part_input(call, in->name, NULL, error);
        } else if (what == 0) {
            choose_output(c, parts, is, text);
            status = lk_call_part_input(call, in->name, text, error);
        } else {
            used[t] = true;
            snprintf(text, sizeof text, "t%d", t);
            status = lk_call_part_input(call, in->name, text, error);
        }
    }
    return status;
}

/* The same choices always make the same graph. */
static lk_status make(lk_call *call, choices c, lk_tensor tensors[POOL], lk_error *error)
{
    const int parts = 1 + choose(&c, PARTS);
    const lk_description *is[PARTS];
    bool used[POOL] = {false};
    lk_status status = LK_OK;
    char text[64];
    for (int k = 0; k < parts; k++)
        is[k] = lk_loss_describe(lk_loss_at(choose(&c, lk_loss_count())));
    for (int k = 0; k < parts && status == LK_OK; k++)
        status = add_part(call, &c, k, parts, is, used, error);
    for (int t = 0; t < POOL && status == LK_OK; t++) {
        snprintf(text, sizeof text, "t%d", t);
        if (used[t])
            status = lk_call_input(call, text, &tensors[t], error);
    }
    if (status == LK_OK && choose(&c, 4) == 0) {
        choose_output(&c, parts, is, text);
        status = lk_call_want(call, text, error);
        if (status == LK_OK)
            status = lk_call_want(call, "loss", error);
    }
    return status == LK_OK ? lk_call_check(call, error) : status;
}

/* Evaluate; the outputs' bytes, one after the other, go to `to`. */
static lk_status evaluate(choices c, bool apart, unsigned char *to, size_t room, size_t *size,
                          lk_error *error)
{
    static _Alignas(64) unsigned char bytes[POOL][ELEMENTS * 8];
    lk_tensor tensors[POOL], out;
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    REQUIRE(call);
    for (int t = 0; t < POOL; t++) {
        fill(t, bytes[t]);
        tensors[t] = (lk_tensor){bytes[t], pool[t].dtype, pool[t].rank, {0}};
        memcpy(tensors[t].shape, pool[t].shape, sizeof pool[t].shape);
    }
    lk_status status = make(call, c, tensors, error);
    *size = 0;
    for (int i = 0; status == LK_OK && lk_call_output(call, i, &out); i++) {
        const lk_tensor *over = apart ? lk_call_in_place(call, i) : NULL;
        const size_t n = (size_t)lk_tensor_count(&out) * lk_dtype_size(out.dtype);
        REQUIRE(*size + n <= room);
        REQUIRE(lk_call_bind(call, i, over ? over->data : to + *size) == LK_OK);
        *size += n;
    }
    if (status == LK_OK)
        status = lk_call_plan(call, error);
    if (status == LK_OK) {
        const size_t need = (lk_call_scratch(call) + 127) / 64 * 64;
        void *scratch = aligned_alloc(64, need);
        REQUIRE(scratch);
        do {
            const int64_t blocks = lk_call_blocks(call);
            for (int64_t b = blocks; apart && b-- > 0;)
                lk_call_run(call, b, 1, scratch);
            if (!apart)
                lk_call_run(call, 0, blocks, scratch);
        } while (lk_call_next(call));
        status = lk_call_finish(call, error);
        free(scratch);
    }
    size_t at = 0;
    for (int i = 0; status == LK_OK && lk_call_output(call, i, &out); i++) {
        const size_t n = (size_t)lk_tensor_count(&out) * lk_dtype_size(out.dtype);
        memmove(to + at, out.data, n);
        at += n;
    }
    lk_call_free(call);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { ROOM = OUTPUTS * ELEMENTS * 8 };
    static unsigned char first[ROOM], second[ROOM];
    lk_error one = {.status = LK_OK}, other = {.status = LK_OK};
    size_t length, again;
    const lk_status status = evaluate((choices){data, size}, false, first, ROOM, &length, &one);
    REQUIRE(evaluate((choices){data, size}, true, second, ROOM, &again, &other) == status);
    REQUIRE(status == LK_OK || (one.text[0] != '\0' && strcmp(one.text, other.text) == 0));
    REQUIRE(status != LK_MISUSE && status != LK_NO_MEMORY);
    REQUIRE(status != LK_OK || (length == again && memcmp(first, second, length) == 0));
    return 0;
}
