/* SPDX-License-Identifier: MIT
 *
 * Parsing JSON without building a tree, for bodies whose tensors may have many millions of numbers.
 * Small values are parsed by jansson. A walk examines a value only as far as needed to find its
 * end; the code that reads the value validates it.
 */
#ifndef LOSSD_WALK_H
#define LOSSD_WALK_H

#include "cursor.h"
#include "tell/problem.h"

struct json_t;
struct json_error_t;

enum {
    WALK_NAME = 64,        /* longer names are cut; no known name is that long */
    WALK_TREE = 64 * 1024, /* longest text for jansson, which needs 40 bytes for each byte */
};

/* The JSON of a body, without the byte order mark that some programs write before it. */
span walk_body(span body);

/* The next string token, with quotes, unparsed. */
bool walk_string(cursor *c, span *s);

/* The next value, unparsed: only its brackets are counted. */
bool walk_value(cursor *c, span *s);

/* Parse a value into a tree, which the caller owns; NULL if it is malformed, or longer than
 * WALK_TREE. */
struct json_t *walk_tree(span s, struct json_error_t *error);

/* Memory from where trees have theirs, so that it is known when there was none (trees_starved). */
void *walk_take(size_t size);
void walk_give(void *memory);

/* The problem for an error of walk_tree. `what` is the value's name; offsets are counted from the
 * start of `body`. */
bool walk_problem(const struct json_error_t *error, span text, const char *body, const char *what,
                  problem *p);

/* Decode the next character between a string's quotes to UTF-8. Returns its length in bytes, 0 if
 * it is invalid. A NUL or half a surrogate pair becomes U+FFFD. */
size_t walk_character(cursor *c, char to[4]);

/* Decode a string token, cut to fit. False if it is not a string of valid UTF-8. */
bool walk_text(span s, char to[WALK_NAME]);

/* The next member of an object, after its '{' or the last member: 1, 0 at the '}', -1 if
 * malformed. */
int walk_member(cursor *c, bool first, char name[WALK_NAME], span *value);

/* The next item of an array, after its '[' or the last item: as walk_member. */
int walk_item(cursor *c, bool first, span *value);

/* After a member or an item: 1 if another follows, 0 if the object or array ends with `close`, -1
 * if malformed. */
int walk_after(cursor *c, char close);

/* Read a value that is a 64-bit integer. False if it is not one. */
bool walk_integer(span text, int64_t *to);

/* Read an array of integers. Returns their number, of which the first `most` are stored; -1 if it
 * is not an array of integers. */
int walk_integers(span text, int64_t *to, int most);

#endif
