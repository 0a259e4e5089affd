/* SPDX-License-Identifier: MIT */
#include "tell/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_ = 8192, LINE_END = 2 /* "}\n" */, VALUE_MAX = 256 };

static bool as_json;
static int least = LOG_INFO;

void log_set(bool json, int level)
{
    as_json = json;
    least = level;
}

bool log_wants(int level)
{
    return level <= least;
}

/* A value cut to what fits in a line, at a character boundary. */
static const char *cut(const char *text, char to[VALUE_MAX])
{
    size_t size = strnlen(text, VALUE_MAX);
    if (size < VALUE_MAX)
        return text;
    size = VALUE_MAX - 4;
    while (size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80)
        size--;
    memcpy(to, text, size);
    memcpy(to + size, "...", 4);
    return to;
}

/* logfmt: unquoted where that is unambiguous, else as a JSON string. */
static void value(buffer *b, const char *text)
{
    bool bare = *text != '\0' && !as_json;
    for (const char *p = text; *p != '\0' && bare; p++)
        bare = *p > ' ' && *p < 0x7f && *p != '"' && *p != '=' && *p != '\\';
    if (bare)
        buffer_text(b, text);
    else
        buffer_json_string(b, text);
}

/* A pair that does not fit is omitted as a whole, so that the line stays well-formed. */
static void keep_or_drop(buffer *b, size_t before)
{
    if (b->failed && b->data) {
        b->size = before;
        b->failed = false;
    }
}

static void name_of(buffer *b, const char *name)
{
    buffer_printf(b, as_json ? ",\"%s\":" : " %s=", name);
}

log_entry log_begin(int level, const char *event)
{
    static const char *const words[] = {"error", "warn", "info", "debug"};
    struct timespec now;
    struct tm utc;
    char date[32];
    log_entry entry = {.text = buffer_new(LINE_MAX_ - LINE_END), .wanted = log_wants(level)};
    if (!entry.wanted)
        return entry;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
    buffer_printf(&entry.text,
                  as_json ? "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"event\":\"%s\""
                          : "%s.%03ldZ %s %s",
                  date, now.tv_nsec / 1000000, words[level], event);
    return entry;
}

void log_text(log_entry *entry, const char *name, const char *text)
{
    char room[VALUE_MAX];
    const size_t before = entry->text.size;
    if (!entry->wanted || !text)
        return;
    name_of(&entry->text, name);
    value(&entry->text, cut(text, room));
    keep_or_drop(&entry->text, before);
}

void log_number(log_entry *entry, const char *name, double number, int digits)
{
    const size_t before = entry->text.size;
    if (!entry->wanted)
        return;
    name_of(&entry->text, name);
    buffer_printf(&entry->text, "%.*f", digits, number);
    keep_or_drop(&entry->text, before);
}

void log_end(log_entry *entry)
{
    if (!entry->wanted)
        return;
    entry->text.max = LINE_MAX_;
    buffer_text(&entry->text, as_json ? "}\n" : "\n");
    /* One write() per line, so that lines of several processes do not interleave. A log that cannot
     * be written must not stop the service. */
    if (entry->text.size > 0 && write(STDERR_FILENO, entry->text.data, entry->text.size) < 0)
        (void)0;
    buffer_free(&entry->text);
}

void log_line(int level, const char *event, ...)
{
    va_list args;
    log_entry entry = log_begin(level, event);
    va_start(args, event);
    for (const char *name; (name = va_arg(args, const char *));)
        log_text(&entry, name, va_arg(args, const char *));
    va_end(args);
    log_end(&entry);
}
