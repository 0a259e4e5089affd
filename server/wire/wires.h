/* SPDX-License-Identifier: MIT
 *
 * The table of wires, and the choice of one for a request.
 */
#ifndef LOSSD_WIRES_H
#define LOSSD_WIRES_H

#include "wire/wire.h"

/* NULL-terminated. */
extern const wire *const wires[];

/* The index of a wire in wires[], and the name of the wire at an index: "none" beyond the last. */
int wire_place(const wire *w);
const char *wire_name(int which);

/* The wire of a Content-Type (parameters ignored; NULL or "": JSON), or NULL. */
const wire *wire_of_content(const char *content_type);

/* Is a body of that type lines, each of them a request in JSON? Are such replies accepted? */
bool wire_is_lines(const char *content_type);
bool wire_accepts_lines(const char *accept);

/* The preferred wire of an Accept header, or `same` if it has no preference; NULL if it accepts
 * none. */
const wire *wire_of_accept(const char *accept, const wire *same);

/* Does a body look like safetensors rather than JSON? For files, which have no Content-Type. */
const wire *wire_of_bytes(span body);

#endif
