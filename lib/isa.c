/* SPDX-License-Identifier: MIT
 *
 * Instruction sets: which ones are compiled in, which ones this processor supports, and the losses
 * of each. A caller's handle always points into the scalar table; planning looks up the variant by
 * its index there.
 */
#include "internal.h"

#include "vector/fused.h"

#include <stdatomic.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* clang's __builtin_cpu_supports does not know this one. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

#define TABLE(isa, element) extern const lk_loss *const lk_##isa##_##element##_losses[];
#define ISA(name, test)                                                                            \
    TABLE(name, F64)                                                                               \
    TABLE(name, F32)                                                                               \
    TABLE(name, F16)                                                                               \
    TABLE(name, BF16)
#include "isas.def"
#undef ISA

typedef struct isa {
    const char *name;
    const lk_loss *const *losses[4]; /* by dtype: F64, F32, F16, BF16 */
} isa;

#define ISA(name, test)                                                                            \
    {#name,                                                                                        \
     {lk_##name##_F64_losses, lk_##name##_F32_losses, lk_##name##_F16_losses,                      \
      lk_##name##_BF16_losses}},
static const isa isas[] = {
#include "isas.def"
};
#undef ISA

#define LOSS(name) LOSS_##name,
enum {
#include "losses.def"
    LOSS_COUNT
};
#undef LOSS

enum { ISA_COUNT = sizeof isas / sizeof *isas };
_Static_assert(LK_F64 == 0 && LK_F32 == 1 && LK_F16 == 2 && LK_BF16 == 3, "isa.losses is by dtype");

/* The only global variable: -1 until an instruction set is chosen, by name or at the first call. */
static atomic_int chosen = -1;

int lk_isa_count(void)
{
    return ISA_COUNT;
}

const char *lk_isa_name(int i)
{
    return i >= 0 && i < ISA_COUNT ? isas[i].name : NULL;
}

bool lk_isa_runs(int i)
{
    int k = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
#define ISA(name, test)                                                                            \
    if (k++ == i)                                                                                  \
        return test;
#include "isas.def"
#undef ISA
    return false;
}

static int best(void)
{
    int i = 0;
    while (!lk_isa_runs(i))
        i++;
    return i;
}

/* The best one is looked for once: in a virtual machine the instruction that asks the processor
 * takes longer than a small call. */
static int used(void)
{
    int i = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (i >= 0)
        return i;
    const int found = best();
    return atomic_compare_exchange_strong(&chosen, &i, found) ? found : i;
}

bool lk_isa_use(const char *name)
{
    if (strcmp(name, "auto") == 0) {
        atomic_store(&chosen, -1);
        return true;
    }
    for (int i = 0; i < ISA_COUNT; i++) {
        if (strcmp(isas[i].name, name) == 0 && lk_isa_runs(i)) {
            atomic_store(&chosen, i);
            return true;
        }
    }
    return false;
}

const char *lk_isa_used(void)
{
    return isas[used()].name;
}

bool lk_isa_fuses(void)
{
    return lk_has_fma();
}

static const lk_loss *const *scalar(void)
{
    return isas[ISA_COUNT - 1].losses[LK_F32];
}

const lk_loss *lk_isa_loss_at(int i)
{
    return scalar()[i];
}

const lk_loss *lk_isa_loss(const char *name)
{
    for (int i = 0; i < LOSS_COUNT; i++)
        if (strcmp(scalar()[i]->is->name, name) == 0)
            return scalar()[i];
    return NULL;
}

const lk_loss *lk_loss_variant(const lk_loss *loss, lk_dtype dtype)
{
    for (int i = 0; i < LOSS_COUNT; i++)
        if (scalar()[i] == loss)
            return isas[used()].losses[dtype][i];
    return loss;
}
