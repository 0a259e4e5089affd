/* SPDX-License-Identifier: MIT */
#include "wire/npz.h"

#define FUZZ_WIRE wire_npz
#include "fuzz_wire.h"
