/* SPDX-License-Identifier: MIT
 *
 * Log lines on stderr: logfmt for people, JSON for machines. Values are escaped, so that nothing
 * that a client sends can start a new line or field. Each thread collects its lines and writes them
 * in blocks of whole lines: with log_flush, which is to be called when there is time, and before
 * the thread or the process ends; when a block is full; and at once after an error or a warning.
 */
#ifndef LOSSD_LOG_H
#define LOSSD_LOG_H

#include "buffer.h"

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Set the format (false: text) and the lowest level that is written. */
void log_set(bool json, int level);

bool log_wants(int level);

/* One line, pair by pair: begin, add, end, before another one is begun. Nothing happens if the
 * level is not written. A NULL text is omitted; `digits` is the number of decimals of a number,
 * which is not negative. */
typedef struct log_entry {
    buffer text;
    bool wanted;
    int level;
} log_entry;

log_entry log_begin(int level, const char *event);
void log_text(log_entry *entry, const char *name, const char *text);
void log_number(log_entry *entry, const char *name, double number, int digits);
void log_end(log_entry *entry);

/* Write the lines that this thread has collected. */
void log_flush(void);

/* A whole line of texts: pairs of name and value, terminated by NULL. */
void log_line(int level, const char *event, ...) __attribute__((sentinel));

#endif
