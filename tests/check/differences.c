/* SPDX-License-Identifier: MIT
 *
 * Gradients are compared with central differences of the value.
 */
#include "tests/check/check.h"

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

/* The function whose gradients are checked: sum(grad_output * loss), plus the same for other
 * outputs that have an upstream gradient. */
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
 * within the distance of the two. h is small compared with 1, the scale on which a loss of scores
 * is curved, divided by the options that compress that scale, and large enough to keep the noise
 * divided by h small.
 *
 * If the value or its slope jumps between -2h and 2h, the two may agree and yet be wrong. A large
 * jump shows in the second difference over h, which is otherwise as small as h f''. A jump that is
 * small beside other slopes shows in the third differences: where there is none, they are as small
 * beside the second ones as h is beside 1. Such points are skipped. A jump of J whose third
 * difference 2J is lost in the noise, 8 times that of a value, is within the bound.
 */
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
    double second = 0, third = 0;
    for (int k = 1; k < 4; k++)
        second = fmax(second, fabs(f[k + 1] - 2 * f[k] + f[k - 1]));
    for (int k = 1; k < 3; k++)
        third = fmax(third, fabs(f[k + 2] - 3 * f[k + 1] + 3 * f[k] - f[k - 1]));
    bool jumps = third > 0.25 * second + 8 * most;
    scale = fmax(scale, fabs(d1));
    differences++;
    if (!isfinite(d1) || fabs(d1 - d2) > 1e-3 * scale + 4 * most / h ||
        bend > 0.1 * scale + 8 * most / h || jumps) {
        skipped++;
        return;
    }
    double bound = 2 * fabs(d1 - d2) + 2 * most / h + 1e-9 * scale;
    if (!(fabs(gradient - d1) <= bound))
        complain(t, "grad.%s[%" PRId64 "] is %.12g, by differences %.12g; bound %g", in->is->name,
                 i, gradient, d1, bound);
}

/* The element with the largest gradient, on which the sums of its row depend most. */
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
            int64_t i = j == 0 ? steepest(&a.out[k].tensor, n) : random_int(0, n - 1);
            double gradient = load(a.out[k].tensor.data, LK_F64, i);
            check_entry(&only_loss, in, i, gradient, s.rho * s.w, h);
        }
    }
    trial_free(&only_loss);
    answer_free(&a);
    trial_free(&t);
}

void test_differences(void **state)
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
                                                     .sloped = true,
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
