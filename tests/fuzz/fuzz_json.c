/* SPDX-License-Identifier: MIT
 *
 * JSON bodies. A body that lossd accepts must also be valid for jansson, which parses it
 * independently, into a tree. jansson supports neither NaN and Infinity, which bodies may contain,
 * nor numbers beyond the range of a double.
 */
#include "server/wire/walk.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The length of NaN, Infinity or -Infinity at the start of `text`, else 0. */
static size_t unfinite(span text)
{
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    for (size_t k = 0; k < sizeof words / sizeof words[0]; k++)
        if (text.size >= strlen(words[k]) && memcmp(text.data, words[k], strlen(words[k])) == 0)
            return strlen(words[k]);
    return 0;
}

/* The body with each such word outside strings replaced by 0. */
static span with_finite_numbers(span body, char *to)
{
    size_t size = 0;
    bool quoted = false;
    for (size_t i = 0; i < body.size;) {
        const size_t word = quoted ? 0 : unfinite((span){body.data + i, body.size - i});
        if (word > 0) {
            to[size++] = '0';
            i += word;
            continue;
        }
        if (body.data[i] == '"')
            quoted = !quoted;
        if (quoted && body.data[i] == '\\' && i + 1 < body.size)
            to[size++] = body.data[i++];
        to[size++] = body.data[i++];
    }
    return (span){to, size};
}

static bool is_json(span body)
{
    char *text = malloc(body.size + 1);
    json_error_t error = {0};
    const span finite = text ? with_finite_numbers(walk_body(body), text) : (span){0};
    json_t *tree = json_loadb(finite.data ? finite.data : "", finite.size,
                              JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &error);
    free(text);
    json_decref(tree);
    return tree || json_error_code(&error) == json_error_numeric_overflow;
}

#define FUZZ_REFERENCE is_json
#define FUZZ_WIRE      wire_json
#include "fuzz_wire.h"
