/* SPDX-License-Identifier: MIT
 *
 * What most test programs include: cmocka and the headers that it needs, byte buffers, random
 * numbers.
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

#endif
