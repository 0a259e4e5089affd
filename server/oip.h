/* SPDX-License-Identifier: MIT
 *
 * Names of the Open Inference Protocol that the wire (bodies) and the catalogue (model metadata)
 * share.
 */
#ifndef LOSSD_OIP_H
#define LOSSD_OIP_H

#include <losskit.h>

/* The only version of every model. */
#define OIP_VERSION "1"

/* The protocol's name of an element type: "FP32". */
const char *oip_spelling(lk_dtype dtype);

#endif
