/* SPDX-License-Identifier: MIT
 *
 * Tensors of any type, computed with reals: see rows/reals.h.
 */
#include "rows/reals.h"

#include "rows/elements.h"

#if !defined(LK_ELEMENT_F64)
#define HALF_(isa, element)                                                                        \
    LK_DRIVER void lk_##isa##_##element##_elements_widen(const uint16_t *, int64_t, real *);       \
    LK_DRIVER void lk_##isa##_##element##_elements_narrow(const real *, int64_t, uint16_t *);      \
    LK_DRIVER void lk_##isa##_##element##_product(const product_side *, const product_side *,      \
                                                  int64_t, bool, real *, int64_t, void *);         \
    LK_INLINE void widen_##element(const void *x, int64_t n, real *to)                             \
    {                                                                                              \
        lk_##isa##_##element##_elements_widen(x, n, to);                                           \
    }                                                                                              \
    LK_INLINE void narrow_##element(const real *x, int64_t n, void *to)                            \
    {                                                                                              \
        lk_##isa##_##element##_elements_narrow(x, n, to);                                          \
    }                                                                                              \
    LK_INLINE void product_##element(const product_side *rows, const product_side *columns,        \
                                     int64_t depth, bool onto, real *out, int64_t stride,          \
                                     void *scratch)                                                \
    {                                                                                              \
        lk_##isa##_##element##_product(rows, columns, depth, onto, out, stride, scratch);          \
    }
#define HALF(isa, element) HALF_(isa, element)
HALF(LK_ISA, F16)
HALF(LK_ISA, BF16)
#endif

void reals_read(const lk_tensor *t, int64_t at, int64_t n, real *to)
{
    const char *from = (const char *)t->data + at * (int64_t)lk_dtype_size(t->dtype);
    switch (t->dtype) {
#if !defined(LK_ELEMENT_F64)
    case LK_F16:
        widen_F16(from, n, to);
        break;
    case LK_BF16:
        widen_BF16(from, n, to);
        break;
#endif
    default:
        memcpy(to, from, (size_t)n * sizeof *to);
    }
}

void reals_write(const lk_tensor *t, int64_t at, int64_t n, int power, real *x)
{
    char *to = (char *)t->data + at * (int64_t)lk_dtype_size(t->dtype);
    for (int64_t k = 0; power != 0 && k < n; k++)
        x[k] = (real)ldexp((double)x[k], power);
    switch (t->dtype) {
#if !defined(LK_ELEMENT_F64)
    case LK_F16:
        narrow_F16(x, n, to);
        break;
    case LK_BF16:
        narrow_BF16(x, n, to);
        break;
#endif
    default:
        memcpy(to, x, (size_t)n * sizeof *x);
    }
}

void reals_clear(const lk_tensor *t, int64_t at, int64_t n)
{
    const int64_t size = (int64_t)lk_dtype_size(t->dtype);
    memset((char *)t->data + at * size, 0, (size_t)(n * size));
}

void reals_product(const product_side *rows, const product_side *columns, lk_dtype dtype,
                   int64_t depth, bool onto, real *out, int64_t stride, void *scratch)
{
    switch (dtype) {
#if !defined(LK_ELEMENT_F64)
    case LK_F16:
        product_F16(rows, columns, depth, onto, out, stride, scratch);
        break;
    case LK_BF16:
        product_BF16(rows, columns, depth, onto, out, stride, scratch);
        break;
#endif
    default:
        product(rows, columns, depth, onto, out, stride, scratch);
    }
}
