/* SPDX-License-Identifier: MIT
 *
 * What a client is told when something is wrong: RFC 9457 problem details.
 */
#ifndef LOSSD_PROBLEM_H
#define LOSSD_PROBLEM_H

#include "buffer.h"

#include <losskit.h>

typedef struct problem {
    int status;       /* HTTP; 0: no problem */
    const char *code; /* a constant */
    char input[32];   /* "" where no input is concerned */
    int rank;         /* how many of index count */
    int64_t index[LK_MAX_RANK];
    char detail[512];
} problem;

/* Both return false, so that `return problem_set(...)` reads well. The format is printf's. */
bool problem_set(problem *p, int status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
bool problem_from(problem *p, const lk_error *error);

/* About an input. */
bool problem_input(problem *p, int status, const char *code, const char *input, const char *format,
                   ...) __attribute__((format(printf, 5, 6)));

/* "Not Found" and so on. */
const char *problem_title(int status);

/* The body, application/problem+json. */
void problem_write(const problem *p, buffer *to);

/* The same as the Open Inference Protocol has it: {"error": detail}. */
void problem_write_oip(const problem *p, buffer *to);

#endif
