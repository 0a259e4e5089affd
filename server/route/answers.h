/* SPDX-License-Identifier: MIT
 *
 * The functions that routes.def names, one file for each kind of route. What a `begin` refuses is a
 * problem; a `run` fills in the reply, or has the request answered later.
 */
#ifndef LOSSD_ANSWERS_H
#define LOSSD_ANSWERS_H

#include "http/exchange.h"
#include "region.h"

enum { TEXT_MAX = 8 * 1024 * 1024 }; /* of a document */

void run_losses(exchange *x);
void run_describe(exchange *x);
void run_evaluate(exchange *x);
void run_regions(exchange *x);
void run_region(exchange *x);
void run_put(exchange *x);
void run_delete(exchange *x);
void run_openapi(exchange *x);
void run_docs(exchange *x);
void run_status(exchange *x);
void run_root(exchange *x);
void run_healthz(exchange *x);
void run_readyz(exchange *x);
void run_metrics(exchange *x);
void run_server(exchange *x);
void run_live(exchange *x);
void run_ready(exchange *x);
void run_models(exchange *x);
void run_stats(exchange *x);
void run_model(exchange *x);
void run_model_ready(exchange *x);
void run_config(exchange *x);
void run_index(exchange *x);
void run_shm_status(exchange *x);
void run_shm_register(exchange *x);
void run_shm_unregister(exchange *x);

bool begin_evaluate(exchange *x, problem *p);
bool begin_put(exchange *x, problem *p);
bool begin_infer(exchange *x, problem *p);
bool begin_shm_register(exchange *x, problem *p);

/* From now on /readyz says that the service is draining. */
void documents_drain(void);
bool documents_say_draining(void);

/* The model of /v2/models/{name}, with /versions/{version} or without. */
const lk_loss *model_of(const exchange *x, problem *p);

/* Memory that a client hands over, on a worker thread. */
bool regions_handed(region_group *group, const char message[HTTP_MESSAGE], int fd, buffer *line);

/* Give back what was reserved for a region that has not become one. */
void regions_unreserve(exchange *x);

static inline asker asker_of(const exchange *x)
{
    return (asker){.key = x->key_id, .listener = http_listener(x)};
}

#endif
