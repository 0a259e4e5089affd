/* SPDX-License-Identifier: MIT
 *
 * Losses as models of the Open Inference Protocol: the replies of all its routes except infer. All
 * of it comes from the descriptions and the metrics.
 */
#ifndef LOSSD_MODELS_H
#define LOSSD_MODELS_H

#include "buffer.h"

#include <losskit.h>

/* The server's metadata, the names of all models, and the repository index. They are about all
 * losses: the argument is not used. */
void models_server(const lk_loss *all, buffer *to);
void models_list(const lk_loss *all, buffer *to);
void models_index(const lk_loss *all, buffer *to);

/* The metadata of one model. */
void models_metadata(const lk_loss *loss, buffer *to);
void models_ready(const lk_loss *loss, buffer *to);
void models_config(const lk_loss *loss, buffer *to);

/* The statistics of one model (NULL: of all) since the start. */
void models_stats(const lk_loss *loss, buffer *to);

#endif
