/* SPDX-License-Identifier: MIT
 *
 * The tensors that a body holds become the inputs of a call.
 */
#ifndef LOSSD_INPUTS_H
#define LOSSD_INPUTS_H

#include "tell/problem.h"
#include "wire/evaluation.h"

/* The most tensors in a body. */
enum { WIRE_TENSORS = 64 };

/* Add an input that the body names. `text` is where its numbers are. False with a problem if the
 * name is unknown or comes twice, or there are too many. */
bool wire_input(evaluation *e, const char *name, const lk_tensor *tensor, span text, problem *p);

/* The same where the body holds the tensor itself. The body belongs to the request and nobody else
 * reads it, so kernels may write gradients over it. */
bool wire_view(evaluation *e, const char *name, const lk_tensor *tensor, span bytes, problem *p);

/* How a format writes element types: in the member `prefix`NAME.`member`, which is what problems
 * name, and with which words. `status` is that of a word that it does not have. */
typedef struct dialect {
    const char *prefix, *member;
    const char *(*spelling)(lk_dtype);
    int status;
} dialect;

/* The element type that such a member says. False with a problem, which lists those of the input,
 * if it is none. */
bool wire_dtype(const evaluation *e, const char *name, span value, const dialect *d, lk_tensor *t,
                problem *p);

#endif
