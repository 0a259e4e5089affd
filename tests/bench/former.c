/* SPDX-License-Identifier: MIT
 *
 * Times every kind of loss with two builds of the library, in turns in one process, and prints the
 * ratio of their medians: `make bench FORMER=path/to/liblosskit.so.0`. Numbers that two processes
 * print on a shared machine say less. With --counter FILE it compares counts of 64 bits that FILE
 * holds, such as those of instructions.c, instead of times.
 */
#include <losskit.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "timing.h"

enum { LEAST = 7, MOST = 41, OUTPUTS = 8, INPUTS = 8 };

/* Inputs are "name:shape" with what they hold: numbers in (-4, 4), or ~p rows of probabilities,
 * ~l their logarithms, ~u numbers in (0, 1), ~s 1 and -1 as i64, <N i64 below N. */
static const struct {
    const char *loss, *options, *inputs, *outputs, *dtypes;
} cases[] = {
#define GRAD_LOGITS "loss grad.logits"
#define ALL         "f32 bf16 f16 f64"
    {"cross_entropy", "", "logits:2000000x2 targets:2000000<2", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:1000000x3 targets:1000000<3", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:400000x5 targets:400000<5", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:400000x10 targets:400000<10", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:100000x32 targets:100000<32", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:50000x64 targets:50000<64", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:32768x128 targets:32768<128", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:16384x200 targets:16384<200", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:4096x1000 targets:4096<1000", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:256x32000 targets:256<32000", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:128x50257 targets:128<50257", GRAD_LOGITS, ALL},
    {"cross_entropy", "", "logits:128x50257 targets:128<50257", "loss", "f32 bf16"},
    {"cross_entropy", "", "logits:32x151936 targets:32<151936", GRAD_LOGITS, "f32 bf16"},
    {"cross_entropy", "label_smoothing=0.1", "logits:400000x3 targets:400000<3", GRAD_LOGITS,
     "f32 bf16"},
    {"cross_entropy", "label_smoothing=0.1", "logits:100000x10 targets:100000<10", GRAD_LOGITS,
     "f32 bf16"},
    {"cross_entropy", "label_smoothing=0.1", "logits:32768x128 targets:32768<128", GRAD_LOGITS,
     "f32 bf16"},
    {"cross_entropy", "label_smoothing=0.1", "logits:256x32000 targets:256<32000", GRAD_LOGITS,
     "f32 bf16"},
    {"cross_entropy", "softcap=30 z_loss=0.0001", "logits:256x32000 targets:256<32000", GRAD_LOGITS,
     "f32 bf16"},
    {"cross_entropy", "focal_gamma=2", "logits:400000x3 targets:400000<3", GRAD_LOGITS, "f32"},
    {"cross_entropy", "focal_gamma=2", "logits:32768x128 targets:32768<128", GRAD_LOGITS, "f32"},
    {"cross_entropy", "", "logits:400000x3 targets:400000<3 class_weight:3~u", GRAD_LOGITS, "f32"},
    {"cross_entropy", "", "logits:32768x128 targets:32768<128 class_weight:128~u", GRAD_LOGITS,
     "f32"},
    {"cross_entropy", "", "logits:400000x3 targets:400000x3~p", GRAD_LOGITS, "f32 f64"},
    {"cross_entropy", "", "logits:32768x128 targets:32768x128~p", GRAD_LOGITS, "f32 f64"},
    {"cross_entropy", "", "logits:256x32000 targets:256x32000~p", GRAD_LOGITS, "f32 f64"},
    {"sequence_cross_entropy", "", "logits:4x64x32000 targets:4x64<32000", GRAD_LOGITS, "f32 bf16"},
    {"token_logprobs", "", "logits:4x64x32000 targets:4x64<32000", "logprobs entropy", "f32 bf16"},
    {"token_logprobs", "", "logits:64x512x128 targets:64x512<128", "logprobs entropy", "f32"},
    {"span", "",
     "start_logits:64x512 end_logits:64x512 start_positions:64<512 end_positions:64<512",
     "loss grad.start_logits grad.end_logits", "f32"},
    {"distillation", "divergence=forward_kl", "student_logits:4000x10 teacher_logits:4000x10",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=forward_kl", "student_logits:2000x32 teacher_logits:2000x32",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=forward_kl", "student_logits:64x32000 teacher_logits:64x32000",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=reverse_kl", "student_logits:64x32000 teacher_logits:64x32000",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=jsd", "student_logits:64x32000 teacher_logits:64x32000",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=tvd", "student_logits:64x32000 teacher_logits:64x32000",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=mse_logits", "student_logits:64x32000 teacher_logits:64x32000",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=forward_kl", "student_logits:64x32000 teacher_probs:64x32000~p",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=forward_kl", "student_logits:64x32000 teacher_logprobs:64x32000~l",
     "loss grad.student_logits", "f32 f64"},
    {"distillation", "divergence=forward_kl", "student_logits:2000x32 teacher_probs:2000x32~p",
     "loss grad.student_logits", "f32"},
    {"topk_distillation", "tail=tail",
     "student_logits:64x32000 teacher_ids:64x1<32000 teacher_logprobs:64x1~l",
     "loss grad.student_logits", "f32"},
    {"mse", "", "a:4096x1024 b:4096x1024", "loss grad.a", "f32 f64 bf16"},
    {"mse", "", "a:64x1024 b:64x1024", "loss grad.a", "f32 f64"},
    {"mse", "", "a:4096x1024 b:4096x1024 sample_weight:4096x1024~u", "loss grad.a", "f32"},
    {"mae", "", "a:4096x1024 b:4096x1024", "loss grad.a", "f32"},
    {"huber", "", "a:4096x1024 b:4096x1024", "loss grad.a", "f32"},
    {"smooth_l1", "", "a:4096x1024 b:4096x1024", "loss grad.a", "f32"},
    {"bce_with_logits", "", "logits:4096x1024 targets:4096x1024~u", GRAD_LOGITS, "f32 f64 bf16"},
    {"bce_with_logits", "", "logits:4096x1024 targets:4096x1024~u pos_weight:1024~u", GRAD_LOGITS,
     "f32"},
    {"bce_with_logits", "", "logits:4096x1024 targets:4096x1024~u weight:4096x1024~u", GRAD_LOGITS,
     "f32"},
    {"sigmoid_focal", "", "logits:4096x1024 targets:4096x1024~u", GRAD_LOGITS, "f32 f64"},
    {"kl_div", "", "input:4096x1024~l target:4096x1024~p", "loss grad.input", "f32 f64"},
    {"cosine_similarity", "", "a:1024x768 b:1024x768", "loss grad.a grad.b", "f32 f64"},
    {"cosine_similarity", "", "a:100000x3 b:100000x3", "loss grad.a grad.b", "f32"},
    {"cosine_embedding", "", "a:1024x768 b:1024x768 target:1024~s", "loss grad.a grad.b", "f32"},
    {"contrastive", "", "a:1024x768 b:1024x768 target:1024<2", "loss grad.a grad.b", "f32"},
    {"contrastive", "", "a:100000x3 b:100000x3 target:100000<2", "loss grad.a grad.b", "f32"},
    {"triplet", "", "anchor:1024x768 positive:1024x768 negative:1024x768",
     "loss grad.anchor grad.positive grad.negative", "f32"},
    {"info_nce", "", "anchors:1024x768 candidates:1024x768", "loss grad.anchors grad.candidates",
     "f32 bf16 f64"},
    {"nt_xent", "", "embeddings:1024x768 labels:1024<512", "loss grad.embeddings", "f32"},
    {"supcon", "", "embeddings:2048x768 labels:2048<16", "loss grad.embeddings", "f32"},
    {"margin_softmax", "", "embeddings:256x512 prototypes:4096x512 targets:256<4096",
     "loss grad.embeddings grad.prototypes", "f32"},
    {"linear_cross_entropy", "", "hidden:256x768 weight:50257x768 targets:256<50257",
     "loss grad.hidden", "f32 bf16"},
    {"linear_cross_entropy", "", "hidden:256x768 weight:50257x768 targets:256<50257",
     "loss grad.weight", "f32"},
    {"linear_cross_entropy", "", "hidden:8x768 weight:50257x768 targets:8<50257", "loss",
     "f32 bf16"},
    {"linear_token_logprobs", "", "hidden:1x768 weight:50257x768 targets:1<50257", "logprobs",
     "f32 bf16"},
    {"linear_token_logprobs", "", "hidden:16x768 weight:50257x768 targets:16<50257", "logprobs",
     "f32 bf16"},
    {"linear_token_logprobs", "", "hidden:16x768 weight:50257x768 targets:16<50257",
     "logprobs grad.hidden", "f32"},
    {"late_interaction", "", "queries:16x32x128 documents:32x180x128",
     "loss grad.queries grad.documents", "f32"},
    {"cosent", "", "a:1024x768 b:1024x768 target:1024", "loss grad.a grad.b", "f32"},
    {"dpo", "", "chosen_logps:100000 rejected_logps:100000",
     "loss grad.chosen_logps grad.rejected_logps", "f32"},
    {"policy_gradient", "", "logprobs:64x2048 old_logprobs:64x2048 advantages:64",
     "loss grad.logprobs", "f32"},
    {"ctc", "blank=63", "logits:16x200x64 targets:16x40<63 input_lengths:16<1 target_lengths:16<1",
     GRAD_LOGITS, "f32"},
};

/* The functions of one build. */
#define FUNCTIONS(X)                                                                               \
    X(loss_find, const lk_loss *, (const char *))                                                  \
    X(isa_use, bool, (const char *))                                                               \
    X(isa_used, const char *, (void))                                                              \
    X(version, const char *, (void))                                                               \
    X(call_new, lk_call *, (const lk_loss *))                                                      \
    X(call_free, void, (lk_call *))                                                                \
    X(call_input, lk_status, (lk_call *, const char *, const lk_tensor *, lk_error *))             \
    X(call_option, lk_status, (lk_call *, const char *, const char *, lk_error *))                 \
    X(call_want, lk_status, (lk_call *, const char *, lk_error *))                                 \
    X(call_check, lk_status, (lk_call *, lk_error *))                                              \
    X(call_outputs, int, (const lk_call *))                                                        \
    X(call_output, const char *, (const lk_call *, int, lk_tensor *))                              \
    X(call_bind, lk_status, (lk_call *, int, void *))                                              \
    X(call_plan, lk_status, (lk_call *, lk_error *))                                               \
    X(call_blocks, int64_t, (const lk_call *))                                                     \
    X(call_next, bool, (lk_call *))                                                                \
    X(call_scratch, size_t, (const lk_call *))                                                     \
    X(call_run, void, (lk_call *, int64_t, int64_t, void *))                                       \
    X(call_finish, lk_status, (lk_call *, lk_error *))
typedef struct library {
#define MEMBER(name, result, parameters) result(*name) parameters;
    FUNCTIONS(MEMBER)
#undef MEMBER
} library;

typedef struct work {
    char names[512], options[256], wants[256]; /* cut into words */
    lk_named inputs[INPUTS + 1];
    const char *option[9], *want[OUTPUTS + 1];
    void *outputs[OUTPUTS];
    char *scratch[2];
    size_t room;
} work;

static void stop(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void *room(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!p)
        stop("no memory");
    memset(p, 0, (bytes + 64) / 64 * 64);
    return p;
}

static library load(const char *path)
{
    library l;
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!file)
        stop(dlerror());
        /* A pointer to data becomes one to a function by its bytes: C has no conversion for it. */
#define FIND(name, result, parameters)                                                             \
    {                                                                                              \
        void *found = dlsym(file, "lk_" #name);                                                    \
        if (!found)                                                                                \
            stop(dlerror());                                                                       \
        memcpy(&l.name, &found, sizeof found);                                                     \
    }
    FUNCTIONS(FIND)
#undef FIND
    return l;
}

static const volatile uint64_t *counter; /* what --counter names */

static void map_counter(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *counter, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        stop("the file of --counter cannot be mapped");
    close(fd);
    counter = map;
}

/* One thread is timed by its processor time, which others on the machine take no part of. A count
 * is taken for nanoseconds, so that thousands are printed. */
static double ticks(int threads)
{
    if (counter)
        return (double)*counter * 1e-9;
    return clock_seconds(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC);
}

static uint32_t draw(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static double number(char kind)
{
    double unit = (draw() + 0.5) * 0x1p-24;
    return kind == ' ' ? 8 * unit - 4 : unit;
}

/* f16 as the multiples of 2^-11 below 4 need it: truncated. */
static uint16_t half(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 23 & 255) - 112;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (exponent <= 0)
        return sign;
    return (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 1023));
}

static void put(lk_tensor *t, int64_t i, double x)
{
    float single = (float)x;
    if (t->dtype == LK_F64) {
        ((double *)t->data)[i] = x;
    } else if (t->dtype == LK_F32) {
        ((float *)t->data)[i] = single;
    } else if (t->dtype == LK_F16) {
        ((uint16_t *)t->data)[i] = half(single);
    } else {
        uint32_t bits;
        memcpy(&bits, &single, sizeof bits);
        ((uint16_t *)t->data)[i] = (uint16_t)(bits >> 16);
    }
}

/* One input: "4x64<32000" is what it holds. */
static void fill(lk_tensor *t, lk_dtype dtype, char *text)
{
    char *end = text, kind = ' ';
    long below = 0;
    int64_t count = 1;
    *t = (lk_tensor){.dtype = dtype};
    do {
        t->shape[t->rank] = strtol(end, &end, 10);
        count *= t->shape[t->rank++];
    } while (*end == 'x' && *++end);
    if (*end == '<') {
        below = strtol(end + 1, &end, 10);
        t->dtype = LK_I64;
    } else if (*end == '~') {
        kind = end[1];
        t->dtype = kind == 's' ? LK_I64 : dtype;
    }
    t->data = room((size_t)count * lk_dtype_size(t->dtype));
    const int64_t row = t->shape[t->rank - 1];
    for (int64_t i = 0; i < count; i++)
        if (t->dtype == LK_I64)
            ((int64_t *)t->data)[i] = below ? draw() % below : draw() % 2 ? 1 : -1;
        else if (kind != 'p' && kind != 'l')
            put(t, i, number(kind));
    for (int64_t i = 0; (kind == 'p' || kind == 'l') && i < count; i += row) {
        double *x = room((size_t)row * sizeof *x), sum = 0;
        for (int64_t k = 0; k < row; k++)
            sum += x[k] = number(kind);
        for (int64_t k = 0; k < row; k++)
            put(t, i + k, kind == 'p' ? x[k] / sum : log(x[k] / (sum + (row == 1))));
        free(x);
    }
}

static void prepare(work *w, const char *options, const char *inputs, const char *wants,
                    lk_dtype dtype)
{
    int n = 0;
    *w = (work){.room = 0};
    (void)snprintf(w->names, sizeof w->names, "%s", inputs);
    (void)snprintf(w->options, sizeof w->options, "%s", options);
    (void)snprintf(w->wants, sizeof w->wants, "%s", wants);
    for (char *rest, *s = strtok_r(w->names, " ", &rest); s; s = strtok_r(NULL, " ", &rest)) {
        char *shape = strchr(s, ':');
        *shape++ = 0;
        w->inputs[n].name = s;
        fill(&w->inputs[n++].tensor, dtype, shape);
        if (strstr(s, "_lengths")) /* of ctc, where "below" cannot say it */
            for (int64_t i = 0; i < w->inputs[n - 1].tensor.shape[0]; i++)
                ((int64_t *)w->inputs[n - 1].tensor.data)[i] = s[0] == 'i' ? 200 : 40;
    }
    n = 0;
    for (char *rest, *s = strtok_r(w->options, " =", &rest); s; s = strtok_r(NULL, " =", &rest))
        w->option[n++] = s;
    n = 0;
    for (char *rest, *s = strtok_r(w->wants, " ", &rest); s; s = strtok_r(NULL, " ", &rest))
        w->want[n++] = s;
}

static void discard(work *w)
{
    for (lk_named *in = w->inputs; in->name; in++)
        free(in->tensor.data);
    for (int i = 0; i < OUTPUTS; i++)
        free(w->outputs[i]);
    free(w->scratch[0]);
    free(w->scratch[1]);
}

typedef struct half_of {
    const library *l;
    lk_call *call;
    int64_t first, count;
    void *scratch;
} half_of;

static void *run_half(void *of)
{
    half_of *h = of;
    h->l->call_run(h->call, h->first, h->count, h->scratch);
    return NULL;
}

static void run(const library *l, lk_call *call, work *w, int threads)
{
    do {
        const int64_t blocks = l->call_blocks(call), first = threads == 2 ? blocks / 2 : 0;
        half_of other = {l, call, 0, first, w->scratch[1]};
        pthread_t thread;
        if (first && pthread_create(&thread, NULL, run_half, &other) != 0)
            stop("no thread");
        l->call_run(call, first, blocks - first, w->scratch[0]);
        if (first)
            pthread_join(thread, NULL);
    } while (l->call_next(call));
}

static bool evaluate(const library *l, const char *loss, work *w, int threads, lk_error *error)
{
    lk_call *call = l->call_new(l->loss_find(loss));
    lk_status status = LK_OK;
    for (const lk_named *in = w->inputs; status == LK_OK && in->name; in++)
        status = l->call_input(call, in->name, &in->tensor, error);
    for (const char **o = w->option; status == LK_OK && *o; o += 2)
        status = l->call_option(call, o[0], o[1], error);
    for (const char **o = w->want; status == LK_OK && *o; o++)
        status = l->call_want(call, *o, error);
    if (status == LK_OK)
        status = l->call_check(call, error);
    for (int i = 0; status == LK_OK && i < l->call_outputs(call); i++) {
        lk_tensor out;
        l->call_output(call, i, &out);
        if (!w->outputs[i])
            w->outputs[i] = room((size_t)lk_tensor_count(&out) * lk_dtype_size(out.dtype));
        status = l->call_bind(call, i, w->outputs[i]);
    }
    if (status == LK_OK)
        status = l->call_plan(call, error);
    if (status == LK_OK && l->call_scratch(call) > w->room) { /* a service keeps it, too */
        w->room = l->call_scratch(call);
        for (int i = 0; i < 2; i++) {
            free(w->scratch[i]);
            w->scratch[i] = room(w->room);
        }
    }
    if (status == LK_OK) {
        run(l, call, w, threads);
        status = l->call_finish(call, error);
    }
    l->call_free(call);
    return status == LK_OK;
}

/* A small evaluation is repeated until it takes a third of a millisecond. Counts do not scatter:
 * once is enough. */
static void compare(const library *former, const library *ours, size_t k, lk_dtype dtype,
                    int threads)
{
    const library *both[2] = {former, ours};
    double times[2][MOST], spent = 0;
    int n = 0, repeat = 1;
    work w;
    lk_error error;
    if (!former->loss_find(cases[k].loss) || !ours->loss_find(cases[k].loss))
        return; /* it is newer than one of them */
    prepare(&w, cases[k].options, cases[k].inputs, cases[k].outputs, dtype);
    for (int i = 0; i < 2; i++) {
        double start = ticks(threads);
        if (!evaluate(both[i], cases[k].loss, &w, threads, &error)) {
            printf("%-24s %s: %s\n", cases[k].loss, i ? "ours" : "former", error.text);
            discard(&w);
            return;
        }
        repeat = counter ? 1 : (int)(0.0003 / (ticks(threads) - start)) + 1;
    }
    for (; n < (counter ? 1 : LEAST) || (!counter && n < MOST && spent < 0.8); n++)
        for (int i = 0; i < 2; i++) {
            const int which = (i + n) % 2;
            double start = ticks(threads);
            for (int r = 0; r < repeat; r++)
                (void)evaluate(both[which], cases[k].loss, &w, threads, &error);
            times[which][n] = (ticks(threads) - start) / repeat;
            spent += times[which][n] * repeat;
        }
    const double a = median(times[0], n), b = median(times[1], n);
    printf("%-22s %-4s %9.1f %9.1f %6.3f %6.3f  %s %s\n", cases[k].loss, lk_dtype_name(dtype),
           a * 1e6, b * 1e6, b / a, times[1][0] / times[0][0], cases[k].inputs, cases[k].options);
    (void)fflush(stdout);
    discard(&w);
}

static bool is_word(const char *word, const char *in)
{
    for (const char *s = in; (s = strstr(s, word)); s++)
        if ((s == in || s[-1] == ' ') && strchr(" ", s[strlen(word)]))
            return true;
    return false;
}

int main(int argc, char **argv)
{
    int threads = 1, at = 1;
    const char *only = "", *isa = "auto";
    for (; at + 1 < argc && argv[at][0] == '-'; at += 2)
        if (strcmp(argv[at], "--threads") == 0)
            threads = argv[at + 1][0] - '0';
        else if (strcmp(argv[at], "--only") == 0)
            only = argv[at + 1];
        else if (strcmp(argv[at], "--isa") == 0)
            isa = argv[at + 1];
        else if (strcmp(argv[at], "--counter") == 0)
            map_counter(argv[at + 1]);
        else
            break;
    if (argc - at != 2 || threads < 1 || threads > 2)
        stop("usage: former [--threads 1|2] [--isa NAME] [--counter FILE] [--only PART-OF-A-LINE] "
             "FORMER.so OURS.so");
    const library former = load(argv[at]), ours = load(argv[at + 1]);
    if (!former.isa_use(isa) || !ours.isa_use(isa))
        stop("this processor, or one of the builds, lacks that instruction set");
    printf("%s (%s), and %s (%s); %d thread%s; medians of %s, and the ratios of medians and of the "
           "least\n%-22s %-4s %9s %9s %6s %6s\n",
           former.version(), former.isa_used(), ours.version(), ours.isa_used(), threads,
           threads == 1 ? "" : "s", counter ? "thousands" : "us", "loss", "type", "former", "ours",
           "median", "least");
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char line[1024];
        for (int t = 0; t < LK_DTYPE_COUNT; t++) {
            const char *name = lk_dtype_name((lk_dtype)t);
            (void)snprintf(line, sizeof line, "%s %s %s %s", cases[k].loss, name, cases[k].inputs,
                           cases[k].options);
            if (t <= LK_BF16 && is_word(name, cases[k].dtypes) && strstr(line, only))
                compare(&former, &ours, k, (lk_dtype)t, threads);
        }
    }
    return 0;
}
