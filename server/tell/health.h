/* SPDX-License-Identifier: MIT
 *
 * The probe of `lossd health`, for containers that have no curl.
 */
#ifndef LOSSD_HEALTH_H
#define LOSSD_HEALTH_H

/* Ask `url` (http://host:port or unix:/path) for /readyz. Returns 0 if it answers 200, otherwise 1
 * with a line on stderr. */
int health_check(const char *url);

#endif
