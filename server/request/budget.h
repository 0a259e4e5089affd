/* SPDX-License-Identifier: MIT
 *
 * What all requests share, whichever loop they came to: the memory budget and the places for
 * requests under way.
 */
#ifndef LOSSD_REQUEST_BUDGET_H
#define LOSSD_REQUEST_BUDGET_H

#include "flags.h"
#include "tell/problem.h"

/* Call once, before the other functions, which may be called by any thread. */
void budget_setup(const flags *f);

/* Add bytes to what a request has reserved. False with a problem: they do not fit, and nothing has
 * changed. */
bool budget_reserve(size_t *reserved, size_t bytes, problem *p);

/* Give all of it back. */
void budget_release(size_t *reserved);

/* A place for one more request, or false with a problem; and give it back. */
bool budget_enter(problem *p);
void budget_leave(void);

#endif
