/* SPDX-License-Identifier: MIT
 *
 * Log lines on stderr: logfmt for people, JSON for machines. Values are escaped, so that nothing a
 * client sends can begin a new line or a new field. Loop thread only.
 */
#ifndef LOSSD_LOG_H
#define LOSSD_LOG_H

#include "buffer.h"

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Choose the format (false: text) and the least important level that is still written. */
void log_set(bool json, int level);

bool log_wants(int level);

/* One line, pair by pair: begin it, add, end it. Where the level is not wanted nothing happens. A
 * NULL text is left out; a number is written with so many digits behind the point. */
typedef struct log_entry {
    buffer text;
    bool wanted;
} log_entry;

log_entry log_begin(int level, const char *event);
void log_text(log_entry *entry, const char *name, const char *text);
void log_number(log_entry *entry, const char *name, double number, int digits);
void log_end(log_entry *entry);

/* A whole line of texts: pairs of name and value, ended by NULL. */
void log_line(int level, const char *event, ...) __attribute__((sentinel));

#endif
