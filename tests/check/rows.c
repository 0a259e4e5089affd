/* SPDX-License-Identifier: MIT
 *
 * The value of a row does not depend on the other rows, and ignored rows do not contribute.
 */
#include "tests/check/check.h"

/* Compare the outputs of a slice of the batch in `all` with those in `one`, where it is alone. */
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
            if (batch_slice(t, &at, axis, index[axis]) != slice)
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
        int64_t slice = random_int(0, slices - 1);
        trial alone = trial_pick(&t, &slice, 1);
        answer one = expect(&alone, &(how){.isa = isa, .offset = 5});
        compare_slice(&t, &all, &alone, &one, slice);
        answer_free(&one);
        trial_free(&alone);
    }
    answer_free(&all);
    trial_free(&t);
}

void test_row_alone(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4 && has_rows(lk_loss_at(i)); e++) {
            for (int64_t round = 0; round < count; round++) {
                begin_round(4, i, e, round);
                check_alone(lk_loss_at(i), &(wish){.element = elements[e],
                                                   .reduction = "none",
                                                   .single = true,
                                                   .nonfinite = round % 4 == 3,
                                                   .huge = round == 0 && e == 1 && !SANITIZED});
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* The ignored rows that no later row along the last axis of the loss depends on. Free it. */
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

/* The loss and gradient of an ignored row are 0, and it may hold NaN because its inputs are not
 * read. For losses that are not row-wise, options that shift rows against each other are not drawn.
 */
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
                complain(&t, "grad.%s[%" PRId64 "] of an ignored row is %g, not 0", in->is->name, j,
                         load(g->data, g->dtype, j));
        }
        free(row);
    }
    const bool by_row = answer_find(&clean, "loss") && option_is(&t, "reduction", "none");
    for (int64_t r = 0; r < rows && by_row; r++)
        if (ignore[r] && answer_value(&clean, "loss", r) != 0)
            complain(&t, "the loss of an ignored row is %g, not 0",
                     answer_value(&clean, "loss", r));
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

/* Removing the slices that are masked as a whole does not change the reduced outputs. */
static void check_removed(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    int64_t slices = batch_size(&t), rows = trial_rows(&t), kept = 0, index[LK_MAX_RANK];
    int64_t *keep = must(calloc((size_t)slices + 1, sizeof *keep));
    bool *ignore = ignored_rows(&t), *counts = must(calloc((size_t)slices + 1, sizeof *counts));
    layout at;
    lay_out(&t, t.is->loss_shape, &at);
    for (int64_t r = 0; r < rows; r++) {
        unravel(&at, r, index);
        counts[batch_slice(&t, &at, 0, index[0])] |= !ignore[r];
    }
    for (int64_t b = 0; b < slices; b++)
        if (counts[b] || rows == 0)
            keep[kept++] = b;
    free(counts);
    answer all = expect(&t, &(how){0});
    if (kept < slices) {
        trial less = trial_pick(&t, keep, kept);
        answer few = expect(&less, &(how){0});
        sizes s = sizes_of(&t, &all);
        const lk_tensor *value = answer_find(&all, "loss");
        bool per_row = value && lk_tensor_count(value) != 1;
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

void test_ignored_rows(void **state)
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
