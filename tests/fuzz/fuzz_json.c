/* SPDX-License-Identifier: MIT */
#define FUZZ_WIRE wire_json
#include "fuzz_wire.h"
