/* SPDX-License-Identifier: MIT
 *
 * Rows of few classes (lib/rows/few.h), with every option: the bits of a row do not depend on its
 * neighbours, the batch, its place in memory or how the classes lie, and they are what the
 * definition says, in double. The bits of rows beside a teacher's do not either.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "losskit.h"
#include "tests/element.h"
#include "tests/random.h"

enum { ROWS = 37, MOST = 258, PER_ROW = 4 };

static const lk_dtype dtypes[] = {LK_F64, LK_F32, LK_F16, LK_BF16};

/* What a case sets. */
typedef struct setting {
    const char *loss;
    const char *options[8];
    bool soft, weighted, masked;
    bool usual;                       /* every row counts and has a gradient */
    const char *outputs[PER_ROW + 1]; /* the loss or log-probability first */
} setting;

#define INDEX_OUTPUTS                                                                              \
    {                                                                                              \
        "loss", "nll", "lse", "entropy"                                                            \
    }
#define SOFT_OUTPUTS                                                                               \
    {                                                                                              \
        "loss", "lse", "entropy", "predicted"                                                      \
    }

static const setting settings[] = {
    {"cross_entropy", {NULL}, .outputs = INDEX_OUTPUTS},
    {"cross_entropy", {NULL}, .usual = true, .outputs = {"loss", "nll", "lse"}},
    {"cross_entropy",
     {"logit_scale", "0.5"},
     .weighted = true,
     .usual = true,
     .outputs = {"loss", "nll", "lse"}},
    {"cross_entropy", {"label_smoothing", "0.2"}, .outputs = INDEX_OUTPUTS},
    {"cross_entropy", {"label_smoothing", "0.2"}, .weighted = true, .outputs = INDEX_OUTPUTS},
    {"cross_entropy", {"z_loss", "0.1"}, .masked = true, .outputs = INDEX_OUTPUTS},
    {"cross_entropy", {"focal_gamma", "2"}, .weighted = true, .outputs = INDEX_OUTPUTS},
    {"cross_entropy", {"focal_gamma", "1.3", "poly1", "0.5"}, .outputs = INDEX_OUTPUTS},
    {"cross_entropy", {"logit_scale", "0.5", "poly1", "-0.3"}, .outputs = INDEX_OUTPUTS},
    {"cross_entropy", {"softcap", "3", "logit_scale", "2"}, .outputs = INDEX_OUTPUTS},
    {"cross_entropy", {NULL}, .soft = true, .outputs = SOFT_OUTPUTS},
    {"cross_entropy", {NULL}, .soft = true, .usual = true, .outputs = {"loss"}},
    {"cross_entropy",
     {"subtract_entropy", "true", "label_smoothing", "0.1", "softcap", "4"},
     .soft = true,
     .weighted = true,
     .masked = true,
     .outputs = SOFT_OUTPUTS},
    {"token_logprobs", {NULL}, .outputs = {"logprobs", "entropy"}},
    {"distillation", {NULL}, .soft = true, .outputs = {"loss"}},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static bool is_of(const setting *s, const char *loss)
{
    return strcmp(s->loss, loss) == 0;
}

static double option(const setting *s, const char *name, double otherwise)
{
    for (int i = 0; s->options[i]; i += 2)
        if (strcmp(s->options[i], name) == 0)
            return atof(s->options[i + 1]);
    return otherwise;
}

/* A batch, and the results. */
typedef struct batch {
    const setting *set;
    lk_dtype dtype;
    int64_t rows, classes;
    double x[ROWS * MOST], t[ROWS * MOST], weight[MOST], up[ROWS], up_entropy[ROWS];
    int64_t y[ROWS];
    uint8_t mask[ROWS];
    unsigned char grad[ROWS * MOST * 8]; /* row after row, whatever way they were computed */
    double out[PER_ROW][ROWS];
} batch;

static batch *need(batch *b)
{
    assert_non_null(b);
    return b;
}

static void fill_row(batch *b, int64_t i)
{
    double total = 0;
    for (int64_t k = 0; k < b->classes; k++) {
        b->x[i * b->classes + k] = round_to(b->dtype, (double)random_int(-64, 64) / 16);
        b->t[i * b->classes + k] = (double)random_int(0, 8);
        total += b->t[i * b->classes + k];
    }
    for (int64_t k = 0; k < b->classes; k++)
        b->t[i * b->classes + k] =
            round_to(b->dtype, total > 0 ? b->t[i * b->classes + k] / total : 0);
    const bool usual = b->set->usual;
    b->y[i] = !usual && random_int(0, 9) == 0 ? -100 : random_int(0, b->classes - 1);
    b->mask[i] = random_int(0, 5) > 0;
    b->up[i] = usual                   ? (double)random_int(1, 64) / 32
               : random_int(0, 7) == 0 ? 0
                                       : (double)random_int(-64, 64) / 32;
    b->up_entropy[i] = random_int(0, 2) == 0 ? 0 : (double)random_int(-64, 64) / 32;
}

static batch *draw(const setting *set, lk_dtype dtype, int64_t classes)
{
    batch *b = need(calloc(1, sizeof *b));
    b->set = set;
    b->dtype = dtype;
    b->rows = ROWS;
    b->classes = classes;
    for (int64_t i = 0; i < ROWS; i++)
        fill_row(b, i);
    for (int64_t k = 0; k < classes; k++)
        b->weight[k] = (double)random_int(0, 8) / 4;
    return b;
}

/* Rows that nobody should care about. */
static void spoil_row(batch *b, int64_t i)
{
    static const double odd[] = {(double)NAN, (double)INFINITY, (double)-INFINITY, 60000, -60000};
    static const double up[] = {0, 1e30, (double)NAN, (double)INFINITY};
    fill_row(b, i);
    const int64_t count = random_int(1, 4);
    for (int64_t n = 0; n < count; n++)
        b->x[i * b->classes + random_int(0, b->classes - 1)] = odd[random_int(0, 4)];
    b->up[i] = up[random_int(0, 3)];
}

/* The same in rows that do not count, whatever they hold. */
static void spoil_ignored(batch *b)
{
    for (int64_t i = 0; i < b->rows && !b->set->soft; i++)
        if (b->y[i] < 0)
            b->x[i * b->classes] = (double)INFINITY;
}

/* How a batch is computed: some of its rows, and where in memory. */
typedef struct way {
    int64_t first, count;
    int64_t offset;
    bool in_place, across; /* across: the classes of a row lie apart, by class_dim */
} way;

static void evaluate(batch *b, way w)
{
    const setting *set = b->set;
    const bool tokens = is_of(set, "token_logprobs"), teacher = is_of(set, "distillation");
    const int64_t C = b->classes, n = w.count, size = (int64_t)lk_dtype_size(b->dtype);
    const size_t bytes = (size_t)(n * C * size + w.offset);
    unsigned char *x = malloc(bytes), *t = malloc(bytes), *apart = malloc(bytes);
    assert_true(x && t && apart);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < C; k++) {
            const int64_t at = w.across ? k * n + i : i * C + k, from = (w.first + i) * C + k;
            store(x + w.offset, b->dtype, at, b->x[from]);
            store(t + w.offset, b->dtype, at, b->t[from]);
        }
    unsigned char *grad = (w.in_place ? x : apart) + w.offset;
    lk_tensor logits = {x + w.offset, b->dtype, 2, {n, C}};
    lk_tensor rows = {NULL, LK_F64, 1, {n}};
    if (w.across)
        logits = (lk_tensor){x + w.offset, b->dtype, 3, {1, C, n}};
    else if (tokens)
        logits = (lk_tensor){x + w.offset, b->dtype, 3, {1, n, C}};
    if (w.across || tokens)
        rows = (lk_tensor){NULL, LK_F64, 2, {1, n}};
    lk_tensor soft = logits, y = rows, mask = rows, up = rows, up_entropy = rows;
    soft.data = t + w.offset;
    y.data = b->y + w.first;
    y.dtype = LK_I64;
    mask.data = b->mask + w.first;
    mask.dtype = LK_U8;
    up.data = b->up + w.first;
    up_entropy.data = b->up_entropy + w.first;
    lk_named in[8] = {{teacher ? "student_logits" : "logits", logits},
                      {teacher ? "teacher_logits" : "targets", set->soft ? soft : y}};
    int inputs = 2;
    in[inputs++] = (lk_named){tokens ? "grad_logprobs" : "grad_output", up};
    if (tokens)
        in[inputs++] = (lk_named){"grad_entropy", up_entropy};
    if (set->weighted)
        in[inputs++] = (lk_named){"class_weight", lk_vector(LK_F64, b->weight, C)};
    if (set->masked)
        in[inputs++] = (lk_named){"mask", mask};
    lk_named out[8] = {{teacher ? "grad.student_logits" : "grad.logits", logits}};
    out[0].tensor.data = grad;
    unsigned char value[PER_ROW][ROWS * 8];
    int outputs = 0;
    for (; set->outputs[outputs]; outputs++) {
        lk_tensor to = rows;
        to.data = value[outputs];
        to.dtype = strcmp(set->outputs[outputs], "predicted") == 0 ? LK_I64
                   : b->dtype == LK_F64                            ? LK_F64
                                                                   : LK_F32;
        out[1 + outputs] = (lk_named){set->outputs[outputs], to};
    }
    const char *options[16] = {NULL};
    int given = 0;
    for (; set->options[given]; given++)
        options[given] = set->options[given];
    if (!tokens) {
        options[given++] = "reduction";
        options[given++] = "none";
    }
    if (w.across) {
        options[given++] = "class_dim";
        options[given++] = "1";
    }
    lk_error error;
    if (lk_evaluate(set->loss, options, in, out, &error) != LK_OK)
        fail_msg("%s: %s", set->loss, error.text);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < C; k++)
            memcpy(b->grad + ((w.first + i) * C + k) * size,
                   grad + (w.across ? k * n + i : i * C + k) * size, (size_t)size);
    for (int o = 0; o < outputs; o++)
        for (int64_t i = 0; i < n; i++)
            b->out[o][w.first + i] = out[1 + o].tensor.dtype == LK_I64
                                         ? (double)load_int(value[o], LK_I64, i)
                                         : load(value[o], out[1 + o].tensor.dtype, i);
    free(x);
    free(t);
    free(apart);
}

static void fail_at(const batch *b, int64_t i, const char *what, double got, double right)
{
    fail_msg("%s, %s %s, %s, %lld classes, row %lld, target %lld: %s is %.17g, not %.17g",
             lk_isa_used(), b->set->loss, b->set->options[0] ? b->set->options[0] : "plain",
             lk_dtype_name(b->dtype), (long long)b->classes, (long long)i, (long long)b->y[i], what,
             got, right);
}

static void same_row(const batch *a, const batch *b, int64_t i, const char *what)
{
    const size_t row = (size_t)a->classes * lk_dtype_size(a->dtype);
    if (memcmp(a->grad + (size_t)i * row, b->grad + (size_t)i * row, row) != 0)
        fail_at(a, i, what, 0, 0);
    for (int o = 0; a->set->outputs[o]; o++)
        if (memcmp(&a->out[o][i], &b->out[o][i], sizeof(double)) != 0)
            fail_at(a, i, what, b->out[o][i], a->out[o][i]);
}

static void check_bits(const setting *set, lk_dtype dtype, int64_t classes)
{
    const bool apart = is_of(set, "cross_entropy"); /* may classes lie so? */
    batch *a = draw(set, dtype, classes), *b = need(malloc(sizeof *b));
    evaluate(a, (way){.count = ROWS});
    *b = *a;
    for (int64_t i = 0, n; i < ROWS; i += n) {
        n = random_int(1, ROWS - i);
        evaluate(b, (way){i, n, .offset = random_int(0, 64), .in_place = random_int(0, 1)});
    }
    for (int64_t i = 0; i < ROWS; i++)
        same_row(a, b, i, "in parts of the batch");
    if (apart) {
        evaluate(b, (way){.count = ROWS, .across = true, .in_place = random_int(0, 1)});
        for (int64_t i = 0; i < ROWS; i++)
            same_row(a, b, i, "with class_dim=1");
    }
    for (int64_t i = 0; i < ROWS; i++)
        if (i % 3 != 1)
            spoil_row(b, i);
    spoil_ignored(b);
    evaluate(b, (way){.count = ROWS});
    for (int64_t i = 1; i < ROWS; i += 3)
        same_row(a, b, i, "beside other rows");
    free(a);
    free(b);
}

/* The definition, in double, for finite scores. */
typedef struct expected {
    double loss, g[MOST], peak; /* peak: the greatest |g| and |term of one| */
} expected;

static expected define(const batch *b, int64_t i)
{
    const setting *s = b->set;
    const bool tokens = is_of(s, "token_logprobs");
    const double scale = option(s, "logit_scale", 1), cap = option(s, "softcap", 0);
    const double eps = option(s, "label_smoothing", 0), lambda = option(s, "z_loss", 0);
    const double gamma = option(s, "focal_gamma", 0), poly = option(s, "poly1", 0);
    const bool minus_entropy = isfinite(option(s, "subtract_entropy", (double)NAN));
    const int64_t C = b->classes, y = b->y[i];
    const double *x = b->x + i * C;
    expected r = {0};
    if ((!s->soft && y < 0) || (s->masked && !b->mask[i]))
        return r;
    double z[MOST] = {0}, sum = 0, A = 0, entropy = 0;
    for (int64_t k = 0; k < C; k++) {
        z[k] = scale * (cap > 0 ? cap * tanh(x[k] / cap) : x[k]);
        sum += exp(z[k]);
    }
    const double L = log(sum), hit = s->soft ? 0 : exp(z[y] - L), miss = 1 - hit;
    for (int64_t k = 0; k < C; k++)
        entropy -= exp(z[k] - L) * (z[k] - L);
    for (int64_t k = 0; k < C; k++) {
        const double q = (1 - eps) * (s->soft ? b->t[i * C + k] : k == y) + eps / (double)C;
        const double w = s->weighted ? b->weight[k] : 1, l = z[k] - L;
        A += w * q;
        r.g[k] = -w * q;
        r.loss -= q > 0 ? w * q * l : 0;
        if (minus_entropy)
            r.loss += q > 0 ? w * q * log(q) : 0;
    }
    const double w_y = s->soft ? 0 : s->weighted ? b->weight[y] : 1;
    const double fade = gamma > 0 ? pow(miss, gamma) : 0;
    if (gamma > 0)
        r.loss *= fade;
    for (int64_t k = 0; k < C; k++) {
        const double p = exp(z[k] - L), d = (k == y) - p;
        const double J = scale * (cap > 0 ? 1 - tanh(x[k] / cap) * tanh(x[k] / cap) : 1);
        double g = r.g[k] + A * p;
        if (gamma > 0)
            g = w_y * d * (miss > 0 ? gamma * fade / miss * hit * log(hit) - fade : 0);
        g += -poly * w_y * hit * d + 2 * lambda * L * p;
        if (tokens)
            r.g[k] = b->up[i] * d - b->up_entropy[i] * p * (z[k] - L + entropy);
        else
            r.g[k] = b->up[i] * g * J;
        r.peak = fmax(r.peak, fabs(r.g[k]) + fabs(b->up[i] * p * J) * (1 + fabs(2 * lambda * L)));
    }
    r.loss = tokens ? z[y] - L : r.loss + poly * w_y * miss + lambda * L * L;
    return r;
}

static void check_values(const setting *set, lk_dtype dtype, int64_t classes)
{
    const double f32 = dtype == LK_F64 ? 0x1p-29 : 1; /* how much finer than f32 */
    if (is_of(set, "distillation"))
        return;
    batch *b = draw(set, dtype, classes);
    evaluate(b, (way){.count = ROWS});
    const double scale = fmax(1, option(set, "logit_scale", 1));
    for (int64_t i = 0; i < ROWS; i++) {
        const expected right = define(b, i);
        const double loss = 2e-6 * (1 + fabs(right.loss)) + 0x1p-23 * 4 * scale;
        if (!(fabs(b->out[0][i] - right.loss) <= loss * f32 + 1e-13))
            fail_at(b, i, "loss", b->out[0][i], right.loss);
        for (int64_t k = 0; k < classes; k++) {
            const double g = load(b->grad, dtype, i * classes + k);
            const double most = (1e-6 + 0x1p-22 * 4 * scale) * right.peak * f32 + 1e-14;
            if (!(fabs(g - right.g[k]) <= most + ulp(dtype, right.g[k])))
                fail_at(b, i, "grad", g, right.g[k]);
        }
    }
    free(b);
}

/* From every number of classes to some, and those around the most that go across lanes. */
static int64_t next(int64_t classes)
{
    return classes + (classes < 70    ? 1
                      : classes < 142 ? 3
                      : classes < 229 ? 29
                      : classes < 255 ? 26
                                      : 1);
}

static void each(void (*check)(const setting *, lk_dtype, int64_t))
{
    const char *best = lk_isa_used();
    for (int isa = 0; isa < lk_isa_count(); isa++)
        for (size_t t = 0; lk_isa_use(lk_isa_name(isa)) && t < sizeof dtypes / sizeof *dtypes; t++)
            for (int64_t classes = 1; classes < MOST; classes = next(classes))
                for (int s = 0; s < SETTINGS; s++)
                    check(&settings[s], dtypes[t], classes);
    assert_true(lk_isa_use(best));
}

static void test_bits(void **state)
{
    (void)state;
    each(check_bits);
}

static void test_values(void **state)
{
    (void)state;
    each(check_values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
