/* SPDX-License-Identifier: MIT
 *
 * Which wires there are, and which of them a request means.
 */
#ifndef LOSSD_WIRES_H
#define LOSSD_WIRES_H

#include "wire/wire.h"

/* Ends with NULL. */
extern const wire *const wires[];

/* Where in wires[] one is, and the name of the one at a place: "none" beyond the last. */
int wire_place(const wire *w);
const char *wire_name(int place);

/* The wire of a Content-Type (parameters ignored; NULL or "": JSON), or NULL. */
const wire *wire_of_content(const char *content_type);

/* The wire of an Accept header: the one it likes best, `same` where it does not care; NULL if it
 * accepts none. */
const wire *wire_of_accept(const char *accept, const wire *same);

/* Does a body look like safetensors rather than JSON? For files, which have no Content-Type. */
const wire *wire_of_bytes(span body);

#endif
