/* SPDX-License-Identifier: MIT
 *
 * Characters in UTF-8.
 */
#ifndef LOSSD_UTF8_H
#define LOSSD_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The length of the character at p in bytes, with `left` bytes to read; 0 if it is not valid. No
 * byte is read after an invalid one. */
size_t utf8_length(const char *p, size_t left);

/* Write a character, which must not be a surrogate. Returns its length in bytes. */
size_t utf8_write(int32_t code, char to[4]);

#endif
