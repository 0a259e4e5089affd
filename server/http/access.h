/* SPDX-License-Identifier: MIT
 *
 * Access control: API keys of clients, origins of web pages. Each thread that runs a loop has its
 * own copy of the keys.
 */
#ifndef LOSSD_ACCESS_H
#define LOSSD_ACCESS_H

#include "flags.h"
#include "tell/problem.h"

#include <stdbool.h>
#include <stdint.h>

/* Read --api-key-file, --api-key-exempt and --cors-origin, in each thread. False with a line on
 * stderr. access_end frees the thread's copy. */
bool access_setup(const flags *f);
void access_end(void);

/* Read the keys again, in each thread; if the file is invalid, the old ones stay in use. `tell`:
 * the log says so. */
void access_reload(bool tell);

/* How a route is treated with respect to keys. */
typedef enum access_class { ACCESS_KEYED, ACCESS_OPEN, ACCESS_HEALTH, ACCESS_METRICS } access_class;

/* May a request with this Authorization header (NULL: none) use such a route? `name` becomes the
 * key's name in the file, or ""; `*id` a number that stands for the key, 0 where none is asked for.
 * False with a problem: 401 or 403. */
enum { ACCESS_NAME = 48 };
bool access_by_key(access_class what, const char *authorization, char name[ACCESS_NAME],
                   uint64_t *id, problem *p);

/* May a web page of that origin use the service? `origin` is the Origin header; NULL: not sent by a
 * web page of another origin. `local`: the request came over a loopback address or a Unix socket.
 * `*shared` becomes whether the reply may be shared with that page (CORS). False with a problem:
 * 403. */
bool access_by_origin(const char *origin, const char *host, bool local, bool *shared, problem *p);

#endif
