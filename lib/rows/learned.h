/* SPDX-License-Identifier: MIT
 *
 * A single number that may be learned: an input that stands in the place of the option of its name.
 * The library refuses both at once.
 */
#ifndef LK_LEARNED_H
#define LK_LEARNED_H

#include "rows/elements.h"

/* range_: NULL: any. */
#define LEARNED_INPUT(name_, range_)                                                               \
    {                                                                                              \
        .name = (name_), .forms = {{"", LK_FLOATS}}, .flags = LK_OPTIONAL | LK_DIFFERENTIABLE,     \
        .range = (range_), .help = "instead of the option, where it is learned"                    \
    }

LK_INLINE double learned_number(const lk_job *job, int input, double option)
{
    const void *given = job->in[input].data;
    return given ? (double)elements_at(given, 0) : option;
}

#endif
