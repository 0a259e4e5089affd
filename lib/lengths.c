/* SPDX-License-Identifier: MIT
 *
 * Lengths of sequences: see lengths.h.
 */
#include "lengths.h"

lk_status lk_check_lengths(const lk_job *job, int input, int64_t least, int64_t most,
                           lk_error *error)
{
    const lk_tensor *lengths = &job->in[input];
    const int64_t count = lengths->data ? lk_tensor_count(lengths) : 0;
    char place[LK_PLACE_MAX];
    for (int64_t b = 0; b < count; b++) {
        const int64_t length = lk_int(lengths, b);
        if (length < least || length > most)
            return lk_fail(job, error, LK_LENGTH_OUT_OF_RANGE, input, b,
                           "%s is %lld; it must be in [%lld, %lld]", lk_place(job, input, b, place),
                           (long long)length, (long long)least, (long long)most);
    }
    return LK_OK;
}
