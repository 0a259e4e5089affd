/* SPDX-License-Identifier: MIT
 *
 * Files of NumPy: .npy is one tensor, .npz a ZIP archive of them, NAME.npy each. Read and written
 * by `lossd eval` alone: they have no media type, and no place for options. What is read may be
 * hostile all the same.
 */
#ifndef LOSSD_NPZ_H
#define LOSSD_NPZ_H

#include "wire/wire.h"

/* Inputs are views of the body; compressed members are refused. */
extern const wire wire_npz;

bool npz_is_archive(span file);
bool npz_is_tensor(span file); /* .npy */

/* An archive under way: bytes, and what its directory will say. */
typedef struct npz_writer {
    buffer *to;
    size_t at; /* bytes of the archive so far, those of tensors included */
    buffer directory;
    int members;
} npz_writer;

/* `to` gets the framing of an archive. */
npz_writer npz_begin(buffer *to);

/* Frame a member NAME.npy, whose bytes are those of `head` and then of `data`. The caller puts
 * these behind what `to` holds then. */
void npz_member(npz_writer *w, const char *name, span head, span data);

/* The directory. Frees what the writer holds. */
void npz_end(npz_writer *w);

#endif
