/* SPDX-License-Identifier: MIT
 *
 * SplitMix64, and the distributions that tests need.
 */
#include "tests/random.h"

uint64_t random_state = 20;

uint64_t random_bits(void)
{
    random_state += 0x9E3779B97F4A7C15U;
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

int64_t random_int(int64_t lo, int64_t hi)
{
    return lo + (int64_t)(random_bits() % (uint64_t)(hi - lo + 1));
}

int random_below(int n)
{
    return n < 1 ? 0 : (int)(random_bits() % (uint64_t)n);
}

double random_unit(void)
{
    return ((double)(random_bits() >> 12) + 0.5) * 0x1p-52;
}

double random_normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += random_unit();
    return sum;
}

bool chance(double p)
{
    return random_unit() < p;
}

double at_least_log(int64_t n)
{
    double sum = 0;
    for (int64_t power = 1; power < n; power *= 2)
        sum += 0.6931471805599454;
    return sum;
}
