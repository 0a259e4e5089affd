/* SPDX-License-Identifier: MIT
 *
 * From the tensors of a body to the inputs of a call.
 */
#ifndef LOSSD_INPUTS_H
#define LOSSD_INPUTS_H

#include "tell/problem.h"
#include "wire/evaluation.h"

/* The maximum number of tensors in a body. */
enum { WIRE_TENSORS = 64 };

/* Add an input from the body; `text` holds its numbers. False with a problem if the name is unknown
 * or comes twice, or there are too many. */
bool wire_input(evaluation *e, const char *name, const lk_tensor *tensor, span text, problem *p);

/* The same for binary data. The body belongs to the request and nothing else reads it, so kernels
 * may write gradients in place. */
bool wire_view(evaluation *e, const char *name, const lk_tensor *tensor, span bytes, problem *p);

/* malformed_body, for that reason. Returns false. */
bool wire_malformed(problem *p, const char *why);

/* How a format writes element types: the names of the types, and the member that holds one,
 * `prefix`NAME.`member`, which problems refer to. `status` is the HTTP status for an unknown
 * type. */
typedef struct dialect {
    const char *prefix, *member;
    const char *(*spelling)(lk_dtype);
    int status;
} dialect;

/* Read an element type from such a member. False with a problem, which lists the types that the
 * input takes, if it is unknown. `takes` is what lk_call_dtypes says; 0: any. The parts of a
 * composite tell which, so options are read before inputs. */
bool wire_dtype(unsigned takes, const char *name, span value, const dialect *d, lk_tensor *t,
                problem *p);

#endif
