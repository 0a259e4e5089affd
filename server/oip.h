/* SPDX-License-Identifier: MIT
 *
 * What whoever speaks the Open Inference Protocol says alike: the wire in its bodies, the catalogue
 * in what it tells of the models.
 */
#ifndef LOSSD_OIP_H
#define LOSSD_OIP_H

#include <losskit.h>

/* The only version that a model has. */
#define OIP_VERSION "1"

/* How the protocol spells an element type: "FP32". */
const char *oip_spelling(lk_dtype dtype);

#endif
