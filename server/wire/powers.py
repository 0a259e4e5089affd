#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints powers.h: run it as `python3 server/wire/powers.py > server/wire/powers.h`."""

LEAST, MOST = -342, 324


def significand(p):
    """ceil(10^p / 2^s), with the s that leaves 128 bits, as an integer."""
    n, d = (10**p, 1) if p >= 0 else (1, 10**-p)
    shift = 128 - n.bit_length() + d.bit_length()
    while True:
        t = -(-(n << shift) // d) if shift >= 0 else -(-n // (d << -shift))
        if t < 1 << 128:
            return t
        shift -= 1


print("""\
/* SPDX-License-Identifier: MIT
 *
 * The powers of ten, from 10^POWER_LEAST to 10^POWER_MOST: printed by powers.py.
 *
 * An entry is the 128-bit significand t, high word first, of the least t * 2^s that is not below
 * the power, with the highest bit of t set, so that s = floor(log2(10^p)) - 127.
 * It is exact from 10^0 to 10^55. */
#ifndef LOSSD_POWERS_H
#define LOSSD_POWERS_H

#include <stdint.h>
""")
print(f"enum {{ POWER_LEAST = {LEAST}, POWER_MOST = {MOST} }};\n")
print("/* clang-format off */")
print("static const uint64_t powers[POWER_MOST - POWER_LEAST + 1][2] = {")
for p in range(LEAST, MOST + 1):
    t = significand(p)
    print(f"    {{0x{t >> 64:016x}, 0x{t & (1 << 64) - 1:016x}}}, /* {p} */")
print("};\n/* clang-format on */\n\n#endif")
