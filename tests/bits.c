/* SPDX-License-Identifier: MIT
 *
 * Hashes of the bits of every loss over drawn inputs, options and all outputs, for each element
 * type: they are the same on every processor, instruction set, operating system and compiler. The
 * NaN of an output is hashed as one NaN, since IEEE 754 leaves its sign and its other bits open.
 *
 * usage: bits FILE           compare with a file of hashes, on every instruction set that runs here
 *        bits --write        print such a file
 *        bits --list [LOSS]  print the hash of every trial, to find the one that differs elsewhere
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/trial/trial.h"

enum { ROUNDS = 40, ELEMENTS = 4, ISAS = 8, PARTS = 3 };

static const lk_dtype elements[ELEMENTS] = {LK_F64, LK_F32, LK_F16, LK_BF16};

/* FNV-1a. */
typedef uint64_t hash;

static const hash start = 0xcbf29ce484222325U;

static void hash_byte(hash *h, unsigned byte)
{
    *h = (*h ^ byte) * 0x100000001b3U;
}

static void hash_int(hash *h, uint64_t x, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash_byte(h, (unsigned)(x >> (8 * i) & 0xff));
}

static void hash_text(hash *h, const char *text)
{
    do
        hash_byte(h, (unsigned char)*text);
    while (*text++);
}

/* Element i, every NaN as the same one. */
static void hash_element(hash *h, const lk_tensor *t, int64_t i)
{
    const size_t size = lk_dtype_size(t->dtype);
    const unsigned char *at = (const unsigned char *)t->data + (size_t)i * size;
    const double x = is_float(t->dtype) ? load(t->data, t->dtype, i) : 0;
    for (size_t k = 0; k < size; k++)
        hash_byte(h, x == x ? at[k] : 0xff);
}

static void hash_tensor(hash *h, const char *name, const lk_tensor *t)
{
    hash_text(h, name);
    hash_text(h, lk_dtype_name(t->dtype));
    hash_int(h, (uint64_t)t->rank, 1);
    for (int k = 0; k < t->rank; k++)
        hash_int(h, (uint64_t)t->shape[k], 8);
    for (int64_t i = 0; i < lk_tensor_count(t); i++)
        hash_element(h, t, i);
}

static hash hash_answer(const answer *a)
{
    hash h = start;
    hash_text(&h, lk_status_name(a->status));
    for (int k = 0; k < LK_MAX_RANK && a->status != LK_OK; k++)
        hash_int(&h, (uint64_t)a->error.index[k], 8);
    for (int k = 0; k < a->count && a->status == LK_OK; k++)
        hash_tensor(&h, a->out[k].name, &a->out[k].tensor);
    return h;
}

/* The same trials whatever other losses and trials are drawn. */
static void begin(const char *loss, int element, int round)
{
    random_state = 1;
    for (const char *c = loss; *c; c++)
        random_state = random_bits() + (uint64_t)*c;
    random_state = random_bits() + (uint64_t)(element * ROUNDS + round);
}

/* Several losses as one: drawn parts, each with tensors of its own. */
typedef struct whole {
    const lk_loss *loss;
    int parts;
    trial part[PARTS];
    double weight[PARTS];
    bool uncertain;
} whole;

static bool draw_part(trial *t, lk_dtype element)
{
    lk_error error;
    const lk_loss *loss;
    do
        loss = lk_loss_at(random_below(lk_loss_count()));
    while (lk_loss_describe(loss)->traits & (LK_DYNAMIC | LK_TRANSFORM));
    *t = trial_draw(loss, &(wish){.element = element, .reduction = "mean", .smooth = true}, &error);
    return error.status == LK_OK;
}

static whole draw_whole(const lk_loss *loss, lk_dtype element)
{
    whole w = {.loss = loss, .uncertain = chance(0.5)};
    for (int k = 1 + random_below(PARTS); k > 0; k--)
        if (draw_part(&w.part[w.parts], element))
            w.weight[w.parts++] = random_normal();
    return w;
}

/* Tensors of a call, of which each owns its data. */
typedef struct tensors {
    int count;
    lk_tensor of[PARTS * TRIAL_INPUTS + TRIAL_OUTPUTS * PARTS];
} tensors;

static lk_tensor *tensor_of(tensors *all, lk_dtype type, int rank, const int64_t *shape)
{
    lk_tensor *t = &all->of[all->count++];
    *t = (lk_tensor){NULL, type, rank, {0}};
    memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
    t->data = must(malloc(bytes_of(t) + 1));
    return t;
}

static lk_status give_part(lk_call *call, const whole *w, int k, tensors *all, lk_error *error)
{
    const trial *t = &w->part[k];
    lk_status status = lk_call_part(call, t->is->name, w->uncertain ? 1 : w->weight[k], error);
    for (int i = 0; i < t->settings && status == LK_OK; i++)
        status = lk_call_part_option(call, t->set[i].field->name, t->set[i].text, error);
    for (int i = 0; i < t->inputs && status == LK_OK; i++) {
        const trial_input *in = &t->in[i];
        const bool upstream = strcmp(in->pattern, "loss") == 0 || (in->is->flags & LK_COTANGENT);
        char name[TRIAL_NAME + 8];
        snprintf(name, sizeof name, "p%d_%s", k, in->is->name);
        if (!in->given || upstream) {
            if (in->is->flags & LK_OPTIONAL && !upstream)
                status = lk_call_part_input(call, in->is->name, NULL, error);
            continue;
        }
        status = lk_call_part_input(call, in->is->name, name, error);
        lk_tensor *x = tensor_of(all, in->type, in->at.rank, in->at.shape);
        for (int64_t j = 0; j < in->at.count; j++)
            store(x->data, x->dtype, j, in->x[j]);
        if (status == LK_OK)
            status = lk_call_input(call, name, x, error);
    }
    return status;
}

static hash hash_whole(const whole *w)
{
    lk_call *call = must(lk_call_new(w->loss));
    tensors *all = must(calloc(1, sizeof *all));
    lk_error error = {0};
    hash h = start;
    lk_status status = LK_OK;
    for (int k = 0; k < w->parts && status == LK_OK; k++)
        status = give_part(call, w, k, all, &error);
    if (w->uncertain && status == LK_OK) {
        const int64_t parts = w->parts;
        lk_tensor *x = tensor_of(all, LK_F64, 1, &parts);
        memcpy(x->data, w->weight, bytes_of(x));
        status = lk_call_option(call, "combine", "uncertainty", &error);
        if (status == LK_OK)
            status = lk_call_input(call, "log_vars", x, &error);
    }
    if (status == LK_OK)
        status = lk_call_check(call, &error);
    lk_tensor *const first = &all->of[all->count];
    for (int i = 0; status == LK_OK && i < lk_call_outputs(call); i++) {
        lk_tensor out;
        lk_call_output(call, i, &out);
        lk_call_bind(call, i, tensor_of(all, out.dtype, out.rank, out.shape)->data);
    }
    if (status == LK_OK)
        status = lk_call_plan(call, &error);
    if (status == LK_OK) {
        const size_t size = (lk_call_scratch(call) + 63) / 64 * 64;
        void *scratch = must(aligned_alloc(64, size + 64));
        do
            lk_call_run(call, 0, lk_call_blocks(call), scratch);
        while (lk_call_next(call));
        status = lk_call_finish(call, &error);
        free(scratch);
    }
    hash_text(&h, lk_status_name(status));
    for (int i = 0; status == LK_OK && i < lk_call_outputs(call); i++)
        hash_tensor(&h, lk_call_output(call, i, NULL), &first[i]);
    for (int i = 0; i < all->count; i++)
        free(all->of[i].data);
    free(all);
    lk_call_free(call);
    return h;
}

/* What each instruction set computes for one loss and element type. */
typedef struct results {
    hash of[ISAS];
    char differs[ISAS][1100]; /* the first trial in which one differs from the first that runs */
} results;

static bool listing;

static void take(results *r, int isa, hash h, const hash *first, const char *what)
{
    hash_int(&r->of[isa], h, 8);
    if (h != *first && !r->differs[isa][0])
        snprintf(r->differs[isa], sizeof r->differs[isa], "%s", what);
    if (listing)
        printf("%-6s %016" PRIx64 " %s\n", lk_isa_name(isa), h, what);
}

static void run_round(results *r, const lk_loss *loss, int element, int round)
{
    const lk_description *is = lk_loss_describe(loss);
    const bool dynamic = is->traits & LK_DYNAMIC;
    whole w = {0};
    trial t = {0};
    lk_error error;
    char text[1024], what[1100];
    hash first = 0;
    begin(is->name, element, round);
    if (dynamic) {
        w = draw_whole(loss, elements[element]);
        size_t used = 0;
        for (int k = 0; k < w.parts && used < sizeof text - 64; k++)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", k ? " + " : "",
                                     w.part[k].is->name);
    } else {
        t = trial_draw(loss,
                       &(wish){.element = elements[element],
                               .plain = round % 5 == 0,
                               .nonfinite = round % 5 == 4,
                               .huge = round == 0},
                       &error);
        trial_text(&t, text);
    }
    snprintf(what, sizeof what, "%s %s, trial %d: %s", is->name, lk_dtype_name(elements[element]),
             round, text);
    for (int isa = 0; isa < lk_isa_count(); isa++) {
        if (!lk_isa_runs(isa))
            continue;
        hash h;
        if (dynamic) {
            lk_isa_use(lk_isa_name(isa));
            h = hash_whole(&w);
            lk_isa_use("auto");
        } else {
            answer a = evaluate(&t, &(how){.isa = lk_isa_name(isa)});
            h = hash_answer(&a);
            answer_free(&a);
        }
        first = first ? first : h;
        take(r, isa, h, &first, what);
    }
    trial_free(&t);
    for (int k = 0; k < w.parts; k++)
        trial_free(&w.part[k]);
}

static results run(const lk_loss *loss, int element)
{
    results r;
    memset(&r, 0, sizeof r);
    for (int isa = 0; isa < ISAS; isa++)
        r.of[isa] = start;
    for (int round = 0; round < ROUNDS; round++)
        run_round(&r, loss, element, round);
    return r;
}

/* A line of the file: a loss, and a hash for each element type. */
typedef struct line {
    char name[64];
    hash of[ELEMENTS];
} line;

static line *read_file(const char *path, int *count)
{
    FILE *file = fopen(path, "r");
    line *lines = NULL, l;
    char text[256];
    *count = 0;
    while (file && fgets(text, sizeof text, file)) {
        if (text[0] == '#')
            continue;
        if (sscanf(text, "%63s %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64, l.name, &l.of[0],
                   &l.of[1], &l.of[2], &l.of[3]) != 1 + ELEMENTS) {
            fprintf(stderr, "bits: %s: not a loss and %d hashes: %s", path, ELEMENTS, text);
            exit(2);
        }
        lines = must(realloc(lines, ((size_t)*count + 1) * sizeof *lines));
        lines[(*count)++] = l;
    }
    if (!file) {
        perror(path);
        exit(2);
    }
    fclose(file);
    return lines;
}

static const hash *line_of(const line *lines, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(lines[i].name, name) == 0)
            return lines[i].of;
    return NULL;
}

/* The instruction set that the others are compared with. */
static int first_isa(void)
{
    int isa = 0;
    while (!lk_isa_runs(isa))
        isa++;
    return isa;
}

/* Complaints about one loss and element type; `want` may be NULL. */
static int compare(const results *r, const char *name, int element, const hash *want)
{
    const int first = first_isa();
    int wrong = 0;
    for (int isa = 0; isa < lk_isa_count(); isa++) {
        if (!lk_isa_runs(isa))
            continue;
        if (r->of[isa] != r->of[first]) {
            fprintf(stderr, "%s %s: %s has other bits than %s; first in %s\n", name,
                    lk_dtype_name(elements[element]), lk_isa_name(isa), lk_isa_name(first),
                    r->differs[isa]);
            wrong++;
        } else if (want && r->of[isa] != *want) {
            fprintf(stderr,
                    "%s %s: %s has other bits than the file: %016" PRIx64 ", not %016" PRIx64 "\n",
                    name, lk_dtype_name(elements[element]), lk_isa_name(isa), r->of[isa], *want);
            wrong++;
        }
    }
    return wrong;
}

static int check(const char *path)
{
    int count, wrong = 0;
    line *lines = read_file(path, &count);
    for (int i = 0; i < lk_loss_count(); i++) {
        const char *name = lk_loss_describe(lk_loss_at(i))->name;
        const hash *want = line_of(lines, count, name);
        if (!want) {
            fprintf(stderr, "%s: %s has no line for it\n", name, path);
            wrong++;
        }
        for (int e = 0; want && e < ELEMENTS; e++) {
            const results r = run(lk_loss_at(i), e);
            wrong += compare(&r, name, e, &want[e]);
        }
    }
    for (int i = 0; i < count; i++)
        if (!lk_loss_find(lines[i].name)) {
            fprintf(stderr, "%s: no loss has the name that is in %s\n", lines[i].name, path);
            wrong++;
        }
    free(lines);
    if (wrong > 0)
        fprintf(stderr,
                "%d differ; where results, losses or what is drawn for them were meant to "
                "change: make bits\n",
                wrong);
    else
        printf("%d losses as in %s\n", lk_loss_count(), path);
    return wrong > 0;
}

static int write_file(void)
{
    int wrong = 0;
    puts(
        "# Hashes of the bits of each loss for f64, f32, f16 and bf16, the same on every machine.\n"
        "# Written by `make bits`, compared by `make test`: see tests/bits.c.");
    for (int i = 0; i < lk_loss_count(); i++) {
        const char *name = lk_loss_describe(lk_loss_at(i))->name;
        printf("%-28s", name);
        for (int e = 0; e < ELEMENTS; e++) {
            const results r = run(lk_loss_at(i), e);
            wrong += compare(&r, name, e, NULL);
            printf(" %016" PRIx64, r.of[first_isa()]);
        }
        puts("");
    }
    return wrong > 0;
}

static int list(const char *only)
{
    listing = true;
    for (int i = 0; i < lk_loss_count(); i++)
        for (int e = 0; e < ELEMENTS; e++)
            if (!only || strcmp(only, lk_loss_describe(lk_loss_at(i))->name) == 0)
                run(lk_loss_at(i), e);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--write") == 0)
        return write_file();
    if (argc >= 2 && argc <= 3 && strcmp(argv[1], "--list") == 0)
        return list(argv[2]);
    if (argc == 2 && argv[1][0] != '-')
        return check(argv[1]);
    fprintf(stderr, "usage: bits FILE | bits --write | bits --list [LOSS]\n");
    return 2;
}
