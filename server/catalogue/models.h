/* SPDX-License-Identifier: MIT
 *
 * Losses as models of the Open Inference Protocol: what its routes say beside inferences. All of it
 * is read from the descriptions and from the metrics.
 */
#ifndef LOSSD_MODELS_H
#define LOSSD_MODELS_H

#include "buffer.h"

#include <losskit.h>

/* The server, the names of all models, and all models with their states; the loss is not asked. */
void models_server(const lk_loss *all, buffer *to);
void models_list(const lk_loss *all, buffer *to);
void models_index(const lk_loss *all, buffer *to);

/* One model. */
void models_metadata(const lk_loss *loss, buffer *to);
void models_ready(const lk_loss *loss, buffer *to);
void models_config(const lk_loss *loss, buffer *to);

/* What one (or all: NULL) has done since the start. */
void models_stats(const lk_loss *loss, buffer *to);

#endif
