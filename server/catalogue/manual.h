/* SPDX-License-Identifier: MIT
 *
 * What lossd says of itself, from its tables of commands and flags: help, manual page, completion.
 */
#ifndef LOSSD_MANUAL_H
#define LOSSD_MANUAL_H

#include "buffer.h"

/* lossd --help */
void manual_help(buffer *to);

/* lossd(1), for man; and what bash sources to complete commands, flags and losses. */
void manual_page(buffer *to);
void manual_completion(buffer *to);

#endif
