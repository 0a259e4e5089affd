/* SPDX-License-Identifier: MIT
 *
 * Numbers as text: the tokens of a JSON array of numbers, read and written fast and exactly.
 *
 * Besides the numbers of JSON the bare tokens NaN, Infinity and -Infinity are read and written,
 * since losses can produce them and JSON has no notation for them.
 *
 * Nothing here allocates, keeps state or fails in any way other than documented; every function may
 * be called from any thread. The decimal point is that of the "C" locale, which the program keeps,
 * and rounding is to nearest even, which it keeps too.
 */
#ifndef LOSSD_NUMBER_H
#define LOSSD_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* Reading. */

/* Reads the token that starts at `p`, of any length: a JSON number, NaN, Infinity or -Infinity.
 *
 * Returns the position after the token, and in `*value` the nearest double (ties to even), the same
 * bits as strtod: a number too large for a double gives +-HUGE_VAL and one too small +-0, both
 * without complaint. "-0" is negative zero. NaN is a quiet, positive one.
 *
 * Returns NULL, with `*value` untouched, if there is no such token at `p`. A token ends at `end` or
 * before a byte that cannot continue a number or a word: "01", "0x10", "1.5.2" and "NaNs" are not a
 * token and something else, but no token. No white space is skipped.
 *
 * `p` <= `end`; no byte at or beyond `end` is read, and no NUL is looked for. What touches `end` is
 * taken as complete: a caller that holds only part of a text decides itself whether to wait. */
const char *number_read(const char *p, const char *end, double *value);

/* The same for a JSON integer: an optional '-' and digits, with neither fraction nor exponent, even
 * if these would leave an integer ("1.0" and "1e3" give NULL).
 *
 * `*fits` tells whether the integer is one of int64_t; if not, `*value` is the nearest that is.
 * "-0" gives 0. On NULL both are untouched. */
const char *number_read_integer(const char *p, const char *end, int64_t *value, bool *fits);

/* Writing. */

/* The longest token of each function; and the room that the caller gives it, whatever the token. */
enum {
    NUMBER_ROOM = 40,
    NUMBER_F64_MAX = 24,  /* -1.2345678901234567e-308 */
    NUMBER_F32_MAX = 18,  /* -12345680000000000 */
    NUMBER_BF16_MAX = 18, /* -10000000000000000 */
    NUMBER_F16_MAX = 11,  /* -0.00001013 */
    NUMBER_I64_MAX = 20,  /* -9223372036854775808 */
};

/* Each writes one token at `out` and returns the position after it; no NUL is written. What is
 * between that position and out + NUMBER_ROOM may be overwritten too.
 *
 * A floating-point value becomes the shortest decimal that reads back to it, and of these the one
 * closest to it. "Reads back" means to nearest even, both at once and, for a type narrower than
 * double, through a double, for this is how readers of JSON do it; in a handful of values of f32
 * the second asks for one more digit than the first would.
 *
 * No fraction is forced: 3, 0.5, 1e30, 1.5e-7. A negative zero is -0.0, so that readers that take
 * "-0" for an integer keep the sign. The exponent form is for decimal exponents < -5 or >= 17. */
char *number_write_f64(char *out, double x);
char *number_write_f32(char *out, float x);

/* The same for the bits of an IEEE 754 binary16 and of a bfloat16. */
char *number_write_f16(char *out, uint16_t bits);
char *number_write_bf16(char *out, uint16_t bits);

char *number_write_i64(char *out, int64_t value);

#endif
