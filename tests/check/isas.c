/* SPDX-License-Identifier: MIT
 *
 * Every instruction set has the bits of the scalar one, which is compared with f64.
 */
#include "tests/check/check.h"

/* Compare the reference with the same computation in f64, whose own error is negligible. */
static void compare_precision(const trial *t, const answer *reference)
{
    trial wide = widened(t);
    answer exact = expect(&wide, &(how){.isa = "scalar"});
    answer narrow = {.status = exact.status, .count = exact.count};
    for (int i = 0; i < exact.count; i++) {
        lk_tensor *from = &exact.out[i].tensor, *to = &narrow.out[i].tensor;
        const lk_tensor *like = answer_find(reference, exact.out[i].name);
        narrow.out[i] = exact.out[i];
        to->dtype = like ? like->dtype : from->dtype;
        to->data = must(malloc((size_t)lk_tensor_count(to) * 8 + 1));
        for (int64_t k = 0; k < lk_tensor_count(to); k++)
            store(to->data, to->dtype, k, load(from->data, from->dtype, k));
    }
    compare(t, reference, &narrow, 2, "f64");
    answer_free(&narrow);
    answer_free(&exact);
    trial_free(&wide);
}

static void check_isas(const lk_loss *loss, const wish *w)
{
    trial t;
    if (!draw(&t, loss, w))
        return;
    answer reference = expect(&t, &(how){.isa = "scalar"});
    for (int i = 0; i < lk_isa_count(); i++) {
        if (!lk_isa_runs(i) || strcmp(lk_isa_name(i), "scalar") == 0)
            continue;
        answer other = expect(&t, &(how){.isa = lk_isa_name(i), .offset = 4});
        char who[32];
        snprintf(who, sizeof who, "by %s", lk_isa_name(i));
        compare_isas(&t, &reference, &other, who);
        answer_free(&other);
    }
    if (t.element != LK_F64 && reference.status == LK_OK)
        compare_precision(&t, &reference);
    answer_free(&reference);
    trial_free(&t);
}

void test_isas(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4; e++) {
            for (int64_t round = 0; round < count * 3; round++) {
                begin_round(0, i, e, round);
                check_isas(lk_loss_at(i), &(wish){.element = elements[e],
                                                  .plain = round % 4 == 0,
                                                  .nonfinite = round % 5 == 4,
                                                  .huge = round == 0 && e == 1});
            }
        }
    }
    assert_int_equal(failures, 0);
}
