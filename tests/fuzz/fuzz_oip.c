/* SPDX-License-Identifier: MIT */
#define FUZZ_WIRE wire_oip
#include "fuzz_wire.h"
