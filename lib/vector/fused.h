/* SPDX-License-Identifier: MIT
 *
 * a*b + c, rounded once. Losses depend on that to the last bit, so it is the same on every
 * processor: where there is no instruction for it, it is computed from others, exactly and slowly.
 */
#ifndef LK_FUSED_H
#define LK_FUSED_H

#include <stdbool.h>

#if (defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)) || defined(__aarch64__) || defined(__FMA__)
#define LK_FUSED 1 /* whatever this is compiled for has the instruction */
#else
#define LK_FUSED 0
#endif

#define LK_FUSED_FUNCTION __attribute__((const, visibility("hidden")))

/* Does this processor have the instruction? */
LK_FUSED_FUNCTION bool lk_has_fma(void);

/* By the instruction, if this processor has it. */
LK_FUSED_FUNCTION double lk_fma(double a, double b, double c);
LK_FUSED_FUNCTION float lk_fmaf(float a, float b, float c);

/* Without it: what a processor that lacks it computes, for tests on those that do not. */
LK_FUSED_FUNCTION double lk_fma_without(double a, double b, double c);
LK_FUSED_FUNCTION float lk_fmaf_without(float a, float b, float c);

#endif
