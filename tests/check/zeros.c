/* SPDX-License-Identifier: MIT
 *
 * A factor of 0, a weight or an upstream gradient, leaves nothing of a term and of its gradient,
 * whatever the inputs hold.
 */
#include "tests/check/check.h"

#include <float.h>
#include <math.h>

/* Is that output the loss or a gradient, and 0 throughout? */
static bool is_zero(const answer *a, int k)
{
    const lk_tensor *x = &a->out[k].tensor;
    for (int64_t i = 0; i < lk_tensor_count(x); i++)
        if (load(x->data, x->dtype, i) != 0)
            return false;
    return true;
}

static bool is_gradient(const answer *a, int k)
{
    return strncmp(a->out[k].name, "grad.", 5) == 0;
}

/* What is neither a number nor finite, or nearly so. */
static double spoilt(lk_dtype type)
{
    const double most = type == LK_F64   ? DBL_MAX
                        : type == LK_F16 ? 65504
                                         : (double)FLT_MAX * (1 - 0x1p-8); /* a bf16, too */
    switch (random_below(5)) {
    case 0:
        return (double)INFINITY;
    case 1:
        return -(double)INFINITY;
    case 2:
        return most;
    case 3:
        return -most;
    default:
        return (double)NAN;
    }
}

/* NaN for all that is differentiated, where the loss takes it; or, `mixed`, numbers beyond and at
 * the ends of the range among those that there are. */
static void spoil(trial *t, bool mixed)
{
    trial_set(t, "nonfinite", "propagate");
    for (int i = 0; i < t->inputs; i++) {
        trial_input *in = &t->in[i];
        const bool bounded = in->is->range && strcmp(in->is->range, ">0") == 0;
        for (int64_t j = 0; in->given && (in->is->flags & LK_DIFFERENTIABLE) &&
                            is_float(in->type) && j < in->at.count;
             j++)
            if (mixed && random_below(3) == 0)
                in->x[j] = bounded         ? fabs(spoilt(in->type))
                           : in->is->range ? (double)NAN
                                           : spoilt(in->type);
            else if (!mixed && !bounded)
                in->x[j] = (double)NAN;
    }
}

/* Tell what is not 0 of a loss and its gradients, the former if `values`. */
static bool all_zero(const trial *t, bool values, char *which, size_t room)
{
    answer a = expect(t, &(how){.isa = isa_drawn()});
    bool zero = true;
    for (int k = 0; k < a.count && zero; k++)
        if (is_gradient(&a, k) || (values && strcmp(a.out[k].name, "loss") == 0)) {
            zero = is_zero(&a, k);
            snprintf(which, room, "%s", a.out[k].name);
        }
    answer_free(&a);
    return zero;
}

/* What is 0 with a factor of 0 is so for inputs of NaN: 0 in f64, where it is not by underflow.
 * `values`: the loss, too, is 0. `whole`: it is the factor of all that the options ask for. */
static void check_zero(trial *t, bool values, bool whole, const char *factor)
{
    char which[TRIAL_NAME];
    trial wide = widened(t);
    const bool zero = all_zero(&wide, values, which, sizeof which);
    trial_free(&wide);
    if (!zero && whole)
        complain(t, "%s is not 0 with %s of 0", which, factor);
    for (int mixed = 1; mixed >= 0; mixed--) {
        spoil(t, mixed);
        if (zero && !all_zero(t, values, which, sizeof which))
            complain(t, "%s is not 0 with %s of 0, and %s", which, factor,
                     mixed ? "numbers beyond the range" : "NaN");
    }
}

/* Draw a trial that takes a weight, and give it that one, of 0. */
static bool draw_weightless(trial *t, const lk_loss *loss, const wish *w, const char *weight)
{
    for (int tries = 0; tries < 200; tries++) {
        if (!draw(t, loss, w))
            return false;
        trial_add(t, weight, t->element, 0);
        answer a = evaluate(t, &(how){.isa = "scalar"});
        const lk_status status = a.status;
        answer_free(&a);
        /* Inputs or options that a weight does not go with. */
        if (status != LK_OPTION_CONFLICT && status != LK_SHAPE_MISMATCH)
            return true;
        trial_free(t);
    }
    *t = (trial){.loss = loss, .is = lk_loss_describe(loss)};
    complain(t, "no trial takes %s", weight);
    return false;
}

/* One weight at a time. */
static void check_weights(const lk_loss *loss, const wish *w)
{
    for (const lk_input *is = lk_loss_describe(loss)->inputs; is->name; is++) {
        trial t;
        /* pos_weight is one of a part of the loss: tests/golden/edges.py has what it leaves. */
        if (!(is->flags & LK_WEIGHTS) || strcmp(is->name, "pos_weight") == 0 ||
            !draw_weightless(&t, loss, w, is->name))
            continue;
        check_zero(&t, true, w->plain, is->name);
        trial_free(&t);
    }
}

/* All upstream gradients. */
static void check_upstream(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    for (int i = 0; i < t.inputs; i++)
        for (int64_t j = 0; t.in[i].given && cotangent_of(&t.in[i]) && j < t.in[i].at.count; j++)
            t.in[i].x[j] = 0;
    trial_add(&t, "grad_output", t.element, 0);
    check_zero(&t, false, true, "grad_output");
    trial_free(&t);
}

void test_zeros(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4; e++) {
            for (int64_t round = 0; round < count; round++) {
                const wish w = {.element = elements[e],
                                .reduction = round % 2 ? "sum" : NULL, /* a mean of 0 is empty */
                                .plain = round / 2 % 2 == 0,
                                .small = true};
                begin_round(10, i, e, round);
                check_weights(lk_loss_at(i), &w);
                check_upstream(lk_loss_at(i), &(wish){.element = elements[e], .small = true});
            }
        }
    }
    assert_int_equal(failures, 0);
}
