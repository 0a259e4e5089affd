/* SPDX-License-Identifier: MIT
 *
 * The steps from a body to a reply, as jobs of the pool. A small request goes through the same
 * steps on the loop.
 */
#ifndef LOSSD_REQUEST_STEPS_H
#define LOSSD_REQUEST_STEPS_H

#include "request/life.h"

/* Call once, before the other functions. */
void steps_setup(const flags *f);

/* A request has arrived: workers let the loop run while others do. */
void steps_arrived(const request *r);

/* Jobs of request.work: all from the body on, or from STEP_FILL on. They return where the loop has
 * to act: with a problem, or at STEP_RESERVE, STEP_RUN or STEP_CLOSE. */
void steps_work_open(uv_work_t *work);
void steps_work_fill(uv_work_t *work);

/* Job of a shard: shard.unfinished says that it has to be queued again. The last shard of the last
 * pass goes on to STEP_CLOSE. */
void steps_work_shard(uv_work_t *work);

/* The steps of these jobs. steps_open is false at a problem and where request.need is more than is
 * reserved. */
bool steps_open(request *r);
void steps_fill(request *r);

/* What was decoded from `start` on is computed at once if there is one shard. */
void steps_run(request *r, uint64_t start);

#endif
