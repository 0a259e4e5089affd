/* SPDX-License-Identifier: MIT
 *
 * Errors as clients receive them: RFC 9457 problem details.
 */
#ifndef LOSSD_PROBLEM_H
#define LOSSD_PROBLEM_H

#include "buffer.h"
#include "cursor.h"

#include <losskit.h>

typedef struct problem {
    int status;       /* HTTP; 0: no problem */
    const char *code; /* a string literal */
    char input[32];   /* "" if it is not about an input */
    int rank;         /* number of elements of `index` in use */
    int64_t index[LK_MAX_RANK];
    char detail[512];
} problem;

/* Both return false, for `return problem_set(...)`. The format is printf's. */
bool problem_set(problem *p, int status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
bool problem_from(problem *p, const lk_error *error);

/* A problem with an input. */
bool problem_input(problem *p, int status, const char *code, const char *input, const char *format,
                   ...) __attribute__((format(printf, 5, 6)));

/* "Not Found" and so on. */
const char *problem_title(int status);

/* Write it as a body, application/problem+json. */
void problem_write(const problem *p, buffer *to);

/* The same of one request of many: `text` is what problem_write has written. */
void problem_at_line(span text, int64_t line, buffer *to);

/* Write it as the Open Inference Protocol defines it: {"error": detail}. */
void problem_write_oip(const problem *p, buffer *to);

#endif
