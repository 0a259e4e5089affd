/* SPDX-License-Identifier: MIT
 *
 * The losses of one variant, in the order of losses.def. Compiled once per variant.
 */
#include "loss.h"

#define LOSS(name) extern const lk_loss LK_PASTE(LK_VARIANT, name);
#include "losses.def"
#undef LOSS

extern const lk_loss *const LK_PASTE(LK_VARIANT, losses)[];

#define LOSS(name) &LK_PASTE(LK_VARIANT, name),
const lk_loss *const LK_PASTE(LK_VARIANT, losses)[] = {
#include "losses.def"
};
