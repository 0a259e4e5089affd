/* SPDX-License-Identifier: MIT
 *
 * From plan to finish of a call that must not fail: the blocks of every pass, the last one first.
 */
#ifndef TESTS_RUN_CALL_H
#define TESTS_RUN_CALL_H

#include "tests/help.h"

#include <losskit.h>

static inline void run_call(lk_call *call)
{
    lk_error error = {0};
    if (lk_call_plan(call, &error) != LK_OK)
        fail_msg("%s", error.text);
    void *scratch = aligned_alloc(64, (lk_call_scratch(call) + 127) / 64 * 64);
    assert_non_null(scratch);
    do
        for (int64_t b = lk_call_blocks(call); b-- > 0;)
            lk_call_run(call, b, 1, scratch);
    while (lk_call_next(call));
    free(scratch);
    if (lk_call_finish(call, &error) != LK_OK)
        fail_msg("%s", error.text);
}

#endif
