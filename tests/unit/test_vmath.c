/* SPDX-License-Identifier: MIT
 *
 * lib/vector/vmath.h compared with libm in a wider type, and the half-precision loads and stores of
 * lib/vector/vec.h compared with a reference written from the definition of the formats. Compiled
 * once per variant and element type: cc -std=c11 -O2 -ffp-contract=off -mavx2 -mfma -mf16c
 * -DLK_VECTOR_BYTES=32 -DLK_ELEMENT_F32 -Ilib tests/unit/test_vmath.c -lcmocka -lm
 *
 * With the argument "exhaustive" it tests every float (and a thousand times the doubles), and of
 * the functions only the one that a second argument names, if there is one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "vector/vmath.h"

static bool exhaustive;
static const char *only; /* the function to test exhaustively; NULL: all */
static int tested;

#if defined(LK_ELEMENT_F64) || defined(LK_ELEMENT_F32)

#if defined(LK_ELEMENT_F64)
typedef long double wider;
#define WIDER(name)    name##l
#define UNIT_BITS      53
#define MIN_EXPONENT   -1021 /* as frexp gives it */
#define MAX_ULP        2.0L
#define OVERFLOWS_FROM 0x1.fffffffffffff8p+1023L /* from here infinity is the nearest */
#else
typedef double wider;
#define WIDER(name)    name
#define UNIT_BITS      24
#define MIN_EXPONENT   -125
#define MAX_ULP        1.0
#define OVERFLOWS_FROM 0x1.ffffffp+127
#endif

typedef wider reference(wider);

static wider unit(wider y)
{
    int e;
    WIDER(frexp)(y, &e);
    return WIDER(ldexp)(1, (e < MIN_EXPONENT ? MIN_EXPONENT : e) - UNIT_BITS);
}

/* The functions run over blocks, apart from the checks: gcc 12 forgets to give back the stack that
 * long double arguments take where comparisons of one-lane vectors stand between them. */
enum { BLOCK = 1024 };

#define OVER_BLOCK(function)                                                                       \
    static __attribute__((noinline)) void block_##function(const real *x, real *y)                 \
    {                                                                                              \
        for (int i = 0; i < BLOCK; i += LANES) {                                                   \
            vec v;                                                                                 \
            memcpy(&v, x + i, sizeof v);                                                           \
            v = v_##function(v);                                                                   \
            memcpy(y + i, &v, sizeof v);                                                           \
        }                                                                                          \
    }                                                                                              \
    static __attribute__((noinline)) real one_##function(real x)                                   \
    {                                                                                              \
        return r_##function(x);                                                                    \
    }

OVER_BLOCK(exp)
OVER_BLOCK(log)
OVER_BLOCK(log1p)
OVER_BLOCK(tanh)
OVER_BLOCK(expm1)

static __attribute__((noinline)) void block_exp_nonpos(const real *x, real *y)
{
    for (int i = 0; i < BLOCK; i += LANES) {
        vec v;
        memcpy(&v, x + i, sizeof v);
        v = v_exp_nonpos(v);
        memcpy(y + i, &v, sizeof v);
    }
}

static __attribute__((noinline)) void block_exp_small(const real *x, real *y)
{
    for (int i = 0; i < BLOCK; i += LANES) {
        vec v;
        memcpy(&v, x + i, sizeof v);
        v = v_exp_small(v);
        memcpy(y + i, &v, sizeof v);
    }
}

static __attribute__((noinline)) void block_log1p_small(const real *x, real *y)
{
    for (int i = 0; i < BLOCK; i += LANES) {
        vec v;
        memcpy(&v, x + i, sizeof v);
        v = v_log1p_small(v);
        memcpy(y + i, &v, sizeof v);
    }
}

static const struct function {
    const char *name;
    void (*block)(const real *x, real *y);
    real (*one)(real x);
    reference *exact;
    real least, greatest;
    bool subnormal_is_zero;
} functions[] = {
    {"exp", block_exp, one_exp, WIDER(exp), 0, INFINITY, true},
    {"log", block_log, one_log, WIDER(log), -INFINITY, INFINITY, false},
    {"log1p", block_log1p, one_log1p, WIDER(log1p), -INFINITY, INFINITY, false},
    {"tanh", block_tanh, one_tanh, WIDER(tanh), -1, 1, false},
    {"expm1", block_expm1, one_expm1, WIDER(expm1), -1, INFINITY, false},
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

struct worst {
    wider error;
    real x;
};

static void fail_at(const char *name, real x, real y, wider exact)
{
    fail_msg("%s(%a) = %a, not %.20Lg", name, (double)x, (double)y, (long double)exact);
}

static bool same_bits(real a, real b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void check_value(const struct function *f, real x, real y, struct worst *worst)
{
    wider exact = f->exact(x);
    bool right;
    if (isnan(exact))
        right = isnan(y);
    else if (WIDER(fabs)(exact) >= OVERFLOWS_FROM)
        right = isinf(y) && !signbit(y) == !signbit(exact);
    else if (exact == 0 || (f->subnormal_is_zero && exact < (wider)VM_MIN_NORMAL))
        right = y == 0 && !signbit(y) == !signbit(exact);
    else {
        wider error = WIDER(fabs)((wider)y - exact) / unit(exact);
        right = error < (wider)MAX_ULP && y >= f->least && y <= f->greatest;
        if (error > worst->error)
            *worst = (struct worst){error, x};
    }
    if (!right)
        fail_at(f->name, x, y, exact);
}

static void check_block(const struct function *f, const real *x, struct worst *worst)
{
    static real y[BLOCK], nonpos[BLOCK], small[BLOCK];
    f->block(x, y);
    for (int i = 0; i < BLOCK; i++)
        check_value(f, x[i], y[i], worst);
    if (f->block == block_log1p) {
        block_log1p_small(x, small);
        for (int i = 0; i < BLOCK; i++)
            if (((x[i] >= 0 && x[i] <= 1) || isnan(x[i])) && !same_bits(y[i] + 0, small[i] + 0))
                fail_at("log1p_small", x[i], small[i], y[i]);
    }
    if (f->block != block_exp)
        return;
    block_exp_nonpos(x, nonpos);
    for (int i = 0; i < BLOCK; i++)
        if (!(x[i] > 64) && !same_bits(y[i], nonpos[i]))
            fail_at("exp_nonpos", x[i], nonpos[i], y[i]);
    block_exp_small(x, small);
    for (int i = 0; i < BLOCK; i++)
        if ((WIDER(fabs)(x[i]) <= 64 || isnan(x[i])) && !same_bits(y[i], small[i]))
            fail_at("exp_small", x[i], small[i], y[i]);
}

static void report(const struct function *f, struct worst worst)
{
    print_message("%-6s %.4f ulp at %a\n", f->name, (double)worst.error, (double)worst.x);
}

static void check_special(const char *name, real (*one)(real), real x, real y)
{
    real got = one(x);
    if (!same_bits(got, y))
        fail_at(name, x, got, y);
}

static void test_special_values(void **state)
{
    (void)state;
    const real inf = INFINITY, zero = 0, least = VM_MIN_NORMAL * (real)0x1p-20;
    for (int k = 0; k < FUNCTIONS; k++) {
        check_special(functions[k].name, functions[k].one, NAN, NAN);
        check_special(functions[k].name, functions[k].one, -(real)NAN, NAN);
        /* A NaN payload must not change the exponent. */
        for (int bit = 0; bit < VM_FRACTION_BITS; bit++)
            for (int sign = 0; sign < 2; sign++) {
                ulane u = ((ulane)0x7ff << VM_FRACTION_BITS | (ulane)1 << bit);
                u &= ~(ulane)0 >> 1;
                u |= (ulane)sign << (8 * sizeof u - 1);
                real x;
                memcpy(&x, &u, sizeof x);
                check_special(functions[k].name, functions[k].one, x, NAN);
            }
    }
    check_special("exp", one_exp, zero, 1);
    check_special("exp", one_exp, -zero, 1);
    check_special("exp", one_exp, inf, inf);
    check_special("exp", one_exp, -inf, 0);
    check_special("log", one_log, 1, 0);
    check_special("log", one_log, zero, -inf);
    check_special("log", one_log, -zero, -inf);
    check_special("log", one_log, inf, inf);
    check_special("log", one_log, -inf, NAN);
    check_special("log", one_log, -1, NAN);
    check_special("log", one_log, -least, NAN);
    check_special("log1p", one_log1p, zero, 0);
    check_special("log1p", one_log1p, -zero, -zero);
    check_special("log1p", one_log1p, -1, -inf);
    check_special("log1p", one_log1p, (real)-1.5, NAN);
    check_special("log1p", one_log1p, inf, inf);
    check_special("log1p", one_log1p, -inf, NAN);
    check_special("tanh", one_tanh, zero, 0);
    check_special("tanh", one_tanh, -zero, -zero);
    check_special("tanh", one_tanh, inf, 1);
    check_special("tanh", one_tanh, -inf, -1);
    check_special("expm1", one_expm1, zero, 0);
    check_special("expm1", one_expm1, -zero, -zero);
    check_special("expm1", one_expm1, inf, inf);
    check_special("expm1", one_expm1, -inf, -1);
    check_special("log1p", one_log1p, least, least);
    check_special("log1p", one_log1p, -least, -least);
    check_special("tanh", one_tanh, least, least);
    check_special("tanh", one_tanh, -least, -least);
    check_special("expm1", one_expm1, least, least);
    check_special("expm1", one_expm1, -least, -least);
}

/* All arguments near those where a formula, an exponent or a clamp changes. */
static void test_thresholds(void **state)
{
    (void)state;
    static real x[BLOCK];
    const wider ln2 = WIDER(log)(2), root = WIDER(sqrt)(2);
    const wider fixed[] = {0,
                           VM_MIN_NORMAL,
                           1,
                           0.625,
                           root - 1,
                           1 - root / 2,
                           VM_EXP_GREATEST,
                           VM_EXP_GREATEST + (real)0.25,
                           -VM_EXP_LEAST,
                           VM_FRACTION_BITS / 2.0,
                           VM_FRACTION_BITS + 10,
                           9.0109,
                           17.3287,
                           19.0615,
                           37.4299,
                           0x1p-60,
                           0x1p-24,
                           0x1p-53};
    enum { FIXED = sizeof fixed / sizeof *fixed, TURNS = 2 * VM_BIAS + 60 };
    for (int c = 0; c < FIXED + 4 * TURNS; c++) {
        wider centre = c < FIXED ? fixed[c] : 0;
        int turn = (c - FIXED) / 4 - VM_BIAS - 30;
        if (c >= FIXED)
            switch (c & 3) {
            case 0:
                centre = (turn + (wider)0.5) * ln2; /* where exp goes over to the next exponent */
                break;
            case 1:
                centre = (turn + (wider)0.5) * ln2 / 2; /* and tanh */
                break;
            case 2:
                centre = WIDER(ldexp)(root, turn); /* and log */
                break;
            default:
                centre = WIDER(ldexp)(root, turn) - 1; /* and log1p */
            }
        real start = (real)centre;
        ulane u;
        memcpy(&u, &start, sizeof u);
        for (int i = 0; i < BLOCK; i++) {
            /* Steps of one from the centre either way, for both signs. */
            ulane v = u + (ulane)(i / 2) - BLOCK / 4;
            v ^= (ulane)(i & 1) << (8 * sizeof v - 1);
            memcpy(&x[i], &v, sizeof v);
        }
        for (int k = 0; k < FUNCTIONS; k++) {
            struct worst worst = {0, 0};
            check_block(&functions[k], x, &worst);
        }
        /* The doubles' references are slow, and there are ten times the exponents. */
        if (c >= FIXED && VM_BIAS > 127 && !exhaustive)
            c += 40;
    }
}

static uint64_t random_state;

/* xorshift64* */
static uint64_t random_bits(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * UINT64_C(0x2545f4914f6cdd1d);
}

static double random_share(void)
{
    return ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
}

/* Powers of numbers in (0, 1], for one exponent after the other. */
static __attribute__((noinline)) void block_pow_long(const real *x, real g, real *y)
{
    for (int i = 0; i < BLOCK; i += LANES) {
        vec v;
        memcpy(&v, x + i, sizeof v);
        v = v_pow_long(v_log_long(v), g);
        memcpy(y + i, &v, sizeof v);
    }
}

static void test_powers(void **state)
{
    (void)state;
    static real x[BLOCK], y[BLOCK];
    wider worst = 0;
    random_state = 1;
    for (int round = 0; round < 400; round++) {
        const real g =
            (real)(round % 2 ? random_share() * 4 - 1 : ldexp(random_share(), round % 9));
        for (int i = 0; i < BLOCK; i++)
            x[i] = i == 0 ? 1 : (real)ldexp(random_share(), -(i % 3 ? i % 2 : i % 60));
        block_pow_long(x, g, y);
        for (int i = 0; i < BLOCK; i++) {
            const wider exact = WIDER(pow)(x[i], g);
            if (exact < (wider)VM_MIN_NORMAL)
                continue;
            const wider error = WIDER(fabs)((wider)y[i] - exact) / unit(exact);
            if (!(error < 2 + WIDER(fabs)(g) / 4))
                fail_at("pow_long", x[i], y[i], exact);
            worst = error > worst && g < 4 ? error : worst;
        }
    }
    print_message("powers with exponents below 4: %.4f ulp\n", (double)worst);
}

#if defined(LK_ELEMENT_F32)

static void test_accuracy(void **state)
{
    (void)state;
    static real x[BLOCK];
    const uint64_t stride = exhaustive ? 1 : 4099;
    for (int k = 0; k < FUNCTIONS; k++) {
        struct worst worst = {0, 0};
        if (only && strcmp(only, functions[k].name) != 0)
            continue;
        tested++;
        for (uint64_t first = 0; first <= UINT32_MAX; first += BLOCK * stride) {
            for (int i = 0; i < BLOCK; i++) {
                uint32_t u = (uint32_t)(first + (uint64_t)i * stride);
                memcpy(&x[i], &u, sizeof u);
            }
            check_block(&functions[k], x, &worst);
        }
        report(&functions[k], worst);
    }
}

#else

/* In turn: any double; where exp is finite; around 1; any small magnitude; any moderate one. */
static double random_argument(int kind)
{
    uint64_t u = random_bits();
    double x, y = (double)(random_bits() >> 11) * 0x1p-53;
    switch (kind % 6) {
    case 0:
        memcpy(&x, &u, sizeof x);
        return x;
    case 1:
        return (y - 0.5) * 1430;
    case 2:
        return y * 4 - 2;
    case 3:
        return y * 80 - 40;
    case 4:
        return ldexp(y * 2 - 1, -(int)(u % 60));
    default:
        return ldexp(y, (int)(u % 20));
    }
}

static void test_accuracy(void **state)
{
    (void)state;
    static real x[BLOCK];
    const long count = exhaustive ? 100000000 : 100000;
    for (int k = 0; k < FUNCTIONS; k++) {
        struct worst worst = {0, 0};
        if (only && strcmp(only, functions[k].name) != 0)
            continue;
        tested++;
        random_state = 1;
        for (long done = 0; done < count; done += BLOCK) {
            for (int i = 0; i < BLOCK; i++)
                x[i] = random_argument(i);
            check_block(&functions[k], x, &worst);
        }
        report(&functions[k], worst);
    }
}

#endif

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_special_values),
    cmocka_unit_test(test_thresholds),
    cmocka_unit_test(test_accuracy),
    cmocka_unit_test(test_powers),
};

#else /* F16 or BF16: what lies between memory and float */

#if defined(LK_ELEMENT_F16)
enum { FRACTION = 10, LEAST_EXPONENT = -14, GREATEST_EXPONENT = 15 };
#else
enum { FRACTION = 7, LEAST_EXPONENT = -126, GREATEST_EXPONENT = 127 };
#endif
enum { SPECIAL = (GREATEST_EXPONENT - LEAST_EXPONENT + 2) << FRACTION }; /* the bits of infinity */

static double widened(uint16_t h)
{
    int magnitude = h & 0x7fff, exponent = magnitude >> FRACTION;
    double fraction = magnitude & ((1 << FRACTION) - 1), y;
    if (magnitude > SPECIAL)
        return NAN;
    if (magnitude == SPECIAL)
        y = INFINITY;
    else if (exponent == 0)
        y = ldexp(fraction, LEAST_EXPONENT - FRACTION);
    else
        y = ldexp(fraction + (1 << FRACTION), LEAST_EXPONENT - FRACTION + exponent - 1);
    return h >> 15 ? -y : y;
}

/* Round to nearest, ties to even; not for NaN. */
static uint16_t narrowed(double x)
{
    int sign = signbit(x) ? 0x8000 : 0, exponent;
    double y = fabs(x);
    if (y >= ldexp(1, GREATEST_EXPONENT + 1))
        return (uint16_t)(sign | SPECIAL);
    frexp(y, &exponent);
    exponent--; /* to a significand from 1 to 2 */
    if (y == 0 || exponent < LEAST_EXPONENT)
        exponent = LEAST_EXPONENT;
    /* The exact quotient, rounded; counted from the exponent's first value, or from zero. A carry
     * goes on into the exponent, from the greatest into infinity. */
    int steps = (int)nearbyint(ldexp(y, FRACTION - exponent));
    return (uint16_t)(sign | (((exponent - LEAST_EXPONENT) << FRACTION) + steps));
}

static void test_widening(void **state)
{
    (void)state;
    for (uint32_t first = 0; first <= UINT16_MAX; first += LANES) {
        elem from[LANES], to[LANES];
        for (int i = 0; i < LANES; i++)
            from[i] = (elem)(first + (uint32_t)i);
        vec x = v_load(from);
        v_store(to, x);
        for (int i = 0; i < LANES; i++) {
            double exact = widened(from[i]);
            if (isnan(exact)) {
                assert_true(isnan(x[i]));
                assert_true(isnan(widened(to[i])));
                continue;
            }
            if ((double)x[i] != exact || !signbit(x[i]) != !signbit(exact))
                fail_msg("%#x widens to %a, not %a", from[i], (double)x[i], exact);
            assert_int_equal(to[i], from[i]);
        }
    }
}

static void test_widening_pairs(void **state)
{
    (void)state;
    for (uint32_t first = 0; first <= UINT16_MAX; first += 2 * STRIDE) {
        elem from[2 * STRIDE];
        real to[2 * STRIDE];
        for (int i = 0; i < 2 * STRIDE; i++)
            from[i] = (elem)(first + (uint32_t)i);
        for (int part = 0; part < PARTS; part++) {
            vec a, b;
            v_load_pair(from, part, &a, &b);
            v_write(to + part * LANES, a);
            v_write(to + STRIDE + part * LANES, b);
        }
        for (int i = 0; i < 2 * STRIDE; i++) {
            const double got = (double)to[v_pair_place(i)], exact = widened(from[i]);
            if (got != exact && !(isnan(got) && isnan(exact)))
                fail_msg("%#x widens to %a in a pair, not %a", from[i], got, exact);
        }
    }
}

static void check_narrowing(const uint32_t *bits)
{
    vec x;
    elem to[LANES], pair[2 * STRIDE];
    memcpy(&x, bits, sizeof x);
    v_store(to, x);
    for (int i = 0; i < LANES; i++) {
        if (isnan(x[i])) {
            if (!isnan(widened(to[i])))
                fail_msg("NaN %#x narrows to %#x", bits[i], to[i]);
        } else if (to[i] != narrowed((double)x[i])) {
            fail_msg("%a narrows to %#x, not %#x", (double)x[i], to[i], narrowed((double)x[i]));
        }
    }
    /* Pairs hold no NaN. Here is the first part of one. */
    vec number = v_select(x == x, x, v_set(1)), other = v_set(0) - number;
    v_store_pair(pair, 0, number, other);
    for (int i = 0; i < 2 * STRIDE; i++) {
        const int64_t place = v_pair_place(i), lane = place % STRIDE;
        if (lane >= LANES)
            continue;
        const double from = (double)(place < STRIDE ? number[lane] : other[lane]);
        if (pair[i] != narrowed(from))
            fail_msg("%a narrows to %#x in a pair, not %#x", from, pair[i], narrowed(from));
    }
}

static void test_narrowing(void **state)
{
    (void)state;
    uint32_t bits[LANES];
    const uint64_t stride = exhaustive ? 1 : 2053;
    for (uint64_t first = 0; first <= UINT32_MAX; first += LANES * stride) {
        for (int i = 0; i < LANES; i++)
            bits[i] = (uint32_t)(first + (uint64_t)i * stride);
        check_narrowing(bits);
    }
}

/* Each element, the middle between it and the next, and what lies next to either. */
static void test_narrowing_ties(void **state)
{
    (void)state;
    uint32_t bits[LANES];
    for (uint32_t h = 0; h <= UINT16_MAX; h++) {
        double here = widened((uint16_t)h), next = widened((uint16_t)(h + 1));
        if (isnan(here))
            continue;
        if (isinf(next) || isnan(next)) /* past the greatest: where the next would have been */
            next = copysign(ldexp(1, GREATEST_EXPONENT + 1), here);
        float centres[2] = {(float)here, (float)(isinf(here) ? here : (here + next) / 2)};
        for (int c = 0; c < 2; c++) {
            uint32_t u;
            memcpy(&u, &centres[c], sizeof u);
            for (uint32_t step = 0; step < 3; step++) {
                for (int i = 0; i < LANES; i++)
                    bits[i] = u + step - 1;
                check_narrowing(bits);
            }
        }
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_widening),
    cmocka_unit_test(test_widening_pairs),
    cmocka_unit_test(test_narrowing),
    cmocka_unit_test(test_narrowing_ties),
};

#endif

int main(int argc, char **argv)
{
#if LK_VECTOR_BYTES == 64
    if (!__builtin_cpu_supports("avx512bw")) {
        puts("skipped: no AVX-512 here");
        return 0;
    }
#elif LK_VECTOR_BYTES == 32
    if (!__builtin_cpu_supports("avx2")) {
        puts("skipped: no AVX2 here");
        return 0;
    }
#endif
    exhaustive = argc > 1 && strcmp(argv[1], "exhaustive") == 0;
    only = argc > 2 ? argv[2] : NULL;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (only && tested == 0)
        fprintf(stderr, "there is no function %s to test\n", only);
    return only && tested == 0 ? 1 : failed;
}
