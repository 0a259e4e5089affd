/* SPDX-License-Identifier: MIT */
#include "oip.h"

#include <string.h>

static const struct {
    const char *word;
    lk_dtype dtype;
} spellings[] = {
    {"FP64", LK_F64},  {"FP32", LK_F32},  {"FP16", LK_F16}, {"BF16", LK_BF16},
    {"INT64", LK_I64}, {"INT32", LK_I32}, {"UINT8", LK_U8}, {"BOOL", LK_BOOL},
};
enum { SPELLINGS = sizeof spellings / sizeof *spellings };

const char *oip_spelling(lk_dtype dtype)
{
    for (int i = 0; i < SPELLINGS; i++)
        if (spellings[i].dtype == dtype)
            return spellings[i].word;
    return "";
}

lk_dtype oip_dtype(const char *word)
{
    for (int i = 0; i < SPELLINGS; i++)
        if (strcmp(spellings[i].word, word) == 0)
            return spellings[i].dtype;
    return LK_ANY;
}
