/* SPDX-License-Identifier: MIT
 *
 * Operations on the elements of a row, whatever the loss: see rows/elements.h.
 */
#include "rows/elements.h"

#include "vector/wide.h"

real elements_at(const elem *x, int64_t i)
{
    return r_load(x + i);
}

void elements_fill(elem *to, int64_t n, real x)
{
    for (int64_t k = 0; k < n; k += LANES)
        v_store_tail(to + k, LK_TAIL(k, n), v_set(x));
}

int64_t elements_nonfinite(const elem *x, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        real value = r_load(x + k);
        if (isnan(value) || (isinf(value) && value > 0))
            return k;
    }
    return -1;
}

void elements_scale(elem *x, int64_t n, int power)
{
    for (int64_t k = 0; k < n; k++)
        r_store(x + k, (real)ldexp((double)r_load(x + k), power));
}

void elements_widen(const elem *x, int64_t n, real *to)
{
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        const vec reals = v_load_tail(x + k, lanes, 0);
        if (lanes == LANES)
            v_write(to + k, reals);
        else
            v_write_n(to + k, lanes, reals);
    }
}

void elements_narrow(const real *x, int64_t n, elem *to)
{
    for (int64_t k = 0; k < n; k += LANES) {
        const int64_t lanes = LK_TAIL(k, n);
        v_store_tail(to + k, lanes, v_read_tail(x + k, lanes, 0));
    }
}

/* So many sums run beside each other: element i goes to sum i modulo that. */
enum { SUMS = 32, HALVES = SUMS / HALF_LANES };

LK_INLINE void add(wide_half sum[HALVES], const real *x)
{
    for (int p = 0; p < HALVES; p++)
        sum[p] += w_read_half(x + p * HALF_LANES);
}

double elements_sum(const real *x, int64_t n)
{
    wide_half sum[HALVES] = {{0}};
    int64_t k = 0;
    for (; n - k >= SUMS; k += SUMS)
        add(sum, x + k);
    if (k < n) {
        real rest[SUMS] = {0};
        memcpy(rest, x + k, (size_t)(n - k) * sizeof *rest);
        add(sum, rest);
    }
    for (int left = HALVES / 2; left > 0; left /= 2)
        for (int p = 0; p < left; p++)
            sum[p] += sum[p + left];
    return half_sum(sum[0]);
}
