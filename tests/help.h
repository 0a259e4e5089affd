/* SPDX-License-Identifier: MIT
 *
 * What most test programs include: cmocka and the headers that it needs, byte buffers, random
 * numbers; and whether there is a sanitizer.
 */
#ifndef TESTS_HELP_H
#define TESTS_HELP_H

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/bytes.h"
#include "tests/random.h"

/* Is this a build with a sanitizer, which stops the program where others go on, and is slow? */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
