/* SPDX-License-Identifier: MIT
 *
 * Operations on the elements of a row, whatever the loss: see rows/elements.h.
 */
#include "rows/elements.h"

#include "vector/vec.h"

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
