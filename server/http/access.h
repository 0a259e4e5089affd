/* SPDX-License-Identifier: MIT
 *
 * Who may use the service: keys of programs, origins of web pages. Loop thread only.
 */
#ifndef LOSSD_ACCESS_H
#define LOSSD_ACCESS_H

#include "flags.h"
#include "tell/problem.h"

#include <stdbool.h>

/* Read --api-key-file, --api-key-exempt and --cors-origin. False with a line on stderr. */
bool access_setup(const flags *f);

/* Read the keys again; the old ones stay if the file is no good. */
void access_reload(void);

/* What a route is, to those who ask for a key. */
typedef enum access_class { ACCESS_KEYED, ACCESS_OPEN, ACCESS_HEALTH, ACCESS_METRICS } access_class;

/* May a request with this Authorization (NULL: none) have such a route? `name` becomes what the
 * file calls the key, "" for nothing. False with a problem: 401 or 403. */
enum { ACCESS_NAME = 48 };
bool access_by_key(access_class what, const char *authorization, char name[ACCESS_NAME],
                   problem *p);

/* What a browser says about the page that asks. `origin` NULL: no browser, or its own page.
 * `local`: the request came in over a loopback address or a Unix socket. `*shared` becomes whether
 * the reply may be shown to that page. False with a problem: 403. */
bool access_by_origin(const char *origin, const char *host, bool local, bool *shared, problem *p);

#endif
