/* SPDX-License-Identifier: MIT
 *
 * Reading tensors that are repeated along some axes of another one.
 */
#include "loss.h"

lk_spread lk_spread_of(const lk_tensor *t, const lk_tensor *to, bool leads)
{
    lk_spread s = {.data = t->data, .width = lk_dtype_size(t->dtype)};
    const int shift = leads ? 0 : to->rank - t->rank;
    int64_t stride = 1;
    for (int axis = to->rank - 1; axis >= 0; axis--) {
        const int own = axis - shift;
        const int64_t size = to->shape[axis], has = own < 0 || own >= t->rank ? 1 : t->shape[own];
        const int64_t step = has == 1 ? 0 : stride;
        stride *= has;
        if (size == 1)
            continue;
        const int k = s.axes - 1;
        if (k >= 0 && step == (s.stride[k] > 0 ? s.stride[k] * s.size[k] : 0)) {
            s.size[k] *= size;
        } else {
            s.size[s.axes] = size;
            s.stride[s.axes++] = step;
        }
    }
    return s;
}

/* The same element n times. */
static void repeat_one(char *to, const char *from, size_t width, int64_t n)
{
    uint16_t half;
    uint32_t narrow;
    uint64_t wide;
    if (width == sizeof narrow) {
        memcpy(&narrow, from, sizeof narrow);
        for (int64_t k = 0; k < n; k++)
            memcpy(to + k * 4, &narrow, sizeof narrow);
    } else if (width == sizeof wide) {
        memcpy(&wide, from, sizeof wide);
        for (int64_t k = 0; k < n; k++)
            memcpy(to + k * 8, &wide, sizeof wide);
    } else if (width == sizeof half) {
        memcpy(&half, from, sizeof half);
        for (int64_t k = 0; k < n; k++)
            memcpy(to + k * 2, &half, sizeof half);
    } else {
        memset(to, *from, (size_t)n);
    }
}

/* What the first `have` bytes hold, again and again, up to `all`. */
static void repeat(char *to, size_t have, size_t all)
{
    for (size_t more; have < all; have += more) {
        more = have < all - have ? have : all - have;
        memcpy(to + have, to, more);
    }
}

const void *lk_spread_read(const lk_spread *s, int64_t i, int64_t n, void *room)
{
    const size_t width = s->width;
    const char *const data = s->data;
    int64_t index[LK_MAX_RANK] = {0}, at = 0, rest = i, done = 0;
    char *to = room;
    if (s->axes == 1 && s->stride[0] == 1)
        return data + (size_t)i * width;
    for (int k = 0; k < s->axes; k++) {
        index[k] = rest % s->size[k];
        rest /= s->size[k];
        at += index[k] * s->stride[k];
    }
    const bool fixed = s->axes == 0 || s->stride[0] == 0;
    const bool periodic = s->axes == 2 && s->stride[1] == 0;
    while (done < n) {
        const int64_t left = s->axes > 0 ? s->size[0] - index[0] : n;
        const int64_t run = left < n - done ? left : n - done;
        if (fixed)
            repeat_one(to + (size_t)done * width, data + (size_t)at * width, width, run);
        else
            memcpy(to + (size_t)done * width, data + (size_t)at * width, (size_t)run * width);
        done += run;
        if (periodic && done >= s->size[0]) {
            repeat(to, (size_t)s->size[0] * width, (size_t)n * width);
            return to;
        }
        at -= s->axes > 0 ? index[0] * s->stride[0] : 0;
        index[0] = 0;
        for (int k = 1; k < s->axes && done < n; k++) {
            at += s->stride[k];
            if (++index[k] < s->size[k])
                break;
            at -= index[k] * s->stride[k];
            index[k] = 0;
        }
    }
    return to;
}
