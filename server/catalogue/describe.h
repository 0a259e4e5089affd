/* SPDX-License-Identifier: MIT
 *
 * Descriptions of losses as JSON, as the OpenAPI document, as Markdown and as text. Nothing here
 * knows a loss by name: all of it is read from lk_loss_describe.
 */
#ifndef LOSSD_DESCRIBE_H
#define LOSSD_DESCRIBE_H

#include "buffer.h"

#include <losskit.h>

/* All losses (NULL), or one. */
void describe_json(const lk_loss *loss, buffer *to);
void describe_text(const lk_loss *loss, buffer *to);

/* api/losses.md. */
void describe_markdown(buffer *to);

/* "losses" or "transforms": the path under /v1/. */
const char *describe_kind(const lk_loss *loss);

/* The JSON of one loss as a tree, which the caller owns. */
struct json_t *describe_tree(const lk_loss *loss);

#endif
