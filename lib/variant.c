/* SPDX-License-Identifier: MIT
 *
 * The losses of one variant, in the order of losses.def. Compiled once per variant.
 */
#include "loss.h"

#define ONE_LANE(name) extern const lk_loss LK_PASTE(LK_ONE_LANE, name);
#define ONCE(name)     extern const lk_loss LK_PASTE(LK_ONCE, name);
#define REALS(name)    extern const lk_loss LK_PASTE(LK_REALS, name);
#define LOSS(name)     extern const lk_loss LK_PASTE(LK_VARIANT, name);
#include "losses.def"
#undef LOSS
#undef REALS
#undef ONCE
#undef ONE_LANE

extern const lk_loss *const LK_PASTE(LK_VARIANT, losses)[];

#define ONE_LANE(name) &LK_PASTE(LK_ONE_LANE, name),
#define ONCE(name)     &LK_PASTE(LK_ONCE, name),
#define REALS(name)    &LK_PASTE(LK_REALS, name),
#define LOSS(name)     &LK_PASTE(LK_VARIANT, name),
const lk_loss *const LK_PASTE(LK_VARIANT, losses)[] = {
#include "losses.def"
};
