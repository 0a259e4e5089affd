/* SPDX-License-Identifier: MIT
 *
 * The range of an option is what its description says: its ends, where they are closed, are
 * accepted, and what lies beyond is refused. An option without one takes any number. "Accepted" is
 * what is not out of range in some trial: other options and sizes may restrict it further.
 */
#include "tests/check/check.h"

#include <math.h>

enum { TRIALS = 40, MORE = 2000 }; /* to find that a value is refused; that it is accepted */

/* What the values are tried in: drawn once a loss. */
typedef struct trials {
    const lk_loss *loss;
    int count;
    trial drawn[TRIALS];
} trials;

/* Was the value refused, or did the loss not come to it since something else is missing? */
static bool is_no(const lk_field *f, const answer *a)
{
    char missing[80];
    snprintf(missing, sizeof missing, "option %s is missing", f->name);
    return a->status == LK_OPTION_OUT_OF_RANGE || a->status == LK_MISSING_INPUT ||
           (a->status == LK_MISSING_OPTION && !strstr(a->error.text, missing));
}

/* The trial, but for the option. */
static bool is_refused_in(const trial *t, const lk_field *f, double x, lk_error *error)
{
    trial with = *t; /* its numbers stay the other's */
    char text[40];
    snprintf(text, sizeof text, f->type == LK_REAL ? "%.17g" : "%.0f", x);
    trial_set(&with, f->name, text);
    answer a = evaluate(&with, &(how){.isa = "scalar"});
    const bool no = is_no(f, &a);
    *error = a.error;
    answer_free(&a);
    return no;
}

/* Is that value out of range, whatever else there is? If it should not be, there may be more. */
static bool is_refused(const trials *all, const lk_field *f, double x, bool valid, lk_error *error)
{
    bool refused = true;
    for (int k = 0; k < all->count && refused; k++)
        refused = is_refused_in(&all->drawn[k], f, x, error);
    for (int k = 0; valid && refused && k < MORE; k++) {
        trial t;
        if (!draw(&t, all->loss, &(wish){.element = LK_F64, .small = true}))
            return true;
        refused = is_refused_in(&t, f, x, error);
        trial_free(&t);
    }
    return refused;
}

static void check_value(const trials *all, const lk_field *f, double x, bool valid)
{
    lk_error error = {0};
    if (is_refused(all, f, x, valid, &error) != valid)
        return;
    const trial none = {.loss = all->loss, .is = lk_loss_describe(all->loss)};
    complain(&none, "%s=%.17g is %s: %s", f->name, x, valid ? "refused" : "accepted", error.text);
}

/* The next number of the option's type. */
static double beside(const lk_field *f, double x, double towards)
{
    return f->type == LK_REAL ? nextafter(x, towards) : x + (towards > x ? 1 : -1);
}

static void check_end(const trials *all, const lk_field *f, double end, bool open, double inwards)
{
    if (!isfinite(end))
        return;
    check_value(all, f, end, !open);
    check_value(all, f, beside(f, end, -inwards), false);
    if (open)
        check_value(all, f, beside(f, end, inwards), true);
}

static void check_range(const trials *all, const lk_field *f)
{
    const double far = (double)INFINITY;
    if (f->flags & LK_RANGED) {
        check_end(all, f, f->min, f->flags & LK_OPEN, far);
        check_end(all, f, f->max, f->flags & LK_OPEN_END, -far);
        if (f->min < 0 && f->max > 0)
            check_value(all, f, 0, !(f->flags & LK_NONZERO));
    } else {
        check_value(all, f, -1e3, true);
        check_value(all, f, 0, true);
        check_value(all, f, 1e3, true);
    }
}

void test_ranges(void **state)
{
    (void)state;
    static trials all;
    failures = 0;
    FOR_EACH_LOSS (i) {
        begin_round(12, i, 0, 0);
        all = (trials){.loss = lk_loss_at(i)};
        while (all.count < TRIALS &&
               draw(&all.drawn[all.count], all.loss, &(wish){.element = LK_F64, .small = true}))
            all.count++;
        for (const lk_field *f = lk_loss_describe(all.loss)->options; f->name; f++)
            if (f->type == LK_REAL || f->type == LK_INTEGER)
                check_range(&all, f);
        for (int k = 0; k < all.count; k++)
            trial_free(&all.drawn[k]);
    }
    assert_int_equal(failures, 0);
}
