/* SPDX-License-Identifier: MIT
 *
 * The value of a composite is the weighted sum of the values of its parts, and its gradients are
 * the sums of their gradients.
 */
#include "tests/help.h"
#include "tests/run_call.h"
#include "tests/trial/trial.h"

enum { PARTS = 3 };

/* The parts of one composite: each a trial, or again the one before it, with the same tensors. */
typedef struct mixture {
    int parts;
    trial of[PARTS];
    bool again[PARTS];
    double weight[PARTS];
    answer alone[PARTS];
} mixture;

static const lk_dtype elements[] = {LK_F64, LK_F32, LK_F16, LK_BF16};

static bool is_part(const lk_loss *loss)
{
    return !(lk_loss_describe(loss)->traits & (LK_DYNAMIC | LK_TRANSFORM));
}

/* Only what makes a part: a loss of one number, and no upstream gradients, which are the
 * composite's. */
static bool draw_part(trial *t, lk_dtype element)
{
    lk_error error;
    const lk_loss *loss = lk_loss_at((int)random_int(0, lk_loss_count() - 1));
    if (!is_part(loss))
        return false;
    *t = trial_draw(loss, &(wish){.element = element, .small = true, .smooth = true}, &error);
    for (int i = 0; i < t->inputs; i++) {
        if (t->in[i].is->flags & LK_COTANGENT) {
            free(t->in[i].x);
            t->in[i].x = NULL;
            t->in[i].given = false;
        }
    }
    (void)trial_add(t, "grad_output", LK_F64, 1);
    if (error.status == LK_OK && strcmp(loss_pattern(t), "") == 0) {
        t->wants = 0;
        return true;
    }
    trial_free(t);
    return false;
}

static mixture mixture_new(lk_dtype element)
{
    mixture m = {.parts = (int)random_int(1, PARTS)};
    for (int k = 0; k < m.parts; k++) {
        m.again[k] = k > 0 && chance(0.5);
        if (m.again[k])
            m.of[k] = trial_copy(&m.of[k - 1]);
        while (!m.again[k] && !draw_part(&m.of[k], element))
            continue;
        m.weight[k] = chance(0.15) ? 0 : random_normal();
        m.alone[k] = evaluate(&m.of[k], &(how){0});
        assert_int_equal(m.alone[k].status, LK_OK);
    }
    return m;
}

static void mixture_free(mixture *m)
{
    for (int k = 0; k < m->parts; k++) {
        answer_free(&m->alone[k]);
        trial_free(&m->of[k]);
    }
}

/* The name of input i of part k in the composite. */
static const char *name_of(const mixture *m, int k, int i, char to[64])
{
    int owner = k;
    while (m->again[owner])
        owner--;
    snprintf(to, 64, "%d.%.28s", owner, m->of[k].in[i].is->name);
    return to;
}

static lk_tensor tensor_of(const trial_input *in)
{
    lk_tensor t = {malloc((size_t)in->at.count * 8 + 1), in->type, in->at.rank, {0}};
    memcpy(t.shape, in->at.shape, sizeof t.shape);
    for (int64_t j = 0; j < in->at.count; j++)
        store(t.data, in->type, j, in->x[j]);
    return t;
}

static lk_call *call_of(const mixture *m, lk_tensor held[PARTS][TRIAL_INPUTS])
{
    lk_error error = {0};
    char name[64];
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    assert_non_null(call);
    for (int k = 0; k < m->parts; k++) {
        const trial *t = &m->of[k];
        assert_int_equal(lk_call_part(call, t->is->name, m->weight[k], &error), LK_OK);
        for (int s = 0; s < t->settings; s++)
            if (lk_call_part_option(call, t->set[s].field->name, t->set[s].text, &error) != LK_OK)
                fail_msg("%s", error.text);
        for (int i = 0; i < t->inputs; i++) {
            if (!t->in[i].given || strcmp(t->in[i].is->name, "grad_output") == 0)
                continue;
            (void)name_of(m, k, i, name);
            assert_int_equal(lk_call_part_input(call, t->in[i].is->name, name, &error), LK_OK);
            if (m->again[k])
                continue;
            held[k][i] = tensor_of(&t->in[i]);
            assert_int_equal(lk_call_input(call, name, &held[k][i], &error), LK_OK);
        }
    }
    if (lk_call_check(call, &error) != LK_OK)
        fail_msg("%s", error.text);
    return call;
}

/* The sum of the parts' gradients with respect to a tensor, and of their sizes. */
static double sum_of(const mixture *m, const char *tensor, int64_t j, double *size)
{
    double total = 0;
    char name[64], grad[64];
    *size = 0;
    for (int k = 0; k < m->parts; k++) {
        for (int i = 0; i < m->of[k].inputs && m->weight[k] != 0; i++) {
            if (!m->of[k].in[i].given || strcmp(name_of(m, k, i, name), tensor) != 0)
                continue;
            snprintf(grad, sizeof grad, "grad.%s", m->of[k].in[i].is->name);
            const lk_tensor *g = answer_find(&m->alone[k], grad);
            const double x = g ? load(g->data, g->dtype, j) * m->weight[k] : 0;
            total += x;
            *size += fabs(x);
        }
    }
    return total;
}

static void compare(const mixture *m, lk_dtype element, const char *output, const lk_tensor *t)
{
    /* The parts alone are rounded to the type, even where they are much smaller than the largest.
     */
    const double step = element == LK_F64 ? 1e-13 : element == LK_BF16 ? 0x1p-8 : 0x1p-10;
    double total = 0, size, peak = 0;
    for (int k = 0; strcmp(output, "loss") == 0 && k < m->parts; k++)
        if (m->weight[k] != 0)
            total += m->weight[k] * answer_value(&m->alone[k], "loss", 0);
    for (int64_t j = 0; j < lk_tensor_count(t); j++) {
        const double x = load(t->data, t->dtype, j);
        if (strcmp(output, "parts") == 0) {
            const double alone = answer_value(&m->alone[j], "loss", 0);
            if (!(x == alone || (isnan(x) && isnan(alone))))
                fail_msg("%s as part %" PRId64 " is %.17g, alone %.17g", m->of[j].is->name, j, x,
                         alone);
            continue;
        }
        const bool gradient = strncmp(output, "grad.", 5) == 0;
        const double want = gradient ? sum_of(m, output + 5, j, &size) : total;
        peak = fmax(peak, gradient ? size : fabs(total));
        if (isfinite(want) && !(fabs(x - want) <= step * peak + 1e-6 + fabs(want) * step)) {
            char text[1024];
            for (int k = 0; k < m->parts; k++)
                print_error("%g * %s\n", m->weight[k], trial_text(&m->of[k], text));
            fail_msg("%s[%" PRId64 "] is %.17g, the parts' sum %.17g", output, j, x, want);
        }
    }
}

static void test_sums(void **state)
{
    (void)state;
    int gradients = 0, shared = 0;
    for (int round = 0; round < 1200; round++) {
        const lk_dtype element = elements[round % 4];
        random_state = (uint64_t)round * 77 + 5;
        lk_tensor held[PARTS][TRIAL_INPUTS] = {{{0}}}, out[TRIAL_OUTPUTS];
        mixture m = mixture_new(element);
        lk_call *call = call_of(&m, held);
        const int outputs = lk_call_outputs(call);
        for (int i = 0; i < outputs; i++) {
            (void)lk_call_output(call, i, &out[i]);
            out[i].data = malloc((size_t)lk_tensor_count(&out[i]) * 8 + 1);
            assert_int_equal(lk_call_bind(call, i, out[i].data), LK_OK);
        }
        run_call(call);
        for (int i = 0; i < outputs; i++) {
            const char *name = lk_call_output(call, i, NULL);
            gradients += strncmp(name, "grad.", 5) == 0;
            compare(&m, element, name, &out[i]);
            free(out[i].data);
        }
        for (int k = 0; k < m.parts; k++) {
            shared += m.again[k];
            for (int i = 0; i < TRIAL_INPUTS; i++)
                free(held[k][i].data);
        }
        lk_call_free(call);
        mixture_free(&m);
    }
    assert_true(gradients > 1000 && shared > 300);
}

/* A plan that was refused may be repeated with corrected values. */
static void test_again(void **state)
{
    (void)state;
    lk_error error;
    float logits[] = {1, 2}, loss = 0, grad[2], parts[1];
    int64_t targets[] = {7};
    lk_tensor x = lk_matrix(LK_F32, logits, 1, 2), y = lk_vector(LK_I64, targets, 1);
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    assert_int_equal(lk_call_check(call, &error), LK_MISSING_OPTION);
    assert_int_equal(lk_call_part(call, "cross_entropy", 2, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "logits", &x, &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_MISSING_INPUT);
    assert_int_equal(lk_call_input(call, "targets", &y, &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    assert_int_equal(lk_call_outputs(call), 3);
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_OK);
    assert_int_equal(lk_call_bind(call, 1, grad), LK_OK);
    assert_int_equal(lk_call_bind(call, 2, parts), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_TARGET_OUT_OF_RANGE);
    assert_string_equal(error.input, "targets");
    targets[0] = 1;
    run_call(call);
    assert_true(fabs((double)loss - 2 * log1p(exp(-1))) < 1e-6);
    assert_true(grad[0] == -grad[1] && parts[0] * 2 == loss);
    lk_call_free(call);
}

/* So may one of several parts: those that were planned before the one that was refused begin anew,
 * with the options that they had. */
static void test_again_of_several(void **state)
{
    (void)state;
    lk_error error;
    float a[] = {3, 5}, b[] = {1, 1}, logits[] = {1, 2}, loss, parts[2], grad_a[2], grad_logits[2];
    int64_t targets[] = {7};
    lk_tensor given[] = {lk_vector(LK_F32, a, 2), lk_vector(LK_F32, b, 2),
                         lk_matrix(LK_F32, logits, 1, 2), lk_vector(LK_I64, targets, 1)};
    const char *const names[] = {"a", "b", "logits", "targets"};
    const char *const outputs[] = {"loss", "parts", "grad.a", "grad.logits"};
    void *const places[] = {&loss, parts, grad_a, grad_logits};
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    assert_int_equal(lk_call_part(call, "mae", 1, &error), LK_OK);
    assert_int_equal(lk_call_part_option(call, "reduction", "sum", &error), LK_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(lk_call_input(call, names[i], &given[i], &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_UNKNOWN_INPUT); /* nobody uses the logits */
    assert_int_equal(lk_call_part(call, "cross_entropy", 1, &error), LK_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(lk_call_want(call, outputs[i], &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(lk_call_bind(call, i, places[i]), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_TARGET_OUT_OF_RANGE);
    targets[0] = 1;
    run_call(call);
    assert_true(parts[0] == 6 && grad_a[0] == 1 && grad_a[1] == 1);
    assert_true(grad_logits[0] == -grad_logits[1] && loss == parts[0] + parts[1]);
    lk_call_free(call);
}

/* A repeated check does not depend on the one before it, where the type of the weights was wrong.
 */
static void test_check_again(void **state)
{
    (void)state;
    lk_error error;
    float x[] = {3}, y[] = {1}, weight[] = {4}, loss, grad[1], parts[1];
    int32_t wrong[] = {4};
    lk_tensor a = lk_vector(LK_F32, x, 1), b = lk_vector(LK_F32, y, 1);
    lk_tensor bad = lk_vector(LK_I32, wrong, 1), good = lk_vector(LK_F32, weight, 1);
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    assert_int_equal(lk_call_input(call, "a", &a, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "b", &b, &error), LK_OK);
    assert_int_equal(lk_call_part(call, "mae", 1, &error), LK_OK);
    assert_int_equal(lk_call_want(call, "loss", &error), LK_OK);
    assert_int_equal(lk_call_want(call, "grad.a", &error), LK_OK);
    assert_int_equal(lk_call_want(call, "parts", &error), LK_OK);
    assert_int_equal(lk_call_input(call, "weights", &bad, &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_DTYPE_UNSUPPORTED);
    assert_int_equal(lk_call_part_option(call, "reduction", "sum", &error), LK_OK);
    assert_int_equal(lk_call_input(call, "weights", &good, &error), LK_OK);
    if (lk_call_check(call, &error) != LK_OK)
        fail_msg("%s", error.text);
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_OK);
    assert_int_equal(lk_call_bind(call, 1, grad), LK_OK);
    assert_int_equal(lk_call_bind(call, 2, parts), LK_OK);
    run_call(call);
    assert_true(loss == 8 && grad[0] == 4 && parts[0] == 2);
    lk_call_free(call);
}

/* Every function that takes an lk_error accepts NULL. */
static void test_no_error(void **state)
{
    (void)state;
    const lk_loss *composite = lk_loss_find("composite");
    lk_call *call = lk_call_new(composite), *plain = lk_call_new(lk_loss_find("mse"));
    lk_tensor x = lk_vector(LK_F32, NULL, 1);
    assert_int_equal(lk_call_part(plain, "mse", 1, NULL), LK_MISUSE);
    assert_int_equal(lk_call_part_option(call, "reduction", "sum", NULL), LK_MISUSE);
    assert_int_equal(lk_call_part_input(call, "a", "b", NULL), LK_MISUSE);
    assert_int_equal(lk_call_part(call, "nothing", 1, NULL), LK_OPTION_INVALID);
    assert_int_equal(lk_call_part(call, "composite", 1, NULL), LK_OPTION_CONFLICT);
    assert_int_equal(lk_call_part(call, "mask_tokens", 1, NULL), LK_OPTION_CONFLICT);
    assert_int_equal(lk_call_part(call, "mse", (double)NAN, NULL), LK_OPTION_INVALID);
    assert_int_equal(lk_call_option(call, "parts", "[]", NULL), LK_OPTION_INVALID);
    for (int k = 0; k < 16; k++)
        assert_int_equal(lk_call_part(call, "mse", 1, NULL), LK_OK);
    assert_int_equal(lk_call_part(call, "mse", 1, NULL), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(lk_call_part_option(call, "delta", "1", NULL), LK_UNKNOWN_OPTION);
    assert_int_equal(lk_call_part_input(call, "grad_output", "b", NULL), LK_OPTION_CONFLICT);
    assert_int_equal(lk_call_part_input(call, "a", NULL, NULL), LK_MISSING_INPUT);
    assert_int_equal(lk_call_want(call, "loss", NULL), LK_OK);
    assert_int_equal(lk_call_want(call, "loss", NULL), LK_DUPLICATE_OPTION);
    assert_int_equal(lk_call_input(call, "", &x, NULL), LK_UNKNOWN_INPUT);
    assert_int_equal(lk_call_input(call, "a-name-of-more-than-thirty-one-bytes", &x, NULL),
                     LK_UNKNOWN_INPUT);
    assert_int_equal(lk_call_check(call, NULL), LK_MISSING_INPUT);
    lk_call_free(call);
    lk_call_free(plain);
}

/* The element types of a tensor are those that every part takes that reads it. */
static void test_dtypes(void **state)
{
    lk_call *call = must(lk_call_new(lk_loss_find("composite")));
    (void)state;
    assert_int_equal(lk_call_dtypes(call, "weights"), LK_FLOATS);
    assert_int_equal(lk_call_dtypes(call, "target"), 0);
    assert_int_equal(lk_call_part(call, "cosine_embedding", 1, NULL), LK_OK);
    assert_int_equal(lk_call_dtypes(call, "target"), LK_INTS | LK_FLOATS);
    assert_int_equal(lk_call_dtypes(call, "a"), LK_FLOATS);
    assert_int_equal(lk_call_part(call, "contrastive", 1, NULL), LK_OK);
    assert_int_equal(lk_call_dtypes(call, "target"), LK_INTS);
    assert_int_equal(lk_call_part(call, "mse", 1, NULL), LK_OK);
    assert_int_equal(lk_call_part_input(call, "a", "target", NULL), LK_OK);
    assert_int_equal(lk_call_dtypes(call, "target"), 0); /* no type is right */
    assert_int_equal(lk_call_part(call, "cosine_similarity", 1, NULL), LK_OK);
    assert_int_equal(lk_call_part_input(call, "target", NULL, NULL), LK_OK);
    assert_int_equal(lk_call_dtypes(call, "grad_output"), LK_FLOATS);
    assert_int_equal(lk_call_part(call, "huber", 1, NULL), LK_OK);
    assert_int_equal(lk_call_part_input(call, "a", "part.0.loss", NULL), LK_OK);
    assert_int_equal(lk_call_dtypes(call, "part.0.loss"), 0); /* an edge reads no tensor */
    lk_call_free(call);
}

/* Every tensor of a composite that is full has its gradient among the default outputs; of what is
 * asked for by name there may be as many as LK_OUTPUTS_MAX. */
static void test_many_outputs(void **unused)
{
    enum { TRIPLETS = 16 };
    static const char *const inputs[] = {"anchor", "positive", "negative"};
    lk_error error;
    char name[48];
    float x[2] = {0, 1};
    (void)unused;
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    for (int k = 0; k < TRIPLETS; k++) {
        assert_int_equal(lk_call_part(call, "triplet", 1, &error), LK_OK);
        for (int i = 0; i < 3; i++) {
            const lk_tensor t = lk_matrix(LK_F32, x, 1, 2);
            snprintf(name, sizeof name, "%s%d", inputs[i], k);
            assert_int_equal(lk_call_part_input(call, inputs[i], name, &error), LK_OK);
            assert_int_equal(lk_call_input(call, name, &t, &error), LK_OK);
        }
    }
    if (lk_call_check(call, &error) != LK_OK)
        fail_msg("%s", error.text);
    assert_int_equal(lk_call_outputs(call), 2 + 3 * TRIPLETS);
    lk_call_free(call);

    call = lk_call_new(lk_loss_find("composite"));
    for (int k = 0; k <= LK_OUTPUTS_MAX; k++) {
        snprintf(name, sizeof name, "grad.x%d", k);
        assert_int_equal(lk_call_want(call, name, &error),
                         k < LK_OUTPUTS_MAX ? LK_OK : LK_UNKNOWN_OUTPUT);
    }
    lk_call_free(call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_again_of_several),
        cmocka_unit_test(test_check_again),
        cmocka_unit_test(test_no_error),
        cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_many_outputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
