/* SPDX-License-Identifier: MIT
 *
 * Tensors that are repeated along some axes of another one, against the definition.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "loss.h"
#include "tests/random.h"

enum { MOST = 4096 };

/* The element of t that element i of `to` is. */
static int64_t element(const lk_tensor *t, const lk_tensor *to, bool leads, int64_t i)
{
    int64_t at = 0, stride = 1;
    for (int axis = to->rank - 1; axis >= 0; axis--) {
        const int own = leads ? axis : axis - (to->rank - t->rank);
        const int64_t index = i % to->shape[axis];
        i /= to->shape[axis];
        if (own < 0 || own >= t->rank)
            continue;
        at += (t->shape[own] == 1 ? 0 : index) * stride;
        stride *= t->shape[own];
    }
    return at;
}

static void test_elements(void **state)
{
    (void)state;
    static const lk_dtype dtypes[] = {LK_U8, LK_F32, LK_F64};
    static unsigned char data[MOST * 8], room[MOST * 8 + 1];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)random_below(256);
    for (int round = 0; round < 4000; round++) {
        lk_tensor to = {.rank = (int)random_int(0, 5)}, t = {.data = data};
        const bool leads = chance(0.3);
        const int missing = chance(0.5) ? 0 : (int)random_int(0, to.rank);
        t.dtype = dtypes[random_int(0, 2)];
        t.rank = to.rank - missing;
        for (int axis = 0; axis < to.rank; axis++)
            to.shape[axis] = chance(0.2) ? 1 : random_int(1, 5);
        if (to.rank == 1)
            to.shape[0] = random_int(1, 600);
        for (int axis = 0; axis < t.rank; axis++)
            t.shape[axis] = chance(0.4) ? 1 : to.shape[axis + (leads ? 0 : missing)];
        const size_t width = lk_dtype_size(t.dtype);
        const int64_t all = lk_tensor_count(&to), first = random_int(0, all - 1);
        const int64_t n = random_int(1, all - first);
        const lk_spread s = lk_spread_of(&t, &to, leads);
        room[(size_t)n * width] = 0xa5;
        const unsigned char *got = lk_spread_read(&s, first, n, room);
        for (int64_t k = 0; k < n; k++)
            assert_memory_equal(got + (size_t)k * width,
                                data + (size_t)element(&t, &to, leads, first + k) * width, width);
        assert_int_equal(room[(size_t)n * width], 0xa5);
        assert_true(got == room || (got >= data && got < data + sizeof data));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_elements)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
