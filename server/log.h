/* SPDX-License-Identifier: MIT
 *
 * Log lines on stderr: logfmt for people, JSON for machines. Values are escaped, so that nothing a
 * client sends can begin a new line or a new field. Loop thread only.
 */
#ifndef LOSSD_LOG_H
#define LOSSD_LOG_H

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Choose the format (false: text) and the least important level that is still written. */
void log_set(bool json, int level);

bool log_wants(int level);

/* One line: an event, then pairs of name and value, ended by NULL. A NULL value is left out. */
void log_line(int level, const char *event, ...) __attribute__((sentinel));

#endif
