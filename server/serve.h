/* SPDX-License-Identifier: MIT
 *
 * The service: event loops, signals and stop. The first loop runs on the main thread, and has the
 * signals; the others, of --loops, have a thread each. A connection belongs to one of them from its
 * accept to its end. Budget, queue and workers are those of one service.
 */
#ifndef LOSSD_SERVE_H
#define LOSSD_SERVE_H

#include "flags.h"

/* Serve until a signal ends it. Returns the exit code. `f` must live until the process ends. */
int serve(const flags *f);

#endif
