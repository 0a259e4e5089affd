/* SPDX-License-Identifier: MIT
 *
 * Lengths of sequences, an input of integers.
 */
#ifndef LK_LENGTHS_H
#define LK_LENGTHS_H

#include "loss.h"

/* Refuse lengths outside [least, most]. There may be no such input, or no sequence. */
lk_status lk_check_lengths(const lk_job *job, int input, int64_t least, int64_t most,
                           lk_error *error);

#endif
