/* SPDX-License-Identifier: MIT
 *
 * The bits of a result do not depend on threads, the order of blocks, the place in memory, or the
 * other outputs.
 */
#include "tests/check/check.h"

/* Request some of the outputs, in another order. */
static void want_some(trial *t)
{
    for (int i = t->wants - 1; i > 0; i--) {
        char name[TRIAL_NAME];
        int k = (int)random_int(0, i);
        memcpy(name, t->want[i], sizeof name);
        memcpy(t->want[i], t->want[k], sizeof name);
        memcpy(t->want[k], name, sizeof name);
    }
    t->wants = (int)random_int(1, t->wants);
}

static void check_same_bits(const lk_loss *loss, const wish *w, int64_t round)
{
    static const struct {
        how how;
        const char *what;
    } ways[] = {
        {{.order = AT_ONCE, .poison = 0x00}, "with other bytes in the outputs' memory"},
        {{.order = SHUFFLED, .poison = 0xff}, "block by block"},
        {{.order = THREADS, .poison = 0x5a}, "by four threads"},
        {{.order = AT_ONCE, .in_place = true}, "in place"},
        {{.order = SHUFFLED, .in_place = true, .poison = 0xff}, "in place, block by block"},
        {{.order = AT_ONCE, .place = PAGE_BEHIND}, "at the end of a page"},
        {{.order = AT_ONCE, .place = PAGE_BEFORE}, "at the start of a page"},
        {{.order = AT_ONCE, .place = PAGE_BEHIND, .in_place = true}, "at the end, in place"},
        {{.order = SHUFFLED, .deferred = true, .poison = 0x5a}, "with deferred gradients"},
        {{.order = AT_ONCE, .deferred = true, .in_place = true}, "deferred, in place"},
    };
    trial t;
    if (!draw(&t, loss, w))
        return;
    const char *isa = isa_drawn();
    answer base = expect(&t, &(how){.isa = isa, .poison = 0xa5});
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        how h = ways[i].how;
        if (SANITIZED && h.order == THREADS && !w->huge && round % 4 != 0)
            continue;
        h.isa = isa;
        h.offset = (int)(round * 5 + (int64_t)i) % 64;
        answer other = expect(&t, &h);
        compare_bits(&t, &base, &other, ways[i].what);
        answer_free(&other);
    }
    for (int i = 0; i < 2; i++) {
        trial fewer = trial_copy(&t);
        want_some(&fewer);
        answer other = expect(&fewer, &(how){.isa = isa, .order = SHUFFLED, .in_place = i == 1});
        compare_bits(&t, &base, &other, "with fewer outputs");
        answer_free(&other);
        trial_free(&fewer);
    }
    answer_free(&base);
    trial_free(&t);
}

void test_same_bits(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4; e++) {
            for (int64_t round = 0; round < count * 2; round++) {
                begin_round(2, i, e, round);
                check_same_bits(lk_loss_at(i),
                                &(wish){.element = elements[e],
                                        .nonfinite = round % 3 == 2,
                                        .huge = round == 0 && (e == 1 || (e == 3 && !SANITIZED))},
                                round);
            }
        }
    }
    assert_int_equal(failures, 0);
}

/* Every byte offset of every tensor, one after the other. */
void test_every_offset(void **state)
{
    (void)state;
    failures = 0;
    FOR_EACH_LOSS (i) {
        for (int e = 0; e < 4; e++) {
            trial t;
            begin_round(3, i, e, 0);
            if (!draw(&t, lk_loss_at(i), &(wish){.element = elements[e]}))
                continue;
            const char *isa = lk_isa_used();
            answer base = expect(&t, &(how){.isa = isa});
            for (int offset = 0; offset < 64; offset += SANITIZED ? 9 : 1) {
                answer other =
                    expect(&t, &(how){.isa = isa, .offset = offset, .in_place = offset % 2 == 1});
                compare_bits(&t, &base, &other, "elsewhere in memory");
                answer_free(&other);
            }
            answer_free(&base);
            trial_free(&t);
        }
    }
    assert_int_equal(failures, 0);
}
