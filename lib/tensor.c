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
    bool empty = false;
    if (tensor->rank < 0 || tensor->rank > LK_MAX_RANK)
        return -1;
    for (int axis = 0; axis < tensor->rank; axis++) {
        if (tensor->shape[axis] < 0)
            return -1;
        if (tensor->shape[axis] == 0)
            empty = true;
        else if (__builtin_mul_overflow(count, tensor->shape[axis], &count))
            return -1;
    }
    if (__builtin_mul_overflow(count, (int64_t)8, &bytes))
        return -1;
    return empty ? 0 : count;
}
