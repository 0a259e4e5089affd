/* SPDX-License-Identifier: MIT
 *
 * Losses with the trait LK_NONNEGATIVE are never negative; LK_SHIFT_FREE losses do not change when
 * a constant is added to a row. What is described as an output can be had.
 */
#include "tests/check/check.h"

/* With weights that are not negative either. */
static void check_nonnegative(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    for (int i = 0; i < t.inputs; i++)
        for (int64_t k = 0; (t.in[i].is->flags & LK_WEIGHTS) && k < t.in[i].at.count; k++)
            t.in[i].x[k] = fabs(t.in[i].x[k]);
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
        shift[r] = 4 * random_normal();
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

static bool wants(const trial *t, const char *output)
{
    for (int i = 0; i < t->wants; i++)
        if (strcmp(t->want[i], output) == 0)
            return true;
    return false;
}

/* With some inputs and options; a trial wants all outputs that there are with its own. */
static void check_outputs(const lk_loss *loss)
{
    for (const lk_output *o = lk_loss_describe(loss)->outputs; o->name; o++) {
        bool found = false;
        for (int tries = 0; tries < 2000 && !found; tries++) {
            trial t;
            if (!draw(&t, loss, &(wish){.element = LK_F64, .small = true}))
                return;
            found = wants(&t, o->name);
            trial_free(&t);
        }
        if (!found)
            complain(&(trial){.loss = loss, .is = lk_loss_describe(loss)}, "no trial gives %s",
                     o->name);
    }
}

void test_traits(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        const lk_loss *loss = lk_loss_at(i);
        unsigned traits = lk_loss_describe(loss)->traits;
        begin_round(11, i, 0, 0);
        check_outputs(loss);
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
