/* SPDX-License-Identifier: MIT
 *
 * lib/vector/double.h compared with libm in long double.
 *
 * With the argument "exhaustive" it tests a thousand times the arguments.
 */
#include "tests/help.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/random.h"
#include "vector/double.h"

static bool exhaustive;

typedef long double wide;

/* In turn: any double; where exp is finite; around 1; any small magnitude; any moderate one; of
 * the moderate ones those of few digits, where results are nearly ties. */
static double any_argument(int kind)
{
    const uint64_t u = random_bits();
    const double y = random_unit();
    double x;
    switch (kind % 6) {
    case 0:
        memcpy(&x, &u, sizeof x);
        return x;
    case 1:
        return (y - 0.5) * 1500;
    case 2:
        return y * 4 - 2;
    case 3:
        return ldexp(y * 2 - 1, -(int)(u % 70));
    case 4:
        return (y * 2 - 1) * ldexp(1, (int)(u % 20));
    default:
        return (double)(float)(y * 80 - 40);
    }
}

static double turn_argument(int kind)
{
    const double y = random_unit() * 8 - 4;
    return kind % 2 ? y : ldexp(y, -(int)(random_bits() % 60));
}

/* Exact arguments near those where a table's entry, an exponent, a formula or a result's class
 * changes. */
static const double thresholds[] = {0,
                                    0x1p-54,
                                    DBL_MIN,
                                    1,
                                    50,
                                    1000,
                                    0x1p54,
                                    0x1.6ep-1,
                                    0x1.62e42fefa39efp+9,
                                    0x1.6232bdd7abcd2p+9,
                                    0x1.74910d52d3051p+9,
                                    0x1.921fb54442d18p-1,
                                    0x1.921fb54442d18p+0,
                                    0x1.921fb54442d18p+1,
                                    0x1.2d97c7f3321d2p+1};

static const struct function {
    const char *name;
    double (*ours)(double);
    wide (*exact)(wide);
    double bound;
    double (*argument)(int kind);
    double greatest; /* |x| */
} functions[] = {
    {"exp", lk_exp, expl, 0.55, any_argument, INFINITY},
    {"expm1", lk_expm1, expm1l, 0.65, any_argument, INFINITY},
    {"log", lk_log, logl, 0.55, any_argument, INFINITY},
    {"log1p", lk_log1p, log1pl, 0.55, any_argument, INFINITY},
    {"cos", lk_cos, cosl, 0.85, turn_argument, 4},
    {"sin", lk_sin, sinl, 0.85, turn_argument, 4},
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* The error in units of the last place of the exact result; infinite for a wrong NaN, infinity or
 * sign of zero. */
static double error_of(double y, wide exact)
{
    int e;
    if (isnan(exact))
        return isnan(y) ? 0 : (double)INFINITY;
    if (isnan(y))
        return (double)INFINITY;
    if (fabsl(exact) >= 0x1.fffffffffffff8p+1023L)
        return isinf(y) && !signbit(y) == !signbit(exact) ? 0 : (double)INFINITY;
    if (exact == 0 || y == 0)
        if (!signbit(y) != !signbit(exact))
            return (double)INFINITY;
    frexpl(exact, &e);
    return (double)(fabsl((wide)y - exact) / ldexpl(1, (e < -1021 || exact == 0 ? -1021 : e) - 53));
}

static bool is_subnormal(wide y)
{
    return fabsl(y) < (wide)DBL_MIN;
}

static void check(const struct function *f, double x, double *worst)
{
    if (fabs(x) > f->greatest)
        return;
    const wide exact = f->exact(x);
    const double y = f->ours(x), error = error_of(y, exact);
    if (!(error < (is_subnormal(exact) ? 1 : f->bound)))
        fail_msg("%s(%a) = %a, not %.20Lg: %g ulp", f->name, x, y, exact, error);
    if (error > *worst && !is_subnormal(exact))
        *worst = error;
}

static void accuracy(void **state)
{
    (void)state;
    const int64_t count = exhaustive ? 100000000 : 100000;
    for (int k = 0; k < FUNCTIONS; k++) {
        double worst = 0;
        for (int64_t i = 0; i < count; i++)
            check(&functions[k], functions[k].argument((int)(i % 6)), &worst);
        print_message("%-6s %.4f ulp\n", functions[k].name, worst);
    }
}

static double neighbour(double x, int64_t steps)
{
    int64_t u;
    memcpy(&u, &x, sizeof u);
    u += steps;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Neighbours of one argument on both sides, and of its negative. */
static void check_near(const struct function *f, double centre)
{
    enum { STEPS = 200 };
    double worst = 0;
    for (int64_t i = centre == 0 ? 0 : -STEPS; i <= STEPS; i++) {
        check(f, neighbour(centre, i), &worst);
        check(f, -neighbour(centre, i), &worst);
    }
}

static void borders(void **state)
{
    (void)state;
    for (int k = 0; k < FUNCTIONS; k++) {
        const struct function *f = &functions[k];
        for (size_t i = 0; i < sizeof thresholds / sizeof *thresholds; i++)
            check_near(f, thresholds[i]);
        if (f->greatest <= 4)
            continue;
        /* Where exp takes another power of two, and log another entry of its table. */
        for (int i = 0; i < 40000; i += i < 2000 || exhaustive ? 1 : 37)
            check_near(f, (double)((i + (wide)0.5) * logl(2) / 32));
        for (int i = 0; i < 128; i++)
            check_near(f, neighbour(0x1.6ep-1, (int64_t)i << 46));
        for (int i = 1; i < 128; i++)
            check_near(f, neighbour(0x1.6ep-1, (int64_t)i << 46) - 1);
    }
}

static void special_values(void **state)
{
    (void)state;
    const double inf = (double)INFINITY, nan = (double)NAN;
    double worst = 0;
    for (int k = 0; k < FUNCTIONS; k++) {
        assert_true(isnan(functions[k].ours(nan)));
        assert_true(isnan(functions[k].ours(-nan)));
        check(&functions[k], inf, &worst);
        check(&functions[k], -inf, &worst);
        check(&functions[k], 0.0, &worst);
        check(&functions[k], -0.0, &worst);
        check(&functions[k], -1, &worst);
    }
    assert_true(lk_exp(0) == 1 && lk_exp(-0.0) == 1 && lk_log(1) == 0 && lk_cos(0) == 1);
    assert_true(lk_exp(-inf) == 0 && lk_exp(inf) == inf && lk_expm1(-inf) == -1);
    assert_true(signbit(lk_expm1(-0.0)) && signbit(lk_log1p(-0.0)) && signbit(lk_sin(-0.0)));
}

static void powers(void **state)
{
    (void)state;
    static const double odd[] = {0,       1,       0.5,         2,          0x1p-1074,
                                 DBL_MIN, DBL_MAX, 1 - 0x1p-53, 1 + 0x1p-52};
    enum { ODD = sizeof odd / sizeof *odd };
    /* Where what 1 + r drops of x meets r. */
    const double hard = 0x1.f1d8955412532p-1, steep = -0x1.d3f77b618b2b9p+13;
    const double inf = (double)INFINITY;
    const int64_t count = exhaustive ? 100000000 : 100000;
    double worst = 0;
    assert_true(error_of(lk_pow(hard, steep), powl((wide)hard, (wide)steep)) < 0.6);
    for (int64_t i = 0; i < count + 2 * ODD * ODD; i++) {
        double x = fabs(any_argument((int)(i % 6))), y = any_argument((int)(i / 6 % 6));
        if (i >= count)
            x = odd[i % ODD], y = odd[i / ODD % ODD] * (i % 2 ? 1 : -1);
        else if (i % 3 == 0) /* so that the result is finite */
            y = (random_unit() - 0.5) * 1480 / (fabs(log(x)) + 1e-300);
        if (isnan(x) || isnan(y))
            continue;
        const wide exact = powl(x, y);
        const double error = error_of(lk_pow(x, y), exact);
        if (!(error < (is_subnormal(exact) ? 1 : 0.65)))
            fail_msg("pow(%a, %a) = %a, not %.20Lg: %g ulp", x, y, lk_pow(x, y), exact, error);
        if (error > worst && !is_subnormal(exact))
            worst = error;
    }
    print_message("pow    %.4f ulp\n", worst);
    assert_true(lk_pow(0, 0) == 1 && lk_pow((double)NAN, 0) == 1 && lk_pow(1, (double)NAN) == 1);
    assert_true(isnan(lk_pow(-1, 0.5)) && isnan(lk_pow((double)NAN, 1)) &&
                isnan(lk_pow(2, (double)NAN)));
    assert_true(lk_pow(0, 0.5) == 0 && lk_pow(0, -0.5) == inf && lk_pow(inf, 0.5) == inf);
    assert_true(lk_pow(inf, -2) == 0 && lk_pow(0.5, inf) == 0 && lk_pow(0.5, -inf) == inf);
    assert_true(lk_pow(2, inf) == inf && lk_pow(2, -inf) == 0);
}

int main(int argc, char **argv)
{
    exhaustive = argc > 1 && strcmp(argv[1], "exhaustive") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(special_values),
        cmocka_unit_test(borders),
        cmocka_unit_test(powers),
        cmocka_unit_test(accuracy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
