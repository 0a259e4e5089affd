/* SPDX-License-Identifier: MIT
 *
 * What the checks share: drawing trials, selecting losses, reporting failures.
 */
#include "tests/check/check.h"

uint64_t seed = 1;
int64_t count;

const lk_dtype elements[] = {LK_F64, LK_F32, LK_F16, LK_BF16};

int failures;

/* Report a failure of a trial; only the first 20 are printed. */
void complain(const trial *t, const char *format, ...)
{
    char what[400], text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (failures++ < 20)
        print_error("%s\n    %s\n", trial_text(t, text), what);
}

/* Seed the generator from test, loss, type and round, so that a round draws the same trials
 * whatever was drawn before, and whatever other losses are registered. */
void begin_round(int test, int loss, int element, int64_t round)
{
    random_state = seed;
    random_state = random_bits() + (uint64_t)test;
    random_state = random_bits();
    for (const char *c = lk_loss_describe(lk_loss_at(loss))->name; *c; c++)
        random_state = random_bits() + (uint64_t)*c;
    random_state = random_bits() + (uint64_t)element;
    random_state = random_bits() + (uint64_t)round;
}

bool draw(trial *t, const lk_loss *loss, const wish *w)
{
    lk_error error;
    *t = trial_draw(loss, w, &error);
    if (error.status == LK_OK)
        return true;
    complain(t, "a valid trial is refused: %s (%s)", error.text, lk_status_name(error.status));
    trial_free(t);
    return false;
}

/* The same numbers, as doubles: those that the call converts to f32 are what they are then. */
trial widened(const trial *t)
{
    trial wide = trial_copy(t);
    wide.element = LK_F64;
    for (int i = 0; i < wide.inputs && !(t->is->traits & LK_TRANSFORM); i++) {
        trial_input *in = &wide.in[i];
        if (!in->given || !is_float(in->type))
            continue;
        for (int64_t j = 0; j < in->at.count; j++)
            in->x[j] = round_to(in->type == LK_F64 ? LK_F32 : in->type, in->x[j]);
        if (in->is->flags & LK_DIFFERENTIABLE)
            in->type = LK_F64;
    }
    return wide;
}

/* Whether the trial may be refused because of its values. */
static bool may_refuse(const trial *t)
{
    for (int i = 0; i < t->inputs; i++)
        for (int64_t j = 0; t->in[i].given && j < t->in[i].at.count; j++)
            if (!isfinite(t->in[i].x[j]))
                return option_is(t, "nonfinite", "error");
    return false;
}

/* Evaluate a trial that must succeed. */
answer expect(const trial *t, const how *h)
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

/* Whether there are two results to compare. If one was refused, both must be, for the same element.
 */
bool both_given(const trial *t, const answer *a, const answer *b, const char *what)
{
    if (a->status != b->status || strcmp(a->error.input, b->error.input) != 0 ||
        memcmp(a->error.index, b->error.index, sizeof a->error.index) != 0)
        complain(t, "%s: %s, and %s: %s %s", lk_status_name(a->status), a->error.text,
                 lk_status_name(b->status), b->error.text, what);
    return a->status == LK_OK && b->status == LK_OK;
}

const char *isa_drawn(void)
{
    int i = (int)random_int(0, lk_isa_count() - 1);
    while (!lk_isa_runs(i))
        i = (int)random_int(0, lk_isa_count() - 1);
    return lk_isa_name(i);
}

/* All losses, or the one given by --loss. Composites are not drawn. */
const char *only;

bool is_asked(int i)
{
    if (lk_loss_describe(lk_loss_at(i))->traits & LK_DYNAMIC)
        return false;
    return !only || strcmp(lk_loss_describe(lk_loss_at(i))->name, only) == 0;
}

bool has_rows(const lk_loss *loss)
{
    const lk_description *is = lk_loss_describe(loss);
    return is->loss_shape && !(is->traits & LK_COUPLED);
}

/* The output whose upstream gradient an input of a trial is, or NULL. */
const char *cotangent_of(const trial_input *in)
{
    return in->given && (in->is->flags & LK_COTANGENT) ? in->is->name + strlen("grad_") : NULL;
}
