/* SPDX-License-Identifier: MIT
 *
 * Element-wise losses of two tensors A and B of the same shape, or of A and a constant, a row being
 * one element. A loss gives a function that computes LANES elements, and gets checks, weights,
 * masks, sums and gradients from here. Those of the difference a - b, which are regressions, give
 * no more than a value and a slope:
 *
 *     typedef struct options { lk_reduce reduce; double delta; } options;
 *     LK_INLINE product value(const options *o, vec r) { ... }
 *     LK_INLINE vec slope(const options *o, vec r) { ... }
 *     REGRESSION_KERNELS(options, value, slope)
 *     LK_DESCRIBE(name, ..., .inputs = regression_inputs, .outputs = elementwise_outputs);
 *     LK_LOSS(name) = {.is = &LK_IS(name),
 *                      REGRESSION_MEMBERS(options)};
 *
 * A loss is compiled to one loop, over the elements of a chunk. All that does not depend on the
 * loss is in rows/elementwise.c.
 */
#ifndef LK_ELEMENTWISE_H
#define LK_ELEMENTWISE_H

#include "loss.h"
#include "vector/vec.h"
#include "vector/vmath.h"

enum { A, B }; /* the first inputs; a loss's own follow */

static const lk_output elementwise_outputs[] __attribute__((unused)) = {{0}};

/* A value as two factors: their product may be beyond the greatest float where the mean of many, or
 * a share of a larger batch, is not. */
typedef struct product {
    vec a, b;
} product;

/* LANES elements: in, then out. */
typedef struct element {
    vec a, b;
    vec ahead;  /* what the loss's function of that name gives for a */
    vec factor; /* of the input of that name; 1 where there is none */
    bool factored;

    product value;
    vec weight; /* of the value */
    vec slope_a, slope_b;
    mask legal;   /* is the input that is `ranged` in its range? */
    mask legal_a; /* is a? */
} element;

/* Some elements, in whole vectors: where they are, and where what a loss makes of them goes. NULL:
 * `weight`, `factor` and `up` ones, `mask` all counted, gradients not wanted. */
typedef struct elementwise_span {
    const elem *a, *b;
    const real *weight, *factor, *up;
    const unsigned char *mask;
    real *values;
    elem *grad_a, *grad_b;
    real rho;                /* of the gradients, besides `up` */
    bool alike;              /* do all elements count alike: no weight, mask or up, and a rho? */
    bool stream_a, stream_b; /* do the gradients go past the caches? */
    bool sums;               /* are the values to be added up? */
    real *ahead;             /* room */
} elementwise_span;

/* What a loss computes, and which input is what; 0, which is A, where it has none. */
typedef struct elementwise {
    void (*span)(const void *options, const elementwise_span *at, int64_t n);
    bool alone;     /* there is no B */
    bool constant;  /* `factor` is always given */
    bool broadcast; /* B broadcasts to A; its gradient is written here only if it has A's shape */
    int ranged;     /* B or `factor`, where `each` says what of it is legal */
    bool ranged_a;  /* likewise A */

    int weight; /* multiplies the loss; broadcasts to A */
    int factor; /* a constant that broadcasts to A: what it does is up to the loss */
    int mask;   /* broadcasts to A, or has the shape of its first axes */
    int grad_output;
} elementwise;

/* lk_loss.light: below 512 thousand elements of a few operations, or 128 thousand with a logarithm,
 * to start a thread takes longer than it saves. */
enum { ELEMENTWISE_CHEAP = 8, ELEMENTWISE_COSTLY = 2 };

/* Each variant has its own copy, under its own names; defined in rows/elementwise.c. */
#define elementwise_weigh  LK_PASTE(LK_VARIANT, elementwise_weigh)
#define elementwise_count  LK_PASTE(LK_VARIANT, elementwise_count)
#define elementwise_odd    LK_PASTE(LK_VARIANT, elementwise_odd)
#define elementwise_rows   LK_PASTE(LK_VARIANT, elementwise_rows)
#define elementwise_finish LK_PASTE(LK_VARIANT, elementwise_finish)
#define regression_prepare LK_PASTE(LK_VARIANT, regression_prepare)

/* Refuse weights that are not finite, else add them up: a finite sum tells that all are. */
LK_DRIVER lk_status elementwise_weigh(const lk_job *job, int input, double *sum, lk_error *error);

/* The number of counted elements. */
LK_DRIVER int64_t elementwise_count(const lk_job *job, int mask_input);

/* LANES elements of a span, from its k-th on, of which some are not legal, or have infinite values:
 * refuses the former where they count, and takes the latter out of values that are to be added up.
 */
LK_DRIVER void elementwise_odd(const elementwise_span *span, int64_t k, const element *e);

/* lk_loss.rows and lk_loss.finish of a loss whose lk_loss.driver is an elementwise. */
LK_DRIVER void elementwise_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block,
                                void *scratch);
LK_DRIVER void elementwise_finish(const lk_job *job, const double *sum);

/* lk_loss.prepare of a loss with the inputs REGRESSION_SHARED: the mean divides by the weights. */
LK_DRIVER lk_status regression_prepare(lk_job *job, lk_error *error);

LK_INLINE void elementwise_store(elem *to, vec x, bool stream)
{
    if (stream)
        v_stream(to, x);
    else
        v_store(to, x);
}

/* The loop of a loss over n elements: a template, for all but `options`, `given` and n are
 * constants. `options` is the caller's own copy of the job's, which no store can change: what
 * depends on nothing else is computed once. `ahead` is computed before `each` for all elements, or
 * NULL: a loop of its own keeps chains of dependent operations short enough for the processor to
 * run several beside each other. What comes next is fetched meanwhile: whether that pays where
 * there is little to compute depends on the processor. */
LK_INLINE void elementwise_each(const void *options, const elementwise_span *given, int64_t n,
                                void (*each)(const void *options, element *e), vec (*ahead)(vec a),
                                const elementwise is, const bool alike)
{
    const elementwise_span at = *given;
    const vec rho = v_set(at.rho);
    for (int64_t k = 0; ahead && k < n; k += LANES) {
        v_write(at.ahead + k, ahead(v_load(at.a + k)));
        v_fetch(at.a + k);
        if (!is.alone)
            v_fetch(at.b + k);
    }
    for (int64_t k = 0; k < n; k += LANES) {
        vec w = v_set(1), g = rho;
        mask used = m_set(-1), moves = used;
        element e = {.a = v_load(at.a + k), .b = is.alone ? (vec){0} : v_load(at.b + k)};
        e.value.b = v_set(1);
        e.factored = is.factor && (is.constant || at.factor);
        e.factor = e.factored ? v_read(at.factor + k) : v_set(1);
        if (ahead)
            e.ahead = v_read(at.ahead + k);
        each(options, &e);
        if (!alike) {
            if (at.mask)
                used = m_bytes(at.mask + k);
            if (at.weight)
                w = v_read(at.weight + k);
            used &= w != (vec){0};
            g *= w;
            moves = used & (rho != (vec){0});
            if (at.up) {
                g *= v_read(at.up + k);
                moves &= g != (vec){0};
            }
        }
        const vec value = v_where(used, w * (e.value.a * e.value.b));
        v_write(at.values + k, value);
        if (__builtin_expect((is.ranged && !m_none(~e.legal)) ||
                                 (is.ranged_a && !m_none(~e.legal_a)) || v_has_infinity(value),
                             0)) {
            const element seen = {.a =
                                      e.a, /* by member: a copy as a whole would keep e in memory */
                                  .b = e.b,
                                  .factor = e.factor,
                                  .weight = w,
                                  .value = {e.value.a, e.value.b},
                                  .legal = is.ranged ? e.legal : m_set(-1),
                                  .legal_a = is.ranged_a ? e.legal_a : m_set(-1)};
            elementwise_odd(given, k, &seen);
        }
        if (at.grad_a)
            elementwise_store(at.grad_a + k, v_where(moves, g * e.slope_a), at.stream_a);
        if (at.grad_b)
            elementwise_store(at.grad_b + k, v_where(moves, g * e.slope_b), at.stream_b);
    }
}

/* Regressions. */

enum { SAMPLE_WEIGHT = B + 1, MASK, GRAD_OUTPUT };

#define REGRESSION_SHARED                                                                          \
    [SAMPLE_WEIGHT] = {.name = "sample_weight",                                                    \
                       .forms = {{"*", LK_FLOATS}},                                                \
                       .flags = LK_OPTIONAL | LK_WEIGHTS,                                          \
                       .range = "finite",                                                          \
                       .help = "weight of each element; default ones"},                            \
    [MASK] = {.name = "mask",                                                                      \
              .forms = {{"*", LK_MASKS}},                                                          \
              .flags = LK_OPTIONAL | LK_IGNORES,                                                   \
              .help = "elements with 0 are ignored and not read; default all counted"},            \
    [GRAD_OUTPUT] = LK_GRAD_OUTPUT

static const lk_input regression_inputs[] __attribute__((unused)) = {
    [A] = {.name = "a",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "predictions"},
    [B] = {.name = "b",
           .forms = {{"*", LK_FLOATS}},
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,
           .help = "targets"},
    REGRESSION_SHARED,
    {0},
};

/* Losses of one tensor, A, beside a constant in the place of B: floats or integers. */
#define SCORE_INPUTS(help_, range_, target_range, target_help)                                     \
    [A] = {.name = "input",                                                                        \
           .forms = {{"*", LK_FLOATS}},                                                            \
           .flags = LK_DIFFERENTIABLE | LK_GRADIENT | LK_ROW_LOCAL,                                \
           .range = (range_),                                                                      \
           .help = (help_)},                                                                       \
    [B] = {.name = "target",                                                                       \
           .forms = {{"*", LK_FLOATS | LK_INTS}},                                                  \
           .range = (target_range),                                                                \
           .help = (target_help)},                                                                 \
    REGRESSION_SHARED

/* The loop of such a loss, and of one that gives more than a value and a slope, with its `ahead` or
 * NULL. */
#define ELEMENTWISE_LOOP(options, ahead, ...)                                                      \
    static void span(const void *given, const elementwise_span *at, int64_t n)                     \
    {                                                                                              \
        const options o = *(const options *)given;                                                 \
        if (at->alike)                                                                             \
            elementwise_each(&o, at, n, each, ahead, (elementwise){__VA_ARGS__}, true);            \
        else                                                                                       \
            elementwise_each(&o, at, n, each, ahead, (elementwise){__VA_ARGS__}, false);           \
    }                                                                                              \
    static const elementwise driver = {.span = span, __VA_ARGS__};

#define ELEMENTWISE_KERNELS(options, ...)                                                          \
    ELEMENTWISE_LOOP(options, NULL, .weight = SAMPLE_WEIGHT, .mask = MASK,                         \
                     .grad_output = GRAD_OUTPUT, __VA_ARGS__)
#define SCORE_KERNELS(options, ...)                                                                \
    ELEMENTWISE_KERNELS(options, .alone = true, .constant = true, .factor = B, __VA_ARGS__)

#define REGRESSION_KERNELS(options, value_of, slope_of)                                            \
    LK_INLINE void each(const void *given, element *e)                                             \
    {                                                                                              \
        const options *o = given;                                                                  \
        const vec r = e->a - e->b;                                                                 \
        e->value = value_of(o, r);                                                                 \
        e->slope_a = slope_of(o, r);                                                               \
        e->slope_b = -e->slope_a;                                                                  \
    }                                                                                              \
    ELEMENTWISE_KERNELS(options, .alone = false)

#define ELEMENTWISE_ROWS .driver = &driver, .rows = elementwise_rows, .finish = elementwise_finish
#define ELEMENTWISE_MEMBERS(options, light_)                                                       \
    .options_size = sizeof(options), .parts = 1, .light = (light_), .reals = true,                 \
    .checks_weights = true, .prepare = regression_prepare, ELEMENTWISE_ROWS

#define REGRESSION_MEMBERS(options) ELEMENTWISE_MEMBERS(options, ELEMENTWISE_CHEAP)

#endif
