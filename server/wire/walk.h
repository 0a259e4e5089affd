/* SPDX-License-Identifier: MIT
 *
 * Walking JSON text without making a tree of it: the envelopes of bodies, whose tensors may be many
 * millions of numbers. Small values are handed to jansson.
 *
 * A walk looks at no more than it must to tell where a value ends; whoever reads the value checks
 * it.
 */
#ifndef LOSSD_WALK_H
#define LOSSD_WALK_H

#include "cursor.h"
#include "tell/problem.h"

struct json_t;
struct json_error_t;

enum {
    WALK_NAME = 64,        /* longer names are cut; none that long is known */
    WALK_TREE = 64 * 1024, /* text for jansson: it needs some forty bytes for one of text */
};

bool walk_is_space(char c);

/* The JSON of a body: what stands behind the byte order mark that some programs write before it. */
span walk_body(span body);

/* A string token, quotes included, as it stands in the text. */
bool walk_string(cursor *c, span *s);

/* Any value, as it stands in the text: its brackets are counted, no more. */
bool walk_value(cursor *c, span *s);

/* The value as a tree that the caller owns; NULL if it is malformed, or longer than WALK_TREE. */
struct json_t *walk_tree(span s, struct json_error_t *error);

/* What walk_tree refused: `what` is the value's name, `body` where offsets are counted from. */
bool walk_problem(const struct json_error_t *error, span text, const char *body, const char *what,
                  problem *p);

/* The next character of what stands between a string's quotes, in UTF-8: how many bytes, 0 if it is
 * not JSON. U+FFFD stands for what has no other form: a NUL, one half of a pair. */
size_t walk_character(cursor *c, char to[4]);

/* A string token's text, cut to fit. False if it is not a string of valid UTF-8. */
bool walk_text(span s, char to[WALK_NAME]);

/* The next member of an object, after its '{' or the last member: 1, 0 at the '}', -1 if malformed.
 */
int walk_member(cursor *c, bool first, char name[WALK_NAME], span *value);

/* The next item of an array, after its '[' or the last item: as walk_member. */
int walk_item(cursor *c, bool first, span *value);

/* After a member or an item: 1 if another follows, 0 if the object or the array ends, with `close`,
 * -1 if malformed. */
int walk_after(cursor *c, char close);

/* A value that is an integer of 64 bits. */
bool walk_integer(span text, int64_t *to);

/* An array of integers: how many there are, of which the first `most` are kept; -1 if it is no such
 * array. */
int walk_integers(span text, int64_t *to, int most);

#endif
