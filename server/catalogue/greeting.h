/* SPDX-License-Identifier: MIT
 *
 * What lossd says in a terminal when it is ready: the first request to try, and where to read on.
 */
#ifndef LOSSD_GREETING_H
#define LOSSD_GREETING_H

#include "buffer.h"
#include "flags.h"

#include <losskit.h>

/* A request that works as it is pasted into a shell, for a lossd that listens on `url`. Keys are
 * read from their file by the command, and never written here. */
void greeting_write(const flags *f, const char *url, buffer *to);

/* The loss of that request: of those that take logits, the one whose example is the shortest. */
const lk_loss *greeting_loss(void);

#endif
