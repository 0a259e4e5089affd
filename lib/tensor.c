/* SPDX-License-Identifier: MIT
 *
 * Element types and sizes.
 */
#include "internal.h"

size_t lk_dtype_size(lk_dtype dtype)
{
#define BYTES(NAME, word, bytes) bytes,
    static const unsigned char sizes[] = {LK_DTYPES(BYTES)};
#undef BYTES
    return (unsigned)dtype < LK_DTYPE_COUNT ? sizes[dtype] : 0;
}

const char *lk_dtype_name(lk_dtype dtype)
{
#define WORD(NAME, word, bytes) #word,
    static const char *const words[] = {LK_DTYPES(WORD)};
#undef WORD
    return (unsigned)dtype < LK_DTYPE_COUNT ? words[dtype] : "any";
}

int64_t lk_tensor_count(const lk_tensor *tensor)
{
    int64_t count = 1, bytes;
    bool overflow = false;
    if (tensor->rank < 0 || tensor->rank > LK_MAX_RANK)
        return -1;
    for (int axis = 0; axis < tensor->rank; axis++)
        if (tensor->shape[axis] < 0)
            return -1;
    for (int axis = 0; axis < tensor->rank; axis++)
        if (tensor->shape[axis] == 0)
            return 0; /* whatever the other sizes */
    for (int axis = 0; axis < tensor->rank; axis++)
        overflow |= __builtin_mul_overflow(count, tensor->shape[axis], &count);
    overflow |= __builtin_mul_overflow(count, (int64_t)8, &bytes);
    return overflow ? -1 : count;
}

/* An empty tensor costs its sender no bytes, however many rows its shape has, but loops over rows
 * would still run: so the number of rows of an empty tensor is limited. */
static bool claims_too_much(const lk_tensor *t)
{
    int64_t product = 1;
    if (lk_tensor_count(t) != 0 || t->shape[0] == 0)
        return false;
    for (int i = 0; i < t->rank && product <= LK_EMPTY_ROWS; i++)
        if (t->shape[i] > 0)
            product = t->shape[i] > LK_EMPTY_ROWS ? LK_EMPTY_ROWS + 1 : product * t->shape[i];
    return product > LK_EMPTY_ROWS;
}

lk_status lk_tensor_check(const char *name, const lk_tensor *tensor, lk_error *error)
{
    if (lk_tensor_count(tensor) < 0)
        return lk_error_set(error, LK_SHAPE_MISMATCH, name,
                            "%s has no possible shape: up to %d sizes that are >= 0 and a product "
                            "that memory can hold",
                            name, LK_MAX_RANK);
    if (claims_too_much(tensor))
        return lk_error_set(error, LK_SHAPE_MISMATCH, name,
                            "%s has no elements, but more than %d rows of none", name,
                            LK_EMPTY_ROWS);
    if ((unsigned)tensor->dtype > LK_ANY)
        return lk_error_set(error, LK_DTYPE_UNSUPPORTED, name, "%s has no known element type",
                            name);
    return LK_OK;
}
