/* SPDX-License-Identifier: MIT */
#include "oip.h"

const char *oip_spelling(lk_dtype dtype)
{
    static const char *const words[] = {
        [LK_F64] = "FP64",  [LK_F32] = "FP32",  [LK_F16] = "FP16",
        [LK_BF16] = "BF16", [LK_I64] = "INT64", [LK_I32] = "INT32",
        [LK_U8] = "UINT8",  [LK_BOOL] = "BOOL", [LK_ANY] = "",
    };
    return words[dtype];
}
