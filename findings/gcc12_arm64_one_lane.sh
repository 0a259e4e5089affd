#!/usr/bin/env bash
# GCC 12.2 for arm64 (Debian 12: gcc-12-aarch64-linux-gnu 12.2.0-14cross1), vectors of one 64-bit integer: a
# comparison of vectors is 0 or -1 in each lane, but from -O1 on ~(a < b) & (c < d) is 1 where it must be -1, because
# both comparisons become one condition (cmp, ccmp) whose result is not negated. One lane of 32 bits, two lanes, and
# the same code for x86-64 are right. Here it made masks select one bit of a double instead of all of them, so that a
# loss was wrong by its largest term; m_first of lib/vector/vec.h is no comparison of vectors where there is one lane.
#
# Needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static of Debian 12. Prints what each level of
# optimisation gives; exits with 0 if the surprise is still there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/one.c" <<'C'
#include <stdio.h>

typedef long one __attribute__((vector_size(8)));

__attribute__((noinline)) long between(long a, long b, long c, long d)
{
    one inside = ~((one){a} < (one){b}) & ((one){c} < (one){d});
    return inside[0];
}

int main(void)
{
    printf("%ld\n", between(1, 0, 0, 1));
    return 0;
}
C
aarch64-linux-gnu-gcc --version | head -1
for level in -O0 -O1 -O2; do
    aarch64-linux-gnu-gcc -static $level "$work/one.c" -o "$work/one$level"
    echo "$level: $(qemu-aarch64-static "$work/one$level"), and it must be -1"
done
[ "$(qemu-aarch64-static "$work/one-O0")" = -1 ] && [ "$(qemu-aarch64-static "$work/one-O2")" != -1 ]
