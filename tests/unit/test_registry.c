/* SPDX-License-Identifier: MIT
 *
 * The registered losses, the consistency of their tables, and the selection of an instruction set.
 */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "internal.h"

static void test_find(void **state)
{
    (void)state;
    int n = lk_loss_count();
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        const lk_description *is = lk_loss_describe(lk_loss_at(i));
        assert_ptr_equal(lk_loss_find(is->name), lk_loss_at(i));
        if (i > 0)
            assert_true(strcmp(lk_loss_describe(lk_loss_at(i - 1))->name, is->name) < 0);
    }
    assert_null(lk_loss_at(-1));
    assert_null(lk_loss_at(n));
    assert_null(lk_loss_find(""));
    assert_null(lk_loss_find("no such loss"));
}

static void assert_name(const char *name, size_t most)
{
    assert_true(islower((unsigned char)name[0]) && strlen(name) < most);
    for (const char *c = name; *c; c++)
        assert_true(islower((unsigned char)*c) || isdigit((unsigned char)*c) || *c == '_');
}

/* Every table fits the fixed sizes, and every name in it is valid. */
static void test_descriptions(void **state)
{
    (void)state;
    for (int k = 0; k < lk_loss_count(); k++) {
        const lk_description *is = lk_loss_describe(lk_loss_at(k));
        int inputs = 0, outputs = 0, options = 0;
        assert_name(is->name, 40);
        assert_true(*is->title && *is->formula && *is->help && *is->reference && *is->example);
        for (const lk_input *in = is->inputs; in->name; in++, inputs++) {
            assert_name(in->name, sizeof((lk_error *)0)->input);
            assert_non_null(in->forms[0].shape);
            assert_true(in->forms[0].dtypes != 0 && *in->help);
            if (in->flags & (LK_GRADIENT | LK_ROW_LOCAL))
                assert_true(in->flags & LK_DIFFERENTIABLE);
            for (const lk_input *other = is->inputs; other < in; other++)
                assert_string_not_equal(other->name, in->name);
            if (in->flags & LK_WEIGHTS) { /* negative ones are accepted as well */
                assert_non_null(in->range);
                assert_string_equal(in->range, "finite");
            }
        }
        for (const lk_output *out = is->outputs; out->name; out++, outputs++) {
            assert_name(out->name, 40);
            assert_string_not_equal(out->name, "loss");
            assert_true(*out->help);
        }
        char room[4096];
        assert_true(((const lk_loss *)lk_loss_at(k))->options_size <= sizeof room);
        for (const lk_field *f = is->options; f->name; f++, options++) {
            assert_name(f->name, 40);
            assert_true(*f->help);
            assert_ptr_equal(lk_field_find(is->options, f->name), f);
            if (!f->fallback)
                continue;
            assert_int_equal(lk_field_parse(f, room, f->fallback, NULL), LK_OK);
            assert_int_equal(lk_field_check(f, room, NULL), LK_OK);
        }
        assert_in_range(inputs, 1, LK_MAX_INPUTS - 1);
        assert_in_range(outputs, 0, LK_MAX_OUTPUTS);
        assert_in_range(options, 0, 64);
    }
}

static void test_isas(void **state)
{
    (void)state;
    int n = lk_isa_count(), best = 0;
    assert_string_equal(lk_isa_name(n - 1), "scalar");
    assert_true(lk_isa_runs(n - 1));
    assert_null(lk_isa_name(-1));
    assert_null(lk_isa_name(n));
    assert_false(lk_isa_runs(-1));
    assert_false(lk_isa_runs(n));
    while (!lk_isa_runs(best))
        best++;
    assert_string_equal(lk_isa_used(), lk_isa_name(best));
    for (int i = 0; i < n; i++) {
        assert_true(lk_isa_use(lk_isa_name(i)) == lk_isa_runs(i));
        if (lk_isa_runs(i))
            assert_string_equal(lk_isa_used(), lk_isa_name(i));
    }
    assert_false(lk_isa_use("z80"));
    assert_false(lk_isa_use(""));
    assert_string_equal(lk_isa_used(), "scalar"); /* nothing changed */
    assert_true(lk_isa_use("auto"));
    assert_string_equal(lk_isa_used(), lk_isa_name(best));
}

/* Each variant is a separate object with the same description; where a loss computes with reals
 * alone, those of 16 bits are that of f32, and where it computes in double, all are one. */
static void test_variants(void **state)
{
    (void)state;
    for (int k = 0; k < lk_loss_count(); k++) {
        const lk_loss *loss = lk_loss_at(k);
        if (loss->is->traits & LK_DYNAMIC)
            continue; /* its parts have variants */
        for (int i = 0; i < lk_isa_count(); i++) {
            if (!lk_isa_use(lk_isa_name(i)))
                continue;
            for (int d = LK_F64; d <= LK_BF16; d++) {
                const lk_loss *variant = lk_loss_variant(loss, (lk_dtype)d);
                assert_string_equal(variant->is->name, loss->is->name);
                const bool once = lk_loss_variant(loss, LK_F64) == lk_loss_variant(loss, LK_F32);
                const bool reals = d > LK_F32 && variant == lk_loss_variant(loss, LK_F32);
                for (int other = LK_F64; other < (reals ? LK_F32 : d); other++)
                    assert_int_equal(lk_loss_variant(loss, (lk_dtype)other) == variant, once);
            }
        }
    }
    lk_isa_use("auto");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_descriptions),
        cmocka_unit_test(test_isas),
        cmocka_unit_test(test_variants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
