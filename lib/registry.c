/* SPDX-License-Identifier: MIT
 *
 * The list of losses: the single ones, and the composite.
 */
#include "internal.h"

#define LOSS(name)      PLACE_##name,
#define COMPOSITE(name) COMPOSITE_PLACE,
enum {
#include "losses.def"
    LOSS_COUNT
};
#undef COMPOSITE
#undef LOSS

int lk_loss_count(void)
{
    return LOSS_COUNT;
}

const lk_loss *lk_loss_at(int i)
{
    if (i < 0 || i >= LOSS_COUNT)
        return NULL;
    return i == COMPOSITE_PLACE ? &lk_graph_loss : lk_isa_loss_at(i - (i > COMPOSITE_PLACE));
}

const lk_loss *lk_loss_find(const char *name)
{
    return strcmp(name, lk_graph_loss.is->name) == 0 ? &lk_graph_loss : lk_isa_loss(name);
}

const lk_description *lk_loss_describe(const lk_loss *loss)
{
    return loss->is;
}
