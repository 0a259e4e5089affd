/* SPDX-License-Identifier: MIT
 *
 * Packed sequences give what the same sequences give with padding.
 */
#include "tests/check/check.h"

/* The index in [B,T] of position i. */
static int64_t padded_place(const trial *packed, int64_t longest, int64_t i)
{
    const double *offsets = trial_offsets(packed)->x;
    int64_t b = 0;
    while (offsets[b + 1] <= (double)i)
        b++;
    return b * longest + i - (int64_t)offsets[b];
}

/* Elements of a packed tensor for each position: those after its axis; 0 if it has no such axis. */
static int64_t per_position(const layout *at)
{
    int64_t inner = 1;
    for (int k = at->rank - 1; k >= 0; k--) {
        if (at->owner[k] == 'P')
            return inner;
        inner *= at->shape[k];
    }
    return 0;
}

/* The same trial with its sequences padded to the longest, whose padding is masked and holds NaN
 * where the loss has a mask to say so. */
static trial pad(const trial *packed, int64_t longest)
{
    trial t = trial_copy(packed);
    t.size['T' - 'A'] = longest;
    t.lead_rank = 2; /* of `*` */
    t.lead[0] = t.size['B' - 'A'];
    t.lead[1] = longest;
    trial_find(&t, trial_offsets(packed)->is->name)->given = false;
    for (int i = 0; i < t.inputs; i++) {
        const trial_input *from = &packed->in[i];
        trial_input *in = &t.in[i];
        const bool masks = in->is->flags & LK_IGNORES;
        const int64_t inner = from->given ? per_position(&from->at) : 1;
        if ((!from->given && !masks) || inner == 0)
            continue;
        if (!from->given)
            snprintf(in->pattern, sizeof in->pattern, "%s", in->is->forms[0].shape);
        in->given = true;
        in->type = from->given ? from->type : LK_BOOL;
        lay_out(&t, in->pattern, &in->at);
        free(in->x);
        in->x = new_doubles(in->at.count);
        for (int64_t k = 0; !masks && is_float(in->type) && k < in->at.count; k++)
            in->x[k] = in->is->flags & LK_WEIGHTS ? 1 : (double)NAN;
        for (int64_t p = 0; p < packed->size['P' - 'A']; p++)
            for (int64_t k = 0; k < inner; k++)
                in->x[padded_place(packed, longest, p) * inner + k] =
                    from->given ? from->x[p * inner + k] : 1;
    }
    return t;
}

static void compare_padded(const trial *t, const answer *packed, const answer *padded,
                           int64_t longest)
{
    const sizes s = sizes_of(t, packed);
    for (int k = 0; k < packed->count; k++) {
        const char *name = packed->out[k].name;
        const lk_tensor *x = &packed->out[k].tensor, *y = answer_find(padded, name);
        layout at;
        if (strncmp(name, "grad.", 5) == 0)
            at = trial_find((trial *)(uintptr_t)t, name + 5)->at;
        else
            lay_out(t, output_pattern(t, name), &at);
        const int64_t inner = per_position(&at);
        for (int64_t i = 0; i < at.count; i++) {
            const int64_t j =
                inner > 0 ? padded_place(t, longest, i / inner) * inner + i % inner : i;
            const double a = load(x->data, x->dtype, i), b = load(y->data, y->dtype, j);
            const double bound = strncmp(name, "grad.", 5) == 0
                                     ? 2 * gradient_bound(&s, x->dtype, fabs(a), a)
                                     : 2 * diagnostic_bound(&s, a, at.rank == 0);
            if (!close_to(a, b, bound)) {
                complain(t, "%s[%" PRId64 "] is %.17g, and %.17g with padding", name, i, a, b);
                break;
            }
        }
    }
}

static void check_packed(const lk_loss *loss, const wish *w)
{
    trial t;
    int64_t longest = 1;
    if (!draw(&t, loss, w))
        return;
    /* A vector of B = P numbers is one of positions. */
    if (trial_offsets(&t) && t.size['B' - 'A'] != t.size['P' - 'A']) {
        const trial_input *offsets = trial_offsets(&t);
        for (int64_t b = 0; b + 1 < offsets->at.count; b++)
            longest = (int64_t)fmax((double)longest, offsets->x[b + 1] - offsets->x[b]);
        trial padded = pad(&t, longest);
        answer a = expect(&t, &(how){0}), b = expect(&padded, &(how){0});
        if (a.status == LK_OK && b.status == LK_OK)
            compare_padded(&t, &a, &b, longest);
        answer_free(&a);
        answer_free(&b);
        trial_free(&padded);
    }
    trial_free(&t);
}

void test_packed(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        bool packs = false;
        for (const lk_input *in = lk_loss_describe(lk_loss_at(i))->inputs; in->name; in++)
            packs = packs || (in->flags & LK_OFFSETS);
        for (int e = 0; packs && e < 4; e++) {
            for (int64_t round = 0; round < 4 * count; round++) {
                begin_round(9, i, e, round);
                check_packed(lk_loss_at(i), &(wish){.element = elements[e]});
            }
        }
    }
    assert_int_equal(failures, 0);
}
