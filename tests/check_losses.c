/* SPDX-License-Identifier: MIT
 *
 * Checks every registered loss through the public header, from its description alone: each
 * instruction set against the scalar one, gradients against differences, the same bits whatever the
 * threads, places and other outputs, no step outside a tensor, and what its traits promise. A loss
 * that is added is covered by being registered.
 *
 * usage: check_losses [--seed N] [--count N]
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "trial.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static uint64_t seed = 1;
static int64_t count; /* rounds; by default as many as take some seconds in all */

static const lk_dtype elements[] = {LK_F64, LK_F32, LK_F16, LK_BF16};

static int failures;

/* Report what is wrong with a trial. */
static void __attribute__((format(printf, 2, 3))) complain(const trial *t, const char *format, ...)
{
    char what[400], text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (failures++ < 20)
        print_error("%s\n    %s\n", trial_text(t, text), what);
}

/* The trials of one test, loss, type and round are the same whatever the others draw, and which
 * other losses there are. */
static void begin_round(int test, int loss, int element, int64_t round)
{
    rng_state = seed;
    rng_state = rng() + (uint64_t)test;
    rng_state = rng();
    for (const char *c = lk_loss_describe(lk_loss_at(loss))->name; *c; c++)
        rng_state = rng() + (uint64_t)*c;
    rng_state = rng() + (uint64_t)element;
    rng_state = rng() + (uint64_t)round;
}

static bool draw(trial *t, const lk_loss *loss, const wish *w)
{
    lk_error error;
    *t = trial_draw(loss, w, &error);
    if (error.status == LK_OK)
        return true;
    complain(t, "a legal draw is refused: %s (%s)", error.text, lk_status_name(error.status));
    trial_free(t);
    return false;
}

/* May the trial be refused for its numbers? */
static bool may_refuse(const trial *t)
{
    for (int i = 0; i < t->inputs; i++)
        for (int64_t j = 0; t->in[i].given && j < t->in[i].at.count; j++)
            if (!isfinite(t->in[i].x[j]))
                return option_is(t, "nonfinite", "error");
    return false;
}

/* Evaluate what must succeed. */
static answer expect(const trial *t, const how *h)
{
    answer a = evaluate(t, h);
    if (a.status == LK_NONFINITE_INPUT && may_refuse(t))
        return a;
    if (a.status != LK_OK)
        complain(t, "%s: %s", lk_status_name(a.status), a.error.text);
    else if (a.broken)
        complain(t, "%s (%s)", a.broken, h->isa ? h->isa : "auto");
    return a;
}

/* Are there two results to compare? If either was refused both must be, for the same element. */
static bool both_given(const trial *t, const answer *a, const answer *b, const char *what)
{
    if (a->status != b->status || strcmp(a->error.input, b->error.input) != 0 ||
        memcmp(a->error.index, b->error.index, sizeof a->error.index) != 0)
        complain(t, "%s: %s, and %s: %s %s", lk_status_name(a->status), a->error.text,
                 lk_status_name(b->status), b->error.text, what);
    return a->status == LK_OK && b->status == LK_OK;
}

static const char *isa_drawn(void)
{
    int i = (int)rng_int(0, lk_isa_count() - 1);
    while (!lk_isa_runs(i))
        i = (int)rng_int(0, lk_isa_count() - 1);
    return lk_isa_name(i);
}

/* All of them, or the one that was asked for. What is made of others is not drawn. */
static const char *only;

static bool is_asked(int i)
{
    if (lk_loss_describe(lk_loss_at(i))->traits & LK_DYNAMIC)
        return false;
    return !only || strcmp(lk_loss_describe(lk_loss_at(i))->name, only) == 0;
}

#define FOR_EACH_LOSS(i)                                                                           \
    for (int i = 0; i < lk_loss_count(); i++)                                                      \
        if (is_asked(i))

/* -------------------------------------------------------------------------------- tolerances - */

/* What the numbers of a trial say about rounding errors.
 *
 * LOSSES.md 14 bounds the error of a row of F32 by 2e-6 (1 + |loss|) + 2^-23 Z, with Z the largest
 * |score|, and of a gradient by (1e-6 + 2^-22 Z) max |g| + 2 ulp. A description does not tell the
 * scores, but they are no greater than the inputs times the options that scale them, nor are the
 * terms of a loss but for its weights:
 *
 * z: max finite |x| of the differentiable inputs, times max(1, |o|) of every real option given.
 * w: the greatest weight or 1, over the inputs that are not differentiated.
 * rho: what a row's gradient is multiplied with: |grad_output| under none and sum, that over the
 * denominator under mean.
 * terms: how many rows a scalar adds up without dividing.
 *
 * Where terms of a gradient cancel (a probability row of one class; a saturated softcap), its error
 * is one of the terms and not of what is left of them, so 2^-22 z w rho is added to its bound. */
typedef struct sizes {
    double z, w, rho, terms, rows, divisor;
    double relative, step; /* 2e-6 and 2^-23 in f32; in f64 likewise with its own precision */
} sizes;

static double greatest(const double *x, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i]))
            most = fmax(most, fabs(x[i]));
    return most;
}

static void scale_by(sizes *s, double option)
{
    s->z *= fmax(1, option);
    s->divisor *= option > 0 ? fmin(1, option) : 1;
}

static sizes sizes_of(const trial *t, const answer *a)
{
    bool wide = t->element == LK_F64;
    sizes s = {.w = 1, .rho = 1, .terms = (double)trial_rows(t), .divisor = 1};
    s.rows = fmax(1, s.terms);
    s.relative = wide ? 1e-12 : 2e-6;
    s.step = wide ? 0x1p-51 : 0x1p-23;
    for (int i = 0; i < t->inputs; i++) {
        const trial_input *in = &t->in[i];
        if (!in->given || !is_float(in->type))
            continue;
        double most = greatest(in->x, in->at.count);
        if (strcmp(in->pattern, "loss") == 0)
            s.rho = most;
        else if (in->is->flags & LK_DIFFERENTIABLE)
            s.z = fmax(s.z, most);
        else
            s.w *= fmax(1, most);
    }
    for (int i = 0; i < t->settings; i++)
        if (t->set[i].field->type == LK_REAL && strcmp(t->set[i].text, "off") != 0 &&
            strcmp(t->set[i].field->name, "num_items") != 0)
            scale_by(&s, fabs(atof(t->set[i].text)));
    const char *items = trial_option(t, "num_items");
    if (option_is(t, "reduction", "mean")) {
        double divisor = fmax(1, s.terms);
        if (items && strcmp(items, "off") != 0)
            divisor = atof(items);
        else if (answer_find(a, "denominator"))
            divisor = answer_value(a, "denominator", 0);
        s.rho = divisor > 0 ? s.rho / divisor : 0;
        s.terms = divisor > 0 ? fmax(1, s.terms / divisor) : 1;
    } else if (option_is(t, "reduction", "none")) {
        s.terms = 1;
    }
    return s;
}

/* How far a value may be from the exact one. */
static double value_bound(const sizes *s, double x)
{
    return s->relative * (s->terms + fabs(x)) * s->w + s->step * s->z * s->w * s->terms;
}

/* A diagnostic of one number may be a sum over the rows, divided by an option, and the exponential
 * of that: exp(x) has the bound of x times its slope. */
static double diagnostic_bound(const sizes *s, double x, bool scalar)
{
    sizes d = *s;
    d.terms = scalar ? s->rows / s->divisor : 1;
    return value_bound(&d, x) * fmax(1, fabs(x));
}

static double gradient_bound(const sizes *s, lk_dtype type, double peak, double x)
{
    double bound = (s->relative / 2 + 2 * s->step * s->z) * peak;
    bound += 2 * s->step * s->z * s->w * s->rho;
    bound += 2 * ulp(type == LK_F64 ? LK_F64 : LK_F32, x);
    return type == LK_F16 || type == LK_BF16 ? bound + ulp(type, x) / 2 : bound;
}

/* ---------------------------------------------------------------------------------- comparing  */

/* The largest finite |x| of the row that each element is in. */
static double *row_peaks(const trial *t, const lk_tensor *tensor, const layout *at)
{
    int64_t rows = trial_rows(t);
    double *peak = new_doubles(rows), *peaks = new_doubles(at->count), all = 0;
    int64_t *row = rows_of(t, at);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < at->count; i++) {
            double x = fabs(load(tensor->data, tensor->dtype, i));
            double *top = row ? &peak[row[i]] : &all;
            if (pass == 0 && isfinite(x))
                *top = fmax(*top, x);
            peaks[i] = *top;
        }
    }
    free(row);
    free(peak);
    return peaks;
}

static bool close_to(double x, double y, double bound)
{
    if (isnan(x) || isnan(y))
        return isnan(x) && isnan(y);
    if (isinf(x) || isinf(y))
        return x == y;
    return fabs(x - y) <= bound;
}

/* The shape of an output that is no gradient, as a pattern. */
static const char *output_pattern(const trial *t, const char *name)
{
    for (const lk_output *o = t->is->outputs; o->name; o++)
        if (strcmp(o->name, name) == 0)
            return o->shape;
    return "loss";
}

/* Can a real option of the trial make different scores equal, or nearly? Those that are off by
 * default bound or cut something. */
static bool may_tie(const trial *t)
{
    for (int i = 0; i < t->settings; i++)
        if (t->set[i].field->type == LK_REAL && (t->set[i].field->flags & LK_OFF) &&
            strcmp(t->set[i].text, "off") != 0 && strcmp(t->set[i].field->name, "num_items") != 0)
            return true;
    return false;
}

static void compare_gradient(const trial *t, const sizes *s, const lk_tensor *x, const lk_tensor *y,
                             const char *name, double times, const char *who)
{
    const trial_input *in = trial_find((trial *)(uintptr_t)t, name + 5);
    double *peak = row_peaks(t, x, &in->at);
    int digits, lowest, highest;
    float_format(x->dtype, &digits, &lowest, &highest);
    double limit = ldexp(2 - ldexp(1, -digits), highest);
    for (int64_t i = 0; i < in->at.count; i++) {
        double a = load(x->data, x->dtype, i), b = load(y->data, y->dtype, i);
        double bound = times * gradient_bound(s, x->dtype, peak[i], isfinite(a) ? a : limit);
        /* At the end of the type's range, infinity is as near as the last number. */
        double c = isinf(a) ? copysign(limit, a) : a, d = isinf(b) ? copysign(limit, b) : b;
        bool at_end = isinf(a) != isinf(b) && fabs(c - d) <= bound;
        if (!close_to(a, b, bound) && !at_end) {
            complain(t, "%s[%" PRId64 "] is %.17g, and %.17g by %s; bound %g", name, i, a, b, who,
                     bound);
            break;
        }
    }
    free(peak);
}

/* Hold an answer against the reference: `times` bounds apart. */
static void compare(const trial *t, const answer *reference, const answer *other, double times,
                    const char *who)
{
    sizes s = sizes_of(t, reference);
    bool ties = false;
    if (!both_given(t, reference, other, who))
        return;
    for (int pass = 0; pass < 2; pass++) {
        for (int k = 0; k < reference->count; k++) {
            const lk_tensor *x = &reference->out[k].tensor, *y;
            const char *name = reference->out[k].name;
            bool whole = !is_float(x->dtype);
            if (whole != (pass == 0) || (y = answer_find(other, name)) == NULL)
                continue;
            if (strncmp(name, "grad.", 5) == 0) {
                compare_gradient(t, &s, x, y, name, times, who);
                continue;
            }
            for (int64_t i = 0; i < lk_tensor_count(x); i++) {
                double a = load(x->data, x->dtype, i), b = load(y->data, y->dtype, i);
                bool loss = strcmp(name, "loss") == 0;
                bool scalar = output_pattern(t, name)[0] == '\0';
                double bound = loss ? value_bound(&s, a) : diagnostic_bound(&s, a, scalar);
                if (whole && a != b && !scalar && may_tie(t)) {
                    ties = true;
                    continue;
                }
                if (!loss && scalar && ties)
                    continue; /* a statistic of what tied */
                if (!close_to(a, b, whole ? 0 : times * bound)) {
                    complain(t, "%s[%" PRId64 "] is %.17g, and %.17g by %s; bound %g", name, i, a,
                             b, who, times * bound);
                    break;
                }
            }
        }
    }
}

/* Every output that both have, bit for bit. */
static void compare_bits(const trial *t, const answer *a, const answer *b, const char *what)
{
    if (!both_given(t, a, b, what))
        return;
    for (int i = 0; i < a->count; i++) {
        const lk_tensor *x = &a->out[i].tensor, *y = answer_find(b, a->out[i].name);
        size_t size = lk_dtype_size(x->dtype);
        for (int64_t k = 0; y && k < lk_tensor_count(x); k++) {
            if (memcmp((char *)x->data + (size_t)k * size, (char *)y->data + (size_t)k * size,
                       size) == 0)
                continue;
            complain(t, "%s[%" PRId64 "] is %.17g, and %.17g %s", a->out[i].name, k,
                     load(x->data, x->dtype, k), load(y->data, x->dtype, k), what);
            break;
        }
    }
}

/* ---------------------------------------------------------------- instruction sets, precisions */

/* The same numbers, as doubles. */
static trial widened(const trial *t)
{
    trial wide = trial_copy(t);
    wide.element = LK_F64;
    for (int i = 0; i < wide.inputs; i++)
        if (wide.in[i].given && is_float(wide.in[i].type) &&
            (wide.in[i].is->flags & LK_DIFFERENTIABLE))
            wide.in[i].type = LK_F64;
    return wide;
}

/* The reference against the same computation in f64, whose own error does not count. */
static void compare_precision(const trial *t, const answer *reference)
{
    trial wide = widened(t);
    answer exact = expect(&wide, &(how){.isa = "scalar"});
    answer narrow = {.status = exact.status, .count = exact.count};
    for (int i = 0; i < exact.count; i++) {
        lk_tensor *from = &exact.out[i].tensor, *to = &narrow.out[i].tensor;
        const lk_tensor *like = answer_find(reference, exact.out[i].name);
        narrow.out[i] = exact.out[i];
        to->dtype = like ? like->dtype : from->dtype;
        to->data = must(malloc((size_t)lk_tensor_count(to) * 8 + 1));
        for (int64_t k = 0; k < lk_tensor_count(to); k++)
            store(to->data, to->dtype, k, load(from->data, from->dtype, k));
    }
    compare(t, reference, &narrow, 2, "f64");
    answer_free(&narrow);
    answer_free(&exact);
    trial_free(&wide);
}

static void check_isas(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    answer reference = expect(&t, &(how){.isa = "scalar"});
    for (int i = 0; i < lk_isa_count(); i++) {
        if (!lk_isa_runs(i) || strcmp(lk_isa_name(i), "scalar") == 0)
            continue;
        answer other = expect(&t, &(how){.isa = lk_isa_name(i), .offset = 4});
        compare(&t, &reference, &other, 2, lk_isa_name(i));
        answer_free(&other);
    }
    if (t.element != LK_F64 && reference.status == LK_OK)
        compare_precision(&t, &reference);
    answer_free(&reference);
    trial_free(&t);
}

static void test_isas(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4; e++) {
            for (int64_t round = 0; round < count * 3; round++) {
                begin_round(0, i, e, round);
                check_isas(lk_loss_at(i), &(wish){.element = elements[e],
                                                  .plain = round % 4 == 0,
                                                  .nonfinite = round % 5 == 4,
                                                  .huge = round == 0 && e == 1});
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* -------------------------------------------------------------------------------- differences  */

static int64_t differences, skipped;

/* sum(u * x) over an output, and a bound for its rounding error added to *noise. */
static double weighted_sum(const answer *a, const char *name, const double *u, const sizes *s,
                           double *noise)
{
    const lk_tensor *out = answer_find(a, name);
    double total = 0;
    for (int64_t i = 0; out && i < lk_tensor_count(out); i++) {
        double x = load(out->data, LK_F64, i), up = u ? u[i] : 1;
        total += up * x;
        *noise += fabs(up) * (s->terms + fabs(x) + s->z * s->w * s->terms) * 4 * 0x1p-52;
    }
    return total;
}

/* The output that an input of a trial is the upstream gradient of, or NULL. */
static const char *cotangent_of(const trial_input *in)
{
    return in->given && (in->is->flags & LK_COTANGENT) ? in->is->name + strlen("grad_") : NULL;
}

/* What the gradients are gradients of: sum(grad_output * loss), and likewise for other outputs that
 * have an upstream gradient. */
static double functional(trial *t, double *noise)
{
    answer a = expect(t, &(how){.isa = "scalar"});
    const trial_input *up = trial_find(t, "grad_output");
    sizes s = sizes_of(t, &a);
    double total = 0;
    bool others = false;
    *noise = 0;
    for (int i = 0; i < t->inputs; i++) {
        const char *output = cotangent_of(&t->in[i]);
        if (output)
            total += weighted_sum(&a, output, t->in[i].x, &s, noise);
        others = others || output;
    }
    if (up || !others)
        total += weighted_sum(&a, "loss", up ? up->x : NULL, &s, noise);
    answer_free(&a);
    return total;
}

/* Central differences with steps h and 2h err by h^2 f'''/6 and 4 times that, so that the first is
 * within the distance of the two. h is small beside 1, the distance over which a loss of scores
 * bends, divided by the options that compress it, and large enough for the noise over h to be
 * small.
 *
 * Where the slope jumps between -2h and 2h the two may agree and yet be wrong, but then the second
 * difference over h is as large as the jump, and not as small as h f''. Such points are skipped. */
static void check_entry(trial *t, trial_input *in, int64_t i, double gradient, double scale,
                        double h)
{
    double x = in->x[i], noise = 0, most = 0, f[5];
    for (int k = -2; k <= 2; k++) {
        in->x[i] = x + k * h;
        f[k + 2] = functional(t, &noise);
        most = fmax(most, noise);
    }
    in->x[i] = x;
    if (!isfinite(f[2]))
        return; /* the mean of nothing, with empty_mean=nan; an impossible target */
    double d1 = (f[3] - f[1]) / (2 * h), d2 = (f[4] - f[0]) / (4 * h);
    double bend = fabs(f[4] - 2 * f[2] + f[0]) / (2 * h);
    scale = fmax(scale, fabs(d1));
    differences++;
    if (!isfinite(d1) || fabs(d1 - d2) > 1e-3 * scale + 4 * most / h ||
        bend > 0.1 * scale + 8 * most / h) {
        skipped++;
        return;
    }
    double bound = 2 * fabs(d1 - d2) + 2 * most / h + 1e-9 * scale;
    if (!(fabs(gradient - d1) <= bound))
        complain(t, "grad.%s[%" PRId64 "] is %.12g, by differences %.12g; bound %g", in->is->name,
                 i, gradient, d1, bound);
}

/* The element with the greatest gradient: its row's sums hang on it. */
static int64_t steepest(const lk_tensor *gradient, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (fabs(load(gradient->data, LK_F64, i)) > fabs(load(gradient->data, LK_F64, best)))
            best = i;
    return best;
}

static void check_differences(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    double h = 0x1p-10;
    for (int i = 0; i < t.settings; i++) {
        double o = fabs(atof(t.set[i].text));
        if (t.set[i].field->type == LK_REAL && o > 0 &&
            strcmp(t.set[i].field->name, "num_items") != 0)
            h /= fmin(8, fmax(o, 1 / o));
    }
    h = fmax(h, 0x1p-15);
    answer a = expect(&t, &(how){0});
    sizes s = sizes_of(&t, &a);
    trial only_loss = trial_copy(&t);
    only_loss.wants = 0;
    trial_want(&only_loss, "", "loss");
    for (int i = 0; i < t.inputs; i++)
        if (cotangent_of(&t.in[i]))
            trial_want(&only_loss, "", cotangent_of(&t.in[i]));
    for (int k = 0; k < a.count && a.status == LK_OK; k++) {
        if (strncmp(a.out[k].name, "grad.", 5) != 0)
            continue;
        trial_input *in = trial_find(&only_loss, a.out[k].name + 5);
        int64_t n = in->at.count, most = n < 6 ? n : 6;
        for (int64_t j = 0; j < most; j++) {
            int64_t i = j == 0 ? steepest(&a.out[k].tensor, n) : rng_int(0, n - 1);
            double gradient = load(a.out[k].tensor.data, LK_F64, i);
            check_entry(&only_loss, in, i, gradient, s.rho * s.w, h);
        }
    }
    trial_free(&only_loss);
    answer_free(&a);
    trial_free(&t);
}

static void test_differences(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        differences = skipped = 0;
        if (lk_loss_describe(lk_loss_at(i))->traits & LK_HELD)
            continue; /* its gradient is not the slope of its value */
        for (int64_t round = 0; round < count * 4; round++) {
            begin_round(1, i, 0, round);
            check_differences(lk_loss_at(i), &(wish){.element = LK_F64,
                                                     .small = round % 6 != 5,
                                                     .smooth = true,
                                                     .reduction = round % 2 ? "none" : NULL});
        }
        const char *name = lk_loss_describe(lk_loss_at(i))->name;
        print_message("%s: %" PRId64 " differences, %" PRId64 " near kinks\n", name, differences,
                      skipped);
        if (skipped > 5 + differences / 25) { /* a few of few rounds say little */
            print_error("%s: too many points are near kinks\n", name);
            failures++;
        }
    }
    assert_int_equal(failures, 0);
}

/* ---------------------------------------------------------------------------------- same bits  */

/* Ask for some of the outputs, in another order. */
static void want_some(trial *t)
{
    for (int i = t->wants - 1; i > 0; i--) {
        char name[TRIAL_NAME];
        int k = (int)rng_int(0, i);
        memcpy(name, t->want[i], sizeof name);
        memcpy(t->want[i], t->want[k], sizeof name);
        memcpy(t->want[k], name, sizeof name);
    }
    t->wants = (int)rng_int(1, t->wants);
}

static void check_same_bits(const lk_loss *loss, const wish *w, int64_t round)
{
    static const struct {
        how how;
        const char *what;
    } ways[] = {
        {{.order = AT_ONCE, .poison = 0x00}, "with other bytes where the outputs go"},
        {{.order = SHUFFLED, .poison = 0xff}, "block by block"},
        {{.order = THREADS, .poison = 0x5a}, "by four threads"},
        {{.order = AT_ONCE, .in_place = true}, "in place"},
        {{.order = SHUFFLED, .in_place = true, .poison = 0xff}, "in place, block by block"},
        {{.order = AT_ONCE, .place = PAGE_BEHIND}, "at the end of a page"},
        {{.order = AT_ONCE, .place = PAGE_BEFORE}, "at the start of a page"},
        {{.order = AT_ONCE, .place = PAGE_BEHIND, .in_place = true}, "at the end, in place"},
    };
    trial t;
    if (!draw(&t, loss, w))
        return;
    const char *isa = isa_drawn();
    answer base = expect(&t, &(how){.isa = isa, .poison = 0xa5});
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        how h = ways[i].how;
        if (SANITIZED && h.order == THREADS && !w->huge && round % 4 != 0)
            continue;
        h.isa = isa;
        h.offset = (int)(round * 5 + (int64_t)i) % 64;
        answer other = expect(&t, &h);
        compare_bits(&t, &base, &other, ways[i].what);
        answer_free(&other);
    }
    for (int i = 0; i < 2; i++) {
        trial fewer = trial_copy(&t);
        want_some(&fewer);
        answer other = expect(&fewer, &(how){.isa = isa, .order = SHUFFLED, .in_place = i == 1});
        compare_bits(&t, &base, &other, "with fewer outputs");
        answer_free(&other);
        trial_free(&fewer);
    }
    answer_free(&base);
    trial_free(&t);
}

static void test_same_bits(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4; e++) {
            for (int64_t round = 0; round < count * 2; round++) {
                begin_round(2, i, e, round);
                check_same_bits(lk_loss_at(i),
                                &(wish){.element = elements[e],
                                        .nonfinite = round % 3 == 2,
                                        .huge = round == 0 && (e == 1 || (e == 3 && !SANITIZED))},
                                round);
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* Every byte offset of every tensor, one after the other. */
static void test_every_offset(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4; e++) {
            trial t;
            begin_round(3, i, e, 0);
            if (!draw(&t, lk_loss_at(i), &(wish){.element = elements[e]}))
                continue;
            const char *isa = lk_isa_used();
            answer base = expect(&t, &(how){.isa = isa});
            for (int offset = 0; offset < 64; offset += SANITIZED ? 9 : 1) {
                answer other =
                    expect(&t, &(how){.isa = isa, .offset = offset, .in_place = offset % 2 == 1});
                compare_bits(&t, &base, &other, "elsewhere in memory");
                answer_free(&other);
            }
            answer_free(&base);
            trial_free(&t);
        }
    }
    assert_int_equal(failures, 0);
}

/* -------------------------------------------------------------------------------------- rows - */

/* The outputs of a slice of the batch in `all`, and in `one`, where it is alone. */
static void compare_slice(const trial *t, const answer *all, const trial *alone, const answer *one,
                          int64_t slice)
{
    if (all->status != LK_OK || one->status != LK_OK)
        return;
    for (int k = 0; k < all->count; k++) {
        const char *name = all->out[k].name;
        const lk_tensor *x = &all->out[k].tensor, *y = answer_find(one, name);
        size_t size = lk_dtype_size(x->dtype);
        layout at;
        if (strncmp(name, "grad.", 5) == 0)
            at = trial_find((trial *)(uintptr_t)t, name + 5)->at;
        else if (!lay_out(t, output_pattern(t, name), &at))
            continue;
        int axis = batch_axis(t, &at);
        if (axis < 0 || !y)
            continue;
        for (int64_t i = 0, next = 0; i < at.count; i++) {
            int64_t index[LK_MAX_RANK];
            unravel(&at, i, index);
            if (index[axis] != slice)
                continue;
            if (memcmp((char *)x->data + (size_t)i * size, (char *)y->data + (size_t)next * size,
                       size) != 0) {
                complain(alone, "%s[%" PRId64 "] is %.17g, and %.17g in a batch of %" PRId64, name,
                         next, load(y->data, y->dtype, next), load(x->data, x->dtype, i),
                         batch_size(t));
                break;
            }
            next++;
        }
    }
}

static void check_alone(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    const char *isa = isa_drawn();
    answer all = expect(&t, &(how){.isa = isa});
    int64_t slices = batch_size(&t);
    for (int i = 0; i < 3 && slices > 0; i++) {
        int64_t slice = rng_int(0, slices - 1);
        trial alone = trial_pick(&t, &slice, 1);
        answer one = expect(&alone, &(how){.isa = isa, .offset = 5});
        compare_slice(&t, &all, &alone, &one, slice);
        answer_free(&one);
        trial_free(&alone);
    }
    answer_free(&all);
    trial_free(&t);
}

static bool has_rows(const lk_loss *loss)
{
    const lk_description *is = lk_loss_describe(loss);
    return is->loss_shape && !(is->traits & LK_COUPLED);
}

static void test_row_alone(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4 && has_rows(lk_loss_at(i)); e++) {
            for (int64_t round = 0; round < count; round++) {
                begin_round(4, i, e, round);
                check_alone(lk_loss_at(i), &(wish){.element = elements[e],
                                                   .reduction = "none",
                                                   .nonfinite = round % 4 == 3,
                                                   .huge = round == 0 && e == 1 && !SANITIZED});
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* Of the ignored rows, those that no row after them, along the last axis of the loss, looks back
 * to. Free it. */
static bool *forgotten_rows(const trial *t, const bool *ignore)
{
    layout at;
    bool *forgotten = must(calloc((size_t)trial_rows(t) + 1, sizeof *forgotten));
    lay_out(t, t->is->loss_shape, &at);
    int64_t steps = at.rank > 0 ? at.shape[at.rank - 1] : 1;
    for (int64_t end = at.count; end > 0; end -= steps)
        for (int64_t r = end - 1; r >= end - steps && ignore[r]; r--)
            forgotten[r] = true;
    return forgotten;
}

/* An ignored row is worth 0, has no gradient, and may hold NaN: its inputs are not read. Where row
 * i may read other rows than i of its inputs, no option says so that moves them. */
static void check_ignored(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    const char *isa = isa_drawn();
    int64_t rows = trial_rows(&t), ignored = 0;
    bool *ignore = ignored_rows(&t), *forgotten = forgotten_rows(&t, ignore);
    answer clean = expect(&t, &(how){.isa = isa});
    for (int64_t r = 0; r < rows; r++)
        ignored += ignore[r];
    for (int i = 0; i < t.inputs; i++) {
        trial_input *in = &t.in[i];
        if (!in->given || !is_float(in->type) || !(in->is->flags & LK_DIFFERENTIABLE))
            continue;
        const lk_tensor *g = NULL;
        for (int k = 0; k < clean.count; k++)
            if (strncmp(clean.out[k].name, "grad.", 5) == 0 &&
                strcmp(clean.out[k].name + 5, in->is->name) == 0)
                g = &clean.out[k].tensor;
        int64_t *row = rows_of(&t, &in->at);
        for (int64_t j = 0; row && j < in->at.count; j++) {
            if (!(in->is->flags & LK_HISTORY ? forgotten : ignore)[row[j]])
                continue;
            in->x[j] = (double)NAN;
            if (g && clean.status == LK_OK && load(g->data, g->dtype, j) != 0)
                complain(&t, "grad.%s[%" PRId64 "] of an ignored row is %g", in->is->name, j,
                         load(g->data, g->dtype, j));
        }
        free(row);
    }
    for (int64_t r = 0; r < rows && option_is(&t, "reduction", "none"); r++)
        if (ignore[r] && answer_value(&clean, "loss", r) != 0)
            complain(&t, "an ignored row is worth %g", answer_value(&clean, "loss", r));
    if (ignored > 0) {
        answer other = expect(&t, &(how){.isa = isa});
        compare_bits(&t, &clean, &other, "with NaN in ignored rows");
        answer_free(&other);
    }
    free(ignore);
    free(forgotten);
    answer_free(&clean);
    trial_free(&t);
}

/* A batch without the slices that are masked as a whole is worth the same. */
static void check_removed(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    int64_t slices = batch_size(&t), rows = trial_rows(&t), kept = 0;
    int64_t *keep = must(calloc((size_t)slices + 1, sizeof *keep));
    bool *ignore = ignored_rows(&t);
    for (int64_t b = 0; b < slices; b++) {
        bool counts = rows == 0;
        for (int64_t r = b * rows / slices; r < (b + 1) * rows / slices; r++)
            counts |= !ignore[r];
        if (counts)
            keep[kept++] = b;
    }
    answer all = expect(&t, &(how){0});
    if (kept < slices) {
        trial less = trial_pick(&t, keep, kept);
        answer few = expect(&less, &(how){0});
        sizes s = sizes_of(&t, &all);
        bool per_row = lk_tensor_count(answer_find(&all, "loss")) != 1;
        for (int k = 0; k < all.count && few.status == LK_OK; k++) {
            const lk_tensor *x = &all.out[k].tensor;
            if (x->rank > 0 || per_row || !strncmp(all.out[k].name, "grad.", 5))
                continue;
            double a = answer_value(&all, all.out[k].name, 0);
            double b = answer_value(&few, all.out[k].name, 0);
            double bound = is_float(x->dtype) ? diagnostic_bound(&s, a, true) : 0;
            if (!close_to(a, b, bound))
                complain(&t, "%s is %.17g, and %.17g without the masked rows", all.out[k].name, a,
                         b);
        }
        answer_free(&few);
        trial_free(&less);
    }
    free(keep);
    free(ignore);
    answer_free(&all);
    trial_free(&t);
}

static void test_ignored_rows(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4 && lk_loss_describe(lk_loss_at(i))->loss_shape; e++) {
            for (int64_t round = 0; round < count; round++) {
                unsigned traits = lk_loss_describe(lk_loss_at(i))->traits;
                begin_round(5, i, e, round);
                wish w = {.element = elements[e],
                          .aligned = !(traits & LK_ROWWISE),
                          .huge = round == 0 && e == 1 && !SANITIZED};
                check_ignored(lk_loss_at(i), &w);
                w.one_lead = true;
                w.reduction = round % 2 ? "sum" : "mean";
                if (!(traits & LK_COUPLED))
                    check_removed(lk_loss_at(i), &w);
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* ------------------------------------------------------------------------------------- traits  */

static void check_nonnegative(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    answer a = expect(&t, &(how){.isa = isa_drawn()});
    const lk_tensor *x = answer_find(&a, "loss");
    for (int64_t i = 0; x && i < lk_tensor_count(x); i++)
        if (load(x->data, x->dtype, i) < 0) /* NaN where a mask leaves nothing to choose from */
            complain(&t, "loss[%" PRId64 "] is %g", i, load(x->data, x->dtype, i));
    answer_free(&a);
    trial_free(&t);
}

/* Adding a constant to each row of the primary input changes neither loss nor gradient. */
static void check_shift(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    answer before = expect(&t, &(how){0});
    int64_t rows = trial_rows(&t);
    double *shift = new_doubles(rows);
    for (int64_t r = 0; r < rows; r++)
        shift[r] = 4 * rng_normal();
    trial_input *in = &t.in[0];
    int64_t *row = rows_of(&t, &in->at);
    for (int64_t i = 0; row && i < in->at.count; i++)
        in->x[i] += shift[row[i]];
    free(row);
    t.wants = 1 + (t.wants > 1 && strncmp(t.want[1], "grad.", 5) == 0);
    answer after = expect(&t, &(how){0});
    compare(&t, &after, &before, 4, "the row without the constant");
    free(shift);
    answer_free(&before);
    answer_free(&after);
    trial_free(&t);
}

static void test_traits(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        const lk_loss *loss = lk_loss_at(i);
        unsigned traits = lk_loss_describe(loss)->traits;
        for (int e = 0; e < 4; e++) {
            for (int64_t round = 0; round < count; round++) {
                begin_round(6, i, e, round);
                wish w = {.element = elements[e], .plain = true};
                w.reduction = round % 2 ? "none" : NULL;
                if (traits & LK_NONNEGATIVE)
                    check_nonnegative(loss, &w);
                w.element = LK_F64;
                if (e == 0 && (traits & LK_SHIFT_FREE))
                    check_shift(loss, &w);
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* --------------------------------------------------------------------------------- reductions  */

static double loss_of(const trial *t)
{
    answer a = expect(t, &(how){0});
    double x = answer_value(&a, "loss", 0);
    answer_free(&a);
    return x;
}

/* sum = sum of none; mean * denominator = sum, as far as there is one denominator: with default
 * options; the num_items shares of two halves add up to the whole. */
static void check_reductions(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    trial_set(&t, "num_items", "off");
    trial_input *up = trial_find(&t, "grad_output");
    if (up)
        up->given = false;
    double total = 0;
    answer none = expect(&t, &(how){0});
    const lk_tensor *values = answer_find(&none, "loss");
    for (int64_t i = 0; none.status == LK_OK && i < lk_tensor_count(values); i++)
        total += load(values->data, values->dtype, i);
    trial_set(&t, "reduction", "sum");
    sizes s = sizes_of(&t, &none);
    s.terms = s.rows;
    double sum = loss_of(&t), bound = 2 * value_bound(&s, sum);
    if (!close_to(sum, total, bound))
        complain(&t, "the sum is %.17g, of the rows %.17g", sum, total);

    trial_set(&t, "reduction", "mean");
    if (w->plain && answer_find(&none, "denominator")) {
        answer mean = expect(&t, &(how){0});
        double d = answer_value(&mean, "denominator", 0), m = answer_value(&mean, "loss", 0);
        if (!close_to(d > 0 ? m * d : sum, sum, bound))
            complain(&t, "mean %.17g * denominator %.17g is not the sum %.17g", m, d, sum);
        answer_free(&mean);
    }

    trial_set(&t, "num_items", "3.5");
    double whole = loss_of(&t), parts = 0;
    int64_t slices = batch_size(&t), middle = rng_int(0, slices);
    int64_t *slice = must(calloc((size_t)slices + 1, sizeof *slice));
    for (int64_t b = 0; b < slices; b++)
        slice[b] = b;
    for (int part = 0; part < 2 && slices > 0; part++) {
        trial half = trial_pick(&t, slice + (part ? middle : 0), part ? slices - middle : middle);
        parts += loss_of(&half);
        trial_free(&half);
    }
    if (slices > 0 && !close_to(whole, parts, bound))
        complain(&t, "num_items: the whole is %.17g, its parts %.17g", whole, parts);
    if (!close_to(whole * 3.5, sum, bound * 2))
        complain(&t, "num_items 3.5 gives %.17g of the sum %.17g", whole, sum);
    free(slice);
    answer_free(&none);
    trial_free(&t);
}

static void test_reductions(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        const lk_loss *loss = lk_loss_at(i);
        trial has = {.is = lk_loss_describe(loss)};
        for (int e = 0; e < 4 && has_rows(loss) && trial_option(&has, "num_items"); e++) {
            for (int64_t round = 0; round < count; round++) {
                begin_round(7, i, e, round);
                check_reductions(loss, &(wish){.element = elements[e],
                                               .reduction = "none",
                                               .plain = round % 2,
                                               .one_lead = true});
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* Gradients are linear in grad_output. */
static void check_linear(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    for (int i = 0; i < t.inputs; i++)
        t.in[i].given = t.in[i].given && !cotangent_of(&t.in[i]);
    trial_input *up = trial_add(&t, "grad_output", LK_F64, 1);
    int64_t n = up ? up->at.count : 0;
    double *u = new_doubles(n), *v = new_doubles(n);
    answer a[3] = {{0}};
    for (int k = 0; k < 3 && up; k++) {
        for (int64_t i = 0; i < n; i++) {
            if (k < 2)
                (k ? v : u)[i] = rng_normal();
            up->x[i] = k == 0 ? u[i] : k == 1 ? v[i] : 2 * u[i] - 3 * v[i];
        }
        a[k] = expect(&t, &(how){0});
    }
    sizes s = sizes_of(&t, &a[2]);
    s.rho *= 6;
    for (int k = 0; up && k < a[2].count && failures == 0; k++) {
        const char *name = a[2].out[k].name;
        if (strncmp(name, "grad.", 5) != 0)
            continue;
        const lk_tensor *x = answer_find(&a[0], name), *y = answer_find(&a[1], name);
        const lk_tensor *z = &a[2].out[k].tensor;
        for (int64_t i = 0; i < lk_tensor_count(z); i++) {
            double gu = load(x->data, LK_F64, i), gv = load(y->data, LK_F64, i);
            double g = load(z->data, LK_F64, i), peak = fabs(2 * gu) + fabs(3 * gv);
            if (!close_to(g, 2 * gu - 3 * gv, gradient_bound(&s, LK_F64, peak, peak))) {
                complain(&t, "%s[%" PRId64 "] is %.17g, not 2*%.17g - 3*%.17g", name, i, g, gu, gv);
                break;
            }
        }
    }
    for (int k = 0; k < 3; k++)
        answer_free(&a[k]);
    free(u);
    free(v);
    trial_free(&t);
}

static void test_linear(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int64_t round = 0; round < count; round++) {
            begin_round(8, i, 0, round);
            check_linear(lk_loss_at(i), &(wish){.element = LK_F64, .smooth = true});
        }
    }
    assert_int_equal(failures, 0);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = argv[i + 1];
        if (value && strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(value, NULL, 10);
        } else if (value && strcmp(argv[i], "--count") == 0) {
            count = strtoll(value, NULL, 10);
        } else if (value && strcmp(argv[i], "--loss") == 0 && lk_loss_find(value)) {
            only = value;
        } else {
            fprintf(stderr, "usage: check_losses [--seed N] [--count N] [--loss NAME]\n");
            return 2;
        }
    }
    if (count == 0) {
        int64_t all = SANITIZED ? 42 : 420, losses = lk_loss_count();
        count = all / losses > 5 ? all / losses : 5;
    }
    print_message("seed %" PRIu64 ", %" PRId64 " rounds, isa %s\n", seed, count, lk_isa_used());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_isas),      cmocka_unit_test(test_differences),
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_every_offset),
        cmocka_unit_test(test_row_alone), cmocka_unit_test(test_ignored_rows),
        cmocka_unit_test(test_traits),    cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
