/* SPDX-License-Identifier: MIT */
#define FUZZ_WIRE wire_safetensors
#include "fuzz_wire.h"
