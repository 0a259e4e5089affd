/* SPDX-License-Identifier: MIT
 *
 * Random graphs, compared with their parts evaluated one by one: each with what the parts that it
 * reads gave, then, in the opposite order, with the sums of the gradients of those that read it.
 */
#include "tests/help.h"
#include "tests/run_call.h"
#include "tests/trial/trial.h"

enum { PARTS = 6 };

/* An edge: an input that reads an output of another part. */
typedef struct edge {
    int part; /* -1: none, the input is a tensor */
    const char *output;
} edge;

/* The parts stand in the order in which they were drawn: each reads later ones. */
typedef struct net {
    int parts;
    trial of[PARTS];
    edge edge[PARTS][TRIAL_INPUTS];
    double weight[PARTS]; /* NaN: not given */
    answer alone[PARTS];  /* the values */
    answer back[PARTS];   /* the gradients */
    bool inner[PARTS], flows[PARTS], backs[PARTS];
    int place[PARTS]; /* of the part in the composite */
    lk_dtype element;
} net;

static int gradients, shared, deep;

/* Parts. */

static trial bare(const char *loss, lk_dtype element)
{
    trial t = {.loss = lk_loss_find(loss), .element = element};
    assert_non_null(t.loss);
    t.is = lk_loss_describe(t.loss);
    for (; t.is->inputs[t.inputs].name; t.inputs++)
        t.in[t.inputs].is = &t.is->inputs[t.inputs];
    return t;
}

/* The input of that name, given or not; NULL: there is none. */
static trial_input *input_named(const trial *t, const char *name)
{
    for (int i = 0; i < t->inputs; i++)
        if (strcmp(t->in[i].is->name, name) == 0)
            return (trial_input *)(uintptr_t)&t->in[i];
    return NULL;
}

static void give(trial *t, const char *name, lk_dtype type, int rank, const int64_t *shape)
{
    trial_input *in = input_named(t, name);
    assert_non_null(in);
    in->given = true;
    in->type = type;
    in->at = (layout){.rank = rank, .count = 1};
    for (int i = 0; i < rank; i++)
        in->at.count *= in->at.shape[i] = shape[i];
    in->x = new_doubles(in->at.count);
    for (int64_t j = 0; j < in->at.count; j++)
        in->x[j] = is_float(type) ? round_to(type, random_normal()) : (double)random_int(0, 2);
}

/* A loss of one number, and no upstream gradients, which are the composite's. */
static trial draw_root(lk_dtype element)
{
    for (;;) {
        lk_error error;
        const lk_loss *loss = lk_loss_at((int)random_int(0, lk_loss_count() - 1));
        if (lk_loss_describe(loss)->traits & (LK_DYNAMIC | LK_TRANSFORM))
            continue;
        trial t =
            trial_draw(loss, &(wish){.element = element, .small = true, .smooth = true}, &error);
        for (int i = 0; i < t.inputs; i++) {
            const bool upstream = strcmp(t.in[i].is->name, "grad_output") == 0;
            if (upstream || (t.in[i].is->flags & LK_COTANGENT)) {
                free(t.in[i].x);
                t.in[i].x = NULL;
                t.in[i].given = false;
            }
        }
        if (error.status == LK_OK && strcmp(loss_pattern(&t), "") == 0)
            return t;
        trial_free(&t);
    }
}

/* A part with an output of that shape, or NULL if there is none. */
static const char *draw_source(trial *t, lk_dtype element, const trial_input *reader)
{
    static const char *const wise[] = {"mse", "mae", "huber", "smooth_l1"};
    static const char *const scores[] = {"logprobs", "entropy", "sequence_logprobs",
                                         "mean_logprobs"};
    const char *range = reader->is->range;
    const bool negative = range && strcmp(range, "<=0") == 0;
    const int rank = reader->at.rank;
    const int64_t *shape = reader->at.shape;
    if (reader->at.count == 0 || (range && !negative))
        return NULL;
    if (rank == 0 && !negative) {
        *t = draw_root(element);
        return "loss";
    }
    if ((rank == 1 || rank == 2) && (negative || chance(0.6))) {
        const int64_t logits[] = {shape[0], rank == 2 ? shape[1] : random_int(1, 4), 3};
        *t = bare("token_logprobs", element);
        give(t, "logits", element, 3, logits);
        give(t, "targets", LK_I64, 2, logits);
        return scores[2 * (2 - rank) + (negative ? 0 : random_int(0, 1))];
    }
    if (negative)
        return NULL;
    *t = bare(wise[random_int(0, 3)], element);
    trial_set(t, "reduction", "none");
    give(t, "a", element, rank, shape);
    give(t, "b", element, rank, shape);
    return "loss";
}

/* Let an input of a part read an output, of a part that is there or of a new one. */
static void draw_edge(net *n)
{
    const int k = (int)random_int(0, n->parts - 1);
    trial *t = &n->of[k];
    const int i = (int)random_int(0, t->inputs - 1);
    trial_input *in = &t->in[i];
    edge *e = &n->edge[k][i];
    if (!in->given || !is_float(in->type) || e->part >= 0)
        return;
    for (int l = k + 1; l < n->parts && chance(0.5); l++) {
        const lk_tensor *x = answer_find(&n->alone[l], "logprobs");
        const char *output = "logprobs";
        if (!x || x->rank != in->at.rank || in->is->range ||
            memcmp(x->shape, in->at.shape, (size_t)x->rank * sizeof *x->shape) != 0)
            continue;
        *e = (edge){l, output};
        shared++;
        return;
    }
    if (n->parts == PARTS)
        return;
    trial source;
    const char *output = draw_source(&source, n->element, in);
    if (!output)
        return;
    *e = (edge){n->parts, output};
    n->of[n->parts] = source;
    for (int j = 0; j < TRIAL_INPUTS; j++)
        n->edge[n->parts][j].part = -1;
    n->weight[n->parts] = chance(0.8) ? (double)NAN : random_normal();
    if (option_is(&source, "reduction", "none"))
        n->weight[n->parts] = (double)NAN;
    n->parts++;
}

/* Values of part k, whose sources come later. All outputs that are floats, and no gradients. */
static void evaluate_part(net *n, int k)
{
    trial *t = &n->of[k];
    for (int i = 0; i < t->inputs; i++) {
        const edge *e = &n->edge[k][i];
        for (int64_t j = 0; e->part >= 0 && j < t->in[i].at.count; j++)
            t->in[i].x[j] = answer_value(&n->alone[e->part], e->output, j);
        if (e->part >= 0)
            t->in[i].type = n->element;
    }
    t->wants = 0;
    trial_want(t, "", "loss");
    for (const lk_output *o = t->is->outputs; o->name && strcmp(t->is->name, "token_logprobs") == 0;
         o++)
        trial_want(t, "", o->name);
    answer_free(&n->alone[k]);
    n->alone[k] = evaluate(t, &(how){0});
}

static bool net_new(net *n, lk_dtype element)
{
    *n = (net){.parts = 1, .element = element};
    n->of[0] = draw_root(element);
    n->weight[0] = random_normal();
    for (int j = 0; j < TRIAL_INPUTS; j++)
        n->edge[0][j].part = -1;
    if (chance(0.3)) { /* a second loss */
        n->of[n->parts] = draw_root(element);
        n->weight[n->parts] = chance(0.2) ? 0 : random_normal();
        memcpy(n->edge[n->parts++], n->edge[0], sizeof n->edge[0]);
    }
    for (int tries = 0; tries < 20; tries++) {
        const int before = n->parts;
        draw_edge(n);
        if (n->parts > before)
            evaluate_part(n, before);
    }
    bool fine = true;
    for (int k = n->parts; k-- > 0;) {
        evaluate_part(n, k);
        fine = fine && n->alone[k].status == LK_OK;
    }
    for (int k = 0; k < n->parts; k++) { /* a random order of the parts */
        const int other = (int)random_int(0, k);
        n->place[k] = n->place[other];
        n->place[other] = k;
    }
    return fine;
}

static void net_free(net *n)
{
    for (int k = 0; k < n->parts; k++) {
        answer_free(&n->alone[k]);
        answer_free(&n->back[k]);
        trial_free(&n->of[k]);
    }
}

/* One by one. */

static bool is_differentiable(const net *n, int k, int i)
{
    const edge *e = &n->edge[k][i];
    char name[64];
    if (!(n->of[k].in[i].is->flags & LK_DIFFERENTIABLE) || e->part < 0)
        return false;
    snprintf(name, sizeof name, "grad_%s", e->output);
    return strcmp(e->output, "loss") == 0 || input_named(&n->of[e->part], name);
}

static void set_upstream(trial *t, const char *name, lk_dtype type, const lk_tensor *shape)
{
    trial_input *in = input_named(t, name);
    if (!in->given) {
        give(t, name, type, shape->rank, shape->shape);
        memset(in->x, 0, (size_t)in->at.count * sizeof *in->x);
    }
}

/* Add the gradients of the parts that read part k to its upstream gradients. The places of the
 * parts are the order of the sums. */
static void add_upstreams(net *n, int k)
{
    trial *t = &n->of[k];
    char name[64], grad[64];
    for (int at = 0; at < n->parts; at++) {
        int r = 0;
        while (n->place[r] != at)
            r++;
        for (int i = 0; i < n->of[r].inputs; i++) {
            const edge *e = &n->edge[r][i];
            if (e->part != k || !is_differentiable(n, r, i) || !n->backs[r] || !n->flows[r])
                continue;
            const bool loss = strcmp(e->output, "loss") == 0;
            snprintf(name, sizeof name, "grad_%s", loss ? "output" : e->output);
            snprintf(grad, sizeof grad, "grad.%s", n->of[r].in[i].is->name);
            set_upstream(t, name, n->element, answer_find(&n->alone[k], e->output));
            trial_input *up = input_named(t, name);
            for (int64_t j = 0; j < up->at.count; j++)
                up->x[j] = round_to(n->element, up->x[j] + answer_value(&n->back[r], grad, j));
            n->flows[k] = true;
        }
    }
}

static void differentiate(net *n)
{
    for (int k = 0; k < n->parts; k++) {
        trial *t = &n->of[k];
        bool is_read = false;
        for (int r = 0; r < k; r++)
            for (int i = 0; i < n->of[r].inputs; i++)
                is_read = is_read || n->edge[r][i].part == k;
        n->inner[k] = is_read && isnan(n->weight[k]);
        n->backs[k] = !n->inner[k];
        for (int r = 0; r < k; r++)
            for (int i = 0; i < n->of[r].inputs; i++)
                n->backs[k] = n->backs[k] || (n->edge[r][i].part == k && n->backs[r] &&
                                              is_differentiable(n, r, i));
        if (!n->backs[k])
            continue;
        const double factor = n->inner[k] ? 0 : isnan(n->weight[k]) ? 1 : n->weight[k];
        const lk_tensor *loss = answer_find(&n->alone[k], "loss");
        set_upstream(t, "grad_output", n->element, loss);
        for (int64_t j = 0; j < lk_tensor_count(loss); j++)
            input_named(t, "grad_output")->x[j] = round_to(n->element, factor);
        n->flows[k] = factor != 0;
        add_upstreams(n, k);
        t->wants = 0;
        for (int i = 0; i < t->inputs; i++)
            if (t->in[i].given && is_float(t->in[i].type) &&
                (t->in[i].is->flags & LK_DIFFERENTIABLE))
                trial_want(t, "grad.", t->in[i].is->name);
        n->back[k] = evaluate(t, &(how){0});
        if (n->back[k].status != LK_OK)
            fail_msg("%s: %s", t->is->name, n->back[k].error.text);
    }
}

/* The graph. */

static lk_call *call_of(const net *n, lk_tensor held[PARTS][TRIAL_INPUTS])
{
    lk_error error = {0};
    char name[64];
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    assert_non_null(call);
    for (int at = 0; at < n->parts; at++) {
        int k = 0;
        while (n->place[k] != at)
            k++;
        const trial *t = &n->of[k];
        assert_int_equal(isnan(n->weight[k])
                             ? lk_call_part_unweighted(call, t->is->name, &error)
                             : lk_call_part(call, t->is->name, n->weight[k], &error),
                         LK_OK);
        snprintf(name, sizeof name, "p%d", k);
        assert_int_equal(lk_call_part_name(call, name, &error), LK_OK);
        for (int s = 0; s < t->settings; s++)
            if (lk_call_part_option(call, t->set[s].field->name, t->set[s].text, &error) != LK_OK)
                fail_msg("%s", error.text);
        for (int i = 0; i < t->inputs; i++) {
            const trial_input *in = &t->in[i];
            const edge *e = &n->edge[k][i];
            const bool upstream =
                strcmp(in->is->name, "grad_output") == 0 || (in->is->flags & LK_COTANGENT);
            if (!in->given || upstream)
                continue;
            snprintf(name, sizeof name, "%d.%.28s", k, in->is->name);
            if (e->part >= 0 && chance(0.5))
                snprintf(name, sizeof name, "part.p%d.%s", e->part, e->output);
            else if (e->part >= 0)
                snprintf(name, sizeof name, "part.%d.%s", n->place[e->part], e->output);
            assert_int_equal(lk_call_part_input(call, in->is->name, name, &error), LK_OK);
            if (e->part >= 0)
                continue;
            held[k][i] =
                (lk_tensor){malloc((size_t)in->at.count * 8 + 1), in->type, in->at.rank, {0}};
            memcpy(held[k][i].shape, in->at.shape, sizeof held[k][i].shape);
            for (int64_t j = 0; j < in->at.count; j++)
                store(held[k][i].data, in->type, j, in->x[j]);
            assert_int_equal(lk_call_input(call, name, &held[k][i], &error), LK_OK);
        }
    }
    if (lk_call_check(call, &error) != LK_OK)
        fail_msg("%s", error.text);
    return call;
}

static void print_net(const net *n)
{
    char text[1024];
    for (int k = 0; k < n->parts; k++) {
        print_error("p%d (%d): %g * %s\n", k, n->place[k], n->weight[k],
                    trial_text(&n->of[k], text));
        for (int i = 0; i < n->of[k].inputs; i++)
            if (n->edge[k][i].part >= 0)
                print_error("    %s = p%d.%s\n", n->of[k].in[i].is->name, n->edge[k][i].part,
                            n->edge[k][i].output);
    }
}

/* A gradient: the part's own, since no two share a tensor here. */
static void compare_gradient(const net *n, const char *output, const lk_tensor *got)
{
    const int k = output[strlen("grad.")] - '0';
    char name[64];
    double peak = 0;
    snprintf(name, sizeof name, "grad.%s", output + strlen("grad.0."));
    const lk_tensor *want = answer_find(&n->back[k], name);
    assert_non_null(want);
    for (int64_t j = 0; j < lk_tensor_count(got); j++)
        peak = fmax(peak, n->flows[k] ? fabs(load(want->data, want->dtype, j)) : 0);
    for (int64_t j = 0; j < lk_tensor_count(got); j++) {
        const double x = load(got->data, got->dtype, j);
        const double y = n->flows[k] ? load(want->data, want->dtype, j) : 0;
        const double step = n->element == LK_F64 ? 1e-12 : 1e-6;
        if (!(fabs(x - y) <= step * peak) && !(isnan(x) && isnan(y)) && x != y) {
            print_net(n);
            fail_msg("%s[%" PRId64 "] is %.17g, one by one %.17g", output, j, x, y);
        }
    }
    gradients++;
}

static void compare(const net *n, const char *output, const lk_tensor *got)
{
    double total = 0, size = 0;
    if (strncmp(output, "grad.", 5) == 0) {
        compare_gradient(n, output, got);
        return;
    }
    for (int k = 0; k < n->parts; k++) {
        double sum = 0;
        const lk_tensor *loss = answer_find(&n->alone[k], "loss");
        for (int64_t j = 0; j < lk_tensor_count(loss); j++)
            sum += load(loss->data, loss->dtype, j);
        if (strcmp(output, "parts") == 0) {
            const double x = load(got->data, got->dtype, n->place[k]);
            if (!(x == round_to(got->dtype, sum)) && !(isnan(x) && isnan(sum)))
                fail_msg("part %d is %.17g, alone %.17g", k, x, sum);
        }
        const double factor = n->inner[k] ? 0 : isnan(n->weight[k]) ? 1 : n->weight[k];
        total += factor == 0 ? 0 : factor * sum;
        size += factor == 0 ? 0 : fabs(factor * sum);
    }
    const double x = load(got->data, got->dtype, 0);
    if (strcmp(output, "loss") == 0 && isfinite(total) &&
        !(fabs(x - total) <= (n->element == LK_F64 ? 1e-13 : 1e-6) * size))
        fail_msg("the loss is %.17g, the parts' sum %.17g", x, total);
}

/* How many edges follow each other. */
static int depth(const net *n, int k)
{
    int most = 0;
    for (int i = 0; i < n->of[k].inputs; i++)
        if (n->edge[k][i].part >= 0)
            most =
                most > 1 + depth(n, n->edge[k][i].part) ? most : 1 + depth(n, n->edge[k][i].part);
    return most;
}

static void test_one_by_one(void **state)
{
    (void)state;
    for (int round = 0; round < 2000; round++) {
        lk_tensor held[PARTS][TRIAL_INPUTS] = {{{0}}}, out[TRIAL_OUTPUTS];
        net n;
        random_state = (uint64_t)round * 91 + 7;
        if (!net_new(&n, round % 2 ? LK_F32 : LK_F64)) { /* a value that its reader refuses */
            net_free(&n);
            continue;
        }
        differentiate(&n);
        lk_call *call = call_of(&n, held);
        const int outputs = lk_call_outputs(call);
        assert_in_range(outputs, 1, TRIAL_OUTPUTS);
        for (int i = 0; i < outputs; i++) {
            const lk_tensor *over = round % 3 ? NULL : lk_call_in_place(call, i);
            (void)lk_call_output(call, i, &out[i]);
            out[i].data = over ? over->data : malloc((size_t)lk_tensor_count(&out[i]) * 8 + 1);
            assert_int_equal(lk_call_bind(call, i, out[i].data), LK_OK);
        }
        run_call(call);
        for (int i = 0; i < outputs; i++) {
            compare(&n, lk_call_output(call, i, NULL), &out[i]);
            if (round % 3 || !lk_call_in_place(call, i))
                free(out[i].data);
        }
        for (int k = 0; k < n.parts; k++)
            deep += depth(&n, k) > 1;
        for (int k = 0; k < n.parts; k++)
            for (int i = 0; i < TRIAL_INPUTS; i++)
                free(held[k][i].data);
        lk_call_free(call);
        net_free(&n);
    }
    if (gradients < 3000 || shared < 50 || deep < 200)
        fail_msg("%d gradients, %d outputs read twice, %d chains of edges", gradients, shared,
                 deep);
}

/* A chain of as many parts as there may be, and one more. */
static void test_most(void **state)
{
    (void)state;
    enum { MOST = 16 };
    lk_error error;
    float a[] = {3}, b[] = {0}, loss, grad;
    lk_tensor x = lk_vector(LK_F32, a, 1), y = lk_vector(LK_F32, b, 1);
    char name[32];
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    for (int k = 0; k < MOST; k++) { /* the last one is read by the one before it, and so on */
        assert_int_equal(lk_call_part_unweighted(call, "mae", &error), LK_OK);
        assert_int_equal(lk_call_part_option(call, "reduction", k > 0 ? "none" : "sum", &error),
                         LK_OK);
        snprintf(name, sizeof name, "part.%d.loss", k + 1);
        if (k + 1 < MOST)
            assert_int_equal(lk_call_part_input(call, "a", name, &error), LK_OK);
    }
    assert_int_equal(lk_call_part_unweighted(call, "mae", &error), LK_OPTION_OUT_OF_RANGE);
    assert_int_equal(lk_call_input(call, "a", &x, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "b", &y, &error), LK_OK);
    assert_int_equal(lk_call_want(call, "loss", &error), LK_OK);
    assert_int_equal(lk_call_want(call, "grad.a", &error), LK_OK);
    if (lk_call_check(call, &error) != LK_OK)
        fail_msg("%s", error.text);
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_OK);
    assert_int_equal(lk_call_bind(call, 1, &grad), LK_OK);
    run_call(call);
    assert_true(loss == 3 && grad == 1);
    lk_call_free(call);
}

/* A request without a gradient defers nothing; a plan that was refused may be repeated. */
static void test_again(void **state)
{
    (void)state;
    lk_error error;
    float logits[] = {1, 2}, advantages[] = {1}, loss = 0;
    int64_t targets[] = {7};
    lk_tensor x = {logits, LK_F32, 3, {1, 1, 2}}, y = lk_matrix(LK_I64, targets, 1, 1),
              a = lk_vector(LK_F32, advantages, 1);
    lk_call *call = lk_call_new(lk_loss_find("composite"));
    assert_int_equal(lk_call_part_unweighted(call, "policy_gradient", &error), LK_OK);
    assert_int_equal(lk_call_part_input(call, "logprobs", "part.p.logprobs", &error), LK_OK);
    assert_int_equal(lk_call_input(call, "advantages", &a, &error), LK_OK);
    assert_int_equal(lk_call_want(call, "loss", &error), LK_OK);
    assert_int_equal(lk_call_check(call, &error), LK_UNKNOWN_OUTPUT); /* there is no p yet */
    assert_int_equal(lk_call_part_unweighted(call, "token_logprobs", &error), LK_OK);
    assert_int_equal(lk_call_part_name(call, "p", &error), LK_OK);
    assert_int_equal(lk_call_input(call, "logits", &x, &error), LK_OK);
    assert_int_equal(lk_call_input(call, "targets", &y, &error), LK_OK);
    if (lk_call_check(call, &error) != LK_OK)
        fail_msg("%s", error.text);
    assert_int_equal(lk_call_bind(call, 0, &loss), LK_OK);
    assert_int_equal(lk_call_plan(call, &error), LK_TARGET_OUT_OF_RANGE);
    assert_string_equal(error.input, "targets");
    targets[0] = 1;
    run_call(call);
    assert_true(loss == -1);
    lk_call_free(call);
}

/* An upstream gradient that is sent counts as it is, however small or large that of the loss is, of
 * a part that stands alone and of one that is read. */
static void test_sent(void **state)
{
    static const double weights[] = {1, 1e-38, 1e34};
    (void)state;
    lk_error error;
    float logits[] = {1, 2}, advantages[] = {1}, above[] = {0.5f}, grad[2], alone[2];
    int64_t targets[] = {1};
    lk_tensor x = {logits, LK_F32, 3, {1, 1, 2}}, y = lk_matrix(LK_I64, targets, 1, 1),
              a = lk_vector(LK_F32, advantages, 1), h = lk_matrix(LK_F32, above, 1, 1);
    for (size_t i = 0; i < 2 * sizeof weights / sizeof *weights; i++) {
        const bool read = i & 1;
        const double weight = weights[i / 2];
        /* The gradient of -A exp(l - l) by l is -A. */
        double upstream = read ? -weight : weight;
        lk_tensor u = lk_scalar(LK_F64, &upstream), g = {alone, LK_F32, 3, {1, 1, 2}};
        if (lk_evaluate("token_logprobs", NULL,
                        (lk_named[]){{"logits", x},
                                     {"targets", y},
                                     {"grad_output", u},
                                     {"grad_entropy", h},
                                     {NULL, {0}}},
                        (lk_named[]){{"grad.logits", g}, {NULL, {0}}}, &error) != LK_OK)
            fail_msg("%s", error.text);
        lk_call *call = lk_call_new(lk_loss_find("composite"));
        if (read) {
            assert_int_equal(lk_call_part(call, "policy_gradient", weight, &error), LK_OK);
            assert_int_equal(lk_call_part_input(call, "logprobs", "part.1.logprobs", &error),
                             LK_OK);
            assert_int_equal(lk_call_input(call, "advantages", &a, &error), LK_OK);
            assert_int_equal(lk_call_part_unweighted(call, "token_logprobs", &error), LK_OK);
        } else {
            assert_int_equal(lk_call_part(call, "token_logprobs", weight, &error), LK_OK);
        }
        assert_int_equal(lk_call_input(call, "logits", &x, &error), LK_OK);
        assert_int_equal(lk_call_input(call, "targets", &y, &error), LK_OK);
        assert_int_equal(lk_call_input(call, "grad_entropy", &h, &error), LK_OK);
        assert_int_equal(lk_call_want(call, "grad.logits", &error), LK_OK);
        if (lk_call_check(call, &error) != LK_OK)
            fail_msg("%s", error.text);
        assert_int_equal(lk_call_bind(call, 0, grad), LK_OK);
        run_call(call);
        for (int k = 0; k < 2; k++)
            if (fabsf(grad[k] - alone[k]) > 1e-6f * fabsf(alone[k]))
                fail_msg("weight %g, %s: %g, not %g", weight, read ? "read" : "alone",
                         (double)grad[k], (double)alone[k]);
        lk_call_free(call);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_by_one),
        cmocka_unit_test(test_most),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
