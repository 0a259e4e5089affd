/* SPDX-License-Identifier: MIT
 *
 * lossd eval: requests from files and standard input, without a service.
 */
#ifndef LOSSD_EVAL_H
#define LOSSD_EVAL_H

#include "flags.h"

enum { EVAL_BAD_USAGE = 2 };

/* `words` are LOSS [FILE] [NAME=VALUE]... of the command line; NAME=FILE.npy is an input. Prints
 * the reply, or what is wrong. `lines`: each line of the file is a JSON request, and is answered by
 * a line. Returns what the process exits with: 0 if everything was evaluated. */
int eval(const flags *f, char **words, int count, bool lines);

#endif
