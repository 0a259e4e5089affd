/* SPDX-License-Identifier: MIT
 *
 * The range of an option is what its description says: its ends, where they are closed, are
 * accepted, and what lies beyond is refused. An option without one takes any number. "Accepted" is
 * what is not out of range in some trial: other options and sizes may restrict it further.
 */
#include "tests/check/check.h"

#include <math.h>

enum { TRIALS = 40, MORE = 2000 }; /* to find that a value is refused; that it is accepted */

/* Was the value refused, or did the loss not come to it since something else is missing? */
static bool is_no(const lk_field *f, const answer *a)
{
    char missing[80];
    snprintf(missing, sizeof missing, "option %s is missing", f->name);
    return a->status == LK_OPTION_OUT_OF_RANGE || a->status == LK_MISSING_INPUT ||
           (a->status == LK_MISSING_OPTION && !strstr(a->error.text, missing));
}

/* Is that value out of range, whatever else there is? */
static bool is_refused(const lk_loss *loss, const lk_field *f, double x, int trials,
                       lk_error *error)
{
    for (int k = 0; k < trials; k++) {
        trial t;
        char text[40];
        if (!draw(&t, loss, &(wish){.element = LK_F64, .small = true}))
            return true;
        snprintf(text, sizeof text, f->type == LK_REAL ? "%.17g" : "%.0f", x);
        trial_set(&t, f->name, text);
        answer a = evaluate(&t, &(how){.isa = "scalar"});
        *error = a.error;
        const bool refused = is_no(f, &a);
        answer_free(&a);
        trial_free(&t);
        if (!refused)
            return false;
    }
    return true;
}

static void check_value(const lk_loss *loss, const lk_field *f, double x, bool valid)
{
    lk_error error = {0};
    if (is_refused(loss, f, x, valid ? MORE : TRIALS, &error) != valid)
        return;
    const trial none = {.loss = loss, .is = lk_loss_describe(loss)};
    complain(&none, "%s=%.17g is %s: %s", f->name, x, valid ? "refused" : "accepted", error.text);
}

/* The next number of the option's type. */
static double beside(const lk_field *f, double x, double towards)
{
    return f->type == LK_REAL ? nextafter(x, towards) : x + (towards > x ? 1 : -1);
}

static void check_end(const lk_loss *loss, const lk_field *f, double end, bool open, double inwards)
{
    if (!isfinite(end))
        return;
    check_value(loss, f, end, !open);
    check_value(loss, f, beside(f, end, -inwards), false);
    if (open)
        check_value(loss, f, beside(f, end, inwards), true);
}

static void check_range(const lk_loss *loss, const lk_field *f)
{
    const double all = (double)INFINITY;
    if (f->flags & LK_RANGED) {
        check_end(loss, f, f->min, f->flags & LK_OPEN, all);
        check_end(loss, f, f->max, f->flags & LK_OPEN_END, -all);
    } else {
        check_value(loss, f, -1e3, true);
        check_value(loss, f, 0, true);
        check_value(loss, f, 1e3, true);
    }
}

void test_ranges(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        begin_round(12, i, 0, 0);
        for (const lk_field *f = lk_loss_describe(lk_loss_at(i))->options; f->name; f++)
            if (f->type == LK_REAL || f->type == LK_INTEGER)
                check_range(lk_loss_at(i), f);
    }
    assert_int_equal(failures, 0);
}
