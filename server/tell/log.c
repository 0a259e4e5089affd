/* SPDX-License-Identifier: MIT */
#include "tell/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_MAX_ = 8192,
    LINE_END = 2 /* "}\n" */,
    VALUE_MAX = 256,
    BLOCK =
        4096, /* as much as a pipe takes whole, so that processes do not interleave within lines */
};

static bool as_json;
static int least = LOG_INFO;

/* The lines of this thread that are not written yet, and room for one more. */
static _Thread_local struct {
    size_t used;
    char text[BLOCK + LINE_MAX_];
} block;

/* The date of the last line of this thread, to the second. */
static _Thread_local struct {
    time_t second;
    char text[32];
} date;

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
    buffer_texts(b, as_json ? ",\"" : " ", name, as_json ? "\":" : "=", NULL);
}

static const char *date_of(time_t second)
{
    struct tm utc;
    if (date.second != second) {
        gmtime_r(&second, &utc);
        strftime(date.text, sizeof date.text, "%Y-%m-%dT%H:%M:%S", &utc);
        date.second = second;
    }
    return date.text;
}

/* `digits` decimal digits of a number, with leading zeros. */
static void add_digits(buffer *b, uint64_t number, int digits)
{
    char text[20];
    for (int i = digits; i-- > 0; number /= 10)
        text[i] = (char)('0' + number % 10);
    buffer_append(b, text, (size_t)digits);
}

log_entry log_begin(int level, const char *event)
{
    static const char *const words[] = {"error", "warn", "info", "debug"};
    const size_t most = LINE_MAX_ - LINE_END;
    struct timespec now;
    log_entry entry = {.wanted = log_wants(level), .level = level};
    if (!entry.wanted)
        return entry;
    /* The line is made where it stays: the buffer never grows. */
    entry.text = (buffer){.data = block.text + block.used, .capacity = most, .max = most};
    clock_gettime(CLOCK_REALTIME, &now);
    buffer_texts(&entry.text, as_json ? "{\"time\":\"" : "", date_of(now.tv_sec), ".", NULL);
    add_digits(&entry.text, (uint64_t)now.tv_nsec / 1000000, 3);
    buffer_texts(&entry.text, as_json ? "Z\",\"level\":\"" : "Z ", words[level],
                 as_json ? "\",\"event\":\"" : " ", event, as_json ? "\"" : "", NULL);
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
    uint64_t scale = 1;
    for (int i = 0; i < digits; i++)
        scale *= 10;
    const uint64_t scaled = number > 0 ? (uint64_t)(number * (double)scale + 0.5) : 0;
    buffer_integer(&entry->text, (int64_t)(scaled / scale));
    if (digits > 0) {
        buffer_text(&entry->text, ".");
        add_digits(&entry->text, scaled % scale, digits);
    }
    keep_or_drop(&entry->text, before);
}

void log_end(log_entry *entry)
{
    if (!entry->wanted)
        return;
    entry->text.max = entry->text.capacity = LINE_MAX_;
    buffer_text(&entry->text, as_json ? "}\n" : "\n");
    if (block.used + entry->text.size > BLOCK) { /* write the lines before this one */
        log_flush();
        memmove(block.text, entry->text.data, entry->text.size);
    }
    block.used += entry->text.size;
    if (entry->level <= LOG_WARN || block.used > BLOCK)
        log_flush();
}

void log_flush(void)
{
    /* A log that cannot be written must not stop the service. */
    if (block.used > 0 && write(STDERR_FILENO, block.text, block.used) < 0)
        (void)0;
    block.used = 0;
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
