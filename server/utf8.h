/* SPDX-License-Identifier: MIT
 *
 * Characters in UTF-8.
 */
#ifndef LOSSD_UTF8_H
#define LOSSD_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at p, of which `left` may be read; 0 if there is none. No byte is read
 * behind one that does not fit. */
size_t utf8_length(const char *p, size_t left);

/* Write a character, which is no surrogate; how many bytes it has. */
size_t utf8_write(int32_t code, char to[4]);

#endif
