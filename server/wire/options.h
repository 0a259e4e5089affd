/* SPDX-License-Identifier: MIT
 *
 * What a request has besides its tensors, in every body format: options, as text or as JSON values;
 * the parts of a composite, which are always JSON; and the names of outputs.
 */
#ifndef LOSSD_OPTIONS_H
#define LOSSD_OPTIONS_H

#include "tell/problem.h"
#include "wire/evaluation.h"

struct json_t;

/* Set an option: from its text form, or from a JSON value. */
bool wire_option(evaluation *e, const char *name, const char *text, problem *p);
bool wire_option_json(evaluation *e, const char *name, const struct json_t *value, problem *p);

/* Add outputs from a comma-separated list. */
bool wire_outputs(evaluation *e, const char *list, problem *p);

#endif
