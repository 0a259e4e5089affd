/* SPDX-License-Identifier: MIT
 *
 * Sums, means and upstream gradients are consistent with the values of the rows.
 */
#include "tests/check/check.h"

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
    int64_t slices = batch_size(&t), middle = random_int(0, slices);
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

void test_reductions(void **state)
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
                                               .valued = true,
                                               .single = true,
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
                (k ? v : u)[i] = random_normal();
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

void test_linear(void **state)
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
