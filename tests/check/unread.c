/* SPDX-License-Identifier: MIT
 *
 * What a factor of 0 leaves unread may hold NaN, also where something else remains of the loss: a
 * result that does not depend on a value while the factor is 0, but does while it is 1, is the same
 * if that value is NaN. Results are looked at one by one: each row's loss, each gradient's element.
 */
#include "tests/check/check.h"

/* The inputs that a check changes: one, or all that are differentiated (-1); of those that have
 * rows, the rows that are marked, if there are marks. */
typedef struct part {
    int input;
    const bool *marked;
} part;

/* Other values in the input's range: nearby, and far to either side, beyond what clips. */
typedef enum change { NEARBY, UP, DOWN, CHANGES, SPOILT } change;

static double other(const trial_input *in, change c, double x)
{
    const char *range = in->is->range;
    const double by = c == NEARBY ? random_normal() : 30 + random_unit();
    if (c == SPOILT)
        return (double)NAN;
    if (!range || strcmp(range, "finite") == 0)
        return x + (c == DOWN ? -by : by);
    if (*range == '<' || *range == '>') /* of 0: away from it, or close to it */
        return c == DOWN ? x * 0.01 * random_unit() : x + (*range == '<' ? -fabs(by) : fabs(by));
    return strncmp(range, "[0,1", 4) == 0 ? 0.2 + 0.6 * random_unit() : x;
}

/* Is that input of the part? */
static bool belongs(const trial *t, part p, int i)
{
    const trial_input *in = &t->in[i];
    if (!in->given || !is_float(in->type) || (in->is->flags & (LK_WEIGHTS | LK_COTANGENT)) ||
        strcmp(in->is->name, "grad_output") == 0)
        return false;
    return p.input < 0 ? (in->is->flags & LK_DIFFERENTIABLE) != 0 : p.input == i;
}

/* A copy of the trial in which the part has other values. */
static trial with(const trial *t, part p, change c)
{
    trial copy = trial_copy(t);
    for (int i = 0; i < copy.inputs; i++) {
        trial_input *in = &copy.in[i];
        if (!belongs(t, p, i))
            continue;
        int64_t *row = p.marked ? rows_of(t, &in->at) : NULL;
        for (int64_t j = 0; j < in->at.count; j++)
            if (!p.marked || (row && p.marked[row[j]]))
                in->x[j] = other(in, c, in->x[j]);
        free(row);
    }
    return copy;
}

/* The answers to a trial in f64, as it is and with other values; any may be refused. */
typedef struct answers {
    answer as_is, changed[CHANGES];
} answers;

static answers all_of(const trial *t, part p)
{
    trial wide = widened(t);
    const uint64_t state = random_state;
    answers got = {.as_is = evaluate(&wide, &(how){.isa = "scalar"})};
    for (int c = 0; c < CHANGES; c++) {
        trial changed = with(&wide, p, (change)c);
        got.changed[c] = evaluate(&changed, &(how){.isa = "scalar"});
        trial_free(&changed);
    }
    random_state = state; /* the same values whatever the factor */
    trial_free(&wide);
    return got;
}

static void answers_free(answers *a)
{
    answer_free(&a->as_is);
    for (int c = 0; c < CHANGES; c++)
        answer_free(&a->changed[c]);
}

static bool given(const answers *a)
{
    bool all = a->as_is.status == LK_OK;
    for (int c = 0; c < CHANGES; c++)
        all = all && a->changed[c].status == LK_OK;
    return all;
}

/* Does element i of output k, which all answers have, depend on what was changed? */
static bool depends(const answers *a, int k, int64_t i)
{
    const lk_tensor *x = &a->as_is.out[k].tensor;
    bool any = false;
    for (int c = 0; c < CHANGES; c++) {
        const lk_tensor *y = &a->changed[c].out[k].tensor;
        any = any || load(x->data, x->dtype, i) != load(y->data, y->dtype, i);
    }
    return any;
}

/* Does the loss? A term that is linear in a value has a slope that does not depend on it, and is
 * read all the same. */
static bool loss_depends(const answers *a)
{
    bool any = false;
    for (int k = 0; k < a->as_is.count; k++)
        for (int64_t i = 0; strcmp(a->as_is.out[k].name, "loss") == 0 &&
                            i < lk_tensor_count(&a->as_is.out[k].tensor);
             i++)
            any = any || depends(a, k, i);
    return any;
}

/* `nothing` has the factor 0 where `something` has 1. */
static void check_part(const trial *nothing, const trial *something, part p, const char *factor)
{
    answers without = all_of(nothing, p), beside = all_of(something, p);
    trial bad = with(nothing, p, SPOILT);
    const how h = {.isa = isa_drawn()};
    answer clean = evaluate(nothing, &h), spoiled = evaluate(&bad, &h);
    const bool all = given(&without) && given(&beside) && clean.status == LK_OK &&
                     spoiled.status == LK_OK && spoiled.count == beside.as_is.count &&
                     !loss_depends(&without);
    bool told = false;
    for (int k = 0; all && k < spoiled.count; k++) {
        const lk_tensor *x = &clean.out[k].tensor, *y = &spoiled.out[k].tensor;
        for (int64_t i = 0; i < lk_tensor_count(x) && !told; i++) {
            const double was = load(x->data, x->dtype, i), is = load(y->data, y->dtype, i);
            told = was != is && !depends(&without, k, i) && depends(&beside, k, i);
            if (told)
                complain(nothing, "%s[%" PRId64 "] is %g, and %g where %s is NaN: %s is 0 there",
                         spoiled.out[k].name, i, was, is,
                         p.input < 0 ? "all" : nothing->in[p.input].is->name, factor);
        }
    }
    answer_free(&clean);
    answer_free(&spoiled);
    trial_free(&bad);
    answers_free(&without);
    answers_free(&beside);
}

/* Can the trial do without that input? */
static bool spares(const trial *t, int input)
{
    trial without = trial_copy(t);
    without.in[input].given = false;
    without.wants = 0; /* without its own */
    answer a = evaluate(&without, &(how){.isa = "scalar"});
    const bool can = a.status == LK_OK;
    answer_free(&a);
    trial_free(&without);
    return can;
}

/* A factor that is an input may be one of all that is read, an option one of what is optional. */
static void check_parts(trial *nothing, trial *something, const bool *marked, const char *factor)
{
    const bool whole = trial_find(nothing, factor);
    trial_set(nothing, "nonfinite", "propagate");
    trial_set(something, "nonfinite", "propagate");
    if (whole)
        check_part(nothing, something, (part){-1, marked}, factor);
    for (int i = 0; i < nothing->inputs; i++)
        if (belongs(nothing, (part){i, marked}, i) &&
            strcmp(nothing->in[i].is->name, factor) != 0 && (whole || spares(nothing, i)))
            check_part(nothing, something, (part){i, marked}, factor);
}

/* An input that multiplies: 0 as a whole, or in some rows. */
static void check_input(const lk_loss *loss, const wish *w, const char *name)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    trial_input *in = trial_find(&t, name);
    if (!in) {
        trial_free(&t);
        return;
    }
    trial nothing = trial_copy(&t), something = trial_copy(&t);
    int64_t *row = rows_of(&t, &in->at);
    bool *marked = row ? must(calloc((size_t)trial_rows(&t) + 1, sizeof *marked)) : NULL;
    for (int64_t r = 0; row && r < trial_rows(&t); r++)
        marked[r] = chance(0.5);
    trial_input *zero = trial_find(&nothing, name), *one = trial_find(&something, name);
    for (int64_t j = 0; j < in->at.count; j++)
        if (!row || marked[row[j]])
            zero->x[j] = 0, one->x[j] = 1;
    check_parts(&nothing, &something, marked, name);
    free(row);
    free(marked);
    trial_free(&something);
    trial_free(&nothing);
    trial_free(&t);
}

/* An option that multiplies. */
static void check_option(const lk_loss *loss, const wish *w, const char *name)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    trial nothing = trial_copy(&t), something = trial_copy(&t);
    trial_set(&nothing, name, "0");
    trial_set(&something, name, "1");
    check_parts(&nothing, &something, NULL, name);
    trial_free(&something);
    trial_free(&nothing);
    trial_free(&t);
}

static bool multiplies(const lk_input *in)
{
    return (in->flags & LK_WEIGHTS) || strcmp(in->name, "advantages") == 0;
}

/* Of the options those that are called so: others that may be 0 are bounds, margins, shares. */
static bool scales(const lk_field *f)
{
    static const char end[] = "_weight";
    const size_t n = strlen(f->name), m = sizeof end - 1;
    return f->type == LK_REAL && n > m && strcmp(f->name + n - m, end) == 0;
}

void test_unread(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        const lk_description *is = lk_loss_describe(lk_loss_at(i));
        for (int e = 0; e < 4; e++) {
            for (int64_t round = 0; round < count; round++) {
                const wish w = {
                    .element = elements[e], .reduction = round % 2 ? "none" : NULL, .small = true};
                begin_round(11, i, e, round);
                for (const lk_input *in = is->inputs; in->name; in++)
                    if (multiplies(in))
                        check_input(lk_loss_at(i), &w, in->name);
                for (const lk_field *f = is->options; f->name; f++)
                    if (scales(f))
                        check_option(lk_loss_at(i), &w, f->name);
            }
        }
    }
    assert_int_equal(failures, 0);
}
